"""Streams seen from outside: finding them, reading them, repairing them, whatever happens."""

import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from hq_core import (
    BackendError,
    Damage,
    HybridQueue,
    InlinePump,
    QueueFull,
    SpoolTools,
    StreamBusyError,
    Unlimited,
)
from hq_core.registry import load
from hq_core.spool import lock
from hq_core.spool.checking import check, inspect, salvage
from hq_core.spool.finding import find, set_aside
from hq_core.spool.repairing import repair
from hq_core.testing.forking import forked
from hq_core.testing.spool import file_size_limit
from tests.installing import SOUND, installed, site_in

BACKENDS = [("file", {}), ("file", {"checksum": True}), ("lmdb", {})]
RECORDS = [b"%d " % number * number for number in range(60)]


def open_queue(directory: Path, backend: str = "file", **options: object) -> HybridQueue:
    return HybridQueue(
        "s",
        2,
        directory,
        backend=backend,
        backend_options=options,
        durable=True,
        limiter=Unlimited(),
        pump=InlinePump(),
    )


def leave(directory: Path, records: Sequence[bytes], backend: str = "file", **o: object) -> Path:
    """Be an owner that leaves `records`; the data file."""
    with open_queue(directory, backend, **o) as queue:
        queue.enqueue_many(records)
    (spool,) = find(directory)
    return spool.path


def damage(path: Path) -> None:
    """So that all may tell, and what is in front is whole."""
    data = bytearray(path.read_bytes())
    if path.name == "data.mdb":
        page = max(node for node in range(2, len(data) // 4096) if data[node * 4096 + 10] == 2)
        data[page * 4096 + 8 : (page + 1) * 4096] = bytes(4088)
    else:
        data[-len(RECORDS[-1]) - 4 :] = b"\xff" * (len(RECORDS[-1]) + 4)
    path.write_bytes(data)


def whole(directory: Path) -> list[bytes]:
    (spool,) = find(directory)
    return [found for found in salvage(spool) if isinstance(found, bytes)]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("name", ["file", "lmdb"])
def test_the_backends_have_tools(name: str) -> None:
    assert isinstance(getattr(load(name), "tools", None), SpoolTools)


class TestFind:
    def test_a_directory_has_its_streams_and_not_what_is_set_aside(self, tmp_path: Path) -> None:
        path = leave(tmp_path, RECORDS)
        leave(tmp_path / "other", RECORDS, "lmdb")
        (tmp_path / "other" / "s.lmdb").rename(tmp_path / "%41.lmdb")
        aside = shutil.copy(path, tmp_path / "s.overflow.quarantine-3")
        backup = shutil.copy(path, tmp_path / "s.overflow.backup-20260101T000000Z-2")
        (tmp_path / "notes.txt").touch()
        found = find(tmp_path)
        assert [(s.stream_id, s.backend.name) for s in found] == [("A", "lmdb"), ("s", "file")]
        assert set_aside(tmp_path) == [Path(backup), Path(aside)]
        (one,) = find(Path(aside))
        assert (one.name, one.aside) == ("s", ".quarantine-3")
        assert [r for r in salvage(one) if isinstance(r, bytes)] == RECORDS

    @pytest.mark.parametrize("inner", ["s.lmdb", "s.lmdb/data.mdb"])
    def test_a_directory_of_a_streams_own_is_that_stream(self, tmp_path: Path, inner: str) -> None:
        path = leave(tmp_path, RECORDS, "lmdb")
        (spool,) = find(tmp_path / inner)
        assert (spool.path, spool.directory, spool.name) == (path, tmp_path, "s")

    def test_a_file_of_another_program_is_read_whatever_its_name(self, tmp_path: Path) -> None:
        path = tmp_path / "Front Door\n.overflow"
        path.write_bytes(b"\0\0\0\3one" + b"\0\0\0\0" + b"\0\0\0\5th")
        (spool,) = find(path)
        assert spool.stream_id == "Front Door\n"
        assert list(salvage(spool)) == [b"one", b"", Damage(11, 6, "the last record is unfinished")]
        assert (inspect(spool).position, inspect(spool).torn_bytes) == ("missing", 6)

    def test_what_is_no_spool_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").touch()
        with pytest.raises(BackendError, match=r"names end in \.overflow, \.lmdb/data\.mdb"):
            find(tmp_path / "notes.txt")
        with pytest.raises(FileNotFoundError):
            find(tmp_path / "missing")

    def test_a_backend_without_tools_takes_no_part(self, tmp_path: Path) -> None:
        path = leave(tmp_path, RECORDS)
        without = SOUND.replace('    name = "mine"', '    name = "mine"\n    tools = None')
        with installed(tmp_path / "site", without):
            assert [spool.path for spool in find(tmp_path)] == [path]


class TestAPlugin:
    @pytest.fixture(autouse=True)
    def sqlite(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with site_in(tmp_path_factory.mktemp("site")) as site:
            site.register("hq-sqlite", "sqlite", "hq_sqlite")
            yield

    def test_takes_part(self, tmp_path: Path) -> None:
        path = leave(tmp_path, RECORDS, "sqlite")
        (spool,) = find(tmp_path)
        assert (spool.backend.name, spool.path) == ("sqlite", path)
        assert (inspect(spool).records, check(spool).records) == (60, 60)
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("DELETE FROM records WHERE seq = 30")
        kept = [*RECORDS[:30], *RECORDS[31:]]
        assert whole(tmp_path) == kept
        assert repair(spool)
        assert check(spool).places == 0
        with open_queue(tmp_path, "sqlite") as queue:
            assert queue.dequeue_many(100) == kept

    def test_whose_file_is_garbage_gives_nothing(self, tmp_path: Path) -> None:
        path = leave(tmp_path, RECORDS, "sqlite")
        path.write_bytes(b"\xff" * 9000)
        (spool,) = find(tmp_path)
        assert (inspect(spool).records, check(spool).places) == (0, 1)
        assert repair(spool)
        assert (check(spool).places, check(spool).records) == (0, 0)

    def test_that_is_amid_a_transaction_says_so(self, tmp_path: Path) -> None:
        path = leave(tmp_path, RECORDS, "sqlite")
        path.with_name("s.sqlite-journal").write_bytes(b"x")
        with pytest.raises(BackendError, match="let a queue open it"):
            inspect(find(path)[0])

    def test_whose_storage_fails_is_a_backend_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = leave(tmp_path, RECORDS, "sqlite")
        (spool,) = find(path)

        def fail(_: object) -> None:
            raise KeyError("x")

        monkeypatch.setattr(spool.tools, "inspect", fail)
        with pytest.raises(BackendError, match="cannot be read: KeyError: 'x'"):
            inspect(spool)


class TestOwner:
    def test_the_owner_is_seen_and_not_disturbed(self, tmp_path: Path) -> None:
        with open_queue(tmp_path) as queue:
            queue.enqueue_many(RECORDS)
            (spool,) = find(tmp_path)
            assert spool.owner() == os.getpid()
            assert (inspect(spool).records, check(spool).records) == (60, 60)
            with pytest.raises(StreamBusyError):
                repair(spool)
            assert queue.dequeue_many(100) == RECORDS
        assert spool.owner() is None

    def test_a_lock_that_a_killed_owner_left_is_no_owner(self, tmp_path: Path) -> None:
        (tmp_path / "s.lock").touch()
        assert lock.owner(tmp_path / "s.lock") is None


class TestRepair:
    @pytest.mark.parametrize(("backend", "options"), BACKENDS)
    def test_what_is_whole_takes_the_place_of_what_is_damaged(
        self, tmp_path: Path, backend: str, options: dict[str, object]
    ) -> None:
        path = leave(tmp_path, RECORDS, backend, **options)
        damage(path)
        damaged = path.read_bytes()
        (spool,) = find(tmp_path)
        found, kept = check(spool), whole(tmp_path)
        assert found.places
        assert 0 < len(kept) < 60
        backup = repair(spool)
        assert backup
        assert backup.read_bytes() == damaged
        (old,) = find(backup)
        assert re.fullmatch(r"\.backup-\d{8}T\d{6}Z", old.aside)
        assert check(spool).places == 0
        assert inspect(spool).format == found.inspection.format
        with open_queue(tmp_path, backend) as queue:
            assert queue.dequeue_many(100) == kept

    def test_what_is_not_damaged_is_left_alone(self, tmp_path: Path) -> None:
        leave(tmp_path, RECORDS)
        before = [(name, (tmp_path / name).read_bytes()) for name in names(tmp_path)]
        (spool,) = find(tmp_path)
        assert repair(spool) is None
        assert [(name, (tmp_path / name).read_bytes()) for name in names(tmp_path)] == before

    @pytest.mark.parametrize("backend", ["file", "lmdb"])
    def test_a_spool_of_which_nothing_is_whole_becomes_an_empty_one(
        self, tmp_path: Path, backend: str
    ) -> None:
        path = leave(tmp_path, RECORDS, backend)
        path.write_bytes(b"\xff" * 9000)
        (spool,) = find(tmp_path)
        assert check(spool).places
        assert repair(spool)
        assert (check(spool).places, check(spool).records) == (0, 0)
        with open_queue(tmp_path, backend) as queue:
            assert queue.depth == 0

    def test_an_earlier_backup_is_never_written_over(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("time.gmtime", lambda: (2026, 1, 2, 3, 4, 5, 4, 2, 0))
        backups = []
        for backend in ("file", "lmdb"):
            for _ in range(3):
                path = leave(tmp_path / backend, RECORDS, backend)
                damage(path)
                (spool,) = find(tmp_path / backend)
                backups.append(repair(spool))
        assert len({path.read_bytes() for path in backups if path}) >= 2
        tag = ".backup-20260102T030405Z"
        assert [os.fspath(p.relative_to(tmp_path)) for p in backups if p] == [
            *(f"file/s.overflow{tag}{n}" for n in ("", "-2", "-3")),
            *(f"lmdb/s.lmdb{tag}{n}/data.mdb" for n in ("", "-2", "-3")),
        ]

    def test_what_is_set_aside_and_what_is_another_users_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = leave(tmp_path, RECORDS)
        damage(path)
        (aside,) = find(Path(shutil.copy(path, tmp_path / "s.overflow.quarantine-1")))
        with pytest.raises(BackendError, match="set aside"):
            repair(aside)
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        with pytest.raises(BackendError, match="another user's"):
            repair(find(path)[0])

    @pytest.mark.parametrize("backend", ["file", "lmdb"])
    def test_without_room_for_the_new_files_all_is_as_it_was(
        self, tmp_path: Path, backend: str
    ) -> None:
        path = leave(tmp_path, RECORDS, backend)
        damage(path)
        damaged, before = path.read_bytes(), names(tmp_path)
        with file_size_limit(4096), pytest.raises(QueueFull):
            repair(find(path)[0])
        assert (path.read_bytes(), names(tmp_path)) == (damaged, before)

    @pytest.mark.slow
    @pytest.mark.parametrize(("backend", "options"), BACKENDS)
    def test_a_crash_between_any_two_steps_loses_nothing(
        self, tmp_path: Path, backend: str, options: dict[str, object]
    ) -> None:
        for step in count(1):
            place = tmp_path / str(step)
            damage(leave(place, RECORDS, backend, **options))
            kept = whole(place)
            assert kept
            done = dies_at(step, lambda place=place: repair(find(place)[0]))  # type: ignore[misc] # bound now
            assert whole(place) == kept
            if done:
                break
            (spool,) = find(place)
            assert (repair(spool) is None) or check(spool).places == 0
            assert [name for name in names(place) if name.endswith(".repair")] == []
            assert whole(place) == kept
            with open_queue(place, backend) as queue:
                assert queue.dequeue_many(100) == kept
        assert step > 8

    def test_a_link_in_the_place_of_the_new_files_is_not_followed(self, tmp_path: Path) -> None:
        path = leave(tmp_path / "spool", RECORDS)
        damage(path)
        victim = tmp_path / "victim"
        victim.mkdir()
        (victim / "file").touch()
        (tmp_path / "spool" / "s.repair").symlink_to(victim)
        with pytest.raises(OSError, match="symbolic link"):
            repair(find(path)[0])
        assert names(victim) == ["file"]


def dies_at(step: int, work: Callable[[], object]) -> bool:
    """Do `work` in a process that ends at the `step`-th call that changes a name or flushes.

    Returns whether it came to its end.
    """

    def child() -> None:
        calls = count(1)
        for name in ("link", "rename", "mkdir", "unlink", "fsync", "fdatasync", "rmdir"):
            original = getattr(os, name)

            def dying(
                *args: object, original: Callable[..., object] = original, **k: object
            ) -> object:
                if next(calls) == step:
                    os._exit(9)
                return original(*args, **k)

            setattr(os, name, dying)
        work()

    return os.waitstatus_to_exitcode(os.waitpid(forked(child), 0)[1]) == 0


class TestHostile:
    @pytest.mark.parametrize("kind", ["link", "dangling link", "fifo", "directory"])
    @pytest.mark.parametrize("name", ["s.overflow", "s.lmdb/data.mdb"])
    def test_another_thing_in_the_data_files_place_is_refused(
        self, tmp_path: Path, kind: str, name: str
    ) -> None:
        path = tmp_path / "spool" / name
        path.parent.mkdir(parents=True)
        put_there(path, kind, tmp_path)
        (spool,) = find(tmp_path / "spool")
        for call in (inspect, check, repair):
            with pytest.raises(BackendError, match=r"symbolic link|not a regular file"):
                call(spool)

    @pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
    def test_another_thing_in_the_positions_place_is_refused(
        self, tmp_path: Path, kind: str
    ) -> None:
        path = leave(tmp_path / "spool", RECORDS)
        sidecar = path.with_name("s.overflow.pos")
        sidecar.unlink()
        put_there(sidecar, kind, tmp_path)
        with pytest.raises(BackendError, match=r"symbolic link|not a regular file"):
            inspect(find(path)[0])

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_what_may_not_be_read_says_so(self, tmp_path: Path) -> None:
        path = leave(tmp_path, RECORDS)
        path.chmod(0)
        with pytest.raises(BackendError, match="Permission denied"):
            inspect(find(path)[0])

    @pytest.mark.parametrize("backend", ["file", "lmdb"])
    @pytest.mark.parametrize("byte", [0, 1, 0xFF])
    def test_a_file_of_one_byte_over_and_over_gives_nothing(
        self, tmp_path: Path, backend: str, byte: int
    ) -> None:
        path = leave(tmp_path, RECORDS, backend)
        path.write_bytes(bytes([byte]) * 50_000)
        assert [r for r in whole(tmp_path) if r] == []

    def test_zeros_behind_checksums_are_passed_over_fast(self, tmp_path: Path) -> None:
        path = leave(tmp_path, RECORDS, checksum=True)
        with path.open("r+b") as file:
            file.seek(0, os.SEEK_END)
            file.truncate(file.tell() + 64 * 1024 * 1024)
        (spool,) = find(path)
        found = list(salvage(spool))
        assert found[:60] == RECORDS
        assert [type(rest) for rest in found[60:]] == [Damage]


def put_there(path: Path, kind: str, elsewhere: Path) -> None:
    match kind:
        case "link":
            (elsewhere / "target").write_bytes(b"\0\0\0\1x")
            path.symlink_to(elsewhere / "target")
        case "dangling link":
            path.symlink_to(elsewhere / "missing")
        case "fifo":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
