"""Leases: items that are done when their block is left, and come back, in order, when it raises."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hq_core import (
    DequeueTimeout,
    HybridQueue,
    Lease,
    LeaseExpired,
    QueueClosed,
    QueueFull,
    Unlimited,
)
from hq_core.testing import ManualClock, ManualPump, MemoryBackend
from hq_core.testing.spool import balanced, numbered

MakeQueue = Callable[..., HybridQueue]


class Failure(Exception):
    """What a block raises."""


@pytest.fixture
def make_queue(tmp_path: Path) -> Iterator[MakeQueue]:
    opened: list[HybridQueue] = []

    def make(memory_items: int | None = 2, **options: Any) -> HybridQueue:
        options = {"limiter": Unlimited(), "pump": ManualPump(), **options}
        opened.append(HybridQueue("cam", memory_items, tmp_path, **options))
        return opened[-1]

    yield make
    for queue in opened:
        queue.close()


@pytest.fixture(params=[False, True], ids=["passing", "durable"])
def queue(make_queue: MakeQueue, request: pytest.FixtureRequest) -> HybridQueue:
    """Ten items, two of them in memory if it is not durable."""
    queue = make_queue(durable=request.param)
    queue.enqueue_many(numbered(2))
    queue.enqueue_many(numbered(8, 2))
    return queue


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    clock = ManualClock(1000.0)
    monkeypatch.setattr("hq_core.engine.opening.time.monotonic", clock)
    return clock


@pytest.fixture
def timed(clock: ManualClock, queue: HybridQueue) -> HybridQueue:
    """`queue`, on `clock`."""
    return queue


def rest(queue: HybridQueue) -> list[bytes]:
    """What is in `queue`, taken one by one."""
    return [queue.try_dequeue() for _ in range(queue.depth)]


def counts(queue: HybridQueue) -> tuple[int, int, int]:
    """Depth, leased, dequeued; the accounts balance."""
    balanced(queue)
    stats = queue.stats()
    return stats.depth, stats.leased, stats.dequeued


# ---- blocks ----------------------------------------------------------------------------------


def test_leased_items_are_neither_in_the_queue_nor_delivered(queue: HybridQueue) -> None:
    with queue.lease(3) as items:
        assert items == numbered(3)
        assert counts(queue) == (7, 3, 0)
    assert counts(queue) == (7, 0, 3)


def test_a_block_that_raises_gives_them_back_to_the_front_in_order(queue: HybridQueue) -> None:
    def work() -> None:
        with queue.lease(5):
            assert queue.dequeue() == numbered(1, 5)[0]
            raise Failure

    with pytest.raises(Failure):
        work()
    assert counts(queue) == (9, 0, 1)
    assert rest(queue) == numbered(5) + numbered(4, 6)


def test_leases_that_overlap_come_back_in_order_whichever_ends_first(queue: HybridQueue) -> None:
    first, second, third = queue.lease(2), queue.lease(3), queue.lease(1)
    third.nack()
    first.nack()
    second.nack()
    assert rest(queue) == numbered(10)


def test_what_came_back_can_be_leased_again(queue: HybridQueue) -> None:
    def work() -> None:
        with queue.lease(4) as items:
            assert items == numbered(4)
            raise Failure

    for _ in range(3):
        with pytest.raises(Failure):
            work()
    with queue.lease(2) as items:
        assert items == numbered(2)
    with queue.lease(9) as items:
        assert items == numbered(8, 2)
    assert counts(queue) == (0, 0, 10)


def test_what_came_back_is_taken_before_what_is_in_memory(queue: HybridQueue) -> None:
    queue.lease(1).nack()
    assert queue.dequeue_many(3) == numbered(3)


def test_one_item_is_leased_unless_told_otherwise(queue: HybridQueue) -> None:
    with queue.lease() as items:
        assert items == numbered(1)


def test_new_items_stay_behind_what_came_back(make_queue: MakeQueue) -> None:
    queue = make_queue(1)
    queue.enqueue(b"1")
    lease = queue.lease()
    queue.enqueue(b"2")
    queue.enqueue(b"3")
    lease.nack()
    queue.enqueue(b"4")
    assert rest(queue) == [b"1", b"2", b"3", b"4"]


# ---- without a block -------------------------------------------------------------------------


def test_ack_is_once_enough(queue: HybridQueue) -> None:
    lease = queue.lease(2)
    assert isinstance(lease, Lease)
    assert lease.items == numbered(2)
    lease.ack()
    lease.ack()
    lease.nack()
    assert counts(queue) == (8, 0, 2)
    assert lease.items == numbered(2)


def test_nack_is_once_enough(queue: HybridQueue) -> None:
    lease = queue.lease(2)
    lease.nack()
    lease.nack()
    lease.ack()
    assert counts(queue) == (10, 0, 0)


def test_another_thread_may_end_a_lease(queue: HybridQueue) -> None:
    lease = queue.lease(2)
    thread = threading.Thread(target=lease.ack)
    thread.start()
    thread.join()
    assert counts(queue) == (8, 0, 2)


# ---- waiting ---------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True])
def test_it_waits_for_the_first_item_only(make_queue: MakeQueue, durable: bool) -> None:
    queue = make_queue(durable=durable)
    with pytest.raises(DequeueTimeout, match="the queue is empty"):
        queue.lease(3, 0)
    got: list[list[bytes]] = []
    thread = threading.Thread(target=lambda: got.append(queue.lease(3, 60).items))
    thread.start()
    queue.enqueue(b"1")
    thread.join()
    assert got == [[b"1"]]


def test_who_waits_wakes_when_items_are_given_back(queue: HybridQueue) -> None:
    lease = queue.lease(10)
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.extend(queue.dequeue_many(10, 60)))
    thread.start()
    lease.nack()
    thread.join()
    assert got == numbered(10)


def test_a_drained_queue_waits_for_what_is_leased(queue: HybridQueue) -> None:
    """After `shutdown`: it may come back."""
    lease = queue.lease(10)
    queue.shutdown()
    with pytest.raises(DequeueTimeout):
        queue.dequeue(0)
    lease.nack()
    lease = queue.lease(10)
    ended = []

    def consume() -> None:
        with pytest.raises(QueueClosed):
            queue.dequeue(60)
        ended.append(True)

    thread = threading.Thread(target=consume)
    thread.start()
    lease.ack()
    thread.join()
    assert ended == [True]


def test_at_most_1024_are_out_under_leases(make_queue: MakeQueue) -> None:
    queue = make_queue(2)
    queue.enqueue_many(numbered(2_000))
    first = queue.lease(1_000)
    second = queue.lease(1_000)
    assert (len(first.items), len(second.items)) == (1_000, 24)
    with pytest.raises(DequeueTimeout):
        queue.lease(1, 0)
    assert queue.dequeue(0) == numbered(1, 1_024)[0]
    second.ack()
    assert len(queue.lease(100, 0).items) == 24


def test_as_many_as_memory_holds_may_be_out(make_queue: MakeQueue) -> None:
    queue = make_queue(1_500)
    queue.enqueue_many(numbered(1_500))
    assert len(queue.lease(9_999).items) == 1_500


def test_at_most_64_mebibytes_are_out_under_leases(make_queue: MakeQueue) -> None:
    queue = make_queue(1, backend=MemoryBackend)
    long = bytes(8 << 20)
    queue.enqueue_many([long] * 9)
    leases = [queue.lease(1, 0) for _ in range(8)]
    with pytest.raises(DequeueTimeout):
        queue.lease(1, 0)
    leases[3].ack()
    assert queue.lease(1, 0).items == [long]


def test_who_waits_for_a_lease_to_end_wakes_when_one_does(make_queue: MakeQueue) -> None:
    queue = make_queue(2)
    queue.enqueue_many(numbered(1_030))
    first = queue.lease(1_024)
    got: list[list[bytes]] = []
    thread = threading.Thread(target=lambda: got.append(queue.lease(9, 60).items))
    thread.start()
    first.ack()
    thread.join()
    assert got == [numbered(6, 1_024)]


# ---- deadlines -------------------------------------------------------------------------------


def test_at_its_deadline_a_lease_is_given_back(timed: HybridQueue, clock: ManualClock) -> None:
    timed.lease(3, deadline=10.0)
    clock.advance(9.9)
    assert timed.dequeue() == numbered(1, 3)[0]
    clock.advance(0.1)
    assert timed.dequeue_many(4) == numbered(3) + numbered(1, 4)


def test_it_is_five_minutes_unless_told_otherwise(timed: HybridQueue, clock: ManualClock) -> None:
    timed.lease(3)
    clock.advance(299.9)
    assert timed.dequeue() == numbered(1, 3)[0]
    clock.advance(0.1)
    assert timed.dequeue() == numbered(1)[0]


def test_a_late_ack_counts_if_nobody_has_them(timed: HybridQueue, clock: ManualClock) -> None:
    lease = timed.lease(3, deadline=10.0)
    clock.advance(11.0)
    lease.ack()
    assert counts(timed) == (7, 0, 3)
    assert timed.dequeue() == numbered(1, 3)[0]


def test_an_ack_that_comes_too_late_says_so_and_they_come_twice(
    timed: HybridQueue, clock: ManualClock
) -> None:
    lease = timed.lease(3, deadline=10.0)
    clock.advance(11.0)
    assert timed.dequeue_many(2) == numbered(2)
    with pytest.raises(LeaseExpired, match="3 items") as refusal:
        lease.ack()
    assert "longer" in str(refusal.value)
    assert counts(timed) == (8, 0, 2)
    assert rest(timed) == numbered(8, 2)


def test_a_block_that_ends_too_late_says_so(timed: HybridQueue, clock: ManualClock) -> None:
    def work() -> None:
        with timed.lease(1, deadline=1.0):
            clock.advance(2.0)
            timed.dequeue()

    with pytest.raises(LeaseExpired):
        work()


def test_a_nack_that_comes_late_does_nothing(timed: HybridQueue, clock: ManualClock) -> None:
    lease = timed.lease(3, deadline=10.0)
    clock.advance(11.0)
    got = timed.dequeue_many(3)
    lease.nack()
    assert got + rest(timed) == numbered(10)


@pytest.mark.parametrize(
    ("deadline", "error"), [(0, ValueError), (-1, ValueError), ("1", TypeError)]
)
def test_a_deadline_is_a_number_of_seconds(
    queue: HybridQueue, deadline: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match="deadline must be"):
        queue.lease(1, deadline=deadline)
    with pytest.raises(error, match="deadline must be"):
        queue.aio.lease(1, deadline=deadline)
    assert counts(queue) == (10, 0, 0)


def test_a_consumer_that_waits_wakes_when_a_lease_ends_by_itself(queue: HybridQueue) -> None:
    queue.lease(10, deadline=0.001)
    assert queue.dequeue_many(10, 60) == numbered(10)


# ---- what a durable queue keeps --------------------------------------------------------------


def reopened(make_queue: MakeQueue) -> list[bytes]:
    """What the next opening of the durable queue finds."""
    queue = make_queue(durable=True)
    items = rest(queue)
    queue.close()
    return items


def test_a_lease_pins_the_log_until_it_ends(make_queue: MakeQueue) -> None:
    queue = make_queue(durable=True, backend=MemoryBackend)
    queue.enqueue_many(numbered(2_000, size=10))
    lease = queue.lease(1)
    for _ in range(1_999):
        queue.dequeue(0)
    with pytest.raises(DequeueTimeout):
        queue.dequeue(0)
    assert queue.stats().disk_bytes > 20_000
    lease.ack()
    with pytest.raises(DequeueTimeout):
        queue.dequeue(0)
    assert queue.stats().disk_bytes == 0


def test_what_is_leased_at_close_comes_again(make_queue: MakeQueue) -> None:
    queue = make_queue(durable=True)
    queue.enqueue_many(numbered(6))
    lease = queue.lease(2)
    queue.lease(2).ack()
    queue.close()
    with pytest.raises(QueueClosed):
        lease.ack()
    # What was acknowledged lies behind what was not, and the log is trimmed by prefix.
    assert reopened(make_queue) == numbered(6)


def test_what_was_acknowledged_before_close_does_not_come_again(make_queue: MakeQueue) -> None:
    queue = make_queue(durable=True)
    queue.enqueue_many(numbered(6))
    queue.lease(2).ack()
    queue.lease(1).nack()
    queue.close()
    assert reopened(make_queue) == numbered(4, 2)


def test_the_block_that_closes_with_an_error_keeps_what_its_caller_holds(
    make_queue: MakeQueue,
) -> None:
    def work() -> None:
        with make_queue(durable=True) as queue:
            queue.enqueue_many(numbered(4))
            queue.dequeue_many(3)
            raise Failure

    with pytest.raises(Failure):
        work()
    assert reopened(make_queue) == numbered(4)


def test_the_block_that_ends_well_finishes_what_its_caller_holds(make_queue: MakeQueue) -> None:
    with make_queue(durable=True) as queue:
        queue.enqueue_many(numbered(4))
        queue.dequeue_many(3)
    assert reopened(make_queue) == numbered(1, 3)


def test_at_close_what_another_thread_holds_is_kept(make_queue: MakeQueue) -> None:
    queue = make_queue(durable=True)
    queue.enqueue_many(numbered(4))
    has_taken, may_end = threading.Event(), threading.Event()

    def consume() -> None:
        queue.dequeue_many(2)
        has_taken.set()
        assert may_end.wait(60)

    thread = threading.Thread(target=consume)
    thread.start()
    assert has_taken.wait(60)
    queue.dequeue()
    queue.close()
    may_end.set()
    thread.join()
    assert reopened(make_queue) == numbered(4)


def test_a_queue_that_is_not_durable_discards_what_is_given_back_after_close(
    make_queue: MakeQueue,
) -> None:
    queue = make_queue()
    queue.enqueue_many(numbered(4))
    first, second = queue.lease(1), queue.lease(2)
    queue.close()
    first.ack()
    second.nack()
    balanced(queue)
    stats = queue.stats()
    assert (stats.dequeued, stats.discarded, stats.leased, stats.depth) == (1, 3, 0, 0)


# ---- drop policies ---------------------------------------------------------------------------


def test_no_policy_drops_what_is_leased(make_queue: MakeQueue) -> None:
    queue = make_queue(1, max_overflow_bytes=30, when_full="drop_oldest")
    for item in numbered(3, size=10):
        queue.enqueue(item)
    lease = queue.lease(2)
    for item in numbered(20, 3, size=10):
        queue.enqueue(item)
    assert lease.items == numbered(2, size=10)
    lease.nack()
    assert queue.dequeue_many(2) == numbered(2, size=10)
    balanced(queue)


def test_a_durable_queue_whose_room_is_all_leased_drops_nothing_in_vain(
    make_queue: MakeQueue,
) -> None:
    queue = make_queue(1, durable=True, max_overflow_bytes=40, when_full="drop_oldest")
    queue.enqueue_many(numbered(2, size=16))
    lease = queue.lease(2)
    with pytest.raises(QueueFull):
        queue.enqueue(numbered(1, 2, size=16)[0])
    assert counts(queue) == (0, 2, 0)
    lease.ack()
    queue.enqueue(numbered(1, 2, size=16)[0])
    assert queue.dequeue() == numbered(1, 2, size=16)[0]
