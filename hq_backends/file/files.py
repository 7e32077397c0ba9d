"""The two files of a stream, as descriptors: opened with care, written whole, flushed once.

Nothing here knows what the bytes mean.
"""

import errno
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from typing_extensions import override

from hq_backends.file.position import SIDECAR_BYTES, SLOT_SPACING, Position, encode, newest
from hq_core.errors import BackendError

__all__ = ["DataFile", "OpenFile", "Sidecar", "read_at", "slots"]

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

    def inode(self) -> int:
        """What tells it from a file of the same name."""
        return os.fstat(self.fd).st_ino

    def close(self) -> None:
        """Let go of it. Idempotent."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class _File(OpenFile):
    """A regular file of this user's in the stream's directory, not opened until asked for."""

    def __init__(self, path: Path, dir_fd: int) -> None:
        super().__init__(path)
        self.dir_fd: Final = dir_fd
        self._is_there = False  # or may be, if an interrupt came while it was made

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
        info = os.fstat(self.fd)
        if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid():
            raise self._not_ours()
        if info.st_nlink > 1:
            raise BackendError(
                f"{self.path} has another name elsewhere, a hard link, and what is done to it "
                "would be done to that: remove either, or use another directory"
            )
        self._is_there = True
        return True

    def create(self) -> None:
        """Make it; there must be none, but for one whose making was interrupted."""
        if self._is_there:
            self._unlink()
        self._is_there = True
        try:
            self.fd = os.open(
                self.path.name, _FILE | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self.dir_fd
            )
        except OSError:
            self._is_there = False
            raise

    def delete(self) -> None:
        """Remove it, if it was opened or made."""
        try:
            if self.fd >= 0:
                os.ftruncate(self.fd, 0)  # a forked child may keep the file in being
        finally:
            self.close()
            if self._is_there:
                self._unlink()
            self._is_there = False

    def rename(self, path: Path) -> None:
        """Give it the name of `path`, a path in the same directory, and let go of it."""
        if self._is_there:
            os.rename(self.path.name, path.name, src_dir_fd=self.dir_fd, dst_dir_fd=self.dir_fd)
        self._is_there = False
        self.close()

    def _unlink(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self.path.name, dir_fd=self.dir_fd)

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

    def has_name(self, fd: int) -> bool:
        """Whether the file `fd` has this one's name."""
        named = os.stat(self.path.name, dir_fd=self.dir_fd, follow_symlinks=False)
        return os.path.samestat(named, os.fstat(fd))

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
            self.delete()
            raise

    def read(self) -> Position | None:
        """The last position written; None if none can be read."""
        found = newest(slots(self.fd))
        if found is None:
            return None
        self._sequence, position = found
        return position

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
