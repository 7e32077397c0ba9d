"""Many queues in one process, many threads on one queue, a backlog of up to 10 GB."""

import resource
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.cells import Cell, Outcome
from benchmarks.clock import Clock
from benchmarks.messages import numbered
from hq_core import HybridQueue, Unlimited
from hq_core.testing.forking import killed_after

__all__ = ["BACKLOGS", "backlog", "importing", "many_queues", "reopening", "threads"]

MB = 1_000_000
BACKLOGS = tuple(10**power * MB for power in range(5))
"""Bytes at which the growing backlog is looked at: 1 MB to 10 GB."""
_MESSAGE_BYTES = len(numbered(0))
_BATCH = 64
_MEMORY_ITEMS = 1000
_IDLE_SECONDS = 4
_USED = 3
"""Descriptors of a queue that has overflowed: its lock, its file and the position in it."""
_OTHERS = 100
"""Descriptors that are needed besides."""
_QUICK = 0.2
"""Seconds for a run below which the largest backlogs are left out."""


def many_queues(cell: Cell, directory: Path, seconds: float) -> Outcome:
    """Open so many queues, let each overflow and drain once, leave them alone, close them.

    Where a process may not have as many descriptors as that takes, only some of them overflow.
    """
    count = int(cell.size)
    spare = _descriptors(_USED * count + _OTHERS) - _OTHERS - count
    if spare < 0:
        return Outcome(skipped=f"{count} queues need more descriptors than a process may have here")
    HybridQueue("first", 10, directory).close()  # imports what they all need
    with ExitStack() as stack:
        before = _resident_bytes()
        opening = Clock()
        with opening.running():
            queues = [
                stack.enter_context(HybridQueue(f"stream {number}", 10, directory))
                for number in range(count)
            ]
        fresh = _resident_bytes()
        metrics = {
            "open_us": opening.wall / count * 1e6,
            "fresh_bytes_each": (fresh - before) / count,
            **_idle("fresh"),
        }
        sent = [numbered(number) for number in range(20)]
        overflowing = queues[: spare // (_USED - 1)]
        for queue in overflowing:
            queue.enqueue_many(sent)
            received = [queue.dequeue() for _ in sent]
            if received != sent:
                return Outcome(faults="what came out is not what went in")
        used = (_resident_bytes() - fresh) / len(overflowing)
        metrics["used_bytes_each"] = metrics["fresh_bytes_each"] + used
        return Outcome({**metrics, "used": len(overflowing), **_idle("used")})


def _idle(state: str) -> dict[str, float]:
    """What the process has and does while nobody uses it."""
    start = time.process_time()
    time.sleep(_IDLE_SECONDS)
    share = (time.process_time() - start) / _IDLE_SECONDS
    return {
        f"{state}_idle_cpu_percent": share * 100,
        f"{state}_threads": threading.active_count(),
        f"{state}_descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()),
    }


def _descriptors(wanted: int) -> int:
    """How many this process may have now: as many as are wanted, if that is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


def _resident_bytes() -> int:
    """Of this process; counted by the kernel now, since the figure in ``statm`` lags behind."""
    rollup = Path("/proc/self/smaps_rollup").read_text("ascii")
    return next(int(line.split()[1]) for line in rollup.splitlines() if line[:4] == "Rss:") * 1024


def threads(cell: Cell, directory: Path, seconds: float) -> Outcome:
    """So many producers and as many consumers on one queue, which overflows as it happens to."""
    pairs = int(cell.size)
    each = max(1, int(seconds * 40_000 / pairs))
    received: list[list[tuple[int, int]]] = [[] for _ in range(pairs)]
    with HybridQueue("stream", _MEMORY_ITEMS, directory, limiter=Unlimited()) as queue:

        def produce(producer: int) -> None:
            for number in range(each):
                queue.enqueue(numbered(producer << 32 | number))

        def consume(consumer: int) -> None:
            keep = received[consumer].append
            for _ in range(each):
                keep(divmod(int.from_bytes(queue.dequeue()[:8]), 1 << 32))

        workers = [
            threading.Thread(target=work, args=(number,), daemon=True)
            for number in range(pairs)
            for work in (produce, consume)
        ]
        clock = Clock()
        with clock.running(pairs * each):
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        metrics = clock.per_message(_MESSAGE_BYTES)
        metrics["spilled"] = queue.stats().spilled / (pairs * each)
    return Outcome(metrics, _disorder(received, pairs, each))


def _disorder(received: list[list[tuple[int, int]]], pairs: int, each: int) -> str:
    """Each consumer must see each producer's messages in order, and all together every one."""
    for seen in received:
        last = [-1] * pairs
        for producer, number in seen:
            if number <= last[producer]:
                return "out of order"
            last[producer] = number
    everything = {message for seen in received for message in seen}
    lost = pairs * each - len(everything)
    return f"{lost} lost" if lost else ""


def backlog(cell: Cell, directory: Path, seconds: float) -> Outcome:
    """Let a backlog grow, and drain it: the cost of a message at each of `BACKLOGS` on the way."""
    sizes = BACKLOGS if seconds >= _QUICK else BACKLOGS[:3]
    metrics: dict[str, float] = {}
    with HybridQueue("stream", 100, directory, limiter=Unlimited()) as queue:
        empty = _resident_bytes()
        stored = 0
        for size in sizes:
            clock, start = Clock(), stored
            while stored * _MESSAGE_BYTES < size:
                batch = [numbered(number) for number in range(stored, stored + _BATCH)]
                with clock.running():
                    queue.enqueue_many(batch)
                stored += _BATCH
            metrics[f"append_us/{size}"] = clock.wall / (stored - start) * 1e6
            metrics[f"append_cpu_us/{size}"] = clock.cpu / (stored - start) * 1e6
            metrics[f"footprint_bytes/{size}"] = _resident_bytes() - empty
        taken = 0
        for above, below in reversed(list(zip(sizes, (0, *sizes), strict=False))):
            clock, start = Clock(), taken
            while taken < stored - below // _MESSAGE_BYTES:
                with clock.running():
                    batch = queue.dequeue_many(min(_BATCH, stored - taken))
                if batch != [numbered(number) for number in range(taken, taken + len(batch))]:
                    return Outcome(metrics, f"message {taken} or one soon after it is wrong")
                taken += len(batch)
            metrics[f"drain_us/{above}"] = clock.wall / (taken - start) * 1e6
            metrics[f"drain_cpu_us/{above}"] = clock.cpu / (taken - start) * 1e6
        return Outcome(metrics)


def reopening(cell: Cell, directory: Path, seconds: float) -> Outcome:
    """Open a backlog that a killed process left, and take its first message."""
    size = int(cell.size) if seconds >= _QUICK else BACKLOGS[2]

    def opened() -> HybridQueue:
        return HybridQueue("stream", _MEMORY_ITEMS, directory, durable=True, limiter=Unlimited())

    def fill() -> None:
        queue = opened()
        for first in range(0, size // _MESSAGE_BYTES, _BATCH):
            queue.enqueue_many([numbered(number) for number in range(first, first + _BATCH)])

    killed_after(fill)
    before = _resident_bytes()
    opening, taking = Clock(), Clock()
    with opening.running():
        queue = opened()
    with taking.running():
        first = queue.dequeue()
    after = _resident_bytes()
    records = queue.recovery.records
    queue.close()
    metrics = {
        "open_ms": opening.wall * 1e3,
        "first_ms": taking.wall * 1e3,
        "memory_bytes": after - before,
        "records": records,
    }
    return Outcome(metrics, "" if first == numbered(0) else "the first message is wrong")


def importing(cell: Cell, directory: Path, seconds: float) -> Outcome:
    """``import hq_core`` in a process that has imported nothing yet."""
    program = (
        "import sys, time; start = time.perf_counter(); import hq_core;"
        "print(time.perf_counter() - start, [n for n in sys.modules if n.startswith('hq_backends.')"
        " or n == 'lmdb'])"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    took, _, backends = said.strip().partition(" ")
    return Outcome({"import_ms": float(took) * 1e3}, "" if backends == "[]" else backends)
