"""Memory tiers: the bounded, in-order first tier of a queue.

Pure: no locks, no clock, no I/O. The engine calls them under its mutex.
"""

from collections import deque
from collections.abc import Sequence

from hq_core.checks import positive_int
from hq_core.protocols import MAX_MESSAGE_BYTES

__all__ = ["BytesTier", "CountTier"]


class BytesTier:
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

    def capacity(self) -> tuple[int, int]:
        """How many items, and of how many bytes in all, it accepts when empty."""
        return self._max_items, self._max_bytes

    def offer(self, items: Sequence[bytes]) -> bool:
        """Append all of `items` and return True, or none of them and return False."""
        total = self._bytes + sum(map(len, items))
        if total > self._max_bytes or len(self._queue) + len(items) > self._max_items:
            return False
        self._queue.extend(items)
        self._bytes = total
        return True

    def offer_one(self, item: bytes) -> bool:
        """Append `item` and return True, or return False when there is no room."""
        total = self._bytes + len(item)
        if total > self._max_bytes or len(self._queue) >= self._max_items:
            return False
        self._queue.append(item)
        self._bytes = total
        return True

    def take(self, max_items: int) -> list[bytes]:
        """Remove and return the oldest items, at most `max_items`."""
        queue = self._queue
        if max_items >= len(queue):
            items = list(queue)
            queue.clear()
            self._bytes = 0
            return items
        items = [queue.popleft() for _ in range(max_items)]
        self._bytes -= sum(map(len, items))
        return items

    def take_one(self) -> bytes | None:
        """Remove and return the oldest item; None when there is none."""
        if not self._queue:
            return None
        item = self._queue.popleft()
        self._bytes -= len(item)
        return item

    def room(self) -> tuple[int, int]:
        """How many items, and of how many bytes in all, it accepts now."""
        items, size = self._max_items - len(self._queue), self._max_bytes - self._bytes
        return (items, size) if items > 0 else (0, 0)

    def items(self) -> int:
        """Number of items held."""
        return len(self._queue)

    def payload_bytes(self) -> int:
        """Payload bytes held."""
        return self._bytes

    def fill(self) -> float:
        """Share of the tighter limit in use, 0.0 to 1.0."""
        return max(self._bytes / self._max_bytes, len(self._queue) / self._max_items)


class CountTier:
    """Holds at most `max_items` items of any size: the specification's channel.

    What they weigh is added up when somebody asks, not at every item.
    """

    def __init__(self, max_items: int) -> None:
        self._max_items = positive_int("max_items", max_items)
        self._queue: deque[bytes] = deque()

    def capacity(self) -> tuple[int, int]:
        """How many items, and of how many bytes in all, it accepts when empty."""
        return self._max_items, self._max_items * MAX_MESSAGE_BYTES

    def offer(self, items: Sequence[bytes]) -> bool:
        """Append all of `items` and return True, or none of them and return False."""
        if len(self._queue) + len(items) > self._max_items:
            return False
        self._queue.extend(items)
        return True

    def offer_one(self, item: bytes) -> bool:
        """Append `item` and return True, or return False when there is no room."""
        if len(self._queue) >= self._max_items:
            return False
        self._queue.append(item)
        return True

    def take(self, max_items: int) -> list[bytes]:
        """Remove and return the oldest items, at most `max_items`."""
        queue = self._queue
        if max_items >= len(queue):
            items = list(queue)
            queue.clear()
            return items
        return [queue.popleft() for _ in range(max_items)]

    def take_one(self) -> bytes | None:
        """Remove and return the oldest item; None when there is none."""
        return self._queue.popleft() if self._queue else None

    def room(self) -> tuple[int, int]:
        """How many items, and of how many bytes in all, it accepts now."""
        items = self._max_items - len(self._queue)
        return items, items * MAX_MESSAGE_BYTES

    def items(self) -> int:
        """Number of items held."""
        return len(self._queue)

    def payload_bytes(self) -> int:
        """Payload bytes held."""
        return sum(map(len, self._queue))

    def fill(self) -> float:
        """Share of the item limit in use, 0.0 to 1.0."""
        return len(self._queue) / self._max_items
