"""What an earlier owner left in an overflow file: reading it, and setting parts of it aside."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hq_backends.file.format import HEADER_BYTES, record_bytes
from hq_core.errors import CorruptedData

__all__ = ["Survey", "copy", "move_aside", "move_part_aside", "survey"]

_BLOCK: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Survey:
    """A file's whole records, and why the reading ended where it did."""

    records: int
    """Whole records from the start of the file on."""
    end: int
    """Offset behind the last of them."""
    torn: int
    """Bytes of an unfinished record at the end."""
    damage: str
    """Why what is behind `end` cannot be read; empty if it can, or is merely torn."""


def survey(fd: int, size: int) -> Survey:
    """Walk the headers of a file of `size` bytes; constant memory, payloads are not looked at."""
    if _starts_with_hole(fd, size):
        return Survey(0, 0, 0, "its start was given back and the read position is not known")
    records = offset = 0
    block, block_start = b"", 0
    while offset + HEADER_BYTES <= size:
        at = offset - block_start
        if at + HEADER_BYTES > len(block):
            block, block_start, at = os.pread(fd, _BLOCK, offset), offset, 0
        try:
            length = record_bytes(block[at : at + HEADER_BYTES])
        except CorruptedData as exc:
            return Survey(records, offset, 0, str(exc))
        if offset + length > size:
            break
        offset += length
        records += 1
    return Survey(records, offset, size - offset, "")


def move_part_aside(fd: int, path: Path, start: int, end: int) -> Path:
    """Move bytes `start` to `end`, the last ones of the file at `path`, to a new file beside it.

    Returns the new file, ``<path>.quarantine-N``. Cuts nothing unless the copy is complete.
    """
    target, out = _new_file(path)
    try:
        copy(fd, out, start, end)
    except BaseException:
        target.unlink()
        raise
    finally:
        os.close(out)
    os.ftruncate(fd, start)
    return target


def move_aside(path: Path) -> Path:
    """Rename the file at `path` to ``<path>.quarantine-N``, and return that."""
    target, out = _new_file(path)
    os.close(out)
    return path.rename(target)


def copy(source: int, target: int, start: int, end: int) -> None:
    """Append bytes `start` to `end` of one file to another, within the kernel."""
    while start < end:
        count = os.sendfile(target, source, start, end - start)
        if not count:
            raise OSError(errno.EIO, "the file is shorter than it was")
        start += count


def _new_file(path: Path) -> tuple[Path, int]:
    number = 1
    while True:
        target = path.with_name(f"{path.name}.quarantine-{number}")
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            return target, os.open(target, flags, 0o600)
        except FileExistsError:
            number += 1


def _starts_with_hole(fd: int, size: int) -> bool:
    try:
        return size > 0 and os.lseek(fd, 0, os.SEEK_DATA) > 0
    except OSError as exc:
        if exc.errno == errno.ENXIO:  # nothing but a hole
            return True
        raise
