"""`StdlibQueue`: nobody waits in vain, and a handler that interrupts its own call works."""

import queue as stdlib_queue
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hq_core import (
    CorruptedData,
    HybridQueue,
    HybridQueueError,
    ReentrantCallError,
    ShutDown,
    StdlibQueue,
    StreamLostError,
)
from hq_core.protocols import OverflowBackend, Stream
from hq_core.registry import open_backend
from hq_core.testing import ManualPump, MemoryBackend, RemoteBackend
from tests.hq_core.promises.staging import PATIENCE, around, opened, started, until
from tests.hq_core.promises.tracing import Interrupter


def are_asleep(condition: threading.Condition, count: int = 1) -> bool:
    """Whether so many threads wait for `condition`."""
    with condition:
        return len(condition._waiters) == count  # type: ignore[attr-defined] # no other way to see


def is_taken(lock: Any) -> bool:
    """Whether another thread has it."""
    if lock.acquire(blocking=False):
        lock.release()
        return False
    return True


# ---- what is gone ------------------------------------------------------------------------------


class Damaged:
    """What is stored and not read turns out to be gone when it is."""

    def __init__(self) -> None:
        self.hybrid: HybridQueue | None = None

    def __call__(self, method: str) -> None:
        if method == "read" and self.hybrid is not None:
            overflow = self.hybrid._engine.overflow
            self.hybrid = None
            del overflow.backend.inner._records[overflow.passed :]  # type: ignore[attr-defined]
            raise CorruptedData("the last of them")


def by_the_pump(q: StdlibQueue[bytes]) -> None:
    pump = q._hybrid._engine.pumping.pump
    assert isinstance(pump, ManualPump)
    pump.step()


def by_a_refill(q: StdlibQueue[bytes]) -> None:
    q._hybrid._engine.refill()


def by_a_consumer(q: StdlibQueue[bytes]) -> None:
    with suppress(CorruptedData):  # unless somebody has put something meanwhile
        q.get()


FOUND = pytest.mark.parametrize("found", [by_the_pump, by_a_refill, by_a_consumer])
DURABLE = pytest.mark.parametrize("durable", [False, True], ids=["passing", "durable"])


def with_two_stored(
    directory: Path, damaged: Damaged, durable: bool, maxsize: int = 0
) -> StdlibQueue[bytes]:
    """A queue from which the third item, the one in memory, has been taken and finished."""
    hybrid = opened(directory, 1, around("memory", damaged), when_full="block", durable=durable)
    q = StdlibQueue(hybrid, maxsize)
    q.put(b"in memory")
    q.put(b"stored")
    q.get()
    q.put(b"stored too")
    q.task_done()
    assert q.unfinished_tasks == 2
    return q


@FOUND
@DURABLE
def test_join_wakes_when_damage_takes_the_last_items_whoever_finds_it(
    tmp_path: Path, durable: bool, found: Callable[[StdlibQueue[bytes]], None]
) -> None:
    """They count as done."""
    damaged = Damaged()
    q = with_two_stored(tmp_path, damaged, durable)
    joining = started(q.join)
    until(partial(are_asleep, q.all_tasks_done))
    damaged.hybrid = q._hybrid
    found(q)
    joining.join(PATIENCE)
    assert not joining.is_alive(), "it sleeps though nothing is left"
    assert q.unfinished_tasks == 0
    q.shutdown(immediate=True)


@FOUND
@DURABLE
def test_a_put_gets_the_place_of_what_damage_has_taken_whoever_finds_it(
    tmp_path: Path, durable: bool, found: Callable[[StdlibQueue[bytes]], None]
) -> None:
    """`maxsize` counts what is there."""
    damaged = Damaged()
    q = with_two_stored(tmp_path, damaged, durable, maxsize=2)
    putting = started(partial(q.put, b"new"))
    until(partial(are_asleep, q.not_full))
    damaged.hybrid = q._hybrid
    found(q)
    putting.join(PATIENCE)
    assert not putting.is_alive(), "it sleeps beside a place"
    q.shutdown(immediate=True)


@DURABLE
def test_join_and_put_wake_when_the_stream_is_lost(tmp_path: Path, durable: bool) -> None:
    """Which a store says in a thread of its own, and nobody calls anything afterwards."""
    stores: list[RemoteBackend] = []

    def make(stream: Stream) -> OverflowBackend:
        stores.append(RemoteBackend(open_backend(MemoryBackend, stream, {}), stream))
        return stores[0]

    q = StdlibQueue(opened(tmp_path, 1, make, when_full="block", durable=durable), 1)
    q.put(b"x")
    refused: list[type] = []

    def put() -> None:
        try:
            q.put(b"y")
        except HybridQueueError as exc:
            refused.append(type(exc))

    joining, putting = started(q.join), started(put)
    until(partial(are_asleep, q.all_tasks_done))
    until(partial(are_asleep, q.not_full))
    started(stores[0].lose).join(PATIENCE)
    for thread in (joining, putting):
        thread.join(PATIENCE)
        assert not thread.is_alive(), "it sleeps though the queue has ended"
    assert refused == [StreamLostError]
    q.shutdown(immediate=True)


# ---- in the middle of this thread's own call -----------------------------------------------------

CALLS: dict[str, Callable[[StdlibQueue[Any]], object]] = {
    "put": lambda q: q.put(b"new"),
    "put_nowait": lambda q: q.put_nowait(b"new"),
    "get": lambda q: q.get(),
    "get_nowait": lambda q: q.get_nowait(),
    "task_done": lambda q: q.task_done(),
    "join": lambda q: q.join(),
    "qsize": lambda q: q.qsize(),
}
HANDLERS: dict[str, Callable[[StdlibQueue[Any]], object]] = {
    "shutdown": lambda q: q.shutdown(),
    "shutdown at once": lambda q: q.shutdown(immediate=True),
    "close": lambda q: q.__exit__(None, None, None),
}
OTHERS: dict[str, Callable[[StdlibQueue[Any]], object]] = {
    "put": lambda q: q.put_nowait(b"from the handler"),
    "get": lambda q: q.get_nowait(),
    "task_done": lambda q: q.task_done(),
    "qsize": lambda q: q.qsize(),
}


class Interrupted:
    """A call in a thread of its own, interrupted at one of its points by a handler."""

    def __init__(
        self,
        q: StdlibQueue[Any],
        at: int,
        call: Callable[[StdlibQueue[Any]], object],
        handler: Callable[[StdlibQueue[Any]], object],
    ) -> None:
        self.outcome: object = None
        self.refused = False
        self.interrupter = Interrupter(at, handler=partial(self._handle, handler, q))
        self.thread = started(partial(self._make, call, q))

    def _handle(self, handler: Callable[[StdlibQueue[Any]], object], q: StdlibQueue[Any]) -> None:
        try:
            handler(q)
        except (ReentrantCallError, stdlib_queue.Full, stdlib_queue.Empty):
            self.refused = True

    def _make(self, call: Callable[[StdlibQueue[Any]], object], q: StdlibQueue[Any]) -> None:
        def made() -> None:
            self.outcome = call(q)

        try:
            self.interrupter.call(made)
        except BaseException as exc:
            self.outcome = exc

    def has_come(self) -> bool:
        """Whether the handler was called; False: the call is over, or sleeps, without it."""
        self.thread.join(0.05)
        while self.thread.is_alive() and not self.interrupter.place:
            before = self.interrupter.points
            self.thread.join(0.2)
            if self.interrupter.points == before:
                return False
        return bool(self.interrupter.place)


def ready(directory: Path, drops: bool, there: int) -> StdlibQueue[Any]:
    """A queue with room for two items; one more was taken, and is not finished."""
    policy = {"when_full": "drop_oldest"} if drops else {"when_full": "block"}
    q = StdlibQueue[Any](opened(directory, 1, "memory", **policy), 0 if drops else 2)
    q.put(b"taken")
    q.get()
    for number in range(there):
        q.put(b"%d" % number)
    return q


@pytest.mark.slow
@pytest.mark.parametrize("there", [0, 2], ids=["empty", "full"])
@pytest.mark.parametrize("drops", [False, True], ids=["blocks", "drops"])
@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("call", CALLS)
def test_a_shutdown_in_a_handler_works_at_every_point_of_its_own_call(
    tmp_path: Path, call: str, handler: str, drops: bool, there: int
) -> None:
    """The call ends if it was going to wait, and whoever else waits is told."""
    others_wait = there == 2 and not drops and call in ("put", "join", "qsize", "put_nowait")
    at, came = 0, True
    while came:
        at += 1
        q = ready(tmp_path / str(at), drops, there)
        threads: list[threading.Thread] = []
        if others_wait:
            threads.append(started(partial(put_or_meet_the_end, q)))
            until(partial(are_asleep, q.not_full))
        interrupted = Interrupted(q, at, CALLS[call], HANDLERS[handler])
        threads.append(interrupted.thread)
        came = interrupted.has_come()
        if not came or call == "join":  # it has all reason to wait on
            interrupted.thread.join(0.02)
            finish(q)
        where = f"{interrupted.interrupter.place} (point {at})"
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), f"it hangs: {where}"
        assert q.is_shutdown
        assert not isinstance(interrupted.outcome, (RuntimeError, AssertionError)), where
        q.shutdown(immediate=True)
    assert at > 3


def put_or_meet_the_end(q: StdlibQueue[Any]) -> None:
    with suppress(ShutDown):
        q.put(b"other")


def finish(q: StdlibQueue[Any]) -> None:
    """Nothing is left to be waited for."""
    q.shutdown(immediate=True)
    while q.unfinished_tasks:
        try:
            q.task_done()
        except ValueError:
            return


@pytest.mark.slow
@pytest.mark.parametrize("handler", OTHERS)
@pytest.mark.parametrize("call", ["put_nowait", "get_nowait", "task_done", "qsize"])
def test_any_other_call_in_a_handler_works_or_is_refused_at_every_point(
    tmp_path: Path, call: str, handler: str
) -> None:
    """It never hangs, and loses nothing: what is there has been put, and was not taken."""
    at, refused = 0, 0
    while True:
        at += 1
        q = ready(tmp_path / str(at), False, 1)
        interrupted = Interrupted(q, at, CALLS[call], OTHERS[handler])
        came = interrupted.has_come()
        where = f"{interrupted.interrupter.place} (point {at})"
        interrupted.thread.join(PATIENCE)
        assert not interrupted.thread.is_alive(), f"it hangs: {where}"
        stats = q._hybrid.stats()
        refused += interrupted.refused
        assert stats.enqueued == stats.dequeued + stats.depth, where
        puts = 2 + (call == "put_nowait") + (handler == "put" and came and not interrupted.refused)
        if not isinstance(interrupted.outcome, stdlib_queue.Full):
            assert stats.enqueued == puts, where
        q.shutdown(immediate=True)
        if not came:
            break
    assert refused or handler == "qsize"


def test_a_shutdown_in_a_handler_does_not_wait_for_a_thread_that_waits_for_it(
    tmp_path: Path,
) -> None:
    """This one has a lock of the engine; another has the queue's, and wants that."""
    q = StdlibQueue(opened(tmp_path, 4, when_full="block"), 2)
    engine = q._hybrid._engine

    def put() -> None:
        with suppress(ShutDown):
            q.put(b"x")

    with engine._locks.mutex:  # in the middle of a call
        putting = started(put)
        until(partial(is_taken, q.mutex))
        q.shutdown()
    putting.join(PATIENCE)
    assert not putting.is_alive()
    assert q.is_shutdown
    q.shutdown(immediate=True)
