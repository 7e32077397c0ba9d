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
import contextlib
import functools
import inspect
import weakref
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from time import monotonic
from types import TracebackType
from typing import Any, Concatenate, NoReturn, ParamSpec, Self, cast

from typing_extensions import override

from hq_core.aio.turns import turns
from hq_core.aio.wakeups import LoopWaiter
from hq_core.aio.worker import Worker
from hq_core.checks import positive_int, positive_seconds
from hq_core.engine.engine import Engine
from hq_core.engine.handle import Handle, deadline_of, patience, refuse_to_be_sent, why_empty
from hq_core.engine.in_flight import Holder
from hq_core.engine.leases import LEASE_SECONDS, Lease
from hq_core.engine.locks import PATIENCE
from hq_core.engine.opening import open_engine
from hq_core.errors import BackendError, DequeueTimeout, QueueClosed, QueueEmpty, QueueFull
from hq_core.messages import Buffer, as_message, as_messages
from hq_core.protocols import MAX_MESSAGE_BYTES, Pump
from hq_core.stats import QueueStats, RecoveryReport

__all__ = ["AsyncHybridQueue"]

_P = ParamSpec("_P")


def _with_parameters_of(
    model: Callable[_P, object],
) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, _P], None]]:
    """Give a constructor the signature of `model`."""

    def give(init: Callable[..., None]) -> Callable[Concatenate[Any, _P], None]:
        first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = [first, *inspect.signature(model).parameters.values()]
        init.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return init

    return give


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

    @_with_parameters_of(open_engine)
    def __init__(self, *args: Any, **options: Any) -> None:
        given = inspect.signature(open_engine).bind(*args, **options)
        self._stream_id = given.arguments["stream_id"]
        self._opening = functools.partial(open_engine, *args, **options)
        self._worker = Worker(f"hq-io-{self._stream_id}")
        self._engine = cast(Engine, _NotOpen(self._stream_id, "not open yet"))
        self._handle: Handle | None = None
        self._largest = MAX_MESSAGE_BYTES
        self._refilling: Future[bool] | None = None

    @classmethod
    def _view(cls, handle: Handle) -> Self:
        """Behind `HybridQueue.aio`."""
        view = cls(handle.engine.stream_id, None, "")
        view._use(handle)
        return view

    async def open(self) -> Self:
        """Open the queue, unless it is open already; `async with` calls it.

        Raises what the constructor of `HybridQueue` raises, and `QueueClosed` once it was closed.
        """
        await self._worker.see_through(self._open)
        return self

    async def enqueue(self, data: Buffer, timeout: float | None = None) -> None:
        """Add one message; parameters and errors are those of `HybridQueue.enqueue`.

        Waits only while the message is written to the backend and, with ``when_full="block"``, for
        room.
        """
        deadline = None if timeout is None else deadline_of(timeout)
        if type(data) is not bytes or len(data) > self._largest:
            data = as_message(data, self._largest)
        await turns.give()
        offered = self._engine.offer(data)
        if offered is not None:
            await self._spill([data], offered, deadline, timeout)

    async def enqueue_many(self, items: Iterable[Buffer], timeout: float | None = None) -> None:
        """Add messages in order, all or none of them; otherwise as `enqueue`."""
        deadline = deadline_of(timeout)
        batch = as_messages(items, self._largest)
        await turns.give()
        offered = self._engine.offer_all(batch)
        if offered is not None:
            await self._spill(batch, offered, deadline, timeout)

    async def dequeue(self, timeout: float | None = None) -> bytes:
        """Remove and return the oldest message; parameters and errors as `HybridQueue.dequeue`."""
        deadline = None if timeout is None else deadline_of(timeout)
        await turns.give()
        item = self._engine.take_one(_this_task())
        if item is not None:
            return item
        return (await self._wait_for(1, deadline, timeout))[0]

    async def dequeue_many(self, max_items: int, timeout: float | None = None) -> list[bytes]:
        """Remove and return up to `max_items` messages that are in memory, oldest first.

        Waits, as `dequeue` does, for the first only, and returns at least that one.
        """
        deadline = deadline_of(timeout)
        max_items = positive_int("max_items", max_items)
        await turns.give()
        return await self._wait_for(max_items, deadline, timeout)

    async def try_dequeue(self) -> bytes:
        """Remove and return the oldest message; `QueueEmpty` when `depth` is 0.

        Waits only for a stored message to be read, never for one to come; and not longer than 50 ms
        for a backend that is busy with another call.
        """
        await turns.give()
        try:
            return (await self._wait_for(1, monotonic(), 0))[0]
        except DequeueTimeout as exc:
            raise QueueEmpty(*exc.args) from None

    def lease(
        self, max_items: int = 1, timeout: float | None = None, *, deadline: float = LEASE_SECONDS
    ) -> "_Leasing":
        """Take messages on condition: ``async with queue.lease() as items:``.

        Parameters and errors are those of `HybridQueue.lease`. Without a block,
        ``lease = await queue.lease()`` is a `Lease` with `items`, `ack` and `nack`.
        """
        most = positive_int("max_items", max_items)
        return _Leasing(self, most, timeout, positive_seconds("deadline", deadline))

    def __aiter__(self) -> Self:
        """All messages from now on; ends once the queue is closed, or shut down and drained."""
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self.dequeue()
        except QueueClosed:
            if isinstance(self._engine, _NotOpen) and self._engine.how != "closed":
                raise  # to iterate over one that is not open yet is a mistake
            raise StopAsyncIteration from None

    async def sync(self) -> None:
        """Make what is stored survive power loss; see `HybridQueue.sync`."""
        await self._worker.see_through(self._engine.sync)

    def shutdown(self) -> None:
        """Take no more messages; consumers drain the rest, then meet `QueueClosed`."""
        self._engine.shut_down()

    async def close(self) -> None:
        """Close the queue, for threads too, as `HybridQueue.close` does.

        Once called it is carried out, be the task cancelled or not. From then on nothing is taken
        or given, also while a call on the backend is still under way.
        """
        await self._shut(finish=True)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._shut(finish=exc_type is None)

    def __repr__(self) -> str:
        return f"<AsyncHybridQueue {self._stream_id!r}>"

    def __reduce__(self) -> NoReturn:
        refuse_to_be_sent(self._stream_id)

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

    def _open(self) -> None:
        """The worker's, which does one thing at a time: so two tasks open one queue once."""
        if isinstance(self._engine, _NotOpen):
            self._engine.check_can_be_opened()
            self._use(Handle(self._opening()))
        elif self._engine.state != "open":
            raise QueueClosed(f"the queue {self._stream_id!r} is {self._engine.state}")

    async def _shut(self, finish: bool) -> None:
        holder = _this_task()
        if not isinstance(self._engine, _NotOpen):
            self._engine.close(finish=finish, holder=holder, io=False)
        close = functools.partial(self._close, finish, holder)
        await self._worker.see_through(close, revocable=False)

    def _close(self, finish: bool, holder: Holder) -> None:
        """The worker's, so that it comes after an opening that is under way."""
        if isinstance(self._engine, _NotOpen):
            self._engine = cast(Engine, _NotOpen(self._stream_id, "closed"))
        else:
            self._engine.close(finish=finish, holder=holder)

    def _use(self, handle: Handle) -> None:
        engine = handle.engine
        if not isinstance(engine.pumping.pump, _OffLoop):
            engine.pumping.pump = _OffLoop(engine.pumping.pump, self._worker)
        self._largest = engine.largest
        self._handle = handle
        self._engine = engine

    async def _spill(
        self, items: list[bytes], offered: float, deadline: float | None, timeout: float | None
    ) -> None:
        engine, holder = self._engine, _this_task()
        waiter = None
        if engine.when_full == "block":
            waiter = LoopWaiter((len(items), sum(map(len, items))))
        parking = waiter
        try:
            while True:
                if deadline is not None and monotonic() >= deadline:
                    parking = None
                until = patience(deadline, timeout)
                if until is not None:  # at least so long that an idle worker begins with it
                    until = max(until, monotonic() + PATIENCE)
                spill = functools.partial(engine.spill, items, offered, parking, until, holder)
                try:
                    accepted = await self._worker.see_through(spill, until=until)
                except TimeoutError:
                    raise QueueFull(
                        "memory is full, and the backend is busy with other calls"
                    ) from None
                if accepted or parking is None:
                    return
                await self._sleep(parking, deadline)
        except BaseException:
            if waiter is not None and waiter.place:  # that it was woken is for another then
                engine.withdraw(waiter)
            raise

    async def _wait_for(
        self,
        max_items: int,
        deadline: float | None,
        timeout: float | None,
        lease: Lease | None = None,
    ) -> list[bytes]:
        engine, holder = self._engine, _this_task()
        waiter = LoopWaiter()
        until = patience(deadline, timeout)
        try:
            while True:
                over = deadline is not None and monotonic() >= deadline
                items = engine.grab(max_items, None if over else waiter, holder=holder, lease=lease)
                if items:
                    return items
                if items is None and (until is None or monotonic() < until):
                    await self._refill(until)
                elif over:
                    why = f"nothing came within {timeout} s: {why_empty(engine)}"
                    raise DequeueTimeout(why)
                elif items is not None:
                    await self._sleep(waiter, deadline)
        except BaseException:
            if waiter.place:  # that it was woken is for another then
                engine.withdraw(waiter)
            raise

    async def _refill(self, until: float | None) -> None:
        """What `grab` waits for, off the loop; given up at `until`, which it may outlive."""
        # One at a time, which goes on when its caller gives up: so that callers who always do, and
        # come again, get what it brings, and nothing piles up while the backend takes long.
        with contextlib.suppress(TimeoutError):
            await self._worker.result(self._begin_refill(until), until)

    def _begin_refill(self, until: float | None) -> Future[bool]:
        if self._refilling is None or self._refilling.done():
            self._refilling = self._worker.begin(functools.partial(self._engine.refill, until))
        return self._refilling

    async def _sleep(self, waiter: LoopWaiter, deadline: float | None) -> None:
        """Sleep until woken, or until it is time to look."""
        look = self._engine.look_again()
        if not await waiter.wait(look if deadline is None else min(deadline, look)):
            self._engine.withdraw(waiter)


class _Leasing:
    """A lease to come: awaited, or entered with ``async with``."""

    def __init__(
        self, queue: AsyncHybridQueue, max_items: int, timeout: float | None, seconds: float
    ) -> None:
        self._queue = queue
        self._max_items = max_items
        self._timeout = timeout
        self._seconds = seconds
        self._lease: Lease | None = None

    def __await__(self) -> Generator[Any, None, Lease]:
        return self._take().__await__()

    async def _take(self) -> Lease:
        lease = Lease(self._queue._engine, self._seconds)
        deadline = deadline_of(self._timeout)
        await turns.give()
        await self._queue._wait_for(self._max_items, deadline, self._timeout, lease)
        return lease

    async def __aenter__(self) -> list[bytes]:
        self._lease = await self._take()
        return self._lease.items

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._lease is not None:
            self._lease.__exit__(exc_type, exc, traceback)


class _NotOpen:
    """In place of an engine, before it is opened, or after it was closed without ever being so."""

    def __init__(self, stream_id: str, how: str) -> None:
        self._stream_id = stream_id
        self.how = how

    def check_can_be_opened(self) -> None:
        """Raise `QueueClosed` if it was closed."""
        if self.how == "closed":
            raise QueueClosed(f"the queue {self._stream_id!r} is closed")

    def __getattr__(self, name: str) -> NoReturn:
        advice = "" if self.how == "closed" else ": enter it with `async with`, or await its open()"
        raise QueueClosed(f"the queue {self._stream_id!r} is {self.how}{advice}")


class _OffLoop(Pump):
    """A queue's pump, which the worker wakes where otherwise an event loop would.

    An `InlinePump` does all of its work in `wake`, and others may when they have no thread.
    """

    def __init__(self, pump: Pump, worker: Worker) -> None:
        self._pump = pump
        self._worker = worker

    @override
    def start(self, step: Callable[[], bool], name: str) -> None:
        self._pump.start(step, name)

    @override
    def stop(self) -> None:
        self._pump.stop()

    @override
    def wake(self) -> None:
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


def _this_task() -> Holder:
    """Who holds what is taken now."""
    task = asyncio.current_task()
    assert task is not None, "coroutines run in tasks"
    return weakref.ref(task)
