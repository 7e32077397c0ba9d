"""Parking and waking, for threads now and coroutines alike.

Rules:

- A parked waiter is woken at most once, and told to try again: it is never handed an item, so
  whoever gives up (a timeout, a cancellation, Ctrl-C) loses nothing.
- A `Line` is changed only under the engine's mutex, and so is the decision to park: between
  "nothing there" and "parked" no item can slip in.
- Who gives up and finds itself already woken has used up a wake-up that another waiter needs, and
  passes it on (`Line.leave`).
"""

from _thread import allocate_lock
from collections import OrderedDict

from hq_core.protocols import Waiter

__all__ = ["Line", "ThreadWaiter"]


class ThreadWaiter:
    """A thread that waits for one wake-up. A lock, since that is what wakes fastest."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._lock.acquire()

    def wake(self) -> bool:
        """End the wait. Called at most once."""
        self._lock.release()
        return True

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until woken (True) or for `timeout` seconds (False)."""
        return self._lock.acquire(timeout=-1 if timeout is None else timeout)


class Line(OrderedDict[Waiter, None]):
    """Parked waiters, first come first woken. Whether there are any is asked at each item."""

    __slots__ = ()

    def park(self, waiter: Waiter) -> None:
        """Add `waiter` at the end."""
        self[waiter] = None

    def wake(self, count: int) -> None:
        """Wake the first `count` waiters that are still there, or as many as there are."""
        while count and self:
            count -= self.popitem(last=False)[0].wake()

    def wake_all(self) -> None:
        """Wake everybody."""
        self.wake(len(self))

    def leave(self, waiter: Waiter) -> None:
        """`waiter` gives up. If it had been woken already, the next one is woken in its stead."""
        if waiter in self:
            del self[waiter]
        else:
            self.wake(1)
