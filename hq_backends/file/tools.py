"""Reading what a stream left, without owning it: `SpoolTools` for the overflow file.

Plain records follow one another and prove nothing: behind damage only the tail that the position
noted is known to be the start of a record. Records with checksums prove themselves, so the next
one that does is looked for, byte by byte.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from typing_extensions import override

from hq_backends.file import recovery
from hq_backends.file.files import OpenFile, read_at, slots
from hq_backends.file.format import Format
from hq_backends.file.position import Position, newest
from hq_backends.file.reader import Reader
from hq_core.errors import BackendError, CorruptedData
from hq_core.protocols import MAX_MESSAGE_BYTES, SpoolTools
from hq_core.stats import Damage, Inspection

__all__ = ["FileTools"]

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_BLOCK: Final = 64 * 1024
_SEARCH_BYTES: Final = 4 * 1024 * 1024 * 1024
"""Most bytes whose checksum is taken in search of records: a few seconds. Only a file made for it
takes more."""
_MANY: Final = 1000


class FileTools(SpoolTools):
    """``<stream>.overflow`` and its position, opened for reading."""

    suffix: str = ".overflow"
    companions: tuple[str, ...] = (".pos",)

    @override
    def inspect(self, path: Path) -> Inspection:
        """See `SpoolTools`; walks the headers of what the position has not counted."""
        with _opened(path) as left:
            found = left.found
            return Inspection(
                format="checksummed" if left.form.seed else "plain",
                records=found.records,
                size_bytes=found.end - found.head - found.voids,
                head=found.head,
                tail=found.end,
                position=left.position,
                torn_bytes=found.torn,
                damage=found.damage,
                options={"checksum": bool(left.form.seed)},
            )

    @override
    def salvage(self, path: Path) -> Iterator[bytes | Damage]:
        """See `SpoolTools`."""
        with _opened(path) as left:
            yield from left.checked_records() if left.form.seed else left.plain_records()


@dataclass
class _Left:
    """A data file as it was found, and what is known of it."""

    data: OpenFile
    size: int
    form: Format
    found: recovery.Survey
    position: str

    def plain_records(self) -> Iterator[bytes | Damage]:
        """See `SpoolTools.salvage`: up to the damage, and on from where the position counts."""
        found, count = self.found, 0
        reader, offset = Reader(self.data, _BLOCK), found.head
        for end in dict.fromkeys((found.counted_to, found.end)):
            while offset < end:
                try:
                    records = reader.read(self.form, offset, end, _MANY, MAX_MESSAGE_BYTES)
                except CorruptedData as damage:
                    yield Damage(offset, end - offset, str(damage))
                    offset = end  # where the position says that a record begins
                    count = found.counted  # that they are not all there was told just now
                else:
                    offset += self._bytes(records)
                    count += len(records)
                    yield from records
            if end == found.counted_to and count != found.counted:
                reason = f"the position counts {found.counted} records up to here, not {count}"
                yield Damage(end, 0, reason)
        if found.damage:
            yield Damage(found.end, self.size - found.end, found.damage)

    def checked_records(self) -> Iterator[bytes | Damage]:
        """See `SpoolTools.salvage`: behind damage, on from the next record a checksum proves.

        Of a void nothing is said: it was damage once, and is in a quarantine file.
        """
        reader, search = Reader(self.data, _BLOCK), _Search(self.data.fd, self.form, self.size)
        offset = self.found.head
        while offset < self.size:
            try:
                records = reader.read(self.form, offset, self.size, _MANY, MAX_MESSAGE_BYTES)
            except CorruptedData as damage:
                void = reader.void_bytes(self.form, offset, self.size)
                end = offset + void if void else search.next_whole(offset + 1)
                if not void and (end < self.size or not self._is_torn(offset)):
                    yield Damage(offset, end - offset, str(damage))
                offset = end
            else:
                offset += self._bytes(records)
                yield from records

    def _bytes(self, records: list[bytes]) -> int:
        return sum(map(len, records)) + len(records) * self.form.header_bytes

    def _is_torn(self, start: int) -> bool:
        """Whether what is at `start` may be the beginning of a record, cut short by the end.

        Not if the position has counted records there, or there is damage behind it.
        """
        if start < self.found.end or self.found.damage:
            return False
        header = read_at(self.data.fd, self.form.header_bytes, start)
        try:
            return len(header) < self.form.header_bytes or (
                start + self.form.record_bytes(header) > self.size
            )
        except CorruptedData:
            return False


class _Search:
    """Looks for records that their checksums prove."""

    def __init__(self, fd: int, form: Format, size: int) -> None:
        self._fd = fd
        self._form = form
        self._size = size
        self._left = _SEARCH_BYTES

    def next_whole(self, start: int) -> int:
        """Offset of the first such record from `start` on; the end of the file if there is none."""
        header_bytes = self._form.header_bytes
        while start + header_bytes <= self._size and self._left > 0:
            block = read_at(self._fd, _BLOCK, start)
            at = block.find(0)  # the first byte of every length there may be
            while 0 <= at <= len(block) - header_bytes:
                header = block[at : at + header_bytes]
                if self._is_whole(header, start + at):
                    return start + at
                if not any(header):  # nor is there one in the rest of the zeros
                    at = len(block) - len(block[at:].lstrip(b"\0")) - header_bytes
                at = block.find(0, at + 1)
            start += max(len(block) - header_bytes + 1, 1)
        return self._size

    def _is_whole(self, header: bytes, start: int) -> bool:
        try:
            size = self._form.record_bytes(header)
            if start + size > self._size or self._left <= 0:
                return False
            self._left -= size
            body = self._form.header_bytes
            self._form.verify(header, read_at(self._fd, size - body, start + body))
        except CorruptedData:
            return False
        return True


@contextmanager
def _opened(path: Path) -> Iterator[_Left]:
    data = OpenFile(path, _open(path))
    try:
        size, inode = data.size(), data.inode()
        found_there, noted = _noted(path.with_name(f"{path.name}.pos"))
        form, held = recovery.holding(inode, recovery.format_of(data.fd), noted)
        blank = found_there and noted is None
        found = recovery.find(data.fd, size, form, held, recovery.boot_id(), blank=blank)
        if not found_there:
            position = "missing"
        elif noted is None:
            position = "unreadable"
        elif held is None:
            position = "of another file"
        elif held.head > size:
            position = "behind the end of the file"
        else:
            position = "good" if held.head == found.head else "not at a record"
        yield _Left(data, size, form, found, position)
    finally:
        data.close()


def _noted(path: Path) -> tuple[bool, Position | None]:
    """Whether there is a sidecar at `path`, and what it says."""
    try:
        fd = _open(path)
    except FileNotFoundError:
        return False, None
    try:
        found = newest(slots(fd))
    finally:
        os.close(fd)
    return True, found[1] if found else None


def _open(path: Path) -> int:
    try:
        fd = os.open(path, _READ)
    except OSError as exc:
        if exc.errno != errno.ELOOP:
            raise
        raise BackendError(f"{path} is a symbolic link: name the file itself") from exc
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise BackendError(f"{path} is not a regular file")
    return fd
