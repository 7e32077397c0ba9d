"""The engine's side of the backend: its bound, its failures, its contract.

Nothing here locks. The engine calls every method holding its `_io` lock and not its mutex; only
`trim_fails` is also read elsewhere, as a hint.
"""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Final, ParamSpec, TypeVar

from hq_core.errors import BackendError, CorruptedData, HybridQueueError, QueueFull
from hq_core.protocols import OverflowBackend, WhenFull

__all__ = ["Overflow"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_log = logging.getLogger("hq_core")

_SILENCE: Final = 600.0
"""Seconds between two warnings of a full disk."""
_CONSEQUENCE: Final[dict[WhenFull, str]] = {
    "block": "its producers wait until there is room",
    "drop_oldest": "its oldest items are dropped",
    "drop_newest": "new items are dropped",
}


class Overflow:
    """A backend whose own exceptions come out as `BackendError`, once, from the original."""

    def __init__(
        self,
        backend: OverflowBackend,
        *,
        stream_id: str,
        max_bytes: int | None,
        when_full: WhenFull,
        clock: Callable[[], float],
    ) -> None:
        self._backend = backend
        self._stream_id = stream_id
        self._consequence = _CONSEQUENCE.get(when_full)
        self._clock = clock
        self._silent_until = -math.inf
        self.name = backend.name
        self.record_overhead = backend.record_overhead
        self.max_bytes = max_bytes
        self.size_bytes = backend.size_bytes
        """Tells the live bytes, framing included."""
        self.trim_fails = False

    def records(self) -> int:
        """Records stored and not read."""
        return self._backend.depth()

    def cost(self, items: Sequence[bytes]) -> int:
        """Live bytes that `items` would add."""
        return sum(map(len, items)) + len(items) * self.record_overhead

    def append(self, items: Sequence[bytes]) -> QueueFull | None:
        """Append `items`; if there is no room for them, nothing happens and the reason is returned.

        A full disk is logged, unless the caller gets told, but not again soon: it is full once more
        after every record that leaves.
        """
        if self.max_bytes is not None:
            cost, used = self.cost(items), self._backend.size_bytes()
            if used + cost > self.max_bytes:
                return QueueFull(
                    f"memory is full, and {cost} bytes more do not fit into the overflow: "
                    f"{used} of max_overflow_bytes={self.max_bytes} are in use"
                )
        try:
            self._backend.append(items)
        except QueueFull as full:
            now = self._clock()
            if self._consequence and now >= self._silent_until:
                _log.warning("%r: %s; %s", self._stream_id, full, self._consequence)
                self._silent_until = now + _SILENCE
            return full
        except HybridQueueError:
            raise
        except Exception as exc:
            raise _failed(exc) from exc
        return None

    def read(self, max_records: int, max_bytes: int) -> list[bytes]:
        """The next records; raises `BackendError` and `CorruptedData`."""
        return _call(self._backend.read, max_records, max_bytes)

    def lost_to(self, damage: CorruptedData, stored: int) -> int:
        """How many of `stored` records the backend moved aside because of `damage`; logs it."""
        lost = stored - self._backend.depth()
        if lost:
            _log.error("%r loses %d stored items: %s", self._stream_id, lost, damage)
        return lost

    def trim(self, count: int) -> bool:
        """Give back the space of the `count` oldest records read; whether it was.

        A failure harms no item: it is logged once, and the next trim includes this one.
        """
        try:
            _call(self._backend.trim, count)
        except HybridQueueError as exc:
            if not self.trim_fails:
                _log.warning("%r: space is not given back: %s", self._stream_id, exc)
            self.trim_fails = True
            return False
        self.trim_fails = False
        return True

    def close(self, *, delete: bool) -> None:
        """Close the backend; raises `BackendError`."""
        _call(self._backend.close, delete=delete)


def _call(method: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    try:
        return method(*args, **kwargs)
    except HybridQueueError:
        raise
    except Exception as exc:
        raise _failed(exc) from exc


def _failed(exc: Exception) -> BackendError:
    return BackendError(f"the overflow backend failed: {type(exc).__name__}: {exc}")
