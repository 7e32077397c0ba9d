"""Order, and bounds on the disk, under more load than the other tests have."""

import threading
from pathlib import Path

import pytest

from benchmarks.messages import numbered
from hq_core import HybridQueue, Unlimited

KIB, MIB = 1024, 1024 * 1024


def _queue(directory: Path, memory_items: int) -> HybridQueue:
    return HybridQueue("stream", memory_items, directory, limiter=Unlimited())


def _allocated(directory: Path) -> int:
    """Bytes of disk in use below `directory`."""
    return sum(path.stat().st_blocks * 512 for path in directory.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("memory_items", [1, 10, 1000])
def test_200_000_items_pass_between_two_threads_in_order(tmp_path: Path, memory_items: int) -> None:
    with _queue(tmp_path, memory_items) as queue:

        def produce() -> None:
            for number in range(200_000):
                queue.enqueue(numbered(number))

        producer = threading.Thread(target=produce)
        producer.start()
        assert all(queue.dequeue() == numbered(number) for number in range(200_000))
        producer.join()


@pytest.mark.slow
@pytest.mark.parametrize("memory_items", [1, 1000])
def test_a_backlog_drains_in_order(tmp_path: Path, memory_items: int) -> None:
    with _queue(tmp_path, memory_items) as queue:
        for number in range(20_000):
            queue.enqueue(numbered(number))
        assert all(queue.dequeue() == numbered(number) for number in range(20_000))
        assert queue.stats().spilled >= 19_000


@pytest.mark.slow
def test_ten_cycles_of_overflow_leave_the_file_near_zero(tmp_path: Path) -> None:
    with _queue(tmp_path, 10) as queue:
        for _ in range(10):
            for number in range(2000):
                queue.enqueue(numbered(number))
            for _ in range(2000):
                queue.dequeue()
            assert _allocated(tmp_path) <= 64 * KIB


@pytest.mark.slow
def test_a_gibibyte_through_a_small_backlog_stays_under_64_mebibytes(tmp_path: Path) -> None:
    message = bytes(64 * KIB)
    backlog = 2_600_000 // len(message)
    most = 0
    with _queue(tmp_path, 1) as queue:
        for number in range(1024 * MIB // len(message)):
            queue.enqueue(message)
            if number > backlog:
                queue.dequeue()
            if number % 64 == 0:
                most = max(most, _allocated(tmp_path))
    assert 2 * MIB < most < 64 * MIB
