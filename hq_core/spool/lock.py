"""One owner a stream, whatever its backend: an exclusive `flock` on ``<stream>.lock``.

`flock`, since it sees a second opener in the same process too, which POSIX locks do not. The lock
file is removed with the queue, under its own lock, so that a million short-lived streams leave
nothing behind. A new owner therefore checks that the file it locked still has the name, and starts
over if not: between its open and its lock, the owner before it may have left.

A tool such as `hq cat` may be run by root, and killed: what it leaves must not shut the owner out.
So it only locks a lock file that is there, and leaves it. One that it makes is the owner's, and
locked, from the moment it has its name.

A forked child inherits descriptors, and with them locks. It closes its parent's; and no fork
happens while one is being taken, or the child would not know of it.
"""

import errno
import fcntl
import os
import re
import threading
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Final

from hq_core.errors import BackendError, StreamBusyError
from hq_core.spool.directory import Directory

__all__ = ["StreamLock", "owner"]

_LOCKS: Final = Path("/proc/locks")
_MOUNTS: Final = Path("/proc/self/mountinfo")
_FLAGS: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAY_NOT_WRITE: Final = {errno.EROFS, errno.EACCES, errno.EPERM}

_taken: weakref.WeakSet["StreamLock"] = weakref.WeakSet()
_forking = threading.RLock()


class StreamLock:
    """The lock of the stream with the file name `file_name`; free until `acquire`."""

    def __init__(self, directory: Directory, file_name: str, stream_id: str) -> None:
        self._directory = directory
        self._name = f"{file_name}.lock"
        self.path = directory.path / self._name
        """The lock file; for messages."""
        self._stream_id = stream_id
        self._is_found = False
        """Whether a tool has found the lock file, and is to leave it."""
        self._fd = -1

    def acquire(self, data: os.stat_result | None = None) -> None:
        """Own the stream. Raises `StreamBusyError` if it has an owner, and `OSError`.

        `data` is for tools: the data file, whose owner is to be able to use what a killed tool
        leaves. `OSError` if that cannot be made sure of, then nothing is left.
        """
        with _forking:
            _taken.add(self)
            try:
                while not self._is_named():
                    self.abandon()
                    self._open(data)
                    fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.abandon()
                raise StreamBusyError(
                    f"the stream {self._stream_id!r} in {self._directory.path} is open in another "
                    "queue: close that one, or use another stream id or directory"
                ) from None
            except BaseException:
                self.abandon()
                raise

    def release(self) -> None:
        """Remove the lock file, if it is still ours, and let the next owner in. Idempotent.

        Raises `BackendError` if it cannot be removed; the stream is free all the same.
        """
        try:
            if not self._is_found and self._is_named():
                os.unlink(self._name, dir_fd=self._directory.fd)  # relative
        except FileNotFoundError:
            pass
        except OSError as exc:
            self.abandon()
            raise BackendError(
                f"{self.path} cannot be removed: {exc.strerror}; the stream is free all the same"
            ) from exc
        self.abandon()

    def abandon(self) -> None:
        """Close the descriptor, which is all that a forked child has of the lock. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _open(self, data: os.stat_result | None) -> None:
        """Open the lock file, or make one."""
        if data is not None:
            self._is_found = True
            with suppress(FileNotFoundError):
                self._fd = self._open_found()
                return
            self._is_found = False
            if data.st_uid != os.geteuid():
                self._make_for(data)
                return
        self._fd = os.open(
            self._name, os.O_RDWR | os.O_CREAT | _FLAGS, 0o600, dir_fd=self._directory.fd
        )

    def _open_found(self) -> int:
        try:
            return os.open(self._name, os.O_RDWR | _FLAGS, dir_fd=self._directory.fd)
        except OSError as exc:
            if exc.errno not in _MAY_NOT_WRITE:
                raise
            return os.open(self._name, os.O_RDONLY | _FLAGS, dir_fd=self._directory.fd)

    def _make_for(self, data: os.stat_result) -> None:
        """Make a lock file of the user whose `data` is; it is locked before it has its name."""
        flags = os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC
        self._fd = os.open(".", flags, 0o600, dir_fd=self._directory.fd)
        os.fchown(self._fd, data.st_uid, data.st_gid)
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with suppress(FileExistsError):  # then theirs is found in the next round
            os.link(f"/proc/self/fd/{self._fd}", self._name, dst_dir_fd=self._directory.fd)

    def _is_named(self) -> bool:
        """Whether the file that is locked is the one that has the name."""
        if self._fd < 0:
            return False
        try:
            named = os.stat(self._name, dir_fd=self._directory.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(self._fd))


def owner(path: Path) -> int | None:
    """Process id of whoever holds the lock file at `path`; None if nobody is seen to.

    Only asks, as trying the lock would turn away a queue that opens at this moment. Owners in
    another container are not seen. Two subvolumes of one btrfs file system are one device here:
    the owner of the file with the same inode number in the other one may be named.
    """
    try:
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        file = f"{_device(fd)}:{os.fstat(fd).st_ino}"
        locks = _LOCKS.read_text("ascii")
    except OSError:
        return None
    finally:
        os.close(fd)
    held = re.search(rf"(?m)^\d+: FLOCK +ADVISORY +WRITE +(\d+) {file} ", locks)
    return int(held[1]) if held else None


def _device(fd: int) -> str:
    """The device of the file `fd` as the list of locks has it.

    That of its file system, which the list of mounts tells. On btrfs and overlayfs a file itself
    tells another; it is asked where the mount is not listed.
    """
    mount = re.search(r"(?m)^mnt_id:\s*(\d+)$", Path(f"/proc/self/fdinfo/{fd}").read_text("ascii"))
    mounts = _MOUNTS.read_text("utf-8", "surrogateescape")
    listed = mount and re.search(rf"(?m)^{mount[1]} \d+ (\d+):(\d+) ", mounts)
    device = os.fstat(fd).st_dev
    major, minor = map(int, listed.groups()) if listed else (os.major(device), os.minor(device))
    return f"{major:02x}:{minor:02x}"


def _after_fork_in_child() -> None:
    _forking.release()
    for lock in _taken:
        lock.abandon()


os.register_at_fork(
    before=_forking.acquire,
    after_in_parent=_forking.release,
    after_in_child=_after_fork_in_child,
)
