"""Setting aside what cannot be read, or is not wanted: a copy of it, or the file itself."""

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from hq_backends.file.files import DataFile, Sidecar, read_at
from hq_backends.file.format import Format
from hq_core.errors import BackendError
from hq_core.protocols import Stream

__all__ = ["NEW_FILE", "OUT_OF_SPACE", "copy", "copy_aside", "move_aside"]

_SUFFIX: Final = "overflow"
NEW_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
"""How a file is made that is copied to."""
OUT_OF_SPACE: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_BLOCK: Final = 64 * 1024
_ZEROS: Final = bytes(_BLOCK)


def copy_aside(stream: Stream, fd: int, form: Format, parts: Iterable[tuple[int, int]]) -> Path:
    """Copy bytes of the data file `fd`, from offsets to offsets, to a quarantine file; its path.

    Zeros take no space there. Nothing is left behind unless the copy is complete.
    """
    target = stream.quarantine_path(_SUFFIX)
    out = os.open(target.name, NEW_FILE | os.O_EXCL, 0o600, dir_fd=stream.dir_fd)
    try:
        if os.write(out, form.preamble) < len(form.preamble):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for start, end in parts:
            _copy_sparsely(fd, out, start, end)
    except BaseException:
        os.unlink(target.name, dir_fd=stream.dir_fd)
        raise
    finally:
        os.close(out)
    return target


def move_aside(stream: Stream, data: DataFile, sidecar: Sidecar) -> Path:
    """Make a quarantine file of the data file, its position with it, and return that."""
    target = stream.quarantine_path(_SUFFIX)
    if not data.rename(target):
        raise BackendError(f"{data.path} was moved away, or is another file by now")
    sidecar.rename(target.with_name(f"{target.name}.pos"))
    return target


def copy(source: int, target: int, start: int, end: int) -> None:
    """Append bytes `start` to `end` of one file to another, within the kernel."""
    while start < end:
        count = os.sendfile(target, source, start, end - start)
        if not count:
            raise OSError(errno.EIO, "the file is shorter than it was")
        start += count


def _copy_sparsely(source: int, target: int, start: int, end: int) -> None:
    while start < end:
        size = min(_BLOCK, end - start)
        if read_at(source, size, start) == _ZEROS[:size]:
            os.lseek(target, size, os.SEEK_CUR)
        else:
            copy(source, target, start, start + size)
        start += size
    os.ftruncate(target, os.lseek(target, 0, os.SEEK_CUR))
