"""The queue itself, without waiting: both front ends share it and differ only in how they wait.

Zones. An item moves only to the right, unless what has taken it gives it back::

    backend: stored (not read, read ahead)  --refill-->  memory tier  --take-->  in flight --> done

Rules:

- Order. An item enters memory directly only while nothing is stored and the queue is not durable;
  otherwise it is appended after what is stored. What was given back comes first, then memory, then
  what was read ahead. Records that were read ahead count as stored until they have left there.
- Two locks. The mutex guards memory, accounts, ledger and waiters and is held for microseconds;
  `io` serialises the calls on the backend and is taken with the caller's deadline. A thread that
  needs both takes `io` first. Nothing waits for `io`, or calls a backend, a pump or a logger, while
  holding the mutex; nothing is logged while holding `io`.
- Failure. What the backend holds is asked of it after each call, and taken over with its entry in
  the accounts in lines without a call (`_settle`). After an interruption elsewhere the entries are
  made to agree with what the tiers hold, and everybody is woken (`_mend`).
- Re-entry. A signal handler or a finaliser may come in the middle of its thread's own call. There
  `shut_down`, `close` and the questions work, and what remains of `close` is done when the
  interrupted call ends (`_afterwards`); all else is `ReentrantCallError`.
- Waking. Consumers park only while nothing can be taken or read, producers only while neither tier
  has room for them, both under the mutex. What ends such a state wakes those who can use it.
- Trimming. A queue that is not durable trims what was passed on to memory or a consumer, a durable
  one what its holders are done with (`in_flight`). Trims are gathered: a refill makes one.
"""

import copy
import functools
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Concatenate, Final, Literal, NoReturn, ParamSpec, TypeVar

from hq_core.engine.accounts import Accounts
from hq_core.engine.forks import ParentsLock, disown_in_child
from hq_core.engine.holders import this_thread
from hq_core.engine.in_flight import Holder, InFlight, Run, State
from hq_core.engine.leases import Lease
from hq_core.engine.locks import PATIENCE, Locks
from hq_core.engine.notices import Notices
from hq_core.engine.overflow import READ_BYTES, READ_RECORDS, Overflow
from hq_core.engine.pumping import Pumping
from hq_core.engine.unwinding import Unwinding
from hq_core.engine.waiters import Line, Waiter, wake_all
from hq_core.errors import (
    BackendUnavailable,
    CorruptedData,
    HybridQueueError,
    LeaseExpired,
    QueueClosed,
    QueueFull,
    RateLimited,
)
from hq_core.protocols import MAX_MESSAGE_BYTES, Limiter, MemoryTier, Pump, WhenFull
from hq_core.spool.quarantine import Quarantine
from hq_core.stats import QueueStats

__all__ = ["Engine"]

_PRESSURE_REFERENCE: Final = 100 * 1024 * 1024
"""Overflow bytes that make pressure 2.0 when there is no `max_overflow_bytes`."""
_MAX_DONE: Final = 256
"""Items of a durable queue that are done, at most, before they are trimmed: what comes again after
a crash is fewer than these and what is still held."""
_MIN_PUMPED: Final = 32
"""Fewest records that pay for waking the pump: waking a thread costs as much as reading them."""
_MAX_LEASED: Final = 1024
_MAX_LEASED_BYTES: Final = 64 * 1024 * 1024
"""What may be out under leases; or as much as memory holds, if that is more."""
_LOOK_AT_HOLDERS: Final = 1.0
"""Seconds after which a producer that waits for room looks whether a holder has ended."""
_CONSEQUENCES: Final[dict[WhenFull, str]] = {
    "block": "its producers wait until there is room",
    "drop_oldest": "its oldest items are dropped",
    "drop_newest": "new items are dropped",
}
_P = ParamSpec("_P")
_T = TypeVar("_T")
_NOW: Final = 0.0
"""A time that has come."""
_OVER: Final = ("lost", "closed", "forked")
"""States in which nothing is taken or given any more."""


def _nobody() -> None:
    """A `Holder` that has ended, that of what a policy drops; hears of things, and does nothing."""


def _whole(
    call: "Callable[Concatenate[Engine, _P], _T]",
) -> "Callable[Concatenate[Engine, _P], _T]":
    """A call of the engine that ends with what its interruptions have left to do."""

    @functools.wraps(call)
    def whole(engine: "Engine", /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return call(engine, *args, **kwargs)
        finally:
            if engine.errands:
                engine._afterwards()

    return whole


class Engine:
    """One stream's tiers, accounts and waiters. Thread-safe; never waits for room or for items."""

    def __init__(
        self,
        stream_id: str,
        *,
        directory: Path,
        quarantine: Quarantine,
        memory: MemoryTier,
        max_overflow_bytes: int | None,
        limiter: Limiter,
        pump: Pump,
        clock: Callable[[], float],
        durable: bool,
        when_full: WhenFull,
        unwinding: Unwinding,
    ) -> None:
        self.stream_id = stream_id
        self.when_full = when_full
        most_items, most_bytes = memory.capacity()
        self.largest = min(most_bytes, MAX_MESSAGE_BYTES)
        self.unlimited = limiter.burst is None
        self.durable = durable
        self.state: Literal["open", "shut down", "lost", "closed", "forked"] = "open"
        self._failure: HybridQueueError | None = None  # why it is lost
        self._keeps = True  # closing keeps what is stored; `close` decides
        self._directory = directory
        self._quarantine = quarantine
        self._memory = memory
        self._limiter = limiter
        self._clock = clock
        self._unwinding = unwinding

        self._locks = Locks(stream_id, self._mend)
        self.overflow = Overflow(max_overflow_bytes, self._locks.only_io_is_mine, self.lose)
        self._in_flight = InFlight(durable)
        self._accounts = Accounts(0, clock())
        self._consumers = Line(clock)
        self._lessees = Line(clock)  # consumers for whom too much is out under leases
        self._producers = Line(clock)
        self._lines = (self._consumers, self._lessees, self._producers)
        self._spilling = False  # an item was admitted and is on its way to the backend
        self._landing: tuple[int, int] | None = None  # before a landing: items in memory, `passed`
        least = max(min(READ_RECORDS, most_items // 2), _MIN_PUMPED)
        self._pumped = least, min(READ_BYTES, most_bytes // 2)  # room that pays for the pump
        self.notices = Notices()
        self.errands = False  # there is something to do once no lock is held
        self._closing = False  # such as the part of `close` that takes I/O
        self.on_loss = _nobody  # told that items may be gone that no consumer has
        self.pumping = Pumping(
            pump,
            stream_id,
            locks=self._locks,
            notices=self.notices,
            has_work=self._has_pump_work,
            refill=self._refill,
            afterwards=self._afterwards,
        )

    def begin(self) -> None:
        """The backend is open, and from now on the queue is."""
        overflow = self.overflow
        overflow.depth, overflow.size_bytes = overflow.facts()
        self._accounts = Accounts(overflow.depth, self._clock())
        disown_in_child(self)
        self._unwinding.before = self.pumping.pump.stop
        self.pumping.start()

    # ---- producers -------------------------------------------------------------------------

    def offer(self, item: bytes) -> float | None:
        """Take `item` into memory if it may go there; otherwise it is admitted, and for `spill`.

        None: taken. Otherwise the time at which it was offered, for `spill`. Raises `QueueClosed`
        and `RateLimited`. Does no I/O.
        """
        now = self._clock()
        taken = False
        locks = self._locks
        try:
            with locks.mutex:
                if locks.inside:
                    locks.refuse_reentry()
                if self.state != "open":
                    self._refuse()
                locks.inside = True
                try:
                    admitted = self._limiter.admit(1, now)
                    overflow = self.overflow
                    if admitted and not self.durable and overflow.depth == overflow.passed:
                        taken = self._memory.offer_one(item)
                        if taken:
                            self._accounts.enqueued += 1
                            if now >= self._accounts.ages.due:
                                self._accounts.mark(1, self._span(), now)
                            if self._consumers.waiting:
                                self._consumers.wake(1)
                except BaseException:
                    self._mend()
                    raise
                finally:
                    locks.inside = False
                if not admitted:
                    self._accounts.rate_limited += 1
                    raise _rate_limited(self._limiter, 1)
        finally:
            if self.errands:
                self._afterwards()
        return None if taken else now

    def offer_all(self, items: Sequence[bytes]) -> float | None:
        """`offer` for a batch, all or nothing; an empty one passes while the queue is open."""
        now = self._clock()
        try:
            taken = self._locks.change(self._put, items, now, admit=True)
        finally:
            if self.errands:
                self._afterwards()
        return None if taken else now

    def spill(
        self,
        items: Sequence[bytes],
        offered: float,
        waiter: Waiter | None,
        deadline: float | None = None,
        holder: Holder | None = None,
    ) -> bool:
        """Take `items`, admitted at `offered`, into the backend, or into memory if that has become
        possible.

        True: accepted, or dropped as the policy says. False: there is no room, and `waiter` is
        parked until there may be. Without a waiter the reason is raised instead: `QueueFull` or
        `BackendUnavailable`. `QueueFull` too if another call keeps the backend busy until
        `deadline`. `holder` is the caller: if there is no room, it is done with what it holds.
        """
        if not self._locks.enter_io(deadline):
            raise QueueFull("memory is full, and the backend is busy with another call")
        dequeued = self._accounts.dequeued
        try:
            holder = holder or this_thread.holder
            accepted = self._spill(items, offered, waiter, deadline, holder)
        except HybridQueueError:
            raise
        except BaseException:
            self._mend()
            raise
        finally:
            self._spilling = False
            self._locks.io.release()
            if self.errands:
                self._afterwards()
        # A durable queue stores though memory has room. Elsewhere it was full just now, and who has
        # taken something since then could not know that the pump would have work.
        if self.durable or not accepted or self._accounts.dequeued != dequeued:
            self.pumping.wake_if_needed()
        return accepted

    # ---- consumers -------------------------------------------------------------------------

    def take_one(  # noqa: C901 # in one piece, since each call costs
        self, holder: Holder | None = None
    ) -> bytes | None:
        """The oldest item, if it takes no I/O. None: `take` has to find out."""
        item = None
        locks, overflow, in_flight = self._locks, self.overflow, self._in_flight
        try:
            with locks.mutex:
                if locks.inside:
                    locks.refuse_reentry()
                locks.inside = True
                try:
                    if in_flight.leases or in_flight.back or self.state == "closed":
                        return None  # and `take` sees to what else there is to do
                    if self.durable:
                        in_flight.finish(holder or this_thread.holder)
                    if (self.durable or self._producers.waiting) and self._trim_due() == _NOW:
                        return None
                    item = self._memory.take_one()
                    if item is None:
                        ahead = overflow.ahead
                        if len(ahead) < 2:  # `take` reads on after the last one, or trims
                            return None
                        item = ahead[0]
                        del ahead[0]
                        overflow.passed += 1
                    if self.durable:
                        in_flight.hand(holder or this_thread.holder, 1, len(item))
                    self._accounts.dequeued += 1
                    if self._producers.waiting:
                        self._wake_producers()
                    pumping = self.pumping
                    wake = overflow.depth > 0 and not pumping.under_way and pumping.claim()
                except BaseException:  # before others see it
                    items, item = [] if item is None else [item], None
                    self._put_back(items, holder, None)
                    raise
                finally:
                    locks.inside = False
            if wake:
                self.pumping.wake()
            if self.errands:
                self._afterwards()
        except BaseException:
            if item is not None:
                self._put_back([item], holder, None)
            if self.errands:
                self._afterwards()
            raise
        return item

    def take(
        self,
        max_items: int,
        waiter: Waiter | None,
        deadline: float | None = None,
        *,
        holder: Holder | None = None,
        lease: Lease | None = None,
    ) -> list[bytes]:
        """The oldest items, up to `max_items` of what is there, refilling memory as needed.

        Otherwise as `grab`; also empty if another call keeps the backend busy until `deadline`.
        Raises `BackendError` too.
        """
        overflow = self.overflow
        have = self._memory.items() + len(overflow.ahead)  # about: others take too
        if 0 < have < max_items and overflow.unread and not overflow.away:
            with suppress(HybridQueueError):  # there is something to give all the same
                self.refill(_earlier(deadline, self._clock() + PATIENCE), max_items)
        refilled = False
        while True:
            items = self.grab(max_items, waiter, holder=holder, lease=lease)
            if items and not self.durable:
                try:
                    drained = overflow.depth == overflow.passed > 0
                    if drained or self._trim_due() == _NOW:
                        with suppress(HybridQueueError):  # if nobody else is at it
                            self.refill(-math.inf)
                except BaseException:
                    self._put_back(items, holder, lease)
                    raise
            if items is not None:
                return items
            is_late = deadline is not None and self._clock() >= deadline
            if (refilled and is_late) or not self.refill(deadline):
                return []
            refilled = True

    def grab(
        self,
        max_items: int,
        waiter: Waiter | None,
        *,
        holder: Holder | None = None,
        lease: Lease | None = None,
    ) -> list[bytes] | None:
        """The oldest items that can be had without I/O. None: `refill` may bring some.

        With `lease`, they are under it. Empty: there is nothing, and `waiter`, if any, is parked
        until something is. Raises `QueueClosed` and `CorruptedData`, each only when it has no item
        to give.
        """
        holder = holder or this_thread.holder
        items: list[bytes] = []
        try:
            complete = self._locks.change(self._grab, items, max_items, waiter, holder, lease)
            if items:
                self.pumping.wake_if_needed()
            if self.errands:
                self._afterwards()
        except BaseException:
            if items:
                self._put_back(items, holder, lease)
            if self.errands:
                self._afterwards()
            raise
        return items if complete else None

    def refill(self, deadline: float | None = None, wanted: int = 1) -> bool:
        """What `grab` waits for, until so many items are `wanted`: read stored ones, and trim.

        Does I/O. False: another call keeps the backend busy until `deadline`. Raises
        `BackendError`.
        """
        if not self._locks.enter_io(deadline):
            return False
        try:
            with self._locks.mutex:  # another consumer's refill may have done it
                have = self._memory.items() + len(self.overflow.ahead)
                needed = have < wanted or self._trim_due() == _NOW
            if needed and self._refill(wanted):
                self.pumping.rests = False
        except BackendUnavailable:  # `grab` sees that it is away, and has its caller wait
            pass
        except HybridQueueError:
            raise
        except BaseException:
            self._mend()
            raise
        finally:
            self._locks.io.release()
            if self.errands:
                self._afterwards()
        return True

    def end_lease(self, runs: Sequence[Run], *, done: bool) -> None:
        """The leased `runs` are done, or given back to the front, in order.

        Done too late, when others have them: `LeaseExpired`. Done after a durable queue was closed,
        when they come again: `QueueClosed`.
        """
        try:
            late = self._locks.change(self._end_lease, runs, done)
            self.pumping.wake_if_needed()
        finally:
            if self.errands:
                self._afterwards()
        if late:
            raise LeaseExpired(
                f"the lease has ended, and {late} items were given back before they were done: "
                "lease fewer at once, or for a longer time"
            )

    # ---- waiting ---------------------------------------------------------------------------

    @_whole
    def withdraw(self, waiter: Waiter) -> None:
        """The owner of `waiter` gives up. If it had been woken already, others are in its stead."""
        with self._locks.mutex:
            parked = [line.leave(waiter) for line in self._lines]
            if not any(parked) or self._in_flight.leases:
                self._consumers.wake(1)
                self._lessees.wake(1)
                self._wake_producers()

    @_whole
    def look_again(self) -> float:
        """When a waiter is to try again though nobody has woken it: a lease ends then, a trim that
        failed is to be repeated, or a holder may have ended, which nobody says. Seconds of the
        monotonic clock, or infinity."""
        with self._locks.mutex:
            if self._in_flight.leases:
                self._end_lease(self._in_flight.lapsed(self._clock()), False)
            again = min(self._in_flight.next_lapse(), self._trim_due())
            if self.durable and self._producers.waiting and not self.overflow.away:
                return min(again, self._clock() + _LOOK_AT_HOLDERS)
            return again

    # ---- state -----------------------------------------------------------------------------

    def tally(self) -> tuple[int, int, int, int]:
        """`depth`, `enqueued`, `dequeued` and `dropped_newest`, for who asks at each item.

        For who holds a lock under which nothing is logged: what there is to say is left to another
        call. All others call `counts`.
        """
        with self._locks.mutex:
            if self._in_flight.leases and not self._locks.inside:
                self._end_lease(self._in_flight.lapsed(self._clock()), False)
            depth = self._there() - self._in_flight.leased()[0]
            accounts = self._accounts
            return depth, accounts.enqueued, accounts.dequeued, accounts.dropped_newest

    counts = _whole(tally)

    @_whole
    def stats(self) -> QueueStats:
        """A snapshot of one moment."""
        overflow, memory, accounts = self.overflow, self._memory, self._accounts
        amid = self._locks.mutex._is_owned()
        with self._locks.mutex:
            now = self._clock()
            if self._in_flight.leases and not amid:
                self._end_lease(self._in_flight.lapsed(now), False)
            there, leased = self._there(), self._in_flight.leased()[0]
            if amid:  # in the middle of this thread's own call: as if that had ended here
                accounts = copy.copy(accounts)
                accounts.reconcile(there)
            most_items, most_bytes = memory.capacity()
            by_count = most_bytes >= most_items * MAX_MESSAGE_BYTES  # then that is what limits
            return accounts.snapshot(
                now,
                span=self._span(),
                stream_id=self.stream_id,
                depth=there - leased,
                leased=leased,
                memory_items=memory.items(),
                disk_bytes=overflow.size_bytes,
                pressure=_pressure(memory, overflow),
                memory_bytes=memory.payload_bytes(),
                backend=overflow.backend.name,
                directory=self._directory,
                memory_limit_bytes=None if by_count else most_bytes,
                disk_limit_bytes=overflow.max_bytes,
                blocked_seconds=self._producers.seconds(now),
            )

    def sync(self) -> None:
        """Make what is stored survive power loss. Raises `BackendError` and `QueueClosed`."""
        if not self._locks.enter_io(None):
            return  # the end of the program, and the backend is a thread's that runs no more
        try:
            if self.state in _OVER:
                self._refuse()
            self.overflow.sync()
        finally:
            self._locks.io.release()
            if self.errands:
                self._afterwards()

    def shut_down(self) -> None:
        """Refuse new items; consumers drain the rest, then meet `QueueClosed`."""
        amid = self._locks.any_is_mine()
        with self._locks.mutex:
            if self.state == "open":
                self.state = "shut down"
                if amid:
                    self.errands = True  # the interrupted call wakes them, when it is whole
                else:
                    wake_all(self._lines)

    def close(
        self,
        *,
        finish: bool = True,
        keep: bool = False,
        holder: Holder | None = None,
        io: bool = True,
    ) -> None:
        """Refuse everything, wake everybody, discard (if durable: keep) what is left.

        `finish`: the caller is done with what it holds. `keep`: what is stored stays in any case.
        Without `io` the rest, which takes I/O, is for the next call. Raises `BackendError`.
        """
        if self.state == "forked":
            return
        amid = self._locks.any_is_mine()
        with self._locks.mutex:
            if self.state != "closed":
                self.state = "closed"
                self._keeps = keep or self.durable
            self._closing = self._closing or io
            if amid:  # the call that this one has interrupted does it, when it is whole
                self.errands = True
                return
            if finish:
                self._in_flight.finish(holder or this_thread.holder)
            wake_all(self._lines)
        if io:
            try:
                self._unwinding.run()
            finally:
                self.notices.say()

    def lose(self, error: HybridQueueError) -> None:
        """Another owner has the stream: drop what was read ahead, and touch nothing of theirs."""
        with self._locks.mutex:
            if self.state in _OVER:
                return
            self.state, self._failure = "lost", error
            self.notices.add(logging.ERROR, "%r is lost: %s", self.stream_id, error)
            self.errands = True  # the next call logs that: this one returns at once
            self._discard_rest()
            wake_all(self._lines)
        self.on_loss()

    def ready(self) -> None:
        """The backend can be reached again, or has room again."""
        with self._locks.mutex:
            self.overflow.in_contact()
            self.pumping.rests = False
            wake_all(self._lines)

    def disown(self) -> None:
        """In a forked child: whatever would use this queue meets `StreamBusyError` instead."""
        self.state = "forked"
        self._locks.mutex = self._locks.io = ParentsLock(self.stream_id)

    def let_go(self) -> None:
        """The last step of closing, which may be repeated: see to what is left, close the backend.

        It takes `io`; if that cannot be had any more, at the end of the program, nothing is done.
        """
        overflow, locks = self.overflow, self._locks
        if not hasattr(overflow, "backend") or not locks.enter_io(None):
            return
        try:
            if overflow.doing:  # of a call that was interrupted
                self._settle()
            with locks.mutex:
                lost = self._failure is not None
                self._in_flight.advance()
                undelivered = 0 if self._keeps else self._discard_rest()
                if self.durable and not lost:  # what memory holds is stored, and stays
                    records = self._in_flight.records()
                    self._memory.take(max(1, self._memory.items()))
                    overflow.forget_ahead()
                    overflow.passed = records
            if undelivered:
                message = "closing %r discards %d items"
                self.notices.add(logging.WARNING, message, self.stream_id, undelivered)
            if self.durable and not lost:
                self._trim()
            overflow.close(delete=not (self._keeps or lost))
        finally:
            locks.io.release()

    # ---- inside: locks and interruptions ---------------------------------------------------

    def _afterwards(self) -> None:
        """What is left to do once no lock is held: what an interruption was not to do, and log."""
        if self.state == "forked" or self._locks.any_is_mine():
            return  # this call is within another one of this thread, which comes here too
        self.errands = False  # first: from now on there may be others
        try:
            if self.state != "open":  # a call that was interrupted by that may have parked since
                with self._locks.mutex:
                    wake_all(self._lines)
            if self._closing:
                self._unwinding.run(wait=False)
            self.on_loss()
        except Exception as exc:  # not the trouble of the call that ends here
            self.notices.add(logging.ERROR, "closing %r failed: %s", self.stream_id, exc)
        except BaseException:
            self.errands = True
            raise
        finally:
            self.notices.say()

    def _put_back(self, items: list[bytes], holder: Holder | None, lease: Lease | None) -> None:
        """After an interruption: `items` were taken and do not reach their taker, so they go back
        to the front."""
        in_flight, accounts = self._in_flight, self._accounts
        memory, overflow = self._memory, self.overflow
        with self._locks.mutex:
            if items:
                loose = len(items)
                if self.durable:
                    loose = overflow.passed - memory.items() - in_flight.records()
                newest = accounts.newest() - memory.items() - overflow.stored
                runs = lease.runs if lease is not None else []
                in_flight.put_back(items, runs, holder or this_thread.holder, loose, newest)
                accounts.dequeued = accounts.enqueued - accounts.discarded - self._there()
                if self.state in _OVER and (self._failure or not self.durable):
                    self._discard_rest()
            self._mend()

    def _mend(self) -> None:
        """After an interruption, make accounts and tiers agree; wake everybody."""
        overflow, in_flight = self.overflow, self._in_flight
        if overflow.doing and self._locks.only_io_is_mine():
            self._settle()
        with self._locks.mutex:
            if self._landing is not None:  # what has landed in memory is not to be read again
                items, passed = self._landing
                landed = passed + self._memory.items() - items
                if landed > overflow.passed:
                    overflow.pass_on(landed - overflow.passed)
                self._landing = None
            if self.durable and self.state not in _OVER:
                loose = overflow.passed - self._memory.items() - in_flight.records()
                if loose > 0:  # lost in the middle of the tier's code: with this thread, that is
                    in_flight.hand(this_thread.holder, loose, 0)
            self._accounts.reconcile(self._there())
            self.pumping.under_way = False
            wake_all(self._lines)

    def _refuse(self) -> NoReturn:
        """Say why nothing is taken or given any more. Under the mutex."""
        if self._failure is not None:
            raise self._failure.with_traceback(None)  # else it grows each time
        raise QueueClosed(f"the queue {self.stream_id!r} is {self.state}")

    # ---- inside, producers: the mutex is held unless said otherwise --------------------------

    def _put(self, items: Sequence[bytes], offered: float, *, admit: bool = False) -> bool:
        """Put `items` into memory if they may go there; `admit` them first."""
        if self.state != "open":
            self._refuse()
        if admit and not items:
            return True
        if admit and not self._limiter.admit(len(items), offered):
            self._accounts.rate_limited += len(items)
            raise _rate_limited(self._limiter, len(items))
        overflow = self.overflow
        if self.durable or overflow.depth != overflow.passed or not self._memory.offer(items):
            return False
        accounts, count = self._accounts, len(items)
        accounts.enqueued += count
        if accounts.is_due(offered):
            accounts.mark(count, self._span(), offered)
        if self._consumers.waiting:
            self._consumers.wake(count)
        if self._producers.waiting:
            self._wake_producers()
        return True

    def _spill(
        self,
        items: Sequence[bytes],
        offered: float,
        waiter: Waiter | None,
        deadline: float | None,
        holder: Holder,
    ) -> bool:
        """Holds `io` only."""
        overflow, change = self.overflow, self._locks.change
        memory = (0, 0) if self.durable else self._memory.capacity()
        cost = overflow.check_capacity(items, memory)
        if waiter is not None:
            waiter.cost = cost
        if overflow.doing:  # of a call that was interrupted
            self._settle()
        before = overflow.size_bytes
        while True:
            self._spilling = True
            if change(self._put, items, offered):
                return True
            contacts = overflow.contacts
            pinned = self._in_flight.pinned() if self.when_full == "drop_oldest" else 0
            full = self._append(items, offered, pinned)
            if full is None:
                return True
            if self._make_room(items, before, pinned, holder, by_bound=full.__cause__ is None):
                continue
            if deadline is not None and self._clock() >= deadline:
                waiter = None
            accepted = change(self._no_room, items, offered, waiter, full, contacts)
            if accepted is not None:
                return accepted

    def _make_room(
        self, items: Sequence[bytes], before: int, pinned: int, holder: Holder, *, by_bound: bool
    ) -> bool:
        """Finish, trim, refill, drop: whether any of it may have helped. Holds `io` only.

        `before`: live bytes when this began; `pinned`: those of them that were none when there was
        no room. `by_bound`: it is our own that `items` do not fit in.
        """
        overflow, change = self.overflow, self._locks.change
        change(self._in_flight.finish_oldest, holder)  # it is here, and does not ask for more
        readable = True
        try:
            if self._refill(wanted=0):
                return True
        except HybridQueueError:  # a consumer's trouble, not this producer's
            readable = False
        if self.when_full != "drop_oldest":
            return False
        if self._in_flight.pinned() > pinned:  # consumers have finished something meanwhile
            return True
        # If nothing is stored, memory is what is dropped from, and where the items go then.
        if (overflow.stored or self.durable) and not overflow.dropping_helps(
            items, before, pinned, by_bound=by_bound
        ):
            return False
        dropped: list[bytes] = []
        change(self._collect, dropped, 1, _nobody, None)
        with self._locks.mutex:
            self._accounts.dequeued -= len(dropped)
            self._accounts.drop(len(dropped))
            self._in_flight.finish(_nobody)
        readable = readable and overflow.damage is None
        return bool(dropped or (readable and overflow.unread))

    def _append(
        self, items: Sequence[bytes], offered: float, pinned: int
    ) -> HybridQueueError | None:
        """None: they are stored; otherwise why there is no room for them. Holds `io` only."""
        try:
            full = self.overflow.append(items, offered, pinned)
        finally:
            self._settle()
        if full is None:
            if self.durable:
                # Need not be read back if memory has room for it and for all before it.
                self._locks.change(self._land, items)
            return None
        consequence = _CONSEQUENCES.get(self.when_full)
        if full.__cause__ and consequence:  # the disk, not the bound
            message = "%r: %s; %s"
            self.notices.add_at_times(self._clock(), message, self.stream_id, full, consequence)
            self.errands = True
        return full

    def _no_room(
        self,
        items: Sequence[bytes],
        offered: float,
        waiter: Waiter | None,
        full: HybridQueueError,
        contacts: int,
    ) -> bool | None:
        """Apply ``when_full``. Holds `io` too. None: try again."""
        if self._put(items, offered):  # memory may have drained while the backend was asked
            return True
        if self._trim_due() == _NOW:
            return None
        is_away = isinstance(full, BackendUnavailable)
        if self.when_full == "drop_newest" or (self.when_full == "drop_oldest" and is_away):
            self._accounts.drop_newest(len(items))
            return True
        if waiter is not None and self.overflow.contacts != contacts:
            return None  # it is back, or has room, by now
        something_may_change = self._there() or self.overflow.depth or self.overflow.away
        if waiter is None or not something_may_change:
            if self.when_full == "drop_oldest":
                self.overflow.allow_more_dropping(items)
            raise full
        stood_at = waiter.place
        self._producers.park(waiter)
        if stood_at:  # it was woken in vain
            self._wake_producers(stood_at)
        return False

    def _wake_producers(self, after: int = 0) -> None:
        """Wake those after the place `after` for whom there is room."""
        overflow = self.overflow
        items, size = (0, 0) if self.durable or overflow.stored else self._memory.room()
        disk = math.inf if overflow.max_bytes is None else overflow.max_bytes - overflow.size_bytes
        tried = False

        def fits(waiter: Waiter) -> bool:
            nonlocal items, size, disk, tried
            count, needed = waiter.needs
            surely = waiter.loop is None  # else it may be that its loop does not run
            if count <= items and needed <= size:
                items, size = items - surely * count, size - surely * needed
                return True
            if disk == math.inf:  # a full disk does not say how much room it has: one after another
                try_it, tried = not tried, surely
                return try_it
            if waiter.cost <= disk:
                disk -= surely * waiter.cost
                return True
            return False

        if self._producers.waiting:
            self._producers.wake_fitting(fits, after)

    # ---- inside, consumers and pump: the mutex is held unless said otherwise -----------------

    def _grab(
        self,
        into: list[bytes],
        max_items: int,
        waiter: Waiter | None,
        holder: Holder,
        lease: Lease | None,
    ) -> bool:
        """Whether `into` has all there is without I/O; otherwise as `grab`."""
        in_flight = self._in_flight
        if self.state in _OVER:
            self._refuse()
        if in_flight.leases:
            self._end_lease(in_flight.lapsed(self._clock()), False)
        in_flight.finish(holder)
        if self.durable and self._trim_due() == _NOW:
            return False
        if lease is not None:
            most_items, most_bytes = self._memory.capacity()
            out, out_bytes = in_flight.leased()
            left = max(_MAX_LEASED, most_items) - out
            max_items = min(
                max_items, left if out_bytes < max(_MAX_LEASED_BYTES, most_bytes) else 0
            )
        if max_items > 0:
            self._collect(into, max_items, holder, lease)
            if into and self._producers.waiting:
                self._wake_producers()
            if into and waiter is not None and waiter.place and in_flight.leases:
                self._consumers.wake(1)  # it may be the one that knew when a lease ends
        line = self._consumers if max_items > 0 else self._lessees
        return bool(into) or self._wait_or_refuse(waiter, line)

    def _collect(  # noqa: C901 # in one piece, since an interruption must find out what is taken
        self, into: list[bytes], max_items: int, holder: Holder, lease: Lease | None
    ) -> None:
        """Hand out up to `max_items` of what was given back, is in memory, and was read ahead, in
        this order. `into` has what has left there, at any moment."""
        overflow, in_flight, accounts = self.overflow, self._in_flight, self._accounts
        until = None if lease is None else self._clock() + lease.seconds
        runs: list[Run] = []
        if lease is not None:
            lease.items, lease.runs = into, runs
        try:
            if in_flight.back:
                runs += in_flight.take_back(into, max_items, holder, until)
            again = len(into)
            if again < max_items:
                into += self._memory.take(max_items - again)
            if len(into) < max_items and overflow.ahead:
                more = overflow.first_ahead(max_items - len(into))
                overflow.pass_on(len(more))
                into += more
            new = into[again:] if again else into
            if lease is not None and until is not None:
                if new:
                    place = (
                        accounts.newest() - self._memory.items() - overflow.stored - len(new) + 1
                    )
                    runs += (in_flight.lease(new, until, place),)
                if in_flight.next_lapse() == until:  # so that one of them looks again in time
                    self._consumers.wake(1)
            else:
                if new and self.durable:
                    in_flight.hand(holder, len(new), sum(map(len, new)))
                accounts.dequeued += len(into)
                if again:
                    in_flight.reached(holder)
        except BaseException:  # before others see it
            self._put_back(into, holder, lease)
            into.clear()
            raise

    def _wait_or_refuse(self, waiter: Waiter | None, line: Line) -> bool:
        """Nothing can be had without I/O. False: but with it."""
        overflow = self.overflow
        if line is self._consumers:
            if overflow.damage is not None:
                damage, overflow.damage = overflow.damage, None
                raise damage
            if (overflow.unread and not overflow.away) or self._trim_due() == _NOW:
                return False
            if self.state == "shut down":
                if self._spilling:
                    return False  # an item that was admitted in time is on its way: wait for `io`
                if not self._there():  # what is leased may come back
                    self._refuse()
        if waiter is not None:
            line.park(waiter)
        return True

    def _end_lease(self, runs: Sequence[Run], done: bool) -> int:
        """How many items it is too late for."""
        in_flight, late = self._in_flight, 0
        if not runs:
            return 0
        if done and self.durable and self.state in _OVER:
            self._refuse()
        for run in runs:
            if not done:
                in_flight.give_back(run)
            elif run.state is State.DONE:
                continue  # it was said before
            elif in_flight.ack(run):
                self._accounts.dequeued += run.count
            else:
                late += run.count
        if self.state in _OVER and (self._failure or not self.durable):
            self._discard_rest()
        # Those who can use that.
        self._lessees.wake_all()
        self._consumers.wake(self._in_flight.back)
        if self.state == "shut down" and not self._there():
            self._consumers.wake_all()
        return late

    def _trim_due(self) -> float:
        """When to trim: `_NOW` if enough is done, or something waits for that, or nothing else
        would set it off; when a trim that failed is to be repeated; infinity if it need not be."""
        overflow = self.overflow
        count = self._in_flight.done if self.durable else overflow.passed
        if not count or overflow.away or self.state in _OVER:
            return math.inf
        due = self._producers.waiting and count >= min(_MIN_PUMPED, overflow.depth / 8)
        if not due and self.durable:
            due = count >= _MAX_DONE or not self._there()
        elif not due:
            due = not overflow.stored
        retry = overflow.retry_trim
        if due and (retry == math.inf or retry <= self._clock()):
            return _NOW
        return retry if due else math.inf

    def _refill(self, wanted: int = 1) -> bool:
        """Read the next batch if so many items are not at hand, or memory has room for it, land it
        there, trim; whether any of it was possible. Holds `io` only."""
        overflow = self.overflow
        if self.state in _OVER:
            return False
        if overflow.doing:  # of a call that was interrupted
            self._settle()
        read = False
        at_hand = len(overflow.ahead)
        short = self._memory.items() + at_hand < wanted
        if overflow.unread and (short or (not at_hand and self._memory.room()[0])):
            try:
                read = overflow.damage is None and self._read_on()
            except HybridQueueError:
                if not overflow.away:
                    self._trim()  # what is done may be what keeps damage from being set aside
                raise
        landed = self._locks.change(self._land)
        return self._trim() or landed or read

    def _read_on(self) -> bool:
        """Read the next batch; whether something has changed. Holds `io` only."""
        overflow, before = self.overflow, self.overflow.depth
        records: list[bytes] = []
        damage = None
        try:
            records = overflow.read()
        except CorruptedData as exc:
            damage = exc
        finally:
            self._settle()
        if damage is not None:
            lost = before - overflow.depth
            if not lost:
                raise damage
            damage.with_traceback(None)  # lets go of what was read
            overflow.damage = damage
            message = "%r loses %d stored items: %s"
            self.notices.add(logging.ERROR, message, self.stream_id, lost, damage)
            for path in self._quarantine.cap():
                self.notices.add(logging.WARNING, "%s is deleted, newer ones are kept", path)
            self.errands = True
            return True
        size = sum(map(len, records))
        with self._locks.mutex:
            if self.state not in _OVER:
                overflow.ahead.extend(records)
                self._accounts.refilled_bytes += size
        return True

    def _land(self, appended: Sequence[bytes] | None = None) -> bool:
        """Move what was read ahead into memory, as far as it has room; or all that was `appended`
        just now, if nothing is stored before it. Holds `io` too."""
        overflow, memory = self.overflow, self._memory
        if appended is None:
            items: Sequence[bytes] = overflow.first_ahead(*memory.room())
        else:
            items = appended if overflow.stored == len(appended) else ()
        if not items:
            return False
        self._landing = (memory.items(), overflow.passed)
        landed = memory.offer(items)
        if landed:
            overflow.pass_on(len(items))
            if appended is None:
                self._consumers.wake(len(items))
        self._landing = None
        return landed

    def _trim(self) -> bool:
        """Give back the space of what is done; whether any was. Holds `io` only."""
        overflow, now = self.overflow, self._clock()
        with self._locks.mutex:
            self._in_flight.advance()
            count = self._in_flight.done if self.durable else overflow.passed
            count = min(count, overflow.depth)  # damage may have taken some of them too
        if not count:
            return False
        trimmed = False
        try:
            trimmed = overflow.trim(count, now)
        except HybridQueueError as exc:  # those who wait for room are to look again
            message = "%r: space is not given back: %s"
            self.notices.add(logging.WARNING, message, self.stream_id, exc)
            self.errands = True
            with self._locks.mutex:
                wake_all(self._lines)
        finally:
            self._settle()
        return trimmed

    def _settle(self) -> None:
        """Take over what the backend holds by now. Holds `io` only."""
        overflow, accounts, in_flight = self.overflow, self._accounts, self._in_flight
        depth, size_bytes = overflow.facts()
        with self._locks.mutex:
            change, passed, done = depth - overflow.depth, overflow.passed, in_flight.done
            freed = size_bytes < overflow.size_bytes
            enqueued, spilled, spilled_bytes = (
                accounts.enqueued,
                accounts.spilled,
                accounts.spilled_bytes,
            )
            payload, offered = overflow.appending
            accounted = enqueued
            if overflow.doing == "append" and change > 0:
                enqueued += change
                spilled += change
                spilled_bytes += payload
            elif overflow.doing == "trim":
                passed += change
                done += change * self.durable
            elif change < 0:
                accounts.lose(-change, overflow.unread + change)
                passed = min(passed, depth)
            # No call from here on: not even an interruption comes between.
            accounts.enqueued, accounts.spilled = enqueued, spilled
            accounts.spilled_bytes = spilled_bytes
            overflow.depth, overflow.size_bytes, overflow.passed = depth, size_bytes, passed
            overflow.doing, in_flight.done = "", done
            if self.state == "lost":  # what was appended just before is the other owner's too
                overflow.passed, overflow.size_bytes = depth, 0
                accounts.discarded += accounts.enqueued - accounted
            # Until here.
            if change > 0:
                if accounts.is_due(offered):
                    accounts.mark(change, self._span(), offered)
                if self._consumers.waiting:
                    self._consumers.wake(change)
            if self._producers.waiting and (change or freed):
                self._wake_producers()

    def _has_pump_work(self) -> bool:
        """Whether there is something to trim, or memory has room for all that is stored, or for a
        batch, or half of it is free if that is less."""
        overflow = self.overflow
        if self.state in _OVER or self._trim_due() == _NOW:
            return self.state not in _OVER
        stored = overflow.depth - overflow.passed
        if not stored or overflow.away or overflow.damage is not None:
            return False
        items, size = self._memory.room()
        if stored <= items and overflow.size_bytes <= size:
            return True
        if overflow.ahead and len(overflow.ahead[0]) > size:
            return False
        least, least_bytes = self._pumped
        as_stored = least * overflow.size_bytes / overflow.depth
        return items >= least and size >= min(least_bytes, as_stored)

    # ---- inside, state: the mutex is held ----------------------------------------------------

    def _there(self) -> int:
        """Items in the queue, and out under a lease."""
        in_flight, stored = self._in_flight, self.overflow.stored
        return self._memory.items() + stored + in_flight.back + in_flight.leased()[0]

    def _span(self) -> int:
        """Places from that of the oldest item, out under a lease or not, to that of the newest."""
        first = self._in_flight.first_place()
        if first is None:
            return self._memory.items() + self.overflow.stored
        return self._accounts.newest() - first + 1

    def _discard_rest(self) -> int:
        """Count what is in the queue as discarded, and forget it; how many items that is."""
        accounts, leased = self._accounts, self._in_flight.leased()[0]
        self._memory.take(max(1, self._memory.items()))
        self._in_flight.forget_back()
        self.overflow.forget_ahead()
        before = accounts.discarded
        # No call from here on; and what is left is what balances, however often this is begun.
        self.overflow.passed, self.overflow.size_bytes = self.overflow.depth, 0
        accounts.discarded = accounts.enqueued - accounts.dequeued - leased
        return accounts.discarded - before


def _earlier(deadline: float | None, other: float) -> float:
    return other if deadline is None or other < deadline else deadline


def _rate_limited(limiter: Limiter, count: int) -> RateLimited:
    """Why `count` items are not admitted."""
    burst = limiter.burst
    if burst is not None and count > burst:
        return RateLimited(f"a batch of {count} can never pass: the burst is {burst}")
    return RateLimited("too many items a second: slow down, or give the queue a limiter=")


def _pressure(memory: MemoryTier, overflow: Overflow) -> float:
    """See `QueueStats.pressure`."""
    if not overflow.stored:
        return memory.fill()
    over = max(overflow.size_bytes, 1) / (overflow.max_bytes or _PRESSURE_REFERENCE)
    return max(1.0 + over, math.nextafter(1.0, 2.0))
