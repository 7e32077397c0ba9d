"""The queue itself, without waiting: both front ends share it and differ only in how they wait.

Zones. An item is in one of two places, and moves only to the right::

    backend: stored, not yet read  --refill-->  memory tier  --take-->  consumer

Rules:

- Order. An item enters memory directly only while nothing is stored (`_direct`); otherwise it
  goes behind what is stored. Records count as stored until they have landed in memory, so a
  transfer under way keeps `_direct` off, and the room it was given can only grow meanwhile.
- Two locks. `_mutex` guards memory, accounts and waiters and is held for microseconds; `_io`
  serialises the calls on the backend. Whoever needs both takes `_io` first. Nothing waits for
  `_io`, or calls a backend, a pump or a logger, while holding `_mutex`.
- Failure. The accounts change after the backend has succeeded, in one step under `_mutex`.
- Waking. Consumers park only while nothing is in memory or stored, producers only while neither
  tier has room, both under `_mutex`. What ends such a state wakes one waiter; a producer that
  gets in wakes the next, so that one large gap serves many.
- Trimming. `_done` records have been read and are finished with but not trimmed yet: once landed
  in memory or, in a durable queue, once the consumer that took them asks for more. Until then they
  are `_handed`: its call may not have returned yet, and a crash must bring them back.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Lock, get_ident
from typing import Final, Literal, NoReturn

from hq_core.engine.ages import Ages
from hq_core.engine.forks import ParentsLock, disown_in_child
from hq_core.engine.overflow import Overflow
from hq_core.engine.stopwatch import Stopwatch
from hq_core.engine.waiters import Line
from hq_core.errors import (
    BackendError,
    CorruptedData,
    HybridQueueError,
    MessageTooLargeError,
    QueueClosed,
    QueueFull,
    RateLimited,
)
from hq_core.protocols import (
    MAX_MESSAGE_BYTES,
    Limiter,
    MemoryTier,
    OverflowBackend,
    Pump,
    Waiter,
    WhenFull,
)
from hq_core.spool.lock import StreamLock
from hq_core.spool.quarantine import Quarantine
from hq_core.stats import QueueStats

__all__ = ["Engine"]

_log = logging.getLogger("hq_core")

_PRESSURE_REFERENCE: Final = 100 * 1024 * 1024
"""Overflow bytes that make pressure 2.0 when there is no `max_overflow_bytes`."""
_BATCH: Final = 1024
"""Most records moved in one transfer: bounds how long producers wait for `_io`."""
_MOST_DONE: Final = 256
"""Items of a durable queue that are taken, at most, before they are trimmed: what comes again after
a crash is fewer than these and what the last call took."""
_WORTHWHILE: Final = 32
"""Fewest records that pay for waking the pump: waking a thread costs as much as reading them."""


class Engine:
    """One stream's tiers, accounts and waiters. Thread-safe; never waits for room or for items."""

    def __init__(
        self,
        stream_id: str,
        *,
        directory: Path,
        ownership: StreamLock,
        quarantine: Quarantine,
        memory: MemoryTier,
        backend: OverflowBackend,
        limiter: Limiter,
        pump: Pump,
        clock: Callable[[], float],
        durable: bool,
        max_overflow_bytes: int | None,
        when_full: WhenFull,
    ) -> None:
        self.stream_id = stream_id
        self.recovery = backend.recovered
        self._most_items, most_bytes = memory.capacity()
        self.largest = min(most_bytes, MAX_MESSAGE_BYTES)
        self._directory = directory
        self._ownership = ownership
        self._quarantine = quarantine
        self._memory = memory
        self._overflow = Overflow(
            backend,
            stream_id=stream_id,
            max_bytes=max_overflow_bytes,
            when_full=when_full,
            clock=clock,
        )
        self._limiter = limiter
        self._pump = pump
        self._clock = clock
        self._durable = durable
        self.when_full = when_full
        self.unlimited = limiter.burst is None

        self._mutex: AbstractContextManager[object] = Lock()
        self._io: AbstractContextManager[object] = Lock()
        self._state: Literal["open", "shut down", "closed", "forked"] = "open"
        self._consumers = Line()
        self._producers = Line()

        self._stored = backend.recovered.records
        self._disk_bytes = backend.size_bytes()
        self._direct = not durable and not self._stored
        self._spilling = False
        self._done = self._handed = 0
        self._taker = 0  # the thread that was handed something last
        self._damage: CorruptedData | None = None
        self._pumping = False
        self._pump_useful = True

        self._recovered = self._enqueued = self._stored
        self._dequeued = self._discarded = self._dropped = 0
        self._dropped_newest = self._damaged = 0
        self._spilled = self._rate_limited = 0
        self._appended_bytes = self._refilled_bytes = 0  # the first with framing, see `stats`
        self._blocked = Stopwatch()
        self._ages = Ages()
        self._offered = clock()  # when an item that goes to `spill` or `_put` was offered
        if self._recovered:
            self._mark(self._offered, self._recovered)

        pump.start(self._pump_step, f"hq-pump-{stream_id}")
        disown_in_child(self)

    # ---- producers -------------------------------------------------------------------------

    def offer(self, item: bytes) -> bool:
        """Take `item` into memory if it may go there. False: admitted, and `spill` has to take it.

        Raises `QueueClosed` and `RateLimited`. Does no I/O.
        """
        now = self._clock()
        with self._mutex:
            if self._state != "open" or not self._limiter.admit(1, now):
                self._reject(1)
            if not (self._direct and self._memory.offer_one(item)):
                self._offered = now
                return False
            self._enqueued += 1
            if now >= self._ages.due:
                self._mark(now, 1)
            if self._consumers:
                self._consumers.wake(1)
        return True

    def offer_all(self, items: Sequence[bytes]) -> bool:
        """`offer` for a batch, all or nothing; an empty one passes while the queue is open."""
        now = self._clock()
        with self._mutex:
            if not items and self._state == "open":
                return True
            if self._state != "open" or not self._limiter.admit(len(items), now):
                self._reject(len(items))
            self._offered = now
            return self._put(items)

    def spill(self, items: Sequence[bytes], waiter: Waiter | None) -> bool:
        """Take admitted `items` into the backend, or into memory if that has become possible.

        True: accepted, or dropped as the policy says. False: there is no room, and `waiter` is
        parked until there may be. Without a waiter, `QueueFull` is raised instead.
        """
        with self._io:
            taken = self._dequeued
            try:
                accepted = self._spill(items, waiter)
            finally:
                self._spilling = False
        # A durable queue stores though memory has room. Elsewhere it was full just now, and who has
        # taken something since then could not know that the pump would have work.
        if not accepted or self._durable or self._dequeued != taken:
            self._wake_pump()
        return accepted

    @contextmanager
    def blocked(self, waiter: Waiter) -> Iterator[None]:
        """The context in which the owner of `waiter` waits for room: `stats` tells for how long."""
        try:
            with self._mutex:
                self._blocked.start(waiter, self._clock())
            yield
        finally:
            with self._mutex:
                self._blocked.stop(waiter, self._clock())

    def withdraw_producer(self, waiter: Waiter) -> None:
        """The owner of `waiter` gives up waiting for room."""
        with self._mutex:
            self._producers.leave(waiter)

    def returned(self) -> None:
        """Say, before another thread makes this one's `spill`, that its calls have returned."""
        with self._mutex:
            if self._taker == get_ident():
                self._finish()

    # ---- consumers -------------------------------------------------------------------------

    def take_one(self) -> bytes | None:
        """The oldest item if it is in memory. None: `take` has to find out. Does no I/O."""
        with self._mutex:
            if self._durable and self._is_overdue():
                return None
            item = self._memory.take_one()
            if item is None:
                return None
            self._dequeued += 1
            if self._durable:
                self._hand(1)
            if self._producers and self._direct:
                self._producers.wake(1)
            wake = (self._stored or self._durable) and not self._pumping and self._claim_pump()
        if wake:
            self._pump.wake()
        return item

    def take(self, max_items: int, waiter: Waiter | None) -> list[bytes]:
        """The oldest items, up to `max_items` of what is there, refilling memory as needed.

        Empty: nothing is there, and `waiter`, if any, is parked until something is. Raises
        `QueueClosed`, `BackendError` and `CorruptedData`, each only when it has no item to give.
        """
        taken: list[bytes] = []
        while True:
            with self._mutex:
                if taken or not self._durable or not self._is_overdue():
                    items = self._memory.take(max_items - len(taken))
                    self._took(len(items))
                    taken += items
                    if len(taken) == max_items or not self._must_refill(bool(taken), waiter):
                        break
            try:
                with self._io:
                    self._refill()
            except HybridQueueError:
                if not taken:
                    raise
                break
        self._wake_pump()
        return taken

    def take_now(self, max_items: int, waiter: Waiter | None) -> list[bytes] | None:
        """`take` without I/O, for an event loop. None: there may be items once `refill` is through.

        Raises `QueueClosed` and `CorruptedData`, each only when it has no item to give.
        """
        with self._mutex:
            if self._durable and self._is_overdue():
                return None
            items = self._memory.take(max_items)
            self._took(len(items))
            if not items and self._must_refill(False, waiter):
                return None
        self._wake_pump()
        return items

    def refill(self) -> None:
        """What `take_now` waits for: move stored items into memory, and trim. Does I/O.

        Raises `BackendError` and `CorruptedData`.
        """
        with self._io:
            with self._mutex:  # another consumer's refill may have done it
                needed = not self._memory.items() or self._done >= _MOST_DONE
            if needed:
                self._refill()

    def withdraw_consumer(self, waiter: Waiter) -> None:
        """The owner of `waiter` gives up waiting for items."""
        with self._mutex:
            self._consumers.leave(waiter)

    # ---- state -----------------------------------------------------------------------------

    def depth(self) -> int:
        """Items in memory and stored."""
        with self._mutex:
            return self._depth()

    def counts(self) -> tuple[int, int, int]:
        """`depth`, `enqueued` and `dequeued` of `stats`, for who asks at each item."""
        with self._mutex:
            return self._depth(), self._enqueued, self._dequeued

    def has_disk_data(self) -> bool:
        """Whether items are stored that are not in memory."""
        with self._mutex:
            return self._stored > 0

    def pressure(self) -> float:
        """See `QueueStats.pressure`."""
        with self._mutex:
            return self._pressure()

    def stats(self) -> QueueStats:
        """A snapshot of one moment."""
        with self._mutex:
            now = self._clock()
            return QueueStats(
                stream_id=self.stream_id,
                depth=self._depth(),
                memory_items=self._memory.items(),
                disk_bytes=self._disk_bytes,
                pressure=self._pressure(),
                memory_bytes=self._memory.payload_bytes(),
                enqueued=self._enqueued,
                dequeued=self._dequeued,
                discarded=self._discarded,
                dropped=self._dropped,
                spilled=self._spilled,
                rate_limited=self._rate_limited,
                recovered=self._recovered,
                backend=self._overflow.name,
                directory=self._directory,
                memory_limit_bytes=self._memory_limit_bytes(),
                disk_limit_bytes=self._overflow.max_bytes,
                dropped_newest=self._dropped_newest,
                damaged=self._damaged,
                spilled_bytes=self._appended_bytes - self._spilled * self._overflow.record_overhead,
                refilled_bytes=self._refilled_bytes,
                blocked_seconds=self._blocked.seconds(now),
                oldest_age_seconds=self._ages.age(self._oldest(), self._newest(), now),
            )

    def shut_down(self) -> None:
        """Refuse new items; consumers drain the rest, then meet `QueueClosed`."""
        with self._mutex:
            if self._state == "open":
                self._state = "shut down"
                self._wake_everybody()

    def close(self) -> None:
        """Refuse everything, wake everybody, discard (if durable: keep) what is left."""
        if self._state == "forked":
            return
        with self._mutex:
            if self._state == "closed":
                return
            self._state = "closed"
            self._wake_everybody()
        self._pump.stop()
        with self._io:
            undelivered = self._let_go()
            if undelivered:
                _log.warning("closing %r discards %d items", self.stream_id, undelivered)
            self._trim()
            try:
                self._overflow.close(delete=not self._durable)
            finally:
                self._ownership.release()

    def rewire_pump(self, wrap: Callable[[Pump], Pump]) -> None:
        """Have `wrap(pump)` woken and stopped in the pump's place."""
        self._pump = wrap(self._pump)

    # ---- inside, producers: `_mutex` held unless said otherwise ------------------------------

    def _reject(self, count: int) -> NoReturn:
        """Say why `count` items are not admitted."""
        if self._state != "open":
            self._refuse()
        self._rate_limited += count
        burst = self._limiter.burst
        if burst is not None and count > burst:
            raise RateLimited(f"a batch of {count} can never pass: the burst is {burst}")
        raise RateLimited("too many items a second: slow down, or give the queue a limiter=")

    def _refuse(self) -> NoReturn:
        raise QueueClosed(f"the queue {self.stream_id!r} is {self._state}")

    def _put(self, items: Sequence[bytes]) -> bool:
        """Put `items` into memory if they may go there."""
        if not (self._direct and self._memory.offer(items)):
            return False
        self._enqueued += len(items)
        if self._offered >= self._ages.due:
            self._mark(self._offered, len(items))
        self._wake_after_entry(len(items))
        return True

    def _mark(self, now: float, count: int) -> None:
        """Note when the `count` newest items came."""
        self._ages.mark(self._newest() - count + 1, now, self._oldest())

    def _wake_after_entry(self, count: int) -> None:
        if self._consumers:
            self._consumers.wake(count)
        if self._producers:
            self._producers.wake(1)

    def _spill(self, items: Sequence[bytes], waiter: Waiter | None) -> bool:
        """Holds `_io`."""
        if self._overflow.max_bytes is not None:
            self._check_capacity(items, self._overflow.max_bytes)
        while True:
            with self._mutex:
                if self._state != "open":
                    self._refuse()
                if self._put(items):
                    return True
                self._spilling = True
            full = self._append(items)
            if full is None:
                return True
            with self._mutex:
                if self._taker == get_ident():  # so that call has returned
                    self._finish()
            if self._make_room():
                continue
            if (
                self.when_full == "drop_oldest"
                and not self._overflow.trim_fails  # or all would be dropped, and no room made
                and (self._drop_oldest() or self._make_room())  # the second: a consumer took it
            ):
                continue
            with self._mutex:
                if not self._finished():  # else it has become so after the trim: trim again
                    return self._no_room(items, waiter, full)

    def _check_capacity(self, items: Sequence[bytes], limit: int) -> None:
        """What neither tier can ever hold must not wait, or drop others, in vain."""
        if self._overflow.cost(items) <= limit:
            return
        payload = sum(map(len, items))
        _, most_bytes = self._memory.capacity()
        if self._durable or len(items) > self._most_items or payload > most_bytes:
            raise MessageTooLargeError(
                f"{len(items)} items with {payload} bytes can never be held: memory has room for "
                f"{self._most_items} items, the overflow for {limit} bytes; send fewer at once, or "
                "raise max_overflow_bytes"
            )

    def _append(self, items: Sequence[bytes]) -> QueueFull | None:
        """Holds `_io` only."""
        full = self._overflow.append(items)
        if full is not None:
            return full
        size = self._overflow.size_bytes()
        with self._mutex:
            self._direct = False
            self._stored += len(items)
            self._appended_bytes += size - self._disk_bytes
            self._disk_bytes = size
            self._enqueued += len(items)
            self._spilled += len(items)
            if self._offered >= self._ages.due:
                self._mark(self._offered, len(items))
            self._wake_after_entry(len(items))
        return None

    def _no_room(self, items: Sequence[bytes], waiter: Waiter | None, full: QueueFull) -> bool:
        """Apply ``when_full``. Holds `_io` too."""
        if self._state != "open":
            self._refuse()
        if self._put(items):  # memory may have drained while the backend was asked
            return True
        if self.when_full == "drop_newest":
            self._enqueued += len(items)
            self._dropped_newest += len(items)
            self._drop(len(items))
            return True
        nothing_will_leave = not (self._memory.items() or self._stored or self._handed)
        if waiter is None or nothing_will_leave:
            raise full
        self._producers.park(waiter)
        return False

    def _make_room(self) -> bool:
        """Let stored items follow into memory, if it has room for them. Holds `_io` only."""
        try:
            return self._refill()
        except HybridQueueError:  # the consumer's trouble, not this producer's
            return False

    def _drop_oldest(self) -> bool:
        """Drop the oldest item in memory; False: there is none. Holds `_io` only."""
        with self._mutex:
            dropped = self._memory.take_one() is not None
            if dropped:
                self._drop(1)
                self._done += self._durable
            return dropped

    def _drop(self, count: int) -> None:
        self._discarded += count
        self._dropped += count

    # ---- inside, consumers and pump: `_mutex` held unless said otherwise ---------------------

    def _took(self, count: int) -> None:
        self._dequeued += count
        if self._durable:
            self._hand(count)
        if self._producers and self._direct:
            self._producers.wake(1)

    def _must_refill(self, have_some: bool, waiter: Waiter | None) -> bool:
        """Memory is empty: True if the backend may have more, else park `waiter` or raise."""
        if self._state == "closed" and not have_some:
            self._refuse()
        if self._damage is not None and not have_some:
            damage, self._damage = self._damage, None
            raise damage
        if self._state != "closed" and (self._stored or self._finished()):
            return True
        if self._state == "shut down" and self._spilling:
            return True  # wait for `_io`: an item that was admitted in time is on its way
        if not have_some and self._state == "shut down":
            self._refuse()
        if not have_some and waiter is not None:
            self._consumers.park(waiter)
        return False

    def _hand(self, count: int) -> None:
        """`count` items of a durable queue are about to be with a consumer."""
        self._handed += count
        self._taker = get_ident()

    def _is_overdue(self) -> bool:
        """A consumer asks for more: what was handed is finished with; is it time to trim?"""
        self._finish()
        return (
            self._done >= _MOST_DONE and self._state != "closed" and not self._overflow.trim_fails
        )

    def _finish(self) -> None:
        self._done += self._handed
        self._handed = 0

    def _finished(self) -> bool:
        """Whether a durable queue has records to trim, which nothing else would set off."""
        return self._durable and self._done > 0 and not self._overflow.trim_fails

    def _refill(self) -> bool:
        """Move one batch of stored records to memory, and trim; whether either made room.

        Holds `_io` only.
        """
        with self._mutex:
            if self._state == "closed":
                return False
            items, size = self._memory.room()
            empty = not self._memory.items()
        moved = 0
        if items and self._stored:
            moved = self._transfer(min(items, _BATCH), min(size, MAX_MESSAGE_BYTES))
            if empty and not moved:
                raise BackendError(
                    f"the backend holds {self._stored} records and gives none that fits into the "
                    f"{size} bytes of memory: if one is longer, open the queue with more memory"
                )
        return self._trim() or moved > 0

    def _transfer(self, max_records: int, max_bytes: int) -> int:
        """How many records the backend holds less. Holds `_io` only."""
        try:
            records = self._overflow.read(max_records, max_bytes)
        except CorruptedData as damage:
            return self._account_for(damage)
        if not records:  # the next one waits for more room than there is
            self._pump_useful = False
            return 0
        size = sum(map(len, records))
        with self._mutex:
            landed = self._memory.offer(records)
            if landed:
                self._stored -= len(records)
            else:
                self._lose(len(records))
            self._direct = not self._stored and not self._durable
            self._done += len(records) if not self._durable else 0
            self._refilled_bytes += size
            self._pump_useful = True
        if not landed:
            raise BackendError(
                f"asked for {max_records} records of {max_bytes} bytes in all, the backend gave "
                f"{len(records)} of {size}: they are lost"
            )
        return len(records)

    def _account_for(self, damage: CorruptedData) -> int:
        """Count what the backend moved aside; raise if it moved nothing. Holds `_io` only."""
        lost = self._overflow.lost_to(damage, self._stored)
        if not lost:
            raise damage
        self._quarantine.cap()
        size = self._overflow.size_bytes()
        with self._mutex:
            self._lose(lost)
            self._disk_bytes = size
            self._direct = not self._stored and not self._durable
            self._damage = damage
            if self._producers:
                self._producers.wake(1)
        return lost

    def _lose(self, count: int) -> None:
        """The `count` oldest stored records are gone."""
        self._ages.lose(self._newest() - self._stored + 1, count)
        self._stored -= count
        self._discarded += count
        self._damaged += count

    def _trim(self) -> bool:
        """Give back the space of what is done; whether any was. Holds `_io` only."""
        with self._mutex:
            done = self._done
        if not done or not self._overflow.trim(done):
            return False
        size = self._overflow.size_bytes()
        with self._mutex:
            self._done -= done
            self._disk_bytes = size
            if self._producers:
                self._producers.wake(1)
        return True

    def _wake_pump(self) -> None:
        """Holds no lock."""
        with self._mutex:
            wake = self._claim_pump()
        if wake:
            self._pump.wake()

    def _claim_pump(self) -> bool:
        """Whether the caller is to wake the pump, once it holds no lock."""
        if self._pumping or not self._pump_useful or not self._pumpable():
            return False
        self._pumping = True
        return True

    def _pumpable(self) -> bool:
        """Whether memory has room for all that is stored, or for a batch worth a wake-up."""
        if self._state == "closed":
            return False
        if not self._stored:
            return bool(self._producers) and (self._finished() or self._handed > 0)
        if self._stored <= self._most_items:
            items, size = self._memory.room()
            if items >= self._stored and size >= self._disk_bytes:
                return True
        return self._memory.fill() <= 0.5 and self._memory.room()[0] >= _WORTHWHILE

    def _pump_step(self) -> bool:
        """Holds no lock. A pump that achieves nothing rests until a consumer's refill does."""
        with self._mutex:
            if self._producers:  # they wait for space, and the consumer might wait for them
                self._finish()
        try:
            with self._io:
                self._refill()
        except HybridQueueError as exc:  # the consumer that needs these items will meet it too
            _log.warning("the pump of %r rests: %s", self.stream_id, exc)
            self._pump_useful = False
        except Exception:  # or the pump would be dead, and whoever made this step lose its items
            _log.exception("the pump of %r rests", self.stream_id)
            self._pump_useful = False
        with self._mutex:
            self._pumping = self._pump_useful and self._pumpable()
            return self._pumping

    # ---- inside, state: `_mutex` held unless said otherwise ----------------------------------

    def _depth(self) -> int:
        return self._memory.items() + self._stored

    def _newest(self) -> int:
        """The place of the newest item, among those that are in the queue or left it in turn."""
        return self._enqueued - self._dropped_newest - self._damaged

    def _oldest(self) -> int:
        """The place of the oldest item, or of the next one if the queue is empty."""
        return self._newest() - self._depth() + 1

    def _memory_limit_bytes(self) -> int | None:
        items, size = self._memory.capacity()
        return size if size < items * MAX_MESSAGE_BYTES else None  # else the count is what limits

    def _pressure(self) -> float:
        if not self._stored:
            return self._memory.fill()
        return 1.0 + max(self._disk_bytes, 1) / (self._overflow.max_bytes or _PRESSURE_REFERENCE)

    def _wake_everybody(self) -> None:
        self._producers.wake_all()
        self._consumers.wake_all()

    def _let_go(self) -> int:
        """Empty memory; the number of items nobody will get any more. Takes `_mutex`."""
        with self._mutex:
            held = len(self._memory.take(max(1, self._memory.items())))
            if self._durable:
                self._stored += held
                self._finish()
                return 0
            undelivered = held + self._stored
            self._stored = self._disk_bytes = self._done = 0
            self._discarded += undelivered
            return undelivered

    def disown(self) -> None:
        """In a forked child: whatever would use this queue meets `StreamBusyError` instead."""
        self._state = "forked"
        self._mutex = self._io = ParentsLock(self.stream_id)
        self._ownership.abandon()
