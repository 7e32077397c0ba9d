"""Every byte, in order, whatever the sizes; memory within its bound; nothing left behind."""

import fcntl
import os
import random
import subprocess
from pathlib import Path

import pytest

from tests.cli.running import HQ, hq, pipe

SAMPLE = Path(__file__).parent.parent / "data" / "sample.ts"
BLOCK = 4096


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize(
    "size",
    [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK - 1, 2 * BLOCK, 2 * BLOCK + 1, 99 * BLOCK + 7],
)
@pytest.mark.parametrize("memory", ["4K", "64M"])
def test_what_goes_in_comes_out_to_the_last_byte(size: int, memory: str, tmp_path: Path) -> None:
    data = noise(size)
    done = hq("pipe", "--block-size", "4K", "--memory", memory, "--dir", tmp_path, data=data)
    assert done.returncode == 0
    assert done.stdout == data
    assert f": {size} bytes (" in done.stderr.decode()
    assert not list(tmp_path.iterdir())


def test_files_do_as_well_as_pipes(tmp_path: Path) -> None:
    copy = tmp_path / "copy.ts"
    with SAMPLE.open("rb") as source, copy.open("wb") as target:
        done = subprocess.run([*HQ, "pipe"], stdin=source, stdout=target, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    assert copy.read_bytes() == SAMPLE.read_bytes()


def test_a_real_stream_whose_reader_is_slow_goes_over_the_disk(tmp_path: Path) -> None:
    data = SAMPLE.read_bytes()
    with pipe("--memory", "128K", "--dir", tmp_path / "new", "--name", "tv") as running:
        running.feed(data)
        running.end_input()
        full = running.reading(lambda r: r["in_bytes"] == len(data))
        assert full["disk_bytes"] > 0
        assert full["pressure"] > 1.0
        assert full["memory_bytes"] <= full["memory_limit"] == 128 * 1024
        assert [path.name for path in (tmp_path / "new").glob("*.overflow")] == ["tv.overflow"]
        assert running.rest() == data
        assert running.status() == 0
    assert not list((tmp_path / "new").iterdir())


def test_single_bytes_go_through_at_once() -> None:
    with pipe("--quiet") as running:
        for byte in b"one by one":
            running.feed(bytes([byte]))
            assert running.read(1) == bytes([byte])
        running.end_input()
        assert running.rest() == b""
        assert running.status() == 0
        assert running.last_words() == ""


def test_descriptors_that_somebody_made_non_blocking_are_waited_for(tmp_path: Path) -> None:
    data = noise(500_000)
    reader, writer = os.pipe()
    out_reader, out_writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(out_writer, False)
    with pipe("--dir", tmp_path, stdin=reader, stdout=out_writer) as running:
        os.close(reader)
        os.close(out_writer)
        running.reading(lambda r: r["elapsed"] > 0)  # it waits for input by now
        running.stdin, running.stdout = writer, out_reader
        running.feed(data)
        os.close(writer)
        assert running.rest() == data
        assert running.status() == 0
    os.close(out_reader)


@pytest.mark.slow
def test_memory_stays_bounded_while_the_reader_stalls(tmp_path: Path) -> None:
    most = []
    for size in (0, 48 * 1024**2):
        with pipe("--memory", "1M", "--dir", tmp_path) as running:
            running.feed(bytes(size))
            running.end_input()
            running.reading(lambda r, size=size: r["in_bytes"] == size)  # type: ignore[misc]
            running.rest()
            most.append(running.most_memory())
    assert most[1] - most[0] < 8 * 1024**2


def test_short_blocks_are_counted_for_what_they_really_cost(tmp_path: Path) -> None:
    """64 KiB of single bytes would cost megabytes; 128 of them is what 64 KiB are good for."""
    data = noise(6000)
    with pipe("--memory", "64K", "--block-size", "1", "--dir", tmp_path) as running:
        fcntl.fcntl(running.stdout, fcntl.F_SETPIPE_SZ, 4096)
        running.feed(data)
        full = running.reading(lambda r: r["in_bytes"] == len(data))
        assert full["memory_bytes"] <= 128
        assert full["disk_bytes"] > 0
        running.end_input()
        assert running.rest() == data
        assert running.status() == 0


@pytest.mark.slow
def test_two_pipes_of_one_name_in_one_directory_do_not_meet(tmp_path: Path) -> None:
    with pipe("--dir", tmp_path, "--name", "tv") as first:
        first.feed(b"first")
        assert first.read(5) == b"first"
        second = hq("pipe", "--dir", tmp_path, "--name", "tv", data=b"second")
        assert second.returncode == 1
        assert second.stdout == b""
        assert b"another --name or --dir" in second.stderr
        other = hq("pipe", "--dir", tmp_path, "--name", "radio", data=b"other")
        assert (other.returncode, other.stdout) == (0, b"other")
        first.feed(b" still there")
        first.end_input()
        assert first.rest() == b" still there"
        assert first.status() == 0


def test_what_a_killed_pipe_left_is_not_touched(tmp_path: Path) -> None:
    args = ("--dir", tmp_path, "--name", "tv", "--memory", "64K")
    with pipe(*args) as running:
        running.feed(noise(300_000))
        running.reading(lambda r: r["in_bytes"] == 300_000)
        running.process.kill()
        running.status()
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert left["tv.overflow"]
    done = hq("pipe", *args, data=b"more")
    assert done.returncode == 1
    assert done.stdout == b""
    assert b"another --name or --dir" in done.stderr
    assert (tmp_path / "tv.overflow").read_bytes() == left["tv.overflow"]


def test_without_a_directory_nothing_is_left_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with pipe("--memory", "64K") as running:
        running.feed(noise(300_000))
        running.reading(lambda r: r["in_bytes"] == 300_000)
        assert list(tmp_path.glob("hq-pipe-*/pipe-*.overflow"))
        running.end_input()
        assert running.rest() == noise(300_000)
        assert running.status() == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("redirection", "said"),
    [
        ("<&-", "standard input is closed"),
        ("</dev/null >&-", "standard output is closed"),
        ("0>/dev/null", "standard input is not open for reading"),
        ("</dev/null 1</dev/null", "standard output is not open for writing"),
    ],
)
def test_a_missing_end_is_a_message(redirection: str, said: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *HQ, "pipe"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.decode().startswith(f"hq: error: {said}")


def test_without_standard_error_it_works_all_the_same() -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *HQ, "pipe"],
        input=b"data",
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"data")
