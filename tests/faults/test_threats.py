"""What somebody may have put where a queue opens its files, and what comes of it.

Here: threats that concern all files of a stream, or every backend. The rest is tested where the
code is that meets it:

- hostile stream ids: tests/hq_core/test_naming.py, and through a queue in test_bad_input.py
- another thing in the place of the lock file: tests/hq_core/test_ownership.py
- another thing in the place of the data: ``TestHostileFiles`` in
  tests/hq_backends/file/test_backend.py, ``TestNames`` in tests/hq_backends/lmdb/test_recovery.py
- another thing in the place of the position, a position that cannot be:
  tests/hq_backends/file/test_position.py
- damage: tests/hq_backends/file/test_recovery.py and test_checked.py,
  ``TestDamage`` in tests/hq_backends/lmdb/test_recovery.py
- what is set aside fills the disk: tests/hq_core/test_quarantine.py
- messages and arguments of any kind: tests/hq_core/test_bad_input.py
"""

import os
import random
import shutil
import stat
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hq_core import BackendError, CorruptedData, HybridQueue, InlinePump, QueueEmpty, Unlimited
from hq_core.protocols import MAX_MESSAGE_BYTES
from hq_core.testing.forking import in_child
from hq_core.testing.spool import balanced, numbered
from tests.disks import MIB
from tests.faults.campaign import amount, note

SUBJECTS: dict[str, dict[str, Any]] = {
    "file": {"backend": "file"},
    "file checksum": {"backend": "file", "backend_options": {"checksum": True}},
    "lmdb": {"backend": "lmdb"},
}
PRECIOUS = b"\0\0\0\3one\0\0\0\5three"
"""A file of somebody's that happens to look like an overflow."""

each_subject = pytest.mark.parametrize("subject", SUBJECTS)


def opened(directory: Path, subject: str, **options: Any) -> HybridQueue:
    options = {"limiter": Unlimited(), "pump": InlinePump(), "durable": True, **options}
    return HybridQueue("s", 4, directory, **SUBJECTS[subject], **options)


def left_by(subject: str, directory: Path) -> list[Path]:
    """The files that a queue has left that was closed with items in it."""
    with opened(directory, subject) as queue:
        queue.enqueue_many(numbered(20))
        queue.dequeue_many(5)
    return sorted(path for path in directory.rglob("*") if path.is_file())


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


# ---- who may read it, whose it is ------------------------------------------------------------


@each_subject
def test_whatever_a_queue_makes_is_for_its_user_alone(tmp_path: Path, subject: str) -> None:
    """The files in use, those set aside and those left, though the umask allows everything."""
    directory = tmp_path / "spool"
    with umask(0):
        left_by(subject, directory)
        with opened(directory, subject, leftover="quarantine") as queue:
            queue.enqueue_many(numbered(20))
            made = [directory, *directory.rglob("*")]
            modes = {path: stat.S_IMODE(path.stat().st_mode) for path in made}
    assert len(made) >= 4
    assert modes == {path: 0o700 if path.is_dir() else 0o600 for path in made}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
@each_subject
def test_a_file_of_somebody_elses_is_refused_whichever_it_is(tmp_path: Path, subject: str) -> None:
    for path in left_by(subject, tmp_path):
        os.chown(path, 12345, 12345)
        before = path.read_bytes()
        with pytest.raises(BackendError, match="of this user"):
            opened(tmp_path, subject)
        assert path.read_bytes() == before
        os.chown(path, 0, 0)
    with opened(tmp_path, subject) as queue:
        assert queue.dequeue_many(20) == numbered(20)[5:]


@pytest.mark.parametrize("leftover", ["resume", "discard", "quarantine", "refuse"])
@each_subject
def test_a_file_with_another_name_elsewhere_is_refused_whichever_it_is(
    tmp_path: Path, subject: str, leftover: str
) -> None:
    """A hard link: whoever wrote to it, or emptied it, would do so to the other one."""
    directory = tmp_path / "spool"
    for path in left_by(subject, directory):
        other = tmp_path / "precious"
        os.link(path, other)
        before = other.read_bytes()
        with pytest.raises(BackendError, match="another name"):
            opened(directory, subject, leftover=leftover)
        assert other.read_bytes() == before
        other.unlink()
    with opened(directory, subject) as queue:
        assert queue.dequeue_many(20) == numbered(20)[5:]


def test_a_lock_file_with_another_name_elsewhere_is_not_written_to(tmp_path: Path) -> None:
    other = tmp_path / "precious"
    other.write_bytes(PRECIOUS)
    directory = tmp_path / "spool"
    directory.mkdir()
    os.link(other, directory / "s.lock")
    opened(directory, "file").close()
    assert other.read_bytes() == PRECIOUS
    assert list(directory.iterdir()) == []


def test_a_fifo_in_the_place_of_the_lock_file_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "s.lock")
    opened(tmp_path, "file").close()


# ---- what it says ----------------------------------------------------------------------------

HUGE = [
    pytest.param(b"\xff\xff\xff\xff" * 100_000, id="the largest length"),
    pytest.param((MAX_MESSAGE_BYTES + 1).to_bytes(4, "big") * 100_000, id="one byte too many"),
    pytest.param(MAX_MESSAGE_BYTES.to_bytes(4, "big") * 100_000, id="the largest that can be"),
    pytest.param(b"\0\0\0\1x" * 100_000, id="very many records"),
    pytest.param(bytes(400_000), id="zeros"),
    pytest.param(b"HQCRC32\x01" + b"\xff" * 400_000, id="checksums that are none"),
]


@pytest.mark.slow
@pytest.mark.parametrize("content", HUGE)
@pytest.mark.parametrize("size", [0, 64 * MIB])
def test_what_a_hostile_file_claims_takes_no_memory(
    tmp_path: Path, content: bytes, size: int
) -> None:
    """With and without a hole behind it, which takes no disk."""
    path = tmp_path / "s.overflow"
    path.write_bytes(content)
    os.truncate(path, max(size, len(content)))
    tracemalloc.start()
    try:
        with opened(tmp_path, "file", durable=False) as queue:
            opening = tracemalloc.get_traced_memory()[1]
            tracemalloc.reset_peak()
            for _ in range(min(queue.depth, 10)):
                queue.dequeue()
            reading = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert opening < 2 * MIB
    assert reading < 4 * MAX_MESSAGE_BYTES + 2 * MIB, "more than memory may hold"


@pytest.mark.slow
@each_subject
def test_no_change_to_the_files_ends_the_process_or_takes_more_than_they_hold(
    tmp_path: Path, subject: str
) -> None:
    """Bits, bytes, lengths and blocks are changed at random, in any of the files.

    What is left is delivered, or set aside, and the queue works. With checksums nothing else is
    ever delivered, as long as one of data and position is what it was.
    """
    rounds = amount(60, 3000)

    def child(first: int) -> None:
        for seed in range(first, first + 20):
            directory = tmp_path / f"spool-{seed}"
            left_by(subject, directory)
            spoiled = spoil(directory, random.Random(seed))
            items = read_what_is_left(directory, subject)
            if spoiled == 1 and subject == "file checksum":
                sent = iter(numbered(20))
                assert all(item in sent for item in items), f"seed {seed}"
            shutil.rmtree(directory)

    for first in range(0, rounds, 20):
        in_child(partial(child, first))
    note("hostile files", subject, rounds=rounds, ended_the_process=0)


def spoil(directory: Path, chance: random.Random) -> int:
    """Change one or more files of `directory`; how many."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    spoiled = chance.sample(paths, chance.randrange(1, len(paths) + 1))
    for path in spoiled:
        data = bytearray(path.read_bytes())
        for _ in range(chance.choice((1, 1, 3, 30))):
            at = chance.randrange(len(data))
            match chance.randrange(5):
                case 0:
                    data[at] ^= 1 << chance.randrange(8)
                case 1:
                    data[at : at + 4] = chance.choice((b"\xff" * 4, bytes(4), b"\0\xa0\0\0"))
                case 2:
                    data[at : at + 8] = chance.randbytes(8)
                case 3:
                    start = at - at % 4096
                    data[start : start + 4096] = bytes(len(data[start : start + 4096]))
                case 4 if chance.random() < 0.1:
                    del data[at:]
                    data += b"\0"
        path.write_bytes(data)
    return len(spoiled)


def read_what_is_left(directory: Path, subject: str) -> list[bytes]:
    """Take what there is; whatever it says, no more than the files could hold."""
    on_disk = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    items: list[bytes] = []
    tracemalloc.start()
    with opened(directory, subject) as queue:
        with suppress(QueueEmpty):
            while True:
                with suppress(CorruptedData):
                    items.append(queue.try_dequeue())
                balanced(queue)
        queue.enqueue(b"new")
        assert queue.dequeue(0) == b"new"
        balanced(queue)
    assert tracemalloc.get_traced_memory()[1] < 2 * MIB + 3 * on_disk
    tracemalloc.stop()
    return items
