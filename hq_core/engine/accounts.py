"""Every count a queue keeps, and the age of its oldest item. Pure: the engine's mutex guards it.

Rule: ``enqueued == dequeued + discarded + leased + depth`` whenever the mutex is free. What tiers
hold is asked of them and passed in, not counted here. So after an interruption between a tier's
change and its entry here, `reconcile` can say what the entry is to be.
"""

from typing import Any

from hq_core.engine.ages import Ages
from hq_core.stats import QueueStats

__all__ = ["Accounts"]


class Accounts:
    """What `QueueStats` reports beside what the tiers hold. Its fields are the counters."""

    __slots__ = (
        "ages",
        "damaged",
        "dequeued",
        "discarded",
        "dropped",
        "dropped_newest",
        "enqueued",
        "rate_limited",
        "recovered",
        "refilled_bytes",
        "spilled",
        "spilled_bytes",
    )

    def __init__(self, recovered: int, now: float) -> None:
        self.recovered = self.enqueued = recovered
        self.dequeued = self.discarded = self.dropped = self.dropped_newest = self.damaged = 0
        self.spilled = self.spilled_bytes = self.refilled_bytes = self.rate_limited = 0
        self.ages = Ages()
        if recovered:
            self.mark(recovered, recovered, now)

    def is_due(self, offered: float) -> bool:
        """Whether items that were offered at `offered` (seconds), and came in now, need a mark."""
        return not self.ages.last <= offered < self.ages.due

    def mark(self, count: int, span: int, offered: float) -> None:
        """Note that the `count` newest of `span` items were offered at `offered` (seconds).

        `span`: places from the oldest item's to the newest's; items may have left in between.
        """
        newest = self.newest()
        self.ages.mark(newest - count + 1, offered, newest - span + 1)

    def drop(self, count: int) -> None:
        """A policy dropped the `count` oldest."""
        self.discarded += count
        self.dropped += count

    def drop_newest(self, count: int) -> None:
        """A policy dropped `count` items that never got in."""
        self.enqueued += count
        self.dropped_newest += count
        self.discarded += count
        self.dropped += count

    def lose(self, count: int, behind: int) -> None:
        """`count` items turned out to be damaged, with `behind` items after them."""
        self.ages.lose(self.newest() - behind - count + 1, count)
        self.discarded += count
        self.damaged += count

    def oldest_age(self, span: int, now: float) -> float:
        """Seconds since the oldest of `span` items was offered; 0.0 if there are none."""
        newest = self.newest()
        return self.ages.age(newest - span + 1, newest, now)

    def reconcile(self, there: int) -> None:
        """After an interruption: `there` items are in the queue or leased. What is there and not
        counted was accepted; what is counted and not there was taken by the interrupted call."""
        missing = self.enqueued - self.dequeued - self.discarded - there
        if missing > 0:
            self.dequeued += missing
        else:
            self.enqueued -= missing

    def snapshot(self, now: float, *, span: int, **facts: Any) -> QueueStats:
        """All there is to say at `now`; `facts` are the fields that are not kept here."""
        return QueueStats(
            enqueued=self.enqueued,
            dequeued=self.dequeued,
            discarded=self.discarded,
            dropped=self.dropped,
            spilled=self.spilled,
            rate_limited=self.rate_limited,
            recovered=self.recovered,
            dropped_newest=self.dropped_newest,
            damaged=self.damaged,
            spilled_bytes=self.spilled_bytes,
            refilled_bytes=self.refilled_bytes,
            oldest_age_seconds=self.oldest_age(span, now),
            **facts,
        )

    def newest(self) -> int:
        """The place of the newest item, among those that are in the queue or left it in turn."""
        return self.enqueued - self.dropped_newest - self.damaged
