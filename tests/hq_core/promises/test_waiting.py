"""Nobody waits in vain: for room, for what is given back, for a store that fails for a while."""

import asyncio
import logging
import pickle
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from hq_core import (
    BackendError,
    BackendUnavailable,
    BytesTier,
    HybridQueue,
    HybridQueueError,
    QueueClosed,
    QueueEmpty,
    QueueFull,
    StreamBusyError,
    ThreadPump,
)
from hq_core.testing import ManualPump
from hq_core.testing.forking import forked
from tests.hq_core.promises.staging import (
    FRONTS,
    PATIENCE,
    Gate,
    around,
    balanced,
    drain,
    hands,
    items,
    opened,
    started,
    until,
)


def test_one_item_gets_the_room_that_a_batch_before_it_cannot_use(tmp_path: Path) -> None:
    """Who waits for more keeps its place, and keeps nobody from room that is there."""
    queue = opened(tmp_path, 10, when_full="block", max_overflow_bytes=1)
    for item in items(10):
        queue.enqueue(item)
    lines = queue._engine._producers
    batch = started(lambda: queue.enqueue_many(items(10, start=100), PATIENCE))
    until(lambda: sum(map(len, lines.waiting.values())) == 1)
    one = started(lambda: queue.enqueue(b"one", PATIENCE))
    until(lambda: sum(map(len, lines.waiting.values())) == 2)
    found = [queue.dequeue()]
    one.join(PATIENCE)
    assert not one.is_alive(), "it sleeps beside the room"
    assert batch.is_alive()
    while len(found) < 11:
        found.append(queue.dequeue(PATIENCE))
    batch.join(PATIENCE)
    assert not batch.is_alive(), "it sleeps beside the room"
    found += drain(queue)
    assert found == [*items(10), b"one", *items(10, start=100)]
    balanced(queue)
    queue.close()


@pytest.mark.parametrize(
    "durable",
    [
        True,
        False,
    ],
)
def test_a_trim_that_fails_for_a_while_keeps_nobody_waiting_for_good(
    tmp_path: Path, durable: bool
) -> None:
    """When the store trims again, a blocked producer and its consumer go on."""
    fails_until = time.monotonic() + 0.5

    def before(method: str) -> None:
        if method == "trim" and time.monotonic() < fails_until:
            raise OSError("not now")

    queue = opened(
        tmp_path,
        2,
        around("memory", before=before),
        durable=durable,
        when_full="block",
        max_overflow_bytes=2 * 14,
        pump=ThreadPump(),
    )
    made = items(20, size=10)

    def produce() -> None:
        with suppress(HybridQueueError):
            for item in made:
                queue.enqueue(item, PATIENCE)

    found: list[bytes] = []
    producer = started(produce)
    try:
        while len(found) < len(made):
            found.append(queue.dequeue(PATIENCE / 4))
        producer.join(PATIENCE)
        assert found == made
        balanced(queue)
    finally:
        queue.close()
        producer.join(PATIENCE)
    assert not producer.is_alive()


def test_a_tier_that_has_no_memory_for_a_refill_loses_nothing(tmp_path: Path) -> None:
    """A `MemoryError` from `offer` leaves the items where they are; they are read again."""

    class Poor(BytesTier):
        poor = False

        @override
        def offer(self, items: Sequence[bytes]) -> bool:
            if self.poor:
                raise MemoryError
            return super().offer(items)

    tier = Poor(1000, 4)
    queue = opened(tmp_path, None, memory=tier)
    made = items(12)
    for item in made:
        queue.enqueue(item)
    found = [queue.dequeue() for _ in range(3)]
    Poor.poor = True
    for _ in range(3):
        try:
            found.append(queue.dequeue(0.1))
        except (MemoryError, HybridQueueError):
            continue
    tier.poor = Poor.poor = False
    assert found + drain(queue) == made
    balanced(queue)
    queue.close()


def test_closing_twice_at_once_returns_to_both_when_it_is_done(tmp_path: Path) -> None:
    """Of several callers each returns when the stream is free."""
    may_end, reached = threading.Event(), threading.Event()

    def before(method: str) -> None:
        if method == "close":
            reached.set()
            may_end.wait(PATIENCE)

    queue = opened(tmp_path, 2, around("file", before=before))
    for item in items(4):
        queue.enqueue(item)
    first = started(queue.close)
    assert reached.wait(PATIENCE)
    second = started(queue.close)
    second.join(0.2)
    assert second.is_alive(), "it returns though the queue is not closed"
    may_end.set()
    for thread in (first, second):
        thread.join(PATIENCE)
        assert not thread.is_alive()
    opened(tmp_path).close()


def test_a_logging_filter_that_raises_during_close_leaves_the_stream_free(tmp_path: Path) -> None:
    """What logging does is no trouble of closing."""

    def raises(record: logging.LogRecord) -> bool:
        raise ZeroDivisionError

    queue = opened(tmp_path, 2)
    for item in items(4):
        queue.enqueue(item)
    log = logging.getLogger("hq_core")
    log.addFilter(raises)
    for logger in (logging.getLogger("hq_core.engine.notices"), log):
        logger.addFilter(raises)
    try:
        try:
            queue.close()
        except ZeroDivisionError:
            queue.close()
    finally:
        for logger in (logging.getLogger("hq_core.engine.notices"), log):
            logger.removeFilter(raises)
    opened(tmp_path).close()


def test_a_queue_cannot_be_sent_and_says_what_to_do(tmp_path: Path) -> None:
    """One process owns a stream."""
    with opened(tmp_path) as queue, pytest.raises(TypeError, match="one process owns a stream"):
        pickle.dumps(queue)


def test_a_closed_queue_cannot_be_opened_by_its_view(tmp_path: Path) -> None:
    """``await q.open()`` on a closed queue raises."""

    async def main() -> None:
        queue = opened(tmp_path)
        view = queue.aio
        await view.close()
        with pytest.raises(QueueClosed):
            await view.open()

    asyncio.run(main())


def test_a_forked_child_is_told_whose_queue_it_is_by_either_view(tmp_path: Path) -> None:
    """Neither `.aio` nor the queue itself hangs in a child; both say that it is the parent's."""
    import os

    queue: HybridQueue = opened(tmp_path)
    queue.enqueue(b"x")

    def work() -> None:
        for call in (lambda: queue.aio, queue.dequeue, lambda: queue.enqueue(b"y"), queue.stats):
            with pytest.raises(StreamBusyError):
                call()

    assert os.waitstatus_to_exitcode(os.waitpid(forked(work), 0)[1]) == 0
    assert drain(queue) == [b"x"]
    queue.close()


def test_stats_of_millions_of_items_keeps_nobody_waiting(tmp_path: Path) -> None:
    """A snapshot takes as long with two million items as with two."""
    count = 2_000_000
    queue = opened(tmp_path, count)
    queue.enqueue_many([b"x"] * count)
    fastest = 1.0
    for _ in range(20):
        began = time.perf_counter()
        queue.stats()
        fastest = min(fastest, time.perf_counter() - began)
    assert queue.depth == count
    assert fastest < 0.001
    queue.close()


# ---- a wake-up goes on to somebody who can use it ---------------------------------------------


def are_waiting(queue: HybridQueue, line: str, count: int) -> bool:
    waiting = getattr(queue._engine, line).waiting
    return sum(map(len, waiting.values())) == count


def parked_one_by_one(
    queue: HybridQueue, line: str, calls: Sequence[Callable[[], Future[Any]]]
) -> list[Future[Any]]:
    """What comes of `calls`, which wait in this order."""
    begun = []
    for call in calls:
        begun.append(call())
        until(partial(are_waiting, queue, line, len(begun)))
    return begun


@pytest.mark.slow
@FRONTS
def test_a_producer_that_is_woken_and_meets_a_busy_backend_passes_the_room_on(
    tmp_path: Path, front: str
) -> None:
    """Until its deadline; then another one, who has none, is in its stead."""
    gate = Gate("sync")
    queue = opened(tmp_path, 1, around("memory", gate), when_full="block", max_overflow_bytes=1)
    queue.enqueue(b"first")
    with hands(queue, front, 2) as (late, patient):
        refused, waiting = parked_one_by_one(
            queue,
            "_producers",
            [
                lambda: late.begin("enqueue", b"late", 0.5),
                lambda: patient.begin("enqueue", b"patient"),
            ],
        )
        gate.shut()
        syncing = started(queue.sync)
        assert gate.reached.wait(PATIENCE)
        assert queue.dequeue(0) == b"first"
        with pytest.raises(QueueFull):
            refused.result(PATIENCE)
        gate.open()
        syncing.join(PATIENCE)
        waiting.result(PATIENCE)
        assert drain(queue) == [b"patient"]
    queue.close()


@FRONTS
@pytest.mark.parametrize("exception", [KeyboardInterrupt, MemoryError, OSError])
def test_a_producer_that_is_woken_and_fails_passes_the_room_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, front: str, exception: type[BaseException]
) -> None:
    """Interrupted before it has looked, or met by a store that fails once."""
    if front == "asyncio" and exception is KeyboardInterrupt:
        pytest.skip("not tested: it ends the loop, and all who wait there")
    fails: list[BaseException] = []

    def before(method: str) -> None:
        if method == "append" and fails and exception is OSError:
            raise fails.pop()

    queue = opened(
        tmp_path,
        4,
        around("memory", before),
        durable=True,
        when_full="block",
        max_overflow_bytes=5,
    )
    queue.enqueue(b"0")
    spill = queue._engine.spill

    def interrupted(made: Sequence[bytes], *args: Any) -> bool:
        if fails and exception is not OSError:
            raise fails.pop()
        return spill(made, *args)

    monkeypatch.setattr(queue._engine, "spill", interrupted)
    with hands(queue, front, 2) as (one, other):
        failing, waiting = parked_one_by_one(
            queue,
            "_producers",
            [lambda: one.begin("enqueue", b"1"), lambda: other.begin("enqueue", b"2")],
        )
        fails.append(exception())
        assert queue.dequeue() == b"0"
        with suppress(QueueEmpty):
            queue.try_dequeue()  # which is done with that one
        through = []
        for call in (failing, waiting):  # which of them tries first is no matter
            with suppress(exception, BackendError):
                call.result(PATIENCE)
                through.append(call)
        assert len(through) == 1
        balanced(queue)
    queue.close()


@FRONTS
@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("failures", [1, 2])
def test_a_consumer_that_is_woken_and_meets_a_failing_read_passes_it_on(
    tmp_path: Path, front: str, durable: bool, failures: int
) -> None:
    """Two are woken for two stored items; who waits behind them does not sleep beside those."""
    left = 0

    def before(method: str) -> None:
        nonlocal left
        if method == "read" and left:
            left -= 1
            raise OSError(5, "I/O")

    queue = opened(tmp_path, 1, around("memory", before), durable=durable)
    with hands(queue, front, 2 + failures) as consumers:
        calls = parked_one_by_one(
            queue, "_consumers", [partial(one.begin, "dequeue") for one in consumers]
        )
        left = failures
        queue.enqueue_many(items(2))
        until(lambda: sum(call.done() for call in calls) == 2 + failures)
        got = [call.result() for call in calls if call.exception() is None]
        assert sorted(got) == items(2)[: len(got)]
        assert len(got) + queue.depth == 2
        assert len(got) >= 2 or queue.depth
        assert sum(call.exception() is not None for call in calls) >= failures
        balanced(queue)
    queue.close()


@FRONTS
@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("exception", [KeyboardInterrupt, MemoryError])
def test_a_consumer_that_is_interrupted_before_it_takes_passes_its_wake_up_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    front: str,
    durable: bool,
    exception: type[BaseException],
) -> None:
    """Between waking and taking."""
    if front == "asyncio" and exception is KeyboardInterrupt:
        pytest.skip("not tested: it ends the loop, and all who wait there")
    queue = opened(tmp_path, 4, "memory", durable=durable)
    method = "take" if front == "thread" else "grab"
    take = getattr(queue._engine, method)
    fails: list[BaseException] = []

    def interrupted(*args: Any, **options: Any) -> Any:
        if fails:
            raise fails.pop()
        return take(*args, **options)

    with hands(queue, front, 2) as (one, other):
        failing, waiting = parked_one_by_one(
            queue,
            "_consumers",
            [lambda: one.begin("dequeue"), lambda: other.begin("dequeue")],
        )
        monkeypatch.setattr(queue._engine, method, interrupted)
        fails.append(exception())
        queue.enqueue(b"x")
        with pytest.raises(exception):
            failing.result(PATIENCE)
        assert waiting.result(PATIENCE) == b"x"
    queue.close()


@FRONTS
@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("said", ["in the call", "after the call"])
@pytest.mark.parametrize(
    "refusal", [BackendUnavailable("away"), QueueFull("no room")], ids=["away", "full"]
)
def test_a_store_that_is_ready_before_its_refusal_has_arrived_is_heard(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    front: str,
    durable: bool,
    said: str,
    refusal: Exception,
) -> None:
    """`on_ready`, at any moment between the refusal and the producer's sleep."""
    left = 0

    def before(method: str) -> None:
        nonlocal left
        if method == "append" and left:
            left -= 1
            if said == "in the call":
                queue._engine.ready()
            raise refusal

    queue = opened(tmp_path, 1, around("memory", before), when_full="block", durable=durable)
    overflow = queue._engine.overflow
    append = overflow.append

    def appended(*args: Any) -> Any:
        reason = append(*args)
        if reason is not None and said == "after the call":
            queue._engine.ready()
        return reason

    monkeypatch.setattr(overflow, "append", appended)
    queue.enqueue_many(items(2))
    left = 2
    with hands(queue, front, 1) as (producer,):
        producer.do("enqueue", items(3)[2])
        assert drain(queue) == items(3)
    queue.close()


# ---- pumps that do not move anything -----------------------------------------------------------


@FRONTS
@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("trouble", [None, SystemExit, asyncio.CancelledError])
def test_producers_get_the_room_that_consumers_make_whatever_the_pump_does(
    tmp_path: Path, front: str, durable: bool, trouble: type[BaseException] | None
) -> None:
    """It never takes a step, or one met an exception of the backend's that would end its thread;
    which goes on."""
    met = threading.Event()

    def before(method: str) -> None:
        pumps = threading.current_thread().name.startswith("hq-pump")
        if trouble is not None and method in ("read", "trim") and pumps and not met.is_set():
            met.set()
            raise trouble

    queue = opened(
        tmp_path,
        64,
        around("memory", before),
        durable=durable,
        when_full="block",
        max_overflow_bytes=14 * 300,
        pump=ManualPump() if trouble is None else ThreadPump(),
    )
    count = fill(queue)
    consumer = iter(range(count))
    with hands(queue, front, 5) as producers:
        calls = parked_one_by_one(
            queue,
            "_producers",
            [partial(one.begin, "enqueue", items(1, size=10)[0]) for one in producers],
        )
        for _ in range(40):
            assert queue.dequeue(PATIENCE) == items(1, start=next(consumer), size=10)[0]
        while trouble is not None and not met.wait(0.01):
            queue._engine.pumping.wake()  # unless consumers have left it nothing to do so far
        for _ in range(160):
            assert queue.dequeue(PATIENCE) == items(1, start=next(consumer), size=10)[0]
        for call in calls:
            call.result(PATIENCE)
        for _ in range(count - 200):
            assert queue.dequeue(PATIENCE) == items(1, start=next(consumer), size=10)[0]
        if trouble is not None:
            assert met.is_set()
            pump: Any = queue._engine.pumping.pump
            assert getattr(pump, "_pump", pump)._thread.is_alive()
        balanced(queue)
    queue.close()


def fill(queue: HybridQueue) -> int:
    """Put in what there is room for; how many that is."""
    count = 0
    with suppress(QueueFull):
        while True:
            queue.enqueue(items(1, start=count, size=10)[0], 0)
            count += 1
    return count
