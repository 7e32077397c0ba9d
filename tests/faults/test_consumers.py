"""Several consumers of one queue: nothing is lost, nothing comes that was not sent, in order.

Order is judged by delivery. What a consumer gets for the first time is younger than all that was
handed out, to anybody, in calls that had returned when its own began; only what was given back
comes late. Each process but the last one is killed. What all of them have done to an item is in
memory that they share with the test: it was sent, handed out, perhaps done (its holder is about to
say so), done. An item that was acknowledged to the producer and is not perhaps done has to come
again, and so has all that is behind it.
"""

import itertools
import mmap
import os
import random
import signal
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest

from hq_core import HybridQueue, LeaseExpired, QueueClosed, Unlimited
from hq_core.testing.forking import forked, in_child
from hq_core.testing.spool import balanced
from tests.faults.campaign import amount, note
from tests.faults.messages import message

SUBJECTS: dict[str, dict[str, Any]] = {
    "file": {"backend": "file"},
    "lmdb": {"backend": "lmdb"},
    "file durable": {"backend": "file", "durable": True},
    "lmdb durable": {"backend": "lmdb", "durable": True},
}
ITEMS: Final = amount(6_000, 500_000)
CRASHES: Final = amount(2, 20)
BOUND: Final = 256 * 1024
SEED: Final = 7  # all of them tell their number
MOST: Final = 60
"""Items that a consumer takes at once, at most."""
WINDOW: Final = 255
PATIENCE: Final = 60.0


class Shared:
    """What outlives a process: for each fact a byte an item, which only one thread writes."""

    def __init__(self) -> None:
        self.sent, self.handed, self.perhaps_done, self.done = (
            mmap.mmap(-1, ITEMS) for _ in range(4)
        )


def mark(fact: mmap.mmap, numbers: Iterable[int]) -> None:
    """Note that it is so of these items."""
    for number in numbers:
        fact[number] = 1


def first_without(fact: mmap.mmap) -> int:
    """The oldest item of which it is not noted."""
    return found if (found := fact.find(b"\0")) >= 0 else ITEMS


class Life:
    """One process: a producer and its consumers, from where the last one was killed."""

    def __init__(
        self, subject: str, directory: Path, shared: Shared, consumers: int, *, leases: bool
    ) -> None:
        self._shared = shared
        self._consumers = consumers
        self._leases = leases
        self._durable = "durable" in subject
        self._ticks = itertools.count()
        self._calls: list[tuple[int, int, list[int]]] = []  # began, had returned, first deliveries
        self._seen = bytearray(ITEMS)
        self._queue = HybridQueue(
            "s",
            100,
            directory,
            limiter=Unlimited(),
            max_overflow_bytes=BOUND,
            when_full="block",
            **SUBJECTS[subject],
        )

    def run(self) -> None:
        """Judge what is there, send what is left to send, and take it all."""
        stored = self._queue.depth
        start = self._judge(stored, first_without(self._shared.sent))
        with ThreadPoolExecutor(self._consumers + 1) as threads:
            consuming = [threads.submit(self._consume, n) for n in range(self._consumers)]
            threads.submit(self._produce, start).result()
            self._queue.shutdown()
            for consumer in consuming:
                consumer.result()
        balanced(self._queue)
        stats = self._queue.stats()
        assert stats.depth == stats.leased == stats.discarded == 0
        assert stats.enqueued == stats.dequeued
        self._queue.close()
        self._judge_order()

    def _judge(self, stored: int, acknowledged: int) -> int:
        """Where to go on sending; what has to be there is there."""
        owed = first_without(self._shared.perhaps_done)
        if not stored:
            assert owed >= acknowledged, f"{acknowledged - owed} items are lost"
            return max(acknowledged, owed)
        lease = self._queue.lease()
        (item,) = lease.items
        lease.nack()  # so that it is judged like all others
        first = int.from_bytes(item[8:16], "big")
        assert item == message(SEED, first)
        assert first <= owed, f"{first - owed} items are lost"
        assert first >= first_without(self._shared.done) - WINDOW - MOST * self._consumers
        assert acknowledged <= first + stored, f"to {first + stored}, {acknowledged} were accepted"
        return first + stored

    def _produce(self, start: int) -> None:
        chance = random.Random(start)
        while start < ITEMS:
            end = min(ITEMS, start + chance.choice((1, 1, 3, 40)))
            self._queue.enqueue_many([message(SEED, n) for n in range(start, end)], PATIENCE)
            mark(self._shared.sent, range(start, end))
            start = end

    def _consume(self, name: int) -> None:
        chance = random.Random(name)
        held: list[int] = []
        try:
            while True:
                mark(self._shared.perhaps_done, held)
                most = chance.choice((1, 1, 5, MOST))
                if self._leases and chance.random() < 0.5:
                    held = []
                    self._lease(chance, most)
                elif most == 1:
                    held = self._note(lambda: [self._queue.dequeue(PATIENCE)])
                else:
                    held = self._note(lambda: self._queue.dequeue_many(most, PATIENCE))  # noqa: B023
        except QueueClosed:
            mark(self._shared.done, held)

    def _lease(self, chance: random.Random, most: int) -> None:
        """Lease some; acknowledge them, in time or not, or give them back."""
        seconds = chance.choice((0.001, 10.0, 10.0, 10.0))
        began = next(self._ticks)
        lease = self._queue.lease(most, PATIENCE, deadline=seconds)
        numbers = self._noted(began, lease.items)
        what = chance.random()
        if what < 0.2:
            lease.nack()
            return
        if what < 0.3:
            time.sleep(chance.uniform(0, 0.002))
        mark(self._shared.perhaps_done, numbers)
        try:
            lease.ack()
        except LeaseExpired:
            pass  # others have some of them, and see to those
        else:
            mark(self._shared.done, numbers)

    def _note(self, take: Callable[[], list[bytes]]) -> list[int]:
        began = next(self._ticks)
        return self._noted(began, take())

    def _noted(self, began: int, items: list[bytes]) -> list[int]:
        """The numbers of `items`, which are whole, and the delivery in the books."""
        numbers = [int.from_bytes(item[8:16], "big") for item in items]
        assert items == [message(SEED, number) for number in numbers], "damage, or a ghost"
        mark(self._shared.handed, numbers)
        new = [number for number in numbers if not self._seen[number]]
        assert numbers == sorted(numbers)
        assert self._leases or new == numbers, "an item came twice"
        for number in numbers:
            self._seen[number] = 1
        self._calls.append((began, next(self._ticks), new))
        return numbers

    def _judge_order(self) -> None:
        """First deliveries are in order, as far as one call came after another."""
        came = sorted((returned, max(new)) for _, returned, new in self._calls if new)
        youngest = -1
        place = 0
        for began, _, new in sorted(self._calls):
            while place < len(came) and came[place][0] < began:
                youngest = max(youngest, came[place][1])
                place += 1
            assert not new or min(new) > youngest, f"{new[0]} came behind {youngest}"


@pytest.mark.slow
@pytest.mark.parametrize("leases", [False, True], ids=["plain", "leases"])
@pytest.mark.parametrize("consumers", [2, 4])
@pytest.mark.parametrize("subject", SUBJECTS)
def test_several_consumers_get_everything_once_and_in_order(
    tmp_path: Path, subject: str, consumers: int, leases: bool
) -> None:
    shared = Shared()
    chance = random.Random(consumers)
    crashes = CRASHES if "durable" in subject else 0
    for crash in range(1, crashes + 1):
        due = ITEMS * crash // (CRASHES + 1)
        process = forked(lambda: Life(subject, tmp_path, shared, consumers, leases=leases).run())
        until = time.monotonic() + PATIENCE
        while not shared.handed[due]:
            time.sleep(chance.uniform(0.0001, 0.002))
            assert os.waitpid(process, os.WNOHANG) == (0, 0), "it has ended too early"
            assert time.monotonic() < until, "it hangs"
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    in_child(lambda: Life(subject, tmp_path, shared, consumers, leases=leases).run())
    lost = [n for n in range(ITEMS) if not shared.perhaps_done[n]]
    assert not lost
    assert not [path.name for path in tmp_path.iterdir() if "quarantine" not in path.name]
    note(
        f"{consumers} consumers, {'with leases' if leases else 'plain'}",
        subject,
        items=ITEMS,
        crashes=crashes,
        lost=len(lost),
    )
