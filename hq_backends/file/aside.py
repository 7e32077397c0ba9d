"""Setting aside what cannot be read, or is not wanted: a copy of it, or the file itself."""

import errno
import os
from pathlib import Path
from typing import Final

from hq_backends.file.files import DataFile, Sidecar
from hq_core.protocols import Stream

__all__ = ["NEW_FILE", "copy", "move_aside", "move_part_aside"]

_SUFFIX: Final = "overflow"
NEW_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
"""How a file is made that is copied to."""


def move_part_aside(stream: Stream, fd: int, start: int, end: int) -> Path:
    """Copy bytes `start` to `end` of the data file `fd` to a quarantine file, and return that.

    Nothing is left behind unless the copy is complete.
    """
    target = stream.quarantine_path(_SUFFIX)
    out = os.open(target.name, NEW_FILE | os.O_EXCL, 0o600, dir_fd=stream.dir_fd)
    try:
        copy(fd, out, start, end)
    except BaseException:
        os.unlink(target.name, dir_fd=stream.dir_fd)
        raise
    finally:
        os.close(out)
    return target


def move_aside(stream: Stream, data: DataFile, sidecar: Sidecar) -> Path:
    """Make a quarantine file of the data file, its position with it, and return that."""
    target = stream.quarantine_path(_SUFFIX)
    data.rename(target)
    sidecar.rename(target.with_name(f"{target.name}.pos"))
    return target


def copy(source: int, target: int, start: int, end: int) -> None:
    """Append bytes `start` to `end` of one file to another, within the kernel."""
    while start < end:
        count = os.sendfile(target, source, start, end - start)
        if not count:
            raise OSError(errno.EIO, "the file is shorter than it was")
        start += count
