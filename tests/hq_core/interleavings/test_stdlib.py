"""The queue as `queue.Queue`."""

import contextlib
import errno
from collections.abc import Callable

import pytest

from hq_core import BackendError, QueueClosed, StdlibQueue
from hq_core.testing import FaultyBackend, MemoryBackend
from hq_core.testing.spool import balanced
from tests.hq_core.interleavings.world import World, assert_kept, kept_by_the_backend
from tests.interleaving import Scheduler

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("memory_items", [1, 2])
def test_maxsize_holds_and_no_put_waits_for_ever(world: World, memory_items: int) -> None:
    """There are never more items than `maxsize`, and every `put` gets in."""

    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(scheduler, memory_items, when_full="block")
        q = StdlibQueue(queue, 2)
        got: list[bytes] = []

        def producer(name: bytes) -> None:
            for number in (b"1", b"2"):
                q.put(name + number)

        def consumer() -> None:
            while len(got) < 4:
                got.append(q.get())
            queue.close()

        def bounded() -> None:
            assert q.qsize() <= 2

        scheduler.invariant = bounded
        scheduler.spawn("a", lambda: producer(b"a"))
        scheduler.spawn("b", lambda: producer(b"b"))
        scheduler.spawn("consumer", consumer)

        def check() -> None:
            assert sorted(got) == [b"a1", b"a2", b"b1", b"b2"]
            balanced(queue)

        return check

    assert world.explore(scenario, delays=2) > 200


def test_the_place_of_a_put_that_fails_goes_to_one_that_waits(world: World) -> None:
    """A failed `put` leaves its place, and who waits for one does not sleep on."""

    def fault(method: str, number: int) -> Exception | None:
        return OSError(errno.EIO, "broken") if number == 1 else None

    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(
            scheduler,
            1,
            when_full="block",
            backend=lambda stream: FaultyBackend(MemoryBackend(stream), fault),
        )
        q = StdlibQueue(queue, 2)
        q.put(b"1")
        ended: list[type] = []

        def producer() -> None:
            try:
                q.put(b"2")
                ended.append(bytes)
            except BackendError:
                ended.append(BackendError)
            if len(ended) == 2:
                assert q.qsize() == q.unfinished_tasks == 2
                queue.close()

        scheduler.spawn("a", producer)
        scheduler.spawn("b", producer)

        def check() -> None:
            assert {*ended} == {bytes, BackendError}

        return check

    assert world.explore(scenario) > 20


def test_join_ends_when_the_last_task_is_done_and_not_before(world: World) -> None:
    """`join` returns once both tasks are done."""

    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(scheduler, 1, when_full="block")
        q = StdlibQueue(queue)
        q.put(b"1")
        q.put(b"2")
        done = []

        def worker() -> None:
            q.get()
            done.append(True)
            q.task_done()

        def joiner() -> None:
            q.join()
            assert len(done) == 2
            q.shutdown(immediate=True)

        scheduler.spawn("joiner", joiner)
        scheduler.spawn("a", worker)
        scheduler.spawn("b", worker)
        return lambda: balanced(queue)

    assert world.explore(scenario) > 500


@pytest.mark.parametrize("durable", [False, True])
def test_an_immediate_shutdown_at_any_moment_ends_every_wait(world: World, durable: bool) -> None:
    """`put`, `get` and `join` end; nothing that was accepted is unaccounted for."""

    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(scheduler, 1, when_full="block", durable=durable)
        q = StdlibQueue(queue, 1)
        accepted: list[bytes] = []
        got: list[bytes] = []

        def producer() -> None:
            with contextlib.suppress(QueueClosed):
                for item in (b"1", b"2", b"3"):
                    q.put(item)
                    accepted.append(item)

        def consumer() -> None:
            with contextlib.suppress(QueueClosed):
                while True:
                    got.append(q.get())
                    q.task_done()

        scheduler.spawn("producer", producer)
        scheduler.spawn("consumer", consumer)
        scheduler.spawn("joiner", q.join)
        scheduler.spawn("closer", lambda: q.shutdown(immediate=True))

        def check() -> None:
            assert got == accepted[: len(got)]
            if durable:
                assert_kept(kept_by_the_backend(), accepted, [[item] for item in got])
            assert q.qsize() == q.unfinished_tasks == 0
            balanced(queue)

        return check

    assert world.explore(scenario, delays=2) > 500


@pytest.mark.parametrize("overflow", [1, 12], ids=["memory alone", "with overflow"])
@pytest.mark.parametrize("when_full", ["drop_oldest", "drop_newest"])
def test_what_ends_a_worker_reaches_one_each_whatever_is_dropped(
    world: World, when_full: str, overflow: int
) -> None:
    """Two workers wait, or are at work, when two producers put items and a `None` each: every
    worker meets one, nobody sleeps on, and what was neither dropped nor taken is still there. Up to
    2 delays."""

    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(scheduler, 1, when_full=when_full, max_overflow_bytes=overflow)
        q: StdlibQueue[bytes | None] = StdlibQueue(
            queue, dumps=lambda item: item or b"", loads=lambda data: data or None
        )
        got: list[bytes] = []

        def worker() -> None:
            while (item := q.get()) is not None:
                got.append(item)
                q.task_done()
            q.task_done()

        def producer(name: bytes) -> None:
            for number in (b"1", b"2"):
                q.put(name + number)
            q.put(None)

        scheduler.spawn("v", worker)
        scheduler.spawn("w", worker)
        scheduler.spawn("a", lambda: producer(b"a"))
        scheduler.spawn("b", lambda: producer(b"b"))

        def closer() -> None:
            scheduler.pause(lambda: scheduler.tasks <= {"closer", "hq-pump-stream"})
            stats = queue.stats()
            assert q.qsize() == q.unfinished_tasks == stats.depth
            assert stats.dequeued == len(got) == 4 - stats.dropped - stats.depth
            queue.close()

        scheduler.spawn("closer", closer)

        def check() -> None:
            assert scheduler.stalls == 0
            for name in (b"a", b"b"):
                mine = [item for item in got if item.startswith(name)]
                assert len({*mine}) == len(mine)
            balanced(queue)

        return check

    assert world.explore(scenario, delays=2) > 500
