"""Memory is refilled while a consumer takes, and not only when it has run dry."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest

from hq_core import BytesTier, HybridQueue, HybridQueueError, InlinePump, QueueFull
from tests.hq_core.promises.staging import PATIENCE, balanced, items, opened, started, until

BATCH: Final = 1024
"""Records in one read, or so many KiB."""
LIMITS = pytest.mark.parametrize("limit", ["count", "bytes"])
POLICIES = pytest.mark.parametrize("when_full", ["raise", "block", "drop_newest"])


def limited(
    directory: Path, memory_items: int, limit: str, size: int = 20, **options: Any
) -> HybridQueue:
    """A queue with room for so many items of `size` in memory, and for more on the disk. If bytes
    are the limit, full memory has some left in which no other item fits."""
    if limit == "bytes":
        options["memory"] = BytesTier(memory_items * size + size // 2, 2 * memory_items)
    return opened(
        directory,
        None if "memory" in options else memory_items,
        max_overflow_bytes=max(memory_items, 1000) * 2 * (size + 4),
        pump=InlinePump(),
        **options,
    )


def fill(queue: HybridQueue, when_full: str, size: int = 20) -> int:
    """Fill memory and disk until there is no room; how many items that takes."""
    count = 0
    while True:
        try:
            queue.enqueue(items(1, start=count, size=size)[0], 0)
        except QueueFull:
            return count
        if queue.stats().dropped:
            return count
        count += 1


@POLICIES
@LIMITS
@pytest.mark.parametrize("memory_items", [64, 1000])
@pytest.mark.parametrize("durable", [False, True])
def test_the_pump_is_woken_again_at_the_low_water_mark_after_both_were_full(
    tmp_path: Path, when_full: str, memory_items: int, limit: str, durable: bool
) -> None:
    """Whoever was refused meanwhile: memory never runs dry while a batch is stored."""
    queue = limited(tmp_path, memory_items, limit, when_full=when_full, durable=durable)
    count = fill(queue, when_full)
    lowest = memory_items
    for number in range(count):
        assert queue.dequeue() == items(1, start=number, size=20)[0]
        stats = queue.stats()
        if stats.depth > memory_items + BATCH:
            lowest = min(lowest, stats.memory_items)
    # What is at hand but not in memory counts too; so it is the share that is asked.
    assert lowest >= memory_items // 8, "memory was let run dry"
    balanced(queue)
    queue.close()


@pytest.mark.slow
@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize(("limit", "size"), [("count", 20), ("bytes", 20), ("bytes", 1000)])
def test_a_blocked_producer_stands_still_for_a_batch_at_most(
    tmp_path: Path, limit: str, size: int, durable: bool
) -> None:
    """A thread that waits for room, and a consumer that takes one after the other: memory has room
    for several batches, and is refilled as soon as there is room for one."""
    queue = limited(tmp_path, 4000, limit, size, when_full="block", durable=durable)
    count = fill(queue, "block", size)
    entered = 0

    def produce() -> None:
        nonlocal entered
        with suppress(HybridQueueError):
            while True:
                queue.enqueue(b"new".ljust(size), PATIENCE)
                entered += 1

    producer = started(produce)
    until(lambda: bool(queue._engine._producers.waiting))
    longest = still = seen = 0
    for number in range(count):
        assert queue.dequeue(PATIENCE) == items(1, start=number, size=size)[0]
        if queue._engine._producers.waiting and entered == seen:
            still += 1
        else:
            still, seen = 0, entered
        longest = max(longest, still)
        if number % 64 == 0:
            time.sleep(0.001)  # it takes so many in a millisecond, and not all it can
    queue.shutdown()
    producer.join(PATIENCE)
    assert longest <= min(BATCH * (size + 4), 1024 * 1024) // size + 32  # with its framing
    balanced(queue)
    queue.close()
