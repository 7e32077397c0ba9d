"""What the engine promises beyond what a front end shows: calls within calls, trims, wake-ups."""

import contextlib
import gc
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from hq_core import (
    CountTier,
    HybridQueue,
    QueueClosed,
    ReentrantCallError,
    Stream,
    Unlimited,
)
from hq_core.engine.waiters import Line, ThreadWaiter, Waiter
from hq_core.testing import ManualPump, MemoryBackend
from hq_core.testing.spool import balanced, numbered

MakeQueue = Callable[..., HybridQueue]


@pytest.fixture
def make_queue(tmp_path: Path) -> Iterator[MakeQueue]:
    opened: list[HybridQueue] = []

    def make(memory_items: int | None = 2, **options: Any) -> HybridQueue:
        options = {"limiter": Unlimited(), "pump": ManualPump(), **options}
        opened.append(HybridQueue("cam", memory_items, tmp_path, **options))
        return opened[-1]

    yield make
    for queue in opened:
        queue.close()


# ---- a call in the middle of this thread's own call ------------------------------------------


class Tier(CountTier):
    """Calls `within` once, in the middle of the queue's own change."""

    def __init__(self) -> None:
        super().__init__(2)
        self.within: Callable[[], object] | None = None

    def _call(self) -> None:
        within, self.within = self.within, None
        if within is not None:
            within()

    def offer_one(self, item: bytes) -> bool:
        self._call()
        return super().offer_one(item)

    def take_one(self) -> bytes | None:
        self._call()
        return super().take_one()


class Backend(MemoryBackend):
    """Calls `within` once, in the middle of the queue's own call."""

    within: Callable[[], object] | None = None

    def append(self, records: Sequence[bytes]) -> None:
        within, type(self).within = type(self).within, None
        if within is not None:
            within()
        super().append(records)


@pytest.fixture(params=["tier", "backend"])
def interrupted(
    make_queue: MakeQueue, request: pytest.FixtureRequest
) -> tuple[HybridQueue, Callable[[Callable[[], object]], None]]:
    """A queue, and what makes an `enqueue` in the middle of which something is called."""
    tier = Tier()
    queue = make_queue(None, memory=tier, backend=Backend)
    queue.enqueue(b"1")
    if request.param == "backend":
        queue.enqueue(b"2")

    def enqueue_within(call: Callable[[], object]) -> None:
        if request.param == "backend":
            Backend.within = staticmethod(call)
        else:
            tier.within = call
        queue.enqueue(b"new")

    return queue, enqueue_within


Interrupted = tuple[HybridQueue, Callable[[Callable[[], object]], None]]


@pytest.mark.parametrize(
    "call",
    [
        lambda queue: queue.enqueue(b"x"),
        lambda queue: queue.enqueue_many([b"x"]),
        lambda queue: queue.dequeue(),
        lambda queue: queue.dequeue_many(2),
        lambda queue: queue.try_dequeue(),
        lambda queue: queue.lease(),
    ],
    ids=["enqueue", "enqueue_many", "dequeue", "dequeue_many", "try_dequeue", "lease"],
)
def test_what_moves_items_is_refused_and_the_call_it_interrupts_goes_on(
    interrupted: Interrupted, call: Callable[[HybridQueue], object], request: pytest.FixtureRequest
) -> None:
    """In the middle of a call on the backend, what memory holds may be taken: it is whole."""
    queue, enqueue_within = interrupted
    refusals = []

    def within() -> None:
        try:
            call(queue)
        except ReentrantCallError as refusal:
            refusals.append(str(refusal))

    depth = queue.depth
    enqueue_within(within)
    if "backend" in request.node.name and "enqueue" not in request.node.name:
        assert refusals == []
    else:
        assert len(refusals) == 1
        assert "'cam'" in refusals[0]
        assert queue.depth == depth + 1
    balanced(queue)


def test_sync_is_refused_too(interrupted: Interrupted) -> None:
    queue, enqueue_within = interrupted

    def within() -> None:
        with pytest.raises(ReentrantCallError):
            queue.sync()

    enqueue_within(within)
    assert queue.dequeue() == b"1"


def test_questions_are_answered(interrupted: Interrupted) -> None:
    queue, enqueue_within = interrupted
    told = []
    enqueue_within(lambda: told.append((queue.stats().depth, queue.depth, queue.pressure > 0)))
    assert len(told) == 1
    assert told[0][0] == told[0][1] == queue.depth - 1


def test_shutdown_works(interrupted: Interrupted) -> None:
    queue, enqueue_within = interrupted
    enqueue_within(queue.shutdown)
    with pytest.raises(QueueClosed):
        queue.enqueue(b"late")
    assert list(queue)[-1] == b"new"


def test_close_works_and_is_done_when_the_call_ends(
    interrupted: Interrupted, tmp_path: Path
) -> None:
    queue, enqueue_within = interrupted
    seen = []

    def within() -> None:
        queue.close()
        with pytest.raises((QueueClosed, ReentrantCallError)):
            queue.enqueue(b"x")
        seen.append(True)

    enqueue_within(within)
    assert seen == [True]
    assert list(tmp_path.iterdir()) == []
    balanced(queue)
    assert queue.depth == 0
    HybridQueue("cam", 1, tmp_path).close()


@pytest.fixture
def signalled(make_queue: MakeQueue) -> Iterator[tuple[HybridQueue, Callable[[str], None]]]:
    """A queue, and what says which of its methods a signal handler calls."""
    queue = make_queue()
    calls: list[str] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: getattr(queue, calls[0])())
    yield queue, calls.append
    signal.signal(signal.SIGUSR1, before)


Signalled = tuple[HybridQueue, Callable[[str], None]]


@pytest.mark.parametrize("call", ["close", "shutdown"])
def test_a_signal_handler_may_end_the_queue_its_thread_waits_on(
    signalled: Signalled, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, calls = signalled
    calls(call)
    wait = ThreadWaiter.wait

    def hit(waiter: ThreadWaiter, timeout: float | None = None) -> bool:
        signal.raise_signal(signal.SIGUSR1)
        return wait(waiter, timeout)

    monkeypatch.setattr(ThreadWaiter, "wait", hit)
    with pytest.raises(QueueClosed):
        queue.dequeue()


@pytest.mark.parametrize("call", ["close", "shutdown"])
def test_a_signal_handler_may_end_the_queue_its_thread_is_about_to_wait_on(
    signalled: Signalled, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it has seen that nothing is there, and is not parked yet."""
    queue, calls = signalled
    calls(call)
    park = Line.park

    def hit(line: Line, waiter: Waiter) -> None:
        signal.raise_signal(signal.SIGUSR1)
        park(line, waiter)

    monkeypatch.setattr(Line, "park", hit)
    waiter = ThreadWaiter()
    with contextlib.suppress(QueueClosed):
        assert queue._engine.take(1, waiter) == []
        assert waiter.wait(0), "it would sleep for ever"
    with pytest.raises(QueueClosed):
        queue.dequeue(0)


def test_a_finaliser_may_close_another_queue_and_its_own(
    make_queue: MakeQueue, tmp_path: Path
) -> None:
    tier = Tier()
    queue = make_queue(None, memory=tier)

    class Owner:
        def __del__(self) -> None:
            queue.close()

    def collect() -> None:
        owner = Owner()
        del owner
        gc.collect()

    tier.within = collect
    queue.enqueue(b"x")
    assert list(tmp_path.iterdir()) == []
    balanced(queue)


# ---- wake-ups --------------------------------------------------------------------------------


def test_who_gives_up_after_being_woken_passes_the_wake_up_on(make_queue: MakeQueue) -> None:
    queue = make_queue()
    first, second = ThreadWaiter(), ThreadWaiter()
    for waiter in (first, second):
        assert queue._engine.take(1, waiter) == []
    queue.enqueue(b"x")
    assert first.wait(0)
    assert not second.wait(0)
    queue._engine.withdraw(first)
    assert second.wait(0)


def test_who_gives_up_before_being_woken_wakes_nobody(make_queue: MakeQueue) -> None:
    queue = make_queue()
    first, second = ThreadWaiter(), ThreadWaiter()
    for waiter in (first, second):
        assert queue._engine.take(1, waiter) == []
    queue._engine.withdraw(first)
    queue.enqueue(b"x")
    assert not first.wait(0)
    assert second.wait(0)


def test_a_wake_up_that_nobody_else_needs_is_gone(make_queue: MakeQueue) -> None:
    queue = make_queue()
    first, second = ThreadWaiter(), ThreadWaiter()
    assert queue._engine.take(1, first) == []
    queue.enqueue(b"x")
    queue._engine.withdraw(first)
    assert queue._engine.take(1, second) == [b"x"]
    assert queue._engine.take(1, second) == []
    assert not second.wait(0)


def test_a_producer_that_is_woken_in_vain_keeps_its_place(make_queue: MakeQueue) -> None:
    queue = make_queue(1, max_overflow_bytes=20, when_full="block")
    engine = queue._engine
    queue.enqueue(b"m")
    queue.enqueue(bytes(16))
    large, small = ThreadWaiter((1, 15)), ThreadWaiter((1, 16))
    assert not engine.spill([bytes(15)], 0.0, large)
    assert not engine.spill([bytes(16)], 0.0, small)
    places = (large.place, small.place)
    assert not engine.spill([bytes(15)], 0.0, large)
    assert (large.place, small.place) == places
    engine.withdraw(large)
    engine.withdraw(small)


# ---- trims -----------------------------------------------------------------------------------


class Counting(MemoryBackend):
    """Counts its trims."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self.trims: list[int] = []
        self.reads: list[int] = []

    def trim(self, count: int) -> None:
        self.trims.append(count)
        super().trim(count)

    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        records = super().read(skip, max_records, max_bytes)
        self.reads.append(len(records))
        return records


def backend_of(queue: HybridQueue) -> Any:
    return queue._engine.overflow.backend


@pytest.mark.parametrize("memory_items", [1, 100])
def test_a_refill_reads_once_and_trims_once(make_queue: MakeQueue, memory_items: int) -> None:
    queue = make_queue(memory_items, backend=Counting)
    items = numbered(5_000)
    for at in range(0, 5_000, 50):
        queue.enqueue_many(items[at : at + 50])
    assert [queue.dequeue(0) for _ in items] == items
    backend = backend_of(queue)
    assert sum(backend.reads) == sum(backend.trims) == queue.stats().spilled
    assert len(backend.reads) <= 6
    assert len(backend.trims) <= len(backend.reads) + 1 + 5_000 // 1024
    assert backend.depth() == 0


def test_a_durable_queue_trims_256_items_at_once_and_the_rest_once_drained(
    make_queue: MakeQueue,
) -> None:
    queue = make_queue(10, durable=True, backend=Counting)
    queue.enqueue_many(numbered(1_000))
    backend = backend_of(queue)
    for number in range(1_000):
        queue.dequeue(0)
        assert backend.depth() < 1_000 - number + 256 + 1
    assert len(backend.trims) <= 1_000 // 256 + 1
    with pytest.raises(TimeoutError):
        queue.dequeue(0)
    assert backend.depth() == 0
    assert len(backend.trims) <= 1_000 // 256 + 2


def test_at_close_a_durable_queue_trims_what_is_done(make_queue: MakeQueue) -> None:
    queue = make_queue(10, durable=True, backend=Counting)
    queue.enqueue_many(numbered(100))
    for _ in range(40):
        queue.dequeue()
    backend = backend_of(queue)
    assert backend.trims == []
    queue.close()
    assert backend.trims == [40]
    with make_queue(10, durable=True, backend=Counting) as queue:
        assert queue.recovery.records == 60


def test_a_producer_that_waits_for_room_is_not_kept_waiting_for_a_gathered_trim(
    make_queue: MakeQueue,
) -> None:
    queue = make_queue(1, durable=True, backend=Counting, max_overflow_bytes=28, when_full="block")
    queue.enqueue_many([bytes(10), bytes(10)])
    waiter = ThreadWaiter((1, 10))
    assert not queue._engine.spill([bytes(10)], 0.0, waiter)
    assert queue.dequeue(0) == bytes(10)
    assert not waiter.wait(0)  # its holder may not be done with it
    assert queue.dequeue(0) == bytes(10)
    assert waiter.wait(0)
    assert queue._engine.spill([bytes(10)], 0.0, waiter)
