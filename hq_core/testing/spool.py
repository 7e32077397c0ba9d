"""A directory for a test, and what was opened in it."""

import os
import resource
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

import pytest

from hq_core.limiters import Unlimited
from hq_core.protocols import BackendFactory, OverflowBackend, Stream
from hq_core.queue import HybridQueue
from hq_core.spool.directory import Directory
from hq_core.testing.fakes import ManualPump

__all__ = [
    "ANY_SIZE",
    "Spool",
    "allocated",
    "balanced",
    "drain",
    "file_size_limit",
    "leaving_nothing",
    "numbered",
    "read_all",
    "take",
]

ANY_SIZE: Final = 1 << 40
"""A `max_bytes` that never limits."""


class Spool:
    """Opens backends and queues in `directory`; whatever is still open at the end gets closed.

    `damage(backend, number)` damages the record `number` of an open backend.
    """

    def __init__(
        self,
        factory: BackendFactory,
        options: Mapping[str, object],
        directory: Path,
        damage: Callable[[Any, int], object] | None = None,
    ) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        self.directory = directory
        self._held = Directory(directory)
        self._factory = factory
        self._options = options
        self._damage = damage
        self._open: list[OverflowBackend] = []
        self._queues: list[HybridQueue] = []
        self._beside: list[Spool] = []

    def beside(self) -> Self:
        """The same in another directory."""
        directory = self.directory.with_name(f"{self.directory.name}-beside")
        other = type(self)(self._factory, self._options, directory, self._damage)
        self._beside.append(other)
        return other

    def make(self, stream: Stream) -> OverflowBackend:
        """A `BackendFactory` with the options of the suite."""
        return self._factory(stream, **self._options)

    def stream(self, stream_id: str = "stream", **fields: Any) -> Stream:
        """What a backend for `stream_id` is opened with; `fields` are further fields of it."""
        return self._held.stream(stream_id, **fields)

    def open(self, stream_id: str = "stream", **fields: Any) -> OverflowBackend:
        """Open a backend for `stream_id`; `fields` are further fields of `Stream`."""
        backend = self.make(self.stream(stream_id, **fields))
        self._open.append(backend)
        return backend

    def close(self, backend: OverflowBackend, *, delete: bool = False) -> None:
        """Close `backend`, by default keeping what it holds."""
        self._open.remove(backend)
        backend.close(delete=delete)

    def reopen(self, backend: OverflowBackend, **fields: Any) -> OverflowBackend:
        """Close `backend`, keeping what it holds, and open the stream again."""
        self.close(backend)
        return self.open(**fields)

    def damage(self, backend: OverflowBackend, number: int) -> None:
        """Damage the record `number` of `backend`; skips the test if nobody knows how."""
        if self._damage is None:
            pytest.skip("not tested: a record cannot be damaged, because the suite has no `damage`")
        self._damage(backend, number)

    def queue(
        self, memory_items: int = 1, stream_id: str = "stream", **options: Any
    ) -> HybridQueue:
        """Open a queue, without a limiter, and without a pump that moves by itself."""
        options = {"limiter": Unlimited(), "pump": ManualPump(), "backend": self.make, **options}
        queue = HybridQueue(stream_id, memory_items, self.directory, **options)
        self._queues.append(queue)
        return queue

    def leave(self) -> None:
        """Close what is still open."""
        for backend in self._open:
            backend.close(delete=True)
        for queue in self._queues:
            queue.close()
        for other in self._beside:
            other.leave()
        self._held.close()


def numbered(count: int, start: int = 0, size: int = 0) -> list[bytes]:
    """`count` different records that tell their number, padded to at least `size` bytes."""
    return [
        b"record %d " % n + bytes(max(0, size - 8 - len(str(n))))
        for n in range(start, start + count)
    ]


def read_all(backend: OverflowBackend, skip: int = 0) -> list[bytes]:
    """Every record from number `skip` on, oldest first. They stay."""
    records: list[bytes] = []
    while (at := skip + len(records)) < backend.depth():
        found = backend.read(at, 1000, ANY_SIZE)
        assert found, f"depth() says {backend.depth()}, read({at}, ...) gives nothing"
        records += found
    return records


def take(backend: OverflowBackend, count: int) -> list[bytes]:
    """Read the oldest `count` records and trim them."""
    records: list[bytes] = []
    while len(records) < count:
        found = backend.read(0, count - len(records), ANY_SIZE)
        assert found, f"depth() says {backend.depth()}, read(0, ...) gives nothing"
        backend.trim(len(found))
        records += found
    return records


def allocated(directory: Path) -> int:
    """Bytes of disk in use below `directory`."""
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*"))


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Within it, writing beyond `size` bytes of any file fails with EFBIG, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def leaving_nothing() -> Iterator[None]:
    """At its end no thread runs and no descriptor is open that was not there at its beginning.

    Those that were may be gone by then: other tests' threads end when they like.
    """
    threads, files = set(threading.enumerate()), _open_files()
    yield
    assert set(threading.enumerate()) - threads == set(), "a thread is left"
    assert _open_files() - files == set(), "a descriptor is left open"


def _open_files() -> set[tuple[str, str]]:
    """Each descriptor of this process, and what it is of."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists them
            found.add((entry.name, os.readlink(entry)))  # noqa: PTH115 # not of a path
    return found


def drain(queue: HybridQueue) -> list[bytes]:
    """Everything in `queue`, oldest first."""
    items: list[bytes] = []
    while queue.depth:
        items.append(queue.try_dequeue())
    return items


def balanced(queue: HybridQueue) -> None:
    """The accounts add up and nothing is below zero."""
    stats = queue.stats()
    assert stats.enqueued == stats.dequeued + stats.discarded + stats.leased + stats.depth
    assert min(stats.depth, stats.memory_items, stats.disk_bytes, stats.discarded) >= 0
