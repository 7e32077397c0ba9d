"""Durable queues: what comes again after a crash, and when the space of an item is given back."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hq_core import HybridQueue, QueueEmpty, QueueFull, Unlimited
from hq_core.protocols import Stream
from hq_core.pumps import InlinePump
from hq_core.testing import ManualPump, MemoryBackend
from hq_core.testing.forking import killed_after
from hq_core.testing.spool import drain, numbered

BACKENDS = pytest.mark.parametrize("backend", ["file", "lmdb"])
WINDOW = 255


def opened(directory: Path, backend: str, memory_items: int) -> HybridQueue:
    return HybridQueue(
        "s",
        memory_items,
        directory,
        backend=backend,
        durable=True,
        limiter=Unlimited(),
        pump=InlinePump(),
    )


def again(
    directory: Path, backend: str, memory_items: int, use: Callable[[HybridQueue], object]
) -> list[bytes]:
    """What the next owner gets, of 2,000 items, when one is killed after it was used so."""

    def work() -> None:
        queue = opened(directory, backend, memory_items)
        queue.enqueue_many(numbered(2000))
        use(queue)

    killed_after(work)
    with opened(directory, backend, 5000) as queue:
        return drain(queue)


@BACKENDS
@pytest.mark.parametrize("memory_items", [1, 10, 1000, 5000])
@pytest.mark.parametrize("taken", [1, 2, 255, 256, 257, 1500])
def test_few_items_come_again(tmp_path: Path, backend: str, memory_items: int, taken: int) -> None:
    def use(queue: HybridQueue) -> None:
        for _ in range(taken):
            queue.dequeue()

    got = again(tmp_path, backend, memory_items, use)
    repeated = len(got) - (2000 - taken)
    assert got == numbered(2000)[taken - repeated :]
    assert 1 <= repeated <= min(taken, WINDOW + 1)


@BACKENDS
def test_the_last_batch_comes_again_however_large(tmp_path: Path, backend: str) -> None:
    def use(queue: HybridQueue) -> None:
        queue.dequeue_many(300)
        queue.dequeue_many(700)

    assert again(tmp_path, backend, 10, use) == numbered(2000)[300:]


@BACKENDS
def test_asking_for_more_is_what_finishes_an_item(tmp_path: Path, backend: str) -> None:
    def use(queue: HybridQueue) -> None:
        drain(queue)
        with pytest.raises(QueueEmpty):
            queue.try_dequeue()

    assert again(tmp_path, backend, 10, use) == []


def test_nothing_is_trimmed_of_a_batch_while_its_call_runs(tmp_path: Path) -> None:
    trimmed: list[int] = []

    class Watched(MemoryBackend):
        def trim(self, count: int) -> None:
            trimmed.append(count)
            super().trim(count)

    with HybridQueue("s", 1, tmp_path, backend=Watched, durable=True, pump=ManualPump()) as queue:
        queue.enqueue_many(numbered(20))
        assert queue.dequeue_many(10) == numbered(10)
        assert trimmed == []
        assert queue.dequeue_many(3) == numbered(13)[10:]
        assert trimmed == [], "trims are gathered"
    assert trimmed == [13]


def test_a_thread_that_took_an_item_and_adds_one_gets_its_space(tmp_path: Path) -> None:
    """It cannot ask for more before it has added: its call has returned, so the item is done."""
    with HybridQueue(
        "s", 1, tmp_path, backend=MemoryBackend, durable=True, max_overflow_bytes=5
    ) as queue:
        queue.enqueue(b"1")
        with pytest.raises(QueueFull):
            queue.enqueue(b"2")
        for number in range(2, 6):
            assert queue.dequeue() == b"%d" % (number - 1)
            queue.enqueue(b"%d" % number)


def test_a_trim_that_fails_stops_nobody(tmp_path: Path) -> None:
    def broken(stream: Stream) -> MemoryBackend:
        return Broken(stream)

    class Broken(MemoryBackend):
        def trim(self, count: int) -> None:
            raise OSError(5, "on purpose")

    with HybridQueue(
        "s", 10, tmp_path, backend=broken, durable=True, limiter=Unlimited(), pump=InlinePump()
    ) as queue:
        queue.enqueue_many(numbered(2000))
        assert [queue.dequeue() for _ in range(2000)] == numbered(2000)
        assert queue.depth == 0
