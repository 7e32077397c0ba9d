"""Reading what a stream left, without owning it: `SpoolTools` for the overflow file.

What is found is what opening would find. Plain records follow one another and prove nothing: behind
damage only the tail that the position noted is known to be the start of a record. Records with
checksums prove themselves, so the next one that does is looked for.
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
from hq_backends.file.files import OpenFile, slots
from hq_backends.file.position import Position, whole
from hq_backends.file.proving import stretches
from hq_backends.file.reader import Reader
from hq_core.errors import BackendError, CorruptedData
from hq_core.protocols import MAX_MESSAGE_BYTES, SpoolTools
from hq_core.stats import Damage, Inspection

__all__ = ["FileTools"]

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_BLOCK: Final = 64 * 1024
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
                format="checksummed" if found.form.seed else "plain",
                records=found.records,
                size_bytes=found.end - found.head - found.voids,
                head=found.head,
                tail=found.end,
                position=left.position,
                torn_bytes=found.torn,
                damage=found.damage[0].reason if found.damage else "",
                damage_offset=found.damage[0].offset if found.damage else 0,
                options={"checksum": bool(found.form.seed)},
            )

    @override
    def salvage(self, path: Path) -> Iterator[bytes | Damage]:
        """See `SpoolTools`."""
        with _opened(path) as left:
            form = left.found.form
            yield from left.checked_records() if form.seed else left.plain_records()
            yield from left.torn()


@dataclass
class _Left:
    """A data file as it was found, and what is known of it."""

    data: OpenFile
    found: recovery.Survey
    position: str

    def plain_records(self) -> Iterator[bytes | Damage]:
        """See `SpoolTools.salvage`: up to the damage, and on from where the position counts."""
        found, form, count = self.found, self.found.form, 0
        reader, offset = Reader(self.data, _BLOCK), found.head
        yield from (place for place in found.damage if place.offset < found.head)
        for end in dict.fromkeys((found.unwalked_to, found.end)):
            while offset < end:
                try:
                    records = reader.read(form, offset, end, _MANY, MAX_MESSAGE_BYTES)
                except CorruptedData as damage:
                    yield Damage(offset, end - offset, str(damage))
                    offset = end  # where the position says that a record begins
                    count = found.unwalked  # that they are not all there was told just now
                else:
                    offset += sum(map(len, records)) + len(records) * form.header_bytes
                    count += len(records)
                    yield from records
            if end == found.unwalked_to and count != found.unwalked:
                reason = f"the position counts {found.unwalked} records up to here, not {count}"
                yield Damage(end, 0, reason)
        yield from (place for place in found.damage if place.offset >= found.head)

    def checked_records(self) -> Iterator[bytes | Damage]:
        """See `SpoolTools.salvage`: behind damage, on from the next record a checksum proves.

        Of a void nothing is said: it was damage once, and is in a quarantine file.
        """
        found = self.found
        yield from (place for place in found.damage if place.offset < found.head)
        for stretch in stretches(self.data, found.form, found.head, found.size - found.torn):
            if stretch.reason:
                yield Damage(stretch.start, stretch.end - stretch.start, stretch.reason)
            yield from stretch.records

    def torn(self) -> Iterator[Damage]:
        """What is at the end and belongs to no record."""
        found = self.found
        if found.torn:
            yield Damage(found.size - found.torn, found.torn, found.why_torn)


@contextmanager
def _opened(path: Path) -> Iterator[_Left]:
    data = OpenFile(path, _open(path))
    try:
        positions = _positions(path.with_name(f"{path.name}.pos"))
        found = recovery.find(data, positions)
        if positions is None:
            position = "missing"
        elif not positions:
            position = "unreadable"
        elif found.noted is not None:
            position = "good"
        elif positions[0].head > found.size:
            position = "behind the end of the file"
        elif positions[0].inode != os.fstat(data.fd).st_ino:
            position = "of another file"
        else:
            position = "not proven"
        yield _Left(data, found, position)
    finally:
        data.close()


def _positions(path: Path) -> list[Position] | None:
    """What the sidecar at `path` says, the newer position first; None: there is none."""
    try:
        fd = _open(path)
    except FileNotFoundError:
        return None
    try:
        return [position for _, position in whole(slots(fd))]
    finally:
        os.close(fd)


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
