"""Stand-ins for tests; `MemoryBackend`, the reference, passes the suite of backends itself."""

from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import ClassVar, Final

from hq_core.capabilities import Capability
from hq_core.errors import StreamBusyError
from hq_core.protocols import API_VERSION, OverflowBackend, Stream
from hq_core.stats import RecoveryReport

__all__ = ["FaultyBackend", "ManualClock", "ManualPump", "MemoryBackend"]


class MemoryBackend:
    """The reference: the contract of `OverflowBackend` in two deques.

    Durable as long as the process lives: what is kept at close waits under the stream's path.
    """

    name: ClassVar[str] = "memory"
    api_version: ClassVar[int] = API_VERSION
    capabilities: ClassVar[Capability] = Capability.DURABLE
    record_overhead: ClassVar[int] = 4

    def __init__(self, stream: Stream) -> None:
        self._path = stream.directory / stream.file_name
        left = _kept.pop(self._path, [])
        if left and stream.leftover == "refuse":
            _kept[self._path] = left
            raise StreamBusyError(f"{len(left)} records of an earlier owner are kept; resume them")
        resumed = left if stream.leftover == "resume" else []
        self._read: deque[bytes] = deque()
        self._unread = deque(resumed)
        self._size = 0
        self._grow(resumed)
        self.recovered = RecoveryReport(records=len(resumed), size_bytes=self._size)
        if left and stream.leftover == "quarantine":
            aside = self._path.with_name(f"{self._path.name}.quarantine")
            _kept[aside] = left
            size = sum(map(len, left)) + len(left) * self.record_overhead
            self.recovered = RecoveryReport(
                quarantined_bytes=size, quarantine=aside, reason="leftover='quarantine'"
            )

    def append(self, records: Sequence[bytes]) -> None:
        """Add `records` at the end."""
        self._unread.extend(records)
        self._grow(records)

    def read(self, max_records: int, max_bytes: int) -> list[bytes]:
        """Move the read position past the next records and return them."""
        records: list[bytes] = []
        unread = self._unread
        while unread and len(records) < max_records and len(unread[0]) <= max_bytes:
            record = unread.popleft()
            max_bytes -= len(record)
            records.append(record)
        self._read.extend(records)
        return records

    def trim(self, count: int) -> None:
        """Forget the oldest `count` records read."""
        if count > len(self._read):
            raise ValueError(f"{count} records to trim, {len(self._read)} read and not trimmed")
        self._size -= sum(map(len, islice(self._read, count))) + count * self.record_overhead
        for _ in range(count):
            self._read.popleft()

    def sync(self) -> None:
        """Nothing to do."""

    def depth(self) -> int:
        """Number of records stored and not yet read."""
        return len(self._unread)

    def size_bytes(self) -> int:
        """Live bytes."""
        return self._size

    def close(self, *, delete: bool) -> None:
        """Keep what was not trimmed for the next owner, unless it is to be deleted."""
        left = [*self._read, *self._unread]
        if left and not delete:
            _kept[self._path] = left
        self._read.clear()
        self._unread.clear()

    def _grow(self, records: Sequence[bytes]) -> None:
        self._size += sum(map(len, records)) + len(records) * self.record_overhead


_kept: Final[dict[Path, list[bytes]]] = {}
"""What closed backends keep, by path."""


class FaultyBackend:
    """Another backend, except that calls fail on order, before they do anything.

    `fault(method, number)` is asked before the `number`-th call of `append`, `read` or `trim`
    (counted together, from 1) and returns what to raise, or None.
    """

    name: ClassVar[str] = "faulty"
    api_version: ClassVar[int] = API_VERSION
    capabilities: ClassVar[Capability] = Capability.NONE
    record_overhead: ClassVar[int] = 0

    def __init__(
        self, backend: OverflowBackend, fault: Callable[[str, int], Exception | None]
    ) -> None:
        self._backend = backend
        self._fault = fault
        self.calls = 0
        """Calls of `append`, `read` and `trim` so far."""
        self.recovered = backend.recovered
        vars(self).update(
            capabilities=backend.capabilities, record_overhead=backend.record_overhead
        )

    def append(self, records: Sequence[bytes]) -> None:
        """Fail, or append."""
        self._maybe_fail("append")
        self._backend.append(records)

    def read(self, max_records: int, max_bytes: int) -> list[bytes]:
        """Fail, or read."""
        self._maybe_fail("read")
        return self._backend.read(max_records, max_bytes)

    def trim(self, count: int) -> None:
        """Fail, or trim."""
        self._maybe_fail("trim")
        self._backend.trim(count)

    def sync(self) -> None:
        """Sync."""
        self._backend.sync()

    def depth(self) -> int:
        """Number of records stored and not yet read."""
        return self._backend.depth()

    def size_bytes(self) -> int:
        """Live bytes."""
        return self._backend.size_bytes()

    def close(self, *, delete: bool) -> None:
        """Close."""
        self._backend.close(delete=delete)

    def _maybe_fail(self, method: str) -> None:
        self.calls += 1
        exc = self._fault(method, self.calls)
        if exc is not None:
            raise exc


class ManualClock:
    """A clock that stands still until it is moved: pass it where a clock is called."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        """Seconds."""

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self.now += seconds


class ManualPump:
    """A pump that does nothing by itself: the test says when it takes a step."""

    def __init__(self) -> None:
        self.wakes = 0
        """How often the queue has woken it."""
        self._step: Callable[[], bool] = lambda: False

    def start(self, step: Callable[[], bool], name: str) -> None:
        """Remember what a step is."""
        self._step = step

    def wake(self) -> None:
        """Count."""
        self.wakes += 1

    def stop(self) -> None:
        """Take no more steps."""
        self._step = lambda: False

    def step(self) -> bool:
        """Move one batch; whether there is more to do."""
        return self._step()
