"""The metrics: what each is called, counted in, and read from.

The names are OpenTelemetry's. Prometheus has the same ones, spelled as OpenTelemetry spells names
for Prometheus, so dashboards and alerts fit either way.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from hq_core import QueueStats

__all__ = ["METRICS", "Metric", "Read"]

Read = Callable[[QueueStats], float | None]
"""A number out of a snapshot; None when there is none to tell."""

_SUFFIXES: Final = {"{item}": "", "By": "_bytes", "s": "_seconds", "1": "_ratio"}


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric, with the labels ``stream`` and ``backend`` and, if it is several numbers, one
    more."""

    name: str
    """With dots; `prometheus_name` is made from it."""
    kind: Literal["counter", "updowncounter", "gauge"]
    """What only grows, what may be summed over streams, and the rest."""
    unit: str
    """In UCUM: ``By``, ``s``, ``1`` for a ratio, ``{item}``."""
    help: str
    """One sentence."""
    label: str
    """Tells its numbers apart; empty if it is one number."""
    values: Mapping[str, Read]
    """Each number, by the value of `label`: these and no others."""

    @property
    def prometheus_name(self) -> str:
        """With underscores, the unit spelled out, and ``_total`` for a counter."""
        total = "_total" if self.kind == "counter" else ""
        return self.name.replace(".", "_") + _SUFFIXES[self.unit] + total


def _available(directory: Path) -> int | None:
    try:
        return shutil.disk_usage(directory).free
    except OSError:  # it is gone, and so is the queue
        return None


METRICS: Final = (
    Metric(
        "hq.queue.size",
        "updowncounter",
        "{item}",
        "Items in the queue, in memory and on disk.",
        "",
        {"": lambda stats: stats.depth},
    ),
    Metric(
        "hq.queue.leased",
        "updowncounter",
        "{item}",
        "Items out under a lease: neither acknowledged nor given back.",
        "",
        {"": lambda stats: stats.leased},
    ),
    Metric(
        "hq.queue.usage",
        "updowncounter",
        "By",
        "Bytes in the queue: payload in memory, records with their framing on disk.",
        "tier",
        {"memory": lambda stats: stats.memory_bytes, "disk": lambda stats: stats.disk_bytes},
    ),
    Metric(
        "hq.queue.limit",
        "updowncounter",
        "By",
        "Most bytes that each tier may hold; absent for a tier without such a limit.",
        "tier",
        {
            "memory": lambda stats: stats.memory_limit_bytes,
            "disk": lambda stats: stats.disk_limit_bytes,
        },
    ),
    Metric(
        "hq.queue.utilization",
        "gauge",
        "1",
        "Pressure: up to 1 the share of memory in use, above 1 the queue overflows to disk.",
        "",
        {"": lambda stats: stats.pressure},
    ),
    Metric(
        "hq.queue.item.enqueued",
        "counter",
        "{item}",
        "Items accepted, those recovered at opening included.",
        "",
        {"": lambda stats: stats.enqueued},
    ),
    Metric(
        "hq.queue.item.dequeued",
        "counter",
        "{item}",
        "Items handed to consumers; leased ones once they are acknowledged.",
        "",
        {"": lambda stats: stats.dequeued},
    ),
    Metric(
        "hq.queue.item.dropped",
        "counter",
        "{item}",
        "Items accepted and never delivered: by policy, lost to damage, or left at close.",
        "reason",
        {
            "drop_oldest": lambda stats: stats.dropped - stats.dropped_newest,
            "drop_newest": lambda stats: stats.dropped_newest,
            "damage": lambda stats: stats.damaged,
            "close": lambda stats: stats.discarded - stats.dropped - stats.damaged,
        },
    ),
    Metric(
        "hq.queue.spill.io",
        "counter",
        "By",
        "Payload bytes written to and read from the overflow backend.",
        "direction",
        {"write": lambda stats: stats.spilled_bytes, "read": lambda stats: stats.refilled_bytes},
    ),
    Metric(
        "hq.queue.enqueue.blocked",
        "counter",
        "s",
        "Time that producers have waited for room, all together.",
        "",
        {"": lambda stats: stats.blocked_seconds},
    ),
    Metric(
        "hq.queue.oldest_item.age",
        "gauge",
        "s",
        "How long the oldest item has been there, leased ones included; 0 when there is none.",
        "",
        {"": lambda stats: stats.oldest_age_seconds},
    ),
    Metric(
        "hq.spool.available",
        "gauge",
        "By",
        "Bytes that the file system of the overflow has left.",
        "",
        {"": lambda stats: _available(stats.directory)},
    ),
)
