"""Deadlines are kept whatever the backend does, also in another thread's call."""

import contextlib
from collections.abc import Callable

import pytest

from hq_core import DequeueTimeout, QueueClosed, QueueEmpty, QueueFull
from hq_core.testing.spool import balanced
from tests.hq_core.interleavings.world import Check, World, coroutine, for_coroutines
from tests.interleaving import Scheduler

pytestmark = pytest.mark.slow

durable_or_not = pytest.mark.parametrize("durable", [False, True], ids=["passing", "durable"])


def stuck_while(world: World, scheduler: Scheduler, *names: str) -> Callable[[str], None]:
    """For `Slow.before`: calls of other tasks last until the tasks `names` have ended."""

    def before(method: str) -> None:
        if scheduler.me not in names:
            scheduler.pause(lambda: not scheduler.tasks & {*names})

    return before


@durable_or_not
@pytest.mark.parametrize("timeout", [0, 1.0])
def test_a_deadline_passes_while_another_thread_is_in_the_backend(
    world: World, durable: bool, timeout: float
) -> None:
    """Another producer's call on the backend lasts until a consumer and a producer with deadlines
    have ended, so only those end their waits. Each has what it came for, or is told, on time; the
    call that lasted is through in the end, and nothing is lost. Up to 2 delays."""

    def scenario(scheduler: Scheduler) -> Check:
        queue = world.queue(scheduler, 1, durable=durable, when_full="block")
        queue.enqueue(b"1")
        accepted = [b"1"]
        got: list[bytes] = []
        world.backend.before = stuck_while(world, scheduler, "consumer", "hurried")

        def patient() -> None:
            for item in (b"2", b"3"):
                queue.enqueue(item)
                accepted.append(item)

        def hurried() -> None:
            try:
                queue.enqueue(b"4", timeout=timeout)
                accepted.append(b"4")
            except QueueFull:
                assert scheduler.now >= (timeout or 0.05)

        def consumer() -> None:
            try:
                while True:
                    began = scheduler.now
                    got.append(queue.dequeue(timeout=timeout))
            except DequeueTimeout:
                assert scheduler.now >= began + timeout

        scheduler.spawn("patient", patient)
        scheduler.spawn("hurried", hurried)
        scheduler.spawn("consumer", consumer)

        def take_the_rest() -> None:
            while queue.depth:
                got.append(queue.dequeue())

        world.close_at_the_end(queue, take_the_rest)

        def check() -> None:
            assert sorted(got) == sorted(accepted)
            balanced(queue)

        return check

    assert world.explore(scenario, delays=2) > 50


@durable_or_not
def test_who_does_not_wait_is_told_that_the_backend_is_busy(world: World, durable: bool) -> None:
    """`try_dequeue` and a batch that could be larger, while another thread's read lasts until they
    have ended: the one says "busy" after 50 ms, the other gives what it has. Up to 2 delays."""

    def scenario(scheduler: Scheduler) -> Check:
        queue = world.queue(scheduler, 2, durable=durable)
        queue.enqueue_many([b"1", b"2"])
        queue.enqueue_many([b"3", b"4"])
        got: list[bytes] = []
        world.backend.before = stuck_while(world, scheduler, "batch", "tries")

        def reader() -> None:
            with contextlib.suppress(QueueClosed):
                got.extend(queue.dequeue_many(4))

        def operator() -> None:
            scheduler.pause(lambda: not scheduler.tasks & {"batch", "tries"})
            queue.shutdown()

        def batch() -> None:
            try:
                got.extend(queue.dequeue_many(3, timeout=1.0))
            except DequeueTimeout:
                assert scheduler.now >= 1.0

        def tries() -> None:
            for _ in range(2):
                try:
                    got.append(queue.try_dequeue())
                except QueueEmpty as exc:
                    assert "busy" in str(exc) or not queue.depth  # noqa: PT017 # what it says

        scheduler.spawn("reader", reader)
        scheduler.spawn("batch", batch)
        scheduler.spawn("tries", tries)
        scheduler.spawn("operator", operator)

        def take_the_rest() -> None:
            while queue.depth:
                got.append(queue.dequeue())

        world.close_at_the_end(queue, take_the_rest)

        def check() -> None:
            assert sorted(got) == [b"1", b"2", b"3", b"4"]
            balanced(queue)

        return check

    assert world.explore(scenario, delays=2) > 50


@durable_or_not
def test_coroutines_keep_their_deadlines_while_a_thread_is_in_the_backend(
    world: World, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    """As for threads; what their worker has begun is seen through or given up, and an item that a
    coroutine was told is not in the queue never is. Up to 2 delays."""

    def scenario(scheduler: Scheduler) -> Check:
        queue = world.queue(scheduler, 1, durable=durable, when_full="block")
        queue.enqueue(b"1")
        view, _ = for_coroutines(scheduler, monkeypatch, queue)
        accepted = [b"1"]
        got: list[bytes] = []

        def before(method: str) -> None:
            if scheduler.me == "thread":
                scheduler.pause(lambda: scheduler.has_ended("c") and scheduler.has_ended("p"))

        world.backend.before = before

        def thread() -> None:
            for item in (b"2", b"3"):
                queue.enqueue(item)
                accepted.append(item)

        async def producer() -> None:
            try:
                await view.enqueue(b"4", timeout=1.0)
                accepted.append(b"4")
            except QueueFull:
                assert scheduler.now >= 1.0

        async def consumer() -> None:
            try:
                while True:
                    got.append(await view.dequeue(timeout=1.0))
            except DequeueTimeout:
                assert scheduler.now >= 1.0

        scheduler.spawn("thread", thread)
        scheduler.spawn("p", coroutine(producer))
        scheduler.spawn("c", coroutine(consumer))

        def take_the_rest() -> None:
            while queue.depth:
                got.append(queue.dequeue())

        world.close_at_the_end(queue, take_the_rest)

        def check() -> None:
            assert sorted(got) == sorted(accepted)
            balanced(queue)

        return check

    assert world.explore(scenario, delays=2) > 50
