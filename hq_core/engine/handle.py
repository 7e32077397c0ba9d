"""What the front ends of one queue share."""

import threading
import time
import warnings
from typing import NoReturn

from hq_core.checks import seconds
from hq_core.engine.engine import Engine
from hq_core.engine.locks import PATIENCE

__all__ = ["Handle", "deadline_of", "patience", "refuse_to_be_sent", "why_empty"]


class Handle:
    """An engine, and the duty to close it: when the last front end goes, the stream is freed. The
    pump's thread holds the engine too, but not this."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __del__(self) -> None:
        engine = self.engine
        if engine.state in ("closed", "forked"):
            return
        stats = engine.stats()
        lost = 0 if engine.durable else stats.memory_items
        engine.close(finish=False, keep=True)  # the caller may not be done with what it holds
        warnings.warn(
            f"the queue {stats.stream_id!r} was never closed: close it, or use `with`; "
            f"{stats.depth} items were left, {lost} of them in memory alone",
            ResourceWarning,
            stacklevel=2,
            source=self,
        )


def refuse_to_be_sent(stream_id: str) -> NoReturn:
    """What pickling a queue raises, as sending one to a spawned process does: `TypeError`."""
    raise TypeError(
        f"the queue {stream_id!r} belongs to this process and cannot be sent to another: one "
        "process owns a stream. Give the other process the stream id and the directory, to open it "
        "when this one has closed it, or move the items through a pipe"
    )


def deadline_of(timeout: float | None) -> float | None:
    """When a wait of `timeout` seconds ends, on the monotonic clock; None: never."""
    if timeout is None or seconds("timeout", timeout) > threading.TIMEOUT_MAX:
        return None
    return time.monotonic() + timeout


def patience(deadline: float | None, timeout: float | None) -> float | None:
    """Until when to wait for another call on the backend."""
    return time.monotonic() + PATIENCE if timeout == 0 else deadline


def why_empty(engine: Engine) -> str:
    """What to tell a consumer that got nothing."""
    depth, *_ = engine.counts()
    if not depth:
        return "the queue is empty"
    why = "cannot be reached now" if engine.overflow.away else "is busy with another call"
    return f"{depth} items are stored, and the backend {why}"
