"""The files are those that were opened, whatever becomes of their names."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb
import pytest

from hq_backends.lmdb import LmdbBackend, datafile
from hq_backends.lmdb import backend as backend_module
from hq_core.errors import BackendError, CorruptedData, HybridQueueError, QueueFull
from hq_core.limiters import Unlimited
from hq_core.pumps import InlinePump
from hq_core.queue import HybridQueue
from hq_core.spool.directory import Directory
from hq_core.testing.spool import ANY_SIZE, allocated, drain, leaving_nothing, numbered, read_all
from tests.hq_backends.lmdb.conftest import Spool, files

SMALL = 262_144
BEFORE = numbered(40, size=20_000)
"""What is stored before something happens; its map has grown."""


@contextmanager
def at(place: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(place)
    try:
        yield
    finally:
        os.chdir(before)


def contents(place: Path) -> dict[str, bytes]:
    return {str(p.relative_to(place)): p.read_bytes() for p in place.rglob("*") if p.is_file()}


# ---- another directory has the name --------------------------------------------------------------


def grow(backend: LmdbBackend) -> list[bytes]:
    backend.append(more := numbered(40, start=40, size=50_000))
    return [*BEFORE, *more]


def compact(backend: LmdbBackend) -> list[bytes]:
    backend.trim(38)
    return BEFORE[38:]


def drain_it(backend: LmdbBackend) -> list[bytes]:
    backend.trim(40)
    backend.append([b"next"])
    return [b"next"]


def set_aside(backend: LmdbBackend) -> list[bytes]:
    def delete(txn: "lmdb.Transaction[memoryview]") -> None:
        cursor = txn.cursor()
        cursor.last()
        cursor.prev()
        cursor.delete()

    backend._env.remove(delete)
    with pytest.raises(CorruptedData):
        backend.read(38, 1, ANY_SIZE)
    return BEFORE[:38]


ACTIONS: dict[str, Callable[[LmdbBackend], list[bytes]]] = {
    "grow": grow,
    "compact": compact,
    "drain": drain_it,
    "set aside": set_aside,
}
each_action = pytest.mark.parametrize("action", ACTIONS)


class TestDirectory:
    @pytest.mark.parametrize("happens", ["chdir", "renamed", "replaced by a link"])
    @each_action
    def test_all_is_done_in_the_one_that_was_opened(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str, happens: str
    ) -> None:
        """A successor's files of the same names are not touched, whatever the end."""
        monkeypatch.setattr(backend_module, "_COMPACT_FROM", SMALL)
        place, elsewhere, moved = tmp_path / "spool", tmp_path / "elsewhere", tmp_path / "moved"
        for delete in (False, True):
            place.mkdir()
            (elsewhere / "spool").mkdir(parents=True)
            with at(tmp_path), Directory(Path("spool")) as held:
                backend = LmdbBackend(held.stream("s"), map_size=SMALL)
                backend.append(BEFORE)
                mine, other = moved, place
                if happens == "chdir":
                    mine, other = place, elsewhere / "spool"
                    os.chdir(elsewhere)
                else:
                    place.rename(moved)
                    if happens == "renamed":
                        place.mkdir()
                    else:
                        other = elsewhere / "spool"
                        place.symlink_to(other)
                with Directory(other) as successors:
                    successor = LmdbBackend(successors.stream("s"), map_size=SMALL)
                    successor.append(theirs := numbered(30, start=900, size=20_000))
                    before = contents(other)
                    stored = ACTIONS[action](backend)
                    assert read_all(backend) == stored
                    backend.close(delete=delete)
                    assert contents(other) == before
                    assert read_all(successor) == theirs
                    successor.append(theirs)
                    assert read_all(successor) == theirs * 2
                    successor.close(delete=True)
            assert (mine / "s.lmdb").exists() is not delete
            with Directory(mine) as held:
                backend = LmdbBackend(held.stream("s"))
                assert read_all(backend) == ([] if delete else stored)
                backend.close(delete=True)
            shutil.rmtree(elsewhere)
            shutil.rmtree(mine, ignore_errors=True)
            if place.is_symlink():
                place.unlink()
            shutil.rmtree(place, ignore_errors=True)

    def test_an_old_queue_that_is_closed_leaves_its_successors_files_alone(
        self, tmp_path: Path
    ) -> None:
        place, moved = tmp_path / "spool", tmp_path / "moved"
        items = numbered(50)

        def opened(durable: bool) -> HybridQueue:
            options: dict[str, Any] = {
                "limiter": Unlimited(),
                "pump": InlinePump(),
                "durable": durable,
            }
            return HybridQueue("s", 4, place, backend="lmdb", **options)

        for keep in (True, False):
            old = opened(keep)
            old.enqueue_many(items[:20])
            place.rename(moved)
            with opened(durable=True) as successor:
                successor.enqueue_many(items[20:40])
                old.close()
                assert drain(successor) == items[20:40]
                successor.enqueue_many(items[40:])
                assert drain(successor) == items[40:]
            assert files(place) == []
            assert ("s.lmdb" in files(moved)) is keep
            shutil.rmtree(moved)
            shutil.rmtree(place)

    @pytest.mark.parametrize("name", [b"\xff\xfe", b"caf\xe9 \n", "日本".encode()])
    def test_its_name_may_be_any_bytes(self, tmp_path: Path, name: bytes) -> None:
        place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        items = numbered(50, size=10_000)
        for expected in ([], items):
            with HybridQueue(
                "s", 4, place, backend="lmdb", limiter=Unlimited(), pump=InlinePump(), durable=True
            ) as queue:
                assert queue.stats().recovered == len(expected)
                assert drain(queue) == expected
                queue.enqueue_many(items)
        with Directory(place) as held:
            aside = LmdbBackend(held.stream("s", leftover="quarantine"))
            assert aside.recovered.quarantine == place / "s.lmdb.quarantine-1"
            aside.close(delete=True)

    def test_where_descriptors_have_no_names_the_directorys_is_used_while_it_is_its_own(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(datafile, "_DESCRIPTORS", ("/nonexistent",))
        backend = spool.open(map_size=SMALL)
        backend.append(BEFORE)
        moved = spool.directory.with_name(f"{spool.directory.name}-moved")
        spool.directory.rename(moved)
        spool.directory.mkdir()
        assert read_all(backend) == BEFORE
        with pytest.raises(BackendError, match="is another file than was opened, and without"):
            grow(backend)
        assert spool.names() == []
        spool.directory.rmdir()
        moved.rename(spool.directory)
        stored = grow(backend)
        assert read_all(backend) == stored


# ---- another file has the name, or none ----------------------------------------------------------


def remove(spool: Spool) -> None:
    spool.data.unlink()


def remove_all(spool: Spool) -> None:
    shutil.rmtree(spool.path)


def rename(spool: Spool) -> None:
    spool.data.rename(spool.directory / "renamed")


def rename_all(spool: Spool) -> None:
    spool.path.rename(spool.directory / "renamed")


def replace(spool: Spool) -> None:
    (spool.directory / "other").write_bytes(b"somebody's")
    (spool.directory / "other").rename(spool.data)


def replace_all(spool: Spool) -> None:
    spool.path.rename(spool.directory / "renamed")
    spool.path.mkdir()
    spool.data.write_bytes(b"somebody's")


GONE = {
    "data removed": remove,
    "all removed": remove_all,
    "data renamed": rename,
    "all renamed": rename_all,
}
TAKEN = {"data replaced": replace, "all replaced": replace_all}
each_gone = pytest.mark.parametrize("what", GONE)
each_taken = pytest.mark.parametrize("what", TAKEN)
TOLD = "was removed or replaced by another program while it was in use"


class TestGone:
    @each_gone
    @pytest.mark.parametrize("by", ["growth", "sync", "close"])
    def test_it_is_told_once_and_what_is_stored_is_kept(
        self, spool: Spool, what: str, by: str
    ) -> None:
        backend = spool.open(map_size=SMALL)
        backend.append(BEFORE)
        GONE[what](spool)
        there = contents(spool.directory)
        assert read_all(backend) == BEFORE
        stored = list(BEFORE)
        calls: dict[str, Callable[[], object]] = {
            "growth": lambda: grow(backend),
            "sync": backend.sync,
            "close": lambda: spool.close(backend),
        }
        calls[by]()
        assert spool.data.exists()
        if by == "growth":
            stored = [*BEFORE, *numbered(40, start=40, size=50_000)]
        if by != "close":
            assert read_all(backend) == stored
            backend.append([b"more"])
            stored.append(b"more")
            backend.sync()
            spool.close(backend)
        assert len(spool.told) == 1
        assert TOLD in spool.told[0]
        backend = spool.open()
        assert backend.recovered.quarantine is None
        assert read_all(backend) == stored
        found = contents(spool.directory)
        assert {name: found[name] for name in there} == there, "what was renamed stays as it is"

    @pytest.mark.parametrize("what", ["data removed", "all removed", "data replaced"])
    @pytest.mark.parametrize("by", ["append", "trim"])
    def test_a_file_without_a_name_is_noticed_by_the_next_change(
        self, spool: Spool, what: str, by: str
    ) -> None:
        backend = spool.open()
        backend.append([b"one", b"two"])
        {**GONE, **TAKEN}[what](spool)

        def change() -> None:
            backend.append([b"three"]) if by == "append" else backend.trim(1)

        if what in GONE:
            change()
            stored = [b"one", b"two", b"three"] if by == "append" else [b"two"]
            assert spool.data.exists()
            assert len(spool.told) == 1
            spool.close(backend)
            assert read_all(spool.open()) == stored
        else:
            for _ in range(2):
                with pytest.raises(BackendError, match=TOLD):
                    change()
                assert read_all(backend) == [b"one", b"two"]
            assert spool.data.read_bytes() == b"somebody's"
            with pytest.raises(BackendError, match="quarantine-1"):
                spool.close(backend)

    @each_gone
    def test_compaction_leaves_it_to_the_next_call_to_tell(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch, what: str
    ) -> None:
        monkeypatch.setattr(backend_module, "_COMPACT_FROM", SMALL)
        backend = spool.open(map_size=SMALL)
        backend.append(BEFORE)
        GONE[what](spool)
        there = contents(spool.directory)
        backend.trim(38)
        backend.append([b"next"])
        assert len(spool.told) == 1
        assert there.keys() <= contents(spool.directory).keys()
        assert read_all(backend) == [*BEFORE[38:], b"next"]
        spool.close(backend)
        assert read_all(spool.open()) == [*BEFORE[38:], b"next"]

    @each_gone
    @pytest.mark.parametrize("durable", [True, False])
    def test_a_queue_goes_on_with_all_that_it_has_and_tells_it(
        self, spool: Spool, caplog: pytest.LogCaptureFixture, what: str, durable: bool
    ) -> None:
        items = numbered(100, size=20_000)
        options: dict[str, Any] = {"limiter": Unlimited(), "pump": InlinePump()}
        options |= {"backend": "lmdb", "durable": durable}
        with HybridQueue("s", 4, spool.directory, **options) as queue:
            queue.enqueue_many(items[:30])
            GONE[what](spool)
            queue.enqueue_many(items[30:])
            queue.sync()
            assert spool.data.exists()
            assert [queue.dequeue(0) for _ in range(50)] == items[:50]
            told = [r.getMessage() for r in caplog.records if "removed or replaced" in r.message]
            assert len(told) == 1, told
        if durable:
            with HybridQueue("s", 4, spool.directory, **options) as queue:
                assert drain(queue) == items[50:]

    @each_gone
    def test_one_that_is_drained_is_begun_anew(self, spool: Spool, what: str) -> None:
        backend = spool.open(map_size=SMALL)
        backend.append(BEFORE)
        backend.trim(40)
        GONE[what](spool)
        backend.append([b"next"])
        spool.close(backend)
        assert read_all(spool.open()) == [b"next"]

    @each_gone
    def test_a_renamed_one_is_not_emptied_by_draining_or_deleting(
        self, spool: Spool, what: str
    ) -> None:
        for drained in (True, False):
            backend = spool.open(map_size=SMALL)
            backend.append(BEFORE)
            GONE[what](spool)
            kept = contents(spool.directory)
            if "removed" in what:
                spool.close(backend, delete=True)
            elif drained:
                backend.trim(40)
                spool.close(backend, delete=True)
            else:
                with pytest.raises(BackendError, match="what it held is not deleted"):
                    spool.close(backend, delete=True)
            assert not spool.path.exists()
            assert contents(spool.directory) == kept
            shutil.rmtree(spool.directory)
            spool.directory.mkdir()
            spool.held.close()
            spool.held = Directory(spool.directory)

    def test_a_removed_directory_of_spools_is_told_again_and_again(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append([b"one"])
        shutil.rmtree(spool.directory)
        for _ in range(3):
            with pytest.raises(BackendError, match="is not kept"):
                backend.append([b"ghost"])
            assert read_all(backend) == [b"one"]
        with pytest.raises(BackendError, match="is not kept"), leaving_less():
            spool.close(backend)
        assert not spool.directory.exists()


@contextmanager
def leaving_less() -> Iterator[None]:
    """Fewer descriptors are open at its end."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    try:
        yield
    finally:
        assert len(list(Path("/proc/self/fd").iterdir())) < before


class TestTaken:
    @each_taken
    @pytest.mark.parametrize("by", ["growth", "compaction", "sync", "draining", "nothing"])
    @pytest.mark.parametrize("delete", [False, True])
    def test_somebody_elses_file_is_never_touched(
        self,
        spool: Spool,
        monkeypatch: pytest.MonkeyPatch,
        what: str,
        by: str,
        delete: bool,
    ) -> None:
        monkeypatch.setattr(backend_module, "_COMPACT_FROM", SMALL)
        backend = spool.open(map_size=SMALL)
        backend.append(BEFORE)
        TAKEN[what](spool)
        there = contents(spool.directory)
        stored = list(BEFORE)
        match by:
            case "growth":
                with pytest.raises(BackendError, match=TOLD):
                    grow(backend)
            case "sync":
                with pytest.raises(BackendError, match=TOLD):
                    backend.sync()
            case "compaction" if what == "all replaced":
                stored = compact(backend)
                there = {name: data for name, data in there.items() if "renamed" not in name}
            case "draining" if what == "all replaced":
                backend.trim(40)
                stored = []
                with pytest.raises(BackendError, match="did not make"):
                    backend.append([b"x"])
        assert read_all(backend) == stored
        if delete and stored:
            with pytest.raises(BackendError, match=r"did not make|is not deleted"):
                spool.close(backend, delete=True)
        elif stored:
            with pytest.raises(BackendError, match=r"is in a new file in .*quarantine-1"):
                spool.close(backend)
            kept = spool.directory / "s.lmdb.quarantine-1" / "data.mdb"
            assert list(LmdbBackend.tools.salvage(kept)) == stored
        else:
            spool.close(backend, delete=delete)
        found = contents(spool.directory)
        assert {name: found[name] for name in there} == there

    def test_a_file_that_came_before_the_first_record_is_not_used(self, spool: Spool) -> None:
        backend = spool.open()
        spool.path.mkdir()
        spool.data.write_bytes(b"somebody's")
        for _ in range(2):
            with pytest.raises(BackendError, match="did not make"):
                backend.append([b"x"])
        assert spool.data.read_bytes() == b"somebody's"
        assert backend.depth() == 0
        spool.data.unlink()
        backend.append([b"x"])
        assert read_all(backend) == [b"x"]


class TestCut:
    @pytest.mark.parametrize("writemap", [False, True])
    @pytest.mark.parametrize("left", [0, 4096, 100_000, 500_001])
    def test_a_file_that_was_made_shorter_is_no_sigbus(
        self, spool: Spool, left: int, writemap: bool
    ) -> None:
        backend = spool.open(map_size=SMALL, writemap=writemap)
        for record in BEFORE:
            backend.append([record])
        os.truncate(spool.data, left)
        calls: list[Callable[[], None]] = [
            lambda: backend.append([b"x"]),
            lambda: backend.trim(1),
            backend.sync,
        ]
        for call in calls:
            with pytest.raises(CorruptedData, match="made shorter"):
                call()
        with pytest.raises(CorruptedData, match="records, are in"):
            backend.read(40 - 1, 1, ANY_SIZE)
        kept = backend.depth()
        assert kept <= left // 20_000
        assert read_all(backend) == BEFORE[:kept]
        backend.append([b"next"])
        spool.close(backend)
        assert read_all(spool.open()) == [*BEFORE[:kept], b"next"]

    def test_it_is_told_at_closing(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append(numbered(100))
        os.truncate(spool.data, 0)
        with pytest.raises(CorruptedData, match="made shorter"):
            spool.close(backend)


# ---- opening destroys nothing --------------------------------------------------------------------


class TestOpening:
    @pytest.mark.parametrize("beside", ["nothing", "a half copy", "a whole copy"])
    def test_damage_is_raised_and_nothing_touched(self, spool: Spool, beside: str) -> None:
        leave_damaged(spool, beside)
        before, names = contents(spool.directory), sorted(spool.directory.rglob("*"))
        with leaving_nothing(), pytest.raises(CorruptedData):
            spool.open(on_corruption="raise")
        with leaving_nothing(), pytest.raises(HybridQueueError):
            spool.open(leftover="refuse")
        assert contents(spool.directory) == before
        assert sorted(spool.directory.rglob("*")) == names

    @pytest.mark.parametrize("beside", ["a half copy", "a whole copy"])
    def test_what_is_beside_a_damaged_file_is_set_aside_too(
        self, spool: Spool, beside: str
    ) -> None:
        leave_damaged(spool, beside)
        before = contents(spool.path)
        backend = spool.open()
        assert 0 < backend.depth() < 40
        found = contents(spool.directory)
        assert found["s.lmdb.quarantine-1/data.mdb"] == before["new/data.mdb"]
        assert found["s.lmdb.quarantine-2/data.mdb"] == before["data.mdb"]

    @pytest.mark.parametrize("old", ["none", "empty"])
    def test_a_copy_without_the_file_it_was_to_replace_is_the_log(
        self, spool: Spool, old: str
    ) -> None:
        spool.leave(BEFORE)
        (spool.path / "new").mkdir()
        spool.data.rename(spool.path / "new" / "data.mdb")
        if old == "empty":
            spool.data.touch()
        assert read_all(spool.open()) == BEFORE
        assert files(spool.path) == ["data.mdb"]

    def test_a_damaged_copy_without_the_file_it_was_to_replace_is_raised(
        self, spool: Spool
    ) -> None:
        leave_damaged(spool, "nothing")
        (spool.path / "new").mkdir()
        spool.data.rename(spool.path / "new" / "data.mdb")
        before = contents(spool.directory)
        with pytest.raises(CorruptedData):
            spool.open(on_corruption="raise")
        assert contents(spool.directory) == before
        assert 0 < spool.open().depth() < 40

    @pytest.mark.parametrize("which", [0, 1])
    def test_one_damaged_meta_page_costs_the_last_change_at_most(
        self, spool: Spool, which: int
    ) -> None:
        """What the other one shows is whole."""
        backend = spool.open()
        for record in BEFORE:
            backend.append([record])
        spool.close(backend)
        with spool.data.open("r+b") as file:
            file.seek(which * 4096)
            file.write(b"\xff" * 4096)
        backend = spool.open()
        assert backend.depth() in (39, 40)
        assert read_all(backend) == BEFORE[: backend.depth()]
        assert backend.recovered.quarantine == spool.directory / "s.lmdb.quarantine-1"

    @pytest.mark.parametrize("kind", ["link", "file", "fifo"])
    def test_another_thing_in_the_copys_place_is_refused(
        self, spool: Spool, tmp_path_factory: pytest.TempPathFactory, kind: str
    ) -> None:
        elsewhere = tmp_path_factory.mktemp("elsewhere")
        (elsewhere / "data.mdb").write_bytes(b"precious")
        spool.leave(BEFORE)
        new = spool.path / "new"
        match kind:
            case "link":
                new.symlink_to(elsewhere)
            case "file":
                new.touch()
            case "fifo":
                os.mkfifo(new)
        with pytest.raises(BackendError, match="not a directory of this user"):
            spool.open(leftover="discard")
        assert (elsewhere / "data.mdb").read_bytes() == b"precious"


def leave_damaged(spool: Spool, beside: str) -> None:
    """Leave `BEFORE` with a page of zeros in it, and maybe a copy that was being made of it."""
    spool.leave(BEFORE)
    data = spool.data.read_bytes()
    if beside != "nothing":
        (spool.path / "new").mkdir()
        copied = data[: len(data) // 2] if beside == "a half copy" else data
        (spool.path / "new" / "data.mdb").write_bytes(copied)
    page = data.index(BEFORE[30]) // 4096
    with spool.data.open("r+b") as file:
        file.seek(page * 4096)
        file.write(bytes(4096))


# ---- copies --------------------------------------------------------------------------------------

COPIES = {
    "cp -a": "cp -a from/. to",
    "cp --sparse=always": "cp -a --sparse=always from/. to",
    "cp --sparse=never": "cp -a --sparse=never from/. to",
    "tar": "tar -C from -cf - . | tar -C to -xf -",
    "tar -S": "tar -C from -cSf - . | tar -C to -xf -",
    "moved": "mv from/* to",
}


class TestCopies:
    @pytest.mark.parametrize("how", COPIES)
    @pytest.mark.parametrize("state", ["as appended", "trimmed", "compacted", "small"])
    @pytest.mark.parametrize("on_corruption", ["quarantine", "raise"])
    def test_a_copy_opens_with_the_records_it_had(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        how: str,
        state: str,
        on_corruption: str,
    ) -> None:
        if state == "compacted":
            monkeypatch.setattr(backend_module, "_COMPACT_FROM", SMALL)
        for name in ("from", "to"):
            (tmp_path / name).mkdir()
        records = numbered(60, size=20 if state == "small" else 20_000)
        gone = {"as appended": 0, "trimmed": 30, "compacted": 50, "small": 20}[state]
        with Directory(tmp_path / "from") as held:
            backend = LmdbBackend(held.stream("s"))
            backend.append(records)
            backend.trim(gone) if gone else None
            backend.close(delete=False)
        subprocess.run(COPIES[how], shell=True, cwd=tmp_path, check=True)
        with Directory(tmp_path / "to") as held:
            stream = held.stream("s", on_corruption=on_corruption)
            backend = LmdbBackend(stream)
            assert backend.recovered.quarantine is None
            assert read_all(backend) == records[gone:]
            backend.append(records)
            assert read_all(backend) == records[gone:] + records
            backend.close(delete=True)


# ---- a map that cannot be had --------------------------------------------------------------------


class TestMapping:
    @pytest.mark.parametrize("writemap", [False, True])
    def test_a_growth_that_cannot_be_mapped_is_taken_back(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch, writemap: bool
    ) -> None:
        backend = spool.open(writemap=writemap)
        backend.append([b"x" * 100_000])
        before = (spool.data.stat().st_size, allocated(spool.path))
        real = lmdb.open

        def opening(path: str, *, map_size: int, **options: bool) -> lmdb.Environment:
            if map_size > before[0]:
                raise lmdb.MemoryError(path, 12)
            return real(path, map_size=map_size, **options)

        with monkeypatch.context() as patch:
            patch.setattr(lmdb, "open", opening)
            for _ in range(3):
                with pytest.raises(QueueFull, match="no memory to map it"):
                    backend.append(BEFORE * 3)
                assert (spool.data.stat().st_size, allocated(spool.path)) == before
                assert (backend.depth(), backend.size_bytes()) == (1, 100_008)
                assert read_all(backend) == [b"x" * 100_000]
            backend.append([b"small"])
            backend.trim(1)
        backend.append(BEFORE * 3)
        assert read_all(backend) == [b"small", *BEFORE * 3]

    @pytest.mark.slow
    def test_it_is_so_where_memory_is_limited(self, tmp_path: Path) -> None:
        program = f"""
import resource
from pathlib import Path
from hq_backends.lmdb import LmdbBackend
from hq_core.errors import QueueFull
from hq_core.spool.directory import Directory
with Directory(Path({str(tmp_path)!r})) as held:
    backend = LmdbBackend(held.stream("s"))
    backend.append([bytes(100_000)])
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (48 << 20), -1))
    count = 1
    try:
        while True:
            backend.append([bytes(100_000)] * 20)
            count += 20
    except QueueFull:
        assert backend.depth() == count, backend.depth()
    for _ in range(count - 1):
        assert backend.read(0, 1, 1 << 40) == [bytes(100_000)]
        backend.trim(1)
    backend.append([b"again"])
    backend.close(delete=False)
"""
        subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
        with Directory(tmp_path) as held:
            backend = LmdbBackend(held.stream("s"))
            assert read_all(backend) == [bytes(100_000), b"again"]
            backend.close(delete=True)
