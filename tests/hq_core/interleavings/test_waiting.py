"""Nobody sleeps beside what they wait for, and who waits keeps their place."""

import contextlib
import errno
import functools
from collections.abc import Callable, Sequence

import pytest

from hq_core import DequeueTimeout, QueueClosed, QueueEmpty, QueueFull
from hq_core.testing import MemoryBackend
from hq_core.testing.spool import balanced
from tests.hq_core.interleavings.world import (
    FOR_EVER,
    Check,
    World,
    collect,
    consume,
    parked,
    produce,
)
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

    assert world.explore(scenario, delays=2) > 300


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

    assert world.explore(scenario, delays=2) > 50


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
    """It sleeps while the disk is full, and not beside room in memory."""

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

    assert world.explore(scenario, delays=2) > 50


@pytest.mark.parametrize("how", ["asks for more", "acknowledges", "ends"])
def test_a_blocked_producer_of_a_durable_queue_gets_in_once_items_are_done(
    world: World, how: str
) -> None:
    """The one item there is frees space only by being trimmed, once its holder is done with it:
    since it asks for more, acknowledges its lease, or has ended. Nobody else comes by. Up to 2
    delays."""

    def scenario(scheduler: Scheduler) -> Check:
        options = {"durable": True, "max_overflow_bytes": 5, "when_full": "block"}
        queue = world.queue(scheduler, 1, **options)
        got: list[bytes] = []
        entered: list[bool] = []

        def producer() -> None:
            produce(queue, [b"1", b"2"])()
            entered.append(True)

        def first() -> None:
            if how == "acknowledges":
                with queue.lease(deadline=FOR_EVER) as items:
                    got.extend(items)
                return
            got.append(queue.dequeue())
            if how == "asks for more":
                got.append(queue.dequeue())

        def second() -> None:
            scheduler.pause(lambda: bool(entered))
            if how != "asks for more":
                got.append(queue.dequeue())
            scheduler.pause(lambda: len(got) == 2)
            queue.close()

        scheduler.spawn("producer", producer)
        scheduler.spawn("first", first)
        scheduler.spawn("second", second)

        def check() -> None:
            assert scheduler.stalls == 0 or how == "ends"  # that nobody says: they look at times
            assert got == [b"1", b"2"]

        return check

    assert world.explore(scenario, delays=2) > 50


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
    """Its deadline may strike as it is woken: the patient one behind it gets in."""

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


# ---- fairness ----------------------------------------------------------------------------------


def test_whoever_fits_gets_in_though_a_larger_batch_waits_before_them(world: World) -> None:
    """A batch of three waits, then one of two, then single items. The consumer frees one record at
    a time, and goes on only when a single item has got in, and at last empties the queue: nobody
    sleeps beside room, and the large ones get in too, whole. Up to 1 delay."""

    def scenario(scheduler: Scheduler) -> Check:
        options = {"max_overflow_bytes": 15, "when_full": "block", "durable": True}
        queue = world.queue(scheduler, 1, **options)
        queue.enqueue_many([b"1", b"2", b"3"])
        entered: list[bytes] = []
        got: list[bytes] = []

        def producer(first: int, *items: bytes) -> None:
            world.when_parked(queue, first)
            queue.enqueue_many(items)
            entered.extend(items)

        def take_one() -> None:
            with queue.lease(deadline=FOR_EVER) as items:
                got.extend(items)

        def consumer() -> None:
            world.when_parked(queue, 4)
            take_one()
            scheduler.pause(lambda: bool(entered))
            take_one()
            scheduler.pause(lambda: len(entered) >= 2)
            assert {*entered} == {b"x", b"y"}
            with contextlib.suppress(QueueClosed):
                while True:
                    take_one()
            queue.close()

        def operator() -> None:
            scheduler.pause(lambda: len(entered) == 7)
            queue.shutdown()

        scheduler.spawn("three", lambda: producer(0, b"a", b"b", b"c"))
        scheduler.spawn("two", lambda: producer(1, b"d", b"e"))
        scheduler.spawn("x", lambda: producer(2, b"x"))
        scheduler.spawn("y", lambda: producer(3, b"y"))
        scheduler.spawn("consumer", consumer)
        scheduler.spawn("operator", operator)

        def check() -> None:
            assert scheduler.stalls == 0
            rest = got[3:]
            assert sorted(rest) == [b"a", b"b", b"c", b"d", b"e", b"x", b"y"]
            assert b"abc" in b"".join(rest)
            assert b"de" in b"".join(rest)

        return check

    assert world.explore(scenario, delays=1) > 50


@pytest.mark.parametrize("newcomer", [False, True])
def test_producers_that_wait_keep_their_places(world: World, newcomer: bool) -> None:
    """Two wait, in order, for a room of one. One room at a time comes, and a newcomer may take it:
    who is woken in vain waits on where it stood, so nobody is woken before the first, and all get
    in. Up to 2 delays."""

    def scenario(scheduler: Scheduler) -> Check:
        queue = world.queue(scheduler, 1, max_overflow_bytes=5, when_full="block")
        queue.enqueue(b"1")
        queue.enqueue(b"2")
        entered: list[bytes] = []
        got: list[bytes] = []

        def producer(first: int, item: bytes) -> None:
            world.when_parked(queue, first)
            queue.enqueue(item)
            entered.append(item)

        def has_entered(count: int) -> bool:
            return len(entered) >= count

        world.assert_first_is_woken_first(queue, "producers")

        def late() -> None:
            scheduler.pause(lambda: parked(queue) == 2 or bool(got))
            queue.enqueue(b"n")
            entered.append(b"n")

        def consumer() -> None:
            world.when_parked(queue, 2)
            for count in range(1, 3 + newcomer):
                got.append(queue.dequeue())
                scheduler.pause(functools.partial(has_entered, count))
            consume(queue, 4 + newcomer, got)()
            queue.close()

        scheduler.spawn("a", lambda: producer(0, b"a"))
        scheduler.spawn("b", lambda: producer(1, b"b"))
        if newcomer:
            scheduler.spawn("newcomer", late)
        scheduler.spawn("consumer", consumer)

        def check() -> None:
            assert scheduler.stalls == 0
            assert got[:2] == [b"1", b"2"]
            assert sorted(got[2:]) == sorted(entered)

        return check

    assert world.explore(scenario, delays=2) > 100


def test_a_batch_that_gives_up_when_woken_leaves_its_room_to_those_behind(world: World) -> None:
    """A batch of two with a timeout is the first of those that wait, two single items are behind
    it. Its deadline may strike before, while or after it is woken: whoever of the others fits then
    gets in, and does not sleep on. Up to 1 delay."""

    def scenario(scheduler: Scheduler) -> Check:
        queue = world.queue(scheduler, 1, max_overflow_bytes=10, when_full="block")
        queue.enqueue(b"1")
        queue.enqueue(b"2 long")
        got: list[bytes] = []
        given_up: list[bytes] = []
        ended: list[str] = []

        def impatient() -> None:
            try:
                queue.enqueue_many([b"a", b"b"], timeout=1.0)
            except QueueFull:
                given_up.extend([b"a", b"b"])
            ended.append("impatient")

        def patient(before: int, item: bytes) -> None:
            scheduler.pause(lambda: parked(queue) == before or bool(ended))
            queue.enqueue(item)
            ended.append("patient")

        def consumer() -> None:
            scheduler.pause(lambda: parked(queue) == 3 or bool(ended))
            consume(queue, 2, got)()
            if given_up:
                scheduler.pause(lambda: len(ended) == 3)
            collect(queue, got)()

        def operator() -> None:
            scheduler.pause(lambda: len(ended) == 3)
            queue.shutdown()

        scheduler.spawn("impatient", impatient)
        scheduler.spawn("x", lambda: patient(1, b"x"))
        scheduler.spawn("y", lambda: patient(2, b"y"))
        scheduler.spawn("consumer", consumer)
        scheduler.spawn("operator", operator)

        def check() -> None:
            assert sorted(got + given_up) == [b"1", b"2 long", b"a", b"b", b"x", b"y"]

        return check

    assert world.explore(scenario, delays=1) > 50


@pytest.mark.parametrize("durable", [False, True], ids=["passing", "durable"])
def test_consumers_that_wait_are_served_in_their_order_and_none_sleeps_beside_an_item(
    world: World, durable: bool
) -> None:
    """Three wait, the first for a lease, the second for a batch, the third for one item, which it
    may give up. Items come one by one, and the next when one has it: nobody is woken for one before
    the first that waits, and each is served. Up to 2 delays."""

    def scenario(scheduler: Scheduler) -> Check:
        queue = world.queue(scheduler, 1, durable=durable)
        got: list[tuple[str, bytes]] = []
        given_up: list[str] = []
        served: list[str] = []

        world.assert_first_is_woken_first(queue, "consumers")

        def is_served(count: int) -> bool:
            return len(served) + len(given_up) > count

        def lessee() -> None:
            lease = queue.lease(2, deadline=FOR_EVER)
            got.extend(("lessee", item) for item in lease.items)
            lease.ack()
            served.append("lessee")

        def batch() -> None:
            world.when_parked(queue, 1, "consumers")
            got.extend(("batch", item) for item in queue.dequeue_many(3))
            served.append("batch")

        def single() -> None:
            world.when_parked(queue, 2, "consumers")
            try:
                got.append(("single", queue.dequeue(timeout=1.0)))
                served.append("single")
            except DequeueTimeout:
                given_up.append("single")

        def producer() -> None:
            scheduler.pause(lambda: parked(queue, "consumers") == 3 or bool(given_up))
            while len(served) + len(given_up) < 3:
                number = len(served) + len(given_up)
                queue.enqueue(b"%d" % number)
                scheduler.pause(functools.partial(is_served, number))
            queue.close()

        scheduler.spawn("lessee", lessee)
        scheduler.spawn("batch", batch)
        scheduler.spawn("single", single)
        scheduler.spawn("producer", producer)

        def check() -> None:
            assert len({item for _, item in got}) == len(got)
            balanced(queue)

        return check

    assert world.explore(scenario, delays=2) > 50


def test_one_that_takes_what_two_were_woken_for_lets_the_other_wait_in_its_place(
    world: World,
) -> None:
    """A batch comes while two consumers wait and a newcomer takes all of it: those two wait on,
    and get the next items, the first one being woken first. Up to 2 delays."""

    def scenario(scheduler: Scheduler) -> Check:
        queue = world.queue(scheduler, 2)
        got: dict[str, list[bytes]] = {}

        world.assert_first_is_woken_first(queue, "consumers")

        def left() -> int:
            return 2 - len(got.keys() & {"a", "b"})

        def waiter(name: str, first: int) -> None:
            world.when_parked(queue, first, "consumers")
            got[name] = [queue.dequeue()]

        def newcomer() -> None:
            scheduler.pause(lambda: parked(queue, "consumers") == 2 or queue.stats().enqueued > 0)
            with contextlib.suppress(QueueEmpty):
                got["newcomer"] = [queue.try_dequeue(), queue.try_dequeue()]

        def producer() -> None:
            world.when_parked(queue, 2, "consumers")
            queue.enqueue_many([b"1", b"2"])
            scheduler.pause(lambda: scheduler.has_ended("newcomer"))
            number = 3
            while left():
                scheduler.pause(lambda: parked(queue, "consumers") == left())
                if left():
                    queue.enqueue(b"%d" % number)
                    number += 1
            queue.close()

        scheduler.spawn("a", lambda: waiter("a", 0))
        scheduler.spawn("b", lambda: waiter("b", 1))
        scheduler.spawn("newcomer", newcomer)
        scheduler.spawn("producer", producer)

        def check() -> None:
            assert scheduler.stalls == 0
            balanced(queue)

        return check

    assert world.explore(scenario, delays=2) > 50
