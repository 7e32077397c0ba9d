"""Nobody sleeps beside what they wait for, and who waits keeps their place."""

import contextlib
import errno
from collections.abc import Callable, Sequence

import pytest

from hq_core import QueueClosed, QueueFull
from hq_core.testing import MemoryBackend
from hq_core.testing.spool import balanced
from tests.hq_core.interleavings.world import World, consume, produce
from tests.interleaving import ControlledWaiter, Scheduler

pytestmark = pytest.mark.slow


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
                    engine.withdraw(waiter)

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
