"""How a pipe ends before its input does: signals, a reader that goes away."""

import os
import random
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.running import HQ, pipe

DATA = random.Random(1).randbytes(500_000)
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_ends_a_wait_for_input_and_delivers_the_rest(
    number: signal.Signals, tmp_path: Path
) -> None:
    with pipe("--memory", "64K", "--dir", tmp_path) as running:
        running.feed(DATA)
        running.reading(lambda r: r["in_bytes"] == len(DATA))
        running.signal(number)
        running.hear("stopped reading")
        assert running.rest() == DATA
        assert running.status() == 0
        assert "through the disk" in running.last_words()
        final = running.reading(lambda r: r["final"])
        assert final["in_bytes"] == final["out_bytes"] == len(DATA)
    assert not list(tmp_path.iterdir())


def test_the_first_signal_leaves_unread_what_comes_later() -> None:
    with pipe() as running:
        running.feed(b"before")
        assert running.read(6) == b"before"
        running.signal(signal.SIGINT)
        running.hear("stopped reading")
        assert running.rest() == b""
        assert running.status() == 0


def test_a_signal_is_heeded_when_the_pipe_is_idle_and_nobody_wants_readings() -> None:
    with subprocess.Popen(
        [*HQ, "pipe"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        os.write(process.stdin.fileno(), b"x")
        assert os.read(process.stdout.fileno(), 1) == b"x"
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0


@pytest.mark.slow
def test_the_second_signal_discards_the_rest_and_says_how_much(tmp_path: Path) -> None:
    with pipe("--memory", "64K", "--dir", tmp_path) as running:
        running.feed(DATA)
        running.reading(lambda r: r["in_bytes"] == len(DATA))
        running.signal(signal.SIGINT)
        running.hear("interrupt again to discard")
        asked = running.reading(lambda r: True)["elapsed"]
        running.reading(lambda r: r["elapsed"] > asked + 0.1)
        running.signal(signal.SIGINT)
        assert running.status() == 1
        final = running.reading(lambda r: r["final"])
        assert final["in_bytes"] == len(DATA)
        assert "error: interrupted twice; " in running.last_words()
    assert not list(tmp_path.iterdir())


def test_signals_that_come_together_are_one_request(tmp_path: Path) -> None:
    """`timeout` sends each signal twice, and a closing terminal SIGHUP besides."""
    with pipe("--memory", "64K", "--dir", tmp_path) as running:
        running.feed(DATA)
        running.reading(lambda r: r["in_bytes"] == len(DATA))
        for number in SIGNALS:
            running.signal(number)
        running.hear("stopped reading")
        assert running.rest() == DATA
        assert running.status() == 0


def test_a_signal_ignored_from_the_start_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pipe() as running:
            signal.signal(signal.SIGINT, before)
            running.feed(b"one")
            assert running.read(3) == b"one"
            running.signal(signal.SIGINT)
            running.feed(b"two")
            running.end_input()
            assert running.rest() == b"two"
            assert running.status() == 0
            assert "stopped" not in running.last_words()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_reader_that_goes_away_is_an_error(tmp_path: Path) -> None:
    with pipe("--dir", tmp_path) as running:
        running.feed(b"heard")
        assert running.read(5) == b"heard"
        running.end_output()
        running.feed(b"unheard")
        assert running.status() == 1
        assert "error: the reader of standard output went away; 7 B not" in running.last_words()
    assert not list(tmp_path.iterdir())


def test_a_full_output_device_is_an_error(tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    with pipe("--dir", tmp_path, stdout=full) as running:
        os.close(full)
        running.feed(b"too much")
        assert running.status() == 1
        assert "cannot write standard output: No space left" in running.last_words()
    assert not list(tmp_path.iterdir())


def test_an_input_that_cannot_be_read_is_an_error_after_what_could() -> None:
    unreadable = os.open("/proc/self/mem", os.O_RDONLY)
    with pipe(stdin=unreadable) as running:
        os.close(unreadable)
        assert running.rest() == b""
        assert running.status() == 1
        assert "cannot read standard input: Input/output error" in running.last_words()
