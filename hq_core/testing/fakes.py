"""Stand-ins for tests; `MemoryBackend`, the reference, passes the suite of backends itself."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Final

from typing_extensions import override

from hq_core.capabilities import Capability
from hq_core.errors import (
    BackendUnavailable,
    HybridQueueError,
    StreamBusyError,
    StreamLostError,
)
from hq_core.protocols import API_VERSION, OverflowBackend, Pump, SpoolTools, Stream
from hq_core.stats import Damage, Inspection, RecoveryReport

__all__ = ["FaultyBackend", "ManualClock", "ManualPump", "MemoryBackend", "RemoteBackend"]

_HEADER: Final = 4
"""Bytes of framing that `MemoryBackend` claims for a record, and writes when it sets one aside."""


class _MemoryTools(SpoolTools):
    """Reads what `MemoryBackend` has set aside: records, each behind its length in 4 bytes."""

    suffix = ".memory"
    companions = ()

    @override
    def inspect(self, path: Path) -> Inspection:
        """How many whole records there are, and of how many bytes."""
        sizes = [len(r) + _HEADER for r in self.salvage(path) if isinstance(r, bytes)]
        return Inspection("memory", records=len(sizes), size_bytes=sum(sizes), tail=sum(sizes))

    @override
    def salvage(self, path: Path) -> Iterator[bytes | Damage]:
        """The records; what is cut short is damage."""
        data, start = path.read_bytes(), 0
        while start < len(data):
            body = start + _HEADER
            end = body + int.from_bytes(data[start:body], "big")
            if end > len(data):
                yield Damage(start, len(data) - start, "cut short")
                return
            yield data[body:end]
            start = end


class MemoryBackend(OverflowBackend):
    """The reference: the contract of `OverflowBackend` in a list.

    Durable as long as the process lives: what is kept at close waits under the stream's path. Only
    what is set aside is a file.
    """

    name: ClassVar[str] = "memory"
    api_version: ClassVar[int] = API_VERSION
    capabilities: ClassVar[Capability] = Capability.DURABLE
    tools: ClassVar[SpoolTools] = _MemoryTools()

    def __init__(self, stream: Stream) -> None:
        self._path = stream.directory / stream.file_name
        left = _kept.pop(self._path, [])
        if left and stream.leftover == "refuse":
            _kept[self._path] = left
            raise StreamBusyError(f"{len(left)} records of an earlier owner are kept; resume them")
        self._records = left if stream.leftover == "resume" else []
        self.recovered = RecoveryReport(records=self.depth(), size_bytes=self.size_bytes())
        if left and stream.leftover == "quarantine":
            self.recovered = RecoveryReport(
                quarantined_bytes=self.cost(left),
                quarantine=_set_aside(stream, left),
                reason="leftover='quarantine'",
            )

    @override
    def append(self, records: Sequence[bytes]) -> None:
        """Add `records` at the end."""
        self._records += [bytes(record) for record in records]

    @override
    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        """Return the records from number `skip` on."""
        found: list[bytes] = []
        for record in self._records[skip : skip + max_records]:
            max_bytes -= len(record)
            if max_bytes < 0:
                break
            found.append(record)
        return found

    @override
    def trim(self, count: int) -> None:
        """Forget the oldest `count` records; raises `ValueError` if there are not so many."""
        if count > len(self._records):
            raise ValueError(f"{count} records to trim, and there are {len(self._records)}")
        del self._records[:count]

    @override
    def sync(self) -> None:
        """Nothing to do."""

    @override
    def depth(self) -> int:
        """Number of records."""
        return len(self._records)

    @override
    def size_bytes(self) -> int:
        """What all of them cost."""
        return self.cost(self._records)

    @override
    def cost(self, records: Sequence[bytes]) -> int:
        """Their payload, and 4 bytes for each."""
        return sum(map(len, records)) + _HEADER * len(records)

    @override
    def close(self, *, delete: bool) -> None:
        """Keep what was not trimmed for the next owner, unless it is to be deleted."""
        if self._records and not delete:
            _kept[self._path] = self._records
        self._records = []


_kept: Final[dict[Path, list[bytes]]] = {}
"""What closed backends keep, by path."""


def _set_aside(stream: Stream, records: Sequence[bytes]) -> Path:
    path = stream.quarantine_path("memory")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(path.name, flags, 0o600, dir_fd=stream.dir_fd), "wb") as file:
        file.writelines(len(record).to_bytes(_HEADER, "big") + record for record in records)
    return path


class _Around(OverflowBackend):
    """Another backend, in front of which `_before` hears of each call that reaches the store."""

    api_version: ClassVar[int] = API_VERSION
    capabilities: ClassVar[Capability] = Capability.NONE

    def __init__(self, backend: OverflowBackend) -> None:
        self._backend = backend
        self.recovered = backend.recovered
        vars(self).update(capabilities=backend.capabilities)

    def _before(self, method: str) -> None:
        raise NotImplementedError

    @override
    def append(self, records: Sequence[bytes]) -> None:
        """Fail, or append."""
        self._before("append")
        self._backend.append(records)

    @override
    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        """Fail, or read."""
        self._before("read")
        return self._backend.read(skip, max_records, max_bytes)

    @override
    def trim(self, count: int) -> None:
        """Fail, or trim."""
        self._before("trim")
        self._backend.trim(count)

    @override
    def sync(self) -> None:
        """Fail, or sync."""
        self._before("sync")
        self._backend.sync()

    @override
    def depth(self) -> int:
        """Number of records appended and not trimmed."""
        return self._backend.depth()

    @override
    def size_bytes(self) -> int:
        """Live bytes."""
        return self._backend.size_bytes()

    @override
    def cost(self, records: Sequence[bytes]) -> int:
        """Live bytes that `records` would add."""
        return self._backend.cost(records)

    @override
    def close(self, *, delete: bool) -> None:
        """Close."""
        self._backend.close(delete=delete)


class FaultyBackend(_Around):
    """Another backend, except that calls fail on order, before they do anything.

    `fault(method, number)` is asked before the `number`-th call of `append`, `read` or `trim`
    (counted together, from 1) and returns what to raise, or None.
    """

    name: ClassVar[str] = "faulty"

    def __init__(
        self, backend: OverflowBackend, fault: Callable[[str, int], Exception | None]
    ) -> None:
        super().__init__(backend)
        self._fault = fault
        self.calls = 0
        """Calls of `append`, `read` and `trim` so far."""

    @override
    def _before(self, method: str) -> None:
        if method == "sync":
            return
        self.calls += 1
        exc = self._fault(method, self.calls)
        if exc is not None:
            raise exc


class RemoteBackend(_Around):
    """Another backend, as if its store were elsewhere: on order it is away, or another owner's.

    `depth`, `size_bytes` and `cost` answer all the same; what cannot be done is `append`, `read`,
    `trim` and `sync`. `stream` is the one that `backend` was opened for::

        def factory(stream):
            remote.append(RemoteBackend(MemoryBackend(stream), stream))
            return remote[-1]
    """

    name: ClassVar[str] = "remote"

    def __init__(self, backend: OverflowBackend, stream: Stream) -> None:
        super().__init__(backend)
        self._stream = stream
        self._trouble: HybridQueueError | None = None

    def go_away(self) -> None:
        """From now on, `BackendUnavailable`."""
        self._trouble = BackendUnavailable("the store is away")

    def come_back(self) -> None:
        """The store can be reached again, and `Stream.on_ready` is called."""
        self._trouble = None
        self._stream.on_ready()

    def lose(self) -> None:
        """Another owner has the stream: `Stream.on_lost` is called; from now on, what it was given.

        That is a `StreamLostError`. Closing then leaves what is stored to the other owner.
        """
        self._trouble = StreamLostError(f"another owner has {self._stream.stream_id!r}")
        self._stream.on_lost(self._trouble)

    @override
    def close(self, *, delete: bool) -> None:
        """Close; what another owner has stays."""
        super().close(delete=delete and not isinstance(self._trouble, StreamLostError))

    @override
    def _before(self, method: str) -> None:
        trouble = self._trouble  # another thread may end it at any moment
        if trouble is not None:
            raise trouble.with_traceback(None)


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


class ManualPump(Pump):
    """A pump that does nothing by itself: the test says when it takes a step."""

    def __init__(self) -> None:
        self.wakes = 0
        """How often the queue has woken it."""
        self._step: Callable[[], bool] = lambda: False

    @override
    def start(self, step: Callable[[], bool], name: str) -> None:
        """Remember what a step is."""
        self._step = step

    @override
    def wake(self) -> None:
        """Count."""
        self.wakes += 1

    @override
    def stop(self) -> None:
        """Take no more steps."""
        self._step = lambda: False

    def step(self) -> bool:
        """Move one batch; whether there is more to do."""
        return self._step()
