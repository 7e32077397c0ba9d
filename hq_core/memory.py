"""Memory tiers: the bounded, in-order first tier of a queue.

Pure: no locks, no clock, no I/O. The engine calls them under its mutex.

Ctrl-C may raise `KeyboardInterrupt` after any call, also in here. So a change is one call, and what
belongs to it is set before; what took more is undone.
"""

from collections import deque
from collections.abc import Sequence
from itertools import islice

from typing_extensions import override

from hq_core.checks import positive_int
from hq_core.protocols import MAX_MESSAGE_BYTES, MemoryTier

__all__ = ["BytesTier", "CountTier"]


class BytesTier(MemoryTier):
    """Holds at most `max_bytes` of payload in at most `max_items` items.

    For packets whose sizes differ by orders of magnitude, where a count says little about memory.
    An item longer than `max_bytes` can never be held, so the queue refuses it. Every item costs
    Python some 40 bytes besides its payload; the default `max_items`, one for every 64 bytes of
    `max_bytes` but at least 64, keeps that below the payload allowed.
    """

    def __init__(self, max_bytes: int, max_items: int | None = None) -> None:
        self._max_bytes = positive_int("max_bytes", max_bytes)
        if max_items is None:
            max_items = max(64, max_bytes // 64)
        self._max_items = positive_int("max_items", max_items)
        self._queue: deque[bytes] = deque()
        self._bytes = 0

    @override
    def capacity(self) -> tuple[int, int]:
        return self._max_items, self._max_bytes

    @override
    def offer(self, items: Sequence[bytes]) -> bool:
        total = self._bytes + sum(map(len, items))
        if total > self._max_bytes or len(self._queue) + len(items) > self._max_items:
            return False
        before = len(self._queue)
        try:
            self._bytes = total
            self._queue.extend(items)
        except BaseException:
            if len(self._queue) < before + len(items):  # for want of memory, say
                while len(self._queue) > before:
                    self._queue.pop()
            self._bytes = sum(map(len, self._queue))
            raise
        return True

    @override
    def offer_one(self, item: bytes) -> bool:
        total = self._bytes + len(item)
        if total > self._max_bytes or len(self._queue) >= self._max_items:
            return False
        try:
            self._bytes = total
            self._queue.append(item)
        except BaseException:
            self._bytes = sum(map(len, self._queue))
            raise
        return True

    @override
    def take(self, max_items: int) -> list[bytes]:
        queue = self._queue
        items = list(islice(queue, max_items))
        left = len(queue) - len(items)
        total = self._bytes - sum(map(len, items))
        if not left:
            rest: deque[bytes] = deque()
            # No call from here on.
            self._queue, self._bytes = rest, 0
            return items
        try:
            while len(queue) > left:
                queue.popleft()
            self._bytes = total
        except BaseException:
            queue.extendleft(reversed(items[: len(items) + left - len(queue)]))
            raise
        return items

    @override
    def take_one(self) -> bytes | None:
        queue = self._queue
        if not queue:
            return None
        item = queue[0]
        total = self._bytes - len(item)
        # No call from here on.
        del queue[0]
        self._bytes = total
        return item

    @override
    def room(self) -> tuple[int, int]:
        items, size = self._max_items - len(self._queue), self._max_bytes - self._bytes
        return (items, size) if items > 0 else (0, 0)

    @override
    def items(self) -> int:
        return len(self._queue)

    @override
    def payload_bytes(self) -> int:
        return self._bytes

    @override
    def fill(self) -> float:
        """Share of the tighter limit in use, 0.0 to 1.0."""
        return max(self._bytes / self._max_bytes, len(self._queue) / self._max_items)


class CountTier(BytesTier):
    """Holds at most `max_items` items of any size: the specification's channel."""

    def __init__(self, max_items: int) -> None:
        positive_int("max_items", max_items)
        super().__init__(max_items * MAX_MESSAGE_BYTES, max_items)
