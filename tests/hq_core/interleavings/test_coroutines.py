"""Coroutines beside threads: cancelled at any wait, in loops that do not run."""

from collections.abc import Callable

import pytest

from hq_core.testing.spool import balanced
from tests.hq_core.interleavings.world import (
    FOR_EVER,
    Check,
    World,
    collect,
    coroutine,
    for_coroutines,
    produce,
)
from tests.interleaving import Scheduler

pytestmark = pytest.mark.slow


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
    """What it was told holds, and the patient one behind it gets in."""

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


# ---- loops that do not run ---------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True], ids=["passing", "durable"])
@pytest.mark.parametrize("how", ["held up", "closed"])
def test_an_item_does_not_wait_for_a_loop_that_does_not_run(
    world: World, monkeypatch: pytest.MonkeyPatch, durable: bool, how: str
) -> None:
    """A coroutine waits first, a thread behind it, and the coroutine's loop is held up, or closed:
    the wake-up for the coroutine goes to the thread too, and the thread takes the item, whenever
    the loop runs again. Up to 3 delays."""

    def scenario(scheduler: Scheduler) -> Check:
        queue = world.queue(scheduler, 1, durable=durable)
        view, loop = for_coroutines(scheduler, monkeypatch, queue)
        got: list[bytes] = []

        async def first() -> None:
            got.append(await view.dequeue())

        def second() -> None:
            world.when_parked(queue, 1, "consumers")
            got.append(queue.dequeue())
            loop.runs = True
            if how == "closed":
                loop.cancel("coroutine")()  # as when it is destroyed
            queue.close()

        def producer() -> None:
            world.when_parked(queue, 1, "consumers")
            loop.runs = False
            loop.closed = how == "closed"
            world.when_parked(queue, 2, "consumers")
            queue.enqueue(b"1")

        scheduler.spawn("coroutine", coroutine(first))
        scheduler.spawn("thread", second)
        scheduler.spawn("producer", producer)

        def check() -> None:
            assert scheduler.stalls == 0
            assert got == [b"1"]
            balanced(queue)

        return check

    assert world.explore(scenario, delays=3) > 20


@pytest.mark.parametrize("how", ["held up", "closed"])
def test_room_does_not_wait_for_a_loop_that_does_not_run(
    world: World, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A coroutine waits for room first, a thread behind it, and the coroutine's loop is held up, or
    closed: the thread gets in. Up to 2 delays."""

    def scenario(scheduler: Scheduler) -> Check:
        queue = world.queue(scheduler, 1, max_overflow_bytes=5, when_full="block")
        queue.enqueue(b"1")
        queue.enqueue(b"2")
        view, loop = for_coroutines(scheduler, monkeypatch, queue)
        got: list[bytes] = []

        async def first() -> None:
            await view.enqueue(b"3")

        def second() -> None:
            world.when_parked(queue, 1)
            queue.enqueue(b"4")

        def consumer() -> None:
            world.when_parked(queue, 2)
            loop.runs = False
            loop.closed = how == "closed"
            got.append(queue.dequeue())
            scheduler.pause(lambda: scheduler.has_ended("thread"))
            loop.runs = True
            if how == "closed":
                loop.cancel("coroutine")()
            while len(got) < (3 if how == "closed" else 4):
                got.append(queue.dequeue())
            queue.close()

        scheduler.spawn("coroutine", coroutine(first))
        scheduler.spawn("thread", second)
        scheduler.spawn("consumer", consumer)

        def check() -> None:
            assert scheduler.stalls == 0
            assert got[:3] == [b"1", b"2", b"4"]
            balanced(queue)

        return check

    assert world.explore(scenario, delays=2) > 20


@pytest.mark.parametrize("durable", [False, True], ids=["passing", "durable"])
def test_coroutines_and_threads_lease_beside_one_another(
    world: World, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    """A coroutine leases and gives back, then leases again and may be cancelled at any wait; a
    thread takes. Every item is done once, and what a cancelled coroutine held comes back. Up to 2
    delays."""

    def scenario(scheduler: Scheduler) -> Check:
        queue = world.queue(scheduler, 1, durable=durable)
        view, loop = for_coroutines(scheduler, monkeypatch, queue)
        done: list[bytes] = []

        async def lessee() -> None:
            lease = await view.lease(2, deadline=FOR_EVER)
            lease.nack()
            async with view.lease(2, deadline=FOR_EVER) as items:
                loop.wait()
                done.extend(items)

        def producer() -> None:
            queue.enqueue_many([b"1", b"2"])
            queue.enqueue(b"3")
            scheduler.pause(lambda: scheduler.has_ended("lessee"))
            queue.shutdown()

        scheduler.spawn("lessee", coroutine(lessee))
        scheduler.spawn("producer", producer)
        scheduler.spawn("canceller", loop.cancel("lessee"))
        scheduler.spawn("thread", collect(queue, done))

        def check() -> None:
            assert scheduler.stalls == 0
            assert sorted(done) == [b"1", b"2", b"3"]
            assert queue.stats().dequeued == 3
            balanced(queue)

        return check

    assert world.explore(scenario, delays=2) > 50
