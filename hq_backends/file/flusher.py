"""``fsync="interval"``: one thread that flushes what was written, and sleeps while nothing is."""

import threading
from collections.abc import Callable

__all__ = ["Flusher"]


class Flusher:
    """Calls `flush` at most `interval` seconds after each `dirty`, in a thread of its own.

    The thread starts with the first `dirty`. Between two flushes at least `interval` passes.
    """

    def __init__(self, flush: Callable[[], None], interval: float) -> None:
        self._flush = flush
        self._interval = interval
        self._dirty = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def dirty(self) -> None:
        """Something was written."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="hq-flush", daemon=True)
            thread.start()
            self._thread = thread
        self._dirty.set()

    def stop(self) -> None:
        """End the thread; what is dirty stays so."""
        self._stopped.set()
        self._dirty.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            self._dirty.wait()
            self._stopped.wait(self._interval)
            self._dirty.clear()
            if self._stopped.is_set():  # looked at last, or `stop` might be cleared away
                return
            self._flush()
