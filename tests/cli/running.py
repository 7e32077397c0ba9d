"""``hq`` as a process of its own, its pipes in the test's hands: nobody has to sleep.

What a test waits for is something the process says: a line of JSON, or a text on standard error.
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

Reading = dict[str, Any]

HQ = [sys.executable, "-W", "error", "-m", "hq_cli"]


def hq(*args: str | Path, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run ``hq`` to its end."""
    return subprocess.run([*HQ, *map(str, args)], input=data, capture_output=True, check=False)


class Pipe:
    """A running ``hq pipe``, which gives a reading every 10 ms."""

    def __init__(self, process: subprocess.Popen[bytes], readings: BinaryIO) -> None:
        assert process.stderr
        self.process = process
        self.stdin = process.stdin.fileno() if process.stdin else -1
        self.stdout = process.stdout.fileno() if process.stdout else -1
        self.said = b""
        self._stderr = process.stderr.fileno()
        self._readings = readings

    def feed(self, data: bytes) -> None:
        """Write all of `data` to its standard input."""
        view = memoryview(data)
        while view:
            view = view[os.write(self.stdin, view) :]

    def end_input(self) -> None:
        """No more input."""
        assert self.process.stdin
        self.process.stdin.close()

    def end_output(self) -> None:
        """Read no more of its output."""
        assert self.process.stdout
        self.process.stdout.close()

    def read(self, size: int) -> bytes:
        """The next `size` bytes of its standard output; fewer only at its end."""
        parts = []
        while size and (part := os.read(self.stdout, min(size, 65536))):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def rest(self) -> bytes:
        """All that is left of its standard output."""
        return self.read(sys.maxsize)

    def reading(self, wanted: Callable[[Reading], bool]) -> Reading:
        """Wait for a reading that is as `wanted`."""
        for line in self._readings:
            reading: Reading = json.loads(line)
            if wanted(reading):
                return reading
        raise AssertionError(f"it ended without such a reading, saying {self.last_words()!r}")

    def hear(self, text: str, times: int = 1) -> None:
        """Wait until it has said `text` so many `times` in all."""
        while self.said.count(text.encode()) < times:
            heard = os.read(self._stderr, 65536)
            assert heard, f"it ended without saying {text!r}, but {self.said!r}"
            self.said += heard

    def said_by_now(self) -> str:
        """All that it has said so far."""
        os.set_blocking(self._stderr, False)
        with contextlib.suppress(BlockingIOError):
            self.last_words()
        os.set_blocking(self._stderr, True)
        return self.said.decode()

    def last_words(self) -> str:
        """All that it ever said, once it is over."""
        while heard := os.read(self._stderr, 65536):
            self.said += heard
        return self.said.decode()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def status(self) -> int:
        """Wait for its end; its exit status."""
        return self.process.wait()

    def most_memory(self) -> int:
        """Wait for its end; the most bytes it had in memory at once."""
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        return usage.ru_maxrss * 1024


@contextlib.contextmanager
def pipe(
    *args: str | Path, stdin: int = subprocess.PIPE, stdout: int = subprocess.PIPE
) -> Iterator[Pipe]:
    """Start ``hq pipe`` with `args`; it does not outlast the context."""
    readings, lines = os.pipe()
    fcntl.fcntl(lines, fcntl.F_SETPIPE_SZ, 1024 * 1024)  # thousands, before it waits for the test
    options = ["--interval", "0.01", "--jsonl", f"/dev/fd/{lines}"]
    with subprocess.Popen(
        [*HQ, "pipe", *options, *map(str, args)],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        pass_fds=[lines],
    ) as process:
        os.close(lines)
        try:
            with os.fdopen(readings, "rb") as lines_read:
                yield Pipe(process, lines_read)
        finally:
            process.kill()
