"""Turns: a task that finds at each call what it asks for lets its loop's other tasks run too."""

import asyncio
import math
import threading
from time import monotonic
from typing import Final

__all__ = ["turns"]

_TURN: Final = 0.005
"""Seconds for which the calls of a loop's tasks keep its others waiting, at most."""


class _Turns(threading.local):
    """For the loop that runs in this thread: whether it has come round since the first call."""

    def __init__(self) -> None:
        self._ends = math.inf

    async def give(self) -> None:
        """Let the other tasks run if they have waited for long. Raises `asyncio.CancelledError`.

        To be called before anything is done. If the loop has run of its own accord it does not
        wait: so a call that can be carried out at once is, even in a block whose time is up.
        """
        now = monotonic()
        if self._ends == math.inf:
            self._ends = now + _TURN
            asyncio.get_running_loop().call_soon(self._begin)
        elif now > self._ends:
            self._begin()
            await asyncio.sleep(0)

    def _begin(self) -> None:
        self._ends = math.inf


turns: Final = _Turns()
