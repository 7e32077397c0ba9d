"""Readings of a running pipe, taken and passed on."""

import time
from io import FileIO

from hq_cli.console import Console
from hq_cli.status import Reading, json_line, rate, status_line
from hq_cli.transfer import Transfer
from hq_core import HybridQueue

__all__ = ["Report"]


class Report:
    """Shows how `queue` and `transfer` fare: as a status line, as lines of JSON, or as both.

    `lines` is where the JSON goes, `live` says whether to draw the status line.
    """

    def __init__(
        self,
        queue: HybridQueue,
        transfer: Transfer,
        memory_limit: int,
        *,
        console: Console,
        live: bool,
        lines: FileIO | None,
    ) -> None:
        self._queue = queue
        self._transfer = transfer
        self._memory_limit = memory_limit
        self._console = console
        self._live = live
        self._lines = lines
        self._resumed_bytes = queue.recovery.size_bytes
        self._start = time.monotonic()
        self._before = self._read(None)

    def wanted(self) -> bool:
        """Whether anybody looks at it while the pipe runs."""
        return self._live or self._lines is not None

    def left(self) -> int:
        """Bytes accepted or resumed, and not yet written; with the framing of resumed ones."""
        left = self._resumed_bytes + self._transfer.in_bytes - self._transfer.out_bytes
        return max(0, left)

    def tick(self) -> None:
        """Take a reading and show it."""
        self._before = reading = self._read(self._before)
        if self._live:
            self._console.show(status_line(reading, self._console.width()))
        self._write(reading)

    def last(self) -> Reading:
        """Take the final reading, which is about the whole run, and take the status line away."""
        reading = self._read(None, final=True)
        self._console.clear()
        self._write(reading)
        return reading

    def _read(self, before: Reading | None, *, final: bool = False) -> Reading:
        stats = self._queue.stats()
        elapsed = time.monotonic() - self._start
        in_bytes, out_bytes = self._transfer.in_bytes, self._transfer.out_bytes
        seconds = elapsed - before.elapsed if before else elapsed
        return Reading(
            name=stats.stream_id,
            elapsed=elapsed,
            resumed_bytes=self._resumed_bytes,
            in_bytes=in_bytes,
            out_bytes=out_bytes,
            in_rate=rate(in_bytes, before.in_bytes if before else 0, seconds),
            out_rate=rate(out_bytes, before.out_bytes if before else 0, seconds),
            memory_bytes=stats.memory_bytes,
            memory_limit=self._memory_limit,
            disk_bytes=stats.disk_bytes,
            pressure=stats.pressure,
            depth=stats.depth,
            dropped=stats.dropped,
            away=self._queue._engine.overflow.away,
            final=final,
        )

    def _write(self, reading: Reading) -> None:
        if self._lines is None:
            return
        try:
            self._lines.write(json_line(reading).encode())
        except OSError as exc:
            self._lines = None
            self._console.say(f"no more lines for --jsonl: {exc.strerror}")
