"""The overflow file: what is written, read and given back, and what happens when that fails."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hq_backends.file import FileBackend, space
from hq_core.errors import BackendError, CorruptedData, QueueFull
from hq_core.protocols import MAX_MESSAGE_BYTES, OverflowBackend
from hq_core.spool.directory import Directory
from hq_core.testing.spool import file_size_limit, numbered, read_all
from tests.hq_backends.file.conftest import Spool

MIB = 1024 * 1024
EVERYTHING = 1_000_000_000

Calls = Callable[[str], list[tuple[Any, ...]]]


def framed(*records: bytes) -> bytes:
    return b"".join(len(record).to_bytes(4, "big") + record for record in records)


def test_it_is_an_overflow_backend(spool: Spool) -> None:
    assert isinstance(spool.open(), OverflowBackend)


class TestAppend:
    def test_the_file_is_the_specified_one_byte_for_byte(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append([b"abc"])
        backend.append([b"", b"\xff" * 300])
        assert spool.path.read_bytes() == (
            b"\0\0\0\3abc" + b"\0\0\0\0" + b"\0\0\1\x2c" + b"\xff" * 300
        )
        assert backend.size_bytes() == 4 + 3 + 4 + 4 + 300

    def test_one_call_writes_a_record_or_a_whole_batch(self, spool: Spool, calls: Calls) -> None:
        backend = spool.open()
        backend.append([b"first"])
        written = calls("pwritev")
        backend.append([b"1316"])
        backend.append([b"x"] * 64)
        assert len(written) == 2

    def test_files_are_private(self, spool: Spool) -> None:
        spool.open().append([b"x"])
        assert {p.stat().st_mode & 0o777 for p in spool.directory.iterdir()} == {0o600}

    def test_there_is_no_data_file_before_there_is_data(self, spool: Spool) -> None:
        spool.open()
        assert spool.names() == []

    def test_a_batch_of_more_buffers_than_one_call_takes_is_written(self, spool: Spool) -> None:
        records = [b"%d" % number for number in range(3000)]
        backend = spool.open()
        backend.append(records)
        assert spool.path.read_bytes() == framed(*records)

    @pytest.mark.parametrize("length", [1, 3, 4, 5, 11])
    def test_a_short_write_is_completed(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch, length: int
    ) -> None:
        def short(fd: int, buffers: list[bytes], offset: int) -> int:
            return os.pwrite(fd, b"".join(buffers)[:length], offset)

        monkeypatch.setattr(os, "pwritev", short)
        backend = spool.open()
        backend.append([b"abcd", b"efgh"])
        assert spool.path.read_bytes() == framed(b"abcd", b"efgh")

    @pytest.mark.parametrize("length", [0, 1, 4, 11])
    def test_a_write_that_fails_amid_a_batch_is_undone(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch, length: int
    ) -> None:
        backend = spool.open()
        backend.append([b"before"])
        real = os.pwritev

        def failing(fd: int, buffers: list[bytes], offset: int) -> int:
            real(fd, [b"".join(buffers)[:length]], offset)
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwritev", failing)
            with pytest.raises(OSError, match="Input/output error"):
                backend.append([b"abcd", b"efgh"])
        assert spool.path.read_bytes() == framed(b"before")
        assert (backend.depth(), backend.size_bytes()) == (1, 10)
        backend.append([b"after"])
        assert read_all(backend) == [b"before", b"after"]

    def test_an_interrupted_write_is_undone(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        backend = spool.open()
        backend.append([b"before"])
        real = os.pwritev

        def interrupted(fd: int, buffers: list[bytes], offset: int) -> int:
            real(fd, buffers, offset)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwritev", interrupted)
            with pytest.raises(KeyboardInterrupt):
                backend.append([b"abcd"])
        assert spool.path.read_bytes() == framed(b"before")

    def test_when_undoing_fails_too_nothing_is_written_until_it_works(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        backend = spool.open()
        backend.append([b"before"])
        real = os.pwritev

        def half(fd: int, buffers: list[bytes], offset: int) -> int:
            real(fd, [b"".join(buffers)[:6]], offset)
            raise OSError(errno.EIO, "Input/output error")

        def refuse(fd: int, size: int) -> None:
            raise OSError(errno.EIO, "truncate fails")

        with monkeypatch.context() as patch:
            patch.setattr(os, "ftruncate", refuse)
            with patch.context() as write:
                write.setattr(os, "pwritev", half)
                with pytest.raises(OSError, match="Input/output error"):
                    backend.append([b"ghost"])
            with pytest.raises(OSError, match="truncate fails"):
                backend.append([b"refused"])
            assert backend.read(0, 10, EVERYTHING) == [b"before"], "reading never sees the remains"
        backend.append([b"after"])
        assert spool.path.read_bytes() == framed(b"before", b"after")
        assert read_all(backend) == [b"before", b"after"]

    def test_a_full_disk_is_queue_full_and_works_again_with_space(self, spool: Spool) -> None:
        backend = spool.open()
        accepted: list[bytes] = []
        with file_size_limit(10_000):
            while backend.size_bytes() < 10_000 - 404:
                accepted.append(b"%04d" % len(accepted) * 100)
                backend.append([accepted[-1]])
            with pytest.raises(QueueFull, match="disk is full") as caught:
                backend.append([b"one too many" * 50])
            assert isinstance(caught.value.__cause__, OSError)
            assert spool.path.read_bytes() == framed(*accepted)
        backend.append([b"again"])
        assert read_all(backend) == [*accepted, b"again"]


class TestRead:
    def test_many_records_cost_one_call(self, spool: Spool, calls: Calls) -> None:
        backend = spool.open()
        backend.append([b"x" * 1316] * 49)
        preads, others = calls("pread"), [calls("fstat"), calls("lseek")]
        for number in range(49):
            assert len(backend.read(number, 1, EVERYTHING)) == 1
        assert len(preads) == 1
        assert others == [[], []]

    def test_never_more_than_asked_for(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append([b"aa", b"bb", b"cc", b"dddd"])
        assert backend.read(0, 1, EVERYTHING) == [b"aa"]
        assert backend.read(1, 10, 4) == [b"bb", b"cc"]
        assert backend.read(3, 10, 3) == []
        assert backend.read(3, 10, 4) == [b"dddd"]
        assert backend.read(4, 10, EVERYTHING) == []

    def test_a_record_of_ten_mebibytes_passes(self, spool: Spool) -> None:
        backend = spool.open()
        records = [b"small", b"\xab" * MAX_MESSAGE_BYTES, b"", b"\xcd" * (MAX_MESSAGE_BYTES - 1)]
        for record in records:
            backend.append([record])
        assert backend.read(0, 10, EVERYTHING) == [b"small"]
        assert backend.read(1, 1, MAX_MESSAGE_BYTES - 1) == []
        assert read_all(backend) == records

    def test_what_is_appended_while_reading_is_read(self, spool: Spool) -> None:
        backend = spool.open()
        for number in range(100):
            backend.append([b"%d" % number, b"%d again" % number])
            assert backend.read(number, 1, EVERYTHING) in (
                [b"%d" % (number // 2)],
                [b"%d again" % (number // 2)],
            )
        assert len(read_all(backend)) == 200

    def test_a_read_that_fails_can_be_repeated(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        backend = spool.open()
        backend.append([b"a", b"b"])

        def fail(*_: object) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, "pread", fail)
            with pytest.raises(OSError, match="Input/output error"):
                backend.read(0, 1, EVERYTHING)
        assert backend.read(0, 2, EVERYTHING) == [b"a", b"b"]

    def test_a_file_cut_by_somebody_else_is_corrupted_not_a_hang(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append([b"aaaa", b"bbbb"])
        os.truncate(spool.path, 12)
        assert backend.read(0, 2, EVERYTHING) == [b"aaaa"]
        with pytest.raises(CorruptedData, match="ends amid a record"):
            backend.read(1, 2, EVERYTHING)
        assert backend.depth() == 1
        backend.append([b"cccc"])
        assert read_all(backend) == [b"aaaa", b"cccc"]

    def test_records_that_somebody_else_cut_off_are_gone_though_they_were_read(
        self, spool: Spool
    ) -> None:
        backend = spool.open()
        backend.append([b"aaaa", b"b" * 40, bytes(100_000)])
        assert len(backend.read(0, 2, EVERYTHING)) == 2
        os.truncate(spool.path, 12)
        with pytest.raises(CorruptedData, match="2 records"):
            backend.read(2, 1, EVERYTHING)
        backend.append([b"cccc"])
        assert read_all(backend) == [b"aaaa", b"cccc"]

    @given(
        st.lists(st.sampled_from([0, 1, 1316, 65_531, 65_532, 65_533, 131_072]), max_size=12),
        st.integers(1, 3),
    )
    @settings(max_examples=60, deadline=None)
    @pytest.mark.slow
    def test_records_of_any_size_come_back(
        self, tmp_path_factory: pytest.TempPathFactory, sizes: list[int], at_once: int
    ) -> None:
        records = [bytes([number]) * size for number, size in enumerate(sizes)]
        with Directory(tmp_path_factory.mktemp("spool")) as held:
            backend = FileBackend(held.stream("s"))
            for record in records:
                backend.append([record])
            got: list[bytes] = []
            while len(got) < len(records):
                got += backend.read(len(got), at_once, EVERYTHING)
            backend.close(delete=True)
        assert got == records


class TestSpace:
    def test_a_drained_file_is_truncated(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append([b"a", b"b"])
        backend.trim(1)
        assert backend.size_bytes() == 5
        assert spool.path.stat().st_size == 10
        backend.trim(1)
        assert backend.size_bytes() == 0
        assert spool.path.stat().st_size == 0
        backend.append([b"c"])
        assert read_all(backend) == [b"c"]

    def test_a_file_that_is_read_but_not_trimmed_stays(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append([b"a"])
        backend.read(0, 1, EVERYTHING)
        assert spool.path.stat().st_size == 5
        backend.append([b"b"])
        backend.trim(1)
        assert backend.read(0, 1, EVERYTHING) == [b"b"]

    def test_trimming_more_than_there_is_is_refused(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append([b"a", b"b"])
        with pytest.raises(ValueError, match="3 records to trim, 2 are there"):
            backend.trim(3)
        backend.trim(0)
        assert read_all(backend) == [b"a", b"b"]

    def test_trimming_what_was_not_read_walks_headers_a_block_at_a_time(
        self, spool: Spool, calls: Calls
    ) -> None:
        backend = spool.open()
        backend.append(numbered(2000, size=1000))
        preads = calls("pread")
        backend.trim(1000)
        assert len(preads) < 20
        assert read_all(backend) == numbered(1000, start=1000, size=1000)

    def test_what_is_trimmed_needs_no_walk_if_nothing_stays(
        self, spool: Spool, calls: Calls
    ) -> None:
        backend = spool.open()
        backend.append(numbered(2000, size=1000))
        preads = calls("pread")
        backend.trim(2000)
        assert preads == []

    def test_a_trim_that_meets_damage_on_its_way_changes_nothing(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append(numbered(4))
        with spool.path.open("r+b") as file:
            file.seek(2 * 13)
            file.write(b"\xff" * 4)
        for _ in range(2):
            with pytest.raises(CorruptedData):
                backend.trim(3)
        assert (backend.depth(), backend.size_bytes()) == (4, 4 * 13)
        backend.trim(2)
        with pytest.raises(CorruptedData, match="2 records, are in"):
            backend.read(0, 1, EVERYTHING)
        assert (backend.depth(), backend.size_bytes()) == (0, 0)

    def test_a_truncate_that_fails_leaves_all_as_it_was(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        backend = spool.open()
        backend.append([b"a"])

        def refuse(fd: int, size: int) -> None:
            raise OSError(errno.EIO, "truncate fails")

        with monkeypatch.context() as patch:
            patch.setattr(os, "ftruncate", refuse)
            with pytest.raises(OSError, match="truncate fails"):
                backend.trim(1)
        assert backend.size_bytes() == 5
        backend.trim(1)
        assert backend.size_bytes() == 0

    @pytest.mark.parametrize("punching", [True, False])
    def test_space_follows_live_data_at_a_constant_backlog(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch, punching: bool
    ) -> None:
        """Thirty mebibytes pass through a backlog of one; both ways of giving space back."""
        if not punching:
            monkeypatch.setattr(space, "punch", lambda fd, start, end: False)
            monkeypatch.setattr(space, "_REWRITE_FROM", MIB)
        backend = spool.open()
        record = os.urandom(65_000)
        allocated = []
        for number in range(30 * 16):
            backend.append([number.to_bytes(4, "big") + record])
            if number >= 16:
                (got,) = backend.read(0, 1, EVERYTHING)
                assert int.from_bytes(got[:4], "big") == number - 16
                assert got[4:] == record
                backend.trim(1)
            allocated.append(spool.path.stat().st_blocks * 512)
        assert max(allocated) < 4 * MIB
        assert spool.names() == ["s.overflow"]
        assert len(read_all(backend)) == 16

    def test_a_rewrite_that_fails_is_no_failed_trim_and_waits_before_the_next(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(space, "punch", lambda fd, start, end: False)
        monkeypatch.setattr(space, "_PUNCH_STEP", 0)
        monkeypatch.setattr(space, "_REWRITE_FROM", 2000)
        backend = spool.open()
        records = numbered(16, size=1000)
        backend.append(records)
        assert backend.read(0, 4, EVERYTHING) == records[:4]
        tried: list[object] = []

        def cut_short(*args: object) -> int:
            tried.append(args)
            return 0

        with monkeypatch.context() as patch:
            patch.setattr(os, "sendfile", cut_short)
            backend.trim(9)
            backend.trim(1)
        assert len(tried) == 1
        assert backend.depth() == 6
        assert spool.names() == ["s.overflow"]
        backend.append([b"more"])
        assert backend.read(0, 2, EVERYTHING) == records[10:12]
        backend.trim(5)
        assert read_all(backend) == [*records[15:], b"more"]

    def test_space_that_cannot_be_given_back_is_no_failed_trim(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def failing(*_: object) -> bool:
            raise OSError(errno.EIO, "punching fails")

        backend = spool.open()
        backend.append([bytes(MIB), bytes(MIB), b"left"])
        with monkeypatch.context() as patch:
            patch.setattr(space, "punch", failing)
            backend.trim(1)
        assert read_all(backend) == [bytes(MIB), b"left"]
        backend.trim(1)
        assert spool.path.stat().st_blocks * 512 < MIB


class TestClose:
    def test_deleting_leaves_nothing(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append([b"a"])
        spool.close(backend, delete=True)
        assert spool.names() == []

    def test_keeping_leaves_the_data_and_no_lock(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append([b"a"])
        backend.sync()
        spool.close(backend)
        assert spool.names() == ["s.overflow"]
        assert read_all(spool.open()) == [b"a"]

    def test_keeping_nothing_leaves_nothing(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append([b"a"])
        backend.trim(1)
        spool.close(backend)
        assert spool.names() == []

    def test_a_file_that_somebody_removed_is_no_error(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append([b"a"])
        spool.path.unlink()
        spool.close(backend, delete=True)
        assert spool.names() == []

    def test_a_deleted_file_takes_no_space_though_a_forked_child_has_it_open(
        self, spool: Spool
    ) -> None:
        backend = spool.open()
        backend.append([b"a" * 8192])
        with spool.path.open("rb") as inherited:
            spool.close(backend, delete=True)
            assert os.fstat(inherited.fileno()).st_blocks == 0


class TestHostileFiles:
    def target(self, spool: Spool) -> Path:
        target = spool.directory / "precious"
        target.write_bytes(b"precious")
        return target

    def test_a_symbolic_link_is_refused_and_not_followed(self, spool: Spool) -> None:
        target = self.target(spool)
        spool.path.symlink_to(target)
        with pytest.raises(BackendError, match="not a regular file"):
            spool.open()
        assert target.read_bytes() == b"precious"
        assert spool.path.is_symlink()

    def test_a_link_that_appears_after_opening_is_not_followed(self, spool: Spool) -> None:
        backend = spool.open()
        spool.path.symlink_to(self.target(spool))
        with pytest.raises(FileExistsError):
            backend.append([b"a"])
        assert self.target(spool).read_bytes() == b"precious"

    def test_a_directory_in_the_files_place_is_refused(self, spool: Spool) -> None:
        spool.path.mkdir()
        with pytest.raises(BackendError, match="not a regular file"):
            spool.open()

    def test_a_fifo_is_refused_without_waiting_for_its_other_end(self, spool: Spool) -> None:
        os.mkfifo(spool.path)
        with pytest.raises(BackendError, match="not a regular file"):
            spool.open()

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
    def test_another_users_file_is_refused(self, spool: Spool) -> None:
        spool.path.write_bytes(framed(b"a"))
        os.chown(spool.path, 65534, 65534)
        with pytest.raises(BackendError, match="of this user"):
            spool.open()


@pytest.mark.parametrize("size", [0, 65_535, 1_048_577, 1.5, "64K", None])
def test_read_ahead_is_between_64_kibibytes_and_one_mebibyte(spool: Spool, size: Any) -> None:
    with pytest.raises(ValueError, match="read_ahead must be 65536 to 1048576"):
        spool.open(read_ahead=size)
    assert spool.names() == []
