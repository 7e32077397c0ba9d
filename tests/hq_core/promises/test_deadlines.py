"""No call outlives its deadline because another thread is in a call on a slow store."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from hq_core import (
    BackendUnavailable,
    DequeueTimeout,
    HybridQueue,
    HybridQueueError,
    InlinePump,
    Pump,
    QueueEmpty,
    QueueFull,
    ThreadPump,
)
from hq_core.testing import ManualPump
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
)

MOST: Final = 1.0
"""Seconds that a call with a deadline of 0.1 s, or none to wait, may take on a busy machine."""


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate("append")
    yield made
    made.open()


@pytest.fixture
def stuck(tmp_path: Path, gate: Gate) -> Iterator[HybridQueue]:
    """A durable queue, empty; another thread's append takes as long as the gate is shut."""
    yield from _stuck(opened(tmp_path, 4, around("memory", before=gate), durable=True), gate)


@pytest.fixture(params=["durable", "passing"])
def stored(tmp_path: Path, gate: Gate, request: pytest.FixtureRequest) -> Iterator[HybridQueue]:
    """A queue that has items, but none in memory and none read ahead: the backend has to be asked;
    another thread's append takes as long as the gate is shut."""
    backend = around("memory", before=gate)
    queue = opened(tmp_path, 1, backend, durable=request.param == "durable")
    queue.enqueue_many(items(3))
    assert (queue.depth, queue.stats().memory_items) == (3, 0)
    yield from _stuck(queue, gate)


def _stuck(queue: HybridQueue, gate: Gate) -> Iterator[HybridQueue]:
    gate.shut()
    producer = started(lambda: queue.enqueue(b"slow"))
    assert gate.reached.wait(PATIENCE)
    ends = threading.Timer(3 * MOST, gate.open)
    ends.start()
    yield queue
    ends.cancel()
    gate.open()
    producer.join(PATIENCE)
    assert not producer.is_alive()
    with suppress(HybridQueueError):
        balanced(queue)
    queue.close()


@pytest.mark.parametrize(
    ("call", "error"),
    [
        pytest.param(lambda q: q.dequeue(0.1), DequeueTimeout, id="dequeue"),
        pytest.param(lambda q: q.dequeue_many(3, 0.1), DequeueTimeout, id="dequeue_many"),
        pytest.param(lambda q: q.lease(1, 0.1), DequeueTimeout, id="lease"),
        pytest.param(lambda q: q.try_dequeue(), QueueEmpty, id="try_dequeue"),
        pytest.param(lambda q: q.enqueue(b"x", 0), QueueFull, id="enqueue at once"),
        pytest.param(lambda q: q.enqueue(b"x", 0.1), QueueFull, id="enqueue"),
        pytest.param(lambda q: q.enqueue_many([b"x"], 0.1), QueueFull, id="enqueue_many"),
    ],
)
def test_a_call_ends_at_its_deadline_while_another_thread_is_in_the_backend(
    stored: HybridQueue, call: Callable[[HybridQueue], object], error: type[Exception]
) -> None:
    """The lock of the backend is taken with the caller's deadline."""
    began = time.monotonic()
    try:
        with pytest.raises(error):
            call(stored)
    finally:
        assert time.monotonic() - began < MOST


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda q: q.stats(), id="stats"),
        pytest.param(lambda q: q.depth, id="depth"),
        pytest.param(lambda q: q.has_disk_data, id="has_disk_data"),
        pytest.param(lambda q: q.pressure, id="pressure"),
        pytest.param(lambda q: q.shutdown(), id="shutdown"),
    ],
)
def test_a_question_does_not_wait_for_the_backend(
    stuck: HybridQueue, call: Callable[[HybridQueue], object]
) -> None:
    """They need no lock that a call on the backend holds."""
    began = time.monotonic()
    call(stuck)
    assert time.monotonic() - began < MOST


def test_a_coroutine_ends_at_its_deadline_and_its_loop_goes_on(stored: HybridQueue) -> None:
    """The thread that waits for the backend is not the loop's."""

    async def main() -> float:
        ticks = 0
        began = time.monotonic()

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        with pytest.raises(DequeueTimeout):
            await stored.aio.dequeue(0.2)
        took = time.monotonic() - began
        ticking.cancel()
        assert ticks > 2
        return took

    assert asyncio.run(main()) < 2 * MOST


def test_what_memory_has_is_given_while_the_backend_is_busy(tmp_path: Path) -> None:
    """`dequeue_many` does not wait for more than it has, whoever keeps the backend busy."""
    gate = Gate("append")
    backend = around("memory", before=gate)
    queue = opened(tmp_path, 2, backend)
    for item in items(6):
        queue.enqueue(item)
    gate.shut()
    producer = started(lambda: queue.enqueue(items(7)[6]))
    try:
        assert gate.reached.wait(PATIENCE)
        began = time.monotonic()
        found = queue.dequeue_many(10, 5)
        assert time.monotonic() - began < MOST
        assert found == items(len(found))
        assert len(found) >= 2
    finally:
        gate.open()
        producer.join(PATIENCE)
    assert found + drain(queue) == items(7)
    balanced(queue)
    queue.close()


@pytest.mark.parametrize("wait", [0.0, 0.006])
def test_a_coroutine_that_gives_up_again_and_again_loses_nothing_and_gets_all(
    tmp_path: Path, wait: float
) -> None:
    """``asyncio.timeout(0)`` around a `dequeue` that has an item at hand takes it, in time."""

    async def main() -> list[bytes]:
        queue = opened(tmp_path, 1)
        for item in items(5):
            queue.enqueue(item)
        found: list[bytes] = []
        ends = time.monotonic() + PATIENCE / 4
        while len(found) < 5 and time.monotonic() < ends:
            with suppress(TimeoutError):
                async with asyncio.timeout(0):
                    found.append(await queue.aio.dequeue())
            await asyncio.sleep(wait)
        balanced(queue)
        await queue.aio.close()
        return found

    assert asyncio.run(main()) == items(5)


@FRONTS
@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("call", ["enqueue", "enqueue_many", "dequeue", "dequeue_many", "lease"])
@pytest.mark.parametrize(
    "trouble", [BackendUnavailable("away"), QueueFull("no room")], ids=["away", "full"]
)
def test_a_call_ends_at_its_deadline_though_its_store_says_each_time_that_it_is_back(
    tmp_path: Path, front: str, durable: bool, call: str, trouble: Exception
) -> None:
    """In the failing call itself, so that there is always something to try again for."""
    fails = False

    def before(method: str) -> None:
        if fails and method in ("append", "read"):
            queue._engine.ready()
            raise trouble if method == "append" else BackendUnavailable("away")

    queue = opened(tmp_path, 1, around("memory", before), durable=durable, when_full="block")
    for item in items(3):
        queue.enqueue(item)
    got = [queue.dequeue()] if call in ("dequeue", "dequeue_many", "lease") else []
    while call in ("dequeue", "dequeue_many", "lease") and queue.stats().memory_items:
        got.append(queue.dequeue())
    queue._engine.overflow.forget_ahead()
    args = {
        "enqueue": (items(4)[3], 0.1),
        "enqueue_many": (items(2, start=3), 0.1),
        "dequeue": (0.1,),
        "dequeue_many": (3, 0.1),
        "lease": (1, 0.1),
    }[call]
    fails = True
    with hands(queue, front, 1) as (hand,):
        began = time.monotonic()
        with pytest.raises((DequeueTimeout, QueueFull, BackendUnavailable)):
            hand.do(call, *args)
        assert time.monotonic() - began < MOST
        fails = False
        assert got + drain(queue) == items(3)
        balanced(queue)
    queue.close()


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("pump", [ManualPump, InlinePump, ThreadPump])
@pytest.mark.parametrize(
    "take",
    [
        lambda q: [q.dequeue(0)],
        lambda q: [q.try_dequeue()],
        lambda q: q.dequeue_many(1, 0),
        lambda q: q.lease(1, 0).items,
    ],
    ids=["dequeue", "try_dequeue", "dequeue_many", "lease"],
)
def test_items_in_memory_are_had_at_once_whatever_the_pump_while_a_store_is_busy(
    tmp_path: Path,
    durable: bool,
    pump: Callable[[], Pump],
    take: Callable[[HybridQueue], list[bytes]],
) -> None:
    """Whoever makes room does not wait for another thread's append to move more in."""
    gate = Gate("append")
    queue = opened(tmp_path, 100, around("memory", gate), durable=durable, pump=pump())
    for item in items(300):
        queue.enqueue(item)
    gate.shut()
    producer = started(lambda: queue.enqueue(items(301)[300]))
    try:
        assert gate.reached.wait(PATIENCE)
        began = time.monotonic()
        got = []
        for _ in range(60):
            got += take(queue)
        assert time.monotonic() - began < MOST
        assert got == items(60)
    finally:
        gate.open()
        producer.join(PATIENCE)
    balanced(queue)
    queue.close()
