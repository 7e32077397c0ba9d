"""What is to be logged, collected while locks are held and said when they are not.

A log handler may take long, raise, or feed the very queue it hears of.
"""

import logging
import math
import sys
import traceback
from typing import Final

__all__ = ["Notices"]

_log = logging.getLogger("hq_core")

_SILENCE: Final = 600.0
"""Seconds between two notices that a disk is full: it is so again after each record that leaves."""


class Notices:
    """What one queue has to say."""

    def __init__(self) -> None:
        self.pending: list[tuple[int, str, tuple[object, ...], BaseException | None]] = []
        self._silent_until = -math.inf

    def add(
        self, level: int, message: str, *args: object, exc: BaseException | None = None
    ) -> None:
        """Have `message` logged, soon."""
        self.pending.append((level, message, args, exc))

    def add_at_times(self, now: float, message: str, *args: object) -> None:
        """Have the warning `message` logged, unless one of these was not long ago."""
        if now >= self._silent_until:
            self._silent_until = now + _SILENCE
            self.add(logging.WARNING, message, *args)

    def say(self) -> None:
        """Log what has come together. Holds no lock; what a filter raises goes to standard error,
        as what handlers raise does: the caller's item is accepted, and it must not seem otherwise.
        """
        while self.pending:
            try:
                level, message, args, exc = self.pending.pop(0)
            except IndexError:  # another thread has said it
                return
            try:
                _log.log(level, message, *args, exc_info=exc)
            except Exception:
                if logging.raiseExceptions and sys.stderr is not None:
                    traceback.print_exc()
