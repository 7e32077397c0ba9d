"""Parking and waking, for threads now and coroutines alike.

Rules:

- A parked waiter is told to try again: it is never handed an item, so one that gives up (a timeout,
  a cancellation, Ctrl-C) loses nothing.
- A `Line` is changed only under the engine's mutex, and so is the decision to park: between
  "nothing there" and "parked" no item can slip in.
- A waiter keeps its place until it is through: one that was woken in vain parks where it stood.
- A wake-up is not lost. A waiter that gives up after it was woken, or cannot use it, passes it on
  (the engine's part). A loop may be closed, stopped or blocked, and nobody can tell: a wake-up for
  one of its coroutines counts only as an attempt, and goes to the next waiter elsewhere as well.
- To wake twice is harmless, so a waiter leaves the line after it was woken, and an interruption in
  between costs nothing.
"""

import itertools
from _thread import allocate_lock
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from operator import attrgetter, itemgetter
from typing import Final, Protocol

from typing_extensions import override

from hq_core.engine.stopwatch import Stopwatch

__all__ = ["Line", "ThreadWaiter", "Waiter", "wake_all"]


class Waiter(Protocol):
    """A thread, or a coroutine of some event loop, that waits. It can be used again and again."""

    place: int
    """Its place in the line; 0 before it was first parked."""
    needs: tuple[int, int]
    """What it waits for room for: a number of items, and their bytes in all."""
    cost: int
    """The bytes that they need in a store with a bound; 0 before it was first parked."""

    @property
    def loop(self) -> object:
        """The event loop that has to run for it to go on; None for a thread."""

    def wake(self) -> bool:
        """Make the owner try again. Under the engine's mutex: never blocks. False: it is gone."""


class ThreadWaiter(Waiter):
    """A thread that waits. A lock, since that is what wakes fastest."""

    __slots__ = ("_lock", "cost", "needs", "place")

    def __init__(self, needs: tuple[int, int] = (1, 0)) -> None:
        self.place = self.cost = 0
        self.needs = needs
        self._lock = allocate_lock()
        self._lock.acquire()

    @property
    @override
    def loop(self) -> object:
        return None

    @override
    def wake(self) -> bool:
        if self._lock.locked():
            self._lock.release()
        return True

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until woken (True) or for `timeout` seconds (False)."""
        return self._lock.acquire(timeout=-1 if timeout is None else timeout)


_place: Final = attrgetter("place")
_first: Final = itemgetter(0)


class Line:
    """Parked waiters by place: first come, first woken."""

    __slots__ = ("_clock", "_last", "_waited", "waiting")

    def __init__(self, clock: Callable[[], float]) -> None:
        self.waiting: dict[object, list[Waiter]] = {}
        """Those of each loop, and of no loop, by place. Empty if there are none: that is asked at
        each item, so it is no method."""
        self._last = 0
        self._clock = clock
        self._waited = Stopwatch()

    def seconds(self, now: float) -> float:
        """Seconds for which waiters have been parked until `now`, all together."""
        return self._waited.seconds(now)

    def park(self, waiter: Waiter) -> None:
        """Add `waiter` at the end, or where it stood before."""
        if not waiter.place:
            self._last += 1
            waiter.place = self._last
        if not self._is_parked(waiter):
            self._waited.start(waiter.place, self._clock())
            insort(self.waiting.setdefault(waiter.loop, []), waiter, key=_place)

    def leave(self, waiter: Waiter) -> bool:
        """`waiter` gives up. False: it was not parked any more, but had been woken."""
        parked = self._is_parked(waiter)
        if parked:
            self._remove(waiter)
        return parked

    def wake(self, count: int) -> None:
        """Wake the first `count` waiters, or as many as there are; see the rule on loops."""
        attempts = dict.fromkeys(self.waiting if count > 0 else (), 0)
        while attempts:
            firsts = [(line[0].place, loop) for loop in attempts if (line := self._of(loop))]
            if not firsts:
                return
            _, loop = min(firsts, key=_first)
            attempts[loop] += self._wake(self.waiting[loop][0])
            if attempts[loop] == count:
                del attempts[loop]
                if loop is None:
                    return

    def wake_fitting(self, fits: Callable[[Waiter], bool], after: int = 0) -> None:
        """Wake every waiter after the place `after` that `fits`, asked in order."""
        for waiter in sorted(itertools.chain(*self.waiting.values()), key=_place):
            if waiter.place > after and fits(waiter):
                self._wake(waiter)

    def wake_all(self) -> None:
        """Wake everybody."""
        self.wake_fitting(lambda _: True)

    def _of(self, loop: object) -> list[Waiter]:
        return self.waiting.get(loop, [])

    def _wake(self, waiter: Waiter) -> bool:
        """Wake it, and only then take it out of the line."""
        woken = waiter.wake()
        if self._is_parked(waiter):  # else it has left by itself by now
            self._remove(waiter)
        return woken

    def _remove(self, waiter: Waiter) -> None:
        self._waited.stop(waiter.place, self._clock())
        line = self.waiting[waiter.loop]
        if len(line) > 1:
            line.remove(waiter)
        else:
            del self.waiting[waiter.loop]

    def _is_parked(self, waiter: Waiter) -> bool:
        line = self._of(waiter.loop)
        index = bisect_left(line, waiter.place, key=_place)
        return index < len(line) and line[index] is waiter


def wake_all(lines: Iterable[Line]) -> None:
    """Wake everybody who waits in `lines`."""
    for line in lines:
        line.wake_all()
