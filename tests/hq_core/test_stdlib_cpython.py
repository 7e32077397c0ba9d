"""`StdlibQueue` is what CPython's own tests of `queue` say a queue is.

The file is theirs, unchanged. It asks `test.support` for the module to test, and there gets one
whose `Queue` is ours; `test.support` itself is replaced since not every Python comes with it.
"""

import collections
import contextlib
import gc
import hashlib
import itertools
import pickle
import queue
import re
import sys
import threading
import unittest
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar, Final
from unittest import mock

import pytest

from hq_core import HybridQueue, ShutDown, StdlibQueue, Unlimited

THEIRS: Final = Path(__file__).parent.parent / "data" / "cpython" / "test_queue.py.txt"

_ONE_IMPLEMENTATION = "the same tests once more, for an accelerator in C, which there is none of"
_OTHER_ORDER = "a queue of another order; a hybrid queue is first in, first out"
EXCEPTIONS: Final = {
    "CQueueTest": _ONE_IMPLEMENTATION,
    "CLifoQueueTest": _ONE_IMPLEMENTATION,
    "CPriorityQueueTest": _ONE_IMPLEMENTATION,
    "CFailingQueueTest": _ONE_IMPLEMENTATION,
    "CSimpleQueueTest": _ONE_IMPLEMENTATION,
    "PyLifoQueueTest": _OTHER_ORDER,
    "PyPriorityQueueTest": _OTHER_ORDER,
    "PyFailingQueueTest": "it makes put and get fail by overriding _put and _get, undocumented "
    "methods called under the queue's lock; here nothing is stored or read under that lock. "
    "test_stdlib.py has failures of the codec and of the backend instead",
    "PySimpleQueueTest.test_references": "its items are objects of a class inside a function: no "
    "codec makes bytes of those. What get returns is made anew, so the queue cannot refer to it",
}
"""Test cases, and single tests, that do not apply, and why."""


class Queue(StdlibQueue[object]):
    """``queue.Queue(maxsize)``: two items in memory, the rest, or if durable all, on disk."""

    directory: ClassVar[Path]
    options: ClassVar[dict[str, Any]] = {}
    opened: ClassVar[list[StdlibQueue[object]]] = []
    _numbers = itertools.count()

    def __init__(self, maxsize: int = 0) -> None:
        name = f"queue-{next(self._numbers)}"
        hybrid = HybridQueue(
            name, 2, self.directory, limiter=Unlimited(), when_full="block", **self.options
        )
        super().__init__(hybrid, maxsize, dumps=pickle.dumps, loads=pickle.loads)
        self.opened.append(self)


def _import_fresh_module(name: str, blocked: Sequence[str] = (), fresh: object = ()) -> Any:
    """The module to test; None where they ask for the implementation in C."""
    assert name == "queue"
    if "_queue" not in blocked:
        return None
    return SimpleNamespace(
        Queue=Queue, _PySimpleQueue=Queue, Empty=queue.Empty, Full=queue.Full, ShutDown=ShutDown
    )


def _join_thread(thread: threading.Thread) -> None:
    thread.join(30)
    assert not thread.is_alive()


@contextlib.contextmanager
def _start_threads(threads: list[threading.Thread]) -> Iterator[None]:
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        _join_thread(thread)


def _load() -> ModuleType:
    support = {
        "gc_collect": gc.collect,
        "import_helper": SimpleNamespace(import_fresh_module=_import_fresh_module),
        "threading_helper": SimpleNamespace(
            requires_working_threading=lambda module: None,
            join_thread=_join_thread,
            start_threads=_start_threads,
        ),
    }
    modules: dict[str, Any] = {
        "test": ModuleType("test"),
        "test.support": SimpleNamespace(**support),
    }
    theirs = ModuleType("cpython_test_queue")
    with mock.patch.dict("sys.modules", modules):
        exec(compile(THEIRS.read_text("utf-8"), THEIRS, "exec", dont_inherit=True), vars(theirs))
    return theirs


_theirs = _load()
_tests: Final = {
    f"{case.__name__}.{name}": case(name)
    for case in vars(_theirs).values()
    if isinstance(case, type) and issubclass(case, unittest.TestCase)
    for name in unittest.defaultTestLoader.getTestCaseNames(case)
}


def _exception_to(name: str) -> str | None:
    """The entry of `EXCEPTIONS` that covers the test `name`."""
    return next((entry for entry in EXCEPTIONS if f"{name}.".startswith(f"{entry}.")), None)


APPLICABLE: Final = [name for name in _tests if not _exception_to(name)]
LONG: Final = [n for n in APPLICABLE if "many_threads" in n or n == "PyQueueTest.test_basic"]


@pytest.fixture(params=[{}, {"durable": True}], ids=["spilling", "durable"])
def _on_disk(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    monkeypatch.setattr(Queue, "directory", tmp_path, raising=False)
    monkeypatch.setattr(Queue, "options", request.param)
    monkeypatch.setattr(Queue, "opened", [])
    # Some of their readers ask in a circle. After each write to disk a writer has to wait until
    # they are made to give way, by default 5 ms.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0001)
    yield
    sys.setswitchinterval(interval)
    for opened in Queue.opened:
        opened.shutdown(immediate=True)


@pytest.mark.usefixtures("_on_disk")
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in APPLICABLE],
)
def test_cpythons_own(name: str) -> None:
    result = unittest.TestResult()
    _tests[name].run(result)
    assert [trace for _, trace in result.errors + result.failures] == []
    assert (result.testsRun, result.skipped) == (1, [])
    assert Queue.opened, "it tested something else"


def test_the_file_is_theirs() -> None:
    said = re.findall(r"`(\w{64})`", (THEIRS.parent.parent / "README.md").read_text("utf-8"))
    assert said == [hashlib.sha256(THEIRS.read_bytes()).hexdigest()]


def test_every_exception_is_about_a_test_there_is() -> None:
    assert {_exception_to(name) for name in _tests} - {None} == set(EXCEPTIONS)


def test_the_rest_is_every_test_of_queue_and_all_but_one_of_simple_queue() -> None:
    cases = collections.Counter(name.partition(".")[0] for name in APPLICABLE)
    assert cases == {"PyQueueTest": 24, "PySimpleQueueTest": 6}
