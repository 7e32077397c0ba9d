"""Results handed to callers: frozen, one consistent moment each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Damage", "Inspection", "QueueStats", "RecoveryReport"]


@dataclass(frozen=True, slots=True)
class QueueStats:
    """One consistent snapshot of a queue.

    The accounts always balance: ``enqueued == dequeued + discarded + leased + depth``. The first
    five fields are the specification's, in its order. Snapshots are equal if nothing has happened
    between them: the two times, which go on by themselves, do not matter.
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
    """Items handed to consumers; leased ones once they are acknowledged."""
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
    backend: str
    """The name of the overflow backend."""
    directory: Path
    """Where the overflow is, absolute."""
    memory_limit_bytes: int | None
    """Most payload bytes in the memory tier; None when only their number is limited."""
    disk_limit_bytes: int | None
    """Most `disk_bytes`, that is `max_overflow_bytes`; None when only the disk limits them."""
    dropped_newest: int
    """The part of `dropped` that was new and never got in; the rest were the oldest."""
    leased: int
    """Items out under a lease: neither acknowledged nor given back."""
    damaged: int
    """The part of `discarded` that was stored and could not be read. What is neither `dropped` nor
    `damaged` was undelivered at `close`."""
    spilled_bytes: int
    """Payload bytes of the `spilled` items."""
    refilled_bytes: int
    """Payload bytes read back from the backend, those of `recovered` items included."""
    blocked_seconds: float = field(compare=False)
    """Seconds that producers have waited for room, all together, waits under way included."""
    oldest_age_seconds: float = field(compare=False)
    """Seconds since the oldest item, leased ones included, was enqueued, or recovered; 0.0 when
    there is none. Never too
    low; too high by less than 0.1 s, or than 2 % of the greatest age since that item came."""


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
    quarantine: Path | str | None = None
    """Where what was moved aside is: a file or a directory; text if it is neither."""
    reason: str = ""
    """Why something was moved aside, in words; empty when nothing was."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a stream's files say of themselves, before every record has been looked at."""

    format: str
    """What the records lie in, in a word or two: ``"plain"``, ``"checksummed"``."""
    records: int
    """Records that are not done."""
    size_bytes: int
    """Live bytes of those records, framing included."""
    head: int = 0
    """Where the oldest of them begins, in bytes from the start of the log."""
    tail: int = 0
    """Where the newest of them ends."""
    position: str = "good"
    """Whether what says where the head is can be relied on: ``"good"``, or what is wrong."""
    torn_bytes: int = 0
    """Bytes behind the tail that belong to no record, as an append leaves that was cut short. The
    next opening cuts them, having moved them aside if they are more than a record's length."""
    damage: str = ""
    """Why no record can be made of something; empty if nothing else is wrong."""
    damage_offset: int = 0
    """Where the first of that begins, in bytes from the start of the log."""
    options: Mapping[str, object] = field(default_factory=dict)
    """Options of the backend that write a store of this format."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A place where no record can be made of what is stored."""

    offset: int
    """Where it begins, in bytes from the start of the data file."""
    size_bytes: int
    """How many bytes it takes; 0 if that cannot be said."""
    reason: str
    """What is wrong there."""
