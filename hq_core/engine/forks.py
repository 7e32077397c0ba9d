"""What a forked child finds in place of its parent's queues.

A lock that another thread of the parent held at the moment of the fork stays held in the child for
ever, and the files belong to the parent. So in the child every lock becomes one that refuses.
"""

import os
import weakref
from typing import NoReturn, Protocol

from hq_core.errors import StreamBusyError

__all__ = ["ParentsLock", "disown_in_child"]


class Disownable(Protocol):
    """Something a forked child must not use."""

    def disown(self) -> None:
        """Called in the child, with no lock held; must not take one."""


class ParentsLock:
    """Raises `StreamBusyError` instead of locking."""

    def __init__(self, stream_id: str) -> None:
        self._message = (
            f"the queue {stream_id!r} belongs to the process that forked this one: "
            "open a queue of your own, with another stream id"
        )

    def acquire(self, blocking: bool = True, timeout: float = -1) -> NoReturn:
        """Refuse."""
        raise StreamBusyError(self._message)

    def release(self) -> None:
        """Nothing is held."""

    def __enter__(self) -> NoReturn:
        self.acquire()

    def __exit__(self, *exc_info: object) -> None: ...

    def _is_owned(self) -> bool:
        return False


_owned: weakref.WeakSet[Disownable] = weakref.WeakSet()


def disown_in_child(owned: Disownable) -> None:
    """Have `owned.disown()` called in every child forked from now on, as long as it lives."""
    _owned.add(owned)


def _after_fork_in_child() -> None:
    for owned in _owned:
        owned.disown()


os.register_at_fork(after_in_child=_after_fork_in_child)
