"""The columns of ``hq top``, and how many of them fit. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from hq_cli.printing import printable
from hq_cli.sizes import format_duration, short_count, short_size
from hq_cli.status import rounded_up
from hq_cli.top.model import Kind, Row, sparkline

__all__ = ["COLUMNS", "GAP", "Column", "fitting"]

GAP: Final = 2
"""Spaces between two columns."""
_MOST_TREND: Final = 60


@dataclass(frozen=True, slots=True)
class Column:
    """One column."""

    title: str
    width: int
    """Characters it needs at least."""
    cell: Callable[[Row, int], str]
    """What stands there, given the characters that there are."""
    is_warning: Callable[[Row], bool] = lambda _: False
    """Whether that deserves to be looked at."""
    is_text: bool = False
    """Text is aligned to the left, numbers to the right."""


def fitting(kind: Kind, width: int, longest: int) -> list[tuple[Column, int]]:
    """The columns that fit into `width` characters, and how wide each is: the first ones, at least
    one. What is left over goes to the stream, up to its `longest` name, and then to the trend."""
    chosen: list[tuple[Column, int]] = []
    left = width + GAP
    for column in COLUMNS[kind]:
        if chosen and column.width + GAP > left:
            break
        chosen.append((column, column.width))
        left -= column.width + GAP
    for growing, most in ((_STREAM, longest), (_TREND, _MOST_TREND)):
        for index, (column, has) in enumerate(chosen):
            if column is growing:
                more = max(min(left, most - has), 0)
                chosen[index] = (column, has + more)
                left -= more
    return chosen


def _count(value: float | None) -> str:
    return "" if value is None else short_count(value)


def _size(value: float | None) -> str:
    return "" if value is None else short_size(value)


def _speed(value: float | None) -> str:
    return "" if value is None else f"{short_size(value)}/s"


def _pressure(value: float | None) -> str:
    return "" if value is None else f"{rounded_up(value):.2f}"


def _age(value: float | None) -> str:
    return "" if value is None else format_duration(value)


def _is_overflowing(row: Row) -> bool:
    return (row.reading.pressure or 0) > 1


_STREAM: Final = Column("STREAM", 10, lambda row, _: printable(row.reading.stream), is_text=True)
_TREND: Final = Column("TREND", 12, lambda row, width: sparkline(row.trend, width), is_text=True)
_DISK: Final = Column("DISK", 6, lambda row, _: _size(row.reading.disk_bytes))
_TO_DISK: Final = Column("TO DISK", 8, lambda row, _: _speed(row.to_disk_rate))
_FROM_DISK: Final = Column("FROM DISK", 9, lambda row, _: _speed(row.from_disk_rate))
_BACKEND: Final = Column("BACKEND", 8, lambda row, _: printable(row.reading.backend), is_text=True)
_STATE: Final = Column(
    "STATE",
    8,
    lambda row, _: row.reading.state or "",
    lambda row: row.reading.state != "fine",
    is_text=True,
)

COLUMNS: Final[dict[Kind, Sequence[Column]]] = {
    "endpoint": (
        _STREAM,
        Column("PRESSURE", 8, lambda row, _: _pressure(row.reading.pressure), _is_overflowing),
        Column("DEPTH", 6, lambda row, _: _count(row.reading.depth)),
        Column("IN/s", 6, lambda row, _: _count(row.in_rate)),
        Column("OUT/s", 6, lambda row, _: _count(row.out_rate)),
        _TREND,
        Column(
            "DROPPED",
            7,
            lambda row, _: _count(row.reading.dropped),
            lambda row: bool(row.reading.dropped),
        ),
        _DISK,
        Column("MEMORY", 6, lambda row, _: _size(row.reading.memory_bytes)),
        Column("OLDEST", 8, lambda row, _: _age(row.reading.oldest_seconds)),
        _TO_DISK,
        _FROM_DISK,
        _BACKEND,
    ),
    "directory": (
        _STREAM,
        _DISK,
        Column("RECORDS", 7, lambda row, _: _count(row.reading.stored)),
        _TO_DISK,
        _FROM_DISK,
        _TREND,
        _STATE,
        Column("OWNER", 8, lambda row, _: str(row.reading.owner or "none")),
        _BACKEND,
    ),
}
"""The most telling first: where there is no room for all, the last ones are left out."""
