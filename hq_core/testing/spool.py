"""A directory for a test, and what was opened in it."""

import os
import resource
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from hq_core.limiters import Unlimited
from hq_core.protocols import BackendFactory, OverflowBackend, Stream
from hq_core.queue import HybridQueue
from hq_core.spool.names import file_name
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
]

ANY_SIZE: Final = 1 << 40
"""A `max_bytes` that never limits."""


class Spool:
    """Opens backends and queues in `directory`; whatever is still open at the end gets closed."""

    def __init__(
        self, factory: BackendFactory, options: Mapping[str, object], directory: Path
    ) -> None:
        self.directory = directory
        self._factory = factory
        self._options = options
        self._open: list[OverflowBackend] = []
        self._queues: list[HybridQueue] = []

    def make(self, stream: Stream) -> OverflowBackend:
        """A `BackendFactory` with the options of the suite."""
        return self._factory(stream, **self._options)

    def open(self, stream_id: str = "stream", **stream: Any) -> OverflowBackend:
        """Open a backend for `stream_id`; `stream` are further fields of `Stream`."""
        backend = self.make(Stream(stream_id, file_name(stream_id), self.directory, **stream))
        self._open.append(backend)
        return backend

    def close(self, backend: OverflowBackend, *, delete: bool = False) -> None:
        """Close `backend`, by default keeping what it holds."""
        self._open.remove(backend)
        backend.close(delete=delete)

    def reopen(self, backend: OverflowBackend, **stream: Any) -> OverflowBackend:
        """Close `backend`, keeping what it holds, and open the stream again."""
        self.close(backend)
        return self.open(**stream)

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


def numbered(count: int, start: int = 0, size: int = 0) -> list[bytes]:
    """`count` different records that tell their number, padded to at least `size` bytes."""
    return [
        b"record %d " % n + bytes(max(0, size - 8 - len(str(n))))
        for n in range(start, start + count)
    ]


def read_all(backend: OverflowBackend) -> list[bytes]:
    """Everything that is stored and not read, oldest first."""
    records: list[bytes] = []
    while backend.depth():
        found = backend.read(1000, ANY_SIZE)
        assert found, f"depth() says {backend.depth()}, read() gives nothing"
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
    assert stats.enqueued == stats.dequeued + stats.discarded + stats.depth
    assert min(stats.depth, stats.memory_items, stats.disk_bytes, stats.discarded) >= 0
