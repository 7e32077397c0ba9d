"""The engine under every schedule of a few tasks, with the pump and a slow backend among them."""

import contextlib
import errno
import functools
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from hq_core import (
    AsyncHybridQueue,
    BackendError,
    CorruptedData,
    CountTier,
    HybridQueue,
    HybridQueueError,
    QueueClosed,
    QueueEmpty,
    QueueFull,
    StdlibQueue,
    Stream,
    StreamBusyError,
    Unlimited,
)
from hq_core.aio.worker import _carry_out
from hq_core.engine.engine import Engine
from hq_core.engine.waiters import Line
from hq_core.protocols import OverflowBackend, Waiter, WhenFull
from hq_core.testing import FaultyBackend, MemoryBackend
from hq_core.testing.forking import in_child
from hq_core.testing.spool import balanced
from hq_core.testing.through_queue import refused_in_child
from tests.faults.campaign import amount, note, sentence
from tests.faults.spoilable import Spoilable
from tests.interleaving import (
    ControlledCondition,
    ControlledLock,
    ControlledPump,
    ControlledWaiter,
    Deadlock,
    Scenario,
    Scheduler,
    explore,
)

pytestmark = pytest.mark.slow


@dataclass
class World:
    """What stands in for threads, locks and time; `scheduler` changes with every schedule."""

    scheduler: Scheduler
    test: str
    schedules: int = 0

    def explore(self, scenario: Scenario, delays: int = 3, whole: int = 2_000) -> int:
        """Run `scenario` under every schedule, in the campaign at least `whole`; how many."""
        schedules = explore(scenario, delays, at_least=amount(0, whole))
        self.schedules += schedules
        note("schedules", self.test, schedules=self.schedules)
        return schedules

    def queue(self, scheduler: Scheduler, memory_items: int, **options: Any) -> HybridQueue:
        """A queue whose locks, waiters, pump and backend calls are the scheduler's to switch."""
        self.scheduler = scheduler
        tier = CountTier(memory_items)
        backend = options.pop("backend", MemoryBackend)
        queue = HybridQueue(
            "stream",
            None,
            ".",
            memory=tier,
            backend=lambda stream: Slow(backend(stream), scheduler),
            limiter=Unlimited(),
            pump=ControlledPump(scheduler),
            **options,
        )

        def bounded() -> None:
            assert tier.items() <= memory_items

        scheduler.invariant = bounded
        return queue


T = TypeVar("T")


class Slow(MemoryBackend):
    """A backend during whose calls, before and after their effect, other tasks may run."""

    def __init__(self, backend: OverflowBackend, scheduler: Scheduler) -> None:
        self.recovered = backend.recovered
        self._backend = backend
        self._scheduler = scheduler
        self._busy = False

    def _slowly(self, call: Callable[[], T]) -> T:
        assert not self._busy, "entered twice at once"
        self._busy = True
        try:
            self._scheduler.pause()
            result = call()
            self._scheduler.pause()
        finally:
            self._busy = False
        return result

    def append(self, records: Sequence[bytes]) -> None:
        self._slowly(lambda: self._backend.append(records))

    def read(self, max_records: int, max_bytes: int) -> list[bytes]:
        return self._slowly(lambda: self._backend.read(max_records, max_bytes))

    def trim(self, count: int) -> None:
        self._slowly(lambda: self._backend.trim(count))

    def depth(self) -> int:
        return self._backend.depth()

    def size_bytes(self) -> int:
        return self._backend.size_bytes()

    def close(self, *, delete: bool) -> None:
        self._backend.close(delete=delete)


class NoLock:
    """Owns nothing: every schedule has a queue of its own, not all of them get closed."""

    def __init__(self, path: Path, stream_id: str) -> None: ...

    def release(self) -> None: ...

    def abandon(self) -> None: ...


class OneOwner(NoLock):
    """Taken and let go in one step each, which may be long in coming."""

    owned = False

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        scheduler.pause()
        if OneOwner.owned:
            raise StreamBusyError("it has an owner")
        OneOwner.owned = True

    def release(self) -> None:
        self._scheduler.pause()
        OneOwner.owned = False


class Cancelled(Exception):
    """Stands in for `asyncio.CancelledError`, which would end the test runner's own wait."""


class ControlledLoop:
    """Stands in for an event loop and for the queue's `Worker`; its tasks can be cancelled."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._cancelled: set[str] = set()

    def cancel(self, name: str) -> Callable[[], None]:
        """A task that cancels another, which meets it where it waits, or waits next."""
        return lambda: self._cancelled.add(name)

    def wait(self, ready: Callable[[], bool] = lambda: True) -> None:
        task = self._scheduler._current
        assert task is not None
        self._scheduler.pause(lambda: ready() or task.name in self._cancelled)
        if task.name in self._cancelled:
            self._cancelled.remove(task.name)
            raise Cancelled

    def waiter(self) -> "CoroutineWaiter":
        return CoroutineWaiter(self)

    async def sleep(self, seconds: float) -> None:
        self.wait()

    async def call(self, call: Callable[[], T]) -> T:
        future = self._begin(call)
        self.wait(future.done)
        return future.result()

    async def see_through(self, call: Callable[[], T], *, revocable: bool = True) -> T:
        future = self._begin(call)
        self._scheduler.pause(future.done)
        return future.result()

    def _begin(self, call: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        self._scheduler.spawn("call", lambda: _carry_out(call, future))
        return future


class CoroutineWaiter:
    """Stands in for `LoopWaiter`."""

    gone = False

    def __init__(self, loop: ControlledLoop) -> None:
        self._loop = loop
        self._woken = False

    def wake(self) -> bool:
        assert not self._woken, "woken twice"
        self._woken = True
        return True

    async def wait(self, deadline: float | None = None) -> bool:
        self._loop.wait(lambda: self._woken)
        return True


def coroutine(work: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A task that runs a coroutine, all of whose waits are controlled."""

    def run() -> None:
        with contextlib.suppress(StopIteration, Cancelled, QueueClosed):
            work().send(None)
            raise AssertionError("it waits for what is not controlled")

    return run


def for_coroutines(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch, queue: HybridQueue
) -> tuple[AsyncHybridQueue, ControlledLoop]:
    """The view of `queue`, with all that would need an event loop replaced."""
    loop = ControlledLoop(scheduler)
    running = SimpleNamespace(time=scheduler.clock)
    asyncio = SimpleNamespace(sleep=loop.sleep, get_running_loop=lambda: running)
    monkeypatch.setattr("hq_core.aio.queue.LoopWaiter", loop.waiter)
    monkeypatch.setattr("hq_core.aio.queue.asyncio", asyncio)
    monkeypatch.setattr("hq_core.aio.queue._in_loop", lambda: False)
    monkeypatch.setattr("hq_core.aio.queue.monotonic", lambda: 0.0)
    view = queue.aio
    view._worker = loop  # type: ignore[assignment] # a stand-in
    return view, loop


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> World:
    world = World(Scheduler([], 0), sentence(request.node.name))
    monkeypatch.setattr("hq_core.engine.engine.Lock", lambda: ControlledLock(world.scheduler))
    monkeypatch.setattr("hq_core.queue.ThreadWaiter", lambda: ControlledWaiter(world.scheduler))
    monkeypatch.setattr("hq_core.engine.opening.StreamLock", NoLock)
    threads = SimpleNamespace(
        Lock=lambda: ControlledLock(world.scheduler),
        Condition=lambda lock: ControlledCondition(world.scheduler, lock),
    )
    monkeypatch.setattr("hq_core.stdlib.threading", threads)
    clock = SimpleNamespace(monotonic=lambda: world.scheduler.now)
    monkeypatch.setattr("hq_core.queue.time", clock)
    return world


def kept_by_the_backend() -> list[bytes]:
    """What the last queue left for the next one; leaves nothing itself."""
    backend = MemoryBackend(Stream("stream", "stream", Path()))
    kept = backend.read(100, 100)
    backend.close(delete=True)
    return kept


def spoiled(stream: Stream) -> Spoilable:
    """A backend that finds what it holds damaged when it is first read."""
    backend = Spoilable(stream)
    backend.spoiled = True
    return backend


def produce(queue: HybridQueue, items: Sequence[bytes]) -> Callable[[], None]:
    def run() -> None:
        for item in items:
            queue.enqueue(item)

    return run


def consume(queue: HybridQueue, count: int, got: list[bytes]) -> Callable[[], None]:
    def run() -> None:
        while len(got) < count:
            got.append(queue.dequeue())

    return run


@pytest.mark.parametrize("memory_items", [1, 2])
def test_one_producer_and_one_consumer_keep_the_order(world: World, memory_items: int) -> None:
    items = [b"1", b"2", b"3", b"4"]

    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(scheduler, memory_items)
        got: list[bytes] = []

        def consumer() -> None:
            consume(queue, len(items), got)()
            queue.close()

        scheduler.spawn("producer", produce(queue, items))
        scheduler.spawn("consumer", consumer)

        def check() -> None:
            assert got == items
            balanced(queue)

        return check

    assert world.explore(scenario) > 1000


def test_two_producers_and_two_consumers_deliver_everything_once(world: World) -> None:
    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(scheduler, 1)
        got: list[list[bytes]] = [[], []]
        ended = []

        def consumer(mine: list[bytes]) -> None:
            consume(queue, 2, mine)()
            ended.append(mine)
            if len(ended) == 2:
                queue.close()

        scheduler.spawn("a", produce(queue, [b"a1", b"a2"]))
        scheduler.spawn("b", produce(queue, [b"b1", b"b2"]))
        scheduler.spawn("c", lambda: consumer(got[0]))
        scheduler.spawn("d", lambda: consumer(got[1]))

        def check() -> None:
            assert sorted(got[0] + got[1]) == [b"a1", b"a2", b"b1", b"b2"]
            for mine in got:
                for name in (b"a", b"b"):
                    of_one = [item for item in mine if item.startswith(name)]
                    assert of_one == sorted(of_one), "a producer's items overtook one another"
            balanced(queue)

        return check

    assert world.explore(scenario) > 1000


def test_batches_keep_the_order_and_stay_whole(world: World) -> None:
    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(scheduler, 2)
        got: list[bytes] = []

        def producer(name: str) -> None:
            queue.enqueue_many([f"{name}{i}".encode() for i in range(3)])

        def consumer() -> None:
            while len(got) < 6:
                got.extend(queue.dequeue_many(4))
            queue.close()

        scheduler.spawn("a", lambda: producer("a"))
        scheduler.spawn("b", lambda: producer("b"))
        scheduler.spawn("consumer", consumer)

        def check() -> None:
            a, b = [b"a0", b"a1", b"a2"], [b"b0", b"b1", b"b2"]
            assert got in (a + b, b + a)

        return check

    assert world.explore(scenario) > 1000


def test_close_at_any_moment_loses_no_account_and_wakes_everybody(world: World) -> None:
    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(scheduler, 1)
        accepted: list[bytes] = []
        got: list[bytes] = []

        def producer() -> None:
            try:
                for item in (b"1", b"2", b"3"):
                    queue.enqueue(item)
                    accepted.append(item)
            except QueueClosed:
                pass

        def consumer() -> None:
            try:
                while True:
                    got.append(queue.dequeue())
            except QueueClosed:
                pass

        scheduler.spawn("producer", producer)
        scheduler.spawn("consumer", consumer)
        scheduler.spawn("closer", queue.close)

        def check() -> None:
            assert got == accepted[: len(got)]
            stats = queue.stats()
            assert stats.enqueued == len(accepted)
            assert stats.dequeued == len(got)
            assert stats.depth == 0
            balanced(queue)

        return check

    assert world.explore(scenario) > 1000


def test_shutdown_at_any_moment_delivers_exactly_what_was_accepted(world: World) -> None:
    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(scheduler, 1)
        accepted: list[bytes] = []
        got: list[bytes] = []

        def producer() -> None:
            try:
                for item in (b"1", b"2", b"3"):
                    queue.enqueue(item)
                    accepted.append(item)
            except QueueClosed:
                pass

        def consumer() -> None:
            try:
                while True:
                    got.append(queue.dequeue())
            except QueueClosed:
                queue.close()

        scheduler.spawn("producer", producer)
        scheduler.spawn("consumer", consumer)
        scheduler.spawn("operator", queue.shutdown)

        def check() -> None:
            assert got == accepted
            assert queue.stats().discarded == 0

        return check

    assert world.explore(scenario) > 1000


def test_blocked_producers_get_in_as_room_comes(world: World) -> None:
    """Overflow holds one record of 5 bytes; every producer has to wait for the consumer."""

    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(scheduler, 1, max_overflow_bytes=5, when_full="block")
        got: list[bytes] = []

        def consumer() -> None:
            consume(queue, 4, got)()
            queue.close()

        scheduler.spawn("a", produce(queue, [b"1", b"3"]))
        scheduler.spawn("b", produce(queue, [b"2", b"4"]))
        scheduler.spawn("consumer", consumer)

        def check() -> None:
            assert sorted(got) == [b"1", b"2", b"3", b"4"]
            assert got.index(b"1") < got.index(b"3")
            assert got.index(b"2") < got.index(b"4")
            balanced(queue)

        return check

    assert world.explore(scenario) > 1000


def test_a_blocked_producer_gets_in_once_the_pump_has_made_room(world: World) -> None:
    """The consumer takes one item, and the next only when the producer has got in."""

    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(scheduler, 1, max_overflow_bytes=5, when_full="block")
        queue.enqueue(b"1")
        queue.enqueue(b"2")
        entered: list[bool] = []
        got: list[bytes] = []

        def producer() -> None:
            queue.enqueue(b"3")
            entered.append(True)

        def consumer() -> None:
            got.append(queue.dequeue())
            scheduler.pause(lambda: bool(entered))
            consume(queue, 3, got)()
            queue.close()

        scheduler.spawn("producer", producer)
        scheduler.spawn("consumer", consumer)

        def check() -> None:
            assert got == [b"1", b"2", b"3"]

        return check

    assert world.explore(scenario) > 100


def test_one_gap_that_is_large_enough_serves_every_producer_that_waits(world: World) -> None:
    """The pump frees ten bytes at once, and is not woken again: one wake-up has to do for two."""

    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(scheduler, 1, max_overflow_bytes=10, when_full="block")
        queue.enqueue(b"1")
        queue.enqueue(b"2 long")
        entered: list[bytes] = []
        got: list[bytes] = []

        def producer(item: bytes) -> None:
            queue.enqueue(item)
            entered.append(item)

        def consumer() -> None:
            got.append(queue.dequeue())
            scheduler.pause(lambda: len(entered) == 2)
            consume(queue, 4, got)()
            queue.close()

        scheduler.spawn("a", lambda: producer(b"a"))
        scheduler.spawn("b", lambda: producer(b"b"))
        scheduler.spawn("consumer", consumer)

        def check() -> None:
            assert got[:2] == [b"1", b"2 long"]
            assert sorted(got[2:]) == [b"a", b"b"]

        return check

    assert world.explore(scenario, delays=2) > 100


def test_a_blocked_producer_on_a_full_disk_gets_in_as_memory_drains(world: World) -> None:
    class FullDisk(MemoryBackend):
        def append(self, records: Sequence[bytes]) -> None:
            cause = OSError(errno.ENOSPC, "No space left on device")
            raise QueueFull("the disk is full") from cause

    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(scheduler, 1, backend=FullDisk, when_full="block")
        got: list[bytes] = []

        def consumer() -> None:
            consume(queue, 3, got)()
            queue.close()

        scheduler.spawn("producer", produce(queue, [b"1", b"2", b"3"]))
        scheduler.spawn("consumer", consumer)

        def check() -> None:
            assert got == [b"1", b"2", b"3"]

        return check

    assert world.explore(scenario) > 100


def test_a_wait_given_up_while_being_woken_passes_the_wake_up_on(world: World) -> None:
    """A consumer that gets cancelled and a patient one wait for one item: one of them gets it."""

    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(scheduler, 1)
        engine = queue._engine
        got: list[str] = []

        def cancelled() -> None:
            waiter = ControlledWaiter(scheduler)
            with contextlib.suppress(QueueClosed):
                if engine.take(1, waiter) or (waiter.wait(1.0) and engine.take(1, None)):
                    got.append("cancelled")
                else:
                    engine.withdraw_consumer(waiter)

        def patient() -> None:
            with contextlib.suppress(QueueClosed):
                queue.dequeue()
                got.append("patient")

        def closer() -> None:
            scheduler.pause(lambda: bool(got))
            queue.close()

        scheduler.spawn("cancelled", cancelled)
        scheduler.spawn("patient", patient)
        scheduler.spawn("producer", produce(queue, [b"1"]))
        scheduler.spawn("closer", closer)

        def check() -> None:
            assert len(got) == 1
            balanced(queue)

        return check

    assert world.explore(scenario) > 500


def test_a_producer_that_gives_up_passes_its_place_on(world: World) -> None:
    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(scheduler, 1, max_overflow_bytes=5, when_full="block")
        queue.enqueue_many([b"1"])
        queue.enqueue(b"2")
        got: list[bytes] = []
        given_up: list[bytes] = []

        def impatient() -> None:
            try:
                queue.enqueue(b"3", timeout=1.0)
            except QueueFull:
                given_up.append(b"3")

        def closer() -> None:
            scheduler.pause(lambda: len(got) + len(given_up) == 4)
            queue.close()

        def consumer() -> None:
            try:
                while True:
                    got.append(queue.dequeue())
            except QueueClosed:
                pass

        scheduler.spawn("impatient", impatient)
        scheduler.spawn("patient", produce(queue, [b"4"]))
        scheduler.spawn("consumer", consumer)
        scheduler.spawn("closer", closer)

        def check() -> None:
            assert sorted(got + given_up) == [b"1", b"2", b"3", b"4"]
            assert got[:2] == [b"1", b"2"]

        return check

    assert world.explore(scenario, delays=2) > 1000


@pytest.mark.parametrize("count", [1, 3])
def test_a_cancelled_coroutine_takes_nothing_with_it(
    world: World, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """At any wait: for an item, woken already, or while the worker refills for it."""
    items = [b"1", b"2", b"3"][:count]

    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(scheduler, 1)
        view, loop = for_coroutines(scheduler, monkeypatch, queue)
        got: list[bytes] = []

        async def take_one() -> None:
            got.append(await view.dequeue())

        async def take_all() -> None:
            async for item in view:
                got.append(item)  # noqa: PERF401 # what it has got is looked at meanwhile

        def closer() -> None:
            scheduler.pause(lambda: len(got) == count)
            queue.close()

        scheduler.spawn("cancelled", coroutine(take_one))
        scheduler.spawn("patient", coroutine(take_all))
        scheduler.spawn("producer", produce(queue, items))
        scheduler.spawn("canceller", loop.cancel("cancelled"))
        scheduler.spawn("closer", closer)

        def check() -> None:
            assert sorted(got) == items
            balanced(queue)

        return check

    assert world.explore(scenario, delays=2) > 100


def test_a_cancelled_coroutine_that_waits_for_room_passes_its_place_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(scheduler, 1, max_overflow_bytes=5, when_full="block")
        queue.enqueue(b"1")
        queue.enqueue(b"2")
        view, loop = for_coroutines(scheduler, monkeypatch, queue)
        accepted: list[bytes] = [b"1", b"2"]
        through: list[bytes] = []
        got: list[bytes] = []

        def producer(item: bytes) -> Callable[[], None]:
            async def run() -> None:
                try:
                    await view.enqueue(item)
                    accepted.append(item)
                finally:
                    through.append(item)

            return coroutine(run)

        async def consumer() -> None:
            while b"4" not in got:
                got.append(await view.dequeue())
            scheduler.pause(lambda: b"3" in through)
            if len(got) < len(accepted):
                got.append(await view.dequeue())
            await view.close()

        scheduler.spawn("cancelled", producer(b"3"))
        scheduler.spawn("patient", producer(b"4"))
        scheduler.spawn("canceller", loop.cancel("cancelled"))
        scheduler.spawn("consumer", coroutine(consumer))

        def check() -> None:
            assert sorted(got) == sorted(accepted)
            balanced(queue)

        return check

    assert world.explore(scenario, delays=2) > 500


def test_drop_oldest_keeps_the_newest_in_order(world: World) -> None:
    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(scheduler, 1, max_overflow_bytes=5, when_full="drop_oldest")
        got: list[bytes] = []

        def consumer() -> None:
            for _ in range(2):
                with contextlib.suppress(QueueEmpty, QueueClosed):
                    got.append(queue.try_dequeue())

        def producer() -> None:
            produce(queue, [b"1", b"2", b"3", b"4"])()
            queue.shutdown()
            with contextlib.suppress(QueueClosed):
                while True:
                    rest.append(queue.dequeue())
            queue.close()

        rest: list[bytes] = []
        scheduler.spawn("producer", producer)
        scheduler.spawn("consumer", consumer)

        def check() -> None:
            delivered = sorted(got + rest)
            assert got == sorted(got)
            assert rest == sorted(rest)
            assert delivered[-1] == b"4"
            assert len(set(delivered)) == len(delivered)
            stats = queue.stats()
            assert stats.dropped == stats.discarded == 4 - len(delivered)

        return check

    assert world.explore(scenario) > 100


def test_a_durable_queue_keeps_what_was_not_taken_whenever_it_is_closed(world: World) -> None:
    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(scheduler, 1, durable=True)
        accepted: list[bytes] = []
        got: list[bytes] = []

        def producer() -> None:
            try:
                for item in (b"1", b"2", b"3"):
                    queue.enqueue(item)
                    accepted.append(item)
            except QueueClosed:
                pass

        def consumer() -> None:
            try:
                while True:
                    got.append(queue.dequeue())
            except QueueClosed:
                pass

        scheduler.spawn("producer", producer)
        scheduler.spawn("consumer", consumer)
        scheduler.spawn("closer", queue.close)

        def check() -> None:
            kept = kept_by_the_backend()
            assert got + kept == accepted
            assert queue.stats().depth == len(kept)
            balanced(queue)

        return check

    assert world.explore(scenario) > 1000


def test_a_blocked_producer_of_a_durable_queue_gets_in_once_items_are_taken(world: World) -> None:
    """The last item taken frees space only by being trimmed, which nobody but the pump would do."""

    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(
            scheduler,
            1,
            durable=True,
            max_overflow_bytes=5,
            when_full="block",
        )
        got: list[bytes] = []
        entered: list[bool] = []

        def producer() -> None:
            produce(queue, [b"1", b"2"])()
            entered.append(True)

        def consumer() -> None:
            got.append(queue.dequeue())
            scheduler.pause(lambda: bool(entered))
            got.append(queue.dequeue())
            queue.close()

        scheduler.spawn("producer", producer)
        scheduler.spawn("consumer", consumer)

        def check() -> None:
            assert got == [b"1", b"2"]

        return check

    assert world.explore(scenario) > 100


def collect(queue: HybridQueue, got: list[bytes]) -> Callable[[], None]:
    """Take whatever comes until the queue is shut down and drained, then close it."""

    def run() -> None:
        with contextlib.suppress(QueueClosed):
            while True:
                got.append(queue.dequeue())
        queue.close()

    return run


def until_it_works(call: Callable[[], T], failures: list[HybridQueueError]) -> T:
    """Repeat `call` until the backend does not fail or meet damage in it; its result."""
    while True:
        try:
            return call()
        except (BackendError, CorruptedData) as exc:
            failures.append(exc)


@pytest.mark.parametrize("when_full", ["drop_oldest", "drop_newest"])
def test_several_producers_that_drop_account_for_every_item(
    world: World, when_full: WhenFull
) -> None:
    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(scheduler, 1, max_overflow_bytes=6, when_full=when_full)
        got: list[bytes] = []
        ended: list[str] = []

        def producer(name: str) -> None:
            produce(queue, [f"{name}{i}".encode() for i in range(3)])()
            ended.append(name)
            if len(ended) == 2:
                queue.shutdown()

        scheduler.spawn("a", lambda: producer("a"))
        scheduler.spawn("b", lambda: producer("b"))
        scheduler.spawn("consumer", collect(queue, got))

        def check() -> None:
            stats = queue.stats()
            assert stats.enqueued == 6
            assert stats.dequeued == len(got) == len(set(got))
            assert stats.dropped == stats.discarded == 6 - len(got)
            for name in (b"a", b"b"):
                of_one = [item for item in got if item.startswith(name)]
                assert of_one == sorted(of_one)
            if when_full == "drop_oldest":
                assert got[-1] in (b"a2", b"b2"), "the newest is never dropped"
            else:
                assert got[0] in (b"a0", b"b0"), "the oldest is never dropped"

        return check

    assert world.explore(scenario, delays=2) > 1000


def test_shutdown_lets_blocked_producers_go_and_delivers_what_got_in(world: World) -> None:
    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(scheduler, 1, max_overflow_bytes=5, when_full="block")
        accepted: list[bytes] = []
        refused: list[bytes] = []
        got: list[bytes] = []

        def producer(item: bytes) -> None:
            try:
                queue.enqueue(item)
                accepted.append(item)
            except QueueClosed:
                refused.append(item)

        for name in (b"a", b"b", b"c"):
            scheduler.spawn(name.decode(), functools.partial(producer, name))
        scheduler.spawn("operator", queue.shutdown)
        scheduler.spawn("consumer", collect(queue, got))

        def check() -> None:
            assert sorted(got) == sorted(accepted)
            assert sorted(accepted + refused) == [b"a", b"b", b"c"]
            assert queue.stats().discarded == 0
            balanced(queue)

        return check

    assert world.explore(scenario, delays=2) > 500


@pytest.mark.parametrize("durable", [False, True])
def test_a_backend_call_that_fails_is_one_callers_error_and_nobody_hangs(
    world: World, durable: bool
) -> None:
    """Whether it is a producer's, a consumer's or the pump's call depends on the schedule."""
    items = [b"1", b"2", b"3"]

    def scenario(scheduler: Scheduler, failing: int) -> Callable[[], None]:
        def fault(method: str, number: int) -> Exception | None:
            return OSError(errno.EIO, "Input/output error") if number == failing else None

        queue = world.queue(
            scheduler,
            1,
            durable=durable,
            backend=lambda stream: FaultyBackend(MemoryBackend(stream), fault),
        )
        got: list[bytes] = []
        failures: list[HybridQueueError] = []

        def producer() -> None:
            for item in items:
                until_it_works(functools.partial(queue.enqueue, item), failures)

        def consumer() -> None:
            while len(got) < len(items):
                got.append(until_it_works(queue.dequeue, failures))
            queue.close()

        scheduler.spawn("producer", producer)
        scheduler.spawn("consumer", consumer)

        def check() -> None:
            assert got == items
            assert len(failures) <= 1
            assert kept_by_the_backend() == []
            balanced(queue)

        return check

    for failing in range(1, 7):
        assert world.explore(functools.partial(scenario, failing=failing), delays=2) > 50


def test_damage_is_told_once_while_consumers_wait_and_what_comes_later_is_delivered(
    world: World,
) -> None:
    """Everything that is stored by the first read is damaged."""

    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(scheduler, 1, backend=spoiled)
        got: list[list[bytes]] = [[], []]
        told: list[HybridQueueError] = []

        def consumer(mine: list[bytes]) -> None:
            with contextlib.suppress(QueueClosed):
                while True:
                    mine.append(until_it_works(queue.dequeue, told))
            queue.close()

        def producer() -> None:
            produce(queue, [b"1", b"2", b"3", b"4"])()
            queue.shutdown()

        scheduler.spawn("c", lambda: consumer(got[0]))
        scheduler.spawn("d", lambda: consumer(got[1]))
        scheduler.spawn("producer", producer)

        def check() -> None:
            stats = queue.stats()
            assert len(told) == (stats.discarded > 0)
            assert stats.dequeued == 4 - stats.discarded == len(got[0] + got[1])
            assert all(mine == sorted(mine) for mine in got)
            balanced(queue)

        return check

    assert world.explore(scenario, delays=2) > 1000


@pytest.mark.parametrize("durable", [False, True])
def test_blocked_producers_get_the_room_that_damaged_records_leave(
    world: World, durable: bool
) -> None:
    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(
            scheduler,
            1,
            durable=durable,
            backend=spoiled,
            max_overflow_bytes=10,
            when_full="block",
        )
        ended: list[bytes] = []

        def producer(item: bytes) -> None:
            queue.enqueue(item)
            ended.append(item)
            if len(ended) == 4:
                queue.shutdown()

        def consumer() -> None:
            with contextlib.suppress(QueueClosed):
                while True:
                    until_it_works(queue.dequeue, [])
            queue.close()

        for name in (b"1", b"2", b"3", b"4"):
            scheduler.spawn(name.decode(), functools.partial(producer, name))
        scheduler.spawn("consumer", consumer)

        def check() -> None:
            stats = queue.stats()
            assert stats.enqueued == stats.dequeued + stats.discarded == 4
            assert kept_by_the_backend() == []

        return check

    assert world.explore(scenario, delays=2) > 500


def test_trimming_taking_and_closing_of_a_durable_queue_keep_exactly_the_rest(
    world: World,
) -> None:
    items = [b"1", b"2", b"3", b"4"]

    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(scheduler, 2, durable=True)
        queue.enqueue_many(items)
        got: list[list[bytes]] = [[], []]

        def consumer(mine: list[bytes], most: int) -> None:
            with contextlib.suppress(QueueClosed):
                while True:
                    mine += queue.dequeue_many(most)

        scheduler.spawn("c", lambda: consumer(got[0], 1))
        scheduler.spawn("d", lambda: consumer(got[1], 3))
        scheduler.spawn("closer", queue.close)

        def check() -> None:
            assert all(mine == sorted(mine) for mine in got)
            assert sorted(got[0] + got[1]) + kept_by_the_backend() == items
            balanced(queue)

        return check

    assert world.explore(scenario) > 1000


def test_whoever_opens_while_the_owner_closes_is_refused_or_gets_what_was_left(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is a stand-in here; the real one is under every schedule in `test_ownership`."""

    monkeypatch.setattr("hq_core.engine.opening.StreamLock", lambda *_: OneOwner(world.scheduler))

    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        OneOwner.owned = False
        first = world.queue(scheduler, 1, durable=True)
        first.enqueue_many([b"1", b"2", b"3"])
        got: list[bytes] = []
        resumed: list[bytes] = []

        def successor() -> None:
            while not resumed:
                try:
                    queue = world.queue(scheduler, 1, durable=True)
                except StreamBusyError:
                    scheduler.pause(lambda: not OneOwner.owned)
                    continue
                queue.enqueue(b"4")
                queue.shutdown()
                collect(queue, resumed)()

        scheduler.spawn("consumer", collect(first, got))
        scheduler.spawn("closer", first.close)
        scheduler.spawn("successor", successor)

        def check() -> None:
            assert got + resumed == [b"1", b"2", b"3", b"4"]
            assert kept_by_the_backend() == []

        return check

    assert world.explore(scenario, delays=2) > 1000


def test_a_child_forked_at_any_moment_is_refused_and_the_parent_is_not_disturbed(
    world: World,
) -> None:
    """Whoever holds which lock at that moment: the child neither waits for it nor goes on."""
    items = [b"1", b"2", b"3"]

    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(scheduler, 1, durable=True)
        got: list[bytes] = []

        def consumer() -> None:
            consume(queue, len(items), got)()
            queue.close()

        scheduler.spawn("producer", produce(queue, items))
        scheduler.spawn("consumer", consumer)
        scheduler.spawn("forker", lambda: in_child(lambda: refused_in_child(queue)))

        def check() -> None:
            assert got == items
            assert kept_by_the_backend() == []
            balanced(queue)

        return check

    assert world.explore(scenario, delays=1, whole=600) > 50


class TestOfTheTests:
    """Bugs of the kind this design invites are found by the scenarios above."""

    def test_memory_first_is_found(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        def offer(engine: Engine, item: bytes) -> bool:
            with engine._mutex:
                if not engine._memory.offer_one(item):
                    return False
                engine._enqueued += 1
                engine._consumers.wake(1)
            return True

        monkeypatch.setattr(Engine, "offer", offer)
        with pytest.raises((AssertionError, HybridQueueError)):
            test_one_producer_and_one_consumer_keep_the_order(world, 1)

    def test_a_transfer_that_stops_counting_too_early_is_found(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = Engine._transfer

        def transfer(engine: Engine, max_records: int, max_bytes: int) -> int:
            with engine._mutex:
                engine._direct = engine._stored <= max_records
            return original(engine, max_records, max_bytes)

        monkeypatch.setattr(Engine, "_transfer", transfer)
        with pytest.raises(AssertionError):
            test_one_producer_and_one_consumer_keep_the_order(world, 2)

    def test_a_lost_wake_up_is_found(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        def leave(line: Line, waiter: Waiter) -> None:
            line.pop(waiter, None)

        monkeypatch.setattr(Line, "leave", leave)
        with pytest.raises(Deadlock):
            test_a_wait_given_up_while_being_woken_passes_the_wake_up_on(world)

    def test_a_coroutine_that_gives_up_unheard_is_found(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def sleep(
            view: AsyncHybridQueue,
            waiter: CoroutineWaiter,
            deadline: float | None,
            withdraw: Callable[[Waiter], None],
        ) -> None:
            await waiter.wait(deadline)

        monkeypatch.setattr(AsyncHybridQueue, "_sleep", sleep)
        with pytest.raises(Deadlock):
            test_a_cancelled_coroutine_takes_nothing_with_it(world, monkeypatch, 1)

    def test_an_item_taken_before_the_last_wait_is_found(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def dequeue(view: AsyncHybridQueue) -> bytes:
            (item,) = await view._wait_for(1, None, None)
            await view._next_turn()
            return item

        monkeypatch.setattr(AsyncHybridQueue, "dequeue", dequeue)
        with pytest.raises(Deadlock):
            test_a_cancelled_coroutine_takes_nothing_with_it(world, monkeypatch, 1)

    def test_no_wake_up_after_trimming_is_found(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = Engine._trim

        def trim(engine: Engine) -> bool:
            parked, engine._producers = engine._producers, Line()
            try:
                return original(engine)
            finally:
                engine._producers = parked

        monkeypatch.setattr(Engine, "_trim", trim)
        with pytest.raises(Deadlock):
            test_a_blocked_producer_gets_in_once_the_pump_has_made_room(world)

    def test_a_producer_that_gets_in_and_wakes_no_other_is_found(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def wake(engine: Engine, count: int) -> None:
            engine._consumers.wake(count)

        monkeypatch.setattr(Engine, "_wake_after_entry", wake)
        with pytest.raises(Deadlock):
            test_one_gap_that_is_large_enough_serves_every_producer_that_waits(world)


# ---- the queue as `queue.Queue` ----------------------------------------------------------------


@pytest.mark.parametrize("memory_items", [1, 2])
def test_maxsize_holds_and_no_put_waits_for_ever(world: World, memory_items: int) -> None:
    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(scheduler, memory_items, when_full="block")
        q = StdlibQueue(queue, 2)
        got: list[bytes] = []

        def producer(name: bytes) -> None:
            for number in (b"1", b"2"):
                q.put(name + number)

        def consumer() -> None:
            while len(got) < 4:
                got.append(q.get())
            queue.close()

        def bounded() -> None:
            assert q.qsize() <= 2

        scheduler.invariant = bounded
        scheduler.spawn("a", lambda: producer(b"a"))
        scheduler.spawn("b", lambda: producer(b"b"))
        scheduler.spawn("consumer", consumer)

        def check() -> None:
            assert sorted(got) == [b"a1", b"a2", b"b1", b"b2"]
            balanced(queue)

        return check

    assert world.explore(scenario, delays=2) > 200


def test_the_place_of_a_put_that_fails_goes_to_one_that_waits(world: World) -> None:
    def fault(method: str, number: int) -> Exception | None:
        return OSError(errno.EIO, "broken") if number == 1 else None

    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(
            scheduler,
            1,
            when_full="block",
            backend=lambda stream: FaultyBackend(MemoryBackend(stream), fault),
        )
        q = StdlibQueue(queue, 2)
        q.put(b"1")
        ended: list[type] = []

        def producer() -> None:
            try:
                q.put(b"2")
                ended.append(bytes)
            except BackendError:
                ended.append(BackendError)
            if len(ended) == 2:
                assert q.qsize() == q.unfinished_tasks == 2
                queue.close()

        scheduler.spawn("a", producer)
        scheduler.spawn("b", producer)

        def check() -> None:
            assert {*ended} == {bytes, BackendError}

        return check

    assert world.explore(scenario) > 20


def test_join_ends_when_the_last_task_is_done_and_not_before(world: World) -> None:
    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(scheduler, 1, when_full="block")
        q = StdlibQueue(queue)
        q.put(b"1")
        q.put(b"2")
        done = []

        def worker() -> None:
            q.get()
            done.append(True)
            q.task_done()

        def joiner() -> None:
            q.join()
            assert len(done) == 2
            q.shutdown(immediate=True)

        scheduler.spawn("joiner", joiner)
        scheduler.spawn("a", worker)
        scheduler.spawn("b", worker)
        return lambda: balanced(queue)

    assert world.explore(scenario) > 500


@pytest.mark.parametrize("durable", [False, True])
def test_an_immediate_shutdown_at_any_moment_ends_every_wait(world: World, durable: bool) -> None:
    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(scheduler, 1, when_full="block", durable=durable)
        q = StdlibQueue(queue, 1)
        accepted: list[bytes] = []
        got: list[bytes] = []

        def producer() -> None:
            with contextlib.suppress(QueueClosed):
                for item in (b"1", b"2", b"3"):
                    q.put(item)
                    accepted.append(item)

        def consumer() -> None:
            with contextlib.suppress(QueueClosed):
                while True:
                    got.append(q.get())
                    q.task_done()

        scheduler.spawn("producer", producer)
        scheduler.spawn("consumer", consumer)
        scheduler.spawn("joiner", q.join)
        scheduler.spawn("closer", lambda: q.shutdown(immediate=True))

        def check() -> None:
            assert got + kept_by_the_backend() == accepted[: None if durable else len(got)]
            assert q.qsize() == q.unfinished_tasks == 0
            balanced(queue)

        return check

    assert world.explore(scenario, delays=2) > 500
