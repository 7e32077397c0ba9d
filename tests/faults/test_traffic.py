"""A day's traffic in miniature: millions of items, stalls, crashes, and an account of each item.

A producer and a consumer, threads of one process, are killed again and again; the next process
goes on where the queue says. What they have done is in memory that they share with the test::

    first ... taken ... taking ... acknowledged ... sending

as numbers of items: `taking` and `sending` are noted before a call, the others after it, `first`
when a new process has found where the queue starts. Nothing is lost as long as a process finds
that it starts no later than `taking` and ends no earlier than `acknowledged`.
"""

import ctypes
import mmap
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest

from hq_core import HybridQueue, Unlimited
from hq_core.testing.forking import forked, in_child
from hq_core.testing.spool import balanced
from tests.disks import MIB
from tests.faults.campaign import amount, note

SUBJECTS: dict[str, dict[str, Any]] = {
    "file": {"backend": "file"},
    "file checksum": {"backend": "file", "backend_options": {"checksum": True}},
    "lmdb": {"backend": "lmdb"},
}
BOUND: Final = amount(1, 64) * MIB
"""`max_overflow_bytes`; reached again and again."""
ALMOST_FULL: Final = BOUND - 500_000
ITEMS: Final = amount(100_000, 20_000_000)
CRASHES: Final = amount(4, 50)
WINDOW: Final = 255
"""Items that may come again after a crash, besides the last batch."""
MEMORY: Final = 500
BATCH: Final = 1000

PATIENCE: Final = 60.0
"""Seconds after which whoever waits is taken to wait in vain."""

_SIZES: Final = {0: 2000, 8: 1200, 56: 500, 180: 300, 1308: 92, 65_000: 4}
"""Bytes of filling, and how many items of 4,096 have so many."""
_FILLING: Final = [bytes(size) for size, count in _SIZES.items() for _ in range(count)]
random.Random(0).shuffle(_FILLING)


def items(first: int, end: int) -> list[bytes]:
    """Items `first` to `end`, without the last: their number, and filling."""
    return [n.to_bytes(8, "big") + _FILLING[n & 4095] for n in range(first, end)]


class Ledger(ctypes.Structure):
    """What outlives the process that writes it."""

    _fields_: ClassVar = [
        (name, ctypes.c_uint64)
        for name in (
            "sending",
            "acknowledged",
            "taking",
            "taken",
            "lives",
            "again",
            "most_again",
            "fullest",
        )
    ]
    sending: int
    acknowledged: int
    taking: int
    taken: int
    lives: int
    """Processes that have found out where the queue starts."""
    again: int
    """Items that came again."""
    most_again: int
    """The most of them after one crash."""
    fullest: int
    """The most bytes that the overflow has held."""


class Life:
    """A process: a producer and a consumer at one queue, from where the last one was killed."""

    def __init__(self, subject: str, directory: Path, ledger: Ledger) -> None:
        self._ledger = ledger
        self._queue = HybridQueue(
            "s",
            MEMORY,
            directory,
            limiter=Unlimited(),
            durable=True,
            max_overflow_bytes=BOUND,
            when_full="block",
            **SUBJECTS[subject],
        )

    def run(self) -> None:
        """Send and take what is left of all the items."""
        self._find_start()
        producer = threading.Thread(target=self._produce)
        producer.start()
        self._consume()
        producer.join()
        balanced(self._queue)
        stats = self._queue.stats()
        assert stats.depth == stats.discarded == 0
        self._queue.close()

    def _find_start(self) -> None:
        """Judge what is there, and take the first batch of it."""
        ledger, stored = self._ledger, self._queue.depth
        if not stored:  # then all that was acknowledged has been taken
            assert ledger.taking >= ledger.acknowledged, "items are lost"
            ledger.taken = ledger.taking = ledger.acknowledged = ledger.sending
            ledger.lives += 1
            return
        start = ledger.taking
        ledger.taking = ledger.taking + 1
        item = self._queue.dequeue()
        first = int.from_bytes(item[:8], "big")
        assert [item] == items(first, first + 1)
        assert first <= start, f"{first - start} items are lost"
        end = first + stored
        assert ledger.acknowledged <= end <= ledger.sending, f"{first} to {end} are stored"
        again = max(0, ledger.taken - first)
        ledger.again += again
        ledger.most_again = max(ledger.most_again, again)
        ledger.taken = ledger.taking = first + 1
        ledger.acknowledged = ledger.sending = end
        ledger.lives += 1

    def _produce(self) -> None:
        ledger, chance = self._ledger, random.Random(-self._ledger.lives)
        while ledger.acknowledged < ITEMS:
            end = min(ITEMS, ledger.acknowledged + chance.randrange(1, BATCH))
            batch = items(ledger.acknowledged, end)
            ledger.sending = end
            self._queue.enqueue_many(batch, PATIENCE)
            ledger.acknowledged = end
            if chance.random() < 0.001:
                time.sleep(chance.uniform(0, 0.05))

    def _consume(self) -> None:
        ledger, chance = self._ledger, random.Random(self._ledger.lives)
        self._stall(ALMOST_FULL, 10.0)
        while ledger.taken < ITEMS:
            most = chance.randrange(1, BATCH)
            ledger.taking = ledger.taken + most
            batch = self._queue.dequeue_many(most, PATIENCE)
            end = ledger.taken + len(batch)
            assert batch == items(ledger.taken, end), "not what was sent, or not in order"
            ledger.taken = end
            if chance.random() < 0.002:
                self._stall(chance.choice((BOUND, BOUND, ALMOST_FULL)), chance.uniform(0, 0.1))

    def _stall(self, enough: int, seconds: float) -> None:
        """Take nothing until the overflow holds `enough` bytes or a time is over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            balanced(self._queue)
            size = self._queue.stats().disk_bytes
            assert size <= BOUND
            self._ledger.fullest = max(self._ledger.fullest, size)
            if size >= enough or self._ledger.acknowledged == ITEMS:
                break
            time.sleep(0.001)


@pytest.mark.slow
@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_item_is_accounted_for_though_the_process_is_killed(
    tmp_path: Path, subject: str
) -> None:
    chance = random.Random(0)
    ledger = Ledger.from_buffer(mmap.mmap(-1, mmap.PAGESIZE))
    started = time.monotonic()
    for crash in range(1, CRASHES + 1):
        due = ITEMS * crash // (CRASHES + 1)
        process = forked(lambda: Life(subject, tmp_path, ledger).run())
        while ledger.taken < due:
            time.sleep(chance.uniform(0.0001, 0.002))
            assert os.waitpid(process, os.WNOHANG) == (0, 0), "it has ended too early"
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    in_child(lambda: Life(subject, tmp_path, ledger).run())
    assert ledger.taken == ledger.acknowledged == ITEMS
    left = [path.name for path in tmp_path.iterdir() if "quarantine" not in path.name]
    assert left == [], "besides what a kill has torn"
    assert ledger.fullest >= ALMOST_FULL
    assert ledger.most_again <= WINDOW + BATCH
    note(
        "traffic",
        subject,
        items=ITEMS,
        crashes=CRASHES,
        lost=ITEMS - ledger.taken,
        again=ledger.again,
        most_again=ledger.most_again,
        seconds=round(time.monotonic() - started),
    )
