"""Every exception the library raises on purpose.

A *condition* is an answer a correct program meets every day: it carries no suffix, as in the
standard library (`queue.Empty`, `queue.Full`). A *failure* means that something is wrong: its
name ends in ``Error``. All derive from `HybridQueueError`, and those that the standard library's
queues have too from its own: `queue.Empty`, `queue.Full`, `queue.ShutDown`. The last one is new in
Python 3.13; `ShutDown` is it there, and stands in for it before. Branch on the type; the message
is for people and may change.
"""

import queue
import sys

if sys.version_info >= (3, 13):
    from queue import ShutDown
else:

    class ShutDown(Exception):
        """What `queue.Queue` raises since Python 3.13 once it has been shut down."""


__all__ = [
    "BackendError",
    "BackendUnavailable",
    "CapabilityError",
    "CorruptedData",
    "DequeueTimeout",
    "HybridQueueError",
    "LeaseExpired",
    "MessageTooLargeError",
    "PluginError",
    "QueueClosed",
    "QueueEmpty",
    "QueueFull",
    "RateLimited",
    "ReentrantCallError",
    "ShutDown",
    "StreamBusyError",
    "StreamLostError",
]


class HybridQueueError(Exception):
    """The root: `except HybridQueueError` catches whatever this library raises on purpose."""


class QueueClosed(HybridQueueError, ShutDown):
    """The queue takes, or gives, nothing any more. A kind of `ShutDown`.

    Raised by enqueue after `shutdown` or `close`, by dequeue after `close` or, once the rest is
    drained, after `shutdown`; also by every call that was waiting when the queue was closed.
    """


class QueueEmpty(HybridQueueError, queue.Empty):
    """Nothing is in the queue now. Waiting, or trying later, is the remedy."""


class DequeueTimeout(QueueEmpty, TimeoutError):
    """Nothing came within the `timeout` given to a dequeue. A kind of `QueueEmpty`."""


class QueueFull(HybridQueueError, queue.Full):
    """There is no room for the item, and the queue is as it was before the call.

    Raised with ``when_full="raise"`` once memory is full and the overflow has reached
    `max_overflow_bytes` or its disk is full (then with the `OSError` as cause), and with
    ``when_full="block"`` when no room came within the timeout. Backends raise it from `append`
    when their store has no space left.
    """


class RateLimited(HybridQueueError):
    """The limiter refused the item: the producer is faster than the configured rate.

    Not `QueueFull`: there may be room; the answer is to slow down or to configure the limiter.
    """


class CorruptedData(HybridQueueError):
    """Stored data cannot be what was written: a length above the limit, a damaged record.

    What was damaged is never delivered and never guessed at. Not `BackendError`: the storage
    answered, and the answer is wrong.
    """


class MessageTooLargeError(HybridQueueError, ValueError):
    """The message or batch is larger than the queue could ever hold. The caller's to fix."""


class BackendError(HybridQueueError):
    """The overflow backend failed; the original exception is the `__cause__`.

    From enqueue: the item is not in the queue. From dequeue: nothing was taken. Either call may
    be repeated once the cause is gone.
    """


class BackendUnavailable(BackendError):
    """The store cannot be reached now: nothing was stored or read, and it passes by itself.

    Raised by backends whose store can come and go, at once while it is away. The queue treats it as
    "no room now": `when_full` decides what `enqueue` does, `dequeue` waits until its deadline.
    """


class StreamBusyError(HybridQueueError):
    """The stream has another owner: a queue in this or another process, or a fork's parent.

    Close the other queue, or use another stream id or directory. Nobody's data was touched.
    """


class StreamLostError(StreamBusyError):
    """Another owner has taken the stream over. Every later call on this queue raises it.

    Only backends that promise `SHARED` have this. What is stored is the other owner's now, and
    nothing of it is touched.
    """


class ReentrantCallError(HybridQueueError, RuntimeError):
    """The call came in the middle of this thread's own call on the same queue.

    From a signal handler, a finaliser, or plugin code that the queue had called. `shutdown`,
    `close` and `stats` work there; for others use another thread, or set a flag.
    """


class LeaseExpired(HybridQueueError):
    """The lease's deadline had passed and its items were given back: another consumer has them.

    Only from `ack`, or a lease's block that ends well: those items come twice. Ask for a longer
    deadline, or lease fewer items at once.
    """


class PluginError(HybridQueueError):
    """No usable backend of that name: unknown, broken, ambiguous, or for another API version.

    Other backends are not affected.
    """


class CapabilityError(HybridQueueError):
    """The queue was asked for a promise that its backend does not make."""
