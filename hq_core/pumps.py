"""Pumps: who moves stored records back into memory before a consumer asks."""

import logging
import threading
from collections.abc import Callable

__all__ = ["InlinePump", "ThreadPump"]

_log = logging.getLogger("hq_core")


class InlinePump:
    """No thread: whoever makes room moves the next batch itself, in its own call."""

    def __init__(self) -> None:
        self._stepping = threading.RLock()  # reentrant: a signal's handler may close the queue

    def start(self, step: Callable[[], bool], name: str) -> None:
        """Remember what to do."""
        self._step = step

    def wake(self) -> None:
        """Move what there is room for, now."""
        with self._stepping:
            while self._step():
                pass

    def stop(self) -> None:
        """Move nothing any more, once a `wake` under way in another thread is through."""
        with self._stepping:
            self._step = lambda: False


class ThreadPump:
    """One daemon thread, asleep until woken, started by the first wake-up.

    A queue that never overflows never has the thread. As long as none can be started, whoever
    wakes the pump takes the steps, as with `InlinePump`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._alarm = threading.Event()
        self._thread: threading.Thread | None = None
        self._threadless = InlinePump()
        self._stopping = False

    def start(self, step: Callable[[], bool], name: str) -> None:
        """Remember what to do; the thread comes with the first `wake`."""
        self._step = step
        self._name = name
        self._threadless.start(step, name)

    def wake(self) -> None:
        """Let the thread run `step` until there is nothing more to do."""
        with self._lock:
            if self._thread is None and not self._stopping:
                self._thread = self._begin()
        if self._thread is None:
            self._threadless.wake()
        else:
            self._alarm.set()

    def stop(self) -> None:
        """End the thread and wait for it."""
        with self._lock:
            self._stopping = True
        self._alarm.set()
        self._threadless.stop()
        if self._thread is not None:
            self._thread.join()

    def _begin(self) -> threading.Thread | None:
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError as exc:
            _log.warning("%s has no thread: %s", self._name, exc)
            return None
        return thread

    def _run(self) -> None:
        while True:
            self._alarm.wait()
            self._alarm.clear()
            if self._stopping:
                return
            while self._step():
                pass
