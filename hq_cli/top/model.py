"""Streams at one moment, and what two such moments tell. Pure.

None is what cannot be known: a source leaves out what it does not see, and nothing is guessed.
"""

import math
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

__all__ = ["History", "Kind", "Reading", "Row", "View", "document", "per_second", "sparkline"]

Kind = Literal["directory", "endpoint"]
"""Where the numbers come from, and so which there are."""

MOST_SAMPLES: Final = 60
"""How many samples of a stream are kept to be drawn."""

_LEVELS: Final = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Reading:
    """One stream as a source has seen it; the first four are what it is."""

    key: Hashable
    """Tells it apart, from one sample to the next."""
    stream: str
    """Its id, as found: any text."""
    backend: str
    """The name of its overflow backend."""
    owner: int | None = None
    """Process id of the queue that has it open; None also if nobody is seen to."""
    state: str | None = None
    """``fine``, ``damaged`` or ``error``."""
    error: str | None = None
    """Why it could not be read, or what is damaged."""
    depth: int | None = None
    """Items in memory and on disk."""
    pressure: float | None = None
    """As `QueueStats.pressure`."""
    stored: int | None = None
    """Records on disk that are not done."""
    memory_bytes: int | None = None
    """Payload bytes in memory."""
    disk_bytes: int | None = None
    """Bytes on disk that are not done, with their framing."""
    oldest_seconds: float | None = None
    """How long the oldest item has been there."""
    dropped: int | None = None
    """Items accepted and never delivered, since the queue was opened."""
    enqueued: int | None = None
    """Items accepted since the queue was opened."""
    dequeued: int | None = None
    """Items handed to consumers since then."""
    to_disk: int | None = None
    """Bytes that have gone to disk so far."""
    from_disk: int | None = None
    """Bytes that have come from it, or were done there."""


@dataclass(frozen=True, slots=True)
class Row:
    """One stream with its rates, per second; None if they cannot be told."""

    reading: Reading
    in_rate: float | None
    """Items accepted."""
    out_rate: float | None
    """Items handed to consumers."""
    to_disk_rate: float | None
    """Bytes."""
    from_disk_rate: float | None
    """Bytes."""
    trend: tuple[float | None, ...]
    """Its last samples, oldest first: of `pressure` where that is known, else of `disk_bytes`."""


@dataclass(frozen=True, slots=True)
class View:
    """What there is to show."""

    source: str
    """The directory or the URL."""
    kind: Kind
    """Which of them it is."""
    time: float
    """When the rows were read, in seconds since 1970."""
    rows: tuple[Row, ...]
    """The fullest first."""
    failure: str = ""
    """Why there are none that are newer; empty if these are the newest."""


class History:
    """The last samples of every stream that the newest one has."""

    def __init__(self) -> None:
        self._at = 0.0
        self._before: dict[Hashable, Reading] = {}
        self._trends: dict[Hashable, deque[float | None]] = {}

    def add(self, readings: Iterable[Reading], now: float) -> tuple[Row, ...]:
        """Take a sample, read at `now` on a clock that only goes on; its rows."""
        seconds = now - self._at
        sample = {reading.key: reading for reading in readings}
        kept = {key: self._trends.get(key) or deque(maxlen=MOST_SAMPLES) for key in sample}
        for key, reading in sample.items():
            kept[key].append(_fullness(reading))
        rows = [
            _row(reading, self._before.get(key), seconds, tuple(kept[key]))
            for key, reading in sample.items()
        ]
        self._at, self._before, self._trends = now, sample, kept
        return tuple(sorted(rows, key=_order))


def per_second(now: int | None, before: int | None, seconds: float) -> float | None:
    """How fast a counter went from `before` to `now`; None if it began anew in between."""
    if now is None or before is None or now < before or seconds <= 0:
        return None
    return round((now - before) / seconds, 1)


def sparkline(values: Sequence[float | None], width: int) -> str:
    """The last `width` of `values`, a character each: the lowest is 0, the highest the greatest of
    them, or 1 if they are all less. What is not known is blank."""
    shown = values[-width:] if width > 0 else ()
    top = max([1.0, *(value for value in shown if value is not None)])
    highest = len(_LEVELS) - 1
    return "".join(
        # Rounded up: what is above 0 can be seen.
        " " if value is None else _LEVELS[math.ceil(value / top * highest)]
        for value in shown
    )


def document(view: View) -> dict[str, Any]:
    """`view` as JSON has it: no rows if there are none that are new."""
    rows = () if view.failure else view.rows
    return {
        "source": view.source,
        "time": round(view.time, 3),
        "error": view.failure or None,
        "streams": [_fields(row) for row in rows],
    }


def _row(now: Reading, before: Reading | None, seconds: float, trend: tuple[Any, ...]) -> Row:
    was = before or Reading(now.key, now.stream, now.backend)
    return Row(
        now,
        per_second(now.enqueued, was.enqueued, seconds),
        per_second(now.dequeued, was.dequeued, seconds),
        per_second(now.to_disk, was.to_disk, seconds),
        per_second(now.from_disk, was.from_disk, seconds),
        trend,
    )


def _fullness(reading: Reading) -> float | None:
    return reading.disk_bytes if reading.pressure is None else reading.pressure


def _order(row: Row) -> tuple[float, str]:
    return -(_fullness(row.reading) or 0), row.reading.stream


def _fields(row: Row) -> dict[str, Any]:
    reading = asdict(row.reading)
    rates = {f"{name}_rate": getattr(row, f"{name}_rate") for name in _RATES}
    return {name: reading[name] for name in _SHOWN} | rates


_RATES: Final = ("in", "out", "to_disk", "from_disk")
_SHOWN: Final = (
    "stream",
    "backend",
    "owner",
    "state",
    "error",
    "depth",
    "pressure",
    "stored",
    "memory_bytes",
    "disk_bytes",
    "oldest_seconds",
    "dropped",
)
