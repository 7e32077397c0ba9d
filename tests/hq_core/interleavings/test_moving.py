"""Items move once and in order, whoever moves them: producers, consumers, the pump."""

import contextlib
from collections.abc import Callable

import pytest

from hq_core import QueueClosed, QueueEmpty
from hq_core.protocols import WhenFull
from hq_core.testing.spool import balanced
from tests.hq_core.interleavings.world import World, collect, consume, produce
from tests.interleaving import Scheduler

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("memory_items", [1, 2])
def test_one_producer_and_one_consumer_keep_the_order(world: World, memory_items: int) -> None:
    """What is taken is what was enqueued, in order, whichever tier it went through."""

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
    """Every item is taken once, and no producer's items overtake one another."""

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

    assert world.explore(scenario, delays=2) > 500


def test_batches_keep_the_order_and_stay_whole(world: World) -> None:
    """A batch is in the queue in one piece, in order."""

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

    assert world.explore(scenario, delays=2) > 200


def test_drop_oldest_keeps_the_newest_in_order(world: World) -> None:
    """The newest item is delivered, what is dropped is counted, and the rest is in order."""

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

    assert world.explore(scenario, delays=2) > 100


@pytest.mark.parametrize("when_full", ["drop_oldest", "drop_newest"])
def test_several_producers_that_drop_account_for_every_item(
    world: World, when_full: WhenFull
) -> None:
    """Each item is delivered or counted as dropped: never the newest, or never the oldest."""

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
