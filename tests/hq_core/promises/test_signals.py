"""Signals that come in the middle of system calls, and while a call waits for the backend."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest

from hq_core import BackendError, BytesTier, HybridQueue, HybridQueueError
from hq_core.engine.locks import OwnedLock
from tests.hq_core.promises.staging import (
    BACKENDS,
    PATIENCE,
    Gate,
    around,
    balanced,
    drain,
    items,
    opened,
    started,
)

SYSTEM_CALLS: Final = (
    "open",
    "close",
    "pwrite",
    "pwritev",
    "pread",
    "preadv",
    "ftruncate",
    "fstat",
    "stat",
    "unlink",
    "rename",
    "replace",
    "fsync",
    "fdatasync",
    "posix_fallocate",
)
KIB: Final = 1024


class Signals:
    """SIGINT comes before, or right after, the system call with the number `at`."""

    def __init__(self) -> None:
        self.calls = 0
        self.at = 0
        self.after = False
        self.came = ""

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def made(*args: Any, **options: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                return call(*args, **options)
            self.calls += 1
            if self.calls != self.at:
                return call(*args, **options)
            self.came = name
            if not self.after:
                signal.raise_signal(signal.SIGINT)
            result = call(*args, **options)
            signal.raise_signal(signal.SIGINT)
            return result

        return made

    def start(self, at: int, *, after: bool) -> None:
        """Count from here on."""
        self.calls, self.at, self.after, self.came = 0, at, after, ""

    def stop(self) -> None:
        """None comes any more."""
        self.at = 0


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[Signals]:
    made = Signals()
    for name in SYSTEM_CALLS:
        if hasattr(os, name):
            monkeypatch.setattr(os, name, made.around(name, getattr(os, name)))
    yield made
    made.stop()


DURABLE = pytest.mark.parametrize("durable", [False, True], ids=["passing", "durable"])
AFTER = pytest.mark.parametrize("after", [False, True], ids=["before", "after"])


@pytest.mark.slow
@DURABLE
@AFTER
@pytest.mark.parametrize("checksum", [False, True])
def test_ctrl_c_in_any_system_call_of_a_life_leaves_no_ghost_and_loses_nothing(
    tmp_path: Path, signals: Signals, durable: bool, after: bool, checksum: bool
) -> None:
    """Opening, appending over the notes of the position, reading, trimming, closing: whatever was
    accepted comes, in order; what was interrupted is in the queue or not; later overflow works."""
    options: dict[str, Any] = {"durable": durable, "backend_options": {"checksum": checksum}}
    at = 0
    reached = True
    while reached:
        at += 1
        directory = tmp_path / str(at)
        directory.mkdir()
        reached = _live(directory, signals, at, after, options)
    assert at > 20


def _live(directory: Path, signals: Signals, at: int, after: bool, options: dict[str, Any]) -> bool:
    """Whether the signal came."""
    signals.start(at, after=after)
    where = "opening"
    accepted: list[bytes] = []
    doubtful: bytes | None = None
    try:
        queue = opened(directory, 2, **options)
    except KeyboardInterrupt:
        signals.stop()
        queue = opened(directory, 2, **options)
    made = items(24, size=64 * KIB)
    for item in made:
        try:
            queue.enqueue(item)
            accepted.append(item)
        except KeyboardInterrupt:
            signals.stop()
            where, doubtful = "enqueue", item
    got: list[bytes] = []
    for _ in range(10):
        try:
            got.append(queue.dequeue(0))
        except KeyboardInterrupt:
            signals.stop()
            where = "dequeue"
    balanced(queue)
    durable = options["durable"]
    place = f"{signals.came} {at} in {where}"
    if durable:
        try:
            queue.close()
        except KeyboardInterrupt:
            signals.stop()
            queue.close()
        signals.stop()
        queue = opened(directory, 2, **options)
    signals.stop()
    rest = drain(queue)
    want = [item for item in made if item in accepted or (item == doubtful and item in got + rest)]
    assert got + rest == want, place
    queue.enqueue_many(items(5))
    assert drain(queue) == items(5), place
    balanced(queue)
    queue.close()
    left = [path.name for path in (directory / "spool").iterdir()]
    assert durable or not left, place
    return bool(signals.came)


class Interrupted:
    """The lock of a backend; SIGINT comes when somebody begins to wait for it."""

    def __init__(self, lock: OwnedLock) -> None:
        self._lock = lock
        self.armed = True

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if blocking and self.armed and threading.current_thread() is threading.main_thread():
            self.armed = False
            signal.raise_signal(signal.SIGINT)
        return self._lock.acquire(blocking, timeout)

    def release(self) -> None:
        self._lock.release()

    def _is_owned(self) -> bool:
        return self._lock._is_owned()


@DURABLE
@BACKENDS
@pytest.mark.parametrize(
    "call",
    [
        lambda q: q.dequeue_many(10),
        lambda q: q.lease(10),
        lambda q: q.enqueue(b"refused"),
        lambda q: q.enqueue_many([b"refused"] * 3),
        lambda q: q.sync(),
        lambda q: q.close(),
    ],
    ids=["dequeue_many", "lease", "enqueue", "enqueue_many", "sync", "close"],
)
def test_ctrl_c_while_a_call_waits_for_a_slow_write_loses_nothing(
    tmp_path: Path, backend: str, durable: bool, call: Callable[[HybridQueue], object]
) -> None:
    """Another thread keeps the backend busy; this one has some items and waits for the rest."""
    gate = Gate("append")
    queue = opened(tmp_path, 2, around(backend, before=gate), durable=durable)
    for item in items(6):
        queue.enqueue(item)
    gate.shut()
    slow = started(lambda: _put(queue, items(7)[6]))
    assert gate.reached.wait(PATIENCE)
    lock = queue._engine._locks.io = Interrupted(queue._engine._locks.io)  # type: ignore[assignment]
    interrupted = False
    try:
        call(queue)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        gate.open()
    slow.join(PATIENCE)
    assert not slow.is_alive()
    assert interrupted == (not lock.armed)
    closed = queue._engine.state == "closed"
    if interrupted and not closed:
        assert queue.stats().leased == 0
        assert drain(queue) == items(7)
    balanced(queue)
    queue.close()
    opened(tmp_path, 2, backend, durable=durable).close()


def _put(queue: HybridQueue, item: bytes) -> None:
    try:
        queue.enqueue(item)
    except HybridQueueError:
        return


class Poor(BytesTier):
    """A tier that has no memory at the call with that number."""

    def __init__(self, method: str, at: int, after: bool) -> None:
        super().__init__(10_000, 4)
        self._method, self._left, self._after = method, at, after

    def _call(self, method: str, call: Callable[..., Any], *args: Any) -> Any:
        self._left -= method == self._method
        poor = method == self._method and self._left == 0
        if poor and not self._after:
            raise MemoryError
        result = call(*args)
        if poor:
            raise MemoryError
        return result

    def offer(self, items: Any) -> bool:
        return bool(self._call("offer", super().offer, items))

    def offer_one(self, item: bytes) -> bool:
        return bool(self._call("offer", super().offer_one, item))

    def take(self, max_items: int) -> list[bytes]:
        found: list[bytes] = self._call("take", super().take, max_items)
        return found

    def room(self) -> tuple[int, int]:
        found: tuple[int, int] = self._call("room", super().room)
        return found


@DURABLE
@BACKENDS
@pytest.mark.parametrize("method", ["offer", "room", "take-before"])
@pytest.mark.parametrize("at", range(1, 14))
@AFTER
def test_a_memory_tier_without_memory_loses_nothing_and_is_asked_again(
    tmp_path: Path, backend: str, durable: bool, method: str, at: int, after: bool
) -> None:
    """`MemoryError` from any of its calls: the items are read again, or were never accepted."""
    if method == "take-before" and after:
        pytest.skip("not tested: what such a tier has taken is in its hands alone")
    tier = Poor(method.partition("-")[0], at, after)
    queue = opened(tmp_path, None, backend, memory=tier, durable=durable)
    accepted: list[bytes] = []
    doubtful: list[bytes] = []
    for item in items(12):
        try:
            queue.enqueue(item)
            accepted.append(item)
        except MemoryError:
            doubtful.append(item)
    got: list[bytes] = []
    for _ in range(40):
        if not queue.depth:
            break
        try:
            got += queue.dequeue_many(3, 0)
        except (MemoryError, BackendError):
            balanced(queue)
    assert got == [i for i in items(12) if i in accepted or (i in doubtful and i in got)]
    balanced(queue)
    with suppress(MemoryError):
        queue.close()
    queue.close()
    opened(tmp_path, 2, backend, durable=durable).close()
