"""The seam: what a queue needs from its exchangeable parts.

Authors of plugins read this file and nothing else. The queue (`hq_core.engine`) is the only
caller. It holds one lock over every call on a backend, so a backend is never entered twice at
once and needs no locks of its own, but the calls come from many threads. The calls on memory
tiers and limiters are made under another lock that is held for microseconds: those parts never
sleep, read a clock or do I/O.

Sizes are bytes of payload unless a name says otherwise; times are seconds of a monotonic clock.
"""

import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal, Protocol, runtime_checkable

from hq_core.capabilities import Capability
from hq_core.errors import HybridQueueError
from hq_core.stats import Damage, Inspection, RecoveryReport

__all__ = [
    "API_VERSION",
    "MAX_MESSAGE_BYTES",
    "BackendFactory",
    "Leftover",
    "Limiter",
    "MemoryTier",
    "OnCorruption",
    "OverflowBackend",
    "Pump",
    "SpoolTools",
    "Stream",
    "WhenFull",
]

API_VERSION: Final = 1
"""Version of this file. A backend names the version it was written for in `api_version`."""

MAX_MESSAGE_BYTES: Final = 10 * 1024 * 1024
"""Largest message, in bytes: longer ones are refused, longer lengths on disk are corruption."""

WhenFull = Literal["raise", "block", "drop_oldest", "drop_newest"]
Leftover = Literal["resume", "discard", "refuse", "quarantine"]
OnCorruption = Literal["quarantine", "raise"]


def _ignore(*_: object) -> None:
    """What `Stream` calls where no queue listens."""


@dataclass(frozen=True, slots=True)
class Stream:
    """What a backend is opened for: the first argument of every `BackendFactory`.

    The queue holds the stream's lock, ``<file_name>.lock``, from before the opening until after
    the closing: on this machine the backend has the stream to itself.
    """

    stream_id: str
    """The id as the user gave it: any text. For messages only, never part of a path."""
    file_name: str
    """The id as a safe file name, unique to it: lower-case letters, digits and ``._-%``, at most
    200 characters, no leading dot. Name every file after it, with a suffix."""
    directory: Path
    """Where files go, absolute. It exists; files are made with mode 0600, directories with 0700."""
    dir_fd: int
    """The same directory, held open by the queue until after `close`. It stays the one that was
    opened whatever becomes of its name, so open, rename and remove files relative to it."""
    max_bytes: int | None = None
    """The queue's `max_overflow_bytes`. The queue enforces it; a backend that has to reserve
    space in advance finds here how much it may need."""
    leftover: Leftover = "resume"
    """What to do with records that an earlier owner left: take them over, delete them, raise
    `StreamBusyError` leaving them untouched, or move them aside."""
    on_corruption: OnCorruption = "quarantine"
    """What to do with data that cannot be read: move it aside, or raise `CorruptedData` and touch
    nothing."""
    durable: bool = False
    """Whether every item goes through the backend, and is trimmed only when its holder is done."""
    on_ready: Callable[[], None] = _ignore
    """Call it, from any thread, when the store can be reached again after `BackendUnavailable`, or
    has room again after a `QueueFull` that only the store can end. Returns at once."""
    on_lost: Callable[[HybridQueueError], None] = _ignore
    """Call it once, from any thread, with a `StreamLostError`, when another owner has the stream.
    Returns at once."""
    tell: Callable[[str], None] = _ignore
    """Call it once, from any thread, with what an operator should know; it is logged as a warning,
    when no lock is held. Returns at once."""

    def quarantine_path(self, suffix: str) -> Path:
        """A name that nothing has yet for what is moved aside: a file or a directory.

        `suffix`, of ``a-z``, ``0-9`` and ``-``, is the backend's: ``"overflow"`` gives
        ``<file_name>.overflow.quarantine-<number>``. What belongs to it takes the same name and one
        more suffix. The queue keeps the newest 16 of a stream, 1 GiB in all. Raises `ValueError`
        for another suffix, and `OSError`.
        """
        if not re.fullmatch("[a-z0-9-]+", suffix):
            raise ValueError(f"a suffix is made of a-z, 0-9 and -, not {suffix!r}")
        for number in itertools.count(1):
            name = f"{self.file_name}.{suffix}.quarantine-{number}"
            try:
                os.stat(name, dir_fd=self.dir_fd, follow_symlinks=False)
            except FileNotFoundError:
                break
        return self.directory / name


@runtime_checkable
class OverflowBackend(Protocol):
    """An ordered log of byte records: where items go that memory cannot hold.

        trimmed | the log: record 0, record 1, ... record depth() - 1 | <- append
                ^ trim moves this end

    It has no read position: reading changes nothing and can be repeated. Trimming renumbers: after
    ``trim(n)``, the record that was number `n` is number 0.

    Raise what your storage raises; the queue wraps it in `BackendError` once. Raise `QueueFull`
    (from the original error) when the store is out of space, `CorruptedData` when records turn out
    to be damaged, `BackendUnavailable` (at once, without waiting long) while the store cannot be
    reached, `StreamLostError` when another owner has it. `KeyboardInterrupt` may come anywhere, and
    is an exception like others. A forked child never calls its parent's backend.
    """

    name: ClassVar[str]
    """The name of the entry point, and what users write: ``backend="file"``."""
    api_version: ClassVar[int]
    """The `API_VERSION` this class was written for."""
    capabilities: ClassVar[Capability]
    """What it promises; `Capability.NONE` is an honest answer. An instance whose options make it
    promise less than its class has an attribute of its own."""
    recovered: RecoveryReport
    """What opening found."""

    def append(self, records: Sequence[bytes]) -> None:
        """Add `records` (at least one, each 0 to `MAX_MESSAGE_BYTES` long) at the end, in order.

        All or nothing: on any exception the log is as it was, and a later append works once the
        cause is gone. When it returns, the store has the bytes; on this machine, the operating
        system.
        """

    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        """Return records from number `skip` (>= 0) on, oldest first; nothing changes.

        At least one record when that one is at most `max_bytes` long; never more than `max_records`
        (>= 1), nor more than `max_bytes` of payload in all. Empty: there is no record `skip`, or it
        alone is longer than `max_bytes`. To go on where the last call ended is the usual case and
        must be cheap; any other `skip` is rare and must be right. A backend may read ahead, holding
        at most 1 MiB.

        `CorruptedData` means that record `skip` is damaged; damage further on ends the run before
        it. With ``on_corruption="quarantine"`` it has been moved aside, with what follows it if
        the next whole record cannot be told: `depth` no longer counts them, the records before
        `skip` are untouched, and the log goes on after them. With ``"raise"`` nothing has changed,
        and the next read raises it again.
        """

    def trim(self, count: int) -> None:
        """The oldest `count` records are done, read or not: their space may be given back.

        `count` is 1 to `depth`. Space follows live data while the queue runs, not only at close.
        On an exception nothing has been trimmed.
        """

    def sync(self) -> None:
        """Make what was appended survive power loss, if `POWER_SAFE` is promised."""

    def depth(self) -> int:
        """Number of records appended and not trimmed; right after an exception too.

        That is how the queue learns what has become of a call: an interruption may come when the
        change has been made.
        """

    def size_bytes(self) -> int:
        """Live bytes: those records with their framing, what `cost` said of them."""

    def cost(self, records: Sequence[bytes]) -> int:
        """Live bytes that `records` would add, in the format that is being written now: together
        what they cost one by one."""

    def close(self, *, delete: bool) -> None:
        """Let go of every resource; the last call, made again only if it was interrupted.

        `delete`: leave nothing of this stream behind; other streams are not touched. Otherwise, if
        `DURABLE` is promised, what was not trimmed is there, in order, when the stream is opened
        again. It may raise; everything is let go of and nothing is lost all the same.
        """


BackendFactory = Callable[..., OverflowBackend]
"""How a backend is opened: ``factory(stream, **options)``, usually the backend's class.

The keyword-only parameters are the backend's options, with their types and defaults. The queue
checks the names of `backend_options` against them; checking the values is the backend's.
"""


@runtime_checkable
class SpoolTools(Protocol):
    """How the command line reads what a backend has left. Optional: an object of this kind, in the
    class attribute `tools` of a backend, lets `hq inspect`, `verify`, `cat` and `repair` take part.

    Of queues only one that is opened with another backend calls it, so as not to strand what this
    one has left. It opens what it is given for reading only and changes nothing; the stream
    may have an owner that is writing, and what is there may be damaged in any way. Raise what your
    storage raises; damage is told, not raised.
    """

    suffix: str
    """What the data file is called behind the stream's file name: a dot and the backend's name, by
    which others see that it is there; only ``".overflow"``, the specified one, is another. With a
    slash it is in a directory of the stream's own: ``".lmdb/data.mdb"``."""
    companions: tuple[str, ...]
    """Files that belong to it, by what they are called behind the data file's name: ``(".pos",)``.
    The data can be read without them."""

    def inspect(self, path: Path) -> Inspection:
        """What the data file at `path` says of itself. It is there, and a regular file."""

    def salvage(self, path: Path) -> Iterator[bytes | Damage]:
        """Every record of it that is not done and is whole, oldest first, in memory for a record
        or two; between them, each place where there is none to be had.

        Nothing is guessed: behind damage, only records that prove themselves.
        """


@runtime_checkable
class MemoryTier(Protocol):
    """The bounded first tier, oldest first. Decides by count, by bytes, by whatever it likes."""

    def capacity(self) -> tuple[int, int]:
        """How many items, and of how many bytes in all, it accepts when empty."""

    def offer(self, items: Sequence[bytes]) -> bool:
        """Append all of `items` (at least one) and return True, or none and return False."""

    def offer_one(self, item: bytes) -> bool:
        """`offer` for the hot path: one item."""

    def take(self, max_items: int) -> list[bytes]:
        """Remove and return the oldest items, at most `max_items` (>= 1), or nothing."""

    def take_one(self) -> bytes | None:
        """`take` for the hot path: the oldest item, or None."""

    def room(self) -> tuple[int, int]:
        """How many items, and of how many bytes in all, it accepts now; (0, 0) when full."""

    def items(self) -> int:
        """Number of items held."""

    def payload_bytes(self) -> int:
        """Payload bytes held."""

    def fill(self) -> float:
        """Share of the limit in use, 0.0 to 1.0."""


@runtime_checkable
class Limiter(Protocol):
    """Decides whether a producer may go on. An item is a token."""

    @property
    def burst(self) -> int | None:
        """Largest number of tokens one call can ever get; None: no limit."""

    def admit(self, tokens: int, now: float) -> bool:
        """Take `tokens` (>= 1) at time `now`, all or none, and say whether they were there.

        Producers read the clock before they queue up for this call, so `now` may be a little less
        than in the call before.
        """


@runtime_checkable
class Pump(Protocol):
    """Moves stored records into memory in the background, so that consumers rarely wait.

    Only a matter of speed: a consumer that finds memory empty refills by itself.
    """

    def start(self, step: Callable[[], bool], name: str) -> None:
        """Called once, at opening. `step()` moves one batch; False: nothing more to do for now.

        It takes the queue's locks, never raises, and returns False for ever once the queue closes.
        `name` is for the eyes of whoever debugs.
        """

    def wake(self) -> None:
        """There is something to move. Called with no lock held, at most once until a `step`
        returns False."""

    def stop(self) -> None:
        """Called at close, by each of several threads that close at once, and again if it was
        interrupted: return when no `step` runs or will run any more; called in the thread that runs
        the steps, by one or between two, when none will run after it."""
