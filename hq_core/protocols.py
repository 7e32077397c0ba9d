"""The seam: what a queue needs from its exchangeable parts.

Authors of plugins read this file and nothing else. The queue (`hq_core.engine`) is the only
caller. It holds one lock over every call on a backend, so a backend is never entered twice at
once and needs no locks of its own, but the calls come from many threads. The calls on memory
tiers and limiters are made under another lock that is held for microseconds: those parts never
sleep, read a clock or do I/O.

Sizes are bytes of payload unless a name says otherwise; times are seconds of a monotonic clock.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal, Protocol, runtime_checkable

from hq_core.capabilities import Capability
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
    "Waiter",
    "WhenFull",
]

API_VERSION: Final = 1
"""Version of this file. A backend names the version it was written for in `api_version`."""

MAX_MESSAGE_BYTES: Final = 10 * 1024 * 1024
"""Largest message, in bytes: longer ones are refused, longer lengths on disk are corruption."""

WhenFull = Literal["raise", "block", "drop_oldest", "drop_newest"]
Leftover = Literal["resume", "discard", "refuse", "quarantine"]
OnCorruption = Literal["quarantine", "raise"]


@dataclass(frozen=True, slots=True)
class Stream:
    """What a backend is opened for: the first argument of every `BackendFactory`.

    The queue holds the stream's lock, ``<file_name>.lock``, from before the opening until after
    the closing: the backend has the stream to itself, in this process and all others.
    """

    stream_id: str
    """The id as the user gave it: any text. For messages only, never part of a path."""
    file_name: str
    """The id as a safe file name, unique to it: lower-case letters, digits and ``._-%``, at most
    200 characters, no leading dot. Name every file after it, with a suffix; what is moved aside,
    ``<file_name>.<suffix>.quarantine-<number>``. The queue keeps the newest 16 of those."""
    directory: Path
    """Where files go. It exists; files are made with mode 0600, directories with 0700."""
    max_bytes: int | None = None
    """The queue's `max_overflow_bytes`. The queue enforces it; a backend that has to reserve
    space ahead finds here how much it may need."""
    leftover: Leftover = "resume"
    """What to do with records that an earlier owner left: take them over, delete them, raise
    `StreamBusyError` leaving them untouched, or move them aside."""
    on_corruption: OnCorruption = "quarantine"
    """What to do with data that cannot be read: move it aside, or raise `CorruptedData` and touch
    nothing."""


@runtime_checkable
class OverflowBackend(Protocol):
    """An ordered log of byte records with a read position: where items go that memory cannot hold.

        trimmed | read, not trimmed | stored, not read | <- append
                ^ trim moves here   ^ read moves here

    Raise what your storage raises; the queue wraps it in `BackendError` once. Raise `QueueFull`
    (from the original error) when the store is out of space, `CorruptedData` when records turn out
    to be damaged. A forked child never calls its parent's backend.
    """

    name: ClassVar[str]
    """The name of the entry point, and what users write: ``backend="file"``."""
    api_version: ClassVar[int]
    """The `API_VERSION` this class was written for."""
    capabilities: ClassVar[Capability]
    """What it promises; `Capability.NONE` is an honest answer. An instance whose options make it
    promise less than its class has an attribute of its own."""
    record_overhead: ClassVar[int]
    """Bytes that one record adds to `size_bytes` besides its payload."""
    recovered: RecoveryReport
    """What opening found."""

    def append(self, records: Sequence[bytes]) -> None:
        """Add `records` (at least one, each 0 to `MAX_MESSAGE_BYTES` long) at the end, in order.

        All or nothing: on any exception the log is as it was, and a later append works once the
        cause is gone. When it returns, the operating system has the bytes.
        """

    def read(self, max_records: int, max_bytes: int) -> list[bytes]:
        """Return the next records after the read position, oldest first, and move it past them.

        At least one record when the next one is at most `max_bytes` long; never more than
        `max_records` (>= 1), nor more than `max_bytes` of payload in all. Empty: nothing is
        stored, or the next record alone is longer than `max_bytes`. On an exception the position
        is where it was. A backend may read ahead, holding at most 1 MiB.

        `CorruptedData` means that what follows the read position is damaged. With
        ``on_corruption="quarantine"`` it has been moved aside: `depth` no longer counts it and the
        log goes on behind it. With ``"raise"`` nothing has changed and the next read says it again.
        """

    def trim(self, count: int) -> None:
        """The oldest `count` records read are done: their space may be given back.

        `count` is at most the number read and not trimmed. Space follows live data while the queue
        runs, not only at close. On an exception nothing has been trimmed.
        """

    def sync(self) -> None:
        """Make what was appended survive power loss, if `POWER_SAFE` is promised."""

    def depth(self) -> int:
        """Number of records stored and not yet read."""

    def size_bytes(self) -> int:
        """Live bytes: payload and `record_overhead` of every record appended and not trimmed."""

    def close(self, *, delete: bool) -> None:
        """Let go of every resource; called once, last.

        `delete`: leave no file behind. Otherwise, if `DURABLE` is promised, what was not trimmed
        is there, in order, when the stream is opened again.
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

    No queue calls it. It opens what it is given for reading only and changes nothing; the stream
    may have an owner that is writing, and what is there may be damaged in any way. Raise what your
    storage raises; damage is told, not raised.
    """

    suffix: str
    """What the data file is called behind the stream's file name: ``".overflow"``. With a slash
    it is in a directory of the stream's own: ``".lmdb/data.mdb"``."""
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
    """Moves stored records into memory behind the consumers' backs, so that they rarely wait.

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
        """Called once, at close: return when no `step` runs or will run any more."""


class Waiter(Protocol):
    """Somebody parked: a thread, or a coroutine of some event loop."""

    def wake(self) -> bool:
        """Make the owner try again. Called at most once, under the queue's lock: never blocks.

        False: it is gone, its event loop closed; the next one is woken in its stead.
        """
