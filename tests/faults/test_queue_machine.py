"""The whole queue under random calls and faults, compared with a model: a list of items.

Backend calls fail on order, the disk is full, stored records turn out to be damaged, the queue is
shut down, closed, crashes and is opened again. After every step the accounts balance, and every
item that was accepted is either still there, in its place, or accounted for.
"""

import errno
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from hq_backends.file import FileBackend
from hq_backends.lmdb import LmdbBackend
from hq_core import (
    BackendError,
    BytesTier,
    CorruptedData,
    CountTier,
    DequeueTimeout,
    HybridQueue,
    HybridQueueError,
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
from hq_core.protocols import Leftover, WhenFull
from hq_core.testing import FaultyBackend, ManualPump
from hq_core.testing.spool import file_size_limit
from hq_core.testing.stateful import CountedMachine, run_machine
from tests.faults.campaign import amount, note
from tests.faults.spoilable import Spoilable

pytestmark = pytest.mark.slow


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

    def _next_fault(self, method: str, number: int) -> Exception | None:
        if method == "trim":
            self.trim_failed = bool(self.to_come["trim"])
        if not self.to_come[method]:
            return None
        self.raised.append(self.to_come[method].pop())
        return self.raised[-1]

    def append(self, records: Sequence[bytes]) -> None:
        """Append, unless told to fail."""
        super().append(records)
        self.appended += records

    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        """Read, unless told to fail; what damage takes away was at the end."""
        before = self.depth()
        try:
            return super().read(skip, max_records, max_bytes)
        except CorruptedData:
            lost = before - self.depth()
            del self.appended[len(self.appended) - lost :]
            self.lost += lost
            raise


class Gate:
    """A limiter that lets everybody pass while it is open."""

    burst: int | None = None
    open = True

    def admit(self, tokens: int, now: float) -> bool:
        """Whether it is open."""
        return self.open


def abandon(queue: HybridQueue, backend: OverflowBackend) -> None:
    """Let go of everything a killed process would, and of nothing else."""
    queue._engine.disown()
    if isinstance(backend, FileBackend):
        backend._close_files()
    elif isinstance(backend, LmdbBackend):
        backend._env.close()


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
        lambda: ValueError("on order"),
    ],
    "read": [lambda: OSError(errno.EIO, "on order"), lambda: CorruptedData("on order")],
    "trim": [lambda: OSError(errno.EIO, "on order")],
}


class QueueMachine(CountedMachine):
    """Every call in any order, and every fault between any two of them."""

    def __init__(self, subject: Subject, root: Path) -> None:
        super().__init__()
        self.subject = subject
        self.directory = Path(tempfile.mkdtemp(dir=root))
        self.items: list[bytes] = []  # accepted and not delivered, oldest first
        self.number = 0  # of items made
        self.damage = False  # whether the next consumer that finds memory empty is told of damage
        self.shut = False

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
        (self.backend,) = opened
        self.damage = self.shut = False

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
        before = self.queue.stats()
        refusal: HybridQueueError | None = None
        try:
            call()
        except HybridQueueError as exc:
            refusal = exc
        after = self.queue.stats()
        self.account_for_damage()
        dropped = after.dropped - before.dropped
        newest_dropped = self.when_full == "drop_newest" and dropped > 0
        if newest_dropped:
            assert dropped == len(items)
        else:
            assert not dropped or self.when_full == "drop_oldest"
            del self.items[:dropped]
        self.judge(refusal, items, after, disk_is_full=disk_is_full)
        entered = [] if refusal or newest_dropped else items
        self.items += entered
        assert after.enqueued - before.enqueued == (0 if refusal else len(items))
        limited = len(items) if isinstance(refusal, RateLimited) else 0
        assert after.rate_limited - before.rate_limited == limited

    def judge(
        self,
        refusal: HybridQueueError | None,
        items: list[bytes],
        after: QueueStats,
        *,
        disk_is_full: bool,
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
                assert not after.memory_items or self.backend.trim_failed
        elif refusal is not None:
            assert isinstance(refusal, BackendError)
            assert self.was_ordered(refusal)

    def too_long(self, items: list[bytes]) -> bool:
        """Whether one of `items` alone is longer than memory could hold."""
        return any(len(item) > self.tier.capacity()[1] for item in items)

    def never_fit(self, items: list[bytes]) -> bool:
        """Whether neither tier could hold `items` even if both were empty."""
        if self.limit is None or not items or self.cost(items) <= self.limit:
            return False
        most, most_bytes = self.tier.capacity()
        in_memory = len(items) <= most and sum(map(len, items)) <= most_bytes
        return self.subject.durable or not in_memory

    def has_no_room(self, items: list[bytes], stats: QueueStats) -> bool:
        """Whether there is no room for `items` in either tier."""
        if self.limit is None or stats.disk_bytes + self.cost(items) <= self.limit:
            return False
        most, most_bytes = self.tier.room()
        in_memory = len(items) <= most and sum(map(len, items)) <= most_bytes
        return self.subject.durable or self.queue.has_disk_data or not in_memory

    def cost(self, items: list[bytes]) -> int:
        return sum(map(len, items)) + len(items) * self.backend.record_overhead

    def was_ordered(self, exc: HybridQueueError) -> bool:
        """Whether `exc` is, or comes from, a fault that this test has ordered."""
        return exc in self.backend.raised or exc.__cause__ in self.backend.raised

    # ---- consumers ---------------------------------------------------------------------------

    @rule(times=st.integers(1, 5))
    def try_dequeue(self, times: int) -> None:
        for _ in range(times):
            self.taken(lambda: [self.queue.try_dequeue()], 1)

    @rule(most=st.integers(0, 10))
    def dequeue(self, most: int) -> None:
        """One item if `most` is 0."""
        if most:
            self.taken(lambda: self.queue.dequeue_many(most, timeout=0), most)
        else:
            self.taken(lambda: [self.queue.dequeue(timeout=0)], 1)

    def taken(self, call: Callable[[], list[bytes]], most: int) -> None:
        """`call` gives the oldest items, up to `most`, and otherwise says why not."""
        refusal: HybridQueueError | None = None
        got: list[bytes] = []
        try:
            got = call()
        except HybridQueueError as exc:
            refusal = exc
        self.account_for_damage()
        if refusal is None:
            assert 1 <= len(got) <= most
            assert got == self.items[: len(got)]
            del self.items[: len(got)]
        elif isinstance(refusal, (QueueClosed, QueueEmpty)):
            assert isinstance(refusal, QueueClosed) == self.shut
            assert not self.items
            assert not self.damage
        elif isinstance(refusal, CorruptedData) and not self.was_ordered(refusal):
            assert self.damage, "damage is reported once"
            self.damage = False
        else:
            assert isinstance(refusal, (BackendError, CorruptedData))
            assert self.was_ordered(refusal)

    def account_for_damage(self) -> None:
        """What the backend has lost to damage was at the end of the queue."""
        lost, self.backend.lost = self.backend.lost, 0
        if lost:
            del self.items[len(self.items) - lost :]
            self.damage = True

    # ---- pump and faults ---------------------------------------------------------------------

    @rule()
    def pump_step(self) -> None:
        self.pump.step()
        self.account_for_damage()

    @rule(
        fault=st.sampled_from([(name, make) for name in FAULTS for make in FAULTS[name]]),
        times=st.integers(0, 3),
    )
    def order_a_fault(self, fault: tuple[str, Callable[[], Exception]], times: int) -> None:
        name, make = fault
        self.backend.to_come[name] = [make() for _ in range(times)]

    @precondition(lambda self: self.subject.spoils and self.queue.has_disk_data)
    @rule()
    def spoil_what_is_stored(self) -> None:
        cast(Spoilable, self.backend.inner).spoiled = True

    # ---- life cycle --------------------------------------------------------------------------

    @precondition(lambda self: self.items and not self.shut)
    @rule()
    def shutdown(self) -> None:
        self.queue.shutdown()
        self.shut = True

    @rule(leftover=LEFTOVERS, crash=st.booleans())
    def reopen(self, leftover: Leftover, crash: bool) -> None:
        if crash and self.subject.crashes:
            self.crash(leftover)
        else:
            self.close(leftover)

    def close(self, leftover: Leftover) -> None:
        """A durable queue keeps what it holds, another discards it and leaves nothing behind."""
        sure_to_trim = not self.backend.to_come["trim"]
        before = self.queue.stats()
        self.queue.close()
        self.check_closed(before)
        if not self.subject.durable:
            self.items.clear()
            assert not [path for path in self.directory.iterdir() if "quarantine" not in path.name]
        self.resume(self.items, self.backend.appended, leftover, exactly=sure_to_trim)

    def check_closed(self, before: QueueStats) -> None:
        after = self.queue.stats()
        kept = before.depth if self.subject.durable else 0
        assert after.depth == kept
        assert after.discarded == before.discarded + before.depth - kept
        assert after.enqueued == after.dequeued + after.discarded + after.depth
        for call in (self.queue.try_dequeue, lambda: self.queue.enqueue(b"")):
            with pytest.raises(QueueClosed):
                call()

    def crash(self, leftover: Leftover) -> None:
        """What is stored survives; only a durable queue has everything stored."""
        abandon(self.queue, self.backend.inner)
        in_memory = 0 if self.subject.durable else self.tier.items()
        self.resume(self.items[in_memory:], self.backend.appended, leftover, exactly=False)

    def resume(
        self, kept: list[bytes], appended: list[bytes], leftover: Leftover, *, exactly: bool
    ) -> None:
        """Open again: `kept` is there, and, unless `exactly`, what had been appended just before.

        That comes again: it had been delivered, and its space not been given back yet.
        """
        try:
            self.open(leftover)
        except StreamBusyError:
            assert leftover == "refuse"
            self.open("resume")
            assert self.queue.recovery.records
        count = self.queue.recovery.records
        if leftover in ("discard", "quarantine"):
            assert not count
            self.items = []
            return
        assert len(kept) <= count <= (len(kept) if exactly else len(appended))
        self.items = appended[len(appended) - count :]
        assert self.items[count - len(kept) :] == kept
        self.backend.appended += self.items

    # ---- at any time -------------------------------------------------------------------------

    @invariant()
    def the_accounts_are_those_of_the_model(self) -> None:
        stats = self.queue.stats()
        assert stats.depth == self.queue.depth == len(self.items)
        assert stats.enqueued == stats.dequeued + stats.discarded + stats.depth
        assert stats.dropped <= stats.discarded
        assert stats.recovered == self.queue.recovery.records
        most, most_bytes = self.tier.capacity()
        assert stats.memory_items <= min(most, stats.depth)
        assert stats.memory_bytes == sum(map(len, self.items[: stats.memory_items]))
        assert stats.memory_bytes <= most_bytes
        assert stats.disk_bytes == self.backend.size_bytes()

    @invariant()
    def pressure_is_above_one_exactly_while_something_is_stored(self) -> None:
        stats = self.queue.stats()
        stored = stats.depth > stats.memory_items
        assert self.queue.has_disk_data == stored
        assert stats.pressure == self.queue.pressure
        assert (stats.pressure > 1.0) == stored
        assert stats.disk_bytes <= (self.limit or stats.disk_bytes)
        assert self.backend.depth() == stats.depth - stats.memory_items

    def teardown(self) -> None:
        """Without faults, everything that is left comes out."""
        try:
            if hasattr(self, "queue"):
                for faults in self.backend.to_come.values():
                    faults.clear()
                while self.items or self.damage:
                    self.dequeue(10)
                with pytest.raises((DequeueTimeout, QueueClosed)):
                    self.queue.dequeue(timeout=0)
                self.queue.close()
        finally:
            shutil.rmtree(self.directory)


@pytest.mark.parametrize("subject", SUBJECTS, ids=str)
def test_the_queue_behaves_as_the_model_whatever_happens(subject: Subject, tmp_path: Path) -> None:
    steps = run_machine(lambda: QueueMachine(subject, tmp_path), amount(5_000, 75_000))
    note("queue machine", str(subject), steps=steps)
