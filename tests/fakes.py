"""Backends for tests: real ones kept in memory, and one that fails on order."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from hq_core.capabilities import Capability
from hq_core.protocols import API_VERSION, Stream
from hq_core.stats import RecoveryReport


class MemoryBackend:
    """The contract of `OverflowBackend` in a list with a cursor; forgets everything at close."""

    name: ClassVar[str] = "memory"
    api_version: ClassVar[int] = API_VERSION
    capabilities: ClassVar[Capability] = Capability.NONE
    record_overhead: ClassVar[int] = 4

    def __init__(self, stream: Stream) -> None:
        self.recovered = RecoveryReport()
        self.stored: deque[bytes] = deque()
        self.read_not_trimmed: deque[bytes] = deque()
        self.closed = False

    def append(self, records: Sequence[bytes]) -> None:
        self.stored.extend(records)

    def read(self, max_records: int, max_bytes: int) -> list[bytes]:
        records: list[bytes] = []
        while self.stored and len(records) < max_records and len(self.stored[0]) <= max_bytes:
            max_bytes -= len(self.stored[0])
            records.append(self.stored.popleft())
        self.read_not_trimmed.extend(records)
        return records

    def trim(self, count: int) -> None:
        for _ in range(count):
            self.read_not_trimmed.popleft()

    def sync(self) -> None: ...

    def depth(self) -> int:
        return len(self.stored)

    def size_bytes(self) -> int:
        records = len(self.stored) + len(self.read_not_trimmed)
        payload = sum(map(len, self.stored)) + sum(map(len, self.read_not_trimmed))
        return payload + records * self.record_overhead

    def close(self, *, delete: bool) -> None:
        assert not self.closed, "closed twice"
        self.closed = True


@dataclass
class Shelf:
    """What outlives a `DurableBackend`: pass ``shelf.open`` as the backend."""

    records: list[bytes] = field(default_factory=list)

    def open(self, stream: Stream) -> "DurableBackend":
        return DurableBackend(stream, self)


class DurableBackend(MemoryBackend):
    """Keeps what was not trimmed, on a shelf."""

    name: ClassVar[str] = "shelf"
    capabilities: ClassVar[Capability] = Capability.DURABLE

    def __init__(self, stream: Stream, shelf: Shelf) -> None:
        super().__init__(stream)
        self._shelf = shelf
        self.stored.extend(shelf.records)
        self.recovered = RecoveryReport(records=len(self.stored), size_bytes=self.size_bytes())

    def close(self, *, delete: bool) -> None:
        super().close(delete=delete)
        left = [] if delete else [*self.read_not_trimmed, *self.stored]
        self._shelf.records[:] = left


class FaultyBackend(MemoryBackend):
    """Raises what `fault(method, number)` returns, before the number-th call does anything."""

    def __init__(self, stream: Stream, fault: Callable[[str, int], Exception | None]) -> None:
        super().__init__(stream)
        self._fault = fault
        self._calls = 0

    def _maybe_fail(self, method: str) -> None:
        self._calls += 1
        exc = self._fault(method, self._calls)
        if exc is not None:
            raise exc

    def append(self, records: Sequence[bytes]) -> None:
        self._maybe_fail("append")
        super().append(records)

    def read(self, max_records: int, max_bytes: int) -> list[bytes]:
        self._maybe_fail("read")
        return super().read(max_records, max_bytes)

    def trim(self, count: int) -> None:
        self._maybe_fail("trim")
        super().trim(count)
