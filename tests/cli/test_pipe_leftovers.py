"""hq pipe --leftover: what a killed pipe left, and what the next one does about it."""

import json
import random
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from hq_cli.wording import wording
from hq_core import HybridQueue, InlinePump, Unlimited
from tests.cli.running import hq, pipe

BACKENDS = ["file", "lmdb"]
LEFT = [random.Random(number).randbytes(4000 + number) for number in range(50)]
TORN = b"\0\0\0\7half"


def leave(
    directory: Path, backend: str = "file", name: str = "tv", records: Sequence[bytes] = LEFT
) -> None:
    """Be an owner that leaves `records`."""
    queue = HybridQueue(
        name,
        1,
        directory,
        backend=backend,
        durable=True,
        limiter=Unlimited(),
        pump=InlinePump(),
    )
    queue.enqueue_many(records)
    queue.close()


def args_for(directory: Path, backend: str = "file", leftover: str = "resume") -> list[str]:
    place = ["--dir", str(directory), "--name", "tv", "--backend", backend]
    return [*place, "--leftover", leftover, "--memory", "64K"]


def kill(directory: Path, backend: str, data: bytes) -> None:
    """Be a pipe that is killed with `data` in it."""
    with pipe(*args_for(directory, backend)) as running:
        running.feed(data)
        running.reading(lambda r: r["in_bytes"] == len(data))
        running.process.kill()
        running.status()


# ---- resume ----------------------------------------------------------------------------------


@pytest.mark.slow  # it starts processes
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_killed_pipe_stored_comes_first_and_then_the_input(
    tmp_path: Path, backend: str
) -> None:
    data = b"".join(LEFT)
    kill(tmp_path, backend, data)
    done = hq("pipe", *args_for(tmp_path, backend), data=b"and more")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(b"and more")
    resumed = done.stdout.removesuffix(b"and more")
    assert data.endswith(resumed)
    assert re.match(rb"hq: .* KiB of an earlier pipe come first\nhq: tv: ", done.stderr)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow  # it starts processes
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_pipe_that_is_killed_again_and_again_goes_on_with_what_is_stored(
    tmp_path: Path, backend: str
) -> None:
    """What memory had is lost with each; nothing of the rest is, and it comes in order."""
    records = LEFT * 8
    leave(tmp_path, backend, records=records)
    whole = b"".join(records)
    for _ in range(3):
        with pipe(*args_for(tmp_path, backend)) as running:
            resumed = running.reading(lambda r: True)["resumed_bytes"]
            assert 500_000 < resumed < len(whole) + 10 * len(records)
            begun = running.read(5000)
            assert begun in whole
            running.process.kill()
            running.status()
    done = hq("pipe", *args_for(tmp_path, backend), data=b"END")
    rest = done.stdout.removesuffix(b"END")
    assert (done.returncode, whole.endswith(rest), len(rest) > 500_000) == (0, True, True)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow  # it starts processes
def test_a_supervised_pipe_starts_where_nothing_was_left(tmp_path: Path) -> None:
    done = hq("pipe", *args_for(tmp_path / "new"), data=b"data")
    assert (done.returncode, done.stdout) == (0, b"data")
    assert b"earlier" not in done.stderr


@pytest.mark.slow  # it starts processes
def test_the_readings_tell_what_was_resumed(tmp_path: Path) -> None:
    leave(tmp_path)
    lines = tmp_path / "lines"
    done = hq("pipe", *args_for(tmp_path), "--jsonl", lines, "--quiet", data=b"new")
    assert (done.returncode, done.stderr) == (0, b"")
    last = json.loads(lines.read_text().splitlines()[-1])
    size = sum(map(len, LEFT))
    assert last["resumed_bytes"] == size + 4 * len(LEFT)
    assert (last["in_bytes"], last["out_bytes"]) == (3, size + 3)


@pytest.mark.slow  # it starts processes
def test_blocks_that_are_larger_than_the_memory_are_delivered_too(tmp_path: Path) -> None:
    kill(tmp_path, "file", bytes(300_000))
    with HybridQueue("tv", 1, tmp_path, durable=True) as queue:
        queue.enqueue(bytes(1_000_000))
    done = hq("pipe", *args_for(tmp_path), "--memory", "4K", "--block-size", "1K", data=b"END")
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.removesuffix(b"END")) == {0}
    assert len(done.stdout) > 1_000_000


@pytest.mark.slow  # it starts processes
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_append_that_a_kill_cut_short_does_not_keep_a_pipe_from_starting(
    tmp_path: Path, backend: str
) -> None:
    leave(tmp_path, backend)
    if backend == "file":
        with (tmp_path / "tv.overflow").open("ab") as file:
            file.write(TORN)
    done = hq("pipe", *args_for(tmp_path, backend), data=b"new")
    assert (done.returncode, done.stdout) == (0, b"".join(LEFT) + b"new")


# ---- what an error keeps ---------------------------------------------------------------------


@pytest.mark.slow  # it starts processes
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_reader_that_goes_away_takes_nothing_with_it_that_is_stored(
    tmp_path: Path, backend: str
) -> None:
    leave(tmp_path, backend)
    whole = b"".join(LEFT)
    with pipe(*args_for(tmp_path, backend)) as running:
        assert running.read(1) == whole[:1]
        running.end_output()
        assert running.status() == 1
        said = running.last_words()
    assert re.search(r"the reader .* went away; .* not delivered, .* of it stay on disk\n", said)
    done = hq("pipe", *args_for(tmp_path, backend), data=b"END")
    rest = done.stdout.removesuffix(b"END")
    assert (done.returncode, whole.endswith(rest), len(rest) > 0) == (0, True, True)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow  # it starts processes
def test_an_error_after_opening_deletes_nothing_of_what_was_left(tmp_path: Path) -> None:
    leave(tmp_path)
    done = hq("pipe", *args_for(tmp_path), "--metrics", "192.0.2.1:1", data=b"new")
    assert (done.returncode, done.stdout) == (1, b"")
    rest = hq("pipe", *args_for(tmp_path))
    assert (rest.returncode, b"".join(LEFT).endswith(rest.stdout)) == (0, True)
    assert rest.stdout


@pytest.mark.slow  # it starts processes
def test_who_interrupts_twice_discards_what_was_resumed_too(tmp_path: Path) -> None:
    leave(tmp_path)
    begun = time.monotonic()
    with pipe(*args_for(tmp_path)) as running:
        assert running.read(1)
        running.signal(signal.SIGINT)
        running.hear("interrupt again to discard")
        asked = time.monotonic() - begun  # by its own clock it is not later
        running.reading(lambda r: r["elapsed"] > asked + 0.1)
        running.signal(signal.SIGINT)
        assert running.status() == 1
        assert "error: interrupted twice; " in running.last_words()
    assert not list(tmp_path.iterdir())


# ---- the other choices -----------------------------------------------------------------------


@pytest.mark.slow  # it starts processes
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_discarded_does_not_come(tmp_path: Path, backend: str) -> None:
    leave(tmp_path, backend)
    done = hq("pipe", *args_for(tmp_path, backend, "discard"), data=b"new")
    assert (done.returncode, done.stdout) == (0, b"new")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow  # it starts processes
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_set_aside_does_not_come_and_is_told_and_kept(tmp_path: Path, backend: str) -> None:
    leave(tmp_path, backend)
    done = hq("pipe", *args_for(tmp_path, backend, "quarantine"), data=b"new")
    assert (done.returncode, done.stdout) == (0, b"new")
    assert re.search(rb"hq: 'tv': .* is set aside: --leftover quarantine\n", done.stderr)
    assert b"leftover=" not in done.stderr
    (aside,) = [path for path in tmp_path.iterdir() if not path.name.endswith(".pos")]
    data = aside if aside.is_file() else aside / "data.mdb"
    assert hq("cat", data).stdout == b"".join(LEFT)


@pytest.mark.slow  # it starts processes
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("chosen", [True, False], ids=["chosen", "by default"])
def test_a_refusal_names_the_option_and_touches_nothing(
    tmp_path: Path, backend: str, chosen: bool
) -> None:
    leave(tmp_path, backend)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    args = args_for(tmp_path, backend, "refuse")
    if not chosen:
        args = [arg for arg in args if arg not in {"--leftover", "refuse"}]
    done = hq("pipe", *args, data=b"new")
    said = done.stderr.decode()
    assert (done.returncode, done.stdout) == (1, b"")
    assert f"/tv.{'overflow' if backend == 'file' else 'lmdb'}" in said
    assert "50 records of an earlier owner: open it with --leftover resume, or" in said
    assert said.endswith("or choose another --name or --dir\n")
    assert "leftover=" not in said
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.slow  # it starts processes
def test_what_another_backend_left_is_named_in_the_words_of_the_command(tmp_path: Path) -> None:
    leave(tmp_path, "lmdb")
    done = hq("pipe", *args_for(tmp_path), data=b"new")
    assert done.returncode == 1
    assert (
        b": open the stream with --backend lmdb, or with --leftover discard or quarantine, or "
        b"choose another --name or --dir\n"
    ) in done.stderr
    done = hq("pipe", *args_for(tmp_path, leftover="discard"), data=b"new")
    assert (done.returncode, done.stdout) == (0, b"new")
    assert done.stderr.startswith(b"hq: 'tv': ")
    assert b" is deleted: --leftover discard\n" in done.stderr


@pytest.mark.slow  # it starts processes
@pytest.mark.parametrize("leftover", ["resume", "discard", "refuse", "quarantine"])
def test_an_owner_that_lives_is_left_alone_whatever_is_to_be_done(
    tmp_path: Path, leftover: str
) -> None:
    leave(tmp_path)
    with HybridQueue("tv", 1, tmp_path, durable=True, pump=InlinePump()) as owner:
        done = hq("pipe", *args_for(tmp_path, leftover=leftover), data=b"new")
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"another queue: close that one, or choose another --name or --dir\n" in done.stderr
        assert [owner.dequeue(0) for _ in LEFT] == LEFT


@pytest.mark.slow  # it starts processes
@pytest.mark.parametrize("seen", ["opening", "reading"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_damage_is_not_skipped_and_what_helps_is_named(
    tmp_path: Path, backend: str, seen: str
) -> None:
    """A byte stream with a gap would be another one. What is before the damage may come."""
    leave(tmp_path, backend)
    path = tmp_path / ("tv.overflow" if backend == "file" else "tv.lmdb/data.mdb")
    data = bytearray(path.read_bytes())
    at = 0 if seen == "opening" else data.index(LEFT[25]) - 4
    data[at : at + 4096] = b"\xff" * 4096
    path.write_bytes(data)
    if seen == "opening" and backend == "file":
        (tmp_path / "tv.overflow.pos").unlink()
    done = hq("pipe", *args_for(tmp_path, backend), data=b"new")
    assert (done.returncode, b"".join(LEFT[:25]).startswith(done.stdout)) == (1, True)
    assert b"'hq repair' keeps what is whole, --leftover quarantine sets" in done.stderr
    assert b"on_corruption" not in done.stderr
    assert done.stderr.count(b"error: ") == 1
    after = path.read_bytes()
    assert after[at:].startswith(data[at:])  # and what was read meanwhile
    done = hq("pipe", *args_for(tmp_path, backend, "quarantine"), data=b"new")
    assert (done.returncode, done.stdout) == (0, b"new")


# ---- arguments and words ---------------------------------------------------------------------


@pytest.mark.slow  # it starts processes
@pytest.mark.parametrize("leftover", ["resume", "discard", "quarantine"])
@pytest.mark.parametrize("given", ["--dir", "--name"])
def test_without_a_place_and_a_name_nothing_would_ever_be_found(
    tmp_path: Path, leftover: str, given: str
) -> None:
    done = hq("pipe", given, tmp_path, "--leftover", leftover, data=b"unread")
    assert (done.returncode, done.stdout) == (1, b"")
    assert f"--leftover {leftover} needs --dir and --name".encode() in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow  # it starts processes
def test_an_empty_name_is_a_name(tmp_path: Path) -> None:
    leave(tmp_path, name="")
    done = hq("pipe", "--dir", tmp_path, "--name", "", "--leftover", "resume", data=b"new")
    assert (done.returncode, done.stdout) == (0, b"".join(LEFT) + b"new")


@pytest.mark.slow  # it starts processes
@pytest.mark.parametrize("name", ["leftover='discard'", "use another stream id or directory"])
def test_a_hostile_name_or_directory_stays_what_it_is_and_is_escaped(
    tmp_path: Path, name: str
) -> None:
    directory = tmp_path / f"{name}\x1b[2J\nx"
    leave(directory, name=name)
    args = ["--dir", str(directory), "--name", name]
    done = hq("pipe", *args, data=b"new")
    said = done.stderr.decode()
    assert (done.returncode, said.count("\n"), "\x1b" in said) == (1, 1, False)
    assert f"{tmp_path}/{name}\\x1b[2J\\nx/" in said
    assert "open it with --leftover resume, or" in said
    done = hq("pipe", *args, "--leftover", "quarantine", "--quiet", data=b"new")
    said = done.stderr.decode()
    assert (done.returncode, said.count("\n"), "\x1b" in said) == (0, 1, False)
    assert f"{tmp_path}/{name}\\x1b[2J\\nx/" in said


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            "open it with leftover='resume', or move it",
            "open it with --leftover resume, or move it",
        ),
        ("leftover='discard' or 'quarantine'", "--leftover discard or quarantine"),
        ("with backend='lmdb', or", "with --backend lmdb, or"),
        ("on_corruption='quarantine'", "--leftover quarantine"),
        ("/d/leftover='x'/tv.overflow holds", "/d/leftover='x'/tv.overflow holds"),
        ("'resume': leftover='resume'", "'resume': --leftover resume"),
        ("nothing of that", "nothing of that"),
    ],
)
def test_messages_are_put_in_the_words_of_the_command(message: str, told: str) -> None:
    assert wording(Path("/d/leftover='x'"), "resume")(message) == told
