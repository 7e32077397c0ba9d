"""Bounds and accounts hold at every moment, whoever is at work.

Every schedule of a few calls is in tests/hq_core/interleavings, each policy alone in
``TestFull`` of tests/hq_core/test_queue.py, and the exact bound in the suite of backends. Here: all
policies over real backends, with as many threads as get into each other's way, and one that looks.
What they do differs from run to run, what has to come of it does not.
"""

import math
import random
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest

from hq_core import BytesTier, HybridQueue, QueueClosed, QueueFull, Unlimited
from hq_core.engine.in_flight import State
from hq_core.protocols import WhenFull
from tests.faults.campaign import amount, note

SUBJECTS: dict[str, dict[str, Any]] = {
    "file": {"backend": "file"},
    "file durable": {"backend": "file", "durable": True},
    "lmdb": {"backend": "lmdb"},
    "lmdb durable": {"backend": "lmdb", "durable": True},
}
ITEMS: Final = amount(2_000, 100_000)
"""Items that each producer sends."""
PRODUCERS: Final = 3
CONSUMERS: Final = 3
MEMORY_BYTES: Final = 4_000
MEMORY_ITEMS: Final = 50
OVERFLOW_BYTES: Final = 20_000
LARGEST: Final = 330
"""Bytes that an item takes on disk, at most."""
PATIENCE: Final = 60.0


class Scene:
    """A queue that is always nearly full, and what its producers and consumers have seen."""

    def __init__(self, queue: HybridQueue, *, blocks: bool) -> None:
        self.queue = queue
        self.blocks = blocks
        self.full = threading.Event()
        self.over = threading.Event()
        self.got: list[list[bytes]] = [[] for _ in range(CONSUMERS)]

    def produce(self, name: int) -> int:
        """Send all items of a producer, one or a few at a time; how often that was refused."""
        chance = random.Random(name)
        sent = refused = 0
        while sent < ITEMS:
            end = min(ITEMS, sent + chance.choice((1, 1, 1, 2, 7)))
            batch = [item(name, number) for number in range(sent, end)]
            try:
                if len(batch) == 1:
                    self.queue.enqueue(batch[0], PATIENCE)
                else:
                    self.queue.enqueue_many(batch, PATIENCE)
            except QueueFull as exc:
                refused += not pinned_by_a_holder(exc)
                self.full.set()
                self.over.wait(0.0001)
            else:
                sent = end
        return refused

    def consume(self, name: int) -> None:
        """Once the queue has been full, take until there is nothing more to come."""
        chance = random.Random(-name)
        self.full.wait(PATIENCE)
        try:
            while True:
                if chance.random() < 0.5:
                    self.got[name].append(self.queue.dequeue(PATIENCE))
                else:
                    self.got[name] += self.queue.dequeue_many(chance.choice((1, 5, 30)), PATIENCE)
                if chance.random() < 0.05:
                    self.over.wait(chance.uniform(0, 0.002))
        except QueueClosed:
            pass

    def look(self) -> int:
        """Look at the queue until all is over; how often."""
        looks = 0
        while not self.over.wait(0.00001):
            self.check()
            looks += 1
        return looks

    def check(self) -> None:
        """What holds at every moment.

        With ``drop_oldest`` what is done, or dropped, behind an item that somebody holds is no live
        data, and does not keep others out; other policies do not look behind what is held.
        """
        engine = self.queue._engine
        with engine._locks.mutex:
            stats = self.queue.stats()
            runs = [run for run in engine._in_flight.runs if run.state is State.DONE]
            dead = engine._in_flight.done + sum(run.count for run in runs)
        if self.queue._engine.when_full != "drop_oldest":
            dead = 0
        assert stats.enqueued == stats.dequeued + stats.discarded + stats.leased + stats.depth
        assert stats.disk_bytes <= OVERFLOW_BYTES + dead * LARGEST
        assert stats.dropped == stats.discarded
        if stats.dropped or (self.blocks and stats.disk_bytes > OVERFLOW_BYTES // 2):
            self.full.set()
        assert stats.disk_bytes >= 0
        assert 0 <= stats.memory_bytes <= MEMORY_BYTES
        assert 0 <= stats.memory_items <= min(MEMORY_ITEMS, stats.depth)
        stored = max(stats.disk_bytes, 1) / OVERFLOW_BYTES if stats.pressure > 1.0 else 0.0
        assert 0.0 <= stats.pressure <= max(1.0 + stored, math.nextafter(1.0, 2.0))


def pinned_by_a_holder(refusal: QueueFull) -> bool:
    """Whether as much again as the bound is dead, behind what somebody holds: dropping more would
    only make it more."""
    numbers = [int(number) for number in re.findall(r"\d+", str(refusal))]
    return bool(numbers) and sum(numbers[:2]) > 2 * OVERFLOW_BYTES


def item(name: int, number: int) -> bytes:
    """An item of producer `name`, 7 to 306 bytes."""
    return b"%d %05x" % (name, number) + bytes(number * 7 % 300)


def number_of(item: bytes) -> tuple[int, int]:
    """The producer of an item, and its number."""
    name, number = item.rstrip(b"\0").split()
    return int(name), int(number, 16)


@pytest.fixture
def _restless() -> Iterator[None]:
    """Threads take turns 500 times as often as they do by default."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.00001)
    yield
    sys.setswitchinterval(before)


@pytest.mark.slow
@pytest.mark.usefixtures("_restless")
@pytest.mark.parametrize("when_full", ["raise", "block", "drop_oldest", "drop_newest"])
@pytest.mark.parametrize("subject", SUBJECTS)
def test_no_bound_is_passed_and_every_item_is_accounted_for(
    tmp_path: Path, subject: str, when_full: WhenFull
) -> None:
    with (
        HybridQueue(
            "s",
            None,
            tmp_path,
            memory=BytesTier(MEMORY_BYTES, MEMORY_ITEMS),
            limiter=Unlimited(),
            max_overflow_bytes=OVERFLOW_BYTES,
            when_full=when_full,
            **SUBJECTS[subject],
        ) as queue,
        ThreadPoolExecutor(PRODUCERS + CONSUMERS + 1) as threads,
    ):
        scene = Scene(queue, blocks=when_full == "block")
        looking = threads.submit(scene.look)
        consumers = [threads.submit(scene.consume, name) for name in range(CONSUMERS)]
        producers = [threads.submit(scene.produce, name) for name in range(PRODUCERS)]
        try:
            refused = sum(producer.result() for producer in producers)
            queue.shutdown()
            for consumer in consumers:
                consumer.result()
        finally:
            queue.shutdown()
            scene.over.set()
        looks = looking.result()
        scene.check()
        stats = queue.stats()
    got = [[number_of(item) for item in mine] for mine in scene.got]
    total = Counter(number for mine in got for number in mine)
    assert stats.depth == 0
    assert stats.enqueued == PRODUCERS * ITEMS
    assert stats.dequeued == total.total() == len(total), "an item came twice"
    assert stats.enqueued == stats.dequeued + stats.dropped
    assert (stats.dropped > 0) == (when_full in {"drop_oldest", "drop_newest"})
    assert (refused > 0) == (when_full == "raise")
    for mine in got:
        for name in range(PRODUCERS):
            of_one = [number for producer, number in mine if producer == name]
            assert of_one == sorted(of_one), "a producer's items overtook one another"
    assert all(items_are_whole(mine) for mine in scene.got)
    note(
        f"bounds, when_full={when_full}",
        subject,
        items=stats.enqueued,
        dropped=stats.dropped,
        lost=stats.enqueued - stats.dequeued - stats.dropped,
        looks=looks,
    )


def items_are_whole(items: list[bytes]) -> bool:
    """Whether each is what its producer sent."""
    return all(mine == item(*number_of(mine)) for mine in items)
