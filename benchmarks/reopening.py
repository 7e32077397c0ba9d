"""How long a large backlog that a killed process left takes to open, and how much memory.

Run as ``python benchmarks/reopening.py [GIGABYTES]``; needs that much disk.
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

from hq_core import HybridQueue, Unlimited
from hq_core.testing.forking import in_child, killed_after

GB = 10**9
MESSAGE = bytes(1316)
BATCH = 512


def opened(directory: Path) -> HybridQueue:
    return HybridQueue("backlog", 1000, directory, durable=True, limiter=Unlimited())


def fill(directory: Path, size: int) -> None:
    """Store `size` bytes of messages."""
    queue = opened(directory)
    batch = [MESSAGE] * BATCH
    for _ in range(size // (BATCH * len(MESSAGE))):
        queue.enqueue_many(batch)


def reopen(directory: Path) -> None:
    """Open the stream, and tell what it took."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    queue = opened(directory)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = queue.recovery
    print(
        f"{found.size_bytes / GB:.1f} GB in {found.records:,} messages opened in "
        f"{seconds * 1000:.1f} ms, with {(after - before) / 1024:.1f} MiB more memory"
    )
    start = time.perf_counter()
    assert queue.dequeue() == MESSAGE
    print(f"the first message after {(time.perf_counter() - start) * 1000:.1f} ms more")


def main() -> None:
    size = int(float(sys.argv[1] if len(sys.argv) > 1 else "10") * GB)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        directory = Path(name)
        killed_after(lambda: fill(directory, size))
        in_child(lambda: reopen(directory))


if __name__ == "__main__":
    main()
