"""Records in LMDB: appended in one transaction each batch, read in another, deleted in a third.

Offsets in the log, as in `records`; the environment holds what is between `_first` and `_tail`::

    trimmed ... _head ... read, not trimmed ... _next ... stored ... _tail
"""

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, Final

import lmdb

from hq_backends.lmdb import records as log
from hq_backends.lmdb import recovery
from hq_backends.lmdb.environment import Environment, new_path
from hq_backends.lmdb.tools import LmdbTools
from hq_core.capabilities import Capability
from hq_core.errors import CorruptedData, StreamBusyError
from hq_core.protocols import API_VERSION, Stream
from hq_core.stats import RecoveryReport

if TYPE_CHECKING:
    from lmdb import Transaction

__all__ = ["LmdbBackend"]

MIB: Final = 1024 * 1024

_SMALLEST_MAP: Final = 256 * 1024
_LARGEST_MAP: Final = 1 << 46
_MAP_SLACK: Final = 64 * MIB
"""What the map may have above four times the largest live size: LMDB fills its pages by half at
worst, and needs room to copy."""
_COMPACT_FROM: Final = 64 * MIB
"""Bytes in use from which the records are copied to a new file once they fill a quarter of it."""


class LmdbBackend:
    """``<stream>.lmdb/``: the records of one stream in an LMDB environment of its own.

    What was appended survives the death of the process. It survives power loss from when `sync`
    has returned, if the option `sync` is on. With it off a power cut can cost everything that is
    stored, also what `sync` had secured: the system writes LMDB's pages in any order. What is
    damaged beyond use is then found at opening, a damaged payload may go unnoticed.

    Parameters
    ----------
    map_size
        Bytes of disk reserved with the first record; it grows by itself. 256 KiB to 64 TiB.
    sync
        Wait for the disk after each append and trim. Slower by orders of magnitude; promises
        `POWER_SAFE`.
    writemap
        Let LMDB write through its memory map: less copying. Its space is reserved before, for a
        full disk would end the process; do not use it where the file system cannot do that (ZFS,
        or btrfs with compression).
    """

    name: ClassVar[str] = "lmdb"
    api_version: ClassVar[int] = API_VERSION
    capabilities: ClassVar[Capability] = (
        Capability.DURABLE | Capability.CRASH_SAFE | Capability.POWER_SAFE
    )
    record_overhead: ClassVar[int] = log.KEY_BYTES
    tools: ClassVar[LmdbTools] = LmdbTools()
    recovered: RecoveryReport

    def __init__(
        self,
        stream: Stream,
        *,
        map_size: int = MIB,
        sync: bool = False,
        writemap: bool = False,
    ) -> None:
        _check_options(map_size, sync, writemap)
        if not sync:
            promised = self.capabilities & ~Capability.POWER_SAFE
            self.capabilities = promised  # type: ignore[misc] # this one promises less than its class
        most = stream.max_bytes
        self._stream = stream
        self._env = Environment(
            stream.directory / f"{stream.file_name}.lmdb",
            map_size=map_size,
            limit=None if most is None else max(map_size, 4 * most + _MAP_SLACK),
            sync=sync,
            writemap=writemap,
        )
        self._first = self._head = self._next = self._tail = 0
        self._unread = 0
        self._ends: deque[int] = deque()  # of the records read and not trimmed
        self._untidy = False  # records of a failed append may lie behind `_tail`
        self._compact_from = _COMPACT_FROM
        self.recovered = self._recover()

    # ---- the seam ----------------------------------------------------------------------------

    def append(self, records: Sequence[bytes]) -> None:
        """Put `records` behind the last one and commit: one transaction, undone if it fails."""
        tail, untidy = self._tail, self._untidy

        def put(txn: "Transaction[bytes]") -> int:
            if untidy:
                log.delete_from(txn, tail)
            return log.put(txn, tail, records)

        size = sum(map(len, records)) + len(records) * log.KEY_BYTES
        self._untidy = True
        self._tail = self._env.add(put, size)
        self._unread += len(records)
        self._untidy = False

    def read(self, max_records: int, max_bytes: int) -> list[bytes]:
        """Copy the next records out of the map: one transaction."""
        if not self._unread:
            return []
        start, wanted = self._next, min(max_records, self._unread)
        try:
            records = self._env.read(lambda txn: log.read(txn, start, wanted, max_bytes))
        except CorruptedData as damage:
            raise self._set_rest_aside(damage) from damage
        for record in records:
            self._next += log.KEY_BYTES + len(record)
            self._ends.append(self._next)
        self._unread -= len(records)
        return records

    def trim(self, count: int) -> None:
        """Delete the oldest records in one transaction; empty the file once it is drained."""
        if count > len(self._ends):
            raise ValueError(f"{count} records to trim, {len(self._ends)} read and not trimmed")
        if not count:
            return
        head = self._ends[count - 1]
        if head == self._tail and self._env.has_grown():
            self._env.empty()
            self._untidy = False
        elif head > self._first:
            self._env.remove(lambda txn: log.delete_before(txn, head))
        self._head = head
        for _ in range(count):
            self._ends.popleft()
        if self._env.has_grown() and head != self._tail:
            self._maybe_compact()

    def sync(self) -> None:
        """Flush what was appended to the disk."""
        self._env.sync()

    def depth(self) -> int:
        """Number of records stored and not yet read."""
        return self._unread

    def size_bytes(self) -> int:
        """Bytes of the log from the oldest record not trimmed to its end."""
        return self._tail - self._head

    def close(self, *, delete: bool) -> None:
        """Flush and close the environment, or delete it if nothing of it is to be kept."""
        try:
            if delete or self._first == self._tail or self._head == self._tail:
                self._env.delete()
            else:
                if self._untidy:
                    self._env.remove(lambda txn: log.delete_from(txn, self._tail))
                self._env.sync()  # LMDB's file is of use after power loss only if it is complete
        finally:
            self._env.close()

    # ---- inside ------------------------------------------------------------------------------

    def _maybe_compact(self) -> None:
        """Give space back by copying what is live, if it has become little."""
        with suppress(lmdb.Error, OSError):  # all is as it was; the trim was not the lesser
            used = self._env.used_bytes()
            if used < self._compact_from or used < 4 * self.size_bytes():
                return
            self._compact_from = 2 * used  # unless it succeeds, do not try again soon
            self._env.compact()
            self._compact_from = _COMPACT_FROM

    def _set_rest_aside(self, damage: CorruptedData) -> CorruptedData:
        """Quarantine the environment, if that is wanted, and say so."""
        if self._stream.on_corruption == "raise":
            return damage
        self._env.close()
        aside = recovery.move_aside(self._env.directory)
        lost, self._unread = self._unread, 0
        self._tail = self._first = self._next
        self._untidy = False
        return CorruptedData(f"{damage}; it and what was behind it, {lost} records, are in {aside}")

    def _recover(self) -> RecoveryReport:
        size = recovery.leftover_bytes(self._env.directory, self._env.data)
        new_path(self._env.directory).unlink(missing_ok=True)  # of a copy that a crash cut short
        if not size:
            return RecoveryReport()
        if self._stream.leftover == "discard":
            self._env.empty()
            return RecoveryReport()
        found = recovery.survey(self._env.directory, self._env.data)
        if found.damage:
            return self._judge_damage(found.damage, size)
        if not found.span.records:
            self._env.empty()
            return RecoveryReport()
        if self._stream.leftover == "refuse":
            raise self._refusal(f"{found.span.records} records")
        if self._stream.leftover == "quarantine":
            return self._set_all_aside(size, "leftover='quarantine'")
        return self._resume(found.span)

    def _judge_damage(self, damage: str, size: int) -> RecoveryReport:
        if self._stream.leftover == "refuse":
            raise self._refusal(f"damaged records ({damage})")
        if self._stream.leftover == "resume" and self._stream.on_corruption == "raise":
            raise CorruptedData(
                f"{self._env.directory} is damaged: {damage}; restore it, move it away, or open "
                "it with on_corruption='quarantine'"
            )
        return self._set_all_aside(size, damage)

    def _refusal(self, what: str) -> StreamBusyError:
        return StreamBusyError(
            f"{self._env.directory} holds {what} of an earlier owner: open it with "
            "leftover='resume', or move it away"
        )

    def _set_all_aside(self, size: int, reason: str) -> RecoveryReport:
        aside = recovery.move_aside(self._env.directory)
        return RecoveryReport(quarantined_bytes=size, quarantine=aside, reason=reason)

    def _resume(self, span: log.Span) -> RecoveryReport:
        self._first = self._head = self._next = span.head
        self._tail = span.tail
        self._unread = span.records
        return RecoveryReport(records=span.records, size_bytes=span.tail - span.head)


def _check_options(map_size: int, sync: bool, writemap: bool) -> None:
    is_size = isinstance(map_size, int) and not isinstance(map_size, bool)
    if not is_size or not _SMALLEST_MAP <= map_size <= _LARGEST_MAP:
        raise ValueError(
            f"map_size must be {_SMALLEST_MAP} to {_LARGEST_MAP} bytes, not {map_size!r}"
        )
    for name, value in {"sync": sync, "writemap": writemap}.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be True or False, not {value!r}")
