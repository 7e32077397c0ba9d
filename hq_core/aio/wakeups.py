"""Wake-ups into an event loop, from any thread. Nothing here knows queues."""

import asyncio
import math
import threading
import weakref
from collections import deque
from collections.abc import Callable
from time import monotonic

from typing_extensions import override

from hq_core.engine.waiters import Waiter

__all__ = ["LoopWaiter"]


class _Bell:
    """Brings wake-ups into one event loop, from any thread.

    Rung again before the loop has answered, it does not call once more. It holds no loop: those who
    wait do.
    """

    def __init__(self) -> None:
        self._woken: deque[asyncio.Future[bool]] = deque()
        self._rung = False

    def ring(self, sleeper: asyncio.Future[bool]) -> bool:
        """Have the loop wake `sleeper`; False if the loop is closed."""
        loop = sleeper.get_loop()
        if loop.is_closed():
            return False
        self._woken.append(sleeper)
        if not self._rung:
            self._rung = True
            try:
                loop.call_soon_threadsafe(self._answer)
            except RuntimeError:  # closed just now
                return False
        return True

    def _answer(self) -> None:
        self._rung = False  # first: whoever comes from now on rings again
        while self._woken:
            sleeper = self._woken.popleft()
            if not sleeper.done():
                sleeper.set_result(True)


class _Here(threading.local):
    """The bell of the loop that runs in this thread; the loop itself may go when it is done."""

    loop: Callable[[], asyncio.AbstractEventLoop | None] = staticmethod(lambda: None)
    bell: _Bell


_here = _Here()


def _bell_of(loop: asyncio.AbstractEventLoop) -> _Bell:
    if _here.loop() is not loop:
        _here.loop, _here.bell = weakref.ref(loop), _Bell()
    return _here.bell


class LoopWaiter(Waiter):
    """A coroutine of the running loop that waits."""

    __slots__ = ("_bell", "_loop", "_sleeper", "cost", "needs", "place")

    def __init__(self, needs: tuple[int, int] = (1, 0)) -> None:
        self.place = self.cost = 0
        self.needs = needs
        self._loop = asyncio.get_running_loop()
        self._bell = _bell_of(self._loop)
        self._sleeper: asyncio.Future[bool] = self._loop.create_future()

    @property
    @override
    def loop(self) -> object:
        return self._loop

    @override
    def wake(self) -> bool:
        return self._bell.ring(self._sleeper)

    async def wait(self, deadline: float = math.inf) -> bool:
        """Sleep until woken (True), or until `deadline` on the monotonic clock (False).

        A wake-up that has come already counts, once.
        """
        sleeper, timer = self._sleeper, None
        if deadline < math.inf:
            timer = self._loop.call_later(max(0.0, deadline - monotonic()), self._give_up, sleeper)
        try:
            return await sleeper
        finally:
            self._sleeper = self._loop.create_future()
            if timer is not None:
                timer.cancel()

    @staticmethod
    def _give_up(sleeper: asyncio.Future[bool]) -> None:
        if not sleeper.done():
            sleeper.set_result(False)
