"""The whole queue under random calls and faults, compared with a model: a list of items.

Several consumers take, lease, acknowledge and give back, a clock that the test moves ends leases;
backend calls fail on order, the store is away, the disk is full, stored records turn out to be
damaged. The queue is shut down, closed, forgotten, killed between two calls or amid a backend's,
and opened again. After every step the accounts balance, every item that was accepted is still
there, in its place, or accounted for, and nothing is trimmed that somebody is not done with.
"""

import errno
import gc
import logging
import shutil
import sys
import tempfile
import time
import warnings
from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TypeVar, cast

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from hq_backends.file import FileBackend
from hq_backends.lmdb import LmdbBackend
from hq_core import (
    BackendError,
    BackendUnavailable,
    BytesTier,
    CorruptedData,
    CountTier,
    DequeueTimeout,
    HybridQueue,
    HybridQueueError,
    Lease,
    LeaseExpired,
    MemoryTier,
    MessageTooLargeError,
    OverflowBackend,
    QueueClosed,
    QueueEmpty,
    QueueFull,
    QueueStats,
    RateLimited,
    Stream,
    StreamBusyError,
)
from hq_core.engine.holders import this_thread
from hq_core.protocols import Leftover, WhenFull
from hq_core.spool.directory import Directory
from hq_core.spool.lock import StreamLock
from hq_core.testing import FaultyBackend, ManualClock, ManualPump
from hq_core.testing.spool import file_size_limit
from hq_core.testing.stateful import CountedMachine, run_machine
from tests.faults.campaign import amount, note
from tests.faults.spoilable import Spoilable

pytestmark = pytest.mark.slow

_T = TypeVar("_T")
_E = TypeVar("_E", bound=BaseException)

WINDOW = 255
"""Items that are done and may come again after a crash."""


class Killed(BaseException):
    """The process ends here."""


class Observed(FaultyBackend):
    """Fails when told to, and knows what was appended and what was lost to damage."""

    def __init__(self, backend: OverflowBackend) -> None:
        super().__init__(backend, self._next_fault)
        self.inner = backend
        self.appended: list[bytes] = []
        self.lost = 0
        self.to_come: dict[str, list[Exception]] = {"append": [], "read": [], "trim": []}
        self.raised: list[Exception] = []
        self.trim_failed = False  # the last time
        self.kill: tuple[str, str] = ("", "")  # amid which call, and when

    def _next_fault(self, method: str, number: int) -> Exception | None:
        if method == "trim":
            self.trim_failed = bool(self.to_come["trim"])
        if not self.to_come[method]:
            return None
        self.raised.append(self.to_come[method].pop())
        return self.raised[-1]

    def _maybe_die(self, method: str, when: str) -> None:
        if self.kill == (method, when):
            raise Killed

    def append(self, records: Sequence[bytes]) -> None:
        """Append, unless told to fail."""
        self._maybe_die("append", "before")
        super().append(records)
        self.appended += records
        self._maybe_die("append", "after")

    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        """Read, unless told to fail; what damage takes away was at the end."""
        self._maybe_die("read", "before")
        before = self.depth()
        try:
            records = super().read(skip, max_records, max_bytes)
        except CorruptedData:
            lost = before - self.depth()
            del self.appended[len(self.appended) - lost :]
            self.lost += lost
            raise
        self._maybe_die("read", "after")
        return records

    def trim(self, count: int) -> None:
        """Trim, unless told to fail."""
        self._maybe_die("trim", "before")
        super().trim(count)
        self._maybe_die("trim", "after")

    @property
    def trimmed(self) -> int:
        """How many of `appended` are gone."""
        return len(self.appended) - self.depth()


class Gate:
    """A limiter that lets everybody pass while it is open."""

    burst: int | None = None
    open = True

    def admit(self, tokens: int, now: float) -> bool:
        """Whether it is open."""
        return self.open


def abandon(queue: HybridQueue, backend: OverflowBackend) -> None:
    """Let go of everything a killed process would, and of nothing else."""
    engine = queue._engine
    engine.disown()
    if isinstance(backend, FileBackend):
        backend._close_files()
    elif isinstance(backend, LmdbBackend):
        backend._env.close()
    for step in engine._unwinding.steps:
        owner = getattr(step, "__self__", None)
        if isinstance(owner, StreamLock):
            owner.abandon()
        elif isinstance(owner, Directory):
            owner.close()
    engine._unwinding.steps.clear()


def without_traceback(exc: _E) -> _E:
    """`exc`, which knows no frames any more, and by them the queue."""
    cause: BaseException | None = exc
    while cause is not None:
        cause.__traceback__ = None
        cause = cause.__cause__ or cause.__context__
    return exc


@dataclass(frozen=True)
class Subject:
    """A backend, and whether the queue is durable."""

    name: str
    backend: Callable[[Stream], OverflowBackend]
    durable: bool
    crashes: bool
    """Whether its records survive the death of the process."""
    spoils: bool = False
    """Whether they can be damaged on order."""

    def __str__(self) -> str:
        return f"{self.name}, durable" if self.durable else self.name


CHECKED = partial(FileBackend, checksum=True, fsync="always")
SUBJECTS = [
    Subject("memory", Spoilable, durable=False, crashes=False, spoils=True),
    Subject("memory", Spoilable, durable=True, crashes=False, spoils=True),
    Subject("file", FileBackend, durable=False, crashes=True),
    Subject("file", FileBackend, durable=True, crashes=True),
    Subject("file, checksum, fsync", CHECKED, durable=True, crashes=True),
    Subject("lmdb", LmdbBackend, durable=False, crashes=True),
    Subject("lmdb", LmdbBackend, durable=True, crashes=True),
]

MEMORIES: list[Callable[[], MemoryTier]] = [
    partial(CountTier, 1),
    partial(CountTier, 3),
    partial(CountTier, 40),
    partial(BytesTier, 40),
    partial(BytesTier, 100, 3),
]
SIZES = st.one_of(
    st.integers(0, 12), st.integers(0, 40), st.sampled_from([8, 8, 8, 60, 120, 5000, 70_000])
)
LEFTOVERS = st.sampled_from(["resume"] * 7 + ["discard", "quarantine", "refuse"])
FAULTS: dict[str, list[Callable[[], Exception]]] = {
    "append": [
        lambda: OSError(errno.EIO, "on order"),
        lambda: QueueFull("on order"),
        lambda: BackendUnavailable("on order"),
        lambda: ValueError("on order"),
    ],
    "read": [
        lambda: OSError(errno.EIO, "on order"),
        lambda: CorruptedData("on order"),
        lambda: BackendUnavailable("on order"),
    ],
    "trim": [lambda: OSError(errno.EIO, "on order"), lambda: BackendUnavailable("on order")],
}
CONSUMERS = 3
"""Threads that take; the first is the one that sends, too."""
WHO = st.integers(0, CONSUMERS - 1)


@dataclass
class Entry:
    """An item that was accepted."""

    number: int
    """Its place in the order of the queue."""
    item: bytes
    came: float
    holder: int | None = None
    """Who has taken it and is not done with it."""
    done: bool = False


@dataclass
class Group:
    """Items that were leased together."""

    entries: list[Entry]
    state: str = "leased"  # then "back", then, if others have them, "gone"; or "done"

    @property
    def first(self) -> int:
        """What tells its place among others."""
        return self.entries[0].number


@dataclass
class Leased:
    """A lease, as the model sees it."""

    lease: Lease
    groups: list[Group]
    until: float

    def count(self, state: str) -> int:
        """Items of it that are in that state."""
        return sum(len(group.entries) for group in self.groups if group.state == state)


@dataclass
class Model:
    """What the queue owes, oldest first: what was given back, and the items behind it."""

    back: list[Group] = field(default_factory=list)
    items: list[Entry] = field(default_factory=list)
    leases: list[Leased] = field(default_factory=list)
    log: list[Entry] = field(default_factory=list)
    """All that a durable queue has accepted, damaged records excepted."""
    enqueued: int = 0
    dequeued: int = 0

    def queued(self) -> list[Entry]:
        """What is there to take."""
        return [entry for group in self.back for entry in group.entries] + self.items

    def leased(self) -> list[Entry]:
        """Items out under leases."""
        groups = [group for lease in self.leases for group in lease.groups]
        return [entry for group in groups if group.state == "leased" for entry in group.entries]

    def enter(self, items: Sequence[bytes], now: float) -> None:
        """`items` were accepted."""
        entered = [Entry(self.enqueued + n, item, now) for n, item in enumerate(items)]
        self.enqueued += len(items)
        self.items += entered
        self.log += entered

    def take(self, count: int) -> list[Group]:
        """The oldest items, in groups as a lease would have them."""
        taken = []
        while self.back and count:
            first = self.back.pop(0)
            first.state = "gone"
            entries, rest = first.entries[:count], first.entries[count:]
            count -= len(entries)
            taken.append(Group(entries))
            if rest:
                self.back.insert(0, Group(rest, "back"))
        if count and self.items:
            taken.append(Group(self.items[:count]))
            del self.items[:count]
        return taken

    def give_back(self, lease: Leased) -> None:
        """What is still leased of `lease` is to be taken again, in its place."""
        for group in lease.groups:
            if group.state == "leased":
                group.state = "back"
                insort(self.back, group, key=attrgetter("first"))

    def acknowledge(self, lease: Leased) -> int:
        """It is done; how many items it is too late for."""
        late = lease.count("gone")
        for group in lease.groups:
            if group.state in {"leased", "back"}:
                if group.state == "back":
                    self.back.remove(group)
                group.state = "done"
                self.dequeued += len(group.entries)
                for entry in group.entries:
                    entry.done = True
        return late

    def lapse(self, now: float) -> None:
        """Leases that have ended give back what they hold."""
        for lease in self.leases:
            if lease.until <= now:
                self.give_back(lease)

    def finish(self, holder: int) -> None:
        """`holder` is done with what it holds."""
        for entry in self.log:
            if entry.holder == holder:
                entry.holder, entry.done = None, True

    def done(self) -> int:
        """How many of `log`, from its beginning, are done."""
        return next((n for n, entry in enumerate(self.log) if not entry.done), len(self.log))


class QueueMachine(CountedMachine):
    """Every call in any order, and every fault between any two of them."""

    def __init__(self, subject: Subject, root: Path) -> None:
        super().__init__()
        self.subject = subject
        self.directory = Path(tempfile.mkdtemp(dir=root))
        self.threads = [ThreadPoolExecutor(1) for _ in range(CONSUMERS)]
        self.clock = ManualClock(time.monotonic())
        self.model = Model()
        self.number = 0  # of items made
        self.damage = False  # whether the next consumer that finds memory empty is told of damage
        self.shut = False
        self.acked = 0  # since a call that trims

    @initialize(
        memory=st.sampled_from(MEMORIES),
        when_full=st.sampled_from(["raise", "block", "drop_oldest", "drop_newest"]),
        limit=st.one_of(st.none(), st.integers(40, 400)),
    )
    def choose(
        self, memory: Callable[[], MemoryTier], when_full: WhenFull, limit: int | None
    ) -> None:
        self.memory = memory
        self.when_full = when_full
        self.limit = limit
        self.open("resume")

    def open(self, leftover: Leftover) -> None:
        opened: list[Observed] = []

        def backend(stream: Stream) -> Observed:
            opened.append(Observed(self.subject.backend(stream)))
            return opened[-1]

        self.gate = Gate()
        self.pump = ManualPump()
        self.tier = self.memory()
        self.queue = HybridQueue(
            "stream",
            None,
            self.directory,
            memory=self.tier,
            backend=backend,
            limiter=self.gate,
            pump=self.pump,
            durable=self.subject.durable,
            leftover=leftover,
            max_overflow_bytes=self.limit,
            when_full=self.when_full,
        )
        self.clock.now = max(self.clock(), time.monotonic())  # it was opened by the latter
        self.queue._engine._clock = self.clock
        (self.backend,) = opened
        self.damage = self.shut = False
        self.acked = 0
        self.bound = max(self.limit or 0, self.backend.size_bytes())  # what is found counts

    def by(self, who: int, call: Callable[[], _T]) -> _T:
        """What consumer `who` gets from `call`."""
        return self.threads[who].submit(call).result()

    # ---- producers ---------------------------------------------------------------------------

    @rule(size=SIZES)
    def enqueue(self, size: int) -> None:
        (item,) = items = self.made([size])
        self.offered(items, lambda: self.queue.enqueue(item, timeout=0))

    @rule(sizes=st.lists(SIZES, max_size=6))
    def enqueue_many(self, sizes: list[int]) -> None:
        items = self.made(sizes)
        self.offered(items, lambda: self.queue.enqueue_many(items, timeout=0))

    @rule(count=st.integers(2, 12), size=SIZES)
    def enqueue_several(self, count: int, size: int) -> None:
        for _ in range(count):
            self.enqueue(size)

    @rule(sizes=st.lists(SIZES, min_size=1, max_size=4), room=st.integers(-1, 40))
    def enqueue_what_has_to_be_refused(self, sizes: list[int], room: int) -> None:
        """The limiter is shut, or files may grow by `room` bytes only: a write ends anywhere."""
        if room < 0 or not self.subject.crashes:
            self.gate.open = False
            self.enqueue_many(sizes)
            self.gate.open = True
            return
        items = self.made(sizes)
        largest = max(path.stat().st_size for path in self.directory.rglob("*"))
        with file_size_limit(largest + room):
            self.offered(
                items, lambda: self.queue.enqueue_many(items, timeout=0), disk_is_full=True
            )

    def made(self, sizes: Sequence[int]) -> list[bytes]:
        """New items of these sizes, all different if they are long enough."""
        items = []
        for size in sizes:
            self.number += 1
            items.append((b"%d." % self.number * (size // 2 + 1))[:size])
        return items

    def offered(
        self, items: list[bytes], call: Callable[[], None], *, disk_is_full: bool = False
    ) -> None:
        """`items` are in the queue if `call` says so, and otherwise it says why not."""
        before, known = self.queue.stats(), len(self.backend.raised)
        refusal: HybridQueueError | None = None
        try:
            self.by(0, call)
        except HybridQueueError as exc:
            refusal = without_traceback(exc)
        after = self.queue.stats()
        self.account_for_damage()
        failed = len(self.backend.raised) > known
        if self.limit is not None or failed or disk_is_full:
            self.producer_was_held_up()
        newest_dropped = after.dropped_newest > before.dropped_newest
        dropped = after.dropped - before.dropped
        if newest_dropped:
            was_away = any(isinstance(exc, BackendUnavailable) for exc in self.backend.raised)
            assert self.when_full == "drop_newest" or (self.when_full == "drop_oldest" and was_away)
            dropped -= len(items)
            assert after.dropped_newest - before.dropped_newest == len(items)
        assert not dropped or self.when_full == "drop_oldest"
        self.drop(dropped)
        self.judge(refusal, items, after, disk_is_full=disk_is_full, failed=failed)
        if newest_dropped:
            self.model.enqueued += len(items)
        elif refusal is None:
            self.model.enter(items, self.clock())
        assert after.enqueued - before.enqueued == (0 if refusal else len(items))
        limited = len(items) if isinstance(refusal, RateLimited) else 0
        assert after.rate_limited - before.rate_limited == limited

    def producer_was_held_up(self) -> None:
        """Who finds no room is done with what it took: it may have been so."""
        if self.by(0, lambda: this_thread.holder) not in self.queue._engine._in_flight._held:
            self.model.finish(0)

    def drop(self, count: int) -> None:
        """The oldest `count` items were dropped."""
        for group in self.model.take(count):
            for entry in group.entries:
                entry.done = True

    def judge(
        self,
        refusal: HybridQueueError | None,
        items: list[bytes],
        after: QueueStats,
        *,
        disk_is_full: bool,
        failed: bool,
    ) -> None:
        """`refusal` is the right answer to `items`, whatever `after` was the case."""
        if self.too_long(items):
            assert isinstance(refusal, MessageTooLargeError)
        elif self.shut:
            assert isinstance(refusal, QueueClosed)
        elif not self.gate.open:
            assert isinstance(refusal, RateLimited) == bool(items)
        elif self.never_fit(items):
            assert isinstance(refusal, MessageTooLargeError)
        elif isinstance(refusal, QueueFull):
            assert self.when_full != "drop_newest"
            assert disk_is_full or self.was_ordered(refusal) or self.has_no_room(items, after)
            if self.when_full == "drop_oldest":  # it drops all it can, if that makes room
                assert failed or disk_is_full or self.in_trouble() or self.nothing_to_drop(after)
        elif refusal is not None:
            assert isinstance(refusal, BackendError)
            assert self.was_ordered(refusal)

    def in_trouble(self) -> bool:
        """Whether a trim is to be tried again later, or the store is away."""
        overflow = self.queue._engine.overflow
        return overflow.away or overflow.retry_trim < float("inf")

    def nothing_to_drop(self, stats: QueueStats) -> bool:
        """Whether dropping cannot make room: all is held by others, or stays behind what is."""
        if self.damage and not stats.memory_items:
            return True  # a consumer is to be told first
        dead = [entry.item for entry in self.untrimmed() if entry.done]
        return not stats.depth or self.backend.cost(dead) > (self.limit or 0)

    def too_long(self, items: list[bytes]) -> bool:
        """Whether one of `items` alone is longer than memory could hold."""
        return any(len(item) > self.tier.capacity()[1] for item in items)

    def never_fit(self, items: list[bytes]) -> bool:
        """Whether neither tier could hold `items` even if both were empty."""
        if self.limit is None or not items or self.backend.cost(items) <= self.limit:
            return False
        most, most_bytes = self.tier.capacity()
        in_memory = len(items) <= most and sum(map(len, items)) <= most_bytes
        return self.subject.durable or not in_memory

    def has_no_room(self, items: list[bytes], stats: QueueStats) -> bool:
        """Whether there is no room for `items` in either tier."""
        if self.limit is None or stats.disk_bytes + self.backend.cost(items) <= self.limit:
            return False
        most, most_bytes = self.tier.room()
        in_memory = len(items) <= most and sum(map(len, items)) <= most_bytes
        return self.subject.durable or self.queue.has_disk_data or not in_memory

    def was_ordered(self, exc: HybridQueueError) -> bool:
        """Whether `exc` is, or comes from, a fault that this test has ordered."""
        return exc in self.backend.raised or exc.__cause__ in self.backend.raised

    # ---- consumers ---------------------------------------------------------------------------

    @rule(times=st.integers(1, 5), who=WHO)
    def try_dequeue(self, times: int, who: int) -> None:
        for _ in range(times):
            self.taken(lambda: [self.queue.try_dequeue()], 1, who)

    @rule(most=st.integers(0, 10), who=WHO)
    def dequeue(self, most: int, who: int) -> None:
        """One item if `most` is 0."""
        if most:
            self.taken(lambda: self.queue.dequeue_many(most, timeout=0), most, who)
        else:
            self.taken(lambda: [self.queue.dequeue(timeout=0)], 1, who)

    @rule(most=st.integers(1, 10), seconds=st.sampled_from([1.0, 5.0, 5.0, 60.0]), who=WHO)
    def lease(self, most: int, seconds: float, who: int) -> None:
        lease: list[Lease] = []

        def call() -> list[bytes]:
            lease[:] = [self.queue.lease(most, timeout=0, deadline=seconds)]
            return list(lease[0].items)

        groups = self.taken(call, most, who, hold=False)
        if groups:
            self.model.leases.append(Leased(lease[0], groups, self.clock() + seconds))

    def taken(
        self, call: Callable[[], list[bytes]], most: int, who: int, *, hold: bool = True
    ) -> list[Group]:
        """`call` gives consumer `who` the oldest items, up to `most`, or says why not."""
        refusal: HybridQueueError | None = None
        got: list[bytes] = []
        self.model.lapse(self.clock())
        self.model.finish(who)
        self.acked = 0
        try:
            got = self.by(who, call)
        except HybridQueueError as exc:
            refusal = without_traceback(exc)
        self.account_for_damage()
        groups: list[Group] = []
        if refusal is None:
            assert 1 <= len(got) <= most
            groups = self.model.take(len(got))
            assert got == [entry.item for group in groups for entry in group.entries]
            if hold:
                self.model.dequeued += len(got)
                for entry in (entry for group in groups for entry in group.entries):
                    entry.holder = who
        else:
            self.judge_emptiness(refusal)
        return groups

    def judge_emptiness(self, refusal: HybridQueueError) -> None:
        """`refusal` is the right answer to who wants an item."""
        if isinstance(refusal, QueueClosed):
            assert self.shut
            assert not self.model.queued()
            assert not self.model.leased(), "what is leased may be given back"
            assert not self.damage
        elif isinstance(refusal, QueueEmpty):
            assert not self.shut or self.model.leased() or self.in_trouble()
            assert not self.model.queued() or self.queue._engine.overflow.away
            assert not self.damage
        elif isinstance(refusal, CorruptedData) and not self.was_ordered(refusal):
            assert self.damage, "damage is reported once"
            self.damage = False
        else:
            assert isinstance(refusal, (BackendError, CorruptedData))
            assert self.was_ordered(refusal)

    @precondition(lambda self: self.model.leases)
    @rule(data=st.data(), who=WHO)
    def ack(self, data: st.DataObject, who: int) -> None:
        lease = data.draw(st.sampled_from(self.model.leases))
        self.model.leases.remove(lease)
        late = self.model.acknowledge(lease)
        self.acked += lease.count("done")
        if late:
            with pytest.raises(LeaseExpired, match=rf"\b{late} items"):
                self.by(who, lease.lease.ack)
        else:
            self.by(who, lease.lease.ack)
        self.by(who, lease.lease.ack)

    @precondition(lambda self: self.model.leases)
    @rule(data=st.data(), who=WHO)
    def nack(self, data: st.DataObject, who: int) -> None:
        lease = data.draw(st.sampled_from(self.model.leases))
        self.model.leases.remove(lease)
        self.by(who, lease.lease.nack)
        self.model.give_back(lease)

    @rule(seconds=st.sampled_from([0.02, 0.5, 2.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        """Whoever looks then sees that what leases held is back."""
        self.clock.advance(seconds)
        self.model.lapse(self.clock())

    @rule(who=WHO)
    def a_consumer_ends(self, who: int) -> None:
        """What its thread held is done; another takes its place."""
        self.threads[who].shutdown()
        self.threads[who] = ThreadPoolExecutor(1)
        self.model.finish(who)

    def account_for_damage(self) -> None:
        """What the backend has lost to damage was at the end of the queue."""
        lost, self.backend.lost = self.backend.lost, 0
        if lost:
            del self.model.items[len(self.model.items) - lost :]
            del self.model.log[len(self.model.log) - lost :]
            self.damage = True

    # ---- pump and faults ---------------------------------------------------------------------

    @rule()
    def pump_step(self) -> None:
        self.pump.step()
        self.acked = 0
        self.account_for_damage()

    @rule(
        fault=st.sampled_from([(name, make) for name in FAULTS for make in FAULTS[name]]),
        times=st.integers(0, 3),
    )
    def order_a_fault(self, fault: tuple[str, Callable[[], Exception]], times: int) -> None:
        name, make = fault
        self.backend.to_come[name] = [make() for _ in range(times)]

    @rule()
    def the_store_is_ready(self) -> None:
        self.queue._engine.ready()

    @precondition(lambda self: self.subject.spoils and self.queue.has_disk_data)
    @rule()
    def spoil_what_is_stored(self) -> None:
        cast(Spoilable, self.backend.inner).spoiled = True

    # ---- life cycle --------------------------------------------------------------------------

    @precondition(lambda self: self.model.queued() and not self.shut)
    @rule()
    def shutdown(self) -> None:
        self.queue.shutdown()
        self.shut = True

    @rule(
        leftover=LEFTOVERS,
        end=st.sampled_from(["closed", "failed", "forgotten", "killed", "killed"]),
    )
    def reopen(self, leftover: Leftover, end: str) -> None:
        if end in {"closed", "failed"} or not self.subject.crashes:
            self.close(leftover, failed=end == "failed")
        elif end == "killed":
            self.killed(leftover)
        else:
            self.forget(leftover)

    @precondition(lambda self: self.subject.crashes and self.subject.durable and not self.shut)
    @rule(
        kill=st.tuples(
            st.sampled_from(["append", "read", "trim"]), st.sampled_from(["before", "after"])
        ),
        who=WHO,
        sizes=st.lists(SIZES, max_size=4),
    )
    def kill_amid(self, kill: tuple[str, str], who: int, sizes: list[int]) -> None:
        """The process is killed amid a call on the backend, if one is made."""
        self.backend.kill = kill
        items = self.made(sizes)
        before, dropped = len(self.backend.appended), self.queue.stats().dropped
        newest = self.queue.stats().dropped_newest
        self.model.lapse(self.clock())
        self.model.finish(who)
        try:
            with suppress(HybridQueueError):
                self.by(who, lambda: self.queue.enqueue_many(items, timeout=0))
            with suppress(HybridQueueError):
                self.by(who, lambda: self.queue.lease(3, timeout=0))
        except Killed:
            pass
        # Whatever happened: what it took is not done, what it sent is stored or not.
        self.account_for_damage()
        after = self.queue.stats()
        self.drop(after.dropped - dropped - (after.dropped_newest - newest))
        if len(self.backend.appended) > before:
            self.model.enter(items, self.clock())
        self.killed("resume", amid=True)

    def close(self, leftover: Leftover, *, failed: bool = False) -> None:
        """A durable queue keeps what it holds, another discards it and leaves nothing behind."""
        sure_to_trim = not self.backend.to_come["trim"]
        before = self.queue.stats()
        if failed:  # the block that had it open
            self.by(0, lambda: self.queue.__exit__(RuntimeError, RuntimeError(), None))
        else:
            self.by(0, self.queue.close)
            self.model.finish(0)
        self.check_closed(before)
        self.end_leases_late()
        if not self.subject.durable:
            self.model = Model()
            assert not [path for path in self.directory.iterdir() if "quarantine" not in path.name]
        self.resume(leftover, exactly=sure_to_trim)

    def check_closed(self, before: QueueStats) -> None:
        after = self.queue.stats()
        kept = before.depth if self.subject.durable else 0
        assert after.depth == kept
        assert after.leased == before.leased
        assert after.discarded == before.discarded + before.depth - kept
        assert after.enqueued == after.dequeued + after.discarded + after.leased + after.depth
        for call in (self.queue.try_dequeue, lambda: self.queue.enqueue(b"")):
            with pytest.raises(QueueClosed):
                call()

    def end_leases_late(self) -> None:
        """What is leased of a durable queue is not done any more once that is closed."""
        for lease in self.model.leases:
            before = self.queue.stats()
            out = lease.count("leased")
            if lease.lease.seconds == 60.0:
                lease.lease.nack()
                after = self.queue.stats()
                discarded = 0 if self.subject.durable else out
                assert after.discarded == before.discarded + discarded
            elif self.subject.durable:
                with pytest.raises(QueueClosed):
                    lease.lease.ack()
            elif lease.count("back") + lease.count("gone"):
                with pytest.raises(LeaseExpired):
                    lease.lease.ack()
            else:
                lease.lease.ack()
                assert self.queue.stats().dequeued == before.dequeued + out
            after = self.queue.stats()
            assert after.enqueued == after.dequeued + after.discarded + after.leased + after.depth

    def killed(self, leftover: Leftover, *, amid: bool = False) -> None:
        """What is stored survives; only a durable queue has everything stored."""
        if self.subject.durable:
            self.check_the_window(amid=amid)
        stored = self.stored()
        abandon(self.queue, self.backend.inner)
        self.after_a_crash(stored, leftover)

    def forget(self, leftover: Leftover) -> None:
        """Nobody has the queue any more, and nobody has closed it."""
        stored = self.stored()
        sure_to_trim = self.subject.durable and not self.backend.to_come["trim"]
        self.model.leases.clear()
        for exc in self.backend.raised:
            without_traceback(exc)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            del self.queue
            if not told:  # a frame that has met a full disk knows it
                gc.collect()
        assert any("never closed" in str(warning.message) for warning in told)
        self.after_a_crash(stored, leftover, exactly=sure_to_trim)

    def stored(self) -> list[Entry]:
        """What is in the backend alone."""
        back = sum(len(group.entries) for group in self.model.back)
        return self.model.queued()[back + self.tier.items() :]

    def after_a_crash(
        self, stored: list[Entry], leftover: Leftover, *, exactly: bool = False
    ) -> None:
        if not self.subject.durable:
            self.model = Model(items=stored, log=stored[:])
        self.resume(leftover, exactly=exactly)

    def untrimmed(self) -> list[Entry]:
        """What is in the backend of a durable queue."""
        return self.model.log[len(self.model.log) - self.backend.depth() :]

    def check_the_window(self, *, amid: bool = False) -> None:
        """What would come again after a crash: all that is not done, and a few that are."""
        done = self.model.done()
        trimmed = len(self.model.log) - self.backend.depth()
        assert trimmed <= done, "trimmed, and not done"
        if not self.backend.raised and not amid:
            assert done - trimmed <= WINDOW + self.acked

    def resume(self, leftover: Leftover, *, exactly: bool) -> None:
        """Open again: what was not done is there, in order, and may be behind some that was.

        A queue that is not durable may give again what it had passed on and not trimmed yet. With
        `exactly` all that is done, up to the first item that is not, has been trimmed.
        """
        kept, appended = self.model.log[self.model.done() :], self.backend.appended
        if not self.subject.durable:
            kept = self.model.items
        count = len(kept)
        try:
            self.open(leftover)
        except StreamBusyError:
            assert leftover == "refuse"
            self.open("resume")
            assert self.queue.recovery.records
        found = self.queue.recovery.records
        self.model = Model()
        if leftover in ("discard", "quarantine"):
            assert not found
            return
        assert count <= found <= (count if exactly else len(appended))
        items = appended[len(appended) - found :]
        assert items[found - count :] == [entry.item for entry in kept]
        self.model.enter(items, self.clock())
        self.backend.appended += items

    # ---- at any time -------------------------------------------------------------------------

    @invariant()
    def the_accounts_are_those_of_the_model(self) -> None:
        stats, queued = self.queue.stats(), self.model.queued()
        assert stats.depth == self.queue.depth == len(queued)
        assert stats.leased == len(self.model.leased())
        assert stats.enqueued == stats.dequeued + stats.discarded + stats.leased + stats.depth
        assert (stats.enqueued - stats.damaged, stats.dequeued) == (
            self.model.enqueued - stats.damaged,
            self.model.dequeued,
        )
        assert stats.dropped <= stats.discarded
        assert stats.discarded == stats.dropped + stats.damaged
        assert stats.recovered == self.queue.recovery.records
        most, most_bytes = self.tier.capacity()
        assert stats.memory_items <= min(most, stats.depth)
        back = sum(len(group.entries) for group in self.model.back)
        in_memory = queued[back : back + stats.memory_items]
        assert stats.memory_bytes == sum(len(entry.item) for entry in in_memory)
        assert stats.memory_bytes <= most_bytes
        assert stats.disk_bytes == self.backend.size_bytes()

    @invariant()
    def pressure_is_above_one_exactly_while_something_is_stored(self) -> None:
        stats = self.queue.stats()
        stored = len(self.stored())
        assert self.queue.has_disk_data == (stored > 0)
        assert stats.pressure == self.queue.pressure
        assert (stats.pressure > 1.0) == (stored > 0)
        assert self.backend.depth() >= stored
        if self.limit is not None and not self.dead_bytes_are_free():
            assert stats.disk_bytes <= self.bound

    def dead_bytes_are_free(self) -> bool:
        """Whether what is behind a held item, and done, does not count: then the rest does."""
        if self.when_full != "drop_oldest" or not self.subject.durable or self.limit is None:
            return False
        live = [entry.item for entry in self.untrimmed() if not entry.done]
        assert self.backend.cost(live) <= self.bound
        return True

    @invariant()
    def nothing_is_trimmed_that_somebody_is_not_done_with(self) -> None:
        if self.subject.durable:
            self.check_the_window()

    @invariant()
    def nothing_counts_as_younger_than_it_is(self) -> None:
        there = [entry.came for entry in self.model.queued()]
        there += [entry.came for entry in self.model.leased()]
        age = self.queue.stats().oldest_age_seconds
        oldest = self.clock() - min(there, default=self.clock())
        assert age >= oldest - 1e-6

    def teardown(self) -> None:
        """Without faults, everything that is left comes out."""
        try:
            if hasattr(self, "queue") and sys.exc_info()[0] is None:
                for faults in self.backend.to_come.values():
                    faults.clear()
                self.queue._engine.ready()
                self.clock.advance(100.0)
                self.model.lapse(self.clock())
                while self.model.queued() or self.damage:
                    self.dequeue(10, 0)
                with pytest.raises((DequeueTimeout, QueueClosed)):
                    self.queue.dequeue(timeout=0)
                assert self.subject.durable or not self.backend.depth()
        finally:
            if hasattr(self, "queue"):
                with suppress(HybridQueueError):
                    self.queue.close()  # if something went wrong
            for thread in self.threads:
                thread.shutdown()
            shutil.rmtree(self.directory)


@pytest.fixture
def _quiet() -> Iterator[None]:
    """A queue that is not closed says so again and again."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize("subject", SUBJECTS, ids=str)
def test_the_queue_behaves_as_the_model_whatever_happens(subject: Subject, tmp_path: Path) -> None:
    steps = run_machine(lambda: QueueMachine(subject, tmp_path), amount(5_000, 75_000))
    note("queue machine", str(subject), steps=steps)
