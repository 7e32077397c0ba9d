"""The specified overflow file: appended at one end, read and given back at the other.

Offsets, each on a record's first byte::

    0 ... given back ... _head ... read, not trimmed ... _reader ... stored ... _tail = end of file

Order of what is written, so that a crash between any two calls is harmless:

- The data, then (``fsync="always"``) its flush, then the caller hears that it is stored.
- Drained: the data is truncated, then the position is reset, and only then is more appended.
- Consumed: the position is written (and flushed, unless ``fsync="never"``), then a hole punched.
"""

import os
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import ClassVar, Final, Literal, get_args

from hq_backends.file import recovery, space
from hq_backends.file.checked import Checked
from hq_backends.file.files import DataFile, Sidecar
from hq_backends.file.flusher import Flusher
from hq_backends.file.format import Format, Plain
from hq_backends.file.opening import OUT_OF_SPACE, take_over
from hq_backends.file.position import Position
from hq_backends.file.reader import Reader
from hq_backends.file.tools import FileTools
from hq_core.capabilities import Capability
from hq_core.errors import CorruptedData, QueueFull
from hq_core.protocols import API_VERSION, Stream
from hq_core.stats import RecoveryReport

__all__ = ["FileBackend"]

KIB: Final = 1024
MIB: Final = 1024 * KIB

Fsync = Literal["never", "interval", "always"]

_PUNCH_STEP: Final = 1 * MIB
"""Consumed bytes given back at once; smaller steps cost more calls than they free."""
_REWRITE_FROM: Final = 64 * MIB
"""Consumed bytes from which, without hole punching, the rest is copied to a new file."""
_TRUNCATE_FROM: Final = 1 * MIB
"""Size from which a drained file is truncated if that takes flushing, as it does with `fsync`."""
_NOTE_BYTES: Final = 1 * MIB
_NOTE_RECORDS: Final = 16 * KIB
"""What is appended between two notes of the tail: as much has to be walked after a crash."""
_BLOCK: Final = 4 * KIB
"""What file systems give back at least."""


class FileBackend:
    """``<stream>.overflow``: the records of one stream, each behind its 4-byte length.

    ``<stream>.overflow.pos`` beside it tells where the records begin that are not done.

    Parameters
    ----------
    read_ahead
        Bytes read at once, 64 KiB to 1 MiB.
    fsync
        What survives power loss: what the system happened to write (``"never"``), all but the last
        `fsync_interval` seconds (``"interval"``), everything stored (``"always"``: each append
        waits for the disk). What was stored survives the death of the process in any case.
    fsync_interval
        Seconds, 0.001 to 3600.
    checksum
        Write the format with checksums (`hq_backends.file.checked`), in which damage is noticed. A
        file that is there is read in the format it has.
    """

    name: ClassVar[str] = "file"
    api_version: ClassVar[int] = API_VERSION
    capabilities: ClassVar[Capability] = (
        Capability.DURABLE | Capability.CRASH_SAFE | Capability.POWER_SAFE
    )
    record_overhead: ClassVar[int] = Plain.header_bytes
    tools: ClassVar[FileTools] = FileTools()
    recovered: RecoveryReport

    def __init__(
        self,
        stream: Stream,
        *,
        read_ahead: int = 64 * KIB,
        fsync: Fsync = "never",
        fsync_interval: float = 0.1,
        checksum: bool = False,
    ) -> None:
        _check_options(read_ahead, fsync, fsync_interval, checksum)
        self._stream = stream
        self._fsync = fsync
        self._checksum = checksum
        if checksum:
            overhead = Checked.header_bytes
            self.record_overhead = overhead  # type: ignore[misc] # this one's is more than its class's
        path = stream.directory / f"{stream.file_name}.overflow"
        self._data = DataFile(path)
        self._sidecar = Sidecar(path.with_name(f"{path.name}.pos"))
        self._reader = Reader(self._data, read_ahead)
        self._boot = recovery.boot_id()
        self._format: Format = Plain()
        self._inode = 0
        self._head = self._tail = 0
        self._unread = 0
        self._sizes: deque[int] = deque()  # of the records read and not trimmed, headers included
        self._untidy = False  # bytes of a failed append may lie behind `_tail`
        self._misplaced = False  # the sidecar does not hold for the data any more
        self._committed = 0  # the data up to here is on the disk
        self._empty_ones = False  # there are empty records behind `_committed`
        self._noted_tail = 0  # when the position was last written
        self._appended = 0  # records since then
        self._coming: dict[str, int] = {}  # what a trim under way makes of the position
        self._begun = 0  # how often the file was begun anew
        self._punched = 0
        self._can_punch = True
        self._rewrite_from = _REWRITE_FROM
        self._guard = threading.Lock()  # what a position is made of changes as a whole
        self._in_place = threading.Lock()  # the data file is not replaced while it is flushed
        self._flusher = Flusher(self._flush_soon, fsync_interval) if fsync == "interval" else None
        try:
            self.recovered = self._recover()
        except BaseException:
            self._close_files()
            raise

    # ---- the seam ----------------------------------------------------------------------------

    def append(self, records: Sequence[bytes]) -> None:
        """Write `records` at the end: one `pwritev` for up to 256 of them, undone if it fails."""
        try:
            if self._untidy or self._misplaced or not self._tail or self._data.flush_failed:
                self._prepare()
            self._untidy = True
            tail = self._write(records)
        except BaseException as exc:
            with suppress(OSError):  # then the next append tries again, before it writes
                self._undo()
            if isinstance(exc, OSError) and exc.errno in OUT_OF_SPACE:
                raise QueueFull(f"the overflow disk is full: {exc.strerror}") from exc
            raise
        self._untidy = False
        with self._guard:
            self._tail = tail
            self._unread += len(records)
            if self._fsync == "always":
                self._committed = tail
        self._appended += len(records)
        if tail - self._noted_tail >= _NOTE_BYTES or self._appended >= _NOTE_RECORDS:
            with suppress(OSError):  # recovery would have more to walk, that is all
                self._note()

    def read(self, max_records: int, max_bytes: int) -> list[bytes]:
        """Take the next records out of the block read ahead, reading another when it is used up."""
        if not self._unread:
            return []
        before, most = self._reader.offset, min(max_records, self._unread)
        try:
            records = self._reader.read(self._format, self._tail, most, max_bytes)
        except CorruptedData as damage:
            damage.with_traceback(None)  # lets go of the record that was read
            raise self._set_aside(damage) from damage
        if len(records) == self._unread and self._reader.offset != self._tail:
            self._reader.seek(before)
            raise self._set_rest_aside(self._miscounted())
        header = self._format.header_bytes
        with self._guard:
            self._unread -= len(records)
            self._sizes.extend([header + len(record) for record in records])
        return records

    def trim(self, count: int) -> None:
        """Truncate the file once it is drained; until then punch holes into its consumed prefix."""
        if count > len(self._sizes):
            raise ValueError(f"{count} records to trim, {len(self._sizes)} read and not trimmed")
        head = self._head + sum(islice(self._sizes, count))
        if head == self._tail and (self._fsync == "never" or head >= _TRUNCATE_FROM):
            self._restart()
            return
        self._coming = {"head": head, "records": self._records() - count}
        try:
            self._note()
            head = self._give_back(head)
            with self._guard:
                self._head = head
                for _ in range(count):
                    self._sizes.popleft()
        finally:
            self._coming = {}

    def sync(self) -> None:
        """Flush the data, and where it begins, to the disk."""
        if self._data.fd >= 0:
            self._data.flush()
            with self._guard:
                self._committed, self._empty_ones = self._tail, False
            self._note()
            self._sidecar.flush()
            self._misplaced = False

    def depth(self) -> int:
        """Number of records stored and not yet read."""
        return self._unread

    def size_bytes(self) -> int:
        """Bytes from the oldest record not trimmed to the end of the file."""
        return self._tail - self._head

    def close(self, *, delete: bool) -> None:
        """Close the files, and remove them if nothing of them is to be kept."""
        if self._flusher is not None:
            self._flusher.stop()
        try:
            if delete or self._head == self._tail:
                self._data.delete()
                self._sidecar.delete()
                return
            if self._untidy:
                self._undo()
            if self._fsync == "never":
                self._note()
            else:
                self.sync()
        finally:
            self._close_files()

    # ---- writing -----------------------------------------------------------------------------

    def _prepare(self) -> None:
        """See that what is about to be written will be found again."""
        if self._data.flush_failed:
            self._data.flush()  # which raises, and says why
        if self._data.fd < 0:
            if self._sidecar.fd < 0:
                self._sidecar.create()
            self._data.create()
            self._inode = self._data.inode()
            self._misplaced = True
        if self._untidy:
            self._undo()
        if not self._tail:
            self._begin()
        if self._misplaced:
            self._place()

    def _begin(self) -> None:
        """Begin an empty file: in which format it is to be is the option's to say."""
        form: Format = Checked(int.from_bytes(os.urandom(4)) | 1) if self._checksum else Plain()
        start = len(form.preamble)
        if start:
            self._misplaced = self._untidy = True
            self._data.write([form.preamble], 0)
            self._untidy = False
        with self._guard:
            self._format = form
            self._head = self._tail = start
        self._reader.seek(start)

    def _place(self) -> None:
        """Let the sidecar hold for the data file as it is now."""
        self._note()
        if self._fsync != "never":
            self._sidecar.flush()
        self._misplaced = False

    def _write(self, records: Sequence[bytes]) -> int:
        """Write and, if wanted, flush `records`; the offset behind them."""
        tail = self._tail + self._data.write(self._format.encode(records), self._tail)
        if self._flusher is not None:
            with self._guard:
                self._empty_ones = self._empty_ones or not all(records)
            self._flusher.dirty()
        elif self._fsync == "always":
            self._data.flush()
            if not all(records):  # the data alone would look like what a power cut leaves
                count = self._records() + len(records)
                self._note(tail=tail, records=count, committed=tail)
                self._sidecar.flush()
        return tail

    def _undo(self) -> None:
        """Cut what a failed append may have left behind the last record."""
        if self._data.fd >= 0:
            self._data.cut(self._tail)
        self._untidy = False

    def _flush_soon(self) -> None:
        """What the flusher does, in its thread."""
        with self._in_place:
            with self._guard:
                tail, begun, empty_ones = self._tail, self._begun, self._empty_ones
                self._empty_ones = False
            with suppress(OSError):  # the next append meets it
                self._data.flush()
                with self._guard:
                    if begun == self._begun:
                        self._committed = max(tail, self._committed)
                if empty_ones:
                    self._note()
                    self._sidecar.flush()

    # ---- the position ------------------------------------------------------------------------

    def _records(self) -> int:
        return self._unread + len(self._sizes)

    def _note(self, **coming: int) -> None:
        """Write the position, as it is but for what is about to be."""
        with self._guard:
            fields = {
                "head": self._head,
                "tail": self._tail,
                "records": self._records(),
                "committed": self._committed,
                **self._coming,
                **coming,
            }
            position = Position(self._boot, self._inode, self._format.seed, **fields)
            if self._sidecar.fd < 0:
                self._sidecar.create()
            self._sidecar.write(position)
            self._noted_tail, self._appended = position.tail, 0

    # ---- damage ------------------------------------------------------------------------------

    def _set_aside(self, damage: CorruptedData) -> CorruptedData:
        """Quarantine what is damaged, if that is wanted, and say so.

        That is the next record, if the one behind it is seen to be whole; else all that is unread.
        """
        if self._stream.on_corruption == "raise":
            return damage
        start = self._reader.offset
        behind = self._reader.whole_behind(self._format, self._tail)
        if behind:
            aside = self._move_aside(start, behind)
            self._skip_to(behind)
            return CorruptedData(f"{self._data.path}: {damage}; it is in {aside}")
        return self._set_rest_aside(damage)

    def _set_rest_aside(self, damage: CorruptedData) -> CorruptedData:
        """Quarantine all that is unread, if that is wanted, and say so."""
        if self._stream.on_corruption == "raise":
            return damage
        start = self._reader.offset
        end = self._data.size()
        aside = self._move_aside(min(start, end), end)
        self._data.cut(min(start, end))
        with self._guard:
            lost, self._unread = self._unread, 0
            self._tail = start
        self._reader.seek(start)
        self._misplaced = True
        with suppress(OSError):  # then before the next append
            self._place()
        return CorruptedData(f"{damage}; it and what was behind it, {lost} records, are in {aside}")

    def _miscounted(self) -> CorruptedData:
        """A damaged length shows only in that the records counted do not fill the file."""
        return CorruptedData(
            f"{self._data.path}: its last {self._unread} records end before byte {self._tail}"
        )

    def _skip_to(self, offset: int) -> None:
        """Count the bytes up to `offset`, which no record will be made of, to the one before."""
        size = offset - self._reader.offset
        with self._guard:
            self._unread -= 1
            if self._sizes:
                self._sizes[-1] += size
            else:
                self._head += size
        self._reader.seek(offset)

    def _move_aside(self, start: int, end: int) -> Path:
        return recovery.move_part_aside(self._data.fd, self._data.path, start, end)

    # ---- giving back -------------------------------------------------------------------------

    def _restart(self) -> None:
        """Empty the drained file. Its position follows before anything is appended."""
        self._data.cut(0)
        with self._guard:
            self._head = self._tail = self._committed = 0
            self._begun += 1
            self._empty_ones = False
            self._sizes.clear()
        self._noted_tail = self._appended = 0
        self._punched = 0
        self._reader.seek(0)
        self._untidy = False
        self._misplaced = True
        if self._fsync != "never":
            with suppress(OSError):  # then nothing more is appended, and that says why
                self._data.flush()

    def _give_back(self, head: int) -> int:
        """Free what is before `head`, if it is enough by now; where `head` is afterwards."""
        if self._can_punch:
            first = self._punched or -(-len(self._format.preamble) // _BLOCK) * _BLOCK
            end = head - head % _BLOCK
            if end - first < _PUNCH_STEP:
                return head
            if self._fsync != "never":
                self._sidecar.flush()
            self._can_punch = space.punch(self._data.fd, first, end)
            if self._can_punch:
                self._punched = end
                return head
        if head < self._rewrite_from or head < self._tail - head:
            return head
        self._rewrite_from = 2 * head  # unless it succeeds, do not try again soon
        with self._in_place:
            moved = self._rewrite(head)
        self._rewrite_from = _REWRITE_FROM
        return moved

    def _rewrite(self, head: int) -> int:
        """Copy what is behind `head` to a new file that takes this one's place; its head."""
        target = self._new_path()
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(target, flags, 0o600)
        start = len(self._format.preamble)
        try:
            recovery.copy(self._data.fd, fd, 0, start)
            recovery.copy(self._data.fd, fd, head, self._tail)
            if self._fsync != "never":
                os.fdatasync(fd)
            self._data.replace_by(fd, target)
        except BaseException:
            os.close(fd)
            target.unlink(missing_ok=True)
            raise
        with self._guard:
            self._inode = self._data.inode()
            self._tail -= head - start
            self._committed = self._tail if self._fsync != "never" else 0
            self._begun += 1
            self._coming["head"] = start
        self._reader.seek(self._reader.offset - head + start)
        self._untidy = False
        self._misplaced = True
        return start

    def _new_path(self) -> Path:
        return self._data.path.with_name(f"{self._data.path.name}.new")

    # ---- opening and closing -----------------------------------------------------------------

    def _recover(self) -> RecoveryReport:
        self._new_path().unlink(missing_ok=True)  # of a rewrite that a crash cut short
        found = take_over(self._stream, self._data, self._sidecar, self._boot)
        if isinstance(found, RecoveryReport):
            return found
        self._format = found.form
        self._inode = self._data.inode()
        self._head, self._tail = found.head, found.tail
        self._committed = found.committed
        self._unread = found.report.records
        self._reader.seek(found.head)
        self._misplaced = True
        with suppress(OSError):  # a full disk, say: then before the next append
            self._place()
        return found.report

    def _close_files(self) -> None:
        self._data.close()
        self._sidecar.close()


def _check_options(read_ahead: int, fsync: str, fsync_interval: float, checksum: bool) -> None:
    if not isinstance(read_ahead, int) or not 64 * KIB <= read_ahead <= MIB:
        raise ValueError(f"read_ahead must be 65536 to 1048576 bytes, not {read_ahead!r}")
    if fsync not in get_args(Fsync):
        raise ValueError(f"fsync must be 'never', 'interval' or 'always', not {fsync!r}")
    is_number = isinstance(fsync_interval, (int, float)) and not isinstance(fsync_interval, bool)
    if not is_number or not 0.001 <= fsync_interval <= 3600:
        raise ValueError(f"fsync_interval must be 0.001 to 3600 seconds, not {fsync_interval!r}")
    if not isinstance(checksum, bool):
        raise ValueError(f"checksum must be True or False, not {checksum!r}")
