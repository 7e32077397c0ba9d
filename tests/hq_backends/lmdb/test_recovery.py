"""What opening makes of what an earlier owner left."""

import os
from pathlib import Path

import lmdb
import pytest

from hq_core.errors import BackendError, CorruptedData, StreamBusyError
from hq_core.testing.forking import killed_after
from hq_core.testing.spool import ANY_SIZE, read_all
from tests.hq_backends.lmdb.conftest import Spool, files

RECORDS = [b"one", b"", b"three" * 2000]
SIZE = 8 + 3 + 8 + 8 + 5 * 2000


def damage(spool: Spool, kind: str) -> bytes:
    """Damage the data file; what it holds now."""
    data = bytearray(spool.data.read_bytes())
    match kind:
        case "garbage":
            data[:] = b"\xa5" * len(data)
        case "a page of zeros":
            data[3 * 4096 : 8 * 4096] = bytes(5 * 4096)
        case "cut short":
            del data[3 * 4096 :]
        case "a few bytes":
            del data[100:]
        case "the flags of the free list":  # LMDB's own check passes them, and LMDB aborts
            data[44] ^= 4
            data[4096 + 44] ^= 4
    spool.data.write_bytes(data)
    return bytes(data)


WHOLE = {
    "garbage": 0,
    "a page of zeros": 2,
    "cut short": 2,
    "a few bytes": 0,
    "the flags of the free list": 3,
}
"""Of `RECORDS`, those that are whole after each kind of damage."""


class TestLeftover:
    def test_resume_delivers_it_first(self, spool: Spool) -> None:
        spool.leave(RECORDS)
        backend = spool.open()
        report = backend.recovered
        assert (report.records, report.size_bytes, report.quarantine) == (3, SIZE, None)
        backend.append([b"new"])
        assert read_all(backend) == [*RECORDS, b"new"]

    def test_discard_deletes_it(self, spool: Spool) -> None:
        spool.leave(RECORDS)
        backend = spool.open(leftover="discard")
        assert (backend.recovered.records, backend.depth()) == (0, 0)
        assert spool.data.stat().st_size == 0

    def test_refuse_touches_nothing_and_says_what_is_there(self, spool: Spool) -> None:
        spool.leave(RECORDS)
        before = spool.data.read_bytes()
        with pytest.raises(StreamBusyError, match=r"holds 3 records .* leftover='resume'"):
            spool.open(leftover="refuse")
        assert spool.data.read_bytes() == before
        assert files(spool.path) == ["data.mdb"]

    def test_quarantine_renames_it(self, spool: Spool) -> None:
        for number in (1, 2):
            spool.leave(RECORDS)
            before = spool.data.read_bytes()
            backend = spool.open(leftover="quarantine")
            aside = spool.directory / f"s.lmdb.quarantine-{number}"
            assert backend.recovered.quarantine == aside
            assert backend.recovered.quarantined_bytes == len(before)
            assert (aside / "data.mdb").read_bytes() == before
            assert backend.depth() == 0
            spool.close(backend)

    @pytest.mark.parametrize("leftover", ["resume", "discard", "refuse", "quarantine"])
    @pytest.mark.parametrize("what", ["a directory", "a file", "an environment"])
    def test_an_empty_one_is_none_at_all(self, spool: Spool, leftover: str, what: str) -> None:
        def drained() -> None:
            backend = spool.open()
            backend.append(RECORDS)
            backend.trim(len(RECORDS))

        if what == "an environment":
            killed_after(drained)
        else:
            spool.path.mkdir()
            if what == "a file":
                spool.data.touch()
        backend = spool.open(leftover=leftover)
        assert (backend.recovered.records, backend.recovered.quarantine) == (0, None)
        spool.close(backend)
        assert spool.names() == []


class TestDamage:
    @pytest.mark.parametrize("kind", WHOLE)
    def test_damage_is_set_aside_and_the_stream_goes_on(self, spool: Spool, kind: str) -> None:
        """With the whole records before it."""
        spool.leave(RECORDS)
        damaged = damage(spool, kind)
        backend = spool.open()
        report = backend.recovered
        whole = RECORDS[: WHOLE[kind]]
        assert report.records == len(whole)
        assert report.size_bytes == backend.cost(whole)
        assert report.quarantined_bytes == len(damaged)
        assert isinstance(report.quarantine, Path)
        assert (report.quarantine / "data.mdb").read_bytes() == damaged
        assert report.reason
        backend.append([b"new"])
        assert read_all(backend) == [*whole, b"new"]
        spool.close(backend)
        assert read_all(spool.open()) == [*whole, b"new"]

    @pytest.mark.parametrize("kind", WHOLE)
    def test_damage_is_raised_and_nothing_touched_if_that_is_wanted(
        self, spool: Spool, kind: str
    ) -> None:
        spool.leave(RECORDS)
        damaged = damage(spool, kind)
        with pytest.raises(CorruptedData, match="on_corruption='quarantine'"):
            spool.open(on_corruption="raise")
        with pytest.raises(StreamBusyError, match="damaged"):
            spool.open(leftover="refuse")
        assert spool.data.read_bytes() == damaged
        assert spool.names() == ["s.lmdb"]

    @pytest.mark.parametrize("on_corruption", ["quarantine", "raise"])
    def test_damage_met_while_running(self, spool: Spool, on_corruption: str) -> None:
        """Somebody overwrites the file of an open environment."""
        backend = spool.open(on_corruption=on_corruption)
        backend.append([b"%06d" % number for number in range(1000)])
        assert len(backend.read(0, 1, ANY_SIZE)) == 1
        backend.trim(1)
        size = spool.data.stat().st_size
        with spool.data.open("r+b") as file:
            file.seek(2 * 4096)
            file.write(b"\xff" * (size - 2 * 4096))
        with pytest.raises(CorruptedData) as caught:
            backend.read(0, 10, ANY_SIZE)
        if on_corruption == "raise":
            assert backend.depth() == 999
            with pytest.raises(CorruptedData):
                backend.read(0, 10, ANY_SIZE)
            return
        assert "999 records" in str(caught.value)
        assert (backend.depth(), backend.size_bytes()) == (0, 0)
        backend.append([b"new"])
        assert read_all(backend) == [b"new"]


class TestCrash:
    def test_a_killed_owner_leaves_what_was_appended_and_not_trimmed(self, spool: Spool) -> None:
        def work() -> None:
            backend = spool.open()
            for number in range(300):
                backend.append([b"%d" % number] * 2)
                backend.trim(1)
            backend.read(0, 7, ANY_SIZE)

        killed_after(work)
        assert read_all(spool.open()) == [b"%d" % (n // 2) for n in range(300, 600)]

    def test_an_error_of_the_system_is_no_damage(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            error = lmdb.Error("Input/output error")
            error.code = 5  # type: ignore[misc] # as LMDB's own have it
            raise error

        spool.leave(RECORDS)
        with monkeypatch.context() as patch:
            patch.setattr(lmdb, "open", fail)
            with pytest.raises(lmdb.Error, match="Input/output error"):
                spool.open()
        assert read_all(spool.open()) == RECORDS

    def test_the_remains_of_a_copy_are_removed(self, spool: Spool) -> None:
        spool.leave(RECORDS)
        (spool.path / "new").mkdir()
        (spool.path / "new" / "data.mdb").write_bytes(b"half")
        assert read_all(spool.open()) == RECORDS
        assert files(spool.path) == ["data.mdb"]


class TestNames:
    def test_all_is_private(self, spool: Spool) -> None:
        umask = os.umask(0)
        try:
            spool.open().append([b"x"])
        finally:
            os.umask(umask)
        assert spool.path.stat().st_mode & 0o777 == 0o700
        assert spool.data.stat().st_mode & 0o777 == 0o600
        assert files(spool.path) == ["data.mdb"]

    @pytest.mark.parametrize("leftover", ["resume", "discard", "quarantine", "refuse"])
    @pytest.mark.parametrize("kind", ["link", "file", "dangling link", "fifo"])
    def test_another_thing_in_the_directorys_place_is_refused(
        self, spool: Spool, tmp_path_factory: pytest.TempPathFactory, kind: str, leftover: str
    ) -> None:
        elsewhere = tmp_path_factory.mktemp("elsewhere")
        put_there(spool.path, kind, elsewhere)
        with pytest.raises(BackendError, match="not a directory of this user: move it away"):
            spool.open(leftover=leftover)
        assert files(elsewhere) == []

    @pytest.mark.parametrize("kind", ["link", "dangling link", "fifo", "directory"])
    def test_another_thing_in_the_data_files_place_is_refused(
        self, spool: Spool, tmp_path_factory: pytest.TempPathFactory, kind: str
    ) -> None:
        spool.path.mkdir()
        put_there(spool.data, kind, tmp_path_factory.mktemp("elsewhere"))
        with pytest.raises(BackendError, match="not a regular file of this user"):
            spool.open(leftover="discard")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
    @pytest.mark.parametrize("which", ["path", "data"])
    def test_what_belongs_to_somebody_else_is_refused(self, spool: Spool, which: str) -> None:
        spool.leave(RECORDS)
        foreign: Path = getattr(spool, which)
        os.chown(foreign, 12345, 12345)
        with pytest.raises(BackendError, match="of this user"):
            spool.open()


def put_there(path: Path, kind: str, target: Path) -> None:
    match kind:
        case "link":
            path.symlink_to(target)
        case "dangling link":
            path.symlink_to(target / "missing")
        case "file":
            path.write_bytes(b"mine")
        case "fifo":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
