"""The temporary directories of pipes: told, and removed if nobody owns them and they are empty."""

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hq_cli import temporary
from hq_cli.main import main
from hq_core import HybridQueue, InlinePump
from hq_core.spool import lock
from hq_core.testing.forking import killed_after
from tests.cli.running import hq, pipe

NOBODY = 65534
BACKENDS = ["file", "lmdb"]
DATA = os.urandom(300_000)

Output = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Output:
    """Runs a command that complains of nothing: its exit status, what it printed."""

    def run(*args: str | Path) -> tuple[int, str]:
        status = main([os.fspath(arg) for arg in args])
        said = capsys.readouterr()
        assert said.err == ""
        return status, said.out

    return run


def make(place: Path, name: str = "hq-pipe-aaaaaaaa") -> Path:
    (place / name).mkdir(mode=0o700)
    return place / name


def leave(directory: Path, *, backend: str = "file", taken: int = 0) -> None:
    """Be a process that is killed with four messages stored, after so many were `taken`."""

    def work() -> None:
        queue = HybridQueue("s", 1, directory, backend=backend, pump=InlinePump())
        queue.enqueue_many([b"in memory", b"one", b"two", b"three"])
        for _ in range(taken):
            queue.dequeue()
        os.kill(os.getpid(), signal.SIGKILL)  # while there still is a queue

    killed_after(work)


def everything(place: Path) -> dict[Path, tuple[int, int, int]]:
    found = [(path, path.lstat()) for path in (place, *sorted(place.rglob("*")))]
    return {path: (i.st_ino, i.st_size, i.st_mtime_ns) for path, i in found}


# ---- told ------------------------------------------------------------------------------------


@pytest.mark.slow  # it starts processes
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_killed_pipe_left_is_told_and_can_be_had(
    temporary_place: Path, run: Output, backend: str
) -> None:
    with pipe("--memory", "64K", "--backend", backend) as running:
        running.feed(DATA)
        running.reading(lambda r: r["in_bytes"] == len(DATA))
        (path,) = temporary_place.iterdir()
        status, out = run("inspect")
        assert (status, f"  owner     process {running.process.pid}\n" in out) == (0, True)
        running.process.kill()
        running.status()
    os.utime(path, (0, 0))
    for inner in path.rglob("*"):
        os.utime(inner, (1e9, 1e9))
    before = everything(temporary_place)
    status, out = run("inspect")
    assert status == 0
    assert re.fullmatch(
        rf"{re.escape(str(path))}\n"
        r"  owner     none\n"
        r"  size      \S+ [KM]iB on disk\n"
        r"  age       \d+:\d\d:\d\d since it was last written\n"
        rf"  stream    pipe-{running.process.pid}: \d+ records, \S+ KiB\n",
        out,
    )
    status, out = run("inspect", "--json")
    told = json.loads(out)
    assert (status, told["place"]) == (0, str(temporary_place))
    (row,) = told["temporary"]
    assert (row["path"], row["owner"], row["state"]) == (str(path), None, "left")
    assert row["age_seconds"] > 1e8
    assert row["size_bytes"] > 100_000
    (stream,) = row["streams"]
    assert Path(stream["path"]).parts[: len(path.parts)] == path.parts
    assert stream["records"] > 0
    assert everything(temporary_place) == before
    rest = hq("cat", path).stdout
    assert DATA.endswith(rest)
    args = ("--dir", path, "--name", f"pipe-{running.process.pid}", "--leftover", "resume")
    done = hq("pipe", *args, "--backend", backend)
    assert (done.returncode, done.stdout) == (0, rest)
    assert hq("pipe", data=b"next").stdout == b"next"
    assert not list(temporary_place.iterdir())


@pytest.mark.slow  # it starts processes
def test_the_next_pipe_tells_of_it_unless_it_is_to_be_quiet(temporary_place: Path) -> None:
    for name in ("hq-pipe-aaaaaaaa", "hq-pipe-bbbbbbbb"):
        leave(make(temporary_place, name))
    before = everything(temporary_place / "hq-pipe-aaaaaaaa")
    done = hq("pipe", data=b"x")
    assert done.stdout == b"x"
    assert re.match(
        rf"hq: 2 killed pipes have left .* KiB in {temporary_place}: 'hq inspect' shows them\n"
        "hq: pipe-",
        done.stderr.decode(),
    )
    assert hq("pipe", "--quiet", data=b"x").stderr == b""
    assert hq("pipe", "--dir", temporary_place / "mine", data=b"x").stderr.count(b"\n") == 1
    shutil.rmtree(temporary_place / "hq-pipe-bbbbbbbb")
    assert b"hq: a killed pipe has left " in hq("pipe", data=b"x").stderr
    assert everything(temporary_place / "hq-pipe-aaaaaaaa") == before


def test_where_nothing_was_left_that_is_told(temporary_place: Path, run: Output) -> None:
    (temporary_place / "hq-pipe-something").mkdir()
    (temporary_place / "another").mkdir()
    assert run("inspect") == (0, f"no temporary spools of yours in {temporary_place}\n")
    status, out = run("inspect", "--json")
    assert (status, json.loads(out)) == (0, {"place": str(temporary_place), "temporary": []})


def test_each_is_told_whatever_is_in_the_others(temporary_place: Path, run: Output) -> None:
    make(temporary_place, "hq-pipe-empty000")
    (make(temporary_place, "hq-pipe-hostile0") / "\x1b[2J\n.overflow").write_bytes(b"\xff" * 9)
    os.mkfifo(make(temporary_place, "hq-pipe-hostile1") / "s.overflow")
    leave(good := make(temporary_place, "hq-pipe-zzzzzzzz"))
    shutil.copy(good / "s.overflow", good / "s.overflow.quarantine-1")
    status, out = run("inspect")
    lines = out.splitlines()
    assert (status, all(line.isprintable() for line in lines)) == (1, True)
    assert [line for line in lines if not line.startswith(" ")] == [
        str(temporary_place / name)
        for name in ("hq-pipe-empty000", "hq-pipe-hostile0", "hq-pipe-hostile1", "hq-pipe-zzzzzzzz")
    ]
    assert lines.count("  state     nothing is in it: the next pipe removes it") == 1
    assert r"  stream    \x1b[2J\n: 0 records, 0 B; damaged: " in out
    assert "  stream    s: error: " in out
    assert f"{temporary_place}/hq-pipe-hostile1/s.overflow is not a regular file" in out
    assert "  stream    s: 4 records, 36 B\n" in out
    assert f"  aside     {good}/s.overflow.quarantine-1\n" in out
    assert "/proc/" not in out
    status, out = run("inspect", "--json")
    states = [row["state"] for row in json.loads(out)["temporary"]]
    assert (status, states) == (1, ["empty", "left", "left", "left"])
    shutil.rmtree(temporary_place / "hq-pipe-hostile1")
    assert run("inspect")[0] == 2


# ---- removed ---------------------------------------------------------------------------------


def nothing(path: Path) -> None:
    """Killed before anything was opened, or after all was closed."""


def lock_only(path: Path) -> None:
    (path / "s.lock").touch()


def drained(path: Path) -> None:
    leave(path, taken=4)
    assert (path / "s.overflow").exists()


def drained_lmdb(path: Path) -> None:
    leave(path, backend="lmdb", taken=4)
    assert (path / "s.lmdb" / "data.mdb").exists()


@pytest.mark.parametrize("left", [nothing, lock_only, drained, drained_lmdb])
def test_one_with_nothing_in_it_is_removed(
    temporary_place: Path, run: Output, left: Callable[[Path], None]
) -> None:
    left(make(temporary_place))
    status, out = run("inspect")
    assert (status, "nothing is in it: the next pipe removes it" in out) == (0, True)
    assert temporary.clear() == []
    assert not list(temporary_place.iterdir())


@pytest.mark.slow  # it starts processes
def test_a_pipe_that_is_killed_in_the_memory_stage_leaves_nothing_for_long(
    temporary_place: Path,
) -> None:
    with pipe() as running:
        running.feed(b"x")
        assert running.read(1) == b"x"
        running.process.kill()
        running.status()
    assert len(list(temporary_place.iterdir())) == 1
    done = hq("pipe", data=b"next")
    assert (done.stdout, done.stderr.count(b"\n")) == (b"next", 1)
    assert not list(temporary_place.iterdir())


def records(path: Path) -> None:
    leave(path)


def records_lmdb(path: Path) -> None:
    leave(path, backend="lmdb")


def unknown(path: Path) -> None:
    (path / "notes.txt").touch()


def damaged(path: Path) -> None:
    (path / "s.overflow").write_bytes(b"\xff" * 100)


def unfinished(path: Path) -> None:
    (path / "s.overflow").write_bytes(b"\0\0\0\7half")


def aside(path: Path) -> None:
    (path / "s.overflow.quarantine-1").touch()


def linked(path: Path) -> None:
    (path / "s.overflow").symlink_to("/dev/null")


def linked_lock(path: Path) -> None:
    (path / "s.lock").symlink_to("../precious")


@pytest.mark.parametrize(
    "left",
    [records, records_lmdb, unknown, damaged, unfinished, aside, linked, linked_lock],
)
def test_one_with_something_in_it_is_left_as_it_is(
    temporary_place: Path, left: Callable[[Path], None]
) -> None:
    (temporary_place / "precious").touch()
    left(path := make(temporary_place))
    before = everything(path)
    assert [found for found, _ in temporary.clear()] == [path]
    after = everything(path)
    assert {p: i[:2] for p, i in after.items() if p != path} == {
        p: i[:2] for p, i in before.items() if p != path
    }
    assert (temporary_place / "precious").exists()


# ---- whose it is -----------------------------------------------------------------------------


def test_one_whose_pipe_lives_is_left_alone_though_it_is_still_empty(temporary_place: Path) -> None:
    with temporary.new() as path:
        assert list(temporary_place.iterdir()) == [path]
        assert path.stat().st_mode & 0o777 == 0o700
        assert temporary.clear() == []
        assert list(temporary_place.iterdir()) == [path]
    assert not list(temporary_place.iterdir())


def test_one_with_a_queue_open_in_it_is_left_alone(
    temporary_place: Path, run: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(temporary_place)
    with HybridQueue("s", 1, path, pump=InlinePump()) as queue:
        before = everything(path)
        assert temporary.clear() == []
        status, out = run("inspect", "--json")
        (row,) = json.loads(out)["temporary"]
        assert (status, row["owner"], row["state"]) == (0, os.getpid(), "in use")
        monkeypatch.setattr(lock, "owner", lambda path: None)  # as of one in another container
        assert [found for found, _ in temporary.clear()] == [path]
        assert everything(path) == before
        queue.enqueue(b"goes on")
        assert queue.dequeue() == b"goes on"


def test_a_pipe_whose_directory_was_removed_before_it_was_locked_makes_another(
    temporary_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, made = temporary.Temporary.lock, []

    def lock_late(spool: temporary.Temporary, *, wait: bool) -> bool:
        made.append(spool.path)
        if len(made) == 1:
            monkeypatch.setattr(temporary.Temporary, "lock", take)
            assert temporary.clear() == []
            assert not spool.path.exists()
            monkeypatch.setattr(temporary.Temporary, "lock", lock_late)
        return take(spool, wait=wait)

    monkeypatch.setattr(temporary.Temporary, "lock", lock_late)
    with temporary.new() as path:
        assert (len(made), made[1], path.is_dir()) == (2, path, True)
        assert temporary.clear() == []
        assert path.is_dir()
    assert not list(temporary_place.iterdir())


def test_what_cannot_be_locked_is_not_removed_and_keeps_no_pipe_from_starting(
    temporary_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(temporary_place)

    def flock(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert temporary.clear() == []
    with temporary.new() as path:
        assert path.is_dir()
    assert [path.name for path in temporary_place.iterdir()] == ["hq-pipe-aaaaaaaa"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_another_users_is_neither_told_nor_removed(temporary_place: Path, run: Output) -> None:
    os.chown(path := make(temporary_place), NOBODY, NOBODY)
    assert temporary.clear() == []
    assert path.is_dir()
    assert "no temporary spools of yours" in run("inspect")[1]


# ---- links -----------------------------------------------------------------------------------


def test_a_link_in_the_place_of_one_is_not_followed(temporary_place: Path, run: Output) -> None:
    target = make(temporary_place, "elsewhere")
    lock_only(target)
    (temporary_place / "hq-pipe-aaaaaaaa").symlink_to("elsewhere")
    (temporary_place / "hq-pipe-bbbbbbbb").touch()
    assert temporary.place() == temporary_place  # which is tried
    before = everything(temporary_place)
    assert temporary.clear() == []
    assert "no temporary spools of yours" in run("inspect")[1]
    assert everything(temporary_place) == before


@pytest.mark.parametrize("replaced_by", ["link", "directory", "nothing"])
def test_what_takes_the_place_of_one_later_is_left_alone(
    temporary_place: Path, replaced_by: str
) -> None:
    path = make(temporary_place)
    lock_only(path)
    target = make(temporary_place, "elsewhere")
    found = temporary.temporaries(temporary_place)
    spool = next(found)
    assert spool.lock(wait=False)
    path.rename(temporary_place / "moved")
    if replaced_by == "link":
        path.symlink_to(target)
    elif replaced_by == "directory":
        make(temporary_place)
    assert spool.remove()
    spool.remove_all()
    assert os.path.lexists(path) == (replaced_by != "nothing")
    assert target.is_dir()
    assert not list((temporary_place / "moved").iterdir())


def test_a_pipe_removes_no_other_directory_than_its_own(temporary_place: Path) -> None:
    with temporary.new() as path:
        path.rename(temporary_place / "moved")
        precious = make(temporary_place, path.name) / "precious"
        precious.touch()
    assert precious.exists()


# ---- where -----------------------------------------------------------------------------------


def test_they_are_where_tmpdir_says_and_else_where_there_is_room(
    temporary_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert temporary.place() == temporary_place
    monkeypatch.delenv("TMPDIR")
    monkeypatch.setattr(os, "access", lambda path, mode: path == "/var/tmp")
    assert temporary.place() == Path("/var/tmp")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert temporary.place() == Path(tempfile.gettempdir())


def test_a_place_that_is_not_there_is_no_reason_to_fail_later(
    temporary_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary_place / "missing"))
    assert temporary.clear() == []
    assert main(["inspect"]) == 1
