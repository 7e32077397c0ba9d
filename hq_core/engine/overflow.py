"""The engine's side of a backend: what it holds, what was read ahead, its bound, its failures.

A log has no read position; this is where it is kept. Its records, oldest first::

    passed on | read ahead | not read yet
              ^ `passed`   ^ `passed` + len(`ahead`): the next read starts here

Passed on are those that memory or a consumer has, or is done with; `stored` are the others.

Rules:

- What the backend knows is asked of it, after each call, whether it succeeded or not, and taken
  over in one place, the engine's `_settle`. What a call is about is noted before it (`doing`), so
  that what has become of one that was interrupted can be told later too.
- Methods that call the backend are called holding `_io` only. The fields change under the mutex, in
  lines without a call: not even an interruption comes between those.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final, Literal, ParamSpec, TypeVar

from hq_core.errors import (
    BackendError,
    BackendUnavailable,
    CorruptedData,
    HybridQueueError,
    MessageTooLargeError,
    QueueFull,
    StreamLostError,
)
from hq_core.protocols import MAX_MESSAGE_BYTES, OverflowBackend

__all__ = ["READ_BYTES", "READ_RECORDS", "Overflow"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

READ_RECORDS: Final = 1024
"""Records read ahead, at most."""
READ_BYTES: Final = 1024 * 1024
"""Payload bytes read ahead, at most, unless one record is longer."""
_FIRST_RETRY: Final = 0.05
_LAST_RETRY: Final = 1.0
"""Seconds until a failed trim is tried again; they double from the first to the last."""


class Overflow:
    """A backend whose own exceptions come out as `BackendError`, once, from the original.

    Made before the backend is opened, which is given `ready` and `lost` to call.
    """

    def __init__(
        self,
        max_bytes: int | None,
        only_io_is_mine: Callable[[], bool],
        lose: Callable[[HybridQueueError], None],
    ) -> None:
        self.max_bytes = max_bytes
        self.backend: OverflowBackend
        self.depth = 0
        """Records appended and not trimmed, when the backend was last asked."""
        self.size_bytes = 0
        """Their live bytes, framing included."""
        self.passed = 0
        """How many of them were passed on."""
        self.ahead: deque[bytes] = deque()
        """The records after those, read and not passed on."""
        self.damage: CorruptedData | None = None
        """What a consumer is to be told before anything after it is read."""
        self.away = False
        """Whether the store could not be reached when it was last called."""
        self.retry_trim = math.inf
        """When to try a trim again that failed; infinity if none has."""
        self.doing: Literal["append", "read", "trim", ""] = ""
        """The call that was made since the backend was last asked."""
        self.appending = (0, 0.0)
        """Payload bytes of the last append, and when it was offered."""
        self._droppable = 0  # bytes that a full store had to be freed of before it had room again
        self._retry_after = _FIRST_RETRY
        self.contacts = 0
        """How often the store has said that it can be reached, or has room."""
        self._only_io_is_mine = only_io_is_mine
        self._lose = lose

    # ---- without I/O -------------------------------------------------------------------------

    @property
    def stored(self) -> int:
        """Records that count as stored: all that were not passed on."""
        return self.depth - self.passed

    @property
    def unread(self) -> int:
        """Records of those that are not in `ahead`."""
        return self.depth - self.passed - len(self.ahead)

    def first_ahead(self, max_records: int, max_bytes: float = math.inf) -> list[bytes]:
        """The first of what was read ahead, within both limits."""
        records = []
        for record in islice(self.ahead, max_records):
            max_bytes -= len(record)
            if max_bytes < 0:
                break
            records.append(record)
        return records

    def pass_on(self, count: int) -> None:
        """The first `count` records read ahead are with memory or a consumer."""
        rest = deque(islice(self.ahead, count, None))
        # No call from here on.
        self.ahead = rest
        self.passed += count

    def forget_ahead(self) -> None:
        """What was read ahead is to be read again, if ever."""
        self.ahead = deque()

    def in_contact(self) -> None:
        """The store can be reached again, or says that it has room."""
        self.contacts += 1
        self.away = False

    # ---- calls on the backend: holding `_io` only --------------------------------------------

    def cost(self, items: Sequence[bytes]) -> int:
        """Live bytes that `items` would add."""
        return self._call(self.backend.cost, items)

    def check_capacity(self, items: Sequence[bytes], memory: tuple[int, int]) -> int:
        """What `items` cost, if there is a bound; 0 if there is none.

        Raises `MessageTooLargeError` for what neither this nor `memory`, of so many items and
        bytes, can ever hold: it must not wait, or have others dropped, in vain.
        """
        cost = 0 if self.max_bytes is None else self.cost(items)
        payload = sum(map(len, items))
        too_large = self.max_bytes is not None and cost > self.max_bytes
        if too_large and (len(items) > memory[0] or payload > memory[1]):
            raise MessageTooLargeError(
                f"{len(items)} items with {payload} bytes can never be held: memory has room for "
                f"{memory[0]} items, the overflow for {self.max_bytes} bytes; send fewer at once, "
                "or raise max_overflow_bytes"
            )
        return cost

    def dropping_helps(
        self, items: Sequence[bytes], before: int, pinned: int, *, by_bound: bool
    ) -> bool:
        """Whether dropping the oldest record can make room for `items`.

        `by_bound`: it is our own bound that they do not fit into. Otherwise the store is full;
        `before` were the live bytes when this began, and once as many have gone as the items need
        it is not for want of dropping. But stores give space back in blocks: so the next call may
        drop twice as much, and what turned out to be enough stays allowed. What is dropped after
        the first record that a holder is not done with stays where it is: `pinned` bytes do.
        """
        if self.away or self.retry_trim < math.inf or (self.max_bytes or 0) < pinned:
            return False
        gone = before - self.size_bytes
        return by_bound or gone < max(self.cost(items), self._droppable)

    def allow_more_dropping(self, items: Sequence[bytes]) -> None:
        """What was dropped for `items` was not enough."""
        self._droppable = 2 * max(self._droppable, sum(map(len, items)))

    def append(
        self, items: Sequence[bytes], offered: float, pinned: int
    ) -> QueueFull | BackendUnavailable | None:
        """Append `items`, offered at `offered`; if there is no room for them, nothing happens and
        the reason is returned.

        `pinned` bytes of what is stored are no live data, and do not count towards the bound.
        """
        if self.max_bytes is not None:
            cost, used = self.cost(items), self.size_bytes
            if used - pinned + cost > self.max_bytes:
                return QueueFull(
                    f"memory is full, and {cost} bytes more do not fit into the overflow: "
                    f"{used} of max_overflow_bytes={self.max_bytes} are in use"
                )
        self.appending = (sum(map(len, items)), offered)
        self.doing = "append"
        try:
            self._call(self.backend.append, items)
        except (QueueFull, BackendUnavailable) as reason:
            return reason
        return None

    def read(self) -> list[bytes]:
        """The next records that were not read; raises `BackendError` and `CorruptedData`.

        They are not in `ahead` yet. Empty only if `ahead` has no room for the next.
        """
        self.doing = "read"
        skip = self.passed + len(self.ahead)
        most, most_bytes = READ_RECORDS - len(self.ahead), READ_BYTES - sum(map(len, self.ahead))
        if most <= 0 or most_bytes <= 0:
            return []
        records = self._call(self.backend.read, skip, most, most_bytes)
        if not records and not self.ahead:
            records = self._call(self.backend.read, skip, 1, MAX_MESSAGE_BYTES)
            if not records:
                raise BackendError(
                    f"the backend holds {self.depth} records and does not give record {skip}"
                )
        return records

    def trim(self, count: int, now: float) -> bool:
        """Give back the space of the `count` oldest records; whether it was.

        A failure harms no item, and the next trim includes this one. Only the first is raised.
        """
        self.doing = "trim"
        try:
            self._call(self.backend.trim, count)
        except BackendUnavailable:  # `ready` says when
            return False
        except HybridQueueError:
            known = self.retry_trim < math.inf
            self.retry_trim = now + self._retry_after
            self._retry_after = min(2 * self._retry_after, _LAST_RETRY)
            if known:
                return False
            raise
        self.retry_trim, self._retry_after = math.inf, _FIRST_RETRY
        return True

    def sync(self) -> None:
        """Make what was appended survive power loss."""
        self._call(self.backend.sync)

    def close(self, *, delete: bool) -> None:
        """Close the backend; raises `BackendError`."""
        self._call(self.backend.close, delete=delete)

    def facts(self) -> tuple[int, int]:
        """Records and live bytes, as the backend says now."""
        return self.backend.depth(), self.backend.size_bytes()

    def _call(self, method: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        assert self._only_io_is_mine(), "a backend is called holding `_io`, and not the mutex"
        contacts = self.contacts
        try:
            result = method(*args, **kwargs)
        except BackendUnavailable:
            if contacts == self.contacts:  # else it is back already
                self.away = True
            raise
        except StreamLostError as exc:
            self._lose(exc)
            raise
        except HybridQueueError:
            raise
        except Exception as exc:
            message = f"the overflow backend failed: {type(exc).__name__}: {exc}"
            raise BackendError(message) from exc
        self.away = False
        return result
