"""What the front ends of one queue share: when the last of them goes, the stream is freed."""

import warnings
from typing import NoReturn

from hq_core.engine.engine import Engine

__all__ = ["Handle", "refuse_to_be_sent"]


class Handle:
    """An engine, and the duty to close it. The pump's thread holds the engine too, but not this."""

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
