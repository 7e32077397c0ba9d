"""Directories and mounts that are renamed and replaced under running queues.

A queue works on in the directory that it opened, wherever that is by now; whoever opens the path
meanwhile has files of their own. At the end all close, and each finds its own again.
"""

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from hq_core import HybridQueue, InlinePump, QueueEmpty, Unlimited
from tests.disks import MIB, LoopDisk, loop_disk, small_disk
from tests.faults.campaign import amount, note

SUBJECTS: dict[str, tuple[str, dict[str, object]]] = {
    "file": ("file", {}),
    "file, always": ("file", {"fsync": "always"}),
    "file, interval": ("file", {"fsync": "interval", "fsync_interval": 0.001}),
    "file, checksum": ("file", {"checksum": True}),
    "lmdb": ("lmdb", {}),
    "lmdb, sync": ("lmdb", {"sync": True}),
}


@pytest.fixture(params=SUBJECTS)
def subject(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Owner:
    """A queue, what it owes, and what names the directory that it opened."""

    def __init__(self, subject: str, where: Path, name: str) -> None:
        self.subject = subject
        self.where = where
        """Where its directory is now."""
        self.owed: deque[bytes] = deque()
        self._name = name
        self._number = 0
        self.queue = self._open()

    def _open(self) -> HybridQueue:
        backend, options = SUBJECTS[self.subject]
        return HybridQueue(
            "s",
            4,
            self.where,
            backend=backend,
            backend_options=options,
            durable=True,
            limiter=Unlimited(),
            pump=InlinePump(),
        )

    def work(self, random: Random) -> None:
        """Put some, take some; what comes is what is owed."""
        sizes = random.choices([0, 20, 1316, 40_000], [1, 6, 3, 1], k=random.randrange(1, 30))
        items = []
        for size in sizes:
            items.append(f"{self._name} {self._number} ".encode().ljust(size, b".") * bool(size))
            self._number += 1
        self.queue.enqueue_many(items)
        self.owed.extend(items)
        self.take(random.randrange(len(self.owed) + 1))
        if random.random() < 0.2:
            self.queue.sync()

    def take(self, most: int) -> int:
        """Take so many, at most, that are owed next; how many there were."""
        if not most:
            return 0
        try:
            found = self.queue.dequeue_many(most, timeout=0)
        except QueueEmpty:
            found = []
        assert found == [self.owed.popleft() for _ in found]
        return len(found)

    def leave(self) -> None:
        """Close it; what is owed is kept."""
        self.queue.close()

    def check(self) -> None:
        """Another owner, where the directory is by now, is given all of it, and nothing else."""
        self.queue = self._open()
        assert self.queue.depth == len(self.owed)
        while self.take(50):
            pass
        assert not self.owed
        self.queue.close()
        assert list(self.where.iterdir()) == []


def rename_and_replace(subject: str, place: Path, seed: int) -> int:
    """Rename it, swap it, point a link elsewhere, again and again; how often."""
    random = Random(seed)
    path, old = place / "spool", Path.cwd()
    owners = [Owner(subject, path, "0")]
    events = random.randrange(3, 9)
    try:
        for number in range(1, events + 1):
            random.choice(owners).work(random)
            here = next((owner for owner in owners if owner.where == path), None)
            if here is not None:
                here.where = path.rename(place / f"away-{number}")
            match random.choice(["new", "new", "swap", "relative"]):
                case "new":
                    owners.append(Owner(subject, path, str(number)))
                case "swap":
                    other = random.choice(owners)
                    other.where = other.where.rename(path)
                case "relative":
                    os.chdir(place)
                    owners.append(Owner(subject, Path("spool"), str(number)))
                    owners[-1].where = path
                    os.chdir(old)
            for owner in owners:
                owner.work(random)
    finally:
        os.chdir(old)
        for owner in random.sample(owners, len(owners)):
            owner.leave()
    for owner in owners:
        owner.check()
    return events


@pytest.mark.slow
def test_a_directory_may_be_renamed_and_replaced(subject: str, directory: Path) -> None:
    count = amount(12, 600)
    run(subject, "renamed directories", directory, range(count), rename_and_replace)


@pytest.mark.slow
def test_mounts_may_cover_a_directory_and_go(subject: str, directory: Path) -> None:
    count = amount(3, 60)
    run(subject, "mounts over directories", directory, range(count), mount_and_unmount)


def run(
    subject: str,
    campaign: str,
    directory: Path,
    seeds: range,
    attack: Callable[[str, Path, int], int],
) -> None:
    events = 0
    for seed in seeds:
        place = directory / str(seed)
        place.mkdir()
        try:
            events += attack(subject, place, seed)
        except BaseException as exc:
            exc.add_note(f"seed {seed}")
            raise
        shutil.rmtree(place)
    note(campaign, subject, scenarios=len(seeds), faults=events, lost=0, ghosts=0, reordered=0)


def mount_and_unmount(subject: str, place: Path, seed: int) -> int:
    """Mount over it, one upon the other; each mount has a queue of its own while it is there."""
    random = Random(seed)
    path = place / "spool"
    path.mkdir()
    owners = [Owner(subject, path, "0")]

    def cover(times: int) -> None:
        for owner in owners:
            owner.work(random)
        if times:
            with small_disk(path, 16 * MIB):
                owners.append(Owner(subject, path, str(times)))
                cover(times - 1)
                owner = owners.pop()
                owner.leave()
                owner.check()
        for owner in owners:
            owner.work(random)

    depth = random.randrange(1, 4)
    try:
        cover(depth)
    finally:
        for owner in owners:
            owner.leave()
    owners[0].check()
    return depth


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopDisk]:
    with loop_disk("ext4", tmp_path_factory.mktemp("disk")) as disk:
        yield disk


@pytest.mark.slow
def test_a_disk_may_be_detached_from_its_path_and_come_back(disk: LoopDisk, subject: str) -> None:
    """`umount --lazy`: the queue goes on in there; another one has the bare path meanwhile."""
    count = amount(2, 60)
    for seed in range(count):
        random = Random(seed)
        path = disk.directory / "spool"
        owners = [Owner(subject, path, "0")]
        try:
            owners[0].work(random)
            disk.unmount()
            owners.append(Owner(subject, path, "1"))
            for _ in range(3):
                for owner in owners:
                    owner.work(random)
        finally:
            for owner in owners:
                owner.leave()
        owners[1].check()
        path.rmdir()
        disk.mount()
        owners[0].check()
        path.rmdir()
    note("disks detached", subject, scenarios=count, faults=count, lost=0, ghosts=0, reordered=0)
