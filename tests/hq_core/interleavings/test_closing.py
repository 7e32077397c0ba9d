"""Closing and shutting down at any moment, whoever is at work."""

import contextlib
import errno
import functools
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from hq_core import QueueClosed, QueueEmpty, StreamBusyError
from hq_core.testing import FaultyBackend, MemoryBackend
from hq_core.testing.spool import balanced
from tests.hq_core.interleavings.world import (
    FOR_EVER,
    Check,
    OneOwner,
    World,
    assert_kept,
    collect,
    kept_by_the_backend,
)
from tests.interleaving import Scheduler

pytestmark = pytest.mark.slow


def test_close_at_any_moment_loses_no_account_and_wakes_everybody(world: World) -> None:
    """What was accepted was taken in order or is discarded, and nobody sleeps on."""

    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(scheduler, 1)
        accepted: list[bytes] = []
        got: list[bytes] = []

        def producer() -> None:
            try:
                for item in (b"1", b"2", b"3"):
                    queue.enqueue(item)
                    accepted.append(item)
            except QueueClosed:
                pass

        def consumer() -> None:
            try:
                while True:
                    got.append(queue.dequeue())
            except QueueClosed:
                pass

        scheduler.spawn("producer", producer)
        scheduler.spawn("consumer", consumer)
        scheduler.spawn("closer", queue.close)

        def check() -> None:
            assert got == accepted[: len(got)]
            stats = queue.stats()
            assert stats.enqueued == len(accepted)
            assert stats.dequeued == len(got)
            assert stats.depth == 0
            balanced(queue)

        return check

    assert world.explore(scenario, delays=2) > 200


def test_shutdown_at_any_moment_delivers_exactly_what_was_accepted(world: World) -> None:
    """What `enqueue` accepted is delivered, what it refused is not."""

    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(scheduler, 1)
        accepted: list[bytes] = []
        got: list[bytes] = []

        def producer() -> None:
            try:
                for item in (b"1", b"2", b"3"):
                    queue.enqueue(item)
                    accepted.append(item)
            except QueueClosed:
                pass

        def consumer() -> None:
            try:
                while True:
                    got.append(queue.dequeue())
            except QueueClosed:
                queue.close()

        scheduler.spawn("producer", producer)
        scheduler.spawn("consumer", consumer)
        scheduler.spawn("operator", queue.shutdown)

        def check() -> None:
            assert got == accepted
            assert queue.stats().discarded == 0

        return check

    assert world.explore(scenario, delays=2) > 200


def test_shutdown_lets_blocked_producers_go_and_delivers_what_got_in(world: World) -> None:
    """Each has got in, and is delivered, or is told that the queue is shut down."""

    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(scheduler, 1, max_overflow_bytes=5, when_full="block")
        accepted: list[bytes] = []
        refused: list[bytes] = []
        got: list[bytes] = []

        def producer(item: bytes) -> None:
            try:
                queue.enqueue(item)
                accepted.append(item)
            except QueueClosed:
                refused.append(item)

        for name in (b"a", b"b", b"c"):
            scheduler.spawn(name.decode(), functools.partial(producer, name))
        scheduler.spawn("operator", queue.shutdown)
        scheduler.spawn("consumer", collect(queue, got))

        def check() -> None:
            assert sorted(got) == sorted(accepted)
            assert sorted(accepted + refused) == [b"a", b"b", b"c"]
            assert queue.stats().discarded == 0
            balanced(queue)

        return check

    assert world.explore(scenario, delays=2) > 500


def test_a_durable_queue_keeps_what_was_not_taken_whenever_it_is_closed(world: World) -> None:
    """It keeps what was not delivered, in order, and what its consumer still holds."""

    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(scheduler, 1, durable=True)
        accepted: list[bytes] = []
        got: list[bytes] = []

        def producer() -> None:
            try:
                for item in (b"1", b"2", b"3"):
                    queue.enqueue(item)
                    accepted.append(item)
            except QueueClosed:
                pass

        def consumer() -> None:
            try:
                while True:
                    got.append(queue.dequeue())
            except QueueClosed:
                pass

        scheduler.spawn("producer", producer)
        scheduler.spawn("consumer", consumer)
        scheduler.spawn("closer", queue.close)

        def check() -> None:
            assert got == accepted[: len(got)]
            assert_kept(kept_by_the_backend(), accepted, [[item] for item in got])
            assert queue.stats().depth == len(accepted) - len(got)
            balanced(queue)

        return check

    assert world.explore(scenario, delays=2) > 200


def test_trimming_taking_and_closing_of_a_durable_queue_keep_exactly_the_rest(
    world: World,
) -> None:
    """Two consumers: what is kept begins with what is not delivered, or is held."""

    items = [b"1", b"2", b"3", b"4"]

    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        queue = world.queue(scheduler, 2, durable=True)
        queue.enqueue_many(items)
        got: list[list[list[bytes]]] = [[], []]

        def consumer(mine: list[list[bytes]], most: int) -> None:
            with contextlib.suppress(QueueClosed):
                while True:
                    mine.append(queue.dequeue_many(most))

        scheduler.spawn("c", lambda: consumer(got[0], 1))
        scheduler.spawn("d", lambda: consumer(got[1], 3))
        scheduler.spawn("closer", queue.close)

        def check() -> None:
            assert all(mine == sorted(mine) for mine in got)
            assert_kept(kept_by_the_backend(), items, *got)
            balanced(queue)

        return check

    assert world.explore(scenario, delays=2) > 200


def test_whoever_opens_while_the_owner_closes_is_refused_or_gets_what_was_left(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is a stand-in here; the real one is under every schedule in `test_ownership`."""

    monkeypatch.setattr("hq_core.engine.opening.StreamLock", lambda *_: OneOwner(world.scheduler))

    def scenario(scheduler: Scheduler) -> Callable[[], None]:
        OneOwner.owned = False
        first = world.queue(scheduler, 1, durable=True)
        first.enqueue_many([b"1", b"2", b"3"])
        got: list[bytes] = []
        resumed: list[bytes] = []

        def successor() -> None:
            while not resumed:
                try:
                    queue = world.queue(scheduler, 1, durable=True)
                except StreamBusyError:
                    scheduler.pause(lambda: not OneOwner.owned)
                    continue
                queue.enqueue(b"4")
                queue.shutdown()
                collect(queue, resumed)()

        scheduler.spawn("consumer", collect(first, got))
        scheduler.spawn("closer", first.close)
        scheduler.spawn("successor", successor)

        def check() -> None:
            assert got == [b"1", b"2", b"3", b"4"][: len(got)]
            assert_kept(resumed, [b"1", b"2", b"3", b"4"], [[item] for item in got])
            assert kept_by_the_backend() == []

        return check

    assert world.explore(scenario, delays=2) > 500


# ---- who closes, and in the middle of what -----------------------------------------------------


def ends_with_closed(work: Callable[[], object]) -> Callable[[], None]:
    """A task that goes on until it meets `QueueClosed`."""

    def run() -> None:
        with contextlib.suppress(QueueClosed):
            while True:
                work()

    return run


@pytest.mark.parametrize("durable", [False, True], ids=["passing", "durable"])
def test_two_that_close_at_once_both_return_after_it_is_closed(world: World, durable: bool) -> None:
    """Beside a producer and a consumer that wait, and a lease that is out: each `close` returns
    when the backend is closed and the pump has ended, and everybody who waited meets `QueueClosed`.
    Up to 2 delays."""

    def scenario(scheduler: Scheduler) -> Check:
        options = {"durable": durable, "max_overflow_bytes": 5, "when_full": "block"}
        queue = world.queue(scheduler, 1, **options)
        accepted = [b"1"]
        queue.enqueue(b"1")
        if not durable:
            queue.enqueue(b"2")
            accepted.append(b"2")
        got: list[bytes] = []

        def producer() -> None:
            queue.enqueue(b"3")
            accepted.append(b"3")

        def lessee() -> None:
            lease = queue.lease(deadline=FOR_EVER)
            got.extend(lease.items)
            scheduler.pause(lambda: world.backend.closed)
            if durable:
                with pytest.raises(QueueClosed):
                    lease.ack()
                got.clear()
            else:
                lease.ack()

        def closer() -> None:
            queue.close()
            assert world.backend.closed
            assert scheduler.has_ended("hq-pump-stream")

        scheduler.spawn("lessee", until_refused(lessee))
        scheduler.spawn("producer", ends_with_closed(producer))
        scheduler.spawn("consumer", ends_with_closed(lambda: got.append(queue.dequeue())))
        scheduler.spawn("closer", closer)
        scheduler.spawn("other", closer)

        def check() -> None:
            assert scheduler.stalls == 0
            stats = queue.stats()
            assert stats.enqueued == len(accepted)
            balanced(queue)
            kept = kept_by_the_backend()
            assert {*accepted} - {*got} <= {*kept} if durable else kept == []

        return check

    assert world.explore(scenario, delays=2) > 200


def until_refused(work: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        with contextlib.suppress(QueueClosed):
            work()

    return run


@pytest.mark.parametrize("durable", [False, True], ids=["passing", "durable"])
@pytest.mark.parametrize("method", ["append", "read", "trim"])
def test_close_from_within_a_call_on_the_backend(world: World, durable: bool, method: str) -> None:
    """A finaliser, say, closes the queue in the middle of a call on the backend, be it a
    producer's, a consumer's or the pump's. It returns at once, what it interrupts goes on, and the
    queue is closed when that call ends: everybody meets `QueueClosed`, the accounts balance, and a
    durable queue keeps what was not done. Up to 2 delays."""

    def scenario(scheduler: Scheduler) -> Check:
        queue = world.queue(scheduler, 1, durable=durable)
        accepted: list[bytes] = []
        got: list[bytes] = []
        closed: list[str] = []

        def before(called: str) -> None:
            if called == method and not closed:
                closed.append(scheduler.me)
                queue.close()

        world.backend.before = before

        def producer() -> None:
            for item in (b"1", b"2", b"3", b"4"):
                queue.enqueue(item)
                accepted.append(item)

        def closer() -> None:
            scheduler.pause(lambda: bool(closed) or scheduler.has_ended("producer"))
            queue.close()
            assert world.backend.closed

        scheduler.spawn("producer", until_refused(producer))
        scheduler.spawn("consumer", ends_with_closed(lambda: got.append(queue.dequeue())))
        scheduler.spawn("closer", closer)

        def check() -> None:
            assert scheduler.stalls == 0
            assert got == accepted[: len(got)]
            balanced(queue)
            kept = kept_by_the_backend()
            assert queue.stats().enqueued >= len(accepted)
            if durable:
                assert_kept(kept, accepted, [[item] for item in got])
            else:
                assert kept == []

        return check

    assert world.explore(scenario, delays=2) > 50


def test_close_by_a_log_handler_in_a_step_of_the_pump(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pump logs that its trim has failed, and the handler closes the queue, from within the
    step: it does not wait for itself, and nobody hangs. Up to 2 delays."""
    closed: list[str] = []

    def log(level: int, message: str, *args: object, **options: object) -> None:
        if "space is not given back" in message:
            closed.append(world.scheduler.me)
            close()

    close: Callable[[], None]
    monkeypatch.setattr("hq_core.engine.notices._log", SimpleNamespace(log=log))

    def scenario(scheduler: Scheduler) -> Check:
        nonlocal close
        failed: list[bool] = []

        def fault(method: str, number: int) -> Exception | None:
            if method == "trim" and not failed:
                failed.append(True)
                return OSError(errno.EIO, "Input/output error")
            return None

        queue = world.queue(
            scheduler,
            1,
            max_overflow_bytes=5,
            when_full="block",
            backend=lambda stream: FaultyBackend(MemoryBackend(stream), fault),
        )
        close = queue.close
        queue.enqueue(b"1")
        queue.enqueue(b"2")
        got: list[bytes] = []
        accepted: list[bytes] = [b"1", b"2"]

        def producer() -> None:
            queue.enqueue(b"3")
            accepted.append(b"3")

        scheduler.spawn("producer", ends_with_closed(producer))
        scheduler.spawn("consumer", ends_with_closed(lambda: got.append(queue.dequeue())))

        def check() -> None:
            assert got == accepted[: len(got)]
            assert world.backend.closed
            balanced(queue)

        return check

    assert world.explore(scenario, delays=2) > 50
    assert "hq-pump-stream" in closed


@pytest.mark.parametrize("durable", [False, True], ids=["passing", "durable"])
@pytest.mark.parametrize("how", ["close", "shutdown"])
@pytest.mark.parametrize("whom", ["producer", "consumer", "hq-pump-stream"])
def test_a_signal_handler_that_ends_the_queue_at_any_step(
    world: World, durable: bool, how: str, whom: str
) -> None:
    """A producer, a consumer or the pump is interrupted where it waits, takes a lock or is in the
    backend, and the handler calls `close` or `shutdown`. It returns, and nobody sleeps on: not even
    the one it interrupted, if that was about to wait. Up to 2 delays."""

    def scenario(scheduler: Scheduler) -> Check:
        options = {"durable": durable, "max_overflow_bytes": 10, "when_full": "block"}
        queue = world.queue(scheduler, 1, **options)
        accepted: list[bytes] = []
        got: list[bytes] = []

        def producer() -> None:
            for item in (b"1", b"2", b"3", b"4"):
                queue.enqueue(item)
                accepted.append(item)

        def signal() -> None:
            scheduler.interrupt(whom, getattr(queue, how))

        scheduler.spawn("producer", until_refused(producer))
        scheduler.spawn("consumer", until_refused(lambda: collect(queue, got)()))
        scheduler.spawn("signal", signal)

        def closer() -> None:
            scheduler.pause(lambda: scheduler.has_ended("producer"))
            queue.shutdown()

        scheduler.spawn("closer", closer)

        def check() -> None:
            assert scheduler.stalls == 0
            assert got == accepted[: len(got)]
            assert world.backend.closed
            balanced(queue)
            kept = kept_by_the_backend()
            if how == "shutdown":
                assert got == accepted
            elif durable:
                assert_kept(kept, accepted, [[item] for item in got])

        return check

    assert world.explore(scenario, delays=2) > 50


def test_close_waits_for_a_call_on_the_backend_that_takes_long(world: World) -> None:
    """`sync` is under way in one thread when another closes: the backend is not called twice at
    once, `sync` ends as it would, and `close` returns after it. Up to 3 delays."""

    def scenario(scheduler: Scheduler) -> Check:
        queue = world.queue(scheduler, 1, durable=True)
        queue.enqueue(b"1")
        queue.enqueue(b"2")
        ended: list[str] = []

        def syncs() -> None:
            queue.sync()
            ended.append("sync")

        def closer() -> None:
            queue.close()
            assert world.backend.closed
            with pytest.raises(QueueClosed):
                queue.sync()

        def tries() -> None:
            with contextlib.suppress(QueueEmpty):
                queue.try_dequeue()

        scheduler.spawn("syncs", until_refused(syncs))
        scheduler.spawn("tries", until_refused(tries))
        scheduler.spawn("closer", closer)
        scheduler.spawn("other", closer)

        def check() -> None:
            balanced(queue)
            kept = kept_by_the_backend()
            assert kept == [b"1", b"2"][2 - len(kept) :]

        return check

    assert world.explore(scenario, delays=3) > 50
