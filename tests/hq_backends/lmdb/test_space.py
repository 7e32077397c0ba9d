"""How the environment grows, what happens when it cannot, and how it gives space back."""

import os
from functools import partial
from pathlib import Path

import lmdb
import pytest

from hq_backends.lmdb import LmdbBackend
from hq_backends.lmdb import backend as backend_module
from hq_core.errors import QueueFull
from hq_core.protocols import MAX_MESSAGE_BYTES
from hq_core.spool.directory import Directory
from hq_core.testing.interrupting import interrupted, interruptions
from hq_core.testing.spool import ANY_SIZE, allocated, file_size_limit, numbered, read_all
from tests.disks import small_disk
from tests.hq_backends.lmdb.conftest import Spool, files

KIB = 1024
MIB = 1024 * KIB
SMALLEST = 256 * KIB


def fill(backend: LmdbBackend, record: bytes) -> tuple[int, QueueFull]:
    """Append copies of `record` until there is no room: how many there was room for."""
    count = 0
    while True:
        before = (backend.depth(), backend.size_bytes())
        try:
            backend.append([record])
        except QueueFull as full:
            assert (backend.depth(), backend.size_bytes()) == before
            return count, full
        count += 1


def take(backend: LmdbBackend, count: int) -> None:
    """Read `count` records and trim them, one by one."""
    for _ in range(count):
        assert len(backend.read(0, 1, ANY_SIZE)) == 1
        backend.trim(1)


class TestGrowing:
    def test_a_tiny_map_grows_with_what_is_stored(self, spool: Spool) -> None:
        backend = spool.open(map_size=SMALLEST)
        records = [bytes([number]) * 50_000 for number in range(100)]
        for record in records:
            backend.append([record])
        assert spool.data.stat().st_size > 5 * MIB
        assert read_all(backend) == records

    @pytest.mark.slow
    def test_a_batch_far_larger_than_the_map_is_stored_as_a_whole(self, spool: Spool) -> None:
        backend = spool.open(map_size=SMALLEST)
        batch = [b"", b"x", b"\xab" * MAX_MESSAGE_BYTES, b"y" * 5000, b"\xcd" * MAX_MESSAGE_BYTES]
        backend.append(batch)
        assert read_all(backend) == batch

    def test_little_is_reserved_for_little(self, spool: Spool) -> None:
        spool.open().append([b"x"])
        assert spool.data.stat().st_size == MIB

    def test_the_first_size_is_an_option(self, spool: Spool) -> None:
        spool.open(map_size=3 * MIB + 1).append([b"x"])
        assert spool.data.stat().st_size == 3 * MIB + 4096

    def test_nothing_is_there_before_there_is_data(self, spool: Spool) -> None:
        backend = spool.open()
        backend.sync()
        assert backend.read(0, 1, ANY_SIZE) == []
        assert spool.names() == []


class TestFull:
    def test_at_the_limit_of_the_map_nothing_is_lost_and_trimming_makes_room(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(backend_module, "_MAP_SLACK", 0)
        backend = spool.open(map_size=SMALLEST, max_bytes=500_000)
        count, full = fill(backend, b"x" * 1316)
        assert "raise max_overflow_bytes" in str(full)
        assert isinstance(full.__cause__, lmdb.MapFullError)
        assert count * 1324 > 500_000
        for _ in range(20):
            take(backend, 30)
            assert fill(backend, b"x" * 1316)[0] > 10
        assert len(read_all(backend)) == backend.size_bytes() // 1324

    def test_the_limit_lets_pass_all_that_the_queue_does(self, spool: Spool) -> None:
        """2,039 bytes are the worst size: each takes a page of its own."""
        backend = spool.open(max_bytes=16 * MIB)
        backend.append([bytes(2039)] * (16 * MIB // 2047))

    def test_a_full_disk_is_queue_full_and_works_again_with_space(self, spool: Spool) -> None:
        backend = spool.open(map_size=SMALLEST)
        with file_size_limit(2 * MIB):
            count, full = fill(backend, b"x" * 1316)
            assert "free disk space" in str(full)
            assert isinstance(full.__cause__, OSError)
            assert count * 1324 > MIB
            assert spool.data.stat().st_size <= 2 * MIB
        backend.append([b"again"])
        assert read_all(backend) == [b"x" * 1316] * count + [b"again"]

    def test_on_a_full_disk_consuming_goes_on_and_makes_room(self, spool: Spool) -> None:
        backend = spool.open(map_size=SMALLEST)
        with file_size_limit(2 * MIB):
            fill(backend, b"x" * 1316)
            for _ in range(20):
                take(backend, 30)
                assert fill(backend, b"x" * 1316)[0] > 10
            take(backend, backend.depth())
        assert backend.size_bytes() == 0

    def test_a_disk_that_was_full_from_the_start_leaves_nothing_behind(self, spool: Spool) -> None:
        backend = spool.open()
        with file_size_limit(100_000):
            assert fill(backend, b"x")[0] == 0
        assert allocated(spool.path) == 0
        backend.append([b"again"])
        assert read_all(backend) == [b"again"]

    def test_a_backlog_can_be_resumed_and_drained_on_a_full_disk(self, spool: Spool) -> None:
        backend = spool.open(map_size=SMALLEST)
        with file_size_limit(2 * MIB):
            count, _ = fill(backend, b"x" * 1316)
            spool.close(backend)
            backend = spool.open(map_size=SMALLEST)
            assert backend.depth() == count
            take(backend, count)

    @pytest.mark.parametrize("writemap", [False, True])
    @pytest.mark.slow
    def test_a_small_disk_can_be_full_again_and_again(self, tmp_path: Path, writemap: bool) -> None:
        with small_disk(tmp_path, 8 * MIB), Directory(tmp_path) as held:
            backend = LmdbBackend(held.stream("s"), writemap=writemap)
            stored, _ = fill(backend, b"x" * 1316)
            for _ in range(30):
                take(backend, 100)
                assert fill(backend, b"x" * 1316)[0] > 50
            assert stored * 1324 > 6 * MIB
            backend.close(delete=True)
            assert list(tmp_path.iterdir()) == []


class TestGivingBack:
    def test_a_drained_file_that_had_grown_is_emptied(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append([b"x" * 100_000] * 20)
        assert allocated(spool.path) >= 2 * MIB
        assert len(read_all(backend)) == 20
        backend.trim(20)
        assert allocated(spool.path) == 0
        backend.append([b"next"])
        assert read_all(backend) == [b"next"]

    def test_a_small_file_that_is_drained_stays(self, spool: Spool) -> None:
        backend = spool.open()
        for number in range(20):
            backend.append([b"%d" % number])
            assert read_all(backend) == [b"%d" % number]
            backend.trim(1)
        assert spool.data.stat().st_size == MIB

    def test_a_backlog_that_shrinks_is_copied_to_a_smaller_file(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(backend_module, "_COMPACT_FROM", 4 * MIB)
        backend = spool.open()
        backend.append([b"%04d" % number + bytes(50_000) for number in range(200)])
        before = allocated(spool.path)
        take(backend, 170)
        assert allocated(spool.path) < before / 3
        assert files(spool.path) == ["data.mdb"]
        spool.close(backend)
        backend = spool.open()
        backend.append([b"0200"])
        assert [record[:4] for record in read_all(backend)] == [
            b"%04d" % n for n in range(170, 201)
        ]

    def test_a_copy_that_fails_changes_nothing(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(backend_module, "_COMPACT_FROM", 4 * MIB)
        backend = spool.open()
        backend.append([b"%04d" % number + bytes(50_000) for number in range(200)])
        tried: list[str] = []

        def fail(source: str, target: str, **directories: int) -> None:
            tried.append(source)
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", fail)
            take(backend, 170)
        assert len(tried) == 1, "it does not try again soon"
        assert files(spool.path) == ["data.mdb"]
        assert [record[:4] for record in read_all(backend)] == [
            b"%04d" % n for n in range(170, 200)
        ]

    @pytest.mark.slow
    def test_copying_can_be_interrupted_at_any_line(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(backend_module, "_COMPACT_FROM", 512 * KIB)
        records = numbered(20, size=50_000)
        for line in interruptions():
            backend = spool.open(map_size=SMALLEST)
            backend.append(records)
            came = interrupted(partial(backend.trim, 18), line)
            left = backend.depth()
            assert left in (2, 20)
            backend.append([b"next"])
            spool.close(backend)
            backend = spool.open()
            assert read_all(backend) == [*records[-left:], b"next"]
            spool.close(backend, delete=True)
            if not came:
                break

    def test_nothing_kept_is_nothing_left(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append([b"a", b"b"])
        take(backend, 2)
        spool.close(backend, delete=False)
        assert spool.names() == []

    def test_deleting_leaves_no_file(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append([b"a"])
        (spool.path / "lock.mdb").touch()  # an LMDB tool was there
        spool.close(backend, delete=True)
        assert spool.names() == []
