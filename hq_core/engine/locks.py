"""The engine's two locks, which know their owner: a thread that meets its own is answered.

`mutex` is held for microseconds, `io` for as long as a call on the backend takes. A signal handler
or a finaliser may come in the middle of its thread's own call, holding either: the mutex lets it
in, since some things work there, and `inside` says that something is half changed. What such a
call may not do itself is left to the end of the call that it interrupted.
"""

import sys
from collections.abc import Callable
from threading import TIMEOUT_MAX, RLock, get_ident
from time import monotonic
from types import TracebackType
from typing import Final, NoReturn, ParamSpec, Protocol, TypeVar, cast

from hq_core.errors import HybridQueueError, ReentrantCallError

__all__ = ["PATIENCE", "Locks", "OwnedLock"]

PATIENCE: Final = 0.05
"""Seconds for which a call that does not wait for items or room still waits for `io`, so that a
refill under way is not taken for emptiness."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


class OwnedLock(Protocol):
    """A lock that can be taken again by the thread that has it."""

    def _is_owned(self) -> bool:
        """Whether this thread holds it. `threading.Condition` relies on it too."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
    def release(self) -> None: ...
    def __enter__(self) -> object: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...


class Locks:
    """The locks of one engine. `mend` is called under the mutex when a change was interrupted."""

    def __init__(self, stream_id: str, mend: Callable[[], None]) -> None:
        self.mutex = cast(OwnedLock, RLock())
        self.io = cast(OwnedLock, RLock())
        self.inside = False
        """Whether a change under the mutex is under way; only its own thread can see it so."""
        self.waking: set[int] = set()
        """Threads in the middle of waking the pump, which has locks of its own."""
        self._stream_id = stream_id
        self.mend = mend

    def change(self, change: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Make a `change` under the mutex; raises `ReentrantCallError` in the middle of another."""
        with self.mutex:
            if self.inside:
                self.refuse_reentry()
            self.inside = True
            try:
                return change(*args, **kwargs)
            except HybridQueueError:
                raise
            except BaseException:
                self.mend()
                raise
            finally:
                self.inside = False

    def enter_io(self, deadline: float | None) -> bool:
        """Take `io`; the caller releases it. False: it was not free by `deadline` (seconds of the
        monotonic clock; None: there is none).

        At the end of the program its owner may be a thread that runs no more: then it is not waited
        for.
        """
        io = self.io
        if io._is_owned() or self.mutex._is_owned():
            self.refuse_reentry()
        try:
            if io.acquire(blocking=False):
                return True
            if sys.is_finalizing():
                return False
            if deadline is None:
                return io.acquire()
            left = deadline - monotonic()
            return left > 0 and io.acquire(timeout=min(left, TIMEOUT_MAX))
        except BaseException:  # Ctrl-C may come when it was taken, and before the caller knows
            try:  # noqa: SIM105 # that is a call, after which an interruption may come too
                io.release()
            except RuntimeError:  # it was not taken
                pass
            raise

    def only_io_is_mine(self) -> bool:
        """Whether this thread may call the backend now."""
        return self.io._is_owned() and not self.mutex._is_owned()

    def any_is_mine(self) -> bool:
        """Whether this thread is in the middle of a call."""
        return self.mutex._is_owned() or self.io._is_owned() or get_ident() in self.waking

    def refuse_reentry(self) -> NoReturn:
        """Raise `ReentrantCallError`."""
        raise ReentrantCallError(
            f"this thread is in the middle of another call on the queue {self._stream_id!r}: from "
            "a signal handler, a finaliser or a plugin use shutdown, close or stats, or another "
            "thread"
        )
