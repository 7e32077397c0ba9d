"""Nothing has become several times slower than it was.

Compared are ratios and counts, never times. Through memory: CPU time of the queue over CPU time of
a plain loop that does the least that the task takes, in the same process, in turns. Of several
rounds the cheapest counts, since what else the machine does can only add to it. Through disk, where
the system's part varies too much for that: how many functions are called for a message.

Limits are three times the ratio, and a fifth more calls, than were measured when they were set: a
loaded machine does not reach them, a wake-up, a flush or another position for each item does.
`make bench` has the figures themselves.
"""

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import FrameType

import pytest

from benchmarks import messages
from benchmarks.clock import Clock
from benchmarks.peers import BATCH, PEERS, OpenQueue

pytestmark = pytest.mark.slow

ROUNDS = 7
SENT = messages.make("1316", 8192)
BATCHES = [SENT[at : at + BATCH] for at in range(0, len(SENT), BATCH)]
IN_MEMORY = len(SENT)

Phase = Callable[[OpenQueue], None]
Opening = Callable[[int], OpenQueue]
"""A fresh queue with so many items in memory."""


class LockedDeque:
    """What a queue of bytes with several threads takes: a lock, a deque and a count of bytes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._items: deque[bytes] = deque()
        self._bytes = 0

    def put(self, item: bytes) -> None:
        with self._lock:
            self._items.append(item)
            self._bytes += len(item)

    def get(self) -> bytes:
        with self._lock:
            item = self._items.popleft()
            self._bytes -= len(item)
            return item


def put_all(queue: OpenQueue) -> None:
    for message in SENT:
        queue.put(message)


def put_batches(queue: OpenQueue) -> None:
    assert queue.put_many
    for batch in BATCHES:
        queue.put_many(batch)


def get_all(queue: OpenQueue) -> None:
    assert [queue.get() for _ in SENT] == SENT


def pairs(queue: OpenQueue) -> None:
    for message in SENT:
        queue.put(message)
        queue.get()


def pairs_of_batches(queue: OpenQueue) -> None:
    assert queue.put_many
    assert queue.get_many
    for batch in BATCHES:
        queue.put_many(batch)
        queue.get_many(BATCH)


@pytest.fixture
def hybrid(tmp_path: Path) -> Opening:
    return _opening("hybrid-queue", tmp_path / "hybrid")


@pytest.fixture
def lmdb(tmp_path: Path) -> Opening:
    pytest.importorskip("lmdb")
    return _opening("hybrid-queue, LMDB", tmp_path / "lmdb")


def _opening(peer: str, directory: Path) -> Opening:
    numbers: Iterator[int] = count()

    def opening(memory_items: int) -> OpenQueue:
        place = directory / str(next(numbers))
        place.mkdir(parents=True)
        return PEERS[peer].open(place, memory_items)

    return opening


def _bare_deque(memory_items: int) -> OpenQueue:
    bare = LockedDeque()
    return OpenQueue(bare.put, bare.get, lambda: None)


def _cpu(queue: OpenQueue, phases: tuple[Phase, ...]) -> float:
    """CPU seconds of the last of `phases`, the others being what it takes to get there."""
    try:
        for phase in phases[:-1]:
            phase(queue)
        clock = Clock()
        with clock.running():
            phases[-1](queue)
        return clock.cpu
    finally:
        queue.close()


def ratio(
    ours: Opening,
    memory_items: int,
    phases: tuple[Phase, ...],
    reference: Opening,
    least: tuple[Phase, ...],
) -> float:
    """How many times as much CPU time ours takes as the least there is."""
    rounds = [(_cpu(ours(memory_items), phases), _cpu(reference(1), least)) for _ in range(ROUNDS)]
    return min(cost for cost, _ in rounds) / min(cost for _, cost in rounds)


def calls_a_message(opening: Opening, memory_items: int, phases: tuple[Phase, ...]) -> float:
    """How many functions, Python's and C's, this thread calls for a message in the last phase."""
    queue = opening(memory_items)
    calls = 0

    def counting(frame: FrameType, event: str, arg: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    try:
        for phase in phases[:-1]:
            phase(queue)
        sys.setprofile(counting)
        try:
            phases[-1](queue)
        finally:
            sys.setprofile(None)
    finally:
        queue.close()
    return calls / len(SENT)


def test_a_pair_through_memory_costs_a_few_times_a_locked_deque(hybrid: Opening) -> None:
    assert ratio(hybrid, IN_MEMORY, (pairs,), _bare_deque, (pairs,)) < 6


def test_a_batch_through_memory_costs_less_than_a_locked_deque(hybrid: Opening) -> None:
    assert ratio(hybrid, IN_MEMORY, (pairs_of_batches,), _bare_deque, (pairs,)) < 0.75


def test_an_append_takes_few_calls(hybrid: Opening) -> None:
    assert calls_a_message(hybrid, 1, (put_all,)) < 55


def test_appending_a_batch_takes_few_calls(hybrid: Opening) -> None:
    assert calls_a_message(hybrid, 1, (put_batches,)) < 5.7


@pytest.mark.parametrize(("memory_items", "limit"), [(1, 30), (100, 14.5)])
def test_draining_takes_few_calls(hybrid: Opening, memory_items: int, limit: float) -> None:
    assert calls_a_message(hybrid, memory_items, (put_batches, get_all)) < limit


def test_appending_a_batch_to_lmdb_takes_few_calls(lmdb: Opening) -> None:
    assert calls_a_message(lmdb, 1, (put_batches,)) < 6.1


def test_an_item_costs_no_more_the_longer_the_backlog(hybrid: Opening) -> None:
    long_backlog = (put_batches,) * 8
    assert ratio(hybrid, 1, (*long_backlog, put_batches), hybrid, (put_batches,)) < 3
    assert ratio(hybrid, 1, (*long_backlog, get_all), hybrid, (put_batches, get_all)) < 3
