"""Records in LMDB: appended in one transaction each batch, read in another, deleted in a third.

What the environment holds, `_log` says. A call sets it once, after its commit. One that was cut
short may have been committed or not: `_unsure` is set, and whoever comes next looks, takes back
what was appended, and goes by what was trimmed.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import ClassVar, Final

import lmdb
from typing_extensions import override

from hq_backends.lmdb import records as log
from hq_backends.lmdb.datafile import DataFile
from hq_backends.lmdb.environment import Environment
from hq_backends.lmdb.opening import take_over
from hq_backends.lmdb.salvage import set_aside
from hq_backends.lmdb.tools import LmdbTools
from hq_core.capabilities import Capability
from hq_core.errors import BackendError, CorruptedData, QueueFull
from hq_core.protocols import API_VERSION, OverflowBackend, Stream
from hq_core.stats import RecoveryReport

__all__ = ["LmdbBackend"]

MIB: Final = 1024 * 1024

_SMALLEST_MAP: Final = 256 * 1024
_LARGEST_MAP: Final = 1 << 46
_MAP_SLACK: Final = 64 * MIB
"""What the map may have above four times the largest live size: LMDB fills its pages by half at
worst, and needs room to copy."""
_COMPACT_FROM: Final = 64 * MIB
"""Bytes in use from which the records are copied to a new file once they fill a quarter of it."""


class LmdbBackend(OverflowBackend):
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
            DataFile.of(stream),
            stream.tell,
            map_size=map_size,
            limit=None if most is None else max(map_size, 4 * most + _MAP_SLACK),
            sync=sync,
            writemap=writemap,
        )
        self._compact_from = _COMPACT_FROM
        try:
            self._log, self.recovered = take_over(self._env, stream)
        except BaseException:
            self._env.let_go()
            raise
        self._mark = (0, self._log.head)  # number and offset of a record: where a read ended
        self._unsure = False  # something other than `_log` may be stored

    # ---- the seam ----------------------------------------------------------------------------

    @override
    def append(self, records: Sequence[bytes]) -> None:
        """Put `records` after the last one and commit: one transaction, undone if it fails."""
        self._settle()
        self._env.hold()
        held = self._log
        self._unsure = True
        tail = self._env.add(lambda txn: log.put(txn, held.tail, records), self.cost(records))
        self._log = log.Span(held.head, tail, held.records + len(records), held.first)
        self._unsure = False

    @override
    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        """Copy records out of the map: one transaction."""
        try:
            self._settle()
            return self._read(skip, max_records, max_bytes)
        except CorruptedData as damage:
            if self._stream.on_corruption == "raise":
                raise
            raise self._set_rest_aside(damage, skip) from damage

    @override
    def trim(self, count: int) -> None:
        """Delete the oldest records in one transaction; empty the file once it is drained."""
        self._settle()
        self._env.hold()
        held = self._log
        if count > held.records:
            raise ValueError(f"{count} records to trim, there are {held.records}")
        if not count:
            return
        left = held.records - count
        self._unsure = True
        if not left and self._env.has_grown():
            self._env.empty()
            head = held.tail
        else:
            head = self._env.remove(lambda txn: log.delete_first(txn, count))
        self._log = log.Span(head, held.tail, left, held.first + count)
        self._unsure = False
        if left and self._env.has_grown():
            self._maybe_compact()

    @override
    def sync(self) -> None:
        """Flush what was appended to the disk."""
        self._env.hold(thoroughly=True)
        self._env.sync()

    @override
    def depth(self) -> int:
        """Number of records stored."""
        self._try_to_settle()
        return self._log.records

    @override
    def size_bytes(self) -> int:
        """Bytes of the log from its first record to its end."""
        self._try_to_settle()
        return self._log.tail - self._log.head

    @override
    def cost(self, records: Sequence[bytes]) -> int:
        """Their payload, and a key each."""
        return log.cost(records)

    @override
    def close(self, *, delete: bool) -> None:
        """Flush and close the environment, or delete it if nothing of it is to be kept."""
        try:
            if not delete:
                self._settle()
            if delete or not self._log.records:
                self._env.delete()
            else:
                self._env.hold(thoroughly=True, aside=self._stream.quarantine_path("lmdb"))
                self._env.sync()  # LMDB's file is of use after power loss only if it is complete
        except Exception:
            self._env.let_go()
            raise
        self._env.let_go()  # one that was interrupted is made again

    # ---- inside ------------------------------------------------------------------------------

    def _read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        """Walk to record `skip` from where the last read ended, or from the first record."""
        held = self._log
        if skip >= held.records:
            return []
        number, wanted = held.first + skip, min(max_records, held.records - skip)
        known, offset = self._mark
        if not held.first <= known <= number:
            known, offset = held.first, held.head
        records, end, meets = self._env.read(
            lambda txn: log.read(txn, offset, number - known, wanted, max_bytes)
        )
        if not meets:
            end -= log.cost(records[-1:])
            if self._env.fills_its_place(end):
                end += log.cost(records[-1:])
            elif not records[1:]:
                raise CorruptedData(f"the record at offset {end} is not as long as its place")
            else:
                records.pop()
        self._mark = (number + len(records), end)
        return records

    def _settle(self) -> None:
        """After a call that was cut short: make the environment and `_log` say the same."""
        if not self._unsure:
            return
        tail = self._log.tail
        found = self._look()
        if found.tail > tail:
            self._env.remove(lambda txn: log.delete_from(txn, tail))
            found = self._look()
        self._goes_on_with(found if found.records else log.Span(tail, tail, 0))

    def _look(self) -> log.Span:
        """What is stored."""
        self._env.file.finish()
        return self._env.read(log.span) if self._env.is_there() else log.Span(0, 0, 0)

    def _try_to_settle(self) -> None:
        with suppress(lmdb.Error, OSError, BackendError, CorruptedData):  # nothing has changed
            self._settle()

    def _goes_on_with(self, held: log.Span) -> None:
        self._log = held
        self._mark = (held.first, held.head)
        self._unsure = False

    def _maybe_compact(self) -> None:
        """Give space back by copying what is live, if it has become little."""
        with suppress(lmdb.Error, OSError):  # all is as it was; the trim was not the lesser
            used = self._env.used_bytes()
            if used < self._compact_from or used < 4 * self.size_bytes():
                return
            self._compact_from = 2 * used  # unless it succeeds, do not try again soon
            self._env.compact()
            self._compact_from = _COMPACT_FROM

    def _set_rest_aside(self, damage: CorruptedData, skip: int) -> CorruptedData:
        """Move what is damaged aside, keep the first `skip` records, and say so."""
        held = self._log
        self._unsure = True
        try:
            aside = self._stream.quarantine_path("lmdb")
            kept = set_aside(self._env, aside, skip)
        except (BackendError, QueueFull, lmdb.Error, OSError) as exc:
            self._unsure = not self._env.is_there()  # it is: nothing has changed
            return CorruptedData(f"{damage}; it cannot be moved aside: {exc}")
        self._goes_on_with(kept if kept.records else log.Span(held.head, held.head, 0))
        lost = held.records - kept.records
        return CorruptedData(f"{damage}; it and what was after it, {lost} records, are in {aside}")


def _check_options(map_size: int, sync: bool, writemap: bool) -> None:
    is_size = isinstance(map_size, int) and not isinstance(map_size, bool)
    if not is_size or not _SMALLEST_MAP <= map_size <= _LARGEST_MAP:
        raise ValueError(
            f"map_size must be {_SMALLEST_MAP} to {_LARGEST_MAP} bytes, not {map_size!r}"
        )
    for name, value in {"sync": sync, "writemap": writemap}.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be True or False, not {value!r}")
