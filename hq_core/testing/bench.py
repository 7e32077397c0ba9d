"""What a backend costs, beside what the file system alone costs in the same run.

A *round* is: append records one by one and read them back, append them again in batches and read
them back. Rounds of the backend and of the reference take turns, so a slow moment of the machine
meets both; of several rounds the medians count. Compare ratios: absolute figures are the machine's.

The reference is a bare file: one `pwritev` a record, one `pwritev` a batch (of at most
1 MiB a call), one `pread` a record.
"""

import errno
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from hq_core.errors import CorruptedData
from hq_core.protocols import BackendFactory
from hq_core.registry import open_backend
from hq_core.spool.directory import Directory

__all__ = ["BATCH", "SIZES", "Figure", "Measurement", "measure"]

SIZES: Final = (128, 1316, 65_536)
"""A telemetry record, seven transport-stream packets, a block of `hq pipe`; bytes."""
BATCH: Final = 64
"""Records in a batch."""

Phase = Literal["append", "append batch", "read + trim"]
_PHASES: Final[tuple[Phase, ...]] = ("append", "append batch", "read + trim")
_MOST_RECORDS: Final = 32_768
_MOST_BYTES: Final = 32 * 1024 * 1024
_READ_BYTES: Final = 8 * 1024 * 1024
_RAW_CALL_BYTES: Final = 1024 * 1024
"""Most bytes in one call of the reference: longer ones are at times several times slower."""


@dataclass(frozen=True, slots=True)
class Figure:
    """The median of one phase for records of one size."""

    size: int
    """Payload bytes of a record."""
    phase: Phase
    """``append``: one record a call. ``append batch``: 64 a call. ``read + trim``: up to 64 a
    call, given back at once."""
    items_per_second: float
    """Records, by wall time."""
    mb_per_second: float
    """Payload, in units of 1,000,000 bytes."""
    cpu_us: float
    """Microseconds of CPU time a record, user and system, all threads of the process."""
    raw_items_per_second: float
    """What the reference did."""
    ratio: float
    """`items_per_second` over `raw_items_per_second`."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What `measure` found."""

    backend: str
    """The name in its class."""
    cores: int
    """Of this machine, as far as this process may use them."""
    repeats: int
    """Rounds behind each median."""
    figures: tuple[Figure, ...]
    """By size, then by phase."""


def measure(
    factory: BackendFactory,
    *,
    options: Mapping[str, object] | None = None,
    directory: str | os.PathLike[str] | None = None,
    sizes: Sequence[int] = SIZES,
    repeats: int = 5,
    seconds: float = 10.0,
) -> Measurement:
    """Measure the backend that `factory` opens with `options`, in about `seconds`.

    Files go to a temporary directory in `directory`, by default the system's: the file system is
    half of the result. Each size is 8 bytes at least. Every record read back is compared with
    what was appended; one that differs raises `CorruptedData`. What opening raises is that of
    `open_backend`.
    """
    with (
        tempfile.TemporaryDirectory(prefix="hq-bench-", dir=directory) as name,
        Directory(Path(name)) as folder,
    ):
        backend = open_backend(factory, folder.stream("bench"), options or {})
        raw = _Raw(folder.path / "raw")
        try:
            figures = [
                figure
                for size in sizes
                for figure in _figures(backend, raw, size, repeats, seconds / len(sizes))
            ]
        finally:
            raw.close()
            backend.close(delete=True)
    return Measurement(backend.name, len(os.sched_getaffinity(0)), repeats, tuple(figures))


class _Log(Protocol):
    """The part of `OverflowBackend` that is measured."""

    def append(self, records: Sequence[bytes]) -> None: ...
    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]: ...
    def trim(self, count: int) -> None: ...


class _Raw:
    """The reference: records of one size in a bare file, without headers or bookkeeping."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._head = self._tail = self._size = 0

    def append(self, records: Sequence[bytes]) -> None:
        self._size = len(records[0])
        step = max(1, _RAW_CALL_BYTES // self._size)
        for first in range(0, len(records), step):
            part = records[first : first + step]
            if os.pwritev(self._fd, part, self._tail) < self._size * len(part):
                raise OSError(errno.ENOSPC, "short write: is the disk full?")
            self._tail += self._size * len(part)

    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        start = self._head + skip * self._size
        end = min(self._tail, start + min(max_records, max_bytes // self._size) * self._size)
        return [os.pread(self._fd, self._size, at) for at in range(start, end, self._size)]

    def trim(self, count: int) -> None:
        self._head += count * self._size
        if self._head == self._tail:
            os.ftruncate(self._fd, 0)
            self._head = self._tail = 0

    def close(self) -> None:
        os.close(self._fd)


@dataclass(frozen=True, slots=True)
class _Cost:
    """Seconds for one record."""

    wall: float
    cpu: float


_Round = dict[Phase, _Cost]


def _figures(backend: _Log, raw: _Log, size: int, repeats: int, seconds: float) -> Iterator[Figure]:
    records = _enough(backend, size, seconds / (2 * repeats + 1))
    rounds: list[tuple[_Round, _Round]] = [
        (_round(raw, records), _round(backend, records)) for _ in range(repeats)
    ]
    for phase in _PHASES:
        rate = 1 / statistics.median(ours[phase].wall for _, ours in rounds)
        raw_rate = 1 / statistics.median(theirs[phase].wall for theirs, _ in rounds)
        cpu = statistics.median(ours[phase].cpu for _, ours in rounds)
        yield Figure(size, phase, rate, rate * size / 1e6, cpu * 1e6, raw_rate, rate / raw_rate)


def _enough(backend: _Log, size: int, seconds: float) -> list[bytes]:
    """So many records of `size` bytes that a round takes `seconds`; warms up on the way."""
    most = max(min(_MOST_RECORDS, _MOST_BYTES // size), BATCH)
    count = BATCH
    while True:
        records = _records(count, size)
        start = time.perf_counter()
        _round(backend, records)
        spent = time.perf_counter() - start
        if count >= most or spent > seconds / 2:
            return records
        count = min(most, 4 * count, BATCH * max(1, int(count * seconds / spent / BATCH)))


def _records(count: int, size: int) -> list[bytes]:
    """Numbered, the rest random: nothing that a store could compress."""
    rest = random.Random(0).randbytes(size - 8)
    return [number.to_bytes(8, "big") + rest for number in range(count)]


def _round(log: _Log, records: list[bytes]) -> _Round:
    batches = [records[at : at + BATCH] for at in range(0, len(records), BATCH)]
    count = len(records)
    one_by_one = _timed(count, lambda: _append(log, ([record] for record in records)))
    first, drained = _drain(log, count)
    batched = _timed(count, lambda: _append(log, batches))
    second, again = _drain(log, count)
    if first != records or second != records:
        raise CorruptedData("what was read back is not what was appended, or not in that order")
    read = _Cost((drained.wall + again.wall) / 2, (drained.cpu + again.cpu) / 2)
    return {"append": one_by_one, "append batch": batched, "read + trim": read}


def _append(log: _Log, batches: Iterable[list[bytes]]) -> None:
    for batch in batches:
        log.append(batch)


def _drain(log: _Log, count: int) -> tuple[list[bytes], _Cost]:
    got: list[bytes] = []

    def drain() -> None:
        while records := log.read(0, BATCH, _READ_BYTES):
            log.trim(len(records))
            got.extend(records)

    return got, _timed(count, drain)


def _timed(count: int, work: Callable[[], object]) -> _Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return _Cost((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count)
