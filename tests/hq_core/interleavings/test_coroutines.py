"""Coroutines beside threads: cancelled at any wait, in loops that do not run."""

from collections.abc import Callable

import pytest

from hq_core.testing.spool import balanced
from tests.hq_core.interleavings.world import World, coroutine, for_coroutines, produce
from tests.interleaving import Scheduler

pytestmark = [pytest.mark.slow, pytest.mark.skip(reason="in work: not all of it passes yet")]


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
