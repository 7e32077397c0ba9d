"""`AsyncHybridQueue`: the engine with coroutines' way of waiting.

Rules:

- An event loop makes no call on the backend. What the engine decides without I/O happens on the
  loop; opening, spilling, refilling and closing are the worker's.
- Only the loop takes items. The worker moves them into memory and no further, so a cancelled
  `dequeue` leaves nothing behind, and nothing is waited for once an item has been taken.
- What the worker has begun to write is waited for. So whatever `enqueue` raises, `CancelledError`
  included, means that the item is not in the queue.
"""

import asyncio
import functools
import inspect
import threading
from collections.abc import Callable, Iterable
from time import monotonic
from types import TracebackType
from typing import Any, Concatenate, Final, NoReturn, ParamSpec, Self, cast

from hq_core.aio.wakeups import LoopWaiter
from hq_core.aio.worker import Worker
from hq_core.checks import positive_int, seconds
from hq_core.engine.engine import Engine
from hq_core.errors import BackendError, DequeueTimeout, QueueClosed, QueueEmpty
from hq_core.messages import Buffer, as_message, as_messages
from hq_core.protocols import MAX_MESSAGE_BYTES, Pump, Waiter
from hq_core.queue import HybridQueue
from hq_core.stats import QueueStats, RecoveryReport

__all__ = ["AsyncHybridQueue"]

_P = ParamSpec("_P")

_TURN: Final = 0.005
"""Seconds for which calls that need not wait keep the loop's other tasks waiting, at most."""


def _with_parameters_of(
    model: Callable[Concatenate[Any, _P], None],
) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, _P], None]]:
    """Give a constructor the signature of `model`."""
    return functools.wraps(model)


class AsyncHybridQueue:
    """A `HybridQueue` for coroutines: the same queue, with the calls that may wait to be awaited.

    The parameters are those of `HybridQueue`. Constructing one opens nothing and needs no event
    loop; `async with`, or `await queue.open()`, opens it:

        async with AsyncHybridQueue("camera-1", 1000, "/var/spool/video") as queue:
            await queue.enqueue(b"packet")
            async for packet in queue: ...

    Coroutines of several loops may use one queue, and so may threads: `HybridQueue.aio` is the view
    of an open queue. No event loop ever makes a call on the backend; a thread of the queue's own
    does, while there is something to store or to read.

    A cancelled call has done nothing: no message is lost, none is in the queue that `enqueue` did
    not accept. A message that is being written when the cancellation comes is accepted: `enqueue`
    returns, and the task is cancelled where it waits next.
    """

    @_with_parameters_of(HybridQueue.__init__)
    def __init__(self, *args: Any, **options: Any) -> None:
        given = inspect.signature(HybridQueue).bind(*args, **options)
        self._stream_id = given.arguments["stream_id"]
        self._opening = functools.partial(HybridQueue, *args, **options)
        self._worker = Worker(f"hq-io-{self._stream_id}")
        self._engine = cast(Engine, _NotOpen(self._stream_id))
        self._largest = MAX_MESSAGE_BYTES
        self._turn_ends = 0.0

    @classmethod
    def _view(cls, engine: Engine) -> Self:
        """Behind `HybridQueue.aio`."""
        view = cls(engine.stream_id, None, "")
        view._use(engine)
        return view

    async def open(self) -> Self:
        """Open the queue, unless it is open already; `async with` calls it.

        Raises what the constructor of `HybridQueue` raises.
        """
        await self._worker.see_through(self._open)
        return self

    async def enqueue(self, data: Buffer, timeout: float | None = None) -> None:
        """Add one message; parameters and errors are those of `HybridQueue.enqueue`.

        Waits only while the message is written to the backend and, with ``when_full="block"``, for
        room.
        """
        deadline = None if timeout is None else _deadline(timeout)
        if type(data) is not bytes or len(data) > self._largest:
            data = as_message(data, self._largest)
        if monotonic() > self._turn_ends:
            await self._next_turn()
        if not self._engine.offer(data):
            await self._spill([data], deadline)

    async def enqueue_many(self, items: Iterable[Buffer], timeout: float | None = None) -> None:
        """Add messages in order, all or none of them; otherwise as `enqueue`."""
        deadline = _deadline(timeout)
        batch = as_messages(items, self._largest)
        await self._next_turn()
        if not self._engine.offer_all(batch):
            await self._spill(batch, deadline)

    async def dequeue(self, timeout: float | None = None) -> bytes:
        """Remove and return the oldest message; parameters and errors as `HybridQueue.dequeue`."""
        deadline = None if timeout is None else _deadline(timeout)
        if monotonic() > self._turn_ends:  # before an item is taken: a cancellation may come here
            await self._next_turn()
        item = self._engine.take_one()
        if item is not None:
            return item
        return (await self._wait_for(1, deadline, timeout))[0]

    async def dequeue_many(self, max_items: int, timeout: float | None = None) -> list[bytes]:
        """Remove and return up to `max_items` messages that are in memory, oldest first.

        Waits, as `dequeue` does, for the first only, and returns at least that one.
        """
        deadline = _deadline(timeout)
        positive_int("max_items", max_items)
        await self._next_turn()
        return await self._wait_for(max_items, deadline, timeout)

    async def try_dequeue(self) -> bytes:
        """Remove and return the oldest message; `QueueEmpty` exactly when `depth` is 0.

        Waits only for a stored message to be read, never for one to come.
        """
        await self._next_turn()
        items = await self._take(1, None)
        if not items:
            raise QueueEmpty("the queue is empty")
        return items[0]

    def __aiter__(self) -> Self:
        """All messages from now on; ends once the queue is closed, or shut down and drained."""
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self.dequeue()
        except QueueClosed:
            raise StopAsyncIteration from None

    def shutdown(self) -> None:
        """Take no more messages; consumers drain the rest, then meet `QueueClosed`."""
        self._engine.shut_down()

    async def close(self) -> None:
        """Close the queue, for threads too, as `HybridQueue.close` does.

        Once called it is carried out, be the task cancelled or not.
        """
        if not isinstance(self._engine, _NotOpen):
            await self._worker.see_through(self._engine.close, revocable=False)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncHybridQueue {self._stream_id!r}>"

    @property
    def depth(self) -> int:
        """Messages in the queue, in memory and stored."""
        return self._engine.depth()

    @property
    def pressure(self) -> float:
        """0.0 to 1.0: share of memory in use; above 1.0: overflow is active, see `QueueStats`."""
        return self._engine.pressure()

    @property
    def has_disk_data(self) -> bool:
        """Whether messages are stored in the backend that memory does not hold."""
        return self._engine.has_disk_data()

    @property
    def recovery(self) -> RecoveryReport:
        """What opening found of an earlier owner."""
        return self._engine.recovery

    def stats(self) -> QueueStats:
        """One consistent snapshot."""
        return self._engine.stats()

    def _open(self) -> None:
        """The worker's, which does one thing at a time: so two tasks open one queue once."""
        if isinstance(self._engine, _NotOpen):
            self._use(self._opening()._engine)

    def _use(self, engine: Engine) -> None:
        engine.rewire_pump(lambda pump: _OffLoop(pump, self._worker))
        self._largest = engine.largest
        self._engine = engine

    async def _next_turn(self) -> None:
        """Let the loop's other tasks run."""
        await asyncio.sleep(0)
        self._turn_ends = monotonic() + _TURN

    async def _spill(self, items: list[bytes], deadline: float | None) -> None:
        loop = asyncio.get_running_loop()
        while True:
            waits = self._engine.when_full == "block" and (
                deadline is None or loop.time() < deadline
            )
            waiter = LoopWaiter() if waits else None
            self._engine.returned()
            spill = functools.partial(self._engine.spill, items, waiter)
            if await self._worker.see_through(spill) or waiter is None:
                return
            with self._engine.blocked(waiter):
                await self._sleep(waiter, deadline, self._engine.withdraw_producer)

    async def _wait_for(
        self, max_items: int, deadline: float | None, timeout: float | None
    ) -> list[bytes]:
        loop = asyncio.get_running_loop()
        while True:
            waits = deadline is None or loop.time() < deadline
            waiter = LoopWaiter() if waits else None
            items = await self._take(max_items, waiter)
            if items:
                return items
            if waiter is None:
                raise DequeueTimeout(f"nothing came within {timeout} s")
            await self._sleep(waiter, deadline, self._engine.withdraw_consumer)

    async def _take(self, max_items: int, waiter: LoopWaiter | None) -> list[bytes]:
        """`Engine.take`, with its I/O off the loop."""
        while True:
            items = self._engine.take_now(max_items, waiter)
            if items is not None:
                return items
            await self._worker.call(self._engine.refill)

    async def _sleep(
        self, waiter: LoopWaiter, deadline: float | None, withdraw: Callable[[Waiter], None]
    ) -> None:
        """Sleep until woken or until `deadline`; whatever ends the sleep otherwise withdraws."""
        woken = False
        try:
            woken = await waiter.wait(deadline)
        finally:
            if not (woken or waiter.gone):
                withdraw(waiter)
        self._turn_ends = monotonic() + _TURN


class _NotOpen:
    """In place of an engine."""

    def __init__(self, stream_id: str) -> None:
        self._stream_id = stream_id

    def __getattr__(self, name: str) -> NoReturn:
        raise QueueClosed(
            f"the queue {self._stream_id!r} is not open yet: enter it with `async with`, or await "
            "its open()"
        )


class _OffLoop:
    """A queue's pump, which the worker wakes where otherwise an event loop would.

    An `InlinePump` does all of its work in `wake`, and others may when they have no thread.
    """

    def __init__(self, pump: Pump, worker: Worker) -> None:
        self._pump = pump
        self._worker = worker
        self.start, self.stop = pump.start, pump.stop

    def wake(self) -> None:
        """Wake the pump."""
        if _in_loop():
            try:
                self._worker.begin(self._pump.wake)
            except BackendError:  # no thread: late is better than never
                self._pump.wake()
        else:
            self._pump.wake()


def _in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _deadline(timeout: float | None) -> float | None:
    """When a wait of `timeout` seconds ends, on the running loop's clock; None: never."""
    if timeout is None or seconds("timeout", timeout) > threading.TIMEOUT_MAX:
        return None
    return asyncio.get_running_loop().time() + timeout
