"""`AsyncHybridQueue`: coroutines, alone and beside threads, on every kind of event loop."""

import asyncio
import contextlib
import functools
import gc
import importlib.util
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from hq_core import (
    AsyncHybridQueue,
    BackendError,
    DequeueTimeout,
    HybridQueue,
    InlinePump,
    QueueClosed,
    QueueEmpty,
    QueueFull,
    Stream,
    StreamBusyError,
    Unlimited,
)
from hq_core.testing import MemoryBackend
from hq_core.testing.forking import in_child
from hq_core.testing.spool import balanced, numbered

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]
MakeQueue = Callable[..., HybridQueue]


class Guarded(MemoryBackend):
    """A backend that no event loop may call, and whose calls a test can hold up."""

    def __init__(self, stream: Stream) -> None:
        self.calls: Counter[str] = Counter()
        self.entered = threading.Semaphore(0)
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.failure: Exception | None = None
        self._called("open")
        super().__init__(stream)

    def _called(self, name: str) -> None:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        self.calls[name] += 1
        self.entered.release()
        assert self.may_go_on.wait(60)
        if self.failure is not None:
            raise self.failure

    def append(self, records: Sequence[bytes]) -> None:
        self._called("append")
        super().append(records)

    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        self._called("read")
        return super().read(skip, max_records, max_bytes)

    def trim(self, count: int) -> None:
        self._called("trim")
        super().trim(count)

    def close(self, *, delete: bool) -> None:
        self._called("close")
        super().close(delete=delete)


@pytest.fixture(params=["asyncio", "debug", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Run[Any]]:
    """Runs coroutines on one loop of every kind."""
    factory = None
    if request.param == "uvloop":
        factory = pytest.importorskip("uvloop").new_event_loop
    with asyncio.Runner(debug=request.param == "debug", loop_factory=factory) as runner:
        yield runner.run


@pytest.fixture
def make_queue(tmp_path: Path) -> Iterator[MakeQueue]:
    """Queues whose backend must not be called from a loop."""
    opened: list[HybridQueue] = []

    def make(memory_items: int = 2, **options: Any) -> HybridQueue:
        options = {"limiter": Unlimited(), "backend": Guarded, **options}
        opened.append(HybridQueue("cam", memory_items, tmp_path, **options))
        return opened[-1]

    yield make
    for queue in opened:
        backend = backend_of(queue)
        if isinstance(backend, Guarded):
            backend.failure = None
            backend.may_go_on.set()
        queue.close()


def backend_of(queue: HybridQueue) -> Any:
    return queue._engine.overflow.backend


async def begun(backend: Guarded) -> None:
    """Wait until a call on `backend` has begun."""
    assert await asyncio.to_thread(backend.entered.acquire, timeout=60)


def hold_up(queue: HybridQueue) -> Guarded:
    """From now on the backend's calls do not return."""
    backend: Guarded = backend_of(queue)
    while backend.entered.acquire(blocking=False):
        pass
    backend.may_go_on.clear()
    return backend


async def until(condition: Callable[[], object]) -> None:
    """Let the other tasks run until `condition`, which they are about to bring about."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 # others bring it about, and know of no event
            await asyncio.sleep(0)


async def parked(queue: HybridQueue, count: int = 1) -> None:
    engine = queue._engine
    lines = (engine._consumers, engine._producers)
    await until(lambda: sum(len(of) for line in lines for of in line.waiting.values()) == count)


# ---- what HybridQueue does, awaited ----------------------------------------------------------


@pytest.mark.parametrize("pump", [None, InlinePump()], ids=["thread", "inline"])
def test_items_come_out_in_order_whatever_tier_they_went_through(
    run: Run[None], tmp_path: Path, pump: InlinePump | None
) -> None:
    async def main() -> None:
        async with AsyncHybridQueue(
            "cam", 2, tmp_path, backend=Guarded, limiter=Unlimited(), pump=pump
        ) as queue:
            items = numbered(100)
            await queue.enqueue_many(items[:3])
            for item in items[3:]:
                await queue.enqueue(item)
            assert queue.has_disk_data
            assert queue.pressure > 1
            assert queue.depth == queue.stats().depth == 100
            got = [await queue.try_dequeue(), *await queue.dequeue_many(1)]
            while queue.depth:
                got.append(await queue.dequeue())
            assert got == items
            assert queue.stats().spilled == 100

    run(main())


def test_a_durable_queue_delivers_what_an_earlier_one_kept(run: Run[None], tmp_path: Path) -> None:
    async def main() -> None:
        items = numbered(2000)
        async with AsyncHybridQueue("cam", 9, tmp_path, durable=True, limiter=Unlimited()) as queue:
            await queue.enqueue_many(items)
            got = [await queue.dequeue() for _ in range(700)]
        async with AsyncHybridQueue("cam", 9, tmp_path, durable=True) as queue:
            assert queue.recovery.records >= 1300 - 1
            queue.shutdown()
            got += [item async for item in queue]
        assert list(dict.fromkeys(got)) == items

    run(main())


def test_a_producer_that_takes_from_its_own_full_durable_queue_gets_in(
    run: Run[None], make_queue: MakeQueue
) -> None:
    """What it took is with it: the worker that stores the next item must know."""
    queue = make_queue(1, durable=True, max_overflow_bytes=10)

    async def main() -> None:
        await queue.aio.enqueue(b"one")
        for _ in range(5):
            assert await queue.aio.dequeue() == b"one"
            await queue.aio.enqueue(b"one")

    run(main())


def test_a_view_is_made_once(make_queue: MakeQueue) -> None:
    queue = make_queue()
    assert queue.aio is queue.aio
    assert repr(queue.aio) == "<AsyncHybridQueue 'cam'>"


def test_dequeue_waits_until_a_thread_enqueues(run: Run[None], make_queue: MakeQueue) -> None:
    queue = make_queue()

    async def main() -> None:
        waiting = asyncio.create_task(queue.aio.dequeue())
        await parked(queue)
        await asyncio.to_thread(queue.enqueue, b"here")
        assert await waiting == b"here"

    run(main())


@pytest.mark.parametrize("timeout", [0, 0.001])
def test_nothing_in_time_is_a_timeout(
    run: Run[None], make_queue: MakeQueue, timeout: float
) -> None:
    queue = make_queue()

    async def main() -> None:
        with pytest.raises(DequeueTimeout, match=f"within {timeout} s"):
            await queue.aio.dequeue(timeout)
        with pytest.raises(DequeueTimeout):
            await queue.aio.dequeue_many(2, timeout)
        with pytest.raises(QueueEmpty):
            await queue.aio.try_dequeue()
        assert not queue._engine._consumers.waiting

    run(main())


@pytest.mark.parametrize(
    ("timeout", "error"), [("1", TypeError), (True, TypeError), (-1, ValueError)]
)
def test_a_timeout_is_a_number_of_seconds(
    make_queue: MakeQueue, timeout: Any, error: type[Exception]
) -> None:
    queue = make_queue()
    calls = (
        functools.partial(queue.aio.dequeue, timeout),
        functools.partial(queue.aio.dequeue_many, 1, timeout),
        functools.partial(queue.aio.enqueue, b"", timeout),
        functools.partial(queue.aio.enqueue_many, [b""], timeout),
    )
    for call in calls:
        with pytest.raises(error, match="timeout must be"):
            asyncio.run(call())
    assert queue.depth == 0


def test_a_full_queue_makes_a_producer_wait_for_room(run: Run[None], make_queue: MakeQueue) -> None:
    queue = make_queue(1, max_overflow_bytes=5, when_full="block")

    async def main() -> None:
        await queue.aio.enqueue(b"1")
        await queue.aio.enqueue(b"2")
        with pytest.raises(QueueFull):
            await queue.aio.enqueue(b"x", timeout=0.001)
        with pytest.raises(QueueFull):
            await queue.aio.enqueue(b"x", timeout=0)
        waiting = asyncio.create_task(queue.aio.enqueue(b"3"))
        await parked(queue)
        assert await asyncio.to_thread(queue.dequeue) == b"1"
        await waiting
        assert [await queue.aio.dequeue() for _ in range(2)] == [b"2", b"3"]

    run(main())


def test_iteration_ends_when_the_queue_is_shut_down_and_drained(
    run: Run[None], make_queue: MakeQueue
) -> None:
    queue = make_queue()

    async def main() -> None:
        async def consume() -> list[bytes]:
            return [item async for item in queue.aio]

        consumer = asyncio.create_task(consume())
        await parked(queue)
        await queue.aio.enqueue_many(numbered(9))
        queue.aio.shutdown()
        assert await consumer == numbered(9)
        with pytest.raises(QueueClosed):
            await queue.aio.dequeue()
        with pytest.raises(QueueClosed):
            await queue.aio.enqueue(b"late")

    run(main())


def test_close_wakes_everybody(run: Run[None], make_queue: MakeQueue) -> None:
    queue = make_queue()

    async def main() -> None:
        waiting = [asyncio.create_task(queue.aio.dequeue()) for _ in range(3)]
        await parked(queue, 3)
        await queue.aio.close()
        await queue.aio.close()
        for task in waiting:
            with pytest.raises(QueueClosed):
                await task
        with pytest.raises(QueueClosed):
            queue.enqueue(b"")

    run(main())


# ---- leases ----------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True])
def test_leased_items_are_done_after_the_block_and_come_back_when_it_raises(
    run: Run[None], make_queue: MakeQueue, durable: bool
) -> None:
    queue = make_queue(1, durable=durable)

    async def main() -> None:
        async def fail() -> None:
            async with queue.aio.lease(2) as items:
                assert items == numbered(2)
                assert queue.stats().leased == 2
                raise ZeroDivisionError

        await queue.aio.enqueue_many(numbered(4))
        with pytest.raises(ZeroDivisionError):
            await fail()
        async with queue.aio.lease(2) as items:
            assert items == numbered(2)
        lease = await queue.aio.lease()
        assert lease.items == numbered(1, 2)
        lease.nack()
        assert await queue.aio.dequeue() == numbered(1, 2)[0]
        lease = await queue.aio.lease()
        lease.ack()
        assert (queue.depth, queue.stats().leased) == (0, 0)
        with pytest.raises(DequeueTimeout):
            await queue.aio.lease(1, 0)

    run(main())
    balanced(queue)


def test_a_cancelled_lease_takes_nothing(run: Run[None], make_queue: MakeQueue) -> None:
    queue = make_queue()

    async def main() -> None:
        taking = asyncio.ensure_future(queue.aio.lease()._take())
        await parked(queue)
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        await queue.aio.enqueue(b"1")
        assert (queue.depth, queue.stats().leased) == (1, 0)

    run(main())


def test_a_block_that_is_cancelled_gives_its_items_back(
    run: Run[None], make_queue: MakeQueue
) -> None:
    queue = make_queue()

    async def main() -> None:
        await queue.aio.enqueue_many(numbered(2))

        async def work() -> None:
            async with queue.aio.lease(2):
                await asyncio.sleep(60)

        task = asyncio.create_task(work())
        await until(lambda: queue.stats().leased == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await queue.aio.dequeue_many(2) == numbered(2)

    run(main())


def test_each_task_holds_what_it_took(run: Run[None], tmp_path: Path) -> None:
    """At close what others than its caller hold is kept; a task that has ended holds nothing."""

    async def main() -> None:
        async with AsyncHybridQueue("cam", 9, tmp_path, durable=True, limiter=Unlimited()) as queue:
            await queue.enqueue_many(numbered(6))
            assert await asyncio.create_task(queue.dequeue()) == numbered(1)[0]
            holding = asyncio.Event()
            may_end = asyncio.Event()

            async def hold() -> None:
                await queue.dequeue_many(2)
                holding.set()
                await may_end.wait()

            task = asyncio.create_task(hold())
            await holding.wait()
            await queue.dequeue()
        may_end.set()
        await task
        async with AsyncHybridQueue("cam", 9, tmp_path, durable=True) as queue:
            assert await queue.dequeue_many(9) == numbered(5, 1)

    run(main())


# ---- opening ---------------------------------------------------------------------------------


def test_a_queue_is_made_without_a_loop_and_opened_once(tmp_path: Path) -> None:
    queue = AsyncHybridQueue("cam", 2, tmp_path)
    assert not list(tmp_path.iterdir())

    async def main() -> None:
        for use in (queue.dequeue, queue.try_dequeue, functools.partial(queue.enqueue, b"")):
            with pytest.raises(QueueClosed, match="not open yet"):
                await use()
        with pytest.raises(QueueClosed, match="'cam' is not open yet"):
            _ = queue.depth
        await asyncio.gather(queue.open(), queue.open())
        async with queue:
            await queue.enqueue(b"in")
        with pytest.raises(QueueClosed, match="is closed"):
            await queue.enqueue(b"")

    asyncio.run(main())
    assert not list(tmp_path.iterdir())


def test_a_queue_that_was_closed_is_not_opened_any_more(tmp_path: Path) -> None:
    async def main() -> None:
        queue = AsyncHybridQueue("cam", 2, tmp_path)
        await queue.close()
        await queue.close()
        with pytest.raises(QueueClosed, match="'cam' is closed"):
            await queue.open()
        with pytest.raises(QueueClosed, match="'cam' is closed"):
            await queue.enqueue(b"")

    asyncio.run(main())
    assert not list(tmp_path.iterdir())


def test_wrong_parameters_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="unknown"):
        AsyncHybridQueue("cam", 2, tmp_path, unknown=1)  # type: ignore[call-arg] # it is
    with pytest.raises(ValueError, match="memory_items must be"):
        asyncio.run(AsyncHybridQueue("cam", 0, tmp_path).open())


def test_a_stream_with_an_owner_is_refused(make_queue: MakeQueue, tmp_path: Path) -> None:
    make_queue()
    with pytest.raises(StreamBusyError):
        asyncio.run(AsyncHybridQueue("cam", 2, tmp_path).open())


def test_a_forked_child_is_refused_and_its_close_does_nothing(make_queue: MakeQueue) -> None:
    queue = make_queue(1)
    view = queue.aio

    async def fill() -> None:
        await view.enqueue_many(numbered(3))

    async def in_the_child() -> None:
        for use in (view.dequeue, fill, view.try_dequeue, view.lease):
            with pytest.raises(StreamBusyError):
                await use()
        with pytest.raises(StreamBusyError):
            _ = queue.aio
        await view.close()

    asyncio.run(fill())
    in_child(lambda: asyncio.run(in_the_child()))
    assert queue.dequeue_many(3) == numbered(3)


# ---- cancellation ----------------------------------------------------------------------------


def test_a_message_being_written_is_accepted_and_the_cancellation_comes_next(
    run: Run[None], make_queue: MakeQueue
) -> None:
    queue = make_queue(1)

    async def main() -> None:
        await queue.aio.enqueue(b"1")
        backend = hold_up(queue)
        events: list[str] = []

        async def produce() -> None:
            await queue.aio.enqueue(b"2")
            events.append("accepted")
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                events.append("cancelled")
                raise

        task = asyncio.create_task(produce())
        await begun(backend)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        backend.may_go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert events == ["accepted", "cancelled"]
        assert await queue.aio.dequeue_many(2) + await queue.aio.dequeue_many(2) == [b"1", b"2"]

    run(main())


def test_a_timeout_that_strikes_during_the_write_strikes_nothing_else(
    run: Run[None], make_queue: MakeQueue
) -> None:
    """The message is in, and the block was left: nothing is to be cancelled any more."""
    queue = make_queue(1)

    async def main() -> None:
        await queue.aio.enqueue(b"1")
        backend = hold_up(queue)

        async def strike() -> None:
            await begun(backend)
            timeout.reschedule(0)
            await until(timeout.expired)
            backend.may_go_on.set()

        async with asyncio.timeout(60) as timeout:
            striking = asyncio.create_task(strike())
            await queue.aio.enqueue(b"2")
        await striking
        assert timeout.expired()
        for _ in range(3):
            await asyncio.sleep(0)
        assert queue.depth == 2

    run(main())


def test_a_write_that_has_not_begun_is_not_made(run: Run[None], make_queue: MakeQueue) -> None:
    queue = make_queue(1)

    async def main() -> None:
        await queue.aio.enqueue(b"1")
        backend = hold_up(queue)
        first = asyncio.create_task(queue.aio.enqueue(b"2"))
        await begun(backend)
        second = asyncio.create_task(queue.aio.enqueue(b"never"))
        third = asyncio.create_task(queue.aio.enqueue(b"3"))
        await until(lambda: queue.aio._worker._jobs.qsize() == 2)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        backend.may_go_on.set()
        await asyncio.gather(first, third)
        queue.shutdown()
        assert [item async for item in queue.aio] == [b"1", b"2", b"3"]

    run(main())


def test_a_write_that_fails_when_cancelled_is_a_cancellation(
    run: Run[None], make_queue: MakeQueue
) -> None:
    queue = make_queue(1)

    async def main() -> None:
        await queue.aio.enqueue(b"1")
        backend = hold_up(queue)
        task = asyncio.create_task(queue.aio.enqueue(b"2"))
        await begun(backend)
        backend.failure = OSError("the disk is gone")
        task.cancel()
        await asyncio.sleep(0)
        backend.may_go_on.set()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert isinstance(caught.value.__cause__, BackendError)
        assert queue.depth == 1

    run(main())


def test_a_cancelled_dequeue_leaves_what_is_being_read_in_the_queue(
    run: Run[None], make_queue: MakeQueue
) -> None:
    queue = make_queue(1)

    async def main() -> None:
        await queue.aio.enqueue_many(numbered(3))
        backend = hold_up(queue)
        task = asyncio.create_task(queue.aio.dequeue())
        await begun(backend)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        backend.may_go_on.set()
        assert [await queue.aio.dequeue() for _ in range(3)] == numbered(3)

    run(main())


def test_close_is_carried_out_though_it_is_cancelled(run: Run[None], make_queue: MakeQueue) -> None:
    queue = make_queue(1)

    async def main() -> None:
        await queue.aio.enqueue(b"1")
        backend = hold_up(queue)
        writing = asyncio.create_task(queue.aio.enqueue(b"2"))
        await begun(backend)
        closing = asyncio.create_task(queue.aio.close())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.sleep(0)
        backend.may_go_on.set()
        await asyncio.gather(writing, closing)
        assert backend.calls["close"] == 1

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("when_full", ["block", "raise"])
def test_random_cancellations_lose_and_double_nothing(
    run: Run[None], make_queue: MakeQueue, when_full: str
) -> None:
    """Each of 10,000 calls, most of which wait, is cancelled at a moment of its own."""
    queue = make_queue(
        2, max_overflow_bytes=60 if when_full == "block" else None, when_full=when_full
    )
    rng = random.Random(6)
    accepted: list[bytes] = []
    got: list[bytes] = []

    async def enqueue(item: bytes) -> None:
        await queue.aio.enqueue(item)
        accepted.append(item)

    async def dequeue() -> None:
        got.append(await queue.aio.dequeue())

    async def cancelled_often(call: Callable[[int], Coroutine[Any, Any, None]]) -> None:
        slow = asyncio.get_running_loop().get_debug()
        for number in range(250 if slow else 2_500):
            task = asyncio.create_task(call(number))
            for _ in range(rng.randrange(12)):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def main() -> None:
        consumers = [cancelled_often(lambda number: dequeue()) for _ in range(2)]
        producers = [
            cancelled_often(lambda number, name=name: enqueue(b"%d-%d" % (name, number)))  # type: ignore[misc] # mypy's view of lambdas
            for name in range(2)
        ]
        await asyncio.gather(*consumers, *producers)
        queue.shutdown()
        got.extend([item async for item in queue.aio])

    run(main())
    assert sorted(got) == sorted(accepted)
    assert len(accepted) > 10
    for name in (b"0-", b"1-"):
        assert [i for i in got if i.startswith(name)] == [i for i in accepted if i.startswith(name)]
    balanced(queue)


# ---- loops and threads -----------------------------------------------------------------------


async def both_ways(queue: HybridQueue, items: list[bytes]) -> None:
    """A thread produces and this coroutine consumes, then the other way round."""

    def produce() -> None:
        for item in items:
            queue.enqueue(item)

    def consume() -> list[bytes]:
        return [queue.dequeue() for _ in items]

    producing = asyncio.create_task(asyncio.to_thread(produce))
    assert [await queue.aio.dequeue() for _ in items] == items
    await producing
    consuming = asyncio.create_task(asyncio.to_thread(consume))
    for item in items:
        await queue.aio.enqueue(item)
    assert await consuming == items


@pytest.mark.parametrize("memory_items", [100_000, 100])
def test_a_thread_and_a_loop_keep_the_order(
    run: Run[None], make_queue: MakeQueue, memory_items: int
) -> None:
    queue = make_queue(memory_items)
    items = numbered(3_000)

    async def main() -> None:
        await both_ways(queue, items)

    run(main())


def test_several_loops_use_one_queue(make_queue: MakeQueue) -> None:
    queue = make_queue(10)
    got: list[list[bytes]] = [[], []]

    async def consume(mine: list[bytes]) -> None:
        mine.extend([item async for item in queue.aio])

    threads = [threading.Thread(target=asyncio.run, args=(consume(mine),)) for mine in got]
    for thread in threads:
        thread.start()
    for item in numbered(2_000):
        queue.enqueue(item)
    queue.shutdown()
    for thread in threads:
        thread.join()
    assert sorted(got[0] + got[1]) == sorted(numbered(2_000))


def test_a_loop_closed_while_a_task_waits_harms_nobody(make_queue: MakeQueue) -> None:
    queue = make_queue()
    abandoned = asyncio.new_event_loop()
    abandoned.set_exception_handler(lambda loop, context: None)  # a task is destroyed: so it is
    task = abandoned.create_task(queue.aio.dequeue())
    abandoned.run_until_complete(parked(queue))
    abandoned.close()

    async def main() -> None:
        waiting = asyncio.create_task(queue.aio.dequeue())
        await parked(queue, 2)
        await asyncio.to_thread(queue.enqueue, b"for the living")
        assert await waiting == b"for the living"

    asyncio.run(main())
    del task
    queue.enqueue(b"next")
    assert queue.dequeue(0) == b"next"


def test_a_task_destroyed_after_its_loop_was_closed_needs_no_lock(
    make_queue: MakeQueue,
) -> None:
    """Once woken nobody holds it, and the collector may come while the queue's lock is held."""
    queue = make_queue()
    abandoned = asyncio.new_event_loop()
    destroyed: list[object] = []
    abandoned.set_exception_handler(lambda loop, context: destroyed.append(context["message"]))
    abandoned.create_task(queue.aio.dequeue())  # noqa: RUF006 # that is the point
    abandoned.run_until_complete(parked(queue))
    abandoned.close()
    del abandoned
    queue.enqueue(b"item")
    with queue._engine._locks.mutex:
        gc.collect()
    assert destroyed == ["Task was destroyed but it is pending!"]
    assert queue.dequeue(0) == b"item"


def test_many_wake_ups_of_a_busy_loop_cost_one_call(
    make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = make_queue(100)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        calls: list[object] = []
        original = loop.call_soon_threadsafe

        def counted(callback: Any, *args: Any, **context: Any) -> asyncio.Handle:
            calls.append(callback)
            return original(callback, *args, **context)

        waiting = [asyncio.create_task(queue.aio.dequeue()) for _ in range(50)]
        await parked(queue, 50)
        monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
        for item in numbered(50):
            queue.enqueue(item)
        assert await asyncio.gather(*waiting) == numbered(50)
        assert len(calls) == 1

    asyncio.run(main())


def test_a_task_that_always_finds_items_lets_the_others_run(
    run: Run[None], make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1_000_000))  # a millisecond for every call
    monkeypatch.setattr("hq_core.aio.turns.monotonic", lambda: next(clock) / 1000)
    queue = make_queue(2_000)

    async def main() -> None:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        for item in numbered(1_000):
            await queue.aio.enqueue(item)
        assert turns > 100
        for _ in range(1_000):
            await queue.aio.dequeue()
        assert turns > 200
        task.cancel()

    run(main())


def test_without_a_thread_nothing_is_accepted_and_nothing_lost(
    make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = make_queue(1)

    async def main() -> None:
        await queue.aio.enqueue(b"1")
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_thread)
            with pytest.raises(BackendError, match="no thread"):
                await queue.aio.enqueue(b"2")
        await queue.aio.enqueue(b"3")
        assert [await queue.aio.dequeue() for _ in range(2)] == [b"1", b"3"]

    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    asyncio.run(main())


def test_the_workers_thread_ends_when_there_is_nothing_to_do(
    make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hq_core.aio.worker._LINGER", 0.001)
    queue = make_queue(1)

    async def main() -> None:
        for _ in range(3):
            await queue.aio.enqueue_many([b"1", b"2"])
            await until(lambda: not queue.aio._worker._alive)

    asyncio.run(main())


@pytest.mark.slow
def test_a_slow_backend_never_blocks_the_loop(tmp_path: Path) -> None:
    """Every call takes 100 ms, and is never made by the loop. The pauses of a busy machine are not
    the queue's: one quiet run of a few is enough."""

    class Sleeping(Guarded):
        def _called(self, name: str) -> None:
            super()._called(name)
            time.sleep(0.1)

    async def longest_pause() -> float:
        loop = asyncio.get_running_loop()
        longest = 0.0

        async def watch() -> None:
            nonlocal longest
            last = loop.time()
            while True:
                await asyncio.sleep(0)
                longest, last = max(longest, loop.time() - last), loop.time()

        watching = asyncio.create_task(watch())
        async with AsyncHybridQueue("cam", 1, tmp_path, backend=Sleeping) as queue:
            await queue.enqueue_many(numbered(2))
            assert [await queue.dequeue() for _ in range(2)] == numbered(2)
        watching.cancel()
        return longest

    assert any(asyncio.run(longest_pause()) < 0.005 for _ in range(5))


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_two_hundred_thousand_items_each_way(tmp_path: Path, loop: str) -> None:
    if loop == "uvloop" and not importlib.util.find_spec("uvloop"):
        pytest.skip("uvloop is not installed")
    items = numbered(200_000)
    with HybridQueue("cam", 200_000, tmp_path, limiter=Unlimited()) as queue:
        factory = pytest.importorskip("uvloop").new_event_loop if loop == "uvloop" else None
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(both_ways(queue, items))
