"""Results handed to callers: frozen, one consistent moment each."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["QueueStats", "RecoveryReport"]


@dataclass(frozen=True, slots=True)
class QueueStats:
    """One consistent snapshot of a queue.

    The accounts always balance: ``enqueued == dequeued + discarded + depth``. The first five
    fields are the specification's, in its order.
    """

    stream_id: str
    """The id the queue was opened with, as given."""
    depth: int
    """Items in the queue now, in memory and stored."""
    memory_items: int
    """Items in the memory tier now, never more than its limit."""
    disk_bytes: int
    """Live bytes in the overflow backend: records not yet trimmed, with their framing."""
    pressure: float
    """0.0 to 1.0: share of the memory limit in use. Above 1.0: overflow is active, and the part
    above 1.0 is `disk_bytes` over `max_overflow_bytes` (over 100 MiB when there is no limit)."""
    memory_bytes: int
    """Payload bytes in the memory tier now."""
    enqueued: int
    """Items accepted since opening, those recovered at opening included."""
    dequeued: int
    """Items handed to consumers."""
    discarded: int
    """Items accepted but never delivered: undelivered at `close`, dropped, or lost to damage."""
    dropped: int
    """The part of `discarded` that a ``when_full="drop_…"`` policy dropped."""
    spilled: int
    """Items that went to the overflow backend rather than straight to memory."""
    rate_limited: int
    """Items refused with `RateLimited`; they are not in any other counter."""
    recovered: int
    """Items found in the backend at opening."""


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What a backend found when it was opened, and what it did about it."""

    records: int = 0
    """Whole records taken over from the earlier owner; they are delivered first."""
    size_bytes: int = 0
    """Live bytes of those records."""
    torn_bytes: int = 0
    """Bytes of an unfinished last record, cut off: its enqueue never returned."""
    quarantined_bytes: int = 0
    """Bytes moved aside because they cannot be read as records."""
    quarantine: Path | None = None
    """The file holding what was moved aside."""
    reason: str = ""
    """Why something was moved aside, in words; empty when nothing was."""
