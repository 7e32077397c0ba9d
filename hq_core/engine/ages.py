"""How old the oldest item is, without a timestamp for every item. Pure.

Items have places, 1, 2, 3 and so on, in the order in which they leave the queue. Now and then one
gets a mark: its place, and the time at which it came.

Rules:

- An item counts as old as the last mark at or before its place, so never as younger than it is.
- A mark is due one interval after the mark before: `_FINEST`, or `_SHARE` of the oldest item's age
  if that is more. An age is too high by less than one interval, as it was while the item was there.
- `_MOST` marks at most: when there are so many, every second one goes.
- Marks that no item needs any more go when the next one is made, and when somebody asks.
"""

import math
from bisect import bisect_right
from operator import itemgetter
from typing import Final

__all__ = ["Ages"]

_FINEST: Final = 0.1
"""Shortest interval, in seconds."""
_SHARE: Final = 1 / 128
"""Longest interval, as a share of the oldest age; twice that where marks were thinned out."""
_MOST: Final = 256


class Ages:
    """The marks of one queue. Times are seconds of a clock that does not go back."""

    __slots__ = ("_marks", "due", "last")

    def __init__(self) -> None:
        self._marks: list[tuple[int, float]] = []
        self.due = -math.inf
        """From when on an item that comes is to be marked."""
        self.last = -math.inf
        """The time of the newest mark. An item that waited to come, and came before that, is to be
        marked too, or it would count as younger than it is."""

    def mark(self, place: int, now: float, oldest: int) -> None:
        """The item at `place` comes `now`; the oldest of the queue is, or was, at `oldest`."""
        if len(self._marks) == _MOST:
            del self._marks[1::2]
        self._marks.append((place, now))
        self.last = now
        self._forget(oldest, now)

    def age(self, oldest: int, newest: int, now: float) -> float:
        """Seconds since the item at `oldest` came; 0.0 if the queue is empty (`oldest` is past
        `newest`)."""
        if oldest > newest:
            self._marks.clear()
        if not self._marks:
            self.due = self.last = -math.inf
            return 0.0
        self._forget(oldest, now)
        return max(0.0, now - self._marks[0][1])

    def lose(self, first: int, count: int) -> None:
        """The `count` items from place `first` on are gone: those behind them move up."""
        self._marks = [
            (place if place < first else max(first, place - count), came)
            for place, came in self._marks
        ]

    def _forget(self, oldest: int, now: float) -> None:
        """Drop the marks before the one that tells the age of the item at `oldest`."""
        needed = bisect_right(self._marks, oldest, key=itemgetter(0)) - 1
        if needed > 0:
            del self._marks[:needed]
        self.due = self._marks[-1][1] + max(_FINEST, (now - self._marks[0][1]) * _SHARE)
