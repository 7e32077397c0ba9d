"""The engine under every schedule of a few tasks, with the pump and a slow backend among them."""

import contextlib
import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from hq_core import (
    CountTier,
    HybridQueue,
    HybridQueueError,
    QueueClosed,
    QueueEmpty,
    QueueFull,
    Stream,
    Unlimited,
)
from hq_core.engine import Engine
from hq_core.testing import MemoryBackend
from hq_core.testing.spool import balanced
from hq_core.waiters import Line
from tests.interleaving import (
    ControlledLock,
    ControlledPump,
    ControlledWaiter,
    Deadlock,
    Scheduler,
    explore,
)

pytestmark = pytest.mark.slow


@dataclass
class World:
    """What stands in for threads, locks and time; `scheduler` changes with every schedule."""

    scheduler: Scheduler

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

    def __init__(self, backend: MemoryBackend, scheduler: Scheduler) -> None:
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


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(Scheduler([], 0))
    monkeypatch.setattr("hq_core.engine.Lock", lambda: ControlledLock(world.scheduler))
    monkeypatch.setattr("hq_core.queue.ThreadWaiter", lambda: ControlledWaiter(world.scheduler))
    monkeypatch.setattr("hq_core.opening.StreamLock", NoLock)
    clock = SimpleNamespace(monotonic=lambda: world.scheduler.now)
    monkeypatch.setattr("hq_core.queue.time", clock)
    return world


def kept_by_the_backend() -> list[bytes]:
    """What the last queue left for the next one; leaves nothing itself."""
    backend = MemoryBackend(Stream("stream", "stream", Path()))
    kept = backend.read(100, 100)
    backend.close(delete=True)
    return kept


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

    assert explore(scenario) > 1000


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

    assert explore(scenario) > 1000


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

    assert explore(scenario) > 1000


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

    assert explore(scenario) > 1000


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

    assert explore(scenario) > 1000


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

    assert explore(scenario) > 1000


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

    assert explore(scenario) > 100


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

    assert explore(scenario, delays=2) > 100


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

    assert explore(scenario) > 100


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

    assert explore(scenario) > 500


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

    assert explore(scenario, delays=2) > 1000


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

    assert explore(scenario) > 100


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

    assert explore(scenario) > 1000


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

    assert explore(scenario) > 100


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
        def leave(line: Line, waiter: ControlledWaiter) -> None:
            line.pop(waiter, None)

        monkeypatch.setattr(Line, "leave", leave)
        with pytest.raises(Deadlock):
            test_a_wait_given_up_while_being_woken_passes_the_wake_up_on(world)

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
