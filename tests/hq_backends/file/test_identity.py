"""Whose files these are: what others rename, remove, replace or cut is seen, and left alone."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hq_backends.file import FileBackend, notes, space
from hq_core.errors import BackendError, CorruptedData
from hq_core.spool.directory import Directory
from hq_core.testing.spool import ANY_SIZE, leaving_nothing, numbered, read_all, take
from tests.hq_backends.file.conftest import Spool

MINE = numbered(20)
THEIRS = b"\0\0\0\6theirs"


@pytest.fixture(autouse=True)
def noting_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "_NOTE_RECORDS", 4)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture(params=["never", "interval", "always"])
def fsync(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def replace(path: Path) -> None:
    path.unlink()
    path.write_bytes(THEIRS)


def theirs_is_untouched(spool: Spool) -> bool:
    return spool.path.read_bytes() == THEIRS


# ---- the name is another file's --------------------------------------------------------------


@pytest.mark.parametrize("delete", [False, True])
def test_closing_leaves_a_successors_files_alone(spool: Spool, delete: bool, fsync: str) -> None:
    """The directory was renamed, and another queue opened on the path."""
    with Directory(spool.directory) as held:
        backend = FileBackend(held.stream("s"), fsync=fsync)  # type: ignore[arg-type]
        backend.append(MINE)
        away = spool.directory.with_name("away")
        spool.directory.rename(away)
        spool.directory.mkdir()
        with Directory(spool.directory) as other:
            successor = FileBackend(other.stream("s"))
            successor.append([b"theirs"])
            backend.append([b"more"])
            backend.trim(15)
            backend.close(delete=delete)
            assert theirs_is_untouched(spool)
            assert read_all(successor) == [b"theirs"]
            successor.close(delete=True)
    assert (away / "s.overflow").exists() is not delete
    shutil.rmtree(away)


@pytest.mark.parametrize(
    "work",
    [
        lambda backend: take(backend, 20),
        lambda backend: take(backend, 12),
        lambda backend: backend.close(delete=True),
    ],
    ids=["drain", "trim", "delete"],
)
def test_a_file_in_the_place_of_ours_is_never_touched(
    spool: Spool, said: list[str], work: Callable[[FileBackend], object]
) -> None:
    backend = spool.open(tell=said.append)
    backend.append(MINE)
    replace(spool.path)
    work(backend)
    assert theirs_is_untouched(spool)
    spool.opened.remove(backend)
    backend.close(delete=True)
    assert theirs_is_untouched(spool)


def test_what_is_stored_beside_another_file_is_told_and_not_said_to_be_kept(
    spool: Spool, said: list[str], fsync: str
) -> None:
    backend = spool.open(tell=said.append, fsync=fsync)
    backend.append(MINE)
    replace(spool.path)
    backend.trim(2)
    assert len(said) == 1
    assert "is another file by now" in said[0]
    with pytest.raises(BackendError, match="another file by now"):
        backend.append([b"new"])
    with pytest.raises(BackendError, match="another file by now"):
        backend.sync()
    assert read_all(backend) == MINE[2:]
    with pytest.raises(BackendError, match="another file by now"):
        spool.close(backend)
    assert len(said) == 1, "it is told once"
    assert theirs_is_untouched(spool)


def test_a_moved_file_is_not_truncated(spool: Spool) -> None:
    """It may be somebody's backup by now."""
    backend = spool.open()
    backend.append(MINE)
    backup = spool.path.rename(spool.path.with_name("backup"))
    before = backup.read_bytes()
    spool.close(backend, delete=True)
    assert backup.read_bytes() == before


# ---- the name is free ------------------------------------------------------------------------


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("files", ["data", "both"])
@pytest.mark.parametrize("event", ["append", "trim", "sync", "close"])
def test_what_was_removed_is_written_anew_and_told(
    spool: Spool, said: list[str], event: str, files: str, checksum: bool, fsync: str
) -> None:
    backend = spool.open(tell=said.append, fsync=fsync, checksum=checksum)
    backend.append(MINE)
    backend.trim(3)
    spool.path.unlink()
    if files == "both":
        spool.sidecar.unlink()
    left = MINE[3:]
    if event == "append":
        backend.append(MINE[:5])
        left = left + MINE[:5]
    elif event == "trim":
        backend.trim(2)
        left = left[2:]
    elif event == "sync":
        backend.sync()
    if event != "close":
        assert len(said) == 1
        assert read_all(backend) == left
        backend.append([b"later"])
        left = [*left, b"later"]
        spool.abandon(backend)
    else:
        spool.close(backend)
    assert "removed" in said[0]
    assert len(said) == 1
    backend = spool.open()
    assert read_all(backend) == left
    assert spool.names() == ["s.overflow"]


def test_a_file_that_was_moved_away_stays_there_and_is_written_anew(
    spool: Spool, said: list[str]
) -> None:
    backend = spool.open(tell=said.append)
    backend.append(MINE)
    backup = spool.path.rename(spool.path.with_name("backup"))
    before = backup.read_bytes()
    backend.append(MINE[:4])
    assert len(said) == 1
    backend.trim(5)
    spool.close(backend)
    assert backup.read_bytes().startswith(before)
    assert read_all(spool.open()) == [*MINE[5:], *MINE[:4]]


def test_a_directory_that_was_removed_is_told_once_and_what_is_stored_delivered(
    tmp_path: Path, said: list[str]
) -> None:
    place = tmp_path / "spool"
    place.mkdir()
    with leaving_nothing(), Directory(place) as held:
        backend = FileBackend(held.stream("s", tell=said.append))
        backend.append(MINE)
        shutil.rmtree(place)
        backend.trim(2)
        backend.trim(2)
        assert len(said) == 1
        assert read_all(backend) == MINE[4:]
        with pytest.raises(OSError, match="No such file"):
            backend.append([b"x"])
        with pytest.raises(OSError, match="No such file"):
            backend.close(delete=False)
    assert len(said) == 1


def test_a_position_that_was_removed_is_written_anew(spool: Spool) -> None:
    backend = spool.open()
    backend.append(MINE)
    spool.sidecar.unlink()
    backend.trim(5)
    spool.abandon(backend)
    assert read_all(spool.open()) == MINE[5:]


# ---- the file is cut -------------------------------------------------------------------------


def test_a_file_that_was_cut_is_told_and_the_next_read_says_how_much_is_gone(
    spool: Spool, said: list[str]
) -> None:
    backend = spool.open(tell=said.append)
    backend.append(MINE)
    os.truncate(spool.path, 13 * 10 + 2)
    backend.trim(2)
    assert len(said) == 1
    assert "cut short" in said[0]
    with pytest.raises(BackendError, match="cut short"):
        backend.append([b"new"])
    assert backend.read(0, 100, ANY_SIZE) == MINE[2:10]
    with pytest.raises(CorruptedData, match="10 records"):
        backend.read(8, 100, ANY_SIZE)
    assert read_all(backend) == MINE[2:10]
    backend.append([b"new"])
    assert read_all(backend) == [*MINE[2:10], b"new"]


def read_on(backend: FileBackend, got: list[bytes]) -> None:
    while len(got) < backend.depth():
        got += backend.read(len(got), 100, ANY_SIZE)


@pytest.mark.parametrize("empties", [0, 3])
def test_where_a_cut_file_has_a_hole_there_are_no_empty_records(spool: Spool, empties: int) -> None:
    """What was appended before anybody saw that it was cut made it longer again."""
    backend = spool.open()
    before = [b"x" * 5000, *[b""] * empties]
    backend.append([*before, bytes(20_000), b"y"])
    os.truncate(spool.path, 5004 + 4 * empties)
    backend.append([b"new"])
    got = backend.read(0, 1, ANY_SIZE)
    with pytest.raises(CorruptedData):
        read_on(backend, got)
    assert got == before[: len(got)]
    assert read_all(backend) == got
    assert b"\0\0\0\3new" in spool.quarantined()


def test_empty_records_of_a_copy_may_lie_in_its_holes(spool: Spool) -> None:
    backend = spool.open()
    records = [b"x", *[b""] * 5000, b"y"]
    backend.append(records)
    spool.close(backend)
    sparse = spool.path.with_name("sparse")
    with spool.path.open("rb") as source, sparse.open("wb") as target:
        while block := source.read(4096):
            if any(block):
                target.write(block)
            else:
                target.seek(4096, os.SEEK_CUR)
        target.truncate()
    assert sparse.stat().st_blocks * 512 < 20_000
    sparse.rename(spool.path)
    assert read_all(spool.open()) == records


# ---- closing for good ------------------------------------------------------------------------


def test_closing_truncates_both_before_it_removes_either(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def watch(name: str) -> None:
        real = getattr(os, name)

        def call(what: int | str, *args: object, **options: object) -> object:
            path = (
                Path(f"/proc/self/fd/{what}").readlink() if name == "ftruncate" else Path(str(what))
            )
            seen.append(f"{name} {path.name}")
            return real(what, *args, **options)

        monkeypatch.setattr(os, name, call)

    backend = spool.open()
    backend.append(MINE)
    for name in ("ftruncate", "unlink"):
        watch(name)
    spool.close(backend, delete=True)
    assert [call for call in seen if ".new" not in call] == [
        "ftruncate s.overflow",
        "ftruncate s.overflow.pos",
        "unlink s.overflow.pos",
        "unlink s.overflow",
    ]


def test_killed_at_any_of_these_nothing_comes_back(spool: Spool) -> None:
    names = [spool.path, spool.sidecar]
    for done in range(5):
        backend = spool.open()
        backend.append(MINE)
        backend.trim(3)
        spool.abandon(backend)
        for path in names[: min(done, 2)]:
            os.truncate(path, 0)
        for path in names[::-1][: max(0, done - 2)]:
            path.unlink()
        backend = spool.open()
        assert backend.depth() == (17 if done == 0 else 0)
        spool.close(backend, delete=True)
        assert list(spool.directory.iterdir()) == []


# ---- a rewrite that makes way ----------------------------------------------------------------


def test_a_rewrite_that_had_made_way_is_finished_by_the_next_owner(spool: Spool) -> None:
    backend = spool.open()
    backend.append(MINE)
    spool.abandon(backend)
    spool.path.rename(spool.path.with_name("s.overflow.new"))
    assert read_all(spool.open()) == MINE
    assert spool.names() == ["s.overflow"]


def test_what_is_given_back_never_reaches_what_proves_the_head(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "_PUNCH_STEP", 1)
    punched: list[int] = []

    def punch(fd: int, start: int, end: int) -> bool:
        punched.append(end)
        return True

    monkeypatch.setattr(space, "punch", punch)
    backend = spool.open()
    backend.append([bytes([number]) * 400 for number in range(200)])
    for _ in range(150):
        backend.trim(1)
        if punched:
            assert punched[-1] <= backend._log.extent[0] - 64
    assert len(punched) > 10
