"""Threads as holders of items: something that is there as long as the thread is."""

import threading
import weakref
from typing import Final

from hq_core.engine.in_flight import Holder

__all__ = ["this_thread"]


class _Running:
    """Kept by its thread alone, so it goes when the thread does, whoever started that."""

    __slots__ = ("__weakref__",)

    def done(self) -> bool:
        return False


class _ThisThread(threading.local):
    def __init__(self) -> None:
        self._running = _Running()
        self.holder: Holder = weakref.ref(self._running)


this_thread: Final = _ThisThread()
"""`this_thread.holder` is the thread that asks."""
