"""Who waits sleeps: nobody tries again unless something has changed, or a time has come."""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from hq_core import BackendUnavailable, HybridQueue, QueueClosed, QueueFull
from hq_core.engine.engine import Engine
from hq_core.engine.waiters import ThreadWaiter
from tests.hq_core.promises.staging import around, balanced, items, opened, started, until

STORES: Final = pytest.mark.parametrize(
    "trouble", [BackendUnavailable("away"), QueueFull("the disk is full")], ids=["away", "full"]
)


class Refusing:
    """A store that is asked to append, counts that, and refuses."""

    def __init__(self) -> None:
        self.trouble: Exception | None = None
        self.asked = 0

    def __call__(self, method: str) -> None:
        if method == "append" and self.trouble is not None:
            self.asked += 1
            raise self.trouble


def parked(queue: HybridQueue) -> list[ThreadWaiter]:
    waiting: Any = itertools.chain(*queue._engine._producers.waiting.values())
    return sorted(waiting, key=lambda waiter: waiter.place)


def are_parked(queue: HybridQueue, count: int) -> bool:
    return len(parked(queue)) == count


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Whenever somebody is about to sleep: for how many seconds at most."""
    found: list[float] = []
    look_again = Engine.look_again

    def looking(engine: Engine) -> float:
        again = look_again(engine)
        found.append(again - engine._clock())
        return again

    monkeypatch.setattr(Engine, "look_again", looking)
    return found


@STORES
@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("producers", [1, 2, 5])
def test_a_refusal_wakes_no_other_producer(
    tmp_path: Path, trouble: Exception, durable: bool, producers: int
) -> None:
    store = Refusing()
    queue = opened(tmp_path, 2, around("memory", store), when_full="block", durable=durable)
    queue.enqueue_many(items(2))
    store.trouble = trouble
    threads = []
    for number in range(producers):
        threads.append(started(partial(queue.enqueue, b"%d" % number)))
        until(partial(are_parked, queue, number + 1))
    before = store.asked
    waiters = parked(queue)
    with pytest.raises((BackendUnavailable, QueueFull)):
        queue.enqueue(b"one more", 0)
    assert store.asked == before + 1
    assert parked(queue) == waiters, "somebody was woken by a refusal"
    store.trouble = None
    queue._engine.ready()
    for thread in threads:
        thread.join()
    assert queue.depth == producers + 2
    balanced(queue)
    queue.close()


@pytest.mark.parametrize("backend", ["file", "lmdb"])
@pytest.mark.parametrize("producers", [1, 3])
def test_room_for_the_payload_alone_wakes_nobody(
    tmp_path: Path, backend: str, producers: int
) -> None:
    """The bound counts framing too."""
    queue = opened(tmp_path, 1, backend, when_full="block", max_overflow_bytes=100)
    queue.enqueue_many([b"in memory"])
    queue.enqueue(b"s" * 50)  # leaves room for less than 50 bytes, framing included
    needed = 100 - queue.stats().disk_bytes
    threads = []
    for number in range(producers):
        threads.append(started(lambda: queue.enqueue(b"p" * needed)))
        until(partial(are_parked, queue, number + 1))
    waiters = parked(queue)
    with pytest.raises(QueueFull):
        queue.enqueue(b"p" * needed, 0)
    with queue._engine._locks.mutex:
        queue._engine._wake_producers()
    assert parked(queue) == waiters
    for _ in range(2 + producers):
        queue.dequeue()
    for thread in threads:
        thread.join()
    queue.close()


@pytest.mark.parametrize("durable", [False, True])
def test_a_lease_that_has_lapsed_is_given_back_whoever_looks(
    tmp_path: Path, looks: list[float], durable: bool
) -> None:
    """A producer that waits, and nobody else: it does not look at a time that has passed."""
    now = time.monotonic()
    queue = opened(tmp_path, 2, when_full="block", max_overflow_bytes=30, durable=durable)
    queue._engine._clock = lambda: now
    while queue.depth < (2 if durable else 4):
        queue.enqueue(b"x" * 10)
    queue.lease(1, deadline=5)
    if not durable:
        queue.enqueue(b"x" * 10)

    def wait() -> None:
        with suppress(QueueClosed):
            queue.enqueue(b"y" * 10)

    thread = started(wait)
    until(lambda: parked(queue))
    now += 6
    queue._engine.look_again()
    assert looks[-1] > 0
    assert queue.stats().leased == 0
    balanced(queue)
    queue.close()
    thread.join()


@pytest.mark.parametrize("ask", [lambda q: q.depth, lambda q: q.stats().depth])
def test_what_a_lapsed_lease_held_is_counted_as_there(
    tmp_path: Path, ask: Callable[[HybridQueue], int]
) -> None:
    now = time.monotonic()
    queue = opened(tmp_path)
    queue._engine._clock = lambda: now
    queue.enqueue_many(items(2))
    queue.lease(2, deadline=5)
    assert ask(queue) == 0
    now += 6
    assert ask(queue) == 2
    queue.close()


@pytest.fixture
def failing(tmp_path: Path) -> Iterator[tuple[HybridQueue, Callable[[str], None]]]:
    """A durable queue, all of which is leased, one trim of which has failed."""
    trouble: list[Exception] = []

    def store(method: str) -> None:
        if trouble and method in ("trim", "append", "read"):
            raise trouble[0]

    def turn(how: str) -> None:
        trouble.clear()
        if how:
            trouble.append(OSError(5, "I/O") if how == "fails" else BackendUnavailable("away"))

    queue = opened(tmp_path, 4, around("memory", store), durable=True)
    queue.enqueue(b"done")
    queue.dequeue()
    turn("fails")
    with pytest.raises(Exception, match=r"empty|busy|failed"):
        queue.try_dequeue()
    turn("")
    yield queue, turn
    queue.close()


def test_a_trim_that_need_not_be_repeated_is_looked_for_by_nobody(
    failing: tuple[HybridQueue, Callable[[str], None]],
) -> None:
    queue, _ = failing
    engine = queue._engine
    assert engine.overflow.retry_trim < math.inf
    queue.enqueue_many(items(2))
    lease = queue.lease(2)
    assert engine.look_again() > engine._clock()
    lease.ack()


def test_while_the_store_is_away_nobody_looks_for_a_trim(
    failing: tuple[HybridQueue, Callable[[str], None]],
) -> None:
    queue, turn = failing
    engine = queue._engine
    turn("away")
    with pytest.raises(BackendUnavailable):
        queue.enqueue(b"x")
    assert engine.look_again() == math.inf
