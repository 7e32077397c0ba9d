"""``fsync="interval"``: one thread that flushes what was written, and sleeps while nothing is.

It waits for plain locks that others release: unlike an `Event`, they cannot be left locked by an
interrupt that comes while they are set.
"""

import threading
import time
from collections.abc import Callable

__all__ = ["Flusher"]


class Flusher:
    """Calls `flush` at most `interval` seconds after each `dirty`, in a thread of its own.

    Between two flushes at least `interval` passes.
    """

    def __init__(self, flush: Callable[[], None], interval: float) -> None:
        self._flush = flush
        self._interval = interval
        self._clean = _taken()
        self._running = _taken()
        self._thread: threading.Thread | None = None
        self._due = 0.0  # when to flush next, if there is no thread

    def start(self) -> None:
        """Start the thread; if there can be no more of them, whoever writes flushes."""
        thread = threading.Thread(target=self._run, name="hq-flush", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return
        except BaseException:
            self.stop()
            raise
        self._thread = thread

    def dirty(self) -> None:
        """Something was written."""
        if self._thread is None:
            self._flush_if_due()
        elif self._clean.locked():
            self._clean.release()

    def stop(self) -> None:
        """End the thread; what is dirty stays so. May be called again."""
        if self._running.locked():
            self._running.release()
        if self._clean.locked():
            self._clean.release()
        if self._thread is not None:
            self._thread.join()

    def _flush_if_due(self) -> None:
        now = time.monotonic()
        if now >= self._due:
            self._due = now + self._interval
            self._flush()

    def _run(self) -> None:
        while True:
            self._clean.acquire()
            stopped = self._running.acquire(timeout=self._interval)
            self._clean.acquire(blocking=False)  # what was written meanwhile is flushed now
            if stopped or self._running.acquire(blocking=False):  # `stop` may have come just then
                return
            try:
                self._flush()
            except Exception:  # no memory, say: what is dirty stays so
                self.dirty()


def _taken() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock
