"""Promises of the engine that random calls hardly ever put to the test, each by itself.

Each is a function of a directory, so that `test_seeded_bugs.py` can run it on a broken engine.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread
from typing import Any, Final

import pytest

from hq_core import (
    CountTier,
    DequeueTimeout,
    HybridQueue,
    LeaseExpired,
    QueueClosed,
    QueueFull,
    Stream,
    StreamLostError,
    Unlimited,
)
from hq_core.engine.waiters import ThreadWaiter
from hq_core.testing import ManualClock, ManualPump, MemoryBackend
from hq_core.testing.fakes import RemoteBackend
from hq_core.testing.spool import balanced, drain, numbered

__all__ = ["PROMISES"]

WINDOW: Final = 255
STORED: Final = 14
"""Bytes that it takes in a `MemoryBackend`."""


def opened(directory: Path, memory_items: int | None = 4, **options: Any) -> HybridQueue:
    options = {
        "backend": MemoryBackend,
        "limiter": Unlimited(),
        "pump": ManualPump(),
        **options,
    }
    return HybridQueue("s", memory_items, directory, **options)


def elsewhere(call: Callable[[], object]) -> None:
    """Make `call` in a thread of its own, which has ended then."""
    thread = Thread(target=call)
    thread.start()
    thread.join()


def is_woken(waiter: ThreadWaiter) -> bool:
    """Whether it has been woken since it was last asked."""
    return waiter.wait(0)


def parked(queue: HybridQueue, count: int) -> list[ThreadWaiter]:
    """So many consumers that wait at the empty `queue`."""
    waiters = [ThreadWaiter() for _ in range(count)]
    for waiter in waiters:
        assert queue._engine.grab(1, waiter) == []
    return waiters


def blocked(queue: HybridQueue, sizes: Sequence[int]) -> list[tuple[ThreadWaiter, list[bytes]]]:
    """Producers that wait for room for batches of so many items each."""
    made = []
    for size in sizes:
        items = numbered(size, start=900)
        waiter = ThreadWaiter((size, sum(map(len, items))))
        assert not queue._engine.spill(items, time.monotonic(), waiter)
        made.append((waiter, items))
    return made


# ---- waking ----------------------------------------------------------------------------------


def a_wake_up_of_a_consumer_that_gives_up_goes_to_the_next(directory: Path) -> None:
    with opened(directory) as queue:
        first, second = parked(queue, 2)
        queue.enqueue(b"1")
        assert is_woken(first)
        assert not is_woken(second)
        queue._engine.withdraw(first)
        assert is_woken(second)


def a_wake_up_of_a_producer_that_gives_up_goes_to_the_next(directory: Path) -> None:
    with opened(
        directory, 1, durable=True, max_overflow_bytes=4 * STORED, when_full="block"
    ) as queue:
        queue.enqueue_many(numbered(4))
        (first, _), (second, _) = blocked(queue, [1, 1])
        queue.lease(1).ack()  # that makes room for one
        queue._engine.refill()
        assert is_woken(first)
        assert not is_woken(second)
        queue._engine.withdraw(first)
        assert is_woken(second)


def a_producer_that_is_woken_in_vain_keeps_its_place(directory: Path) -> None:
    with opened(
        directory, 1, durable=True, max_overflow_bytes=4 * STORED, when_full="block"
    ) as queue:
        queue.enqueue_many(numbered(4))
        (first, items), (second, _) = blocked(queue, [3, 3])
        queue._engine.ready()  # everybody is to look again
        assert is_woken(first)
        assert is_woken(second)
        engine = queue._engine
        assert not engine.spill(items, time.monotonic(), second)
        assert not engine.spill(items, time.monotonic(), first)
        assert engine._producers.waiting[None] == [first, second]


def a_trim_wakes_the_producers_it_makes_room_for(directory: Path) -> None:
    with opened(
        directory, 1, durable=True, max_overflow_bytes=4 * STORED, when_full="block"
    ) as queue:
        queue.enqueue_many(numbered(4))
        ((waiter, items),) = blocked(queue, [1])
        queue.dequeue()
        queue.dequeue()  # done with the first
        queue._engine.refill()
        assert is_woken(waiter)
        assert queue._engine.spill(items, time.monotonic(), None)


def what_is_given_back_wakes_consumers(directory: Path) -> None:
    with opened(directory) as queue:
        queue.enqueue_many(numbered(2))
        lease = queue.lease(2)
        first, second = parked(queue, 2)
        lease.nack()
        assert is_woken(first)
        assert is_woken(second)


# ---- holders ---------------------------------------------------------------------------------


def a_consumer_that_was_overtaken_does_not_pin_the_log(directory: Path) -> None:
    with opened(directory, 10, durable=True) as queue:
        queue.enqueue_many(numbered(3000))
        idle = queue.dequeue()
        assert idle == numbered(1)[0]

        def others() -> None:
            for _ in range(1022):
                queue.dequeue()
            assert queue._engine.overflow.depth == 3000, "trimmed, though somebody holds the first"
            for _ in range(500):
                queue.dequeue()
            assert queue._engine.overflow.depth <= 3000 - 1000

        failed: list[AssertionError] = []
        elsewhere(lambda: keep_failure(others, failed))
        assert not failed, failed


def keep_failure(call: Callable[[], None], failed: list[AssertionError]) -> None:
    try:
        call()
    except AssertionError as exc:
        failed.append(exc)


def what_comes_again_after_a_crash_is_bounded(directory: Path) -> None:
    with opened(directory, 10, durable=True) as queue:
        queue.enqueue_many(numbered(2000))
        for taken in range(1, 1500):
            queue.dequeue()
            assert queue._engine.overflow.depth <= 2000 - taken + 1 + WINDOW


def a_lease_pins_what_is_behind_it_and_nothing_else_is_kept(directory: Path) -> None:
    with opened(directory, 10, durable=True) as queue:
        queue.enqueue_many(numbered(1000))
        queue.dequeue_many(100)
        lease = queue.lease(10)
        while len(queue.dequeue_many(300)) == 300:
            pass
        assert queue._engine.overflow.depth >= 900
        lease.ack()
        with pytest.raises(DequeueTimeout, match="nothing came"):
            queue.dequeue(timeout=0)
        assert queue._engine.overflow.depth == 0


def dropping_frees_the_room_that_is_needed_and_no_more(directory: Path) -> None:
    """What is dropped lies behind an item that is held, and is no live data."""
    large = [bytes([number]) * 1000 for number in range(15)]
    with opened(
        directory, 10, durable=True, max_overflow_bytes=10_500, when_full="drop_oldest"
    ) as queue:
        queue.enqueue_many(large[:10])
        lease = queue.lease(1)
        for dropped, item in enumerate(large[10:], start=1):
            queue.enqueue(item)
            assert queue.stats().dropped == dropped
        lease.nack()
        assert drain(queue) == [large[0], *large[6:]]
        balanced(queue)


def dropping_does_not_finish_what_others_hold(directory: Path) -> None:
    with opened(
        directory, 10, durable=True, max_overflow_bytes=10 * STORED, when_full="drop_oldest"
    ) as queue:
        queue.enqueue_many(numbered(10))
        queue.dequeue()
        elsewhere(lambda: queue.enqueue(bytes(30)))
        assert queue.stats().dropped
        assert queue._engine.overflow.depth == 11


def who_acknowledges_too_late_is_told_and_harms_nobody(directory: Path) -> None:
    for durable in (False, True):
        with opened(directory, durable=durable) as queue:
            clock = queue._engine._clock = ManualClock(time.monotonic())
            queue.enqueue_many(numbered(4))
            late = queue.lease(2, deadline=1.0)
            clock.advance(2)
            mine = queue.lease(2)
            assert mine.items == late.items == numbered(2)
            with pytest.raises(LeaseExpired, match="2 items"):
                late.ack()
            balanced(queue)
            assert queue.stats().leased == 2
            mine.nack()
            assert drain(queue) == numbered(4)


def a_lease_that_lapses_gives_back_once(directory: Path) -> None:
    with opened(directory) as queue:
        clock = queue._engine._clock = ManualClock(time.monotonic())
        queue.enqueue_many(numbered(4))
        lease = queue.lease(3, deadline=1.0)
        clock.advance(2)
        assert queue.dequeue() == numbered(1)[0]
        assert queue.depth == 3
        lease.nack()
        assert queue.depth == 3
        assert drain(queue) == numbered(3, start=1)
        balanced(queue)


# ---- interruptions and failures --------------------------------------------------------------


class Interrupting(CountTier):
    """A tier in which Ctrl-C comes when a batch of stored items has landed."""

    armed = False

    def offer(self, items: Sequence[bytes]) -> bool:
        landed = super().offer(items)
        if self.armed:
            self.armed = False
            raise KeyboardInterrupt
        return landed


def what_has_landed_when_an_interruption_comes_is_not_read_again(directory: Path) -> None:
    for durable in (False, True):
        tier = Interrupting(4)
        with opened(directory, None, memory=tier, durable=durable) as queue:
            queue.enqueue_many(numbered(10))
            tier.armed = True
            with pytest.raises(KeyboardInterrupt):
                queue.dequeue()
            balanced(queue)
            assert drain(queue) == numbered(10)
            balanced(queue)


def a_store_that_is_back_is_used_again(directory: Path) -> None:
    remotes: list[RemoteBackend] = []

    def backend(stream: Stream) -> RemoteBackend:
        remotes.append(RemoteBackend(MemoryBackend(stream), stream))
        return remotes[-1]

    with opened(directory, 1, backend=backend, durable=True) as queue:
        queue.enqueue_many(numbered(3))
        remotes[0].go_away()
        with pytest.raises(DequeueTimeout, match="cannot be reached"):
            queue.dequeue(timeout=0)
        (waiter,) = parked(queue, 1)
        remotes[0].come_back()
        assert is_woken(waiter)
        assert queue.dequeue_many(3, timeout=0)
        queue.enqueue(b"4")


def a_queue_that_is_lost_gives_nothing_any_more(directory: Path) -> None:
    remotes: list[RemoteBackend] = []

    def backend(stream: Stream) -> RemoteBackend:
        remotes.append(RemoteBackend(MemoryBackend(stream), stream))
        return remotes[-1]

    with opened(directory, 4, backend=backend, durable=True) as queue:
        queue.enqueue_many(numbered(10))
        queue.dequeue()
        assert queue.stats().memory_items
        remotes[0].lose()
        for call in (queue.try_dequeue, queue.lease, lambda: queue.enqueue(b"")):
            with pytest.raises(StreamLostError):
                call()
        assert queue.depth == 0
        balanced(queue)


def items_do_not_get_younger_when_they_are_given_back(directory: Path) -> None:
    with opened(directory) as queue:
        clock = queue._engine._clock = ManualClock(time.monotonic())
        queue.enqueue_many(numbered(2))
        clock.advance(10)
        with pytest.raises(RuntimeError), queue.lease(2):
            raise RuntimeError
        clock.advance(1)
        assert 11 <= queue.stats().oldest_age_seconds < 11.5


def a_failed_trim_is_tried_again_later_and_not_at_each_item(directory: Path) -> None:
    tries = 0

    class Stuck(MemoryBackend):
        def trim(self, count: int) -> None:
            nonlocal tries
            tries += 1
            raise OSError(5, "on purpose")

    with opened(directory, 10, backend=Stuck, durable=True) as queue:
        clock = queue._engine._clock = ManualClock(time.monotonic())
        queue.enqueue_many(numbered(1000))
        for _ in range(900):
            queue.dequeue()
        assert tries == 1
        clock.advance(10)
        queue.dequeue()
        queue.dequeue()
        assert tries == 2


# ---- closing ---------------------------------------------------------------------------------


def closing_keeps_what_others_hold(directory: Path) -> None:
    queue = opened(directory, durable=True)
    queue.enqueue_many(numbered(6))
    done: list[Thread] = []
    waiting = ThreadWaiter()

    def hold() -> None:
        queue.dequeue_many(2)
        done.append(thread)
        waiting.wait(60)

    thread = Thread(target=hold)
    thread.start()
    while not done:
        time.sleep(0.001)
    queue.dequeue_many(2)
    queue.close()
    waiting.wake()
    thread.join()
    with opened(directory, durable=True) as queue:
        assert drain(queue) == numbered(6)


def closing_finishes_what_its_caller_holds_and_who_has_ended(directory: Path) -> None:
    queue = opened(directory, durable=True)
    queue.enqueue_many(numbered(8))
    elsewhere(lambda: queue.dequeue_many(2))
    queue.dequeue_many(2)
    queue.close()
    with opened(directory, durable=True) as queue:
        assert drain(queue) == numbered(4, start=4)


def who_has_ended_is_done_with_what_it_took(directory: Path) -> None:
    with opened(directory, durable=True) as queue:
        queue.enqueue_many(numbered(300))
        for _ in range(10):
            elsewhere(lambda: queue.dequeue_many(30))
        with pytest.raises(DequeueTimeout):
            queue.dequeue(timeout=0)
        assert queue._engine.overflow.depth <= 30


def a_block_that_failed_is_not_done_with_what_it_took(directory: Path) -> None:
    def fail(queue: HybridQueue) -> None:
        with queue:
            queue.dequeue_many(2)
            raise RuntimeError

    queue = opened(directory, durable=True)
    queue.enqueue_many(numbered(6))
    with pytest.raises(RuntimeError):
        fail(queue)
    with opened(directory, durable=True) as queue:
        assert drain(queue) == numbered(6)


def nothing_is_given_once_a_queue_is_closed(directory: Path) -> None:
    for durable in (False, True):
        queue = opened(directory, durable=durable)
        queue.enqueue_many(numbered(6))
        lease = queue.lease(2)
        queue.lease(1).nack()
        queue.close()
        for call in (queue.try_dequeue, queue.lease):
            with pytest.raises(QueueClosed):
                call()
        lease.nack()
        with pytest.raises(QueueClosed):
            queue.try_dequeue()
        balanced(queue)
        opened(directory, durable=True, leftover="discard").close()


def shutting_down_waits_for_what_is_leased(directory: Path) -> None:
    with opened(directory) as queue:
        queue.enqueue(b"1")
        lease = queue.lease()
        queue.shutdown()
        (waiter,) = parked(queue, 1)
        lease.nack()
        assert is_woken(waiter)
        assert queue.dequeue() == b"1"
        with pytest.raises(QueueClosed):
            queue.dequeue()


def a_full_queue_refuses_and_takes_again(directory: Path) -> None:
    """And who is refused is done with what it took: there would never be room."""
    with opened(directory, 1, durable=True, max_overflow_bytes=2 * STORED) as queue:
        queue.enqueue_many(numbered(2))
        with pytest.raises(QueueFull):
            queue.enqueue(numbered(1)[0])
        queue.dequeue()
        queue.enqueue(numbered(1)[0])
        assert queue.depth == 2


PROMISES: Final[dict[str, Callable[[Path], None]]] = {
    promise.__name__.replace("_", " "): promise
    for promise in (
        a_wake_up_of_a_consumer_that_gives_up_goes_to_the_next,
        a_wake_up_of_a_producer_that_gives_up_goes_to_the_next,
        a_producer_that_is_woken_in_vain_keeps_its_place,
        a_trim_wakes_the_producers_it_makes_room_for,
        what_is_given_back_wakes_consumers,
        a_consumer_that_was_overtaken_does_not_pin_the_log,
        what_comes_again_after_a_crash_is_bounded,
        a_lease_pins_what_is_behind_it_and_nothing_else_is_kept,
        dropping_frees_the_room_that_is_needed_and_no_more,
        what_has_landed_when_an_interruption_comes_is_not_read_again,
        a_store_that_is_back_is_used_again,
        a_queue_that_is_lost_gives_nothing_any_more,
        items_do_not_get_younger_when_they_are_given_back,
        a_failed_trim_is_tried_again_later_and_not_at_each_item,
        dropping_does_not_finish_what_others_hold,
        who_acknowledges_too_late_is_told_and_harms_nobody,
        a_lease_that_lapses_gives_back_once,
        who_has_ended_is_done_with_what_it_took,
        a_block_that_failed_is_not_done_with_what_it_took,
        closing_finishes_what_its_caller_holds_and_who_has_ended,
        closing_keeps_what_others_hold,
        nothing_is_given_once_a_queue_is_closed,
        shutting_down_waits_for_what_is_leased,
        a_full_queue_refuses_and_takes_again,
    )
}


@pytest.mark.parametrize("promise", PROMISES)
def test_it_is_kept(promise: str, tmp_path: Path) -> None:
    PROMISES[promise](tmp_path)
