"""Signals, and the ends of threads, as bytes in a pipe: one poll waits for all of them.

No code runs inside a signal handler, so none can meet a lock that it interrupted.
"""

import contextlib
import os
import select
import signal
import threading
import types
from collections.abc import Iterable, Iterator
from typing import Final

__all__ = ["ENDED", "Inbox", "receiving"]

ENDED: Final = 0
"""What `Inbox.post` leaves; no signal has this number."""


class Inbox:
    """The numbers of the signals that came, and `ENDED`, in order."""

    def __init__(self, descriptor: int, slot: int) -> None:
        self._descriptor = descriptor
        self._slot = slot
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._lock = threading.Lock()
        self._open = True

    def post(self) -> None:
        """Put `ENDED` in. From any thread, also from one that outlasts the inbox."""
        with self._lock:
            if self._open:
                os.write(self._slot, bytes([ENDED]))

    def wait(self, timeout: float | None) -> bytes:
        """What came, as soon as something has; empty after `timeout` seconds."""
        ready = self._poll.poll(None if timeout is None else max(timeout, 0) * 1000)
        return os.read(self._descriptor, 1) if ready else b""

    def close(self) -> None:
        """Take nothing any more."""
        with self._lock:
            self._open = False
        os.close(self._descriptor)
        os.close(self._slot)


@contextlib.contextmanager
def receiving(signals: Iterable[signal.Signals]) -> Iterator[Inbox]:
    """An inbox for `signals` in place of their usual effect; those ignored so far stay ignored.

    Only in the main thread, as everything about signals.
    """
    descriptor, slot = os.pipe()
    os.set_blocking(slot, False)
    earlier_slot = signal.set_wakeup_fd(slot, warn_on_full_buffer=False)
    earlier = {s: signal.getsignal(s) for s in signals}
    earlier = {s: action for s, action in earlier.items() if action is not signal.SIG_IGN}
    for s in earlier:
        signal.signal(s, _leave_it_to_the_inbox)
    inbox = Inbox(descriptor, slot)
    try:
        yield inbox
    finally:
        for s, action in earlier.items():
            signal.signal(s, action)
        signal.set_wakeup_fd(earlier_slot)
        inbox.close()


def _leave_it_to_the_inbox(number: int, frame: types.FrameType | None) -> None:
    """Python writes the number to the wake-up descriptor by itself, given a handler."""
