"""Pumps: who moves stored records back into memory before a consumer asks."""

import logging
import sys
import threading
from collections.abc import Callable

from typing_extensions import override

from hq_core.protocols import Pump

__all__ = ["InlinePump", "ThreadPump"]

_log = logging.getLogger("hq_core")


class InlinePump(Pump):
    """No thread: the call that makes room moves the next batch itself."""

    def __init__(self) -> None:
        self._stepping = threading.RLock()  # reentrant: a signal's handler may close the queue
        self._wanted = False

    @override
    def start(self, step: Callable[[], bool], name: str) -> None:
        """Remember what to do."""
        self._step = step

    @override
    def wake(self) -> None:
        """Move what there is room for, now. Where a thread is at it, that goes on with this."""
        self._wanted = True
        while self._wanted:
            try:
                if not self._stepping.acquire(blocking=False):
                    return
                self._wanted = False
                while self._step():
                    pass
            finally:  # at once: an interruption may come after any call, also that which took it
                try:  # noqa: SIM105 # that is a call
                    self._stepping.release()
                except RuntimeError:  # it was not taken
                    pass

    @override
    def stop(self) -> None:
        """Move nothing any more, once a `wake` under way in another thread is through."""
        with self._stepping:
            self._step = lambda: False


class ThreadPump(Pump):
    """One daemon thread, asleep until woken, started by the first wake-up.

    A queue that never overflows never has the thread. If the thread cannot be started, `wake` runs
    the steps in the calling thread, as that of `InlinePump` does.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # reentrant, as above
        self._alarm = threading.Event()
        self._thread: threading.Thread | None = None
        self._threadless = InlinePump()
        self._stopping = False
        self._told = False  # that there is no thread to be had

    @override
    def start(self, step: Callable[[], bool], name: str) -> None:
        """Remember what to do; the thread comes with the first `wake`."""
        self._step = step
        self._name = name
        self._threadless.start(step, name)

    @override
    def wake(self) -> None:
        """Let the thread run `step` until there is nothing more to do."""
        failure = None
        with self._lock:
            if self._thread is None and not self._stopping:
                failure = self._begin()
        if self._thread is not None:
            self._alarm.set()
            return
        if failure is not None and not self._told:
            self._told = True
            _log.warning("%s has no thread: %s", self._name, failure)
        self._threadless.wake()

    @override
    def stop(self) -> None:
        """End the thread and wait for it."""
        with self._lock:
            self._stopping = True
        self._alarm.set()
        self._threadless.stop()
        thread = self._thread
        if thread in (None, threading.current_thread()) or sys.is_finalizing():
            return  # from within a step; or at the end of the program, when it runs no more
        thread.join()

    def _begin(self) -> RuntimeError | None:
        """Start it; why there is none: an interpreter may have no threads, or no daemons."""
        try:
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            thread.start()
        except RuntimeError as exc:
            return exc
        self._thread = thread
        return None

    def _run(self) -> None:
        while True:
            self._alarm.wait()
            self._alarm.clear()
            if self._stopping:
                return
            while self._step():
                pass
