"""What a running pipe tells, and to whom."""

import json
import os
import subprocess
from pathlib import Path

from tests.cli.running import HQ, hq, pipe

ERASE = "\r\x1b[K"


def test_readings_go_on_while_the_output_is_stalled(tmp_path: Path) -> None:
    with pipe("--memory", "64K", "--dir", tmp_path) as running:
        running.feed(bytes(500_000))
        running.reading(lambda r: r["in_bytes"] == 500_000)
        stalled = [running.reading(lambda r: True) for _ in range(5)]
        elapsed = [r["elapsed"] for r in stalled]
        assert elapsed == sorted(set(elapsed))
        for reading in stalled:
            assert reading["in_rate"] == 0.0
            assert reading["out_bytes"] < reading["in_bytes"] == 500_000
            assert reading["depth"] > 0


def test_the_status_line_ticks_while_the_output_is_stalled(tmp_path: Path) -> None:
    with pipe("--force-status", "--memory", "64K", "--dir", tmp_path) as running:
        running.feed(bytes(500_000))
        running.reading(lambda r: r["in_bytes"] == 500_000)
        running.hear(ERASE)
        running.hear(ERASE, times=running.said.decode().count(ERASE) + 5)
        running.end_input()
        running.rest()
        assert running.status() == 0
        *status, summary = running.last_words().split(ERASE)
        assert all("pressure" in line and "\n" not in line for line in status[1:])
        assert summary.startswith("hq: pipe-")
        assert summary.endswith("blocks through the disk\n")


def test_the_last_reading_is_about_the_whole_run(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    args = ("--name", "tv", "--memory", "1M", "--jsonl", lines)
    with pipe(*args) as running:
        running.feed(bytes(100_000))
        running.end_input()
        assert running.rest() == bytes(100_000)
        assert running.status() == 0
    *_, last = [json.loads(line) for line in lines.read_text().splitlines()]
    assert last["final"] is True
    assert last["name"] == "tv"
    assert last["in_bytes"] == last["out_bytes"] == 100_000
    assert last["in_rate"] == last["out_rate"] > 0
    assert last["memory_limit"] == 1024**2
    assert last["memory_bytes"] == last["disk_bytes"] == last["depth"] == last["dropped"] == 0


def test_a_run_shorter_than_the_interval_still_has_its_last_reading(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    assert hq("pipe", "--jsonl", lines, data=b"quick").returncode == 0
    (line,) = lines.read_text().splitlines()
    assert '"final": true' in line


def test_readings_that_cannot_be_written_are_told_of_once_and_do_not_stop_the_pipe() -> None:
    with pipe("--jsonl", "/dev/full", "--force-status") as running:
        running.hear(ERASE, times=5)
        running.feed(b"all the same")
        running.end_input()
        assert running.rest() == b"all the same"
        assert running.status() == 0
        said = running.last_words()
    assert said.count("hq: no more lines for --jsonl: No space left on device\n") == 1


def test_where_nobody_watches_there_is_a_summary_and_no_status_line() -> None:
    done = hq("pipe", "--interval", "0.001", "--name", "tv", data=b"12345")
    assert done.stderr.startswith(b"hq: tv: 5 bytes (5 B) in 0.")
    assert done.stderr.count(b"\n") == 1
    assert b"\r" not in done.stderr


def test_a_quiet_pipe_says_nothing() -> None:
    assert hq("pipe", "--quiet", data=b"shh").stderr == b""


def test_a_terminal_gets_the_status_line_unasked() -> None:
    leader, follower = os.openpty()
    with subprocess.Popen(
        [*HQ, "pipe", "--interval", "0.01"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=follower,
    ) as process:
        os.close(follower)
        seen = b""
        while seen.count(ERASE.encode()) < 3:
            seen += os.read(leader, 4096)
        assert process.stdin
        process.stdin.close()
        assert process.wait() == 0
    os.close(leader)
    assert b"  in 0B/s out 0B/s  mem 0B/64.0M  disk 0B  pressure 0.00" in seen
