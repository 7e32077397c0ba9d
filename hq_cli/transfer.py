"""A pipe's two threads: one fills the queue from a source, one empties it into a sink.

They end by themselves: the reading one at the end of the input, when it fails, when the source is
stopped or the queue closed; the writing one once the queue is drained or closed, or when it fails.
Both are daemons, since nothing can be done about a write that blocks for ever.
"""

import threading
from collections.abc import Callable

from hq_cli.descriptors import Sink, Source
from hq_core import HybridQueue, QueueClosed

__all__ = ["Transfer"]


class Transfer:
    """`source` to `sink` through `queue`, which it shuts down at the end of the input.

    The writing thread takes up to `batch` blocks at once. Each thread calls `ended` when it has.
    """

    def __init__(
        self,
        queue: HybridQueue,
        source: Source,
        sink: Sink,
        *,
        batch: int,
        ended: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._source = source
        self._sink = sink
        self._batch = batch
        self._ended = ended
        self.in_bytes = 0
        """Bytes the queue has accepted so far. Owned by the reading thread."""
        self.read_failure: Exception | None = None
        """Why the reading thread stopped, if not for a good reason."""
        self.write_failure: Exception | None = None
        """Likewise of the writing thread."""
        self.finished = False
        """Whether the writing thread has ended, and with it the transfer."""

    @property
    def out_bytes(self) -> int:
        """Bytes written so far."""
        return self._sink.written

    def start(self) -> None:
        """Start both threads."""
        for name, target in (("hq-read", self._read), ("hq-write", self._write)):
            threading.Thread(target=target, name=name, daemon=True).start()

    def stop(self) -> None:
        """Read no more; what was read is still written."""
        self._source.stop()

    def _read(self) -> None:
        enqueue = self._queue.enqueue
        try:
            for block in self._source:
                enqueue(block)
                self.in_bytes += len(block)
        except QueueClosed:
            pass  # somebody has given up
        except Exception as exc:
            self.read_failure = exc
        finally:
            self._queue.shutdown()
            self._ended()

    def _write(self) -> None:
        dequeue, batch, write = self._queue.dequeue_many, self._batch, self._sink.write
        try:
            while True:
                for block in dequeue(batch):
                    write(block)
        except QueueClosed:
            pass
        except Exception as exc:
            self.write_failure = exc
        finally:
            self.finished = True
            self._ended()
