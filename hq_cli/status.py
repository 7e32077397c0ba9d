"""What a running pipe tells: a reading, and the ways to write one down. Pure."""

import dataclasses
import json
import math
from dataclasses import dataclass

from hq_cli.sizes import format_duration, format_size, short_size

__all__ = ["Reading", "json_line", "rate", "rounded_up", "status_line", "summary"]

_NAME_WIDTH = 16


@dataclass(frozen=True, slots=True)
class Reading:
    """One moment of a pipe; also the keys of a ``--jsonl`` line, in this order."""

    name: str
    """The name of the stream."""
    elapsed: float
    """Seconds since the start."""
    resumed_bytes: int
    """Bytes that an earlier pipe left, with their framing; they are delivered first."""
    in_bytes: int
    """Bytes read and accepted so far."""
    out_bytes: int
    """Bytes written so far, resumed ones included."""
    in_rate: float
    """Bytes per second accepted since the reading before; in the final one, on the whole."""
    out_rate: float
    """Bytes per second written, likewise."""
    memory_bytes: int
    """Bytes in the memory tier."""
    memory_limit: int
    """The most bytes the memory tier may hold: ``--memory``."""
    disk_bytes: int
    """Bytes in the overflow backend, with their framing."""
    pressure: float
    """0.0 to 1.0: memory in use; above 1.0: the disk is in use (`QueueStats.pressure`)."""
    depth: int
    """Blocks in memory and on disk."""
    dropped: int
    """Blocks that a drop policy has thrown away so far."""
    away: bool
    """Whether the backend cannot be reached: what needs it waits until it is back."""
    final: bool
    """Whether this is the last one, after the last byte was written."""


def rate(now: int, before: int, seconds: float) -> float:
    """Bytes per second when a counter went from `before` to `now` in `seconds`."""
    return round((now - before) / seconds, 1) if seconds > 0 else 0.0


def json_line(reading: Reading) -> str:
    """`reading` as one line of JSON, with its newline."""
    shown = dataclasses.replace(reading, elapsed=round(reading.elapsed, 3))
    return json.dumps(dataclasses.asdict(shown)) + "\n"


def status_line(reading: Reading, width: int | None = None) -> str:
    """`reading` on one line of at most `width` characters, the most telling first."""
    memory = f"{short_size(reading.memory_bytes)}/{short_size(reading.memory_limit)}"
    parts = [
        _shown_name(reading.name),
        f"in {short_size(reading.in_rate)}/s out {short_size(reading.out_rate)}/s",
        f"mem {memory}",
        f"disk {short_size(reading.disk_bytes)}",
        f"pressure {rounded_up(reading.pressure):.2f}",
        f"{short_size(reading.in_bytes)} in {short_size(reading.out_bytes)} out",
        format_duration(reading.elapsed),
    ]
    if reading.dropped:
        parts.insert(2, f"dropped {reading.dropped}")
    if reading.away:
        parts.insert(1, "backend away")
    return "  ".join(parts)[:width]


def summary(reading: Reading, *, blocks: int, spilled: int) -> str:
    """The final `reading` in words; `spilled` of `blocks` accepted went through the disk."""
    lost = f", {reading.dropped} blocks dropped" if reading.dropped else ""
    return (
        f"{_shown_name(reading.name)}: {reading.out_bytes} bytes ({format_size(reading.out_bytes)})"
        f" in {format_duration(reading.elapsed)}, {format_size(reading.out_rate)}/s,"
        f" {spilled} of {blocks} blocks through the disk{lost}"
    )


def rounded_up(pressure: float) -> float:
    """1.00 is a full memory and nothing on disk; the first byte there is 1.01."""
    return math.ceil(pressure * 100) / 100


def _shown_name(name: str) -> str:
    """A stream may be called anything; a terminal must not be told everything."""
    plain = "".join([c if c.isprintable() else "?" for c in name])
    return plain if len(plain) <= _NAME_WIDTH else plain[: _NAME_WIDTH - 2] + ".."
