"""A per-stream FIFO of byte messages that overflows to disk and never changes order."""

from typing import TYPE_CHECKING

from hq_core.capabilities import Capability
from hq_core.engine.leases import Lease
from hq_core.errors import (
    BackendError,
    BackendUnavailable,
    CapabilityError,
    CorruptedData,
    DequeueTimeout,
    HybridQueueError,
    LeaseExpired,
    MessageTooLargeError,
    PluginError,
    QueueClosed,
    QueueEmpty,
    QueueFull,
    RateLimited,
    ReentrantCallError,
    ShutDown,
    StreamBusyError,
    StreamLostError,
)
from hq_core.limiters import TokenBucket, Unlimited
from hq_core.memory import BytesTier, CountTier
from hq_core.protocols import (
    API_VERSION,
    MAX_MESSAGE_BYTES,
    Limiter,
    MemoryTier,
    OverflowBackend,
    Pump,
    SpoolTools,
    Stream,
)
from hq_core.pumps import InlinePump, ThreadPump
from hq_core.queue import HybridQueue
from hq_core.stats import Damage, Inspection, QueueStats, RecoveryReport
from hq_core.stdlib import StdlibQueue

if TYPE_CHECKING:
    from hq_core.aio import AsyncHybridQueue

__all__ = [
    "API_VERSION",
    "MAX_MESSAGE_BYTES",
    "AsyncHybridQueue",
    "BackendError",
    "BackendUnavailable",
    "BytesTier",
    "Capability",
    "CapabilityError",
    "CorruptedData",
    "CountTier",
    "Damage",
    "DequeueTimeout",
    "HybridQueue",
    "HybridQueueError",
    "InlinePump",
    "Inspection",
    "Lease",
    "LeaseExpired",
    "Limiter",
    "MemoryTier",
    "MessageTooLargeError",
    "OverflowBackend",
    "PluginError",
    "Pump",
    "QueueClosed",
    "QueueEmpty",
    "QueueFull",
    "QueueStats",
    "RateLimited",
    "RecoveryReport",
    "ReentrantCallError",
    "ShutDown",
    "SpoolTools",
    "StdlibQueue",
    "Stream",
    "StreamBusyError",
    "StreamLostError",
    "ThreadPump",
    "TokenBucket",
    "Unlimited",
]


def __getattr__(name: str) -> object:
    if name == "AsyncHybridQueue":  # with asyncio, which not everybody needs
        from hq_core.aio import AsyncHybridQueue

        return AsyncHybridQueue
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
