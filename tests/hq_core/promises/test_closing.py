"""Closing: repeatable after an interruption, shared by all its callers, possible from anywhere."""

import asyncio
import gc
import logging
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from typing_extensions import override

from hq_core import HybridQueue, QueueClosed, ThreadPump
from hq_core.aio import AsyncHybridQueue
from hq_core.limiters import Unlimited
from hq_core.protocols import OverflowBackend, Stream
from hq_core.testing import ManualPump
from tests.hq_core.promises.staging import (
    BACKENDS,
    FRONTS,
    PATIENCE,
    Gate,
    around,
    balanced,
    drain,
    hands,
    items,
    opened,
    started,
    until,
)
from tests.hq_core.promises.tracing import Interrupter

DURABLE = pytest.mark.parametrize("durable", [False, True], ids=["passing", "durable"])


def is_free(directory: Path, backend: str, durable: bool, expected: list[bytes]) -> None:
    """The stream has no owner, and a durable one holds what is expected."""
    with opened(directory, 100, backend, durable=durable) as queue:
        assert drain(queue) == (expected if durable else [])


class Stopping(ThreadPump):
    """Tells when it is about to be stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.is_stopped = threading.Event()

    @override
    def stop(self) -> None:
        self.is_stopped.set()
        super().stop()


@DURABLE
@BACKENDS
def test_ctrl_c_while_close_waits_for_the_pump_leaves_it_to_the_next_close(
    tmp_path: Path, backend: str, durable: bool
) -> None:
    """The second one finishes what the first began, and the stream is free."""
    gate, pump, made = Gate("read"), Stopping(), items(12)
    with opened(tmp_path, 8, backend, durable=True) as earlier:
        earlier.enqueue_many(made)
    queue = opened(tmp_path, 8, around(backend, before=gate), durable=durable, pump=pump)
    gate.shut()
    queue._engine.pumping.pump.wake()
    assert gate.reached.wait(PATIENCE)

    main, came = threading.get_ident(), threading.Event()

    def press() -> None:
        assert pump.is_stopped.wait(PATIENCE)
        while True:  # one that comes just before the wait begins is seen only at its end
            signal.pthread_kill(main, signal.SIGINT)
            if came.wait(0.5):
                return

    pressing = started(press)
    with pytest.raises(KeyboardInterrupt):
        queue.close()
    came.set()
    pressing.join(PATIENCE)
    gate.open()
    queue.close()
    balanced(queue)
    is_free(tmp_path, backend, durable, made)


@DURABLE
@BACKENDS
@pytest.mark.parametrize("how", ["filter", "handler"])
def test_what_raises_in_logging_keeps_no_queue_open(
    tmp_path: Path, backend: str, durable: bool, how: str
) -> None:
    """Not even Ctrl-C there: the stream is free afterwards, or after a second close."""

    class Raising(logging.Handler):
        def filter(self, record: logging.LogRecord) -> bool:
            raise KeyboardInterrupt if how == "handler" else ZeroDivisionError

    log = logging.getLogger("hq_core")
    queue = opened(tmp_path, 2, backend, durable=durable)
    queue.enqueue_many(items(5))
    raising = Raising()
    log.addHandler(raising)
    try:
        queue.close()
    except KeyboardInterrupt:
        queue.close()
    finally:
        log.removeHandler(raising)
    is_free(tmp_path, backend, durable, items(5))


@FRONTS
@DURABLE
def test_every_caller_of_close_returns_when_the_queue_is_closed(
    tmp_path: Path, durable: bool, front: str
) -> None:
    """None before, and each of them."""
    gate = Gate("close")
    queue = opened(tmp_path, 2, around("file", before=gate), durable=durable)
    queue.enqueue_many(items(5))
    gate.shut()
    with hands(queue, front, 2) as (one, other):
        first = one.begin("close")
        assert gate.reached.wait(PATIENCE)
        second = other.begin("close")
        third = started(queue.close)
        third.join(0.1)
        assert not first.done()
        assert not second.done()
        assert third.is_alive()
        gate.open()
        first.result(PATIENCE)
        second.result(PATIENCE)
        third.join(PATIENCE)
        assert not third.is_alive()
    is_free(tmp_path, "file", durable, items(5))


@DURABLE
def test_the_pumps_own_thread_may_close_the_queue(tmp_path: Path, durable: bool) -> None:
    """From a backend's callback, say: it does not wait for itself."""
    closed = threading.Event()

    def close(method: str) -> None:
        if method == "read" and threading.current_thread() is not threading.main_thread():
            queue.close()
            closed.set()

    with opened(tmp_path, 8, durable=True) as earlier:
        earlier.enqueue_many(items(12))
    queue = opened(tmp_path, 8, around("file", before=close), durable=durable, pump=ThreadPump())
    queue._engine.pumping.pump.wake()
    assert closed.wait(PATIENCE)
    queue.close()
    is_free(tmp_path, "file", durable, items(12))


def test_a_finaliser_may_close_the_queue_its_thread_is_about_to_use(tmp_path: Path) -> None:
    """Whenever the garbage collector comes: here in the middle of a call on the backend."""

    class Owner:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            queue.close()

    def collect(method: str) -> None:
        if method == "append":
            gc.collect()

    queue = opened(tmp_path, 1, around("file", before=collect))
    queue.enqueue(b"memory")
    Owner()
    refused: list[str] = []
    done = started(lambda: _use(queue, refused))
    done.join(PATIENCE)
    assert not done.is_alive()
    assert refused == ["closed"]
    opened(tmp_path).close()


def _use(queue: HybridQueue, refused: list[str]) -> None:
    try:
        queue.enqueue(b"stored")
        queue.enqueue(b"refused")
    except QueueClosed:
        refused.append("closed")


@FRONTS
@pytest.mark.parametrize("call", ["dequeue", "enqueue", "lease"])
def test_closing_wakes_whoever_waits(tmp_path: Path, front: str, call: str) -> None:
    """For items, for room, or for a lease to end."""
    queue = opened(tmp_path, 1, when_full="block", max_overflow_bytes=1)
    args: tuple[bytes, ...] = ()
    if call == "enqueue":
        queue.enqueue(b"full")
        args = (b"too much",)
    engine = queue._engine
    with hands(queue, front, 1) as (hand,):
        waiting = hand.begin(call, *args)
        until(lambda: engine._consumers.waiting or engine._producers.waiting)
        queue.close()
        with pytest.raises(QueueClosed):
            waiting.result(PATIENCE)


def view_of_closed(directory: Path) -> AsyncHybridQueue:
    """The view of a queue that its thread has closed."""
    queue = opened(directory)
    queue.close()
    return queue.aio


def never_opened(directory: Path) -> AsyncHybridQueue:
    """A queue of its own, which was closed before it was opened."""
    queue = AsyncHybridQueue("stream", 4, directory / "spool", limiter=Unlimited())
    asyncio.run(queue.close())
    return queue


def closed_again(directory: Path) -> AsyncHybridQueue:
    """A queue of its own, which was open."""
    queue = AsyncHybridQueue("stream", 4, directory / "spool", limiter=Unlimited())

    async def use() -> None:
        async with queue:
            await queue.enqueue(b"x")

    asyncio.run(use())
    return queue


@pytest.mark.parametrize("make", [view_of_closed, never_opened, closed_again])
def test_a_closed_queue_cannot_be_opened(
    tmp_path: Path, make: Callable[[Path], AsyncHybridQueue]
) -> None:
    """``await queue.open()`` says that it is closed, and so does ``async with``."""
    queue = make(tmp_path)

    async def enter() -> None:
        async with queue:
            pass

    with pytest.raises(QueueClosed):
        asyncio.run(queue.open())
    with pytest.raises(QueueClosed):
        asyncio.run(enter())


def test_closing_while_it_opens_leaves_it_closed(tmp_path: Path) -> None:
    """Whichever comes first in the end: the stream is free, and nothing can be done any more."""
    gate = threading.Event()
    reached = threading.Event()

    def make(stream: Stream) -> OverflowBackend:
        reached.set()
        assert gate.wait(PATIENCE)
        return around("file")(stream)

    async def main() -> None:
        queue = AsyncHybridQueue("stream", 4, tmp_path / "spool", limiter=Unlimited(), backend=make)
        opening = asyncio.create_task(queue.open())
        await asyncio.to_thread(reached.wait, PATIENCE)
        closing = asyncio.create_task(queue.close())
        await asyncio.sleep(0)
        gate.set()
        await asyncio.wait_for(asyncio.gather(opening, closing, return_exceptions=True), PATIENCE)
        assert not closing.cancelled()
        assert closing.exception() is None
        with pytest.raises(QueueClosed):
            await queue.enqueue(b"x")

    asyncio.run(main())
    opened(tmp_path).close()


@pytest.mark.slow
@DURABLE
@pytest.mark.parametrize("call", ["enqueue", "sync"])
def test_close_returns_when_the_queue_is_closed_though_another_call_ends_just_then(
    tmp_path: Path, durable: bool, call: str
) -> None:
    """Wherever in it: who ends a call meanwhile may take the closing over, and is waited for."""
    at, came = 0, True
    while came:
        at += 3
        came = _close_beside_a_call_that_ends(tmp_path / str(at), durable, call, at)
    assert at > 10


def _close_beside_a_call_that_ends(directory: Path, durable: bool, call: str, at: int) -> bool:
    """Whether `close` came to its point `at`, where the other call ends."""
    works, closes = Gate("append", "sync"), Gate("close")

    def before(method: str) -> None:
        works(method)
        closes(method)

    queue = opened(directory, 1, around("memory", before), durable=durable)
    queue.enqueue_many(items(2))
    works.shut()
    closes.shut()

    def work() -> None:
        with suppress(QueueClosed):
            getattr(queue, call)(*([b"x"] if call == "enqueue" else []))

    working = started(work)
    assert works.reached.wait(PATIENCE)
    there, go_on = threading.Event(), threading.Event()

    def stop() -> None:
        there.set()
        assert go_on.wait(PATIENCE)

    interrupter = Interrupter(at, handler=stop)
    closing = started(lambda: interrupter.call(queue.close))
    came = there.wait(0.2)  # else it waits for the other call
    queue._engine.errands = True  # as if there were something to log
    works.open()
    working.join(0.05)
    go_on.set()
    until(lambda: closes.reached.is_set() or not closing.is_alive())
    closing.join(0.05)
    is_early = not closing.is_alive()
    closes.open()
    for thread in (working, closing):
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert not is_early, f"it returns though the queue is not closed: {interrupter.place}"
    opened(directory, 1, "memory", durable=durable).close()
    return came


class Fleeting(ManualPump):
    """Takes its steps in a thread that is there only for them."""

    @override
    def wake(self) -> None:
        stepping = started(self._take_steps)
        stepping.join(PATIENCE)
        self.ident = stepping.ident

    def _take_steps(self) -> None:
        while self.step():
            pass


@DURABLE
def test_close_waits_also_in_a_thread_that_is_known_by_the_number_of_one_that_pumped(
    tmp_path: Path, durable: bool
) -> None:
    """Numbers are used again; the steps are over."""
    gate, pump = Gate("close"), Fleeting()
    queue = opened(tmp_path, 100, around("memory", gate), durable=durable, pump=pump)
    for item in items(300):
        queue.enqueue(item)
    queue._engine.pumping.wake()
    gate.shut()
    first = threading.Thread(target=queue.close, daemon=True)
    go_on = threading.Event()
    second: threading.Thread | None = None

    def close() -> None:
        assert go_on.wait(PATIENCE)
        queue.close()

    spare = []
    for _ in range(100):
        second = started(close if second is None else lambda: go_on.wait(PATIENCE))
        if second.ident == pump.ident:
            break
        spare.append(second)
        second = None
    if second is None:
        go_on.set()
        gate.open()
        queue.close()
        pytest.skip("not tested: no thread got that number")
    first.start()
    assert gate.reached.wait(PATIENCE)
    go_on.set()
    second.join(0.1)
    assert second.is_alive(), "it returns though the queue is not closed"
    gate.open()
    for thread in (first, second):
        thread.join(PATIENCE)
        assert not thread.is_alive()
