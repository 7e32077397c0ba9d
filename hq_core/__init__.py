"""A per-stream FIFO of byte messages that overflows to disk and never changes order."""

from hq_core.capabilities import Capability
from hq_core.errors import (
    BackendError,
    CapabilityError,
    CorruptedData,
    DequeueTimeout,
    HybridQueueError,
    MessageTooLargeError,
    PluginError,
    QueueClosed,
    QueueEmpty,
    QueueFull,
    RateLimited,
    ShutDown,
    StreamBusyError,
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

__all__ = [
    "API_VERSION",
    "MAX_MESSAGE_BYTES",
    "BackendError",
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
    "ShutDown",
    "SpoolTools",
    "StdlibQueue",
    "Stream",
    "StreamBusyError",
    "ThreadPump",
    "TokenBucket",
    "Unlimited",
]
