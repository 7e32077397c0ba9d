"""The two files of a stream, as descriptors: opened with care, written whole, flushed once.

Nothing here knows what the bytes mean.
"""

import errno
import os
import stat
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from typing_extensions import override

from hq_backends.file.position import SIDECAR_BYTES, SLOT_SPACING, Position, encode, whole
from hq_core.errors import BackendError

__all__ = [
    "DataFile",
    "OpenFile",
    "Sidecar",
    "identity",
    "next_data",
    "next_hole",
    "read_at",
    "slots",
]

_FILE: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_BUFFERS_A_CALL: Final = 512
"""Most buffers in one `pwritev`: half the system's limit, and enough to make the call cheap."""
_BYTES_A_CALL: Final = 1024 * 1024
"""Most bytes in one `pwritev`, unless one record has more: longer calls are at times slower."""


class OpenFile:
    """A descriptor, -1 if there is none, and the name of its file, for messages."""

    def __init__(self, path: Path, fd: int = -1) -> None:
        self.path = path
        self.fd = fd

    def size(self) -> int:
        """Bytes in it."""
        return os.fstat(self.fd).st_size

    def close(self) -> None:
        """Let go of it. Idempotent."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class _File(OpenFile):
    """A regular file of this user's in the stream's directory, not opened until asked for.

    Others may rename, remove or replace it. So what its name is given to is looked at before that
    is cut, removed or renamed: what is not ours is left alone.
    """

    def __init__(self, path: Path, dir_fd: int) -> None:
        super().__init__(path)
        self.dir_fd: Final = dir_fd
        self.identity: tuple[int, int] | None = None
        """Device and inode, once they are known."""
        self._in_making = False  # there may be one, if an interrupt came while it was made

    def open(self) -> bool:
        """Open what is there; False: nothing is. Raises `BackendError` if it cannot be ours."""
        try:
            self.fd = os.open(self.path.name, _FILE | os.O_NONBLOCK, dir_fd=self.dir_fd)
        except FileNotFoundError:
            return False
        except OSError as exc:
            if exc.errno not in {errno.ELOOP, errno.EISDIR}:
                raise
            raise self._not_ours() from exc
        try:
            self.identity = self._checked()
        except BaseException:
            self.close()
            raise
        return True

    def _checked(self) -> tuple[int, int]:
        info = os.fstat(self.fd)
        if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid():
            raise self._not_ours()
        if info.st_nlink > 1:
            raise BackendError(
                f"{self.path} has another name elsewhere, a hard link, and what is done to it "
                "would be done to that: remove either, or use another directory"
            )
        return identity(info)

    def create(self) -> None:
        """Make it; there must be none, but for one whose making was interrupted."""
        if self._in_making and self._adopt():
            return
        self._in_making = True
        try:
            fd = os.open(self.path.name, _FILE | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self.dir_fd)
        except OSError:
            self._in_making = False
            raise
        try:
            self.identity = identity(os.fstat(fd))
        except OSError:  # the next call finds it in the making
            os.close(fd)
            raise
        self.fd, self._in_making = fd, False

    def named(self) -> tuple[int, int] | None:
        """Device and inode of what has its name; None if nothing has."""
        try:
            return identity(os.stat(self.path.name, dir_fd=self.dir_fd, follow_symlinks=False))
        except FileNotFoundError:
            return None

    def has_name(self, fd: int) -> bool:
        """Whether the file `fd` has this one's name."""
        return self.named() == identity(os.fstat(fd))

    def is_ours(self) -> bool:
        """Whether the file is there, or was until its closing was interrupted, and has its name."""
        if self._in_making:
            self._adopt()
        return self.identity is not None and self.named() == self.identity

    def was_removed(self) -> bool:
        """Whether the file has no name any more."""
        return os.fstat(self.fd).st_nlink == 0

    def empty(self) -> None:
        """Leave nothing in it, if it is ours: a forked child may keep it in being."""
        if self.is_ours() and self.fd >= 0:
            os.ftruncate(self.fd, 0)

    def remove(self) -> None:
        """Remove it, if it is ours, and let go of it."""
        if self.is_ours():
            os.unlink(self.path.name, dir_fd=self.dir_fd)
        self.let_go()

    def let_go(self) -> None:
        """Have no file, whatever becomes of the one there was."""
        self.identity = None
        self.close()

    def rename(self, path: Path) -> bool:
        """Give it the name of `path`, in the same directory, if it is ours; whether it was."""
        is_ours = self.is_ours()
        if is_ours:
            os.rename(self.path.name, path.name, src_dir_fd=self.dir_fd, dst_dir_fd=self.dir_fd)
        return is_ours

    def _adopt(self) -> bool:
        """Open the empty file that an interrupt left in the making; whether there is one."""
        with suppress(BackendError):
            if self.open() and not self.size():
                self._in_making = False
                return True
        self.identity, self._in_making = None, False
        self.close()
        return False

    def _not_ours(self) -> BackendError:
        return BackendError(
            f"{self.path} is not a regular file of this user: move it away, or use another "
            "directory"
        )


class DataFile(_File):
    """The records."""

    def __init__(self, path: Path, dir_fd: int) -> None:
        super().__init__(path, dir_fd)
        self.flush_failed = ""
        """Why flushing failed, once it has."""
        self.named_on_disk = False
        """Whether the directory was flushed since the file has its name."""
        self.in_place: Final = threading.Lock()
        """Held by whoever flushes the file: it is not replaced meanwhile."""

    def inode(self) -> int:
        """The number of the file."""
        assert self.identity
        return self.identity[1]

    def astray(self, end: int, *, grown: bool) -> str:
        """What somebody else has done to the file, which should go on to `end`; mostly nothing.

        Who has the name matters if it has `grown`: what was there before may be somebody's backup.
        """
        info = os.fstat(self.fd)
        if info.st_size < end:
            return "was cut short"
        if info.st_nlink and not grown:
            return ""
        named = self.named()
        if named == self.identity:
            return ""
        return "was removed, or moved away" if named is None else "is another file by now"

    def write(self, buffers: Sequence[bytes], at: int) -> int:
        """Write all of `buffers` from offset `at` on; how many bytes they were."""
        written = first = 0
        while first < len(buffers):
            part, size = buffers, sum(map(len, buffers))
            if first or len(part) > _BUFFERS_A_CALL or size > _BYTES_A_CALL:
                part, size = self._part(buffers, first)
            done = os.pwritev(self.fd, part, at + written)
            if done < size:  # a signal, or a disk about to be full: go on behind what is there
                rest = memoryview(b"".join(part))
                while done < size:
                    done += os.pwrite(self.fd, rest[done:], at + written + done)
            first += len(part)
            written += size
        return written

    def cut(self, end: int) -> None:
        """Let it end at `end`."""
        os.ftruncate(self.fd, end)

    def flush(self) -> None:
        """Make what was written survive power loss. Once it has failed it fails for ever.

        The system reports a failed flush once and forgets what was not written: later ones would
        succeed and prove nothing.
        """
        if self.flush_failed:
            raise OSError(errno.EIO, f"an earlier flush failed: {self.flush_failed}; reopen")
        try:
            os.fdatasync(self.fd)
            if not self.named_on_disk:
                os.fsync(self.dir_fd)
                self.named_on_disk = True
        except OSError as exc:
            self.flush_failed = str(exc)
            raise OSError(errno.EIO, f"{self.path} could not be flushed: {exc}") from exc

    @staticmethod
    def _part(buffers: Sequence[bytes], first: int) -> tuple[Sequence[bytes], int]:
        """Buffers from `first` on for one call, and their size; a record's stay together."""
        part = buffers[first : first + _BUFFERS_A_CALL]
        size = sum(map(len, part))
        while size > _BYTES_A_CALL and len(part) > 2:
            part = part[: len(part) // 2 + len(part) // 2 % 2]
            size = sum(map(len, part))
        return part, size


class Sidecar(_File):
    """The read position: where the records begin that are not done."""

    def __init__(self, path: Path, dir_fd: int) -> None:
        super().__init__(path, dir_fd)
        self._sequence = 0

    @override
    def create(self) -> None:
        """See `_File`; its space is reserved, so that it can be written on a full disk."""
        try:
            super().create()
            os.posix_fallocate(self.fd, 0, SIDECAR_BYTES)
        except BaseException:
            if self.fd >= 0:
                self.remove()
            raise

    def read(self) -> list[Position]:
        """The two last positions written, the newer one first; fewer if they cannot be read."""
        found = whole(slots(self.fd))
        if found:
            self._sequence = found[0][0]
        return [position for _, position in found]

    def write(self, position: Position) -> None:
        """Write `position` over the older of the two slots."""
        sequence = self._sequence + 1
        slot = encode(position, sequence)
        if os.pwrite(self.fd, slot, sequence % 2 * SLOT_SPACING) < len(slot):
            raise OSError(errno.EIO, f"{self.path} was not written as a whole")
        self._sequence = sequence

    def flush(self) -> None:
        """Make the position survive power loss."""
        os.fdatasync(self.fd)


def identity(info: os.stat_result) -> tuple[int, int]:
    """What tells a file from all others that there are."""
    return info.st_dev, info.st_ino


def slots(fd: int) -> list[bytes]:
    """The two slots of a sidecar, whole or not."""
    return [read_at(fd, SLOT_SPACING, offset) for offset in (0, SLOT_SPACING)]


def read_at(fd: int, size: int, offset: int) -> bytes:
    """`size` bytes from `offset` on; fewer only if the file ends there.

    One call may return less, as when the disk fails amid it: the next one says so.
    """
    data = os.pread(fd, size, offset)
    while len(data) < size:
        more = os.pread(fd, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def next_data(fd: int, start: int, end: int) -> int:
    """Where a hole at `start` ends, at most `end`; `start` itself if there is none."""
    try:
        return min(os.lseek(fd, start, os.SEEK_DATA), end)
    except OSError as exc:
        if exc.errno == errno.ENXIO:  # nothing but a hole from there on
            return end
        raise


def next_hole(fd: int, start: int) -> int:
    """Where the first hole from `start` on begins; the end of the file counts as one."""
    try:
        return os.lseek(fd, start, os.SEEK_HOLE)
    except OSError as exc:
        if exc.errno == errno.ENXIO:
            return start
        raise
