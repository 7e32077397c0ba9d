"""The figures of `QueueStats` that are not accounts of items: limits, bytes, reasons, times."""

import threading
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hq_core import (
    BytesTier,
    CorruptedData,
    HybridQueue,
    QueueFull,
    QueueStats,
    Unlimited,
)
from hq_core.engine.stopwatch import Stopwatch
from hq_core.engine.waiters import ThreadWaiter
from hq_core.testing import ManualPump, MemoryBackend
from hq_core.testing.fakes import ManualClock
from hq_core.testing.spool import numbered
from tests.faults.spoilable import Spoilable

MakeQueue = Callable[..., HybridQueue]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1000.0)


@pytest.fixture
def make_queue(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MakeQueue]:
    """Queues on `clock`, which fill memory from the backend only when a consumer has to."""
    monkeypatch.setattr("hq_core.engine.opening.time.monotonic", clock)
    opened: list[HybridQueue] = []

    def make(memory_items: int | None = 2, **options: Any) -> HybridQueue:
        options = {"limiter": Unlimited(), "pump": ManualPump(), **options}
        opened.append(HybridQueue("cam", memory_items, tmp_path, **options))
        return opened[-1]

    yield make
    for queue in opened:
        queue.close()


def discards(stats: QueueStats) -> tuple[int, int, int, int]:
    """Dropped as the oldest, dropped as the newest, damaged, left at close."""
    assert stats.enqueued == stats.dequeued + stats.discarded + stats.leased + stats.depth
    return (
        stats.dropped - stats.dropped_newest,
        stats.dropped_newest,
        stats.damaged,
        stats.discarded - stats.dropped - stats.damaged,
    )


def ages(queue: HybridQueue) -> list[float]:
    """The age of every item, as the oldest one, while the queue is drained."""
    found = []
    while queue.depth:
        found.append(queue.stats().oldest_age_seconds)
        queue.try_dequeue()
    return found


def test_they_say_which_queue_it_is_and_what_limits_it(
    make_queue: MakeQueue, tmp_path: Path
) -> None:
    stats = make_queue(None, memory=BytesTier(500), max_overflow_bytes=9).stats()
    assert (stats.stream_id, stats.backend, stats.directory) == ("cam", "file", tmp_path)
    assert (stats.memory_limit_bytes, stats.disk_limit_bytes) == (500, 9)


def test_a_limit_there_is_not_is_none(make_queue: MakeQueue) -> None:
    stats = make_queue(10).stats()
    assert (stats.memory_limit_bytes, stats.disk_limit_bytes) == (None, None)


def test_snapshots_are_equal_though_time_goes_on(make_queue: MakeQueue, clock: ManualClock) -> None:
    queue = make_queue()
    queue.enqueue(b"1")
    before = queue.stats()
    clock.advance(5.0)
    assert queue.stats() == before
    queue.enqueue(b"2")
    assert queue.stats() != before


# ---- bytes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize(
    ("backend", "options"), [("file", {}), ("file", {"checksum": True}), ("lmdb", {})]
)
def test_bytes_written_and_read_back_are_payload(
    make_queue: MakeQueue, backend: str, options: dict[str, object], durable: bool
) -> None:
    queue = make_queue(1, backend=backend, backend_options=options, durable=durable)
    queue.enqueue(b"" if durable else b"in memory")
    for round_ in range(1, 3):
        queue.enqueue_many([b"four", b"", b"seventy"])
        queue.enqueue(b"ten more..")
        while queue.depth:
            queue.try_dequeue()
        stats = queue.stats()
        assert stats.refilled_bytes == stats.spilled_bytes == 21 * round_
        queue.enqueue(b"")


def test_recovered_bytes_are_read_and_not_written(make_queue: MakeQueue) -> None:
    with make_queue(1, durable=True) as queue:
        queue.enqueue_many([b"four", b"seventy"])
    queue = make_queue(1, durable=True)
    assert queue.dequeue_many(9) == [b"four", b"seventy"]
    assert (queue.stats().spilled_bytes, queue.stats().refilled_bytes) == (0, 11)


# ---- reasons ---------------------------------------------------------------------------------


def test_drops_of_the_oldest(make_queue: MakeQueue) -> None:
    queue = make_queue(1, max_overflow_bytes=5, when_full="drop_oldest")
    for item in b"abcd":
        queue.enqueue(bytes([item]))
    assert discards(queue.stats()) == (2, 0, 0, 0)


def test_drops_of_the_newest_and_what_is_left_at_close(make_queue: MakeQueue) -> None:
    queue = make_queue(1, max_overflow_bytes=5, when_full="drop_newest")
    for item in b"abcd":
        queue.enqueue(bytes([item]))
    assert discards(queue.stats()) == (0, 2, 0, 0)
    queue.close()
    assert discards(queue.stats()) == (0, 2, 0, 2)


def test_damage(make_queue: MakeQueue) -> None:
    class Spoiled(Spoilable):
        spoiled = True

    queue = make_queue(1, backend=Spoiled)
    queue.enqueue_many([b"1"])
    queue.enqueue_many([b"2"])
    queue.enqueue_many([b"3"])
    assert queue.dequeue() == b"1"
    with pytest.raises(CorruptedData):
        queue.dequeue()
    oldest, newest, damaged, closed = discards(queue.stats())
    assert (oldest, newest, closed) == (0, 0, 0)
    assert damaged == 3 - 1 - queue.depth > 0


def test_records_a_backend_gives_beyond_what_was_asked_are_delivered_once_and_in_order(
    make_queue: MakeQueue,
) -> None:
    class Generous(MemoryBackend):
        def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
            assert max_records <= 1024
            return super().read(skip, max_records + 500, max_bytes)

    queue = make_queue(1, backend=Generous)
    items = numbered(2_500)
    queue.enqueue_many(items)
    queue.enqueue_many(items)
    assert [queue.dequeue(0) for _ in range(5_000)] == items + items
    assert discards(queue.stats()) == (0, 0, 0, 0)
    assert queue.stats().dequeued == 5_000


# ---- times -----------------------------------------------------------------------------------


def test_producers_that_wait_for_room_are_counted_while_they_do(
    make_queue: MakeQueue, clock: ManualClock
) -> None:
    queue = make_queue(1, max_overflow_bytes=5, when_full="block")
    queue.enqueue_many([b"1"])
    queue.enqueue(b"2")
    assert queue.stats().blocked_seconds == 0.0
    begun = threading.Semaphore(0)

    class Announcing(Stopwatch):
        def start(self, waiter: Hashable, now: float) -> None:
            super().start(waiter, now)
            begun.release()

    queue._engine._producers._waited = Announcing()
    threads = [threading.Thread(target=queue.enqueue, args=(b"3",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert begun.acquire(timeout=60)
    assert begun.acquire(timeout=60)
    clock.advance(3.0)
    assert queue.stats().blocked_seconds == 6.0
    for _ in range(4):
        queue.dequeue()
    for thread in threads:
        thread.join()
    clock.advance(5.0)
    assert queue.stats().blocked_seconds == 6.0


def test_a_wait_that_ends_in_an_exception_is_over(
    make_queue: MakeQueue, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = make_queue(1, max_overflow_bytes=5, when_full="block")
    queue.enqueue_many([b"1"])
    queue.enqueue(b"2")

    def interrupted(waiter: ThreadWaiter, timeout: float | None = None) -> bool:
        clock.advance(2.0)
        raise KeyboardInterrupt

    monkeypatch.setattr(ThreadWaiter, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        queue.enqueue(b"3")
    clock.advance(9.0)
    assert queue.stats().blocked_seconds == 2.0


def test_without_a_wait_no_time_is_counted(make_queue: MakeQueue) -> None:
    queue = make_queue(1, max_overflow_bytes=5, when_full="block")
    queue.enqueue_many([b"1"])
    queue.enqueue(b"2")
    with pytest.raises(QueueFull):
        queue.enqueue(b"3", 0)
    assert queue.stats().blocked_seconds == 0.0


def test_an_age_is_that_of_the_oldest_item_wherever_it_is(
    make_queue: MakeQueue, clock: ManualClock
) -> None:
    queue = make_queue(2)
    assert queue.stats().oldest_age_seconds == 0.0
    for _ in range(3):
        queue.enqueue(b"one")
        clock.advance(1.0)
    queue.enqueue_many([b"two", b"of them"])
    clock.advance(1.0)
    assert ages(queue) == [4.0, 3.0, 2.0, 1.0, 1.0]
    assert queue.stats().oldest_age_seconds == 0.0


def test_batches_that_stay_in_memory_have_an_age_too(
    make_queue: MakeQueue, clock: ManualClock
) -> None:
    queue = make_queue(9)
    queue.enqueue_many([b"1", b"2"])
    clock.advance(1.0)
    queue.enqueue_many([b"3", b"4"])
    clock.advance(1.0)
    assert ages(queue) == [2.0, 2.0, 1.0, 1.0]


def test_recovered_items_count_from_the_opening(make_queue: MakeQueue, clock: ManualClock) -> None:
    with make_queue(1, durable=True) as queue:
        queue.enqueue_many([b"1", b"2"])
    clock.advance(100.0)
    queue = make_queue(1, durable=True)
    clock.advance(1.0)
    queue.enqueue(b"3")
    clock.advance(1.0)
    assert ages(queue) == [2.0, 2.0, 1.0]


def test_drops_leave_the_other_items_as_old_as_they_are(
    make_queue: MakeQueue, clock: ManualClock
) -> None:
    for policy, expected in (("drop_oldest", [3.0, 2.0, 1.0]), ("drop_newest", [6.0, 5.0, 4.0])):
        with make_queue(2, max_overflow_bytes=5, when_full=policy) as queue:
            for _ in range(6):
                queue.enqueue(b"x")
                clock.advance(1.0)
            assert ages(queue) == expected


def test_damage_leaves_the_other_items_as_old_as_they_are(
    make_queue: MakeQueue, clock: ManualClock, tmp_path: Path
) -> None:
    queue = make_queue(2)
    for _ in range(4):
        queue.enqueue(b"aaaa")
        clock.advance(1.0)
    with (tmp_path / "cam.overflow").open("r+b") as file:
        file.write(b"\xff\xff\xff\xff")
    queue.dequeue_many(1)
    assert queue._engine.pumping.step() is False
    assert queue.stats().damaged == 2
    queue.enqueue(b"later")
    clock.advance(1.0)
    assert ages(queue) == [4.0, 1.0]


def test_an_item_that_is_refused_leaves_no_mark(make_queue: MakeQueue, clock: ManualClock) -> None:
    queue = make_queue(1, max_overflow_bytes=5)
    queue.enqueue(b"1")
    clock.advance(7.0)
    with pytest.raises(QueueFull):
        queue.enqueue(b"too long")
    clock.advance(2.0)
    queue.enqueue(b"2")
    clock.advance(1.0)
    assert ages(queue) == [10.0, 1.0]
