"""Wake-ups into an event loop, from any thread. Nothing here knows queues."""

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Callable

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


class LoopWaiter:
    """A coroutine of the running loop that waits for one wake-up."""

    __slots__ = ("_bell", "_sleeper", "gone")

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._bell = _bell_of(loop)
        self._sleeper: asyncio.Future[bool] = loop.create_future()
        self.gone = False
        """Whether it was woken when its loop was closed: then another was, in its stead."""

    def wake(self) -> bool:
        """End the wait, from any thread. Called at most once."""
        self.gone = not self._bell.ring(self._sleeper)
        return not self.gone

    async def wait(self, deadline: float | None = None) -> bool:
        """Sleep until woken (True), or until `deadline` on the loop's clock (False)."""
        if deadline is None:
            return await self._sleeper
        timer = self._sleeper.get_loop().call_at(deadline, self._give_up)
        try:
            return await self._sleeper
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        if not self._sleeper.done():
            self._sleeper.set_result(False)
