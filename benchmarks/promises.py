"""What the README promises in figures, measured here and now: ``python benchmarks/promises.py``.

Times depend on the machine; everything else must hold on any, and `tests/test_promises.py` sees
to it.
"""

import tempfile
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from hq_core import HybridQueue, Unlimited

PAYLOAD = bytes(1308)


def numbered(number: int) -> bytes:
    """A message of 1,316 bytes (seven transport-stream packets) with its number in front."""
    return number.to_bytes(8, "big") + PAYLOAD


@dataclass(frozen=True, slots=True)
class Passage:
    """A run of items through a queue."""

    items: int
    inversions: int
    """Items that were not the one expected."""
    spilled: int
    seconds: float
    """Wall time of the part that is measured."""


def side_by_side(directory: Path, memory_items: int, items: int) -> Passage:
    """One producer and one consumer, each a thread, at full speed."""
    with HybridQueue("stream", memory_items, directory, limiter=Unlimited()) as queue:

        def produce() -> None:
            for number in range(items):
                queue.enqueue(numbered(number))

        producer = threading.Thread(target=produce)
        start = time.perf_counter()
        producer.start()
        inversions = sum(queue.dequeue()[:8] != numbered(n)[:8] for n in range(items))
        producer.join()
        seconds = time.perf_counter() - start
        return Passage(items, inversions, queue.stats().spilled, seconds)


def drain(directory: Path, memory_items: int, items: int) -> Passage:
    """Everything in first, then, measured, everything out."""
    with HybridQueue("stream", memory_items, directory, limiter=Unlimited()) as queue:
        for number in range(items):
            queue.enqueue(numbered(number))
        start = time.perf_counter()
        inversions = sum(queue.dequeue()[:8] != numbered(n)[:8] for n in range(items))
        seconds = time.perf_counter() - start
        return Passage(items, inversions, queue.stats().spilled, seconds)


def allocated(directory: Path) -> int:
    """Bytes of disk in use below `directory`."""
    return sum(path.stat().st_blocks * 512 for path in directory.iterdir())


def cycles(directory: Path, count: int, items: int) -> list[int]:
    """Bytes of disk in use after each of `count` overflows and drains."""
    used = []
    with HybridQueue("stream", 10, directory, limiter=Unlimited()) as queue:
        for _ in range(count):
            for number in range(items):
                queue.enqueue(numbered(number))
            for _ in range(items):
                queue.dequeue()
            used.append(allocated(directory))
    return used


def constant_backlog(directory: Path, backlog: int, total: int, size: int = 65_536) -> int:
    """Most bytes of disk in use while `total` bytes pass through a backlog of `backlog` bytes."""
    message = bytes(size)
    most = 0
    with HybridQueue("stream", 1, directory, limiter=Unlimited()) as queue:
        for number in range(total // size):
            queue.enqueue(message)
            if number * size >= backlog:
                queue.dequeue()
            if number % 64 == 0:
                most = max(most, allocated(directory))
    return most


def idle(directory: Path, count: int, seconds: float) -> float:
    """Share of a core that `count` queues use, of which every second one has overflowed before."""
    queues: deque[HybridQueue] = deque()
    try:
        for number in range(count):
            queues.append(HybridQueue(f"stream {number}", 10, directory))
            if number % 2:
                queues[-1].enqueue_many([PAYLOAD] * 20)
                queues[-1].dequeue_many(10)
        start = time.process_time()
        time.sleep(seconds)
        return (time.process_time() - start) / seconds
    finally:
        for queue in queues:
            while queue.depth:
                queue.try_dequeue()
            queue.close()


def main() -> None:
    """Measure everything in a temporary directory and print it."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for title, passage in (("1 producer and 1 consumer", side_by_side), ("drain", drain)):
            print(f"{title}, 200,000 items of 1,316 bytes")
            for memory_items in (1, 10, 1000):
                run = passage(directory, memory_items, 200_000)
                print(
                    f"  memory {memory_items:4}: {run.inversions} inversions, {run.spilled:7,} "
                    f"through disk, {run.items / run.seconds:9,.0f} items/s"
                )
        print(f"disk after each of ten cycles, bytes: {cycles(directory, 10, 2000)}")
        most = constant_backlog(directory, 2_600_000, 1 << 30)
        print(f"disk with 1 GiB through a backlog of 2.6 MB: at most {most / (1 << 20):.1f} MiB")
        print(f"1,000 idle queues: {idle(directory, 1000, 10):.3%} of a core")


if __name__ == "__main__":
    main()
