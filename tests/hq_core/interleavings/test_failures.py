"""Backend calls that fail, records that are damaged, a process that forks."""

import contextlib
import errno
import functools
from collections.abc import Callable

import pytest

from hq_core import HybridQueueError, QueueClosed
from hq_core.testing import FaultyBackend, MemoryBackend
from hq_core.testing.forking import in_child
from hq_core.testing.spool import balanced
from hq_core.testing.through_queue import refused_in_child
from tests.hq_core.interleavings.world import (
    World,
    consume,
    kept_by_the_backend,
    produce,
    spoiled,
    until_it_works,
)
from tests.interleaving import Scheduler

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("durable", [False, True])
def test_a_backend_call_that_fails_is_one_callers_error_and_nobody_hangs(
    world: World, durable: bool
) -> None:
    """Whether it is a producer's, a consumer's or the pump's call depends on the schedule."""
    items = [b"1", b"2", b"3"]

    def scenario(scheduler: Scheduler, failing: int) -> Callable[[], None]:
        untrimmed: list[bool] = []

        def fault(method: str, number: int) -> Exception | None:
            if number != failing:
                return None
            if method == "trim" and queue._engine.state == "closed":
                untrimmed.append(True)  # so what was done comes again
            return OSError(errno.EIO, "Input/output error")

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
            kept = kept_by_the_backend()
            assert kept == (items[len(items) - len(kept) :] if untrimmed else [])
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
    """Damage makes room too, and whoever waits for room gets it."""

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

    assert world.explore(scenario, delays=1, whole=600) > 30
