"""`StdlibQueue`: a hybrid queue for code that was written for `queue.Queue`.

Rules:

- The hybrid queue stores, orders and wakes; here are only `maxsize` and the tasks. Both are derived
  from one snapshot of its accounts, so that recovered, dropped and damaged items are right too.
- `mutex` guards what is counted here and is never held during a call that may wait, do I/O or log.
- A signal's handler or a finaliser may come while its thread holds `mutex`, or the engine's: there
  `shutdown` works, and what it has to tell who waits is told by whoever has `mutex` (`_Waits`); all
  else is `ReentrantCallError`, since a lock of one thread and a lock of another would cross.
- A put that may have to wait for `maxsize` says so (`_waiting`) before it looks at the depth, a get
  asks after it has changed the depth: so no lock is needed to see that nobody waits.
- By convention a `None` ends a worker. Where the hybrid queue drops it is kept here, beside those
  items, with its place among them: how many were let in before it.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NoReturn, Self, TypeVar, cast, overload

from hq_core.checks import instance
from hq_core.engine.forks import ParentsLock, disown_in_child
from hq_core.engine.handle import deadline_of, refuse_to_be_sent
from hq_core.engine.locks import Locks, OwnedLock
from hq_core.engine.waiters import ThreadWaiter
from hq_core.errors import QueueClosed, QueueEmpty, QueueFull
from hq_core.messages import Buffer, as_message
from hq_core.queue import HybridQueue

__all__ = ["StdlibQueue"]

T = TypeVar("T")


class StdlibQueue(queue.Queue[T]):
    """A `queue.Queue` whose items are in a hybrid queue, with 3.13's `shutdown` on every version.

        hybrid = HybridQueue("jobs", 1000, "spool", limiter=Unlimited(), when_full="block")
        with StdlibQueue(hybrid, dumps=encode, loads=decode) as jobs: ...

    It takes `hybrid` over, as `io.TextIOWrapper` does its buffer: put, take, shut down and close
    only here from then on. Properties and `stats()` of `hybrid` may be asked at any time. As a
    context manager it ends with ``shutdown(immediate=True)``.

    Raises `TypeError` and `ValueError` for arguments that do not fit.

    Parameters
    ----------
    hybrid
        An open queue with ``limiter=Unlimited()``, and any `when_full` but ``"raise"``: callers of
        `put` expect it to wait for room, and know nothing of a limiter. With ``"drop_oldest"`` or
        ``"drop_newest"`` it never waits, and what is dropped counts as done. A `None`, which is
        what ends a worker, is then neither dropped nor stored: it is there, in its place, as long
        as this object is.
    maxsize
        Most items in the queue, memory and overflow together; 0 or less: as many as the bounds of
        `hybrid` allow, for which `put` waits as well. Not with ``when_full="drop_…"``.
    dumps, loads
        How an item becomes bytes in `put`, and is made from them in `get`; both, or neither if
        items are bytes. What they raise comes out of these calls. There is no default for other
        objects, since the obvious one, `pickle`, runs whatever code a spool file holds.
    """

    @overload
    def __init__(self: "StdlibQueue[bytes]", hybrid: HybridQueue, maxsize: int = 0) -> None: ...
    @overload
    def __init__(
        self,
        hybrid: HybridQueue,
        maxsize: int = 0,
        *,
        dumps: Callable[[T], Buffer],
        loads: Callable[[bytes], T],
    ) -> None: ...
    def __init__(
        self,
        hybrid: HybridQueue,
        maxsize: int = 0,
        *,
        dumps: Callable[[Any], Buffer] | None = None,
        loads: Callable[[bytes], Any] | None = None,
    ) -> None:
        # The base class is there for isinstance() and for annotations: none of its state is used.
        instance("hybrid", hybrid, HybridQueue, "an open HybridQueue")
        instance("maxsize", maxsize, int, "a number of items")
        if (dumps is None) != (loads is None):
            raise TypeError("dumps and loads go together: give both, or neither if items are bytes")
        _check_policies(hybrid, maxsize)
        self.maxsize = maxsize
        self.is_shutdown = False
        engine = hybrid._engine
        self._waits = waits = _Waits(engine._locks)
        self.mutex = waits.mutex  # type: ignore[assignment] # theirs is no reentrant one
        self.not_full, self.all_tasks_done = waits.not_full, waits.all_tasks_done
        self._hybrid = hybrid
        self._dumps = dumps or _as_it_is
        self._loads = loads or _as_it_is
        self._drops = engine.when_full != "block"
        self._ends = deque[tuple[int, bytes]]()  # their places, and what they became by `dumps`
        self._ends_taken = 0
        self._counts = engine.tally
        _, enqueued, dequeued, _ = self._counts()
        self._let_in = enqueued  # puts that passed `maxsize`, finished or on their way
        self._waiting = 0  # puts that look whether they may enter, or wait until they may
        self._done = dequeued
        self._ended = False
        engine.on_loss = waits.tell
        disown_in_child(self)

    def disown(self) -> None:
        """In a forked child: whatever would use this queue meets `StreamBusyError` instead."""
        self.mutex = ParentsLock(self._hybrid._engine.stream_id)  # type: ignore[assignment]
        self.not_full = self.all_tasks_done = threading.Condition(self.mutex)
        self._waits.mutex = cast(OwnedLock, self.mutex)

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """Add `item`, waiting for room up to `timeout` seconds if `block` (None: without end).

        Raises `queue.Full` or `ShutDown`; besides, what `dumps` raises, and the failures of a
        queue that is partly on disk: `BackendError`, `MessageTooLargeError`. The item is then not
        in the queue. A full disk on which nothing of this queue is left to be taken is `queue.Full`
        at once.
        """
        data = self._dumps(item)
        seconds = _seconds(block, timeout)
        waits = self._waits
        waits.check_reentry()
        try:
            if item is None and self._drops:
                self._put_end(data)
            else:
                self._put_in(data, seconds)
        except QueueFull:  # who waits has heard what there was to hear
            raise
        except BaseException:  # a wake-up may have been on its way
            waits.told = True
            raise
        finally:
            if waits.told:
                waits.tell()

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Remove and return the oldest item, waiting up to `timeout` seconds if `block`.

        Raises `queue.Empty` or `ShutDown`; besides, what `loads` raises, the item being gone and
        its task done then, and the failures `BackendError` and `CorruptedData`.
        """
        seconds = _seconds(block, timeout)
        waits = self._waits
        waits.check_reentry()
        try:
            data = self._take_beside(seconds) if self._drops else self._hybrid.dequeue(seconds)
            if self._waiting:
                with self.mutex:
                    self.not_full.notify()
        except QueueEmpty:
            raise
        except BaseException:  # stored items may have been lost: who waits has to look again
            waits.told = True
            raise
        finally:
            if waits.told:
                waits.tell()
        try:
            item: T = self._loads(data)
        except BaseException:
            self.task_done()
            raise
        return item

    def task_done(self) -> None:
        """One item that was taken is dealt with; `ValueError` if there are no more such items."""
        waits = self._waits
        waits.check_reentry()
        try:
            with self.mutex:
                unfinished = self.unfinished_tasks - 1
                if unfinished < 0:
                    raise ValueError("task_done() called too many times")
                self._done += 1
                if not unfinished:
                    self.all_tasks_done.notify_all()
        finally:
            if waits.told:
                waits.tell()

    def join(self) -> None:
        """Wait until every item has been taken and dealt with, those of an earlier owner included.

        What is dropped, lost to damage or left by ``shutdown(immediate=True)`` counts as done.
        """
        waits = self._waits
        waits.check_reentry()
        try:
            with self.mutex:
                self.all_tasks_done.wait_for(lambda: not self.unfinished_tasks)
        finally:
            if waits.told:
                waits.tell()

    def shutdown(self, immediate: bool = False) -> None:
        """Make `put` raise `ShutDown`, and `get` once the rest is drained; wake whoever waits.

        `immediate`: do not wait for that, but close the hybrid queue. It discards the rest or, if
        it is durable, keeps it for its next opening; either way `join` does not wait for it.
        """
        self._hybrid.shutdown()
        try:
            if immediate:
                self._hybrid.close()
        finally:
            self.is_shutdown = True
            if immediate:
                self._ended = True
            self._waits.tell()

    def qsize(self) -> int:
        """Number of items, in memory and stored."""
        return 0 if self._ended else self._hybrid.depth + len(self._ends)

    def empty(self) -> bool:
        """Whether `qsize` is 0."""
        return not self.qsize()

    def full(self) -> bool:
        """Whether there are `maxsize` items. Where `hybrid` has a bound in bytes, `put` may wait
        although there are not."""
        return 0 < self.maxsize <= self.qsize()

    @property
    def unfinished_tasks(self) -> int:  # type: ignore[override] # theirs is a variable, never set
        """Items in the queue, and taken ones for which `task_done` is still to come."""
        depth, _, dequeued, _ = self._counts()
        held = 0 if self._ended else depth + len(self._ends)
        return max(0, held + dequeued + self._ends_taken - self._done)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.shutdown(immediate=True)

    def __repr__(self) -> str:
        return f"<StdlibQueue of {self._hybrid!r}>"

    def __reduce__(self) -> NoReturn:
        refuse_to_be_sent(self._hybrid._engine.stream_id)

    def _put_in(self, data: Buffer, seconds: float | None) -> None:
        """Put `data` into the hybrid queue, when `maxsize` lets it in."""
        started = time.monotonic() if seconds else 0.0
        with self.mutex:
            if self.maxsize > 0:
                self._wait_to_enter(seconds)
            self._let_in += 1
        try:
            if seconds:
                seconds = max(0.0, started + seconds - time.monotonic())
            self._hybrid.enqueue(data, seconds)
        except BaseException:
            with self.mutex:
                self._let_in -= 1
                self._waits.told = True
            raise

    def _put_end(self, data: Buffer) -> None:
        """Keep `data`, which ends a worker, in its place; have one that waits look."""
        engine = self._hybrid._engine
        end = as_message(data, engine.largest)
        self._hybrid.enqueue_many(())  # raises if nothing more is let in
        with self.mutex:
            _, enqueued, _, dropped_newest = self._counts()
            self._ends.append((enqueued - dropped_newest, end))
        engine.withdraw(ThreadWaiter())

    def _end(self) -> bytes | None:
        """What ends a worker, if its turn has come: all that was let in before it has left."""
        if not self._ends:
            return None
        with self.mutex:
            depth, enqueued, _, dropped_newest = self._counts()
            left = enqueued - dropped_newest - depth
            if self._ended or not self._ends or left < self._ends[0][0]:
                return None
            self._ends_taken += 1
            return self._ends.popleft()[1]

    def _take_beside(self, seconds: float | None) -> bytes:
        """As `HybridQueue.dequeue`, but what ends a worker comes in its turn."""
        end = self._end()
        if end is not None:
            return end
        try:
            return self._hybrid._wait_for(1, deadline_of(seconds), seconds, beside=self._end)[0]
        except QueueClosed:
            end = self._end()
            if end is None:
                raise
            return end

    def _wait_to_enter(self, seconds: float | None) -> None:
        """Wait until fewer than `maxsize` items are in the queue. Holds `mutex`."""
        self._waiting += 1
        try:
            if not self.not_full.wait_for(self._may_enter, seconds):
                raise QueueFull(f"the queue holds {self.maxsize} items, its maxsize")
        finally:
            self._waiting -= 1

    def _may_enter(self) -> bool:
        """Whether there is room, or the queue is going to refuse. Holds `mutex`."""
        if self.maxsize <= 0 or self.is_shutdown:
            return True
        depth, enqueued, _, _ = self._counts()
        on_their_way = self._let_in - enqueued
        return depth + on_their_way < self.maxsize


class _Waits:
    """Those who wait for room, or for the last task, and the `mutex` under which they look.

    That they are to look again is noted (`told`) before `mutex` is asked for. So where a handler
    may not wait for it, or its own thread has it, whoever has it lets them look: at the end of its
    call, or when it goes to sleep.
    """

    def __init__(self, locks: Locks) -> None:
        self.mutex = cast(OwnedLock, threading.RLock())
        self.not_full, self.all_tasks_done = _Condition(self), _Condition(self)
        self.told = False
        """They are to look again."""
        self._locks = locks

    def check_reentry(self) -> None:
        """Raise `ReentrantCallError` in the middle of this thread's own call."""
        locks = self._locks
        if self.mutex._is_owned() or locks.mutex._is_owned() or locks.io._is_owned():
            locks.refuse_reentry()

    def tell(self) -> None:
        """Have all of them look again. From anywhere: who has a lock of the engine does not wait
        for `mutex`, whose holder may wait for that one."""
        self.told = True
        mutex = self.mutex
        while self.told and not mutex._is_owned():
            try:
                if not mutex.acquire(blocking=not self._locks.any_is_mine()):
                    return
                self.told = False
                self.not_full.notify_all()
                self.all_tasks_done.notify_all()
            except BaseException:
                self.told = True
                raise
            finally:  # at once: an interruption may come after any call, also that which took it
                try:  # noqa: SIM105 # that is a call
                    mutex.release()
                except RuntimeError:  # it was not taken
                    pass


class _Condition(threading.Condition):
    """A condition that is told, when its thread can be woken, what that was not told before."""

    def __init__(self, waits: _Waits) -> None:
        mutex = waits.mutex
        super().__init__(cast(Any, mutex))
        let_go: Callable[[], object] = self._release_save  # type: ignore[has-type]

        def let_go_and_tell() -> object:
            try:
                state = let_go()
                if waits.told:
                    waits.tell()
            except BaseException:
                if not mutex._is_owned():
                    mutex.acquire()
                raise
            return state

        self._release_save = let_go_and_tell


def _check_policies(hybrid: HybridQueue, maxsize: int) -> None:
    engine = hybrid._engine
    if not engine.unlimited:
        raise ValueError(
            "callers of put() cannot be told to slow down: open the hybrid queue with "
            "limiter=Unlimited()"
        )
    if engine.when_full == "raise":
        raise ValueError(
            "callers of put() expect it to wait for room: open the hybrid queue with "
            'when_full="block", "drop_oldest" or "drop_newest"'
        )
    if maxsize > 0 and engine.when_full != "block":
        raise ValueError(
            f'maxsize={maxsize} makes put() wait, when_full="{engine.when_full}" makes it drop: '
            'leave maxsize 0, or open the hybrid queue with when_full="block"'
        )


def _seconds(block: bool, timeout: float | None) -> float | None:
    """How long to wait, as the hybrid queue wants it: None without end, 0 not at all."""
    if not block:
        return 0.0
    if timeout is None or timeout > threading.TIMEOUT_MAX:
        return None
    if not timeout >= 0:
        raise ValueError(f"timeout must be a number of seconds, 0 or more, not {timeout}")
    return timeout


def _as_it_is(item: Any) -> Any:
    return item
