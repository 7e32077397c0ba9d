"""Spools where nothing can be written, or that are another user's: read, and left as they are."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hq_cli.main import main
from hq_core import HybridQueue, InlinePump, StreamBusyError, registry
from hq_core.testing.forking import in_child
from tests.cli.running import HQ

NOBODY = 65534
RECORDS = [b"first ", b"second ", b"third"]
BACKENDS = ["file", "lmdb"]
ENTRY = {"file": "s.overflow", "lmdb": "s.lmdb/data.mdb"}


def open_queue(directory: str | Path, backend: str = "file") -> HybridQueue:
    return HybridQueue("s", 1, directory, backend=backend, durable=True, pump=InlinePump())


def leave(directory: Path, backend: str, records: list[bytes] = RECORDS) -> Path:
    """Be an owner that leaves records; the data file."""
    with open_queue(directory, backend) as queue:
        for record in records:
            queue.enqueue(record)
    return directory / ENTRY[backend]


def whats_there(directory: Path) -> list[tuple[str, int, int, int]]:
    """Everything in it, with what any change of it would change."""
    found = [(path, path.lstat()) for path in (directory, *sorted(directory.rglob("*")))]
    return [(os.fspath(p), i.st_ino, i.st_size, i.st_mtime_ns) for p, i in found]


def become_nobody(home: Path) -> None:
    """In a child: stand in `home`, and be a user to whom permissions apply."""
    os.chdir(home)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def output_of(*args: str) -> tuple[int, bytes]:
    """In a child: the exit status of ``hq`` with `args`, and its standard output."""
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 1)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        status = main(args)
        sys.stdout.flush()
        file.seek(0)
        return status, file.read()


@pytest.fixture
def sealed(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Takes from everybody the permission to write in the directory ``tmp_path/spool``."""
    for name in BACKENDS:
        registry.load(name)  # while its modules can be read
    tmp_path.chmod(0o755)
    spool = tmp_path / "spool"

    def seal() -> None:
        for path in (*spool.rglob("*"), spool):
            if os.geteuid() == 0:
                os.chown(path, NOBODY, NOBODY)
            path.chmod(0o555 if path.is_dir() else 0o444)

    yield seal
    for path in (spool, *(path for path in spool.rglob("*") if path.is_dir())):
        path.chmod(0o755)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("locked", [False, True], ids=["no lock file", "one of a killed owner"])
def test_what_may_only_be_read_is_inspected_verified_and_delivered(
    tmp_path: Path, sealed: Callable[[], None], backend: str, locked: bool
) -> None:
    leave(tmp_path / "spool", backend)
    if locked:
        (tmp_path / "spool" / "s.lock").touch()
    sealed()
    before = whats_there(tmp_path / "spool")

    def nobody() -> None:
        become_nobody(tmp_path)
        for command in ("inspect", "verify", "repair"):
            status, out = output_of(command, "spool")
            assert (status, b"error" in out) == (0, False), out
        assert output_of("cat", "spool") == (0, b"".join(RECORDS))
        assert output_of("repair", "--apply", "spool")[0] == 0

    in_child(nobody)
    assert whats_there(tmp_path / "spool") == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_repair_where_nothing_may_be_written_is_an_error_and_no_traceback(
    tmp_path: Path, sealed: Callable[[], None], backend: str
) -> None:
    path = leave(tmp_path / "spool", backend)
    path.write_bytes(
        path.read_bytes()[:-20] + b"\xff" * 20 if backend == "file" else b"\xff" * 9000
    )
    sealed()
    before = whats_there(tmp_path / "spool")

    def nobody() -> None:
        become_nobody(tmp_path)
        assert output_of("verify", "spool")[0] == 2
        status, out = output_of("repair", "--apply", "spool")
        assert (status, b"Permission denied" in out) == (1, True), out

    in_child(nobody)
    assert whats_there(tmp_path / "spool") == before


MOUNT = """
mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" || exit 77
cd "$2" && shift 2 && exec "$@"
"""


@pytest.mark.slow  # it starts processes
@pytest.mark.skipif(not shutil.which("unshare"), reason="there is no unshare")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("locked", [False, True], ids=["no lock file", "one of a killed owner"])
def test_a_mount_that_is_read_only_is_read(tmp_path: Path, backend: str, locked: bool) -> None:
    leave(tmp_path, backend)
    if locked:
        (tmp_path / "s.lock").touch()
    before = whats_there(tmp_path)
    done = {}
    for command in (["inspect"], ["verify"], ["repair"], ["cat"], ["repair", "--apply"]):
        done[" ".join(command)] = on_a_read_only_mount(tmp_path, *HQ, *command, os.fspath(tmp_path))
    assert {name: process.returncode for name, process in done.items()} == dict.fromkeys(done, 0)
    assert {process.stderr for process in done.values()} == {b""}
    assert done["cat"].stdout == b"".join(RECORDS)
    assert whats_there(tmp_path) == before


def on_a_read_only_mount(directory: Path, *command: str) -> subprocess.CompletedProcess[bytes]:
    root = os.fspath(Path(__file__).parents[2])
    script = ["unshare", "-m", "sh", "-c", MOUNT, "sh", os.fspath(directory), root, *command]
    done = subprocess.run(script, capture_output=True, check=False)
    if done.returncode == 77 or b"unshare failed" in done.stderr:
        pytest.skip(f"not permitted: {done.stderr.decode().strip()}")
    return done


@pytest.mark.slow  # it starts a process
def test_an_owner_is_respected_on_a_read_only_mount_of_his_spool(tmp_path: Path) -> None:
    with open_queue(tmp_path) as queue:
        queue.enqueue(b"record")
        done = on_a_read_only_mount(tmp_path, *HQ, "cat", os.fspath(tmp_path))
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"is open in another queue" in done.stderr


# ---- cat without a lock ----------------------------------------------------------------------


@pytest.fixture
def no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """No lock file can be made or opened."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("hq_core.spool.lock.StreamLock._open_found", refuse)


@pytest.mark.usefixtures("no_lock")
def test_a_stream_whose_lock_cannot_be_had_is_refused_while_it_has_an_owner(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_queue(tmp_path) as queue:
        queue.enqueue(b"record")
        assert main(["cat", os.fspath(tmp_path)]) == 1
    assert f"is in use by process {os.getpid()}" in capsys.readouterr().err


@pytest.mark.usefixtures("no_lock")
@pytest.mark.parametrize("stays", [False, True])
def test_a_queue_that_opens_while_it_is_read_without_a_lock_is_told(
    tmp_path: Path, stays: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = leave(tmp_path, "file")
    opened: list[HybridQueue] = []

    def delivered(_: object, record: bytes, *, framed: bool) -> None:
        if not opened:
            opened.append(open_queue(tmp_path))
            opened[0].enqueue(b"fourth")
            if not stays:
                opened[0].close()

    monkeypatch.setattr("hq_cli.cat._write", delivered)
    assert main(["cat", os.fspath(path)]) == 1
    opened[0].close()
    said = capsys.readouterr().err
    assert ("is in use by process" if stays else "was opened meanwhile") in said


# ---- another user's --------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
@pytest.mark.slow  # it starts a process
@pytest.mark.parametrize("command", ["cat", "repair"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tool_of_roots_that_is_killed_leaves_the_stream_to_its_owner(
    tmp_path: Path, backend: str, command: str
) -> None:
    large = [bytes([number]) * 30_000 for number in range(30)]
    spool = tmp_path / "spool"
    leave(spool, backend, large)
    for path in (spool, *spool.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    if command == "cat":
        with subprocess.Popen([*HQ, "cat", spool], stdout=subprocess.PIPE) as process:
            assert process.stdout
            process.stdout.read(1)  # it is amid the records, and waits for a reader
            with pytest.raises(StreamBusyError):
                open_queue(spool, backend)
            process.send_signal(signal.SIGKILL)
    else:  # which repairs nothing of another user's
        subprocess.run([*HQ, "repair", "--apply", spool], check=False, capture_output=True)
    names = {path.name: path.stat().st_uid for path in spool.iterdir()}
    assert set(names.values()) == {NOBODY}
    assert ("s.lock" in names) == (command == "cat")

    def service() -> None:
        become_nobody(spool)
        with open_queue(".", backend) as queue:
            assert [queue.try_dequeue() for _ in large] == large

    in_child(service)
