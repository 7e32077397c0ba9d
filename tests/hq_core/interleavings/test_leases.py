"""Leases beside plain consumers, producers and the pump: each item is done once, and in order.

What that means is said in `history`: there is an order of all calls that a plain list explains. Of
durable queues also this, after each step: what a process that is killed then leaves behind has
everything, in order, that is not done.
"""

import contextlib
from collections.abc import Callable

import pytest

from hq_core import QueueClosed
from hq_core.testing.spool import balanced
from tests.hq_core.interleavings.history import Recorded
from tests.hq_core.interleavings.world import Check, World, kept_by_the_backend, parked
from tests.interleaving import Scheduler

pytestmark = pytest.mark.slow


def collect_one(queue: Recorded) -> None:
    queue.dequeue()


both = pytest.mark.parametrize("durable", [False, True], ids=["passing", "durable"])


class Failure(Exception):
    """What a block raises."""


def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a few items reach: those for reading ahead, trimming, and waking the pump."""
    monkeypatch.setattr("hq_core.engine.overflow.READ_RECORDS", 2)
    monkeypatch.setattr("hq_core.engine.engine.READ_RECORDS", 2)
    monkeypatch.setattr("hq_core.engine.engine._MIN_PUMPED", 1)
    monkeypatch.setattr("hq_core.engine.engine._MAX_DONE", 2)


def until_closed(work: Callable[[], object]) -> Callable[[], None]:
    """A task that goes on until the queue is closed, or shut down and drained."""

    def run() -> None:
        with contextlib.suppress(QueueClosed):
            while True:
                work()

    return run


@both
def test_leased_and_acknowledged_items_are_done_once_and_in_order(
    world: World, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    """A lessee, a plain consumer, a producer, the pump: every item is taken once, oldest first,
    and the log is trimmed by what is acknowledged only. Up to 2 delays."""
    small_batches(monkeypatch)

    def scenario(scheduler: Scheduler) -> Check:
        queue = Recorded(world, scheduler, 1, durable=durable)

        def producer() -> None:
            queue.enqueue(b"1")
            queue.enqueue(b"2", b"3")
            queue.enqueue(b"4")
            queue.queue.shutdown()

        scheduler.spawn("producer", producer)
        scheduler.spawn("lessee", until_closed(lambda: queue.lease(2).ack()))
        scheduler.spawn("consumer", until_closed(queue.dequeue))
        world.close_at_the_end(queue.queue)

        def check() -> None:
            assert scheduler.stalls == 0
            queue.check()
            balanced(queue.queue)
            assert kept_by_the_backend() == []

        return check

    assert world.explore(scenario, delays=2) > 200


@both
@pytest.mark.parametrize("how", ["nack", "raise"])
def test_what_is_given_back_comes_first_and_in_order(
    world: World, monkeypatch: pytest.MonkeyPatch, durable: bool, how: str
) -> None:
    """A lessee gives its first two items back, beside a consumer, a producer and the pump: they
    come before all that is younger, in order, and are taken exactly once more. Up to 2 delays,
    or 1 for what is the same but for the block."""
    small_batches(monkeypatch)

    def scenario(scheduler: Scheduler) -> Check:
        queue = Recorded(world, scheduler, 1, durable=durable)
        queue.enqueue(b"1", b"2")

        def lessee() -> None:
            try:
                lease = queue.lease(2)
            except QueueClosed:
                return
            if how == "nack":
                lease.nack()
            else:
                call = queue.history.begin("nack", "lessee", lease.items)
                call.lease = lease._number
                with contextlib.suppress(Failure), lease._lease:
                    raise Failure
                queue.history.end(call)
            until_closed(lambda: queue.lease(2).ack())()

        def producer() -> None:
            queue.enqueue(b"3")
            queue.enqueue(b"4")
            queue.queue.shutdown()

        scheduler.spawn("lessee", lessee)
        scheduler.spawn("consumer", until_closed(queue.dequeue))
        scheduler.spawn("producer", producer)
        world.close_at_the_end(queue.queue)

        def check() -> None:
            assert scheduler.stalls == 0
            queue.check()
            balanced(queue.queue)
            assert kept_by_the_backend() == []

        return check

    assert world.explore(scenario, delays=2 if how == "nack" else 1) > 30


@both
def test_two_lessees_that_give_back_by_turns_keep_the_order(
    world: World, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    """Each gives its first items back and acknowledges later ones, in whatever order the leases
    end: the oldest item that is not out is always the next. Up to 2 delays."""
    small_batches(monkeypatch)

    def scenario(scheduler: Scheduler) -> Check:
        queue = Recorded(world, scheduler, 2, durable=durable)
        queue.enqueue(b"1", b"2", b"3")

        def lessee(most: int) -> None:
            with contextlib.suppress(QueueClosed):
                queue.lease(most).nack()
                until_closed(lambda: queue.lease(most).ack())()

        scheduler.spawn("one", lambda: lessee(1))
        scheduler.spawn("two", lambda: lessee(2))
        scheduler.spawn("operator", queue.queue.shutdown)
        world.close_at_the_end(queue.queue)

        def check() -> None:
            assert scheduler.stalls == 0
            queue.check()
            balanced(queue.queue)
            assert kept_by_the_backend() == []

        return check

    assert world.explore(scenario, delays=2) > 200


@both
def test_a_lease_that_lapses_at_any_moment_gives_its_items_back_once(
    world: World, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    """Its deadline passes before, while or after it is acknowledged: it is done, or its items come
    again, before younger ones, and the acknowledgement says which. Up to 2 delays."""
    small_batches(monkeypatch)

    def scenario(scheduler: Scheduler) -> Check:
        queue = Recorded(world, scheduler, 1, durable=durable)
        queue.enqueue(b"1", b"2", b"3")

        def clock() -> None:
            scheduler.now += 10

        def lessee() -> None:
            lease = queue.lease(2, deadline=5)
            leased.append(True)
            scheduler.pause()
            lease.ack()
            queue.queue.shutdown()

        def consumer() -> None:
            scheduler.pause(lambda: bool(leased))
            until_closed(queue.dequeue)()

        leased: list[bool] = []
        scheduler.spawn("lessee", lessee)
        scheduler.spawn("clock", clock)
        scheduler.spawn("consumer", consumer)
        world.close_at_the_end(queue.queue)

        def check() -> None:
            queue.check()
            balanced(queue.queue)
            assert kept_by_the_backend() == []

        return check

    assert world.explore(scenario, delays=2) > 100


def test_a_consumer_waits_no_longer_than_until_a_lease_lapses(world: World) -> None:
    """The lessee never ends its lease, nobody enqueues: a consumer that waits beside a second one
    gets the items when the lease lapses, not later. Up to 2 delays."""

    def scenario(scheduler: Scheduler) -> Check:
        queue = Recorded(world, scheduler, 1)
        queue.enqueue(b"1", b"2")
        got: list[bytes] = []

        def lessee() -> None:
            leased.append(queue.lease(2, deadline=5))
            scheduler.pause(lambda: len(got) == 2)
            queue.queue.close()

        def consumer() -> None:
            scheduler.pause(lambda: bool(leased))
            with contextlib.suppress(QueueClosed):
                while True:
                    got.append(queue.dequeue())

        leased: list[object] = []

        scheduler.spawn("lessee", lessee)
        scheduler.spawn("a", consumer)
        scheduler.spawn("b", consumer)

        def check() -> None:
            assert sorted(got) == [b"1", b"2"]
            assert scheduler.now == 5
            queue.check()

        return check

    assert world.explore(scenario, delays=2) > 100


@both
@pytest.mark.parametrize("end", ["ack", "nack"])
def test_who_waits_for_a_lease_to_end_goes_on_when_one_does(
    world: World, monkeypatch: pytest.MonkeyPatch, durable: bool, end: str
) -> None:
    """One item may be out under leases at once, and three lessees want one each; a plain consumer
    is not kept waiting by that. Nobody sleeps when a lease has ended. Up to 2 delays."""
    monkeypatch.setattr("hq_core.engine.engine._MAX_LEASED", 1)

    def scenario(scheduler: Scheduler) -> Check:
        queue = Recorded(world, scheduler, 1, durable=durable)
        queue.enqueue(b"1", b"2", b"3", b"4")
        out = []

        def lessee() -> None:
            lease = queue.lease(2)
            out.append(lease)
            assert len(lease.items) == 1
            assert len(out) == 1, "too much is out"
            out.clear()
            if end == "nack":
                lease.nack()
                lease = queue.lease()
            lease.ack()

        for name in ("a", "b", "c"):
            scheduler.spawn(name, lessee)
        scheduler.spawn("consumer", lambda: collect_one(queue))
        world.close_at_the_end(queue.queue)

        def check() -> None:
            assert scheduler.stalls == 0
            queue.check()
            balanced(queue.queue)

        return check

    assert world.explore(scenario, delays=2) > 200


def test_an_idle_holder_is_overtaken_and_a_lease_is_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A durable queue, with `MAX_OVERTAKING` 2: an idle thread holds item 1, an idle lease another.
    Item 1 counts as finished once two later ones were handed out, what is leased never: it is kept
    at the end, with what follows it. Up to 2 delays."""
    monkeypatch.setattr("hq_core.engine.in_flight.MAX_OVERTAKING", 2)
    small_batches(monkeypatch)

    def scenario(scheduler: Scheduler) -> Check:
        queue = Recorded(world, scheduler, 2, durable=True)
        queue.enqueue(b"1", b"2", b"3", b"4", b"5")
        at: dict[str, bytes] = {}
        ended: list[str] = []

        def idle() -> None:
            at["idle"] = queue.dequeue()
            queue.may_be_done([at["idle"]])  # as soon as it was overtaken
            scheduler.pause(lambda: len(ended) == 2)

        def lessee() -> None:
            scheduler.pause(lambda: "idle" in at)
            (at["lessee"],) = queue.lease().items
            scheduler.pause(lambda: len(ended) == 2)

        def consumer(count: int) -> None:
            scheduler.pause(lambda: "idle" in at)
            for _ in range(count):
                queue.dequeue()
            ended.append("consumer")

        def closer() -> None:
            scheduler.pause(lambda: len(ended) == 2)
            queue.queue.close()

        scheduler.spawn("idle", idle)
        scheduler.spawn("lessee", lessee)
        scheduler.spawn("c", lambda: consumer(2))
        scheduler.spawn("d", lambda: consumer(1))
        scheduler.spawn("closer", closer)

        def check() -> None:
            kept = kept_by_the_backend()
            assert kept == [b"1", b"2", b"3", b"4", b"5"][5 - len(kept) :]
            assert at["lessee"] in kept
            queue.check()

        return check

    assert world.explore(scenario, delays=2) > 200


@both
def test_shutdown_with_leases_out_waits_for_what_may_come_back(world: World, durable: bool) -> None:
    """After `shutdown` consumers go on until no lease is out any more: one that gives its items
    back then has them delivered, one that acknowledges ends the wait. Up to 2 delays."""

    def scenario(scheduler: Scheduler) -> Check:
        queue = Recorded(world, scheduler, 1, durable=durable)
        queue.enqueue(b"1", b"2", b"3")

        def first() -> None:
            lease = queue.lease(1)
            scheduler.pause(lambda: queue.queue._engine.state != "open")
            lease.nack()

        def second() -> None:
            lease = queue.lease(1)
            scheduler.pause(lambda: queue.queue._engine.state != "open")
            lease.ack()

        def operator() -> None:
            scheduler.pause(lambda: queue.queue.stats().leased == 2)
            queue.queue.shutdown()

        def consumer() -> None:
            scheduler.pause(lambda: queue.queue._engine.state != "open")
            until_closed(queue.dequeue)()
            assert queue.queue.stats().leased == 0
            assert queue.queue.depth == 0

        scheduler.spawn("first", first)
        scheduler.spawn("second", second)
        scheduler.spawn("operator", operator)
        scheduler.spawn("consumer", consumer)
        world.close_at_the_end(queue.queue)

        def check() -> None:
            assert scheduler.stalls == 0
            queue.check()
            assert queue.queue.stats().dequeued == 3
            assert kept_by_the_backend() == []

        return check

    assert world.explore(scenario, delays=2) > 200


@both
@pytest.mark.parametrize("end", ["ack", "nack"])
def test_close_with_leases_out_discards_or_keeps_what_is_not_done(
    world: World, durable: bool, end: str
) -> None:
    """A lease ends before, while or after the queue is closed, beside a consumer that waits. What
    is not durable counts every item as taken or discarded; what is durable keeps all that was not
    acknowledged in time, and then `ack` says so. Up to 2 delays."""
    items = [b"1", b"2", b"3", b"4"]

    def scenario(scheduler: Scheduler) -> Check:
        queue = world.queue(scheduler, 1, durable=durable)
        queue.enqueue_many(items)
        done: list[bytes] = []
        got: list[bytes] = []

        def lessee() -> None:
            lease = queue.lease(2, deadline=1e9)
            try:
                getattr(lease, end)()
            except QueueClosed:
                assert durable
            else:
                done.extend(lease.items if end == "ack" else [])

        def consumer() -> None:
            with contextlib.suppress(QueueClosed):
                got.append(queue.dequeue())

        scheduler.spawn("lessee", until_closed_once(lessee))
        scheduler.spawn("consumer", consumer)
        scheduler.spawn("closer", queue.close)

        def check() -> None:
            assert scheduler.stalls == 0
            balanced(queue)
            stats = queue.stats()
            assert stats.leased == 0 or (durable and end == "ack")
            assert stats.dequeued == len(done) + len(got)
            assert len({*done, *got}) == len(done) + len(got)
            kept = kept_by_the_backend()
            if durable:
                assert kept == items[len(items) - len(kept) :]
                assert {*items} - {*done} - {*got} <= {*kept}
            else:
                assert kept == []
                assert stats.depth == 0

        return check

    assert world.explore(scenario, delays=2) > 100


def until_closed_once(work: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        with contextlib.suppress(QueueClosed):
            work()

    return run


@both
def test_a_producer_that_waits_gets_in_when_a_lease_is_acknowledged(
    world: World, durable: bool
) -> None:
    """Everything is out under leases: the room that an acknowledgement makes is given back, and the
    producer woken, though nobody takes anything meanwhile. Up to 2 delays."""

    def scenario(scheduler: Scheduler) -> Check:
        options = {"max_overflow_bytes": 10, "when_full": "block", "durable": durable}
        queue = Recorded(world, scheduler, 1, **options)
        queue.enqueue(b"1")
        queue.enqueue(b"2")
        entered: list[bool] = []

        def producer() -> None:
            queue.enqueue(b"3")
            queue.enqueue(b"4")
            entered.append(True)

        def lessee() -> None:
            leases = [queue.lease(1), queue.lease(1)]
            scheduler.pause(lambda: bool(entered) or parked(queue.queue) == 1)
            for lease in leases:
                lease.ack()
            scheduler.pause(lambda: bool(entered))
            queue.lease(1).ack()
            queue.lease(1).ack()

        scheduler.spawn("producer", producer)
        scheduler.spawn("lessee", lessee)
        world.close_at_the_end(queue.queue)

        def check() -> None:
            assert scheduler.stalls == 0
            queue.check()
            assert kept_by_the_backend() == []

        return check

    assert world.explore(scenario, delays=2) > 100
