"""A queue with something to tell, and what there is to tell, by Prometheus name and own label."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from hq_core import BytesTier, HybridQueue, QueueStats, Unlimited
from hq_core.testing import ManualPump

Told = dict[tuple[str, str], float]


@contextlib.contextmanager
def busy_queue(directory: Path, stream_id: str = "cam") -> Iterator[HybridQueue]:
    """Items in memory and on disk, taken, read back and dropped; nobody touches it any more."""
    pump = ManualPump()
    with HybridQueue(
        stream_id,
        None,
        directory,
        memory=BytesTier(100),
        limiter=Unlimited(),
        pump=pump,
        max_overflow_bytes=300,
        when_full="drop_newest",
    ) as queue:
        for _ in range(9):
            queue.enqueue(bytes(50))
        queue.dequeue_many(1)
        queue.dequeue_many(2)
        pump.step()
        queue.lease()
        yield queue


def told_by(stats: QueueStats) -> Told:
    """What metrics have to say about `stats`, the age left out: it goes on."""
    return {
        ("hq_queue_size", ""): stats.depth,
        ("hq_queue_leased", ""): stats.leased,
        ("hq_queue_usage_bytes", "memory"): stats.memory_bytes,
        ("hq_queue_usage_bytes", "disk"): stats.disk_bytes,
        ("hq_queue_limit_bytes", "memory"): stats.memory_limit_bytes or 0,
        ("hq_queue_limit_bytes", "disk"): stats.disk_limit_bytes or 0,
        ("hq_queue_utilization_ratio", ""): stats.pressure,
        ("hq_queue_item_enqueued_total", ""): stats.enqueued,
        ("hq_queue_item_dequeued_total", ""): stats.dequeued,
        ("hq_queue_item_dropped_total", "drop_oldest"): stats.dropped - stats.dropped_newest,
        ("hq_queue_item_dropped_total", "drop_newest"): stats.dropped_newest,
        ("hq_queue_item_dropped_total", "damage"): stats.damaged,
        ("hq_queue_item_dropped_total", "close"): (stats.discarded - stats.dropped - stats.damaged),
        ("hq_queue_spill_io_bytes_total", "write"): stats.spilled_bytes,
        ("hq_queue_spill_io_bytes_total", "read"): stats.refilled_bytes,
        ("hq_queue_enqueue_blocked_seconds_total", ""): stats.blocked_seconds,
    }


def split_off(told: Told, directory: Path, stats: QueueStats) -> Told:
    """`told` without what moves by itself: the age, not less than in `stats` before, and space."""
    assert told.pop(("hq_queue_oldest_item_age_seconds", "")) >= stats.oldest_age_seconds
    space = told.pop(("hq_spool_available_bytes", ""))
    total = shutil.disk_usage(directory).total
    assert 0 < space <= total
    return told
