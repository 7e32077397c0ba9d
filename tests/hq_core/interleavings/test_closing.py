"""Closing and shutting down at any moment, whoever is at work."""

import contextlib
import functools
from collections.abc import Callable

import pytest

from hq_core import QueueClosed, StreamBusyError
from hq_core.testing.spool import balanced
from tests.hq_core.interleavings.world import (
    OneOwner,
    World,
    assert_kept,
    collect,
    kept_by_the_backend,
)
from tests.interleaving import Scheduler

pytestmark = pytest.mark.slow


def test_close_at_any_moment_loses_no_account_and_wakes_everybody(world: World) -> None:
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

    assert world.explore(scenario) > 1000


def test_shutdown_at_any_moment_delivers_exactly_what_was_accepted(world: World) -> None:
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

    assert world.explore(scenario) > 1000


def test_trimming_taking_and_closing_of_a_durable_queue_keep_exactly_the_rest(
    world: World,
) -> None:
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

    assert world.explore(scenario) > 1000


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
