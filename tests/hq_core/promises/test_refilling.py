"""Memory is refilled while a consumer takes, and not only when it has run dry."""

import threading
import time
from pathlib import Path
from typing import Any, Final

import pytest

from hq_core import InlinePump, QueueFull, ThreadPump
from tests.hq_core.promises.staging import PATIENCE, balanced, items, opened, started, until

BATCH: Final = 1024
"""Records in one read."""
MEMORY = pytest.mark.parametrize("memory_items", [64, 1000, 4000])
POLICIES = pytest.mark.parametrize("when_full", ["raise", "block", "drop_newest"])


def fill(queue: Any, when_full: str) -> int:
    """Fill memory and disk until there is no room; how many items that takes."""
    count = 0
    while True:
        try:
            queue.enqueue(items(1, start=count, size=20)[0], 0)
        except QueueFull:
            return count
        if queue.stats().dropped:
            return count
        count += 1


@POLICIES
@MEMORY
@pytest.mark.parametrize("durable", [False, True])
def test_the_pump_is_woken_again_at_the_low_water_mark_after_both_were_full(
    tmp_path: Path, when_full: str, memory_items: int, durable: bool
) -> None:
    """Whoever was refused meanwhile: memory never runs dry while a batch is stored."""
    pump = InlinePump()
    queue = opened(
        tmp_path,
        memory_items,
        when_full=when_full,
        max_overflow_bytes=max(memory_items, 2000) * 3 * 24,
        pump=pump,
        durable=durable,
    )
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


@POLICIES
@MEMORY
def test_a_producer_that_was_refused_gets_in_after_a_batch_at_most(
    tmp_path: Path, when_full: str, memory_items: int
) -> None:
    """Counted in items that a steady consumer takes between two that get in."""
    queue = opened(
        tmp_path,
        memory_items,
        when_full=when_full,
        max_overflow_bytes=max(memory_items, 2000) * 3 * 24,
        pump=InlinePump(),
    )
    count = fill(queue, when_full)
    refused = longest = 0
    dropped = queue.stats().dropped
    for number in range(count):
        assert queue.dequeue() == items(1, start=number, size=20)[0]
        try:
            queue.enqueue(b"new".ljust(20), 0)
        except QueueFull:
            refused += 1
        else:
            now = queue.stats().dropped
            refused = refused + 1 if now > dropped else 0
            dropped = now
        longest = max(longest, refused)
    assert longest <= min(BATCH, max(32, memory_items // 2)) + 1
    balanced(queue)
    queue.close()


@pytest.mark.slow
@pytest.mark.parametrize("pump", [ThreadPump, InlinePump])
@pytest.mark.parametrize("durable", [False, True])
@MEMORY
def test_a_blocked_producer_stands_still_for_a_batch_at_most(
    tmp_path: Path, memory_items: int, durable: bool, pump: Any
) -> None:
    """A thread that waits for room, and a consumer that takes one after the other."""
    queue = opened(
        tmp_path,
        memory_items,
        when_full="block",
        max_overflow_bytes=max(memory_items, 2000) * 3 * 24,
        pump=pump(),
        durable=durable,
    )
    count = fill(queue, "block")
    stop = threading.Event()
    entered = 0

    def produce() -> None:
        nonlocal entered
        while not stop.is_set():
            try:
                queue.enqueue(b"new".ljust(20), 0.2)
            except QueueFull:
                continue
            entered += 1

    producer = started(produce)
    until(lambda: bool(queue._engine._producers.waiting))
    longest = still = seen = 0
    for number in range(count):
        assert queue.dequeue(PATIENCE) == items(1, start=number, size=20)[0]
        if queue._engine._producers.waiting and entered == seen:
            still += 1
        else:
            still, seen = 0, entered
        longest = max(longest, still)
        if number % 64 == 0:
            time.sleep(0.001)  # it takes so many in a millisecond, and not all it can
    stop.set()
    producer.join(PATIENCE)
    assert longest <= BATCH + max(64, memory_items // 2)
    balanced(queue)
    queue.close()
