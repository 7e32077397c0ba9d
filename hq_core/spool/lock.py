"""One owner a stream, whatever its backend: an exclusive `flock` on ``<stream>.lock``.

`flock`, since it sees a second opener in the same process too, which POSIX locks do not. The lock
file is removed with the queue, under its own lock, so that a million short-lived streams leave
nothing behind. Whoever gets a lock therefore checks that the file it locked still has the name,
and starts over if not: between its open and its lock, the owner before it may have left.
"""

import fcntl
import os
from pathlib import Path
from typing import Final

from hq_core.errors import BackendError, StreamBusyError

__all__ = ["StreamLock", "owner"]

_LOCKS: Final = Path("/proc/locks")


class StreamLock:
    """Holds the stream from construction until `release`. Raises `StreamBusyError`, `OSError`."""

    def __init__(self, path: Path, stream_id: str) -> None:
        self._path = path
        while True:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._still_named():
                    return
            except BlockingIOError:
                os.close(self._fd)
                raise StreamBusyError(
                    f"the stream {stream_id!r} in {path.parent} is open in another queue: "
                    "close that one, or use another stream id or directory"
                ) from None
            except BaseException:
                os.close(self._fd)
                raise
            os.close(self._fd)

    def _still_named(self) -> bool:
        try:
            named = self._path.lstat()
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(self._fd))

    def release(self) -> None:
        """Remove the lock file and let the next owner in, even if it cannot be removed."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as exc:
            raise BackendError(
                f"{self._path} cannot be removed: {exc.strerror}; the stream is free all the same"
            ) from exc
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the descriptor, which is all that a forked child has of the lock. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


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
