"""``hq top`` as its user has it: on a spool, on a metrics page, on a terminal."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from rich.console import Console

from hq_cli.errors import CommandError
from hq_cli.top import command, screen
from hq_cli.top.directory import Directory
from hq_cli.top.model import History, Reading, View
from hq_cli.top.sampling import Outcome
from hq_core import HybridQueue, Unlimited
from hq_metrics.prometheus import QueueCollector, serve
from tests.cli.running import HQ, hq

ONCE = ("--once", "--interval", "0.01")


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[HybridQueue]:
    """Two items in memory, three on disk."""
    with HybridQueue("camera-1", 2, tmp_path / "spool", limiter=Unlimited()) as opened:
        opened.enqueue_many([b"12345678"] * 2)
        opened.enqueue_many([b"12345678"] * 3)
        yield opened


@pytest.fixture
def url(queue: HybridQueue) -> str:
    return f"http://127.0.0.1:{serve(QueueCollector(queue), '127.0.0.1', 0)}/metrics"


def test_a_directory_tells_what_is_stored_and_who_owns_it(
    queue: HybridQueue, tmp_path: Path
) -> None:
    run = hq("top", "--json", *ONCE, tmp_path / "spool")
    assert (run.returncode, run.stderr) == (0, b"")
    (stream,) = json.loads(run.stdout)["streams"]
    assert (stream["stream"], stream["backend"], stream["state"]) == ("camera-1", "file", "fine")
    assert (stream["stored"], stream["disk_bytes"], stream["owner"]) == (3, 36, os.getpid())
    assert stream["depth"] is stream["pressure"] is stream["memory_bytes"] is None
    assert stream["to_disk_rate"] == 0.0
    run = hq("top", *ONCE, tmp_path / "spool")
    lines = run.stdout.decode().splitlines()
    assert lines[1].split()[:3] == ["STREAM", "DISK", "RECORDS"]
    assert lines[2].split()[:3] == ["camera-1", "36B", "3"]


def test_a_metrics_page_tells_what_stats_do(queue: HybridQueue, url: str) -> None:
    run = hq("top", "--json", *ONCE, url)
    assert (run.returncode, run.stderr) == (0, b"")
    (stream,) = json.loads(run.stdout)["streams"]
    stats = queue.stats()
    for name in ("depth", "pressure", "memory_bytes", "disk_bytes", "dropped"):
        assert stream[name] == getattr(stats, name)
    assert (stream["in_rate"], stream["out_rate"], stream["owner"]) == (0.0, 0.0, None)
    text = hq("top", *ONCE, url).stdout.decode()
    assert text.splitlines()[2].split()[:3] == ["camera-1", "1.01", "5"]


def test_names_that_a_terminal_would_obey_are_escaped(tmp_path: Path) -> None:
    with HybridQueue("\x1b[2J", 1, tmp_path, limiter=Unlimited()) as queue:
        queue.enqueue_many([b"1"])
        queue.enqueue(b"2")
        out = hq("top", *ONCE, tmp_path).stdout
    assert b"\x1b" not in out
    assert rb"\x1b[2J" in out


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("nowhere", b"No such file or directory"),
        ("ftp://host/", b"is no address of metrics"),
        ("http://127.0.0.1:99999/", b"is no address of metrics"),
        ("http://127.0.0.1:1/metrics", b"Connection refused"),
    ],
)
def test_a_place_that_cannot_be_read_is_an_error_of_one_line(
    place: str, reason: bytes, tmp_path: Path
) -> None:
    run = hq("top", *ONCE, tmp_path / place if place == "nowhere" else place)
    assert (run.returncode, run.stdout, run.stderr.count(b"\n")) == (1, b"", 1)
    assert reason in run.stderr


@pytest.mark.parametrize(
    ("status", "page", "reason"),
    [
        (404, b"", b"it answers 404"),
        (200, b"<html>", b"it is no metrics page"),
        (200, b"\xff\xfe", b"it is no metrics page"),
        (200, b"# TYPE up gauge\nup 1\n", b"the page has no metrics of a queue"),
        (200, b"\n" * (17 << 20), b"more than 16 MiB"),
    ],
    ids=["404", "html", "bytes", "others", "endless"],
)
def test_a_page_of_something_else_is_refused(status: int, page: bytes, reason: bytes) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            with contextlib.suppress(OSError):  # who asked has had enough
                self.wfile.write(page)

        def log_message(self, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.handle_request).start()
        run = hq("top", *ONCE, f"http://127.0.0.1:{server.server_port}/metrics")
    assert (run.returncode, run.stdout) == (1, b"")
    assert reason in run.stderr


def test_without_a_terminal_it_says_what_to_do(tmp_path: Path) -> None:
    run = hq("top", tmp_path)
    assert run.returncode == 1
    assert b"use --once or --json" in run.stderr


def test_without_rich_it_names_the_extra(tmp_path: Path) -> None:
    program = "import sys; sys.modules['rich'] = None; import hq_cli.main as m; sys.exit(m.main())"
    run = subprocess.run(
        [sys.executable, "-c", program, "top", *ONCE, tmp_path], capture_output=True, check=False
    )
    assert (run.returncode, run.stdout) == (1, b"")
    assert b"pip install 'hybrid-queue[tui]'" in run.stderr


def test_a_terminal_shows_it_until_it_is_interrupted(queue: HybridQueue, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*HQ, "top", "--interval", "0.01", str(tmp_path / "spool")],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "20"},
    ) as process:
        os.close(theirs)
        shown = b""
        while shown.count(b"camera-1") < 2:  # a first and a later picture
            shown += os.read(ours, 65536)
        process.send_signal(signal.SIGINT)
        try:
            while data := os.read(ours, 65536):
                shown += data
        except OSError:  # how a terminal ends
            pass
        assert process.wait() == 0
        assert process.stderr
        assert process.stderr.read() == b""
    os.close(ours)
    assert shown.endswith(b"\x1b[?25h\x1b[?1049l")  # the cursor is back, and what was there before


def test_a_failure_after_the_first_reading_is_shown_until_one_succeeds(tmp_path: Path) -> None:
    reading = Reading("k", "camera-1", "file")
    found: Iterator[Outcome | None] = iter([[reading], CommandError("gone"), None, [reading]])
    views = list(command._views(found, Directory(tmp_path)))
    assert [view.failure for view in views] == ["", "gone", "gone", ""]
    assert all(view.rows[0].reading == reading for view in views)
    failed: Iterator[Outcome | None] = iter([CommandError("never there"), [reading]])
    with pytest.raises(CommandError, match="never there"):
        list(command._views(failed, Directory(tmp_path)))


@pytest.mark.parametrize(("width", "height"), [(10, 3), (40, 5), (80, 24), (300, 100)])
def test_a_picture_keeps_to_its_window(width: int, height: int) -> None:
    readings = [
        Reading(
            n, f"a very long name of a stream, {n}", "file", disk_bytes=n, stored=n, state="fine"
        )
        for n in range(40)
    ]
    view = View("spool", "directory", 0.0, History().add(readings, 1.0))
    console = Console(width=width, height=height, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(screen.picture(view, width, height))
    lines = capture.get().splitlines()
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    if height < 42:
        assert lines[-1].startswith(f"and {40 - (height - 3)} mor"[: width - 1])
