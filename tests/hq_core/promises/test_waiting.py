"""Nobody waits in vain: for room, for what is given back, for a store that fails for a while."""

import asyncio
import logging
import pickle
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from typing_extensions import override

from hq_core import (
    BytesTier,
    HybridQueue,
    HybridQueueError,
    QueueClosed,
    StreamBusyError,
    ThreadPump,
)
from hq_core.testing.forking import forked
from tests.hq_core.promises.staging import (
    PATIENCE,
    around,
    balanced,
    drain,
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
