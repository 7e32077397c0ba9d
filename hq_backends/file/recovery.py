"""What an earlier owner left in an overflow file: finding it."""

import errno
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from hq_backends.file.checked import PREAMBLE_BYTES, Checked, checked_of
from hq_backends.file.files import read_at
from hq_backends.file.format import Format, Plain
from hq_backends.file.position import Position
from hq_core.errors import CorruptedData
from hq_core.protocols import MAX_MESSAGE_BYTES

__all__ = [
    "Survey",
    "boot_id",
    "find",
    "format_of",
    "holding",
]

_BLOCK: Final = 64 * 1024
_PAGE: Final = 4096
_ZEROS: Final = "zeros, such as a power cut leaves, are no records"
_POSITION_LOST: Final = "its start was given back and the read position is not known"


@dataclass(frozen=True, slots=True)
class Survey:
    """The whole records in a stretch of a file, and why the reading ended where it did."""

    head: int
    """Offset of the first of them."""
    records: int
    """How many there are."""
    end: int
    """Offset behind the last of them."""
    torn: int = 0
    """Bytes behind `end` that no append has left whole."""
    damage: str = ""
    """Why what is behind `end` cannot be read; empty if it can, or is merely torn."""
    why_torn: str = "the last record is unfinished"
    """What the bytes torn are."""
    counted: int = 0
    """How many of them the position has counted, so that they were not walked."""
    counted_to: int = 0
    """Offset behind those."""
    voids: int = 0
    """Bytes between them that hold no record any more, see `Checked.void`."""
    voids_to: int = 0
    """There are none of these from here on."""


def boot_id() -> bytes:
    """Which run of the operating system this is, 16 bytes; zeros if it does not say."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text("ascii")
    except OSError:
        return bytes(16)
    return bytes.fromhex(text.replace("-", ""))


def format_of(fd: int) -> Format:
    """The format that a file's first bytes tell."""
    return checked_of(read_at(fd, PREAMBLE_BYTES, 0)) or Plain()


def holding(inode: int, form: Format, noted: Position | None) -> tuple[Format, Position | None]:
    """The format of a file, and what was `noted` of it; None if that is about another file."""
    if noted and noted.inode != inode:
        noted = None
    if noted and noted.seed and not form.seed:
        form = Checked(noted.seed)  # its preamble is damaged; each record tells if it is whole
    if noted and noted.seed != form.seed:
        noted = None
    return form, noted


def find(
    fd: int, size: int, form: Format, noted: Position | None, boot: bytes, *, blank: bool
) -> Survey:
    """The records that are not done in a file of `size` bytes, given what its sidecar says.

    `blank`: there is one, and it says nothing, as after a power cut before it was first flushed.

    In constant memory. What the sidecar counted is not walked again, so a large backlog opens at
    once, unless the system has gone down since and the data had not been flushed.
    """
    first = len(form.preamble)
    if noted is None or noted.head > size:  # the latter: truncated, and then the crash came
        if _is_hole(fd, first, size):
            return Survey(first, 0, first, damage=_POSITION_LOST)
        power_was_cut = blank if noted is None else noted.boot != boot
        least = 0 if power_was_cut else _PAGE
        return walk(fd, form, first, size, zeros_from=first, least_zeros=least)
    same_boot = noted.boot == boot != bytes(16)
    sure = noted.tail if same_boot else max(noted.committed, noted.head)
    if noted.tail <= size and _is_possible(noted, form) and _reaches_tail(fd, form, noted, sure):
        rest = walk(fd, form, noted.tail, size, zeros_from=None if same_boot else noted.tail)
        return replace(
            rest,
            head=noted.head,
            records=noted.records + rest.records,
            counted=noted.records,
            counted_to=noted.tail,
        )
    return _walk_all(fd, size, form, noted, None if same_boot else noted.committed)


def _is_possible(noted: Position, form: Format) -> bool:
    size, least = noted.tail - noted.head, form.header_bytes
    return noted.records * least <= size <= noted.records * (least + MAX_MESSAGE_BYTES)


def _reaches_tail(fd: int, form: Format, noted: Position, sure: int) -> bool:
    """Whether records follow one another from `sure` to the tail that was noted."""
    if sure > noted.tail:
        return False
    found = walk(fd, form, sure, noted.tail, zeros_from=sure)
    return found.end == noted.tail and (sure > noted.head or found.records == noted.records)


def _walk_all(fd: int, size: int, form: Format, noted: Position, zeros_from: int | None) -> Survey:
    """`find`, when what was counted may not be what is there."""
    first, head = len(form.preamble), noted.head
    is_whole = not _is_hole(fd, first, size)
    if is_whole and noted.committed < head and walk(fd, form, first, head).end != head:
        head = first  # the position is of an earlier or a later state of the file
    return walk(fd, form, head, size, zeros_from=zeros_from)


def walk(
    fd: int,
    form: Format,
    start: int,
    end: int,
    *,
    zeros_from: int | None = None,
    least_zeros: int = 0,
) -> Survey:
    """Walk the headers between two offsets; payloads are not looked at, voids not counted.

    From `zeros_from` on, zeros where a record would begin are not empty records, but what a power
    cut leaves on some systems, if they go on up to `end` or to the end of a page, and are
    `least_zeros` bytes or more.
    """
    records, offset, zeros = 0, start, 0
    voids = voids_to = 0
    block, block_start = b"", 0
    while offset + form.header_bytes <= end:
        at = offset - block_start
        if at + form.header_bytes > len(block):
            block, block_start, at = read_at(fd, _BLOCK, offset), offset, 0
        header = block[at : at + form.header_bytes]
        try:
            length = form.record_bytes(header)
        except CorruptedData as exc:
            return Survey(start, records, offset, damage=str(exc), voids=voids, voids_to=voids_to)
        if offset + length > end:
            break
        if form.is_void(header) and not _is_whole(fd, form, header, offset, length):
            offset += length
            voids, voids_to = voids + length, offset
            continue
        if zeros_from is not None and offset >= zeros_from and not any(header):
            if zeros <= offset:
                zeros = _zeros_end(fd, offset, end)
            page = -(-(offset + 1) // _PAGE) * _PAGE
            if (zeros == end or zeros >= page) and zeros - offset >= least_zeros:
                return Survey(start, records, offset, end - offset, why_torn=_ZEROS)
        offset += length
        records += 1
    return Survey(start, records, offset, end - offset, voids=voids, voids_to=voids_to)


def _is_whole(fd: int, form: Format, header: bytes, offset: int, size: int) -> bool:
    """Whether the record at `offset` is whole, though its header looks void by chance."""
    try:
        form.verify(header, read_at(fd, size - form.header_bytes, offset + form.header_bytes))
    except CorruptedData:
        return False
    return True


def _is_hole(fd: int, start: int, size: int) -> bool:
    """Whether a file with `size` bytes has a hole where its records begin."""
    start = -(-start // _PAGE) * _PAGE  # what is before the first record is never given back
    try:
        return size > start and os.lseek(fd, start, os.SEEK_DATA) > start
    except OSError as exc:
        if exc.errno == errno.ENXIO:  # nothing but a hole from there on
            return True
        raise


def _zeros_end(fd: int, start: int, end: int) -> int:
    """Where the zeros that begin at `start` end."""
    while start < end:
        block = os.pread(fd, min(_BLOCK, end - start), start)
        if any(block):
            return start + len(block) - len(block.lstrip(b"\0"))
        if not block:
            break
        start += len(block)
    return end
