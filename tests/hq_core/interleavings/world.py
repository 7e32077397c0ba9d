"""What stands in for threads, locks, loops, time and stores, and the tasks the scenarios share."""

import contextlib
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from hq_core import (
    AsyncHybridQueue,
    BackendError,
    CorruptedData,
    CountTier,
    HybridQueue,
    HybridQueueError,
    QueueClosed,
    StreamBusyError,
    Unlimited,
)
from hq_core.aio.worker import _carry_out
from hq_core.engine.engine import Engine
from hq_core.engine.waiters import Waiter
from hq_core.protocols import OverflowBackend, Stream
from hq_core.testing import MemoryBackend, RemoteBackend
from hq_core.testing.fakes import _kept
from tests.faults.campaign import amount, note, sentence
from tests.faults.spoilable import Spoilable
from tests.interleaving import (
    ControlledCondition,
    ControlledLock,
    ControlledPump,
    ControlledWaiter,
    Life,
    Scenario,
    Scheduler,
    explore,
)

T = TypeVar("T")

Check = Callable[[], None]

FOR_EVER = 1e9
"""Seconds of a lease that does not lapse."""


class Slow(MemoryBackend):
    """A backend during whose calls, before and after their effect, other tasks may run."""

    def __init__(self, backend: OverflowBackend, scheduler: Scheduler) -> None:
        self.recovered = backend.recovered
        self.before: Callable[[str], object] = lambda method: None
        """Called at the beginning of each call; as it raises, or waits, so does the call."""
        self.closed = False
        self.calls = 0
        """How many are under way, or were."""
        self._backend = backend
        self._scheduler = scheduler
        self._busy = False

    def _slowly(self, method: str, call: Callable[[], T]) -> T:
        assert not self._busy, "entered twice at once"
        assert not self.closed, "called after it was closed"
        self._busy = True
        self.calls += 1
        try:
            self._scheduler.pause()
            self.before(method)
            try:
                return call()
            finally:
                self._scheduler.pause()
        finally:
            self._busy = False

    def append(self, records: Sequence[bytes]) -> None:
        self._slowly("append", lambda: self._backend.append(records))

    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        return self._slowly("read", lambda: self._backend.read(skip, max_records, max_bytes))

    def trim(self, count: int) -> None:
        self._slowly("trim", lambda: self._backend.trim(count))

    def sync(self) -> None:
        self._slowly("sync", self._backend.sync)

    def depth(self) -> int:
        return self._backend.depth()

    def size_bytes(self) -> int:
        return self._backend.size_bytes()

    def cost(self, records: Sequence[bytes]) -> int:
        return self._backend.cost(records)

    def close(self, *, delete: bool) -> None:
        self._slowly("close", lambda: self._backend.close(delete=delete))
        self.closed = True


@dataclass
class World:
    """Makes queues whose locks, waiters, pump, time and backend calls are the scheduler's.

    `scheduler` changes with every schedule, and so do `backend`, that of the last queue, and
    `records`, what it holds: what a process that is killed now leaves behind.
    """

    scheduler: Scheduler
    test: str
    schedules: int = 0
    woken: list[tuple[int, tuple[int, int]]] = field(default_factory=list)
    """Place and needs of each thread that was woken, in this schedule."""
    backend: Slow = field(init=False)
    stored: MemoryBackend = field(init=False)

    def explore(self, scenario: Scenario, delays: int = 3, whole: int = 2_000) -> int:
        """Run `scenario` under every schedule, in the campaign at least `whole`; how many."""

        def prepared(scheduler: Scheduler) -> Check:
            self.scheduler = scheduler
            self.woken.clear()
            scheduler.invariant = lambda: None
            kept_by_the_backend()  # of a schedule, or a test, that failed
            return scenario(scheduler)

        schedules = explore(prepared, delays, at_least=amount(0, whole))
        self.schedules += schedules
        note("schedules", self.test, schedules=self.schedules)
        return schedules

    def queue(self, scheduler: Scheduler, memory_items: int, **options: Any) -> HybridQueue:
        """A queue, by default over a `MemoryBackend`. After every step its accounts balance and
        memory holds no more than `memory_items`."""
        tier = CountTier(memory_items)
        factory = options.pop("backend", MemoryBackend)

        def make(stream: Stream) -> Slow:
            backend = inner = factory(stream)
            while not isinstance(inner, MemoryBackend):
                inner = inner._backend
            self.stored = inner
            self.backend = Slow(backend, scheduler)
            return self.backend

        queue = HybridQueue(
            "stream",
            None,
            ".",
            memory=tier,
            backend=make,
            limiter=Unlimited(),
            pump=ControlledPump(scheduler),
            **options,
        )
        engine = queue._engine

        def sound() -> None:
            assert tier.items() <= memory_items
            assert_balanced(engine)

        self.watch(sound)
        return queue

    def close_at_the_end(self, queue: HybridQueue, check: Check = lambda: None) -> None:
        """Spawn a task that makes the `check` once all others have ended, and closes `queue`."""
        scheduler = self.scheduler

        def close() -> None:
            scheduler.pause(lambda: scheduler.tasks <= {"closer", "hq-pump-stream"})
            check()
            queue.close()

        scheduler.spawn("closer", close)

    def assert_first_is_woken_first(self, queue: HybridQueue, line: str) -> None:
        """Have it fail if a thread of `line` is woken while one that needs the same waits before
        it. Whoever was woken in vain waits on where it stood."""

        def sound() -> None:
            for place, needs in self.woken:
                for waiter in waiting(queue, line):
                    assert waiter.needs != needs or waiter.place > place or not waiter.place
            self.woken.clear()

        self.watch(sound)

    def watch(self, invariant: Check) -> None:
        """Have `invariant` hold after every step too."""
        before = self.scheduler.invariant

        def both() -> None:
            before()
            invariant()

        self.scheduler.invariant = both

    @property
    def records(self) -> list[bytes]:
        """What the backend of the last queue holds at this moment, or kept when it was closed."""
        return self.stored._records or _kept.get(self.stored._path, [])

    def when_parked(self, queue: HybridQueue, count: int, line: str = "producers") -> None:
        """Called by a task: others run until so many wait in `line`, or more."""
        self.scheduler.pause(lambda: parked(queue, line) >= count)


def waiting(queue: HybridQueue, line: str) -> list[Waiter]:
    """Those in a line of the engine."""
    return [
        waiter for line in getattr(queue._engine, f"_{line}").waiting.values() for waiter in line
    ]


def parked(queue: HybridQueue, line: str = "producers") -> int:
    """How many wait in a line of the engine: `consumers`, `lessees` or `producers`."""
    return len(waiting(queue, line))


def assert_balanced(engine: Engine) -> None:
    """Whenever the mutex is free, so at every step."""
    accounts, in_flight, overflow = engine._accounts, engine._in_flight, engine.overflow
    gone = accounts.dequeued + accounts.discarded
    assert accounts.enqueued == gone + engine._there(), "the accounts do not balance"
    assert 0 <= overflow.passed <= overflow.depth
    assert overflow.passed + len(overflow.ahead) <= overflow.depth
    assert in_flight.back >= 0
    assert in_flight.done >= 0


class FakeDirectory:
    """In place of an open directory: every schedule would open one, and not all get closed."""

    fd = -1
    path = Path()

    def __init__(self, path: Path) -> None: ...

    def stream(self, stream_id: str, **fields: Any) -> Stream:
        return Stream(stream_id, "stream", self.path, self.fd, **fields)

    def close(self) -> None: ...


class NoLock:
    """Owns nothing: every schedule has a queue of its own, not all of them get closed."""

    path = Path("stream.lock")

    def __init__(self, directory: FakeDirectory, file_name: str, stream_id: str) -> None: ...

    def acquire(self) -> None: ...

    def release(self) -> None: ...

    def abandon(self) -> None: ...


class OneOwner(NoLock):
    """Taken and let go in one step each, which may be long in coming."""

    owned = False

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._is_mine = False

    def acquire(self) -> None:
        self._scheduler.pause()
        if OneOwner.owned:
            raise StreamBusyError("it has an owner")
        OneOwner.owned = self._is_mine = True

    def release(self) -> None:
        self._scheduler.pause()
        if self._is_mine:
            OneOwner.owned = self._is_mine = False


def patch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the stand-ins where the engine and the front end for threads look."""

    def lock(**options: Any) -> ControlledLock:
        return ControlledLock(world.scheduler, **options)

    class ThisThread:
        @property
        def holder(self) -> Callable[[], Life | None]:
            return world.scheduler.holder

    class Noted(ControlledWaiter):
        def wake(self) -> bool:
            world.woken.append((self.place, self.needs))
            return super().wake()

    def waiter(needs: tuple[int, int] = (1, 0)) -> ControlledWaiter:
        return Noted(world.scheduler, needs)

    def clock() -> float:
        return world.scheduler.now

    monkeypatch.setattr("hq_core.engine.locks.RLock", lock)
    monkeypatch.setattr("hq_core.engine.unwinding.RLock", lock)
    monkeypatch.setattr("hq_core.engine.locks.monotonic", clock)
    monkeypatch.setattr("hq_core.engine.opening.time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr("hq_core.engine.opening.StreamLock", NoLock)
    monkeypatch.setattr("hq_core.engine.opening.Directory", FakeDirectory)
    nothing_left = SimpleNamespace(check=lambda *_: None, clear=lambda *_: [])
    monkeypatch.setattr("hq_core.engine.opening.leftovers", nothing_left)
    monkeypatch.setattr("hq_core.engine.engine.this_thread", ThisThread())
    for module in ("locks", "pumping"):
        ident = f"hq_core.engine.{module}.get_ident"
        monkeypatch.setattr(ident, lambda: id(world.scheduler.life))
    monkeypatch.setattr("hq_core.queue.Handle", lambda engine: SimpleNamespace(engine=engine))
    monkeypatch.setattr("hq_core.queue.time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr("hq_core.engine.handle.time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr("hq_core.queue.ThreadWaiter", waiter)
    monkeypatch.setattr("hq_core.stdlib.threading", SimpleNamespace(RLock=lock, TIMEOUT_MAX=1e9))
    monkeypatch.setattr(
        "hq_core.stdlib._Condition", lambda waits: ControlledCondition(world.scheduler, waits.mutex)
    )


def new_world(request: pytest.FixtureRequest) -> World:
    """For one test."""
    return World(Scheduler([], 0), sentence(request.node.name))


# ---- coroutines --------------------------------------------------------------------------------


class Cancelled(Exception):
    """Stands in for `asyncio.CancelledError`, which would end the test runner's own wait."""


class ControlledLoop:
    """Stands in for an event loop and for the queue's `Worker`; its tasks can be cancelled."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.runs = True
        """Otherwise it is held up: by one of its tasks, or since nobody runs it now."""
        self.closed = False
        self._scheduler = scheduler
        self._cancelled: set[str] = set()
        self._jobs: list[Callable[[], None]] = []
        self._works = False

    def cancel(self, name: str) -> Callable[[], None]:
        """A task that cancels another, which meets it where it waits, or waits next."""
        return lambda: self._cancelled.add(name)

    def cancel_again(self, cancelled: Cancelled) -> None:
        """The running task meets it where it waits next."""
        self._cancelled.add(self._scheduler.me)

    def wait(self, ready: Callable[[], bool] = lambda: True, until: float | None = None) -> bool:
        """False: it was not `ready()` by `until`."""
        name = self._scheduler.me
        seconds = FOR_EVER if until is None else max(0.0, until - self._scheduler.now)
        on_time = self._scheduler.sleep(
            lambda: self.runs and (ready() or name in self._cancelled), seconds
        )
        if name in self._cancelled:
            self._cancelled.remove(name)
            raise Cancelled
        return on_time

    def waiter(self, needs: tuple[int, int] = (1, 0)) -> "CoroutineWaiter":
        return CoroutineWaiter(self, needs)

    async def give(self) -> None:
        """Each call lets the other tasks run."""
        self.wait()

    async def result(self, future: Future[T], until: float | None) -> T:
        if not self.wait(future.done, until):
            raise TimeoutError
        return future.result()

    async def see_through(
        self, call: Callable[[], T], *, revocable: bool = True, until: float | None = None
    ) -> T:
        future = self.begin(call)
        cancelled: Cancelled | None = None
        while not future.done():
            try:
                if not self.wait(future.done, until):
                    until = None
                    if future.cancel():
                        raise TimeoutError
            except Cancelled as exc:
                if revocable and future.cancel():
                    raise
                cancelled = exc
        if cancelled is None:
            return future.result()
        if (failure := future.exception()) is not None:
            raise cancelled from failure
        self.cancel_again(cancelled)
        return future.result()

    def begin(self, call: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        self._jobs.append(lambda: _carry_out(call, future))
        if not self._works:
            self._works = True
            self._scheduler.spawn("worker", self._work)
        return future

    def _work(self) -> None:
        while self._jobs:
            self._jobs.pop(0)()
        self._works = False


class CoroutineWaiter:
    """Stands in for `LoopWaiter`."""

    def __init__(self, loop: ControlledLoop, needs: tuple[int, int]) -> None:
        self.place = self.cost = 0
        self.needs = needs
        self.loop = loop
        self._woken = False

    def wake(self) -> bool:
        if self.loop.closed:
            return False
        self._woken = True
        return True

    async def wait(self, deadline: float = FOR_EVER) -> bool:
        try:
            return self.loop.wait(lambda: self._woken, min(deadline, FOR_EVER))
        finally:
            self._woken = False


def coroutine(work: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A task that runs a coroutine, all of whose waits are controlled."""

    def run() -> None:
        with contextlib.suppress(StopIteration, Cancelled, QueueClosed):
            work().send(None)
            raise AssertionError("it waits for what is not controlled")

    return run


def for_coroutines(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch, queue: HybridQueue
) -> tuple[AsyncHybridQueue, ControlledLoop]:
    """The view of `queue`, with all that would need an event loop replaced."""
    loop = ControlledLoop(scheduler)
    asyncio = SimpleNamespace(
        current_task=lambda: scheduler.life,
        CancelledError=Cancelled,
    )
    monkeypatch.setattr("hq_core.aio.queue.LoopWaiter", loop.waiter)
    monkeypatch.setattr("hq_core.aio.queue.asyncio", asyncio)
    monkeypatch.setattr("hq_core.aio.queue._in_loop", lambda: False)
    monkeypatch.setattr("hq_core.aio.queue.monotonic", scheduler.clock)
    monkeypatch.setattr("hq_core.aio.queue.turns", SimpleNamespace(give=loop.give))
    view = queue.aio
    view._worker = loop  # type: ignore[assignment] # a stand-in
    return view, loop


# ---- stores ------------------------------------------------------------------------------------


def kept_by_the_backend() -> list[bytes]:
    """What the last queue left for the next one; leaves nothing itself."""
    backend = MemoryBackend(Stream("stream", "stream", Path(), -1))
    kept = list(backend._records)
    backend.close(delete=True)
    return kept


def assert_kept(
    kept: Sequence[bytes], accepted: Sequence[bytes], *consumers: Sequence[Sequence[bytes]]
) -> None:
    """A durable queue was closed that had `accepted` items, and each of its `consumers` got these
    batches. What it `kept` is the rest: from the oldest that was not delivered, or is still held,
    as the last batch of each consumer may be."""
    start = len(accepted) - len(kept)
    assert list(kept) == list(accepted[start:])
    delivered = [item for batches in consumers for batch in batches for item in batch]
    assert len({*delivered}) == len(delivered), "an item came twice"
    assert {*accepted[:start]} <= {*delivered}
    if kept and kept[0] in delivered:
        held = [item for batches in consumers if batches for item in batches[-1]]
        assert kept[0] in held, "nobody holds it any more"


def spoiled(stream: Stream) -> Spoilable:
    """A backend that finds what it holds damaged when it is first read."""
    backend = Spoilable(stream)
    backend.spoiled = True
    return backend


class Remote:
    """A factory of a backend whose store can go away, come back, or be another owner's."""

    def __call__(self, stream: Stream) -> RemoteBackend:
        self.store = RemoteBackend(MemoryBackend(stream), stream)
        return self.store


# ---- tasks -------------------------------------------------------------------------------------


def produce(queue: HybridQueue, items: Iterable[bytes]) -> Callable[[], None]:
    def run() -> None:
        for item in items:
            queue.enqueue(item)

    return run


def consume(queue: HybridQueue, count: int, got: list[bytes]) -> Callable[[], None]:
    def run() -> None:
        while len(got) < count:
            got.append(queue.dequeue())

    return run


def collect(queue: HybridQueue, got: list[bytes]) -> Callable[[], None]:
    """Take whatever comes until the queue is shut down and drained, then close it."""

    def run() -> None:
        with contextlib.suppress(QueueClosed):
            while True:
                got.append(queue.dequeue())
        queue.close()

    return run


def until_it_works(call: Callable[[], T], failures: list[HybridQueueError]) -> T:
    """Repeat `call` until the backend does not fail or meet damage in it; its result."""
    while True:
        try:
            return call()
        except (BackendError, CorruptedData) as exc:
            failures.append(exc)
