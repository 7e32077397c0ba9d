"""hq inspect, verify, cat and repair, as an operator uses them."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hq_cli.main import main
from hq_core import HybridQueue, InlinePump, Unlimited
from tests.cli.running import HQ, hq

RECORDS = [b"first ", b"", b"third " * 20]

Output = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Output:
    """Runs a command: its exit status, what it printed, what it said."""

    def run(*args: str | Path) -> tuple[int, str, str]:
        status = main([os.fspath(arg) for arg in args])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return status, said.out, said.err

    return run


def open_queue(directory: Path, stream: str = "s", **options: Any) -> HybridQueue:
    queue = HybridQueue(
        stream,
        1,
        directory,
        backend_options=options,
        durable=True,
        limiter=Unlimited(),
        pump=InlinePump(),
    )
    queue.enqueue_many(RECORDS)
    return queue


def leave(directory: Path, stream: str = "s", **options: Any) -> Path:
    open_queue(directory, stream, **options).close()
    return directory / f"{stream}.overflow"


def damage(path: Path) -> None:
    """Its second record, which in the checksummed format is 8 bytes."""
    data = bytearray(path.read_bytes())
    at = data.index(b"first ") + 6
    data[at : at + 4] = b"\xff" * 4
    path.write_bytes(data)


class TestInspect:
    def test_it_shows_where_the_records_are(self, tmp_path: Path, run: Output) -> None:
        path = leave(tmp_path)
        assert run("inspect", path) == (
            0,
            f"{path}\n"
            "  stream    s\n"
            "  backend   file, plain\n"
            "  owner     none\n"
            "  records   3, 138 B, from byte 0 to 138\n"
            "  position  good\n",
            "",
        )

    def test_it_shows_every_stream_and_what_is_set_aside(self, tmp_path: Path, run: Output) -> None:
        paths = [leave(tmp_path, "a"), leave(tmp_path, "b", checksum=True)]
        shutil.copy(paths[0], aside := tmp_path / "a.overflow.quarantine-1")
        status, out, _ = run("inspect", tmp_path, "--json")
        found = json.loads(out)
        assert status == 0
        assert found["set_aside"] == [str(aside)]
        assert [row["format"] for row in found["streams"]] == ["plain", "checksummed"]
        assert found["streams"][0] == {
            "stream": "a",
            "path": str(paths[0]),
            "backend": "file",
            "owner": None,
            "state": "fine",
            "format": "plain",
            "records": 3,
            "size_bytes": 138,
            "head": 0,
            "tail": 138,
            "position": "good",
            "torn_bytes": 0,
            "damage": [],
        }

    def test_a_running_owner_is_named_and_not_disturbed(self, tmp_path: Path, run: Output) -> None:
        with open_queue(tmp_path) as queue:
            for command in ("inspect", "verify"):
                status, out, _ = run(command, tmp_path)
                assert (status, f"process {os.getpid()}" in out) == (0, True)
            assert queue.dequeue_many(3) == RECORDS

    def test_one_that_cannot_be_read_does_not_hide_the_others(
        self, tmp_path: Path, run: Output
    ) -> None:
        leave(tmp_path, "a")
        os.mkfifo(tmp_path / "b.overflow")
        (tmp_path / "c.overflow").symlink_to("a.overflow")
        (tmp_path / "d.overflow").mkdir()
        for command in ("inspect", "verify", "repair"):
            status, out, _ = run(command, tmp_path, "--json")
            states = [row["state"] for row in json.loads(out)["streams"]]
            assert (status, states) == (1, ["fine", "error", "error", "error"])

    def test_an_empty_directory_has_no_streams(self, tmp_path: Path, run: Output) -> None:
        assert run("inspect", tmp_path) == (0, "no streams\n", "")


class TestVerify:
    def test_damage_is_told_with_its_place(self, tmp_path: Path, run: Output) -> None:
        path = leave(tmp_path, checksum=True)
        assert run("verify", path) == (0, f"{path}: fine, 3 whole records, 126 B\n", "")
        damage(path)
        status, out, _ = run("verify", path)
        assert status == 2
        assert out == (
            f"{path}: DAMAGED, 2 whole records, 126 B\n"
            "  at byte 30, 8 bytes: a record claims 4294967295 bytes; 10485760 is the limit\n"
        )
        status, out, _ = run("verify", path, "--json")
        (row,) = json.loads(out)["streams"]
        assert (status, row["state"], row["damaged_places"]) == (2, "damaged", 1)
        assert [(place["offset"], place["size_bytes"]) for place in row["damage"]] == [(30, 8)]

    def test_bytes_that_belong_to_no_record_are_never_called_fine(
        self, tmp_path: Path, run: Output
    ) -> None:
        path = leave(tmp_path)
        with path.open("ab") as file:
            file.write(b"\0\0\0\7half")
        status, out, _ = run("verify", path)
        assert (status, "8 bytes: the last record is unfinished" in out) == (2, True)

    def test_a_name_that_a_terminal_would_obey_is_escaped(
        self, tmp_path: Path, run: Output
    ) -> None:
        path = tmp_path / "\x1b[2J\r\n.overflow"
        path.write_bytes(b"\xff" * 9)
        for command in ("inspect", "verify", "repair"):
            out = run(command, tmp_path)[1]
            assert r"\x1b[2J\r\n.overflow" in out
            assert "\x1b" not in out
        path.unlink()
        status, _, err = run("verify", path)
        assert (status, "\x1b" in err, r"\x1b[2J" in err) == (1, False, True)

    def test_what_is_not_there_is_an_error(self, tmp_path: Path, run: Output) -> None:
        for command in ("inspect", "verify", "cat", "repair"):
            status, out, err = run(command, tmp_path / "missing")
            assert (status, out) == (1, "")
            assert err == f"hq: error: {tmp_path}/missing: No such file or directory\n"


class TestCat:
    @pytest.mark.slow  # it starts a process
    def test_it_delivers_what_was_left_and_takes_nothing(self, tmp_path: Path) -> None:
        path = leave(tmp_path)
        before = path.read_bytes()
        for _ in range(2):
            done = hq("cat", tmp_path)
            assert (done.returncode, done.stdout, done.stderr) == (0, b"".join(RECORDS), b"")
        assert path.read_bytes() == before

    @pytest.mark.slow  # it starts a process
    def test_framed_is_the_overflow_format(self, tmp_path: Path) -> None:
        path = leave(tmp_path, checksum=True)
        framed = b"".join(len(r).to_bytes(4, "big") + r for r in RECORDS)
        assert hq("cat", "--framed", path).stdout == framed

    @pytest.mark.slow  # it starts a process
    def test_what_is_damaged_is_left_out_and_told(self, tmp_path: Path) -> None:
        path = leave(tmp_path, checksum=True)
        damage(path)
        done = hq("cat", path)
        assert (done.returncode, done.stdout) == (2, b"".join(RECORDS))
        assert done.stderr.startswith(b"hq: left out at byte 30: ")

    def test_a_stream_in_use_is_refused(self, tmp_path: Path, run: Output) -> None:
        with open_queue(tmp_path):
            status, out, err = run("cat", tmp_path)
        assert (status, out) == (1, "")
        assert "is open in another queue" in err

    def test_one_of_several_has_to_be_named(self, tmp_path: Path, run: Output) -> None:
        assert "no stream is in" in run("cat", tmp_path)[2]
        leave(tmp_path, "a")
        leave(tmp_path, "b")
        assert "2 streams are in" in run("cat", tmp_path)[2]

    @pytest.mark.slow  # it starts a process
    def test_a_reader_that_goes_away_ends_it(self, tmp_path: Path) -> None:
        path = tmp_path / "s.overflow"
        path.write_bytes((b"\0\x01\0\0" + bytes(65536)) * 40)
        command = [*HQ, "cat", str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout
            assert process.stderr
            process.stdout.read(1)
            process.stdout.close()
            assert process.stderr.read() == (
                b"hq: error: the reader of standard output went away\n"
            )
        assert process.returncode == 1
        assert list(tmp_path.iterdir()) == [path]


class TestRepair:
    @pytest.mark.slow  # it starts a process
    def test_it_plans_first_and_then_does_it(self, tmp_path: Path, run: Output) -> None:
        path = leave(tmp_path, checksum=True)
        assert run("repair", path) == (0, f"{path}: fine, nothing to do\n", "")
        assert run("repair", "--apply", path) == (0, f"{path}: fine, nothing to do\n", "")
        damage(path)
        damaged = path.read_bytes()
        status, out, _ = run("repair", path)
        assert (status, path.read_bytes()) == (2, damaged)
        assert "would keep 2 whole records, 126 B, without 1 damaged place" in out
        status, out, _ = run("repair", "--apply", "--json", path)
        (row,) = json.loads(out)["streams"]
        assert (status, row["state"]) == (0, "repaired")
        assert Path(row["backup"]).read_bytes() == damaged
        assert run("verify", path)[0] == 0
        assert hq("cat", path).stdout == b"".join(RECORDS)

    def test_a_stream_in_use_is_not_repaired(self, tmp_path: Path, run: Output) -> None:
        with open_queue(tmp_path) as queue:
            damage(tmp_path / "s.overflow")
            status, out, _ = run("repair", "--apply", tmp_path)
            assert (status, "is open in another queue" in out) == (1, True)
            assert queue.try_dequeue() == RECORDS[0]
