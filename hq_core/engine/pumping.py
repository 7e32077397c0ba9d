"""When the pump of a queue is woken, and what it does then."""

import logging
import math
from collections.abc import Callable
from threading import get_ident

from hq_core.engine.locks import Locks
from hq_core.engine.notices import Notices
from hq_core.errors import HybridQueueError
from hq_core.protocols import Pump

__all__ = ["Pumping"]


class Pumping:
    """The pump of one queue, woken once for all there is to do.

    `has_work`, asked under the mutex, says whether there is something to move, `refill`, called
    holding `io`, moves a batch and says whether that achieved anything. A pump that achieves
    nothing, though there is work, rests until a consumer's refill does (`rests`).
    """

    def __init__(
        self,
        pump: Pump,
        stream_id: str,
        *,
        locks: Locks,
        notices: Notices,
        has_work: Callable[[], bool],
        refill: Callable[[], bool],
        afterwards: Callable[[], None],
    ) -> None:
        self.pump = pump
        self.under_way = False
        self.rests = False
        self._stream_id = stream_id
        self._locks = locks
        self._notices = notices
        self._has_work = has_work
        self._refill = refill
        self._afterwards = afterwards

    def start(self) -> None:
        """The pump may be woken from now on."""
        self.pump.start(self.step, f"hq-pump-{self._stream_id}")

    def claim(self) -> bool:
        """Whether the caller is to `wake` it, once it holds no lock. Under the mutex."""
        if self.under_way or self.rests or not self._has_work():
            return False
        self.under_way = True
        return True

    def wake_if_needed(self) -> None:
        """Wake it if there is work. Holds no lock."""
        with self._locks.mutex:
            needed = self.claim()
        if needed:
            self.wake()

    def wake(self) -> None:
        """Wake it, having claimed that. Holds no lock. What fails is the pump's trouble, and not
        that of the caller, who may hold items by now."""
        waking = self._locks.waking
        waking.add(get_ident())
        try:
            self.pump.wake()
        except Exception as exc:
            with self._locks.mutex:
                self.under_way, self.rests = False, True
                self._note("cannot be woken", exc)
        finally:
            waking.discard(get_ident())
        self._afterwards()

    def step(self) -> bool:
        """Move a batch; whether there is more to do. Holds no lock.

        In the pump's own thread nothing comes out of it; in one that wakes the pump, and does not
        wait for the backend here, interruptions do.
        """
        achieved = goes_on = refused = False
        had_work = True
        is_wakers = get_ident() in self._locks.waking
        try:
            if not self._locks.enter_io(-math.inf if is_wakers else None):
                refused = True  # who holds `io` wakes the pump if there is work then
                return False
            try:
                # Not earlier: another call may have done the work while this one waited for `io`.
                with self._locks.mutex:
                    had_work = self._has_work()
                achieved = self._refill()
            except HybridQueueError:
                raise
            except BaseException:
                self._locks.mend()
                raise
            finally:
                self._locks.io.release()
        except Exception as exc:  # the consumer that needs these items will meet it too
            with self._locks.mutex:
                self._note("rests", exc)
        except BaseException as exc:
            if is_wakers or isinstance(exc, KeyboardInterrupt):  # which is the main thread's
                raise
            with self._locks.mutex:  # it would end the pump's thread, and nobody would know
                self._note("rests", exc)
        finally:
            with self._locks.mutex:
                self.under_way = False
                more = self._has_work()
                self.rests = more and had_work and not (achieved or refused)
                self.under_way = goes_on = more and not (self.rests or refused)
            self._afterwards()
        return goes_on

    def _note(self, what: str, exc: BaseException) -> None:
        known = isinstance(exc, HybridQueueError)
        level = logging.WARNING if known else logging.ERROR
        message = f"the pump of %r {what}: %s"
        self._notices.add(level, message, self._stream_id, exc, exc=None if known else exc)
