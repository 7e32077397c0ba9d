"""One owner a stream, whatever its backend: an exclusive `flock` on ``<stream>.lock``.

`flock`, since it sees a second opener in the same process too, which POSIX locks do not. The lock
file is removed with the queue, under its own lock, so that a million short-lived streams leave
nothing behind. A new owner therefore checks that the file it locked still has the name, and starts
over if not: between its open and its lock, the owner before it may have left.

A forked child inherits descriptors, and with them locks. It closes its parent's; and no fork
happens while one is being taken, or the child would not know of it.
"""

import fcntl
import os
import threading
import weakref
from pathlib import Path
from typing import Final

from hq_core.errors import BackendError, StreamBusyError
from hq_core.spool.directory import Directory

__all__ = ["StreamLock", "owner"]

_LOCKS: Final = Path("/proc/locks")

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
        self._fd = -1

    def acquire(self) -> None:
        """Own the stream. Raises `StreamBusyError` if it has an owner, and `OSError`."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with _forking:
            _taken.add(self)
            try:
                while not self._is_named():
                    self.abandon()
                    self._fd = os.open(self._name, flags, 0o600, dir_fd=self._directory.fd)
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
            if self._is_named():
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
    another container are not seen.
    """
    try:
        inode = str(path.lstat().st_ino)
        locks = _LOCKS.read_text("ascii")
    except OSError:
        return None
    for line in locks.splitlines():
        _, kind, _, mode, pid, file, *_ = line.replace("->", "").split()
        if (kind, mode, file.rpartition(":")[2]) == ("FLOCK", "WRITE", inode):
            return int(pid)
    return None


def _after_fork_in_child() -> None:
    _forking.release()
    for lock in _taken:
        lock.abandon()


os.register_at_fork(
    before=_forking.acquire,
    after_in_parent=_forking.release,
    after_in_child=_after_fork_in_child,
)
