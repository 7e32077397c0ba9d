"""A store that goes away and comes back, or is another owner's by now, at any moment."""

from collections.abc import Callable

import pytest

from hq_core import (
    BackendUnavailable,
    DequeueTimeout,
    QueueEmpty,
    QueueFull,
    StreamLostError,
)
from hq_core.protocols import WhenFull
from hq_core.testing.spool import balanced
from tests.hq_core.interleavings.world import (
    FOR_EVER,
    Check,
    Remote,
    World,
    collect,
    kept_by_the_backend,
)
from tests.interleaving import Scheduler

pytestmark = pytest.mark.slow

durable_or_not = pytest.mark.parametrize("durable", [False, True], ids=["passing", "durable"])


@durable_or_not
@pytest.mark.parametrize("when_full", ["raise", "block", "drop_oldest", "drop_newest"])
def test_an_outage_at_any_moment_loses_nothing_and_nobody_sleeps_after_it(
    world: World, when_full: WhenFull, durable: bool
) -> None:
    """The store goes away and comes back while two producers and a consumer are at work. With
    "raise" a producer hears of it and its item is not in the queue, with "block" it waits, with the
    others it drops. What was accepted comes once and in order, and all of it. Up to 2 delays."""

    def scenario(scheduler: Scheduler) -> Check:
        remote = Remote()
        queue = world.queue(scheduler, 1, backend=remote, durable=durable, when_full=when_full)
        accepted: list[bytes] = []
        got: list[bytes] = []
        ended: list[bytes] = []

        def producer(name: bytes) -> None:
            for number in (b"1", b"2"):
                try:
                    queue.enqueue(name + number)
                    accepted.append(name + number)
                except BackendUnavailable:
                    assert when_full == "raise"
            ended.append(name)
            if len(ended) == 2:
                queue.shutdown()

        def network() -> None:
            remote.store.go_away()
            scheduler.pause()
            remote.store.come_back()

        scheduler.spawn("network", network)
        scheduler.spawn("a", lambda: producer(b"a"))
        scheduler.spawn("b", lambda: producer(b"b"))
        scheduler.spawn("consumer", collect(queue, got))

        def check() -> None:
            assert scheduler.stalls == 0
            stats = queue.stats()
            assert len({*got}) == len(got)
            assert {*got} <= {*accepted}
            assert len(accepted) - len(got) == stats.dropped == stats.discarded
            assert when_full.startswith("drop") or not stats.dropped
            for name in (b"a", b"b"):
                of_one = [item for item in got if item.startswith(name)]
                assert of_one == sorted(of_one)
            balanced(queue)
            assert kept_by_the_backend() == []

        return check

    assert world.explore(scenario, delays=2) > 300


@durable_or_not
@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
def test_everybody_who_waits_goes_on_when_the_store_is_back(
    world: World, durable: bool, known: bool
) -> None:
    """While it is away, as the queue knows already or is about to find out, items are stored in it:
    two consumers and a lessee wait, since nothing can be read, and a producer, since nothing can be
    stored. All go on once it is back. Up to 2 delays, or 1 where it is known."""

    def scenario(scheduler: Scheduler) -> Check:
        remote = Remote()
        queue = world.queue(scheduler, 1, backend=remote, durable=durable, when_full="block")
        items = [b"1", b"2", b"3", b"4", b"5"]
        for item in items[:4]:
            queue.enqueue(item)
        got: list[bytes] = []
        remote.store.go_away()
        while queue.stats().memory_items:
            got.append(queue.dequeue())
        if known:
            assert_away(queue.try_dequeue)

        def consumer() -> None:
            got.append(queue.dequeue())

        def lessee() -> None:
            with queue.lease(deadline=FOR_EVER) as leased:
                got.extend(leased)

        def network() -> None:
            scheduler.pause()
            remote.store.come_back()

        def take_the_rest() -> None:
            while queue.depth:
                got.append(queue.dequeue())

        scheduler.spawn("a", consumer)
        scheduler.spawn("b", consumer)
        scheduler.spawn("lessee", lessee)
        scheduler.spawn("producer", lambda: queue.enqueue(b"5"))
        scheduler.spawn("network", network)
        world.close_at_the_end(queue, take_the_rest)

        def check() -> None:
            assert scheduler.stalls == 0
            assert sorted(got) == items
            balanced(queue)

        return check

    assert world.explore(scenario, delays=1 if known else 2) > 30


@durable_or_not
@pytest.mark.parametrize("who", ["consumer", "lessee", "producer"])
def test_who_finds_the_store_away_as_it_comes_back_does_not_sleep(
    world: World, durable: bool, who: str
) -> None:
    """One task alone calls the store while it goes away and comes back, so that `ready` may come
    before the call that found it away is over: nobody else wakes it, and it goes on. Up to 3
    delays."""

    def scenario(scheduler: Scheduler) -> Check:
        remote = Remote()
        queue = world.queue(scheduler, 1, backend=remote, durable=durable, when_full="block")
        queue.enqueue(b"1")
        queue.enqueue(b"2")
        got: list[bytes] = []
        while queue.stats().memory_items:
            got.append(queue.dequeue())

        def consumer() -> None:
            got.append(queue.dequeue())

        def lessee() -> None:
            with queue.lease(deadline=FOR_EVER) as leased:
                got.extend(leased)

        def producer() -> None:
            queue.enqueue(b"3")

        def network() -> None:
            remote.store.go_away()
            scheduler.pause()
            remote.store.come_back()

        def take_the_rest() -> None:
            while queue.depth:
                got.append(queue.dequeue())

        scheduler.spawn("network", network)
        scheduler.spawn(who, {"consumer": consumer, "lessee": lessee, "producer": producer}[who])
        world.close_at_the_end(queue, take_the_rest)

        def check() -> None:
            assert scheduler.stalls == 0
            assert got == [b"1", b"2", b"3"][: 2 + (who == "producer")]
            balanced(queue)

        return check

    assert world.explore(scenario, delays=3) > 50


def assert_away(take: Callable[[], bytes]) -> None:
    with pytest.raises(QueueEmpty):
        take()


@durable_or_not
def test_deadlines_are_kept_during_an_outage_that_does_not_end(world: World, durable: bool) -> None:
    """A consumer and a producer with deadlines wait for a store that is gone: both are told when
    they have waited so long, memory goes on working, and nothing is lost. Up to 2 delays."""

    def scenario(scheduler: Scheduler) -> Check:
        remote = Remote()
        queue = world.queue(scheduler, 1, backend=remote, durable=durable, when_full="block")
        queue.enqueue(b"1")
        queue.enqueue(b"2")
        got: list[bytes] = []
        if not durable:
            got.append(queue.dequeue())
        told: list[type] = []

        def consumer() -> None:
            try:
                got.append(queue.dequeue(timeout=2.0))
            except DequeueTimeout as exc:
                assert scheduler.now >= 2.0
                told.append(type(exc))

        def producer() -> None:
            try:
                queue.enqueue(b"3", timeout=1.0)
            except (QueueFull, BackendUnavailable) as exc:
                assert scheduler.now >= 1.0
                told.append(type(exc))

        scheduler.spawn("network", remote.store.go_away)
        scheduler.spawn("consumer", consumer)
        scheduler.spawn("producer", producer)

        def take_the_rest() -> None:
            if DequeueTimeout in told:
                assert scheduler.now >= 2.0
            remote.store.come_back()
            while queue.depth:
                got.append(queue.dequeue())

        world.close_at_the_end(queue, take_the_rest)

        def check() -> None:
            refused = len(told) - told.count(DequeueTimeout)
            assert got == [b"1", b"2", b"3"][: 3 - refused]
            balanced(queue)

        return check

    assert world.explore(scenario, delays=2) > 30


@durable_or_not
def test_whoever_calls_after_the_stream_was_lost_is_told(world: World, durable: bool) -> None:
    """Another owner has the stream, at any step of a producer, a consumer, a lessee and a closer:
    every call that is made after that says so, none delivers or accepts anything, what is the new
    owner's is not touched, and nothing that was lost is counted as here. Up to 2 delays."""

    def scenario(scheduler: Scheduler) -> Check:
        remote = Remote()
        queue = world.queue(scheduler, 1, backend=remote, durable=durable, when_full="block")
        queue.enqueue(b"1")
        queue.enqueue(b"2")
        lost: list[bool] = []
        left: list[bytes] = []
        accepted: list[bytes] = [b"1", b"2"]
        got: list[bytes] = []

        def until_lost(work: Callable[[], object]) -> None:
            for _ in range(3):
                late = bool(lost)
                try:
                    work()
                except StreamLostError:
                    return
                assert not late, "a call that began later gave something"

        def producer() -> None:
            numbers = iter((b"3", b"4", b"5"))

            def work() -> None:
                item = next(numbers)
                queue.enqueue(item)
                accepted.append(item)

            until_lost(work)

        def lessee() -> None:
            def work() -> None:
                lease = queue.lease(deadline=FOR_EVER)
                items = list(lease.items)
                try:
                    lease.ack()
                except StreamLostError:
                    assert durable
                    left.extend(items)
                else:
                    got.extend(items)

            until_lost(work)

        def network() -> None:
            remote.store.lose()
            lost.append(True)

        scheduler.spawn("network", network)
        scheduler.spawn("producer", producer)
        scheduler.spawn("consumer", lambda: until_lost(lambda: got.append(queue.dequeue())))
        scheduler.spawn("lessee", lessee)

        def all_say_so() -> None:
            for call in (queue.dequeue, queue.try_dequeue, queue.lease, lambda: queue.enqueue(b"")):
                with pytest.raises(StreamLostError):
                    call()

        world.close_at_the_end(queue, all_say_so)

        def check() -> None:
            stats = queue.stats()
            assert stats.enqueued == len(accepted)
            assert stats.dequeued == len(got)
            assert stats.depth == stats.memory_items == 0
            assert len({*got, *left}) == len(got) + len(left)
            balanced(queue)
            assert {*accepted} - {*got} <= {*kept_by_the_backend()} or not durable
            assert world.backend.closed

        return check

    assert world.explore(scenario, delays=2) > 80
