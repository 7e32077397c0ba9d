"""A full disk: the producer is told, or waits, or drops; nothing accepted suffers.

Two kinds of it. A small file system is full for everybody, and giving space back makes room. A
limit on the size of a file is met by offsets: the ``file`` backend, which never moves its records,
has room again when it is drained.
"""

import errno
import gc
import os
import random
import resource
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import pytest

from hq_core import HybridQueue, InlinePump, QueueEmpty, QueueFull, Unlimited
from hq_core.testing.forking import killed_after
from hq_core.testing.spool import balanced, drain, file_size_limit
from tests.disks import MIB, small_disk
from tests.faults.campaign import amount, note
from tests.faults.messages import first_of, message

SUBJECTS: dict[str, dict[str, Any]] = {
    "file": {"backend": "file"},
    "file durable": {"backend": "file", "durable": True},
    "file durable always": {
        "backend": "file",
        "backend_options": {"fsync": "always", "checksum": True},
        "durable": True,
    },
    "file durable interval": {
        "backend": "file",
        "backend_options": {"fsync": "interval"},
        "durable": True,
    },
    "lmdb": {"backend": "lmdb"},
    "lmdb writemap": {"backend": "lmdb", "backend_options": {"writemap": True}},
    "lmdb durable": {"backend": "lmdb", "durable": True},
    "lmdb durable writemap": {
        "backend": "lmdb",
        "backend_options": {"writemap": True},
        "durable": True,
    },
}
BATCH = 100
WINDOW = 255 + BATCH
"""Messages that may come again after a kill."""
DURABLE = [name for name, options in SUBJECTS.items() if options.get("durable")]


class Disk:
    """Somewhere with 3 MiB of room, or with a fourth."""

    def __init__(self, directory: Path, undo: ExitStack) -> None:
        self.directory = directory
        self._undo = undo

    def widen(self) -> None:
        """Give it another MiB of room."""

    def narrow(self) -> None:
        """Take that away again; the queue must be drained."""

    def fill(self) -> None:
        """Leave no room at all."""

    def clear(self) -> None:
        """Give all the room back."""


class SmallDisk(Disk):
    """A file system of 4 MiB, one of them taken."""

    def __init__(self, directory: Path, undo: ExitStack) -> None:
        super().__init__(directory / "spool", undo)
        self._ballast = directory / "ballast"
        undo.enter_context(small_disk(directory, 4 * MIB))
        self.narrow()

    def widen(self) -> None:
        self._ballast.unlink()

    def narrow(self) -> None:
        self._ballast.write_bytes(bytes(MIB))

    def fill(self) -> None:
        with self._ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    clear = narrow


class SmallFiles(Disk):
    """No file may be larger than 3 MiB."""

    def __init__(self, directory: Path, undo: ExitStack) -> None:
        super().__init__(directory / "spool", undo)
        undo.enter_context(file_size_limit(3 * MIB))

    @staticmethod
    def _limit(size: int) -> None:
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
        )

    def widen(self) -> None:
        self._limit(4 * MIB)

    def narrow(self) -> None:
        self._limit(3 * MIB)

    def fill(self) -> None:
        self._limit(0)

    clear = narrow


@pytest.fixture(params=[SmallDisk, SmallFiles])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """Either kind of disk."""
    with ExitStack() as undo:
        yield request.param(tmp_path, undo)


@pytest.fixture(params=SUBJECTS)
def subject(request: pytest.FixtureRequest) -> str:
    """The name of a backend with its options."""
    return str(request.param)


def opened(disk: Disk, subject: str, **options: Any) -> HybridQueue:
    options = {"limiter": Unlimited(), "pump": InlinePump(), **SUBJECTS[subject], **options}
    return HybridQueue("s", 10, disk.directory, **options)


@dataclass
class Traffic:
    """Messages in and out of one queue, numbered; what comes out is what came in, in order."""

    queue: HybridQueue
    seed: int = 0
    sent: int = 0
    taken: int = 0
    refused: int = 0

    def send(self, timeout: float | None = None) -> None:
        """Send the next message."""
        self.queue.enqueue(message(self.seed, self.sent), timeout)
        self.sent += 1

    def send_all(self, count: int) -> None:
        """Send `count` messages, waiting for room."""
        for _ in range(count):
            self.send(60)

    def send_until_refused(self, timeout: float | None = None) -> NoReturn:
        """Send without end."""
        while True:
            self.send(timeout)

    def fill(self) -> None:
        """Send until there is no room; what is refused is not there."""
        with pytest.raises(QueueFull) as refusal:
            self.send_until_refused()
        cause = refusal.value.__cause__
        assert getattr(cause, "errno", None) in {errno.ENOSPC, errno.EFBIG}
        assert self.queue.depth == self.sent - self.taken
        self.refused += 1

    def take_some(self, most: int) -> None:
        """Take up to `most` messages, and look at them."""
        items = self.queue.dequeue_many(most, 60)
        end = self.taken + len(items)
        assert first_of(self.seed, items, [end]) == self.taken
        self.taken = end

    def take(self, count: int) -> None:
        """Take `count` messages, and look at them."""
        end = self.taken + count
        while self.taken < end:
            self.take_some(min(BATCH, end - self.taken))

    def drain(self) -> None:
        """Take all; it is all that was accepted, and when no more comes its space is free."""
        assert self.queue.depth == self.sent - self.taken
        self.take(self.queue.depth)
        with pytest.raises(QueueEmpty):
            self.queue.try_dequeue()
        balanced(self.queue)


@pytest.mark.slow
def test_what_is_refused_is_not_there_and_what_was_accepted_is(disk: Disk, subject: str) -> None:
    """Full, then more room, full again, then drained: over and over."""
    chance = random.Random(0)
    cycles = amount(1, 100)
    with opened(disk, subject) as queue:
        traffic = Traffic(queue)
        for _ in range(cycles):
            traffic.fill()
            traffic.take(chance.randrange(queue.depth))
            disk.widen()
            traffic.send()
            traffic.fill()
            traffic.drain()
            traffic.send()
            traffic.drain()
            disk.narrow()
    note(
        f"full disk, {type(disk).__name__}",
        subject,
        accepted=traffic.sent,
        refused=traffic.refused,
        lost=traffic.sent - traffic.taken,
    )


@pytest.mark.slow
def test_a_producer_that_waits_for_room_gets_in_and_all_comes_in_order(
    disk: Disk, subject: str
) -> None:
    count = amount(1_000, 60_000)
    with opened(disk, subject, when_full="block") as queue:
        traffic = Traffic(queue)
        with pytest.raises(QueueFull):
            traffic.send_until_refused(timeout=0)
        left = range(traffic.sent, traffic.sent + count)
        producer = threading.Thread(target=traffic.send_all, args=(len(left),))
        producer.start()
        while traffic.taken < left.stop:
            traffic.take_some(BATCH)
        producer.join()
        balanced(queue)
        assert traffic.sent == queue.stats().enqueued == queue.stats().dequeued


@pytest.mark.slow
@pytest.mark.parametrize("when_full", ["drop_oldest", "drop_newest"])
def test_what_is_dropped_is_counted_and_the_rest_comes_in_order(
    disk: Disk, subject: str, when_full: str
) -> None:
    """Stores give space back in blocks: the queue has to learn how much it takes to be dropped."""
    chance = random.Random(0)
    numbers: list[int | None] = []
    refused = 0
    with opened(disk, subject, when_full=when_full) as queue:
        traffic = Traffic(queue)
        while traffic.sent < amount(1_500, 30_000):
            for _ in range(chance.randrange(1000)):
                try:
                    traffic.send()
                except QueueFull:
                    refused += 1
                balanced(queue)
            count = min(queue.depth, chance.randrange(500))
            numbers += [number_of(queue.dequeue()) for _ in range(count)]
        dropped = queue.stats().dropped
        numbers += map(number_of, drain(queue))
        stats = queue.stats()
    assert dropped > 0
    assert refused <= (20 if when_full == "drop_oldest" else 0), "more and more is dropped for one"
    assert stats.dropped == stats.discarded == dropped
    assert stats.enqueued == traffic.sent == len(numbers) + dropped
    told = [number for number in numbers if number is not None]
    assert told == sorted(set(told))
    if when_full == "drop_oldest":
        assert told[-1] >= traffic.sent - 20, "the newest were dropped"


@pytest.mark.slow
def test_a_disk_that_was_full_from_the_start_refuses_and_works_once_there_is_room(
    disk: Disk, subject: str
) -> None:
    disk.directory.mkdir()
    disk.fill()
    with opened(disk, subject) as queue:
        traffic = Traffic(queue)
        for _ in range(3):
            with pytest.raises(QueueFull):
                traffic.send_until_refused()
        disk.clear()
        traffic.fill()
        traffic.drain()


@pytest.mark.slow
@pytest.mark.parametrize("subject", DURABLE)
@pytest.mark.parametrize("end", ["closed", "killed"])
def test_what_a_full_disk_accepted_is_there_in_the_next_life(
    disk: Disk, subject: str, end: str
) -> None:
    """Filled and half consumed while full; the next life starts on the full disk and drains it."""

    def life() -> None:
        queue = opened(disk, subject)
        traffic = Traffic(queue)
        traffic.fill()
        traffic.take(queue.depth // 2)
        os.write(told, b"%d %d" % (traffic.taken, traffic.sent))
        if end == "closed":
            queue.close()

    heard, told = os.pipe()
    killed_after(life)
    taken, sent = map(int, os.read(heard, 100).split())
    os.close(heard)
    os.close(told)
    with opened(disk, subject) as queue:
        first = sent - queue.depth
        assert taken - WINDOW <= first <= taken
        if end == "closed":
            assert first == taken
        traffic = Traffic(queue, sent=sent, taken=first)
        traffic.drain()
        traffic.fill()
        traffic.drain()


@pytest.mark.slow
def test_memory_does_not_grow_however_often_the_disk_is_full(disk: Disk, subject: str) -> None:
    """What leaks grows in every round; something else may happen to be allocated in one."""
    with opened(disk, subject) as queue:
        traffic = Traffic(queue)

        def used_after_a_round() -> tuple[int, int]:
            for _ in range(amount(1, 20)):
                traffic.fill()
                for _ in range(50):
                    with pytest.raises(QueueFull):
                        traffic.send()
                traffic.drain()
            gc.collect()
            return tracemalloc.get_traced_memory()[0], resident_bytes()

        tracemalloc.start()
        try:
            used = [used_after_a_round() for _ in range(4)]
        finally:
            tracemalloc.stop()
    growth = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(used)]
    assert min(traced for traced, _ in growth) < 10_000
    assert min(resident for _, resident in growth) < MIB


def number_of(item: bytes) -> int | None:
    """The number of a message; None if it is empty."""
    return int.from_bytes(item[8:16], "big") if item else None


def resident_bytes() -> int:
    """Memory of this process, without what it maps of files."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024
