"""Blocks in from one file descriptor and out to another, whatever mode those are in.

Descriptors are shared with other processes, so their mode is never changed: a blocking one is
waited for with poll before it is read, a non-blocking one (somebody else's choice) after it was
found not ready.
"""

import fcntl
import os
import select
from collections.abc import Iterator

from hq_cli.errors import CommandError

__all__ = ["Sink", "Source", "check_open"]


def check_open(fd: int, name: str, *, writable: bool) -> None:
    """Raise `CommandError` unless `fd`, called `name`, is open and may be written, or read."""
    try:
        mode = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    except OSError:
        raise CommandError(f"{name} is closed: connect it to a pipe or a file") from None
    if mode == (os.O_RDONLY if writable else os.O_WRONLY):
        use = "writing" if writable else "reading"
        raise CommandError(f"{name} is not open for {use}: connect it to a pipe or a file")


class Source:
    """Blocks of 1 to `block_size` bytes from `fd`, as they come, until its end or `stop`.

    Iterate once, from one thread.
    """

    def __init__(self, fd: int, block_size: int) -> None:
        self._fd = fd
        self._block_size = block_size
        self._stopped, self._stop = os.pipe()

    def __iter__(self) -> Iterator[bytes]:
        fd, size, stopped = self._fd, self._block_size, self._stopped
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.register(stopped, select.POLLIN)
        try:
            while not any(ready == stopped for ready, _ in poll.poll()):
                try:
                    block = os.read(fd, size)
                except BlockingIOError:  # another process was faster
                    continue
                if not block:
                    return
                yield block
        finally:
            os.close(stopped)

    def stop(self) -> None:
        """End the iteration before the next block, even where it waits for one. Idempotent."""
        if self._stop >= 0:
            os.close(self._stop)  # a hang-up, which poll reports
            self._stop = -1


class Sink:
    """Writes blocks to `fd`, each to its last byte."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.written = 0
        """Bytes written so far; whoever calls `write` owns it, anybody may read it."""

    def write(self, block: bytes) -> None:
        """Write all of `block`; raises `OSError`, with `written` saying how far it came."""
        done = self._write_some(block)
        if done < len(block):
            rest = memoryview(block)
            while done < len(block):
                done += self._write_some(rest[done:])

    def _write_some(self, block: bytes | memoryview) -> int:
        try:
            done = os.write(self._fd, block)
        except BlockingIOError:
            self._wait()
            return 0
        self.written += done
        return done

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        poll.poll()
