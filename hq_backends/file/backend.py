"""The specified overflow file: appended at one end, read and given back at the other.

Offsets, each on a record's first byte::

    0 ... given back ... _head ... read, not trimmed ... _next ... stored ... _tail = end of file
"""

import errno
import os
import stat
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import ClassVar, Final

from hq_backends.file import recovery, space
from hq_backends.file.format import HEADER_BYTES, decode, encode
from hq_core.capabilities import Capability
from hq_core.errors import BackendError, CorruptedData, QueueFull, StreamBusyError
from hq_core.protocols import API_VERSION, Stream
from hq_core.stats import RecoveryReport

__all__ = ["FileBackend"]

KIB: Final = 1024
MIB: Final = 1024 * KIB

_OUT_OF_SPACE: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_BUFFERS_A_CALL: Final = 512
"""Most buffers in one `pwritev`: half the system's limit, and enough to make the call cheap."""
_PUNCH_STEP: Final = 1 * MIB
"""Consumed bytes given back at once; smaller steps cost more calls than they free."""
_REWRITE_FROM: Final = 64 * MIB
"""Consumed bytes from which, without hole punching, the rest is copied to a new file."""
_FILE_SYSTEM_BLOCK: Final = 4 * KIB
_FILE: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


class FileBackend:
    """``<stream>.overflow``: the records of one stream, each behind its 4-byte length.

    Options
    -------
    read_ahead
        Bytes read at once, 64 KiB to 1 MiB.
    """

    name: ClassVar[str] = "file"
    api_version: ClassVar[int] = API_VERSION
    capabilities: ClassVar[Capability] = Capability.NONE
    record_overhead: ClassVar[int] = HEADER_BYTES
    recovered: RecoveryReport

    def __init__(self, stream: Stream, *, read_ahead: int = 64 * KIB) -> None:
        if not isinstance(read_ahead, int) or not 64 * KIB <= read_ahead <= MIB:
            raise ValueError(f"read_ahead must be 65536 to 1048576 bytes, not {read_ahead!r}")
        self._read_ahead = read_ahead
        self._stream = stream
        self._path = stream.directory / f"{stream.file_name}.overflow"
        self._fd = -1
        self._head = self._next = self._tail = 0
        self._unread = 0
        self._sizes: deque[int] = deque()  # of the records read and not trimmed, headers included
        self._block, self._at = b"", 0  # what was read ahead; `_at` is where `_next` lies in it
        self._untidy = False  # bytes of a failed append may lie behind `_tail`
        self._punched = 0
        self._can_punch = True
        self._rewrite_from = _REWRITE_FROM
        try:
            self.recovered = self._recover()
        except BaseException:
            self._close_file()
            raise

    # ---- the seam ----------------------------------------------------------------------------

    def append(self, records: Sequence[bytes]) -> None:
        """Write `records` at the end: one `pwritev` for up to 256 of them, undone if it fails."""
        try:
            if self._fd < 0:
                self._fd = os.open(self._path, _FILE | os.O_CREAT | os.O_EXCL, 0o600)
            if self._untidy:
                self._undo()
            self._untidy = True
            written = self._write(encode(records))
        except BaseException as exc:
            with suppress(OSError):  # then the next append tries again, before it writes
                self._undo()
            if isinstance(exc, OSError) and exc.errno in _OUT_OF_SPACE:
                raise QueueFull(f"the overflow disk is full: {exc.strerror}") from exc
            raise
        self._untidy = False
        self._tail += written
        self._unread += len(records)

    def read(self, max_records: int, max_bytes: int) -> list[bytes]:
        """Take the next records out of the block read ahead, reading another when it is used up."""
        if not self._unread:
            return []
        try:
            records = self._decode(max_records, max_bytes)
        except CorruptedData as damage:
            raise self._set_rest_aside(damage) from damage
        self._unread -= len(records)
        self._sizes.extend([HEADER_BYTES + len(record) for record in records])
        return records

    def trim(self, count: int) -> None:
        """Truncate the file once it is drained; until then punch holes into its consumed prefix."""
        if count > len(self._sizes):
            raise ValueError(f"{count} records to trim, {len(self._sizes)} read and not trimmed")
        head = self._head + sum(islice(self._sizes, count))
        if head == self._tail:
            self._restart()
        else:
            self._head = self._give_back(head)
        for _ in range(count):
            self._sizes.popleft()

    def sync(self) -> None:
        """Flush the file to the disk."""
        if self._fd >= 0:
            os.fdatasync(self._fd)

    def depth(self) -> int:
        """Number of records stored and not yet read."""
        return self._unread

    def size_bytes(self) -> int:
        """Bytes from the oldest record not trimmed to the end of the file."""
        return self._tail - self._head

    def close(self, *, delete: bool) -> None:
        """Close the file, and remove it if nothing of it is to be kept."""
        if self._fd >= 0 and (delete or self._head == self._tail):
            self._path.unlink(missing_ok=True)
            os.ftruncate(self._fd, 0)  # a forked child may keep the file in being
        self._close_file()

    # ---- inside ------------------------------------------------------------------------------

    def _write(self, buffers: list[bytes]) -> int:
        written = 0
        for first in range(0, len(buffers), _BUFFERS_A_CALL):
            part = buffers[first : first + _BUFFERS_A_CALL]
            size = sum(map(len, part))
            done = os.pwritev(self._fd, part, self._tail + written)
            if done < size:  # a signal, or a disk about to be full: go on behind what is there
                rest = memoryview(b"".join(part))
                while done < size:
                    done += os.pwrite(self._fd, rest[done:], self._tail + written + done)
            written += size
        return written

    def _undo(self) -> None:
        """Cut what a failed append may have left behind the last record."""
        if self._fd >= 0:
            os.ftruncate(self._fd, self._tail)
        self._untidy = False

    def _decode(self, max_records: int, max_bytes: int) -> list[bytes]:
        start = self._at
        found = decode(self._block, start, max_records, max_bytes)
        while found.missing and not found.records:
            if found.missing > self._read_ahead:
                return [self._read_large(found.missing)]
            self._block, self._at = self._pread(self._read_ahead, found.missing, self._next), 0
            start = 0
            found = decode(self._block, start, max_records, max_bytes)
        self._at = found.end
        self._next += found.end - start
        return found.records

    def _read_large(self, size: int) -> bytes:
        """The record of `size` bytes, header included, that comes next; without a second copy."""
        payload = self._pread(size - HEADER_BYTES, size - HEADER_BYTES, self._next + HEADER_BYTES)
        self._block, self._at = b"", 0
        self._next += size
        return payload

    def _pread(self, size: int, at_least: int, offset: int) -> bytes:
        block = os.pread(self._fd, min(size, self._tail - offset), offset)
        if len(block) < at_least:
            raise CorruptedData(f"{self._path} ends amid a record, at byte {offset + len(block)}")
        return block

    def _set_rest_aside(self, damage: CorruptedData) -> CorruptedData:
        """Quarantine all that is not read, if that is wanted, and say so."""
        if self._stream.on_corruption == "raise":
            return damage
        end = os.fstat(self._fd).st_size
        aside = recovery.move_part_aside(self._fd, self._path, min(self._next, end), end)
        lost, self._unread = self._unread, 0
        self._tail = self._next
        self._block, self._at = b"", 0
        return CorruptedData(f"{damage}; it and what was behind it, {lost} records, are in {aside}")

    def _restart(self) -> None:
        os.ftruncate(self._fd, 0)
        self._head = self._next = self._tail = self._punched = 0
        self._block, self._at = b"", 0
        self._untidy = False

    def _give_back(self, head: int) -> int:
        """Free what is before `head`, if it is enough by now; where `head` is afterwards."""
        if self._can_punch:
            end = head - head % _FILE_SYSTEM_BLOCK
            if end - self._punched < _PUNCH_STEP:
                return head
            self._can_punch = space.punch(self._fd, self._punched, end)
            if self._can_punch:
                self._punched = end
                return head
        if head < self._rewrite_from or head < self._tail - head:
            return head
        self._rewrite_from = 2 * head  # unless it succeeds, do not try again soon
        self._rewrite(head)
        self._rewrite_from = _REWRITE_FROM
        return 0

    def _rewrite(self, head: int) -> None:
        """Copy what is behind `head` to a new file that takes this one's place."""
        target = self._new_path()
        fd = os.open(target, _FILE | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            recovery.copy(self._fd, fd, head, self._tail)
            target.rename(self._path)
        except BaseException:
            os.close(fd)
            target.unlink(missing_ok=True)
            raise
        os.ftruncate(self._fd, 0)  # a forked child may keep the old file in being
        os.close(self._fd)
        self._fd = fd
        self._next -= head
        self._tail -= head
        self._untidy = False

    def _new_path(self) -> Path:
        return self._path.with_name(f"{self._path.name}.new")

    def _recover(self) -> RecoveryReport:
        self._new_path().unlink(missing_ok=True)  # of a rewrite that a crash cut short
        size = self._open_leftover()
        if not size:
            return RecoveryReport()
        leftover = self._stream.leftover
        if leftover == "discard":
            os.ftruncate(self._fd, 0)
            return RecoveryReport()
        found = recovery.survey(self._fd, size)
        if leftover == "refuse":
            raise StreamBusyError(
                f"{self._path} holds {found.records} records of an earlier owner: open it with "
                "leftover='resume', or move it away"
            )
        if leftover == "quarantine":
            return self._set_all_aside(size, "leftover='quarantine'")
        if found.damage and self._stream.on_corruption == "raise":
            raise CorruptedData(f"{self._path}, at byte {found.end}: {found.damage}")
        if found.damage and not found.end:
            return self._set_all_aside(size, found.damage)
        return self._resume(found, size)

    def _open_leftover(self) -> int:
        """Open the file an earlier owner left, if there is one; its size."""
        try:
            self._fd = os.open(self._path, _FILE | os.O_NONBLOCK)
        except FileNotFoundError:
            return 0
        except OSError as exc:
            if exc.errno not in {errno.ELOOP, errno.EISDIR}:
                raise
            raise self._not_ours() from exc
        info = os.fstat(self._fd)
        if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid():
            raise self._not_ours()
        return info.st_size

    def _not_ours(self) -> BackendError:
        return BackendError(
            f"{self._path} is not a regular file of this user: move it away, or use another "
            "directory"
        )

    def _set_all_aside(self, size: int, reason: str) -> RecoveryReport:
        os.close(self._fd)
        self._fd = -1
        aside = recovery.move_aside(self._path)
        return RecoveryReport(quarantined_bytes=size, quarantine=aside, reason=reason)

    def _resume(self, found: recovery.Survey, size: int) -> RecoveryReport:
        aside = None
        if size - found.end >= HEADER_BYTES:
            aside = recovery.move_part_aside(self._fd, self._path, found.end, size)
        else:
            os.ftruncate(self._fd, found.end)
        self._tail = found.end
        self._unread = found.records
        return RecoveryReport(
            records=found.records,
            size_bytes=found.end,
            torn_bytes=found.torn,
            quarantined_bytes=size - found.end if aside else 0,
            quarantine=aside,
            reason=found.damage or ("the last record is unfinished" if aside else ""),
        )

    def _close_file(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
