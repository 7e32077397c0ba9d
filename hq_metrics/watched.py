"""The queues that metrics tell of."""

import threading
from collections.abc import Iterator
from typing import Protocol

from hq_core import QueueStats, StreamBusyError

__all__ = ["Queue", "Watched"]


class Queue(Protocol):
    """What can be watched: a `HybridQueue`, or whatever else has its `stats`."""

    def stats(self) -> QueueStats:
        """One consistent snapshot."""


class Watched:
    """A set of queues, which may come and go. Thread-safe.

    A queue is watched, and kept alive, until it is removed; once closed, its last numbers stay.
    """

    def __init__(self, *queues: Queue) -> None:
        self._changing = threading.Lock()
        self._queues: dict[tuple[str, str], Queue] = {}  # replaced, never changed
        for queue in queues:
            self.add(queue)

    def add(self, queue: Queue) -> None:
        """Watch `queue` too.

        `ValueError` if another one with its stream and backend is watched: nobody could tell their
        numbers apart.
        """
        labels = _labels(queue.stats())
        with self._changing:
            if self._queues.get(labels, queue) is not queue:
                stream, backend = labels
                raise ValueError(
                    f"a queue with stream {stream!r} and backend {backend!r} is watched already: "
                    "remove it first, or give this one another stream id"
                )
            self._queues = {**self._queues, labels: queue}

    def remove(self, queue: Queue) -> None:
        """Watch `queue` no more; nothing happens if it is not watched."""
        with self._changing:
            self._queues = {key: kept for key, kept in self._queues.items() if kept is not queue}

    def snapshots(self) -> Iterator[tuple[dict[str, str], QueueStats]]:
        """A snapshot of every queue, with the labels ``stream`` and ``backend`` it goes by."""
        for (stream, backend), queue in self._queues.items():
            try:
                stats = queue.stats()
            except StreamBusyError:  # in a forked child: its parent tells
                continue
            yield {"stream": stream, "backend": backend}, stats


def _labels(stats: QueueStats) -> tuple[str, str]:
    """A stream id is any text; a lone surrogate, which UTF-8 has not, would end every scrape."""
    stream = stats.stream_id.encode("utf-8", "backslashreplace").decode()
    return stream, stats.backend
