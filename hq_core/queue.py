"""`HybridQueue`: the engine with threads' way of waiting."""

import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Final, NoReturn, Self

from hq_core.checks import positive_int, positive_seconds
from hq_core.engine.handle import Handle, deadline_of, patience, refuse_to_be_sent, why_empty
from hq_core.engine.leases import LEASE_SECONDS, Lease
from hq_core.engine.locks import PATIENCE
from hq_core.engine.opening import open_engine
from hq_core.engine.waiters import ThreadWaiter
from hq_core.errors import DequeueTimeout, QueueClosed, QueueEmpty
from hq_core.messages import Buffer, as_message, as_messages
from hq_core.protocols import (
    BackendFactory,
    Leftover,
    Limiter,
    MemoryTier,
    OnCorruption,
    Pump,
    WhenFull,
)
from hq_core.stats import QueueStats, RecoveryReport

if TYPE_CHECKING:
    from hq_core.aio import AsyncHybridQueue

__all__ = ["HybridQueue"]

_NEVER: Final = math.inf


class HybridQueue:
    """A FIFO of byte messages for one stream, bounded in memory, overflowing to disk in order.

    ``HybridQueue("camera-1", 1000, "/var/spool/video")`` is the specified queue: 1,000 items in
    memory, the rest in ``/var/spool/video/camera-1.overflow``, at most 10,000 items/s, discarded
    at `close`. All methods may be called from any thread.

    Raises `TypeError` or `ValueError` for arguments of the wrong type or value, `PluginError` for a
    backend that cannot be used, `CapabilityError` if the backend does not promise what `durable`
    needs, `StreamBusyError` if the stream has an owner, `BackendError` if it cannot be opened.

    Parameters
    ----------
    stream_id
        Any text; it is mapped to a safe file name. One queue per stream and directory at a time.
    memory_items
        Most items in memory, at least 1. ``None`` when `memory` is given.
    directory
        Where the overflow goes; made, with mode 0700, if it does not exist.
    backend
        The name of an installed backend, or a factory for one.
    backend_options
        That backend's own options.
    memory
        Replaces ``CountTier(memory_items)``.
    limiter
        Replaces ``TokenBucket(10_000, 1_000)``.
    pump
        Replaces ``ThreadPump()``.
    durable
        Every item is in the backend before `enqueue` returns, and `close` keeps what is left.
    leftover
        What to do with items that an earlier owner left in the backend: deliver them first
        (``"resume"``), delete them (``"discard"``), raise `StreamBusyError` (``"refuse"``), or move
        them aside (``"quarantine"``).
    on_corruption
        What to do with stored data that cannot be read: move it aside, count it as discarded, raise
        `CorruptedData` once and go on (``"quarantine"``), or keep raising (``"raise"``).
    max_overflow_bytes
        Bound on the backend's live bytes, framing included; None: the disk's size.
    when_full
        What `enqueue` does when neither tier has room: ``"raise"`` `QueueFull`, ``"block"``,
        ``"drop_oldest"`` or ``"drop_newest"``.
    """

    def __init__(
        self,
        stream_id: str,
        memory_items: int | None,
        directory: str | os.PathLike[str],
        *,
        backend: str | BackendFactory = "file",
        backend_options: Mapping[str, object] | None = None,
        memory: MemoryTier | None = None,
        limiter: Limiter | None = None,
        pump: Pump | None = None,
        durable: bool = False,
        leftover: Leftover = "resume",
        on_corruption: OnCorruption = "quarantine",
        max_overflow_bytes: int | None = None,
        when_full: WhenFull = "raise",
    ) -> None:
        self._engine = open_engine(
            stream_id,
            memory_items,
            directory,
            backend=backend,
            backend_options=backend_options,
            memory=memory,
            limiter=limiter,
            pump=pump,
            durable=durable,
            leftover=leftover,
            on_corruption=on_corruption,
            max_overflow_bytes=max_overflow_bytes,
            when_full=when_full,
        )
        self._handle = Handle(self._engine)
        self._largest = self._engine.largest
        self._offer, self._take_one = self._engine.offer, self._engine.take_one
        self._aio: AsyncHybridQueue | None = None

    def enqueue(self, data: Buffer, timeout: float | None = None) -> None:
        """Add one message of 0 to 10 MiB; the caller may reuse its buffer afterwards.

        `timeout`, in seconds, matters only with ``when_full="block"``: how long to wait for room
        (None: without end, 0: not at all).

        Raises `TypeError`, `MessageTooLargeError`, `RateLimited`, `QueueFull`, `BackendError` or
        `QueueClosed`; the message is then not in the queue, and everything else is as it was.
        """
        deadline = None if timeout is None else deadline_of(timeout)
        if type(data) is not bytes or len(data) > self._largest:
            data = as_message(data, self._largest)
        offered = self._offer(data)
        if offered is not None:
            self._spill([data], offered, deadline, timeout)

    def enqueue_many(self, items: Iterable[Buffer], timeout: float | None = None) -> None:
        """Add messages in order, all or none of them; otherwise as `enqueue`.

        They take as many tokens of the limiter as there are items, so a batch larger than the
        burst can never pass.
        """
        deadline = deadline_of(timeout)
        batch = as_messages(items, self._largest)
        offered = self._engine.offer_all(batch)
        if offered is not None:
            self._spill(batch, offered, deadline, timeout)

    def dequeue(self, timeout: float | None = None) -> bytes:
        """Remove and return the oldest message, waiting up to `timeout` seconds (None: no end).

        Raises `DequeueTimeout` when nothing came in time, `QueueClosed` after `close` or, once
        drained, after `shutdown`, `BackendError` when the disk cannot be read (nothing is lost, try
        again), `CorruptedData` when stored messages turned out to be damaged.
        """
        deadline = None if timeout is None else deadline_of(timeout)
        item = self._take_one()
        if item is not None:
            return item
        return self._wait_for(1, deadline, timeout)[0]

    def dequeue_many(self, max_items: int, timeout: float | None = None) -> list[bytes]:
        """Remove and return up to `max_items` messages, oldest first.

        Waits, as `dequeue` does, for the first only, and returns at least that one.
        """
        deadline = deadline_of(timeout)
        return self._wait_for(positive_int("max_items", max_items), deadline, timeout)

    def try_dequeue(self) -> bytes:
        """Remove and return the oldest message; `QueueEmpty` when `depth` is 0.

        Does not wait for a message. While another thread's call keeps the backend busy for more
        than 50 ms, `QueueEmpty` says so.
        """
        item = self._take_one()
        if item is not None:
            return item
        items = self._engine.take(1, None, time.monotonic() + PATIENCE)
        if not items:
            raise QueueEmpty(why_empty(self._engine))
        return items[0]

    def lease(
        self, max_items: int = 1, timeout: float | None = None, *, deadline: float = LEASE_SECONDS
    ) -> Lease:
        """Take up to `max_items` messages, oldest first, on condition.

        ``with queue.lease() as items:``: the messages are done when the block is left, and given
        back to the front of the queue, in order, when it raises. After `deadline` seconds they are
        given back in any case. In a durable queue a lease that has not ended comes again after a
        crash, and after `close`. At most 1,024 messages and 64 MiB, or as much as memory holds if
        that is more, are out under leases; beyond that this waits for one to end.

        Waits, as `dequeue` does, for the first message only; parameters and errors as there.
        """
        ends = deadline_of(timeout)
        lease = Lease(self._engine, positive_seconds("deadline", deadline))
        self._wait_for(positive_int("max_items", max_items), ends, timeout, lease)
        return lease

    def __iter__(self) -> Self:
        """All messages from now on; ends once the queue is closed, or shut down and drained."""
        return self

    def __next__(self) -> bytes:
        try:
            return self.dequeue()
        except QueueClosed:
            raise StopIteration from None

    def sync(self) -> None:
        """Make what is stored survive power loss, if the backend promises `POWER_SAFE`.

        In a ``durable=True`` queue that is every message accepted so far. What is in memory alone
        is not covered. Raises `BackendError` and `QueueClosed`.
        """
        self._engine.sync()

    def shutdown(self) -> None:
        """Take no more messages; consumers drain the rest, then meet `QueueClosed`."""
        self._engine.shut_down()

    def close(self) -> None:
        """Discard what is undelivered, delete the overflow, wake every waiter with `QueueClosed`.

        A ``durable=True`` queue keeps what is undelivered for its next opening, and what others
        than the caller hold: messages that a thread or task has taken, or leased, and is not done
        with. Idempotent; after an interruption it can be called again, and of several callers each
        returns when the queue is closed. In a forked child it does nothing.
        """
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._engine.close(finish=exc_type is None)

    def __repr__(self) -> str:
        return f"<HybridQueue {self._engine.stream_id!r}>"

    def __reduce__(self) -> NoReturn:
        refuse_to_be_sent(self._engine.stream_id)

    @property
    def aio(self) -> "AsyncHybridQueue":
        """This queue for coroutines: what threads put in, they get out, and the other way round."""
        from hq_core.aio import AsyncHybridQueue  # asyncio takes longer to import than all the rest

        if self._engine.state == "forked":
            self._engine.counts()  # which says so
        if self._aio is None:  # of several threads here at once, one makes the view that counts
            self._aio = self.__dict__.setdefault("_view", AsyncHybridQueue._view(self._handle))
        return self._aio

    @property
    def depth(self) -> int:
        """Messages in the queue, in memory and stored."""
        return self._engine.counts()[0]

    @property
    def pressure(self) -> float:
        """0.0 to 1.0: share of memory in use; above 1.0: overflow is active, see `QueueStats`."""
        return self._engine.stats().pressure

    @property
    def has_disk_data(self) -> bool:
        """Whether messages are stored in the backend that memory does not hold."""
        return self.pressure > 1.0

    @property
    def recovery(self) -> RecoveryReport:
        """What opening found of an earlier owner."""
        return self._engine.overflow.backend.recovered

    def stats(self) -> QueueStats:
        """One consistent snapshot."""
        return self._engine.stats()

    def _spill(
        self, items: list[bytes], offered: float, deadline: float | None, timeout: float | None
    ) -> None:
        engine = self._engine
        waiter = None
        if engine.when_full == "block":
            waiter = ThreadWaiter((len(items), sum(map(len, items))))
        parking = waiter
        try:
            while True:
                if deadline is not None and time.monotonic() >= deadline:
                    parking = None
                until = patience(deadline, timeout)
                if engine.spill(items, offered, parking, until) or parking is None:
                    return
                self._sleep(parking, deadline)
        except BaseException:
            if waiter is not None and waiter.place:  # that it was woken is for another then
                engine.withdraw(waiter)
            raise

    def _wait_for(
        self,
        max_items: int,
        deadline: float | None,
        timeout: float | None,
        lease: Lease | None = None,
        beside: Callable[[], bytes | None] | None = None,
    ) -> list[bytes]:
        """`beside` may have an item if the queue has none: `withdraw` wakes who is to ask it."""
        engine = self._engine
        waiter: ThreadWaiter | None = None
        try:
            while True:
                # Mostly there is something, so the first time nobody parks.
                items = engine.take(max_items, waiter, patience(deadline, timeout), lease=lease)
                if items:
                    return items
                if beside is not None and (item := beside()) is not None:
                    if waiter is not None:
                        engine.withdraw(waiter)
                    return [item]
                if deadline is not None and time.monotonic() >= deadline:
                    raise DequeueTimeout(f"nothing came within {timeout} s: {why_empty(engine)}")
                if waiter is None:
                    waiter = ThreadWaiter()
                else:
                    self._sleep(waiter, deadline)
        except BaseException:
            if waiter is not None and waiter.place:  # that it was woken is for another then
                engine.withdraw(waiter)
            raise

    def _sleep(self, waiter: ThreadWaiter, deadline: float | None) -> None:
        """Sleep until woken, or until it is time to look."""
        ends = min(_NEVER if deadline is None else deadline, self._engine.look_again())
        if not waiter.wait(min(max(0.0, ends - time.monotonic()), threading.TIMEOUT_MAX)):
            self._engine.withdraw(waiter)
