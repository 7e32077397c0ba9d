"""Limiters: may the producer go on? Pure: the time comes in as an argument."""

import math
import sys

from hq_core.checks import positive_int

__all__ = ["TokenBucket", "Unlimited"]


class TokenBucket:
    """`rate` tokens a second, saved up to `burst`; starts full.

    The specification's limiter (Go's ``rate.NewLimiter(10_000, 1_000)``). Its cap is on messages,
    not bytes: 188-byte transport-stream packets pass at 15 Mb/s at most.
    """

    def __init__(self, rate: float = 10_000, burst: int = 1_000) -> None:
        if not isinstance(rate, (int, float)) or isinstance(rate, bool):
            raise TypeError(f"rate must be a number, not {type(rate).__name__}")
        if not (0 < rate <= sys.float_info.max):
            raise ValueError(f"rate must be positive and finite, not {rate}; Unlimited() has none")
        self._rate = rate
        self._burst = positive_int("burst", burst)
        self._tokens = float(self._burst)
        self._updated = -math.inf

    @property
    def burst(self) -> int:
        """Largest number of tokens one call can ever get."""
        return self._burst

    def admit(self, tokens: int, now: float) -> bool:
        """Take `tokens` at time `now` (seconds), all or none, and say whether they were there."""
        if now > self._updated:
            grown = self._tokens + (now - self._updated) * self._rate
            self._tokens = grown if grown < self._burst else self._burst
            self._updated = now
        if tokens > self._tokens:
            return False
        self._tokens -= tokens
        return True


class Unlimited:
    """Admits everything."""

    burst = None

    def admit(self, tokens: int, now: float) -> bool:
        """Return True."""
        return True
