"""Event loops that are stopped, blocked, closed or collected, and tasks that are cancelled."""

import asyncio
import gc
import resource
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from hq_core import AsyncHybridQueue, BytesTier, HybridQueue, QueueClosed
from tests.hq_core.promises.staging import (
    PATIENCE,
    Gate,
    around,
    balanced,
    drain,
    items,
    opened,
    started,
    until,
)

WAYS = pytest.mark.parametrize("how", ["blocked", "stopped", "closed"])


class Loop:
    """An event loop in which a task waits, and which then goes no further."""

    def __init__(self, how: str, wait: Callable[[], Any]) -> None:
        self.how = how
        self.loop = asyncio.new_event_loop()
        self._go_on = threading.Event()
        self._thread: threading.Thread | None = None
        self.task = self.loop.create_task(wait())
        self.loop.run_until_complete(asyncio.sleep(0.01))

    def stands_still(self) -> None:
        """From now on nothing that is called back comes."""
        if self.how == "blocked":
            self.loop.call_soon(self._go_on.wait, PATIENCE)
            self._thread = started(self.loop.run_forever)
        elif self.how == "closed":
            self.loop.close()

    def end(self) -> None:
        """Let it run to its end."""
        self._go_on.set()
        if self._thread is not None:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(PATIENCE)
        if not self.loop.is_closed():
            self.task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                self.loop.run_until_complete(self.task)
            self.loop.close()


def _parked(queue: HybridQueue, line: str, count: int) -> bool:
    waiting = getattr(queue._engine, line).waiting
    return sum(map(len, waiting.values())) >= count


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@WAYS
@pytest.mark.parametrize("call", ["dequeue", "dequeue_many", "lease"])
def test_a_thread_gets_the_item_for_which_a_loop_was_woken_that_does_not_run(
    tmp_path: Path, how: str, call: str
) -> None:
    """Nobody sleeps beside an item: the wake-up goes on to the next who can use it."""
    queue = opened(tmp_path, 4)
    args = () if call == "dequeue" else (3,)

    async def wait() -> object:
        return await getattr(queue.aio, call)(*args)

    loop = Loop(how, wait)
    until(lambda: _parked(queue, "_consumers", 1))
    got: list[object] = []
    thread = started(lambda: got.append(queue.dequeue(PATIENCE)))
    until(lambda: _parked(queue, "_consumers", 2))
    loop.stands_still()
    began = time.monotonic()
    queue.enqueue(b"x")
    thread.join(PATIENCE)
    assert got == [b"x"]
    assert time.monotonic() - began < 1.0
    loop.end()
    balanced(queue)
    queue.close()
    del loop
    gc.collect()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@WAYS
def test_a_thread_gets_the_room_for_which_a_loop_was_woken_that_does_not_run(
    tmp_path: Path, how: str
) -> None:
    """The same for producers."""
    queue = opened(tmp_path, 2, when_full="block", max_overflow_bytes=1)
    queue.enqueue_many(items(2))

    async def wait() -> None:
        await queue.aio.enqueue(b"loop")

    loop = Loop(how, wait)
    until(lambda: _parked(queue, "_producers", 1))
    thread = started(lambda: queue.enqueue(b"thread", PATIENCE))
    until(lambda: _parked(queue, "_producers", 2))
    loop.stands_still()
    began = time.monotonic()
    assert queue.dequeue() == items(1)[0]
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert time.monotonic() - began < 1.0
    found = drain(queue)
    assert b"thread" in found
    loop.end()
    balanced(queue)
    queue.close()
    del loop
    gc.collect()


class Collecting(BytesTier):
    """The garbage collector comes in the middle of a change, with the mutex held."""

    armed = False

    def _collect(self) -> None:
        if self.armed:
            gc.collect()

    @override
    def offer_one(self, item: bytes) -> bool:
        self._collect()
        return super().offer_one(item)

    @override
    def take_one(self) -> bytes | None:
        self._collect()
        return super().take_one()

    @override
    def offer(self, items: Any) -> bool:
        self._collect()
        return super().offer(items)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("call", ["dequeue", "enqueue", "lease"])
def test_a_loop_that_is_collected_while_the_mutex_is_held_holds_nobody_up(
    tmp_path: Path, call: str, closed: bool
) -> None:
    """Its waiter, which was woken, leaves the line from a finaliser, in the thread that is in the
    middle of it."""
    tier = Collecting(1000, 2)
    queue = opened(tmp_path, None, memory=tier, when_full="block", max_overflow_bytes=1)
    if call == "enqueue":
        queue.enqueue_many(items(2))

    left: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    def leave_a_loop() -> None:
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)

        async def wait() -> None:
            await getattr(queue.aio, call)(*([b"x"] if call == "enqueue" else []))

        task = loop.create_task(wait())
        loop.run_until_complete(asyncio.sleep(0.01))
        until(lambda: _parked(queue, "_producers" if call == "enqueue" else "_consumers", 1))
        if call != "enqueue":
            queue.enqueue(b"wakes it")  # the loop never hears of it
        queue.dequeue()
        if closed:
            loop.close()
        task.add_done_callback(lambda _: None)
        left.append(weakref.ref(loop))

    gc.disable()
    gc.freeze()  # what was there before costs no time
    try:
        started(leave_a_loop).join(PATIENCE)  # what is the thread's own goes with it
        assert left[0]() is not None
        tier.armed = True
        taken: list[bytes] = []

        def use() -> None:
            if call == "enqueue":
                taken.extend(drain(queue))
            for item in items(6):
                queue.enqueue(item)
                taken.append(queue.dequeue(PATIENCE))

        thread = started(use)
        thread.join(PATIENCE)
        assert not thread.is_alive(), "deadlock"
        tier.armed = False
    finally:
        gc.enable()
        gc.collect()
        gc.unfreeze()
        gc.collect()  # the first one has called finalisers
    assert left[0]() is None
    assert taken[-6:] == items(6)
    balanced(queue)
    queue.close()


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("when", ["before it runs", "while it waits"])
def test_a_cancelled_dequeue_loses_nothing(tmp_path: Path, stored: bool, when: str) -> None:
    """Whenever it is cancelled: the item is still there for the next."""

    async def main() -> None:
        queue = opened(tmp_path, 1)
        view = queue.aio
        for round_ in range(60):
            made = items(3 if stored else 1, start=10 * round_)
            task = asyncio.create_task(view.dequeue())
            if when == "while it waits":
                await asyncio.sleep(0)
            await view.enqueue_many(made)
            for _ in range(round_ % 4):
                await asyncio.sleep(0)
            task.cancel()
            got: list[bytes] = []
            with suppress(asyncio.CancelledError):
                got.append(await task)
            while len(got) < len(made):
                got.append(await view.dequeue(PATIENCE))
            assert got == made
            balanced(queue)
        await view.close()

    asyncio.run(main())


@pytest.mark.slow
def test_an_anyio_scope_around_a_hanging_enqueue_costs_nothing(tmp_path: Path) -> None:
    """A scope cancels again and again as long as its block has not ended: no CPU, no memory."""
    anyio = pytest.importorskip("anyio", reason="not tested: anyio is not installed")
    gate = Gate("append")
    queue = opened(tmp_path, 1, around("memory", before=gate), durable=True)

    async def main() -> tuple[float, int]:
        timer = threading.Timer(2.5, gate.open)
        gate.shut()
        timer.start()
        spent = time.process_time()
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with anyio.move_on_after(0.05):
            await queue.aio.enqueue(b"slow")
        timer.join()
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used
        return time.process_time() - spent, used

    spent, used = anyio.run(main)
    assert spent < 0.5
    assert used < 10_000
    assert drain(queue) == [b"slow"]
    queue.close()


@pytest.mark.parametrize("call", ["enqueue", "dequeue"])
def test_a_cancelled_call_on_a_hanging_disk_costs_no_time_of_the_processor(
    tmp_path: Path, call: str
) -> None:
    """Cancelled once, it waits for what has begun, or leaves it, and does not poll."""
    gate = Gate("append", "read")
    queue = opened(tmp_path, 1, around("memory", before=gate), durable=call == "enqueue")
    if call == "dequeue":
        queue.enqueue_many(items(3))

    async def main() -> float:
        gate.shut()
        view = queue.aio
        coroutine: Any = view.enqueue(b"slow") if call == "enqueue" else view.dequeue()
        task = asyncio.create_task(coroutine)
        await asyncio.to_thread(gate.reached.wait, PATIENCE)
        task.cancel()
        spent = time.process_time()
        await asyncio.sleep(0.5)
        spent = time.process_time() - spent
        gate.open()
        with suppress(asyncio.CancelledError):
            await task
        return spent

    assert asyncio.run(main()) < 0.2
    assert drain(queue) == ([b"slow"] if call == "enqueue" else items(3))
    balanced(queue)
    queue.close()


class Slow:
    """A backend whose appends take as long as the test wants, a few hundredths of a second."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, method: str) -> None:
        if method == "append":
            time.sleep(self.seconds)


@pytest.mark.parametrize("first", ["outer", "inner"])
def test_each_cancellation_that_came_during_a_write_is_met(tmp_path: Path, first: str) -> None:
    """Of two blocks whose time is up during one write, both end."""
    slow = Slow()
    queue = opened(tmp_path, 1, around("memory", slow))
    queue.enqueue(b"in memory")
    slow.seconds = 0.05
    outer, inner = (0.01, 0.02) if first == "outer" else (0.02, 0.01)
    ended: list[str] = []

    async def main() -> None:
        try:
            async with asyncio.timeout(outer):
                try:
                    async with asyncio.timeout(inner):
                        await queue.aio.enqueue(b"x")
                        ended.append("accepted")
                except TimeoutError:
                    ended.append("inner")
                await asyncio.sleep(PATIENCE)
        except TimeoutError:
            ended.append("outer")

    asyncio.run(main())
    assert ended == ["accepted", "outer"]
    assert queue.depth == 2
    queue.close()


def test_a_task_that_is_cancelled_in_a_block_whose_time_is_up_ends(tmp_path: Path) -> None:
    slow = Slow()
    queue = opened(tmp_path, 1, around("memory", slow))
    queue.enqueue(b"in memory")
    slow.seconds = 0.05

    async def work() -> None:
        async with asyncio.timeout(0.01):
            await queue.aio.enqueue(b"x")
        await asyncio.sleep(PATIENCE)

    async def main() -> None:
        task = asyncio.create_task(work())
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert queue.depth == 2
    queue.close()


@pytest.mark.parametrize("when_full", ["raise", "block"])
def test_a_short_deadline_is_not_mistaken_for_a_busy_backend(
    tmp_path: Path, when_full: str
) -> None:
    """The worker that is to store it may only have to be started."""
    queue = opened(tmp_path, 1, when_full=when_full)
    queue.enqueue(b"in memory")

    async def main() -> None:
        for timeout in (0, 1e-9, 1e-6):
            await queue.aio.enqueue(b"x", timeout)

    asyncio.run(main())
    assert queue.depth == 4
    queue.close()


def test_a_close_takes_effect_while_a_call_on_the_backend_is_under_way(tmp_path: Path) -> None:
    gate = Gate("append")
    queue = opened(tmp_path, 1, around("memory", gate), when_full="block")
    queue.enqueue(b"in memory")

    async def main() -> None:
        gate.shut()
        hanging = asyncio.create_task(queue.aio.enqueue(b"hangs"))
        await asyncio.to_thread(gate.reached.wait, PATIENCE)
        closing = asyncio.create_task(queue.aio.close())
        await asyncio.sleep(0)
        with pytest.raises(QueueClosed):
            await queue.aio.enqueue(b"late")
        with pytest.raises(QueueClosed):
            await queue.aio.dequeue()
        assert not closing.done()
        gate.open()
        await closing
        await hanging

    asyncio.run(main())


def test_to_iterate_over_a_queue_that_is_not_open_is_an_error(tmp_path: Path) -> None:
    async def main() -> None:
        queue = AsyncHybridQueue("s", 1, tmp_path)
        with pytest.raises(QueueClosed, match="not open yet"):
            async for _ in queue:
                pass
        await queue.close()
        async for _ in queue:
            pass

    asyncio.run(main())


def test_a_task_that_takes_what_is_there_does_not_wait_unless_others_have_waited(
    tmp_path: Path,
) -> None:
    """So that a block whose time is up at once gets what can be had at once."""
    queue = opened(tmp_path, 100)
    queue.enqueue_many(items(20))

    async def main() -> None:
        got = []
        for _ in range(20):
            async with asyncio.timeout(0):
                got.append(await queue.aio.dequeue())
            await asyncio.sleep(0)
        assert got == items(20)

    asyncio.run(main())
    queue.close()
