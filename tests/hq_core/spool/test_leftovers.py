"""What another backend has left of a stream is resumed by nobody, and told."""

import asyncio
import functools
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from hq_backends.file import FileBackend
from hq_core import (
    AsyncHybridQueue,
    BackendError,
    HybridQueue,
    InlinePump,
    OverflowBackend,
    StreamBusyError,
    Unlimited,
    registry,
)
from hq_core.protocols import Stream
from hq_core.spool import leftovers
from hq_core.spool.checking import salvage
from hq_core.spool.directory import Directory
from hq_core.spool.finding import find, set_aside
from hq_core.testing import MemoryBackend
from tests.installing import SOUND, installed, site_in

RECORDS = [b"one", b"", b"three"]
OTHER = {"file": "lmdb", "lmdb": "file"}
ENTRY = {"file": "s.overflow", "lmdb": "s.lmdb"}

Refusing = Literal["resume", "refuse"]
both = pytest.mark.parametrize("left", ["file", "lmdb"])
refusing = pytest.mark.parametrize("leftover", ["resume", "refuse"])


def open_queue(directory: Path, backend: Any, stream: str = "s", **options: Any) -> HybridQueue:
    return HybridQueue(
        stream,
        1,
        directory,
        backend=backend,
        durable=True,
        limiter=Unlimited(),
        pump=InlinePump(),
        **options,
    )


def leave(directory: Path, backend: Any, **options: Any) -> None:
    """Be an owner that leaves `RECORDS`."""
    with open_queue(directory, backend, **options) as queue:
        queue.enqueue_many(RECORDS)


def snapshot(directory: Path) -> dict[str, bytes]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {os.fspath(path.relative_to(directory)): path.read_bytes() for path in files}


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@both
@refusing
def test_records_of_another_backend_are_refused_and_untouched(
    tmp_path: Path, left: str, leftover: Refusing
) -> None:
    leave(tmp_path, left)
    before = snapshot(tmp_path)
    with pytest.raises(StreamBusyError) as refusal:
        open_queue(tmp_path, OTHER[left], leftover=leftover)
    for said in (
        f"{tmp_path / ENTRY[left]} holds 3 records",
        f"of the backend '{left}'",
        f"backend='{left}'",
        "leftover='discard' or 'quarantine'",
    ):
        assert said in str(refusal.value)
    assert snapshot(tmp_path) == before
    with open_queue(tmp_path, left) as queue:
        assert queue.dequeue_many(5) == RECORDS


@both
def test_discard_deletes_them_and_logs_it(
    tmp_path: Path, left: str, caplog: pytest.LogCaptureFixture
) -> None:
    leave(tmp_path, left)
    with open_queue(tmp_path, OTHER[left], leftover="discard") as queue:
        assert queue.depth == 0
        assert ENTRY[left] not in names(tmp_path)
        assert not [name for name in names(tmp_path) if name.startswith(f"{ENTRY[left]}.")]
    (told,) = [r for r in caplog.records if "is deleted" in r.getMessage()]
    assert told.levelno == logging.WARNING
    assert f"{ENTRY[left]}, with 3 records, of the backend '{left}'" in told.getMessage()


@both
def test_quarantine_sets_them_aside_whole_and_logs_it(
    tmp_path: Path, left: str, caplog: pytest.LogCaptureFixture
) -> None:
    leave(tmp_path, left)
    was = snapshot(tmp_path)
    with open_queue(tmp_path, OTHER[left], leftover="quarantine") as queue:
        assert queue.depth == 0
    (aside,) = set_aside(tmp_path)
    (spool,) = find(aside)
    assert (spool.aside, spool.backend.name) == (".quarantine-1", left)
    assert list(salvage(spool)) == RECORDS
    kept = {n: data for n, data in snapshot(tmp_path).items() if "quarantine" in n}
    assert {name.replace(".quarantine-1", ""): data for name, data in kept.items()} == was
    (told,) = [r for r in caplog.records if "is set aside" in r.getMessage()]
    assert told.levelno == logging.WARNING
    assert f"{ENTRY[left]}.quarantine-1" in told.getMessage()


def test_what_is_set_aside_again_and_again_is_kept_within_bounds(tmp_path: Path) -> None:
    for _ in range(18):
        leave(tmp_path, "file", leftover="quarantine")
        open_queue(tmp_path, "lmdb", leftover="quarantine").close()
    assert len(set_aside(tmp_path)) == 16


@both
@pytest.mark.parametrize("leftover", ["resume", "refuse", "discard", "quarantine"])
def test_files_without_records_are_no_obstacle(
    tmp_path: Path, left: str, leftover: Any, caplog: pytest.LogCaptureFixture
) -> None:
    leave(tmp_path, left)
    with open_queue(tmp_path, left) as queue:
        assert queue.dequeue_many(5) == RECORDS
        queue.close()
    if left == "file":
        (tmp_path / "s.overflow").write_bytes(b"\0\0\0\7torn")
    else:
        (tmp_path / "s.lmdb" / "new").mkdir(parents=True, exist_ok=True)
        (tmp_path / "s.lmdb" / "new" / "data.mdb").touch()
    before = snapshot(tmp_path)
    with open_queue(tmp_path, OTHER[left], leftover=leftover) as queue:
        queue.enqueue_many(RECORDS)
        assert before.items() <= snapshot(tmp_path).items()
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


@refusing
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(b"\xff" * 50), r"damage \(a record claims"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be counted .*not a regular file"),
        (lambda path: (path.unlink(), path.symlink_to("x")), "cannot be counted .*symbolic link"),
        (
            lambda path: (path.unlink(), subprocess.run(["mkfifo", path], check=True)),
            "cannot be counted .*not a regular file",
        ),
    ],
)
def test_what_cannot_be_counted_is_refused(
    tmp_path: Path, leftover: Refusing, damage: Callable[[Path], object], said: str
) -> None:
    path = tmp_path / "s.overflow"
    leave(tmp_path, "file")
    damage(path)
    if path.is_dir():
        (path / "file").write_bytes(b"x")
    with pytest.raises(StreamBusyError, match=said) as refusal:
        open_queue(tmp_path, "lmdb", leftover=leftover)
    assert "/proc/self" not in str(refusal.value)
    assert str(path) in str(refusal.value)


def test_an_environment_that_only_its_backend_can_put_together_is_refused(tmp_path: Path) -> None:
    leave(tmp_path, "lmdb")
    (tmp_path / "s.lmdb" / "new").mkdir(exist_ok=True)
    (tmp_path / "s.lmdb" / "data.mdb").rename(tmp_path / "s.lmdb" / "new" / "data.mdb")
    with pytest.raises(StreamBusyError, match="cannot be counted"):
        open_queue(tmp_path, "file")


@pytest.mark.parametrize("leftover", ["discard", "quarantine"])
def test_a_link_in_its_place_is_never_followed(tmp_path: Path, leftover: Any) -> None:
    elsewhere = tmp_path / "elsewhere"
    leave(elsewhere, "lmdb")
    before = snapshot(elsewhere)
    spool = tmp_path / "spool"
    spool.mkdir()
    (spool / "s.lmdb").symlink_to(elsewhere / "s.lmdb")
    open_queue(spool, "file", leftover=leftover).close()
    assert snapshot(elsewhere) == before
    assert "s.lmdb" not in names(spool)


@pytest.mark.parametrize("leftover", ["discard", "quarantine"])
def test_what_is_another_users_is_neither_deleted_nor_moved(
    tmp_path: Path, leftover: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(tmp_path, "lmdb")
    before = snapshot(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(BackendError, match=r"s\.lmdb is another user's"):
        open_queue(tmp_path, MemoryBackend, leftover=leftover)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("leftover", ["discard", "quarantine"])
def test_an_opening_that_fails_clears_nothing(tmp_path: Path, leftover: Any) -> None:
    leave(tmp_path, "lmdb")
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match="no option 'colour'"):
        open_queue(tmp_path, "file", leftover=leftover, backend_options={"colour": 1})
    assert snapshot(tmp_path) == before


def test_what_cannot_be_cleared_is_an_error_and_the_stream_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(tmp_path, "lmdb")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refuse)
        with pytest.raises(BackendError, match=r"cannot be cleared: .*Permission denied"):
            open_queue(tmp_path, "file", leftover="discard")
    with open_queue(tmp_path, "lmdb") as queue:
        assert queue.dequeue_many(5) == RECORDS


def test_the_directory_that_was_opened_is_looked_at(tmp_path: Path) -> None:
    leave(tmp_path / "spool", "lmdb")
    with Directory(tmp_path / "spool") as held:
        (tmp_path / "spool").rename(tmp_path / "moved")
        (tmp_path / "spool").mkdir()
        with pytest.raises(StreamBusyError, match="holds 3 records"):
            leftovers.check(held, held.stream("s"), FileBackend)
        assert leftovers.clear(held, held.stream("s", leftover="quarantine"), FileBackend)
    assert names(tmp_path / "moved") == ["s.lmdb.quarantine-1"]
    assert names(tmp_path / "spool") == []


# ---- whose files they are --------------------------------------------------------------------


def opaque(stream: Stream, **options: Any) -> OverflowBackend:
    """A factory of which nobody knows what it opens."""
    return FileBackend(stream, **options)


class Wrapping(FileBackend):
    """A backend that says neither by its name nor by its tools which files it writes."""

    name = "wrapping"
    tools = None  # type: ignore[assignment] # as if it had never had them


class Quiet(FileBackend):
    """A backend with a name of its own, and the files of another."""

    name = "quiet"


@pytest.mark.parametrize(
    "backend", ["file", FileBackend, functools.partial(FileBackend, checksum=True), opaque, Quiet]
)
def test_what_a_backend_left_itself_is_its_own(tmp_path: Path, backend: Any) -> None:
    leave(tmp_path, backend)
    with open_queue(tmp_path, backend) as queue:
        assert queue.dequeue_many(5) == RECORDS
    leave(tmp_path / "lmdb", "lmdb")
    with pytest.raises(StreamBusyError, match="of the backend 'lmdb'"):
        open_queue(tmp_path / "lmdb", backend)
    with open_queue(tmp_path / "lmdb", "lmdb") as queue:
        assert queue.dequeue_many(5) == RECORDS


def test_a_backend_that_may_have_written_them_is_not_refused(tmp_path: Path) -> None:
    leave(tmp_path, Wrapping)
    with open_queue(tmp_path, Wrapping) as queue:
        assert queue.dequeue_many(5) == RECORDS


def test_coroutines_are_told_as_well(tmp_path: Path) -> None:
    leave(tmp_path, "lmdb")

    async def run() -> None:
        async with AsyncHybridQueue("s", 1, tmp_path, durable=True):
            pass

    with pytest.raises(StreamBusyError, match="of the backend 'lmdb'"):
        asyncio.run(run())


def test_other_streams_are_no_matter(tmp_path: Path) -> None:
    for stream in ("s.lmdb", "t", "S", "s.lmdb.quarantine-1", "s-", ""):
        with open_queue(tmp_path, "lmdb", stream) as queue:
            queue.enqueue_many(RECORDS)
    open_queue(tmp_path, "file").close()


class TestAPlugin:
    @pytest.fixture(autouse=True)
    def sqlite(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with site_in(tmp_path_factory.mktemp("site")) as site:
            site.register("hq-sqlite", "sqlite", "hq_sqlite")
            yield

    def test_is_told_like_others(self, tmp_path: Path) -> None:
        leave(tmp_path, "sqlite")
        with pytest.raises(StreamBusyError, match=r"s\.sqlite holds 3 records, .* 'sqlite'"):
            open_queue(tmp_path, "file")
        open_queue(tmp_path, "file", leftover="quarantine").close()
        assert names(tmp_path) == ["s.sqlite.quarantine-1"]


def test_a_backend_that_cannot_be_loaded_may_have_left_records(tmp_path: Path) -> None:
    (tmp_path / "s.mine").write_bytes(b"x")
    with installed(tmp_path / "site", "import no_such_module"):
        with pytest.raises(StreamBusyError, match=r"cannot be counted .*no_such_module"):
            open_queue(tmp_path, "file")
        open_queue(tmp_path, "file", leftover="quarantine").close()
        assert "s.mine.quarantine-1" in names(tmp_path)


def test_a_backend_without_tools_may_have_left_records(tmp_path: Path) -> None:
    (tmp_path / "s.mine").write_bytes(b"x")
    without = SOUND.replace('    name = "mine"', '    name = "mine"\n    tools = None')
    with (
        installed(tmp_path / "site", without),
        pytest.raises(StreamBusyError, match=r"cannot be counted .*no tools"),
    ):
        open_queue(tmp_path, "file")


def test_a_file_that_has_only_the_name_of_a_backend_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "s.mine").write_bytes(b"x")  # of the class in it, the data file is s.memory
    with installed(tmp_path / "site", SOUND):
        open_queue(tmp_path, "file").close()


def test_the_backends_call_their_files_by_their_names() -> None:
    for name in registry.names():
        suffix = registry.load(name).tools.suffix  # type: ignore[attr-defined] # they have it
        assert re.match(r"\.[a-z0-9-]+", suffix)
        assert suffix.partition("/")[0] == (".overflow" if name == "file" else f".{name}")


# ---- what it costs ---------------------------------------------------------------------------


def test_an_opening_looks_at_one_name_for_each_other_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []

    def seen(directory: Directory, entry: str) -> bool:
        looks.append(entry)
        return original(directory, entry)

    original = leftovers._is_there
    monkeypatch.setattr(leftovers, "_is_there", seen)
    monkeypatch.setattr(os, "scandir", None)
    monkeypatch.setattr(os, "listdir", None)
    open_queue(tmp_path, "file").close()
    assert set(looks) == {"s.lmdb"}
    assert len(looks) == 2  # before the backend is opened, and after, if only that shows whose


@pytest.mark.slow
def test_an_opening_is_as_fast_among_many_files(tmp_path: Path) -> None:
    def fastest(directory: Path) -> float:
        took = []
        for _ in range(50):
            start = time.perf_counter()
            open_queue(directory, "file").close()
            took.append(time.perf_counter() - start)
        return min(took)

    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    for number in range(100_000):
        os.close(os.open(tmp_path / "full" / f"{number}.overflow", os.O_CREAT | os.O_WRONLY))
    assert fastest(tmp_path / "full") < 5 * fastest(tmp_path / "empty") + 0.005
    assert "hq_backends.file" in sys.modules
