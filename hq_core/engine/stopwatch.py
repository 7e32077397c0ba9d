"""How long several have waited, all together. Pure."""

from collections.abc import Hashable

__all__ = ["Stopwatch"]


class Stopwatch:
    """Adds up waits, those under way included. Whole nanoseconds, so the sum never goes back."""

    __slots__ = ("_ended", "_started")

    def __init__(self) -> None:
        self._started: dict[Hashable, int] = {}
        self._ended = 0

    def start(self, waiter: Hashable, now: float) -> None:
        """`waiter` begins to wait at `now` (seconds)."""
        self._started[waiter] = _nanoseconds(now)

    def stop(self, waiter: Hashable, now: float) -> None:
        """`waiter` does not wait any more; nothing happens if it never began."""
        if waiter in self._started:
            self._ended += _nanoseconds(now) - self._started.pop(waiter)

    def seconds(self, now: float) -> float:
        """Seconds waited until `now`, by all."""
        under_way = len(self._started) * _nanoseconds(now) - sum(self._started.values())
        return (self._ended + under_way) / 1e9


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
