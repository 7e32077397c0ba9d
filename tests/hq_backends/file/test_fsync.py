"""The levels of `fsync`: which calls are made, in which order, and what a failure means."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from hq_backends.file import space
from hq_backends.file.flusher import Flusher
from hq_core.errors import BackendError
from hq_core.queue import HybridQueue
from hq_core.testing.spool import numbered, read_all
from tests.hq_backends.file.conftest import Spool


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch, spool: Spool) -> list[str]:
    """The calls that change the files of the stream, in order, as ``"call file"``."""
    seen: list[str] = []
    kinds = {spool.path: "data", spool.sidecar: "position"}

    def watch(name: str) -> None:
        real = getattr(os, name)

        def call(fd: int, *args: Any) -> Any:
            seen.append(f"{name} {kinds.get(Path(f'/proc/self/fd/{fd}').readlink(), 'directory')}")
            return real(fd, *args)

        monkeypatch.setattr(os, name, call)

    for name in ("pwritev", "pwrite", "fdatasync", "fsync", "ftruncate"):
        watch(name)
    return seen


def test_never_flushes_nothing(spool: Spool, done: list[str]) -> None:
    backend = spool.open()
    for _ in range(3):
        backend.append(numbered(3))
    backend.trim(2)
    assert [call for call in done if "sync" in call] == []


def test_always_flushes_before_it_returns_and_the_directory_once(
    spool: Spool, done: list[str]
) -> None:
    backend = spool.open(fsync="always")
    backend.append([b"x"])
    assert done == [
        "pwrite position",
        "fdatasync position",
        "pwritev data",
        "fdatasync data",
        "fsync directory",
    ]
    done.clear()
    backend.append([b"y"])
    assert done == ["pwritev data", "fdatasync data"]


def test_a_batch_shares_one_flush(spool: Spool, done: list[str]) -> None:
    backend = spool.open(fsync="always")
    backend.append([b"x"])
    done.clear()
    backend.append(numbered(1000))
    assert done.count("fdatasync data") == 1


def test_empty_messages_are_told_from_the_zeros_of_a_power_cut(
    spool: Spool, done: list[str]
) -> None:
    backend = spool.open(fsync="always")
    backend.append([b"x"])
    done.clear()
    backend.append([b""])
    assert done == ["pwritev data", "fdatasync data", "pwrite position", "fdatasync position"]


def test_the_position_is_flushed_before_space_is_given_back(
    spool: Spool, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def punch(fd: int, start: int, end: int) -> bool:
        done.append("punch data")
        return True

    monkeypatch.setattr(space, "punch", punch)
    backend = spool.open(fsync="always")
    backend.append([bytes(600_000)] * 3)
    done.clear()
    backend.trim(2)
    assert done == ["pwrite position", "fdatasync position", "punch data"]


def test_the_truncated_file_is_flushed_before_the_position_and_that_before_more(
    spool: Spool, done: list[str]
) -> None:
    backend = spool.open(fsync="always")
    backend.append([bytes(1_100_000)])
    done.clear()
    backend.trim(1)
    backend.append([b"x"])
    assert done == [
        "ftruncate data",
        "fdatasync data",
        "pwrite position",
        "fdatasync position",
        "pwritev data",
        "fdatasync data",
    ]


def test_a_small_drained_file_is_not_truncated_if_that_takes_flushing(
    spool: Spool, done: list[str]
) -> None:
    backend = spool.open(fsync="always")
    for number in range(5):
        backend.append([b"%d" % number])
        assert read_all(backend) == [b"%d" % number]
        backend.trim(1)
        assert backend.size_bytes() == 0
    assert "ftruncate data" not in done
    spool.close(backend)
    assert spool.names() == []


def test_sync_flushes_data_and_position_on_every_level(spool: Spool, done: list[str]) -> None:
    backend = spool.open()
    backend.sync()
    backend.append([b"x"])
    done.clear()
    backend.sync()
    assert done == [
        "fdatasync data",
        "fsync directory",
        "pwrite position",
        "fdatasync position",
    ]


@pytest.mark.parametrize("fsync", ["interval", "always"])
def test_closing_flushes_what_is_kept(spool: Spool, done: list[str], fsync: str) -> None:
    backend = spool.open(fsync=fsync, fsync_interval=3600)
    backend.append([b"x"])
    done.clear()
    spool.close(backend)
    assert "fdatasync data" in done
    assert done[-1] == "fdatasync position"


def test_a_flush_that_failed_is_never_said_to_have_worked(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system reports the failure once; the next flush would succeed and mean nothing."""
    backend = spool.open(fsync="always")
    backend.append([b"one"])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(OSError, match="could not be flushed"):
            backend.append([b"ghost"])
    for _ in range(2):
        with pytest.raises(OSError, match="an earlier flush failed"):
            backend.append([b"ghost"])
        with pytest.raises(OSError, match="an earlier flush failed"):
            backend.sync()
    assert read_all(backend) == [b"one"]
    backend.close(delete=True)
    spool.opened.remove(backend)


def test_a_queue_over_a_disk_that_failed_delivers_and_takes_no_more(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"fsync": "always"}
    with HybridQueue("s", 2, spool.directory, backend_options=options, durable=True) as queue:
        queue.enqueue_many([b"one", b"two", b"three"])
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            with pytest.raises(BackendError, match="could not be flushed"):
                queue.enqueue(b"ghost")
        with pytest.raises(BackendError, match="an earlier flush failed"):
            queue.enqueue(b"ghost")
        assert [queue.try_dequeue() for _ in range(3)] == [b"one", b"two", b"three"]


def fail(*_: object) -> None:
    raise OSError(5, "Input/output error")


# ---- by the clock ----------------------------------------------------------------------------


def test_what_was_appended_is_flushed_soon_by_a_thread(spool: Spool) -> None:
    backend = spool.open(fsync="interval", fsync_interval=0.001)
    backend.append([b"x", b""])
    while backend._log.committed < 9:  # ends by itself, or the watchdog ends the run
        threading.Event().wait(0.001)
    assert b"x" in spool.path.read_bytes()


def test_a_thread_that_has_nothing_to_flush_sleeps() -> None:
    flushes: list[str] = []
    flushed = threading.Event()

    def flush() -> None:
        flushes.append("flush")
        flushed.set()

    flusher = Flusher(flush, 0.001)
    flusher.start()
    for _ in range(3):
        flushed.clear()
        flusher.dirty()
        assert flushed.wait(30)
    flusher.stop()
    assert flushes == ["flush"] * 3


def test_there_is_a_thread_from_opening_to_closing(spool: Spool) -> None:
    """Starting it later would be one more reason for an append to fail."""
    backend = spool.open(fsync="interval")
    assert [t.name for t in threading.enumerate()].count("hq-flush") == 1
    spool.close(backend)
    assert not any(thread.name == "hq-flush" for thread in threading.enumerate())


def test_without_a_thread_whoever_writes_flushes(
    spool: Spool, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fails)
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    backend = spool.open(fsync="interval", fsync_interval=0.1)
    for clock[0], flushes in ((1000.0, 1), (1000.09, 1), (1000.11, 2), (1000.12, 2)):
        backend.append([b"x"])
        assert done.count("fdatasync data") == flushes
    spool.close(backend)
    assert done.count("fdatasync data") == 3


def test_the_thread_outlives_whatever_a_flush_raises() -> None:
    flushes = 0
    flushed = threading.Event()

    def flush() -> None:
        nonlocal flushes
        flushes += 1
        if flushes < 3:
            raise MemoryError
        flushed.set()

    flusher = Flusher(flush, 0.001)
    flusher.start()
    flusher.dirty()
    assert flushed.wait(30), "what could not be flushed is tried again"
    flusher.stop()


def test_stopping_comes_through_at_any_moment_and_may_be_repeated() -> None:
    for number in range(200):
        flusher = Flusher(lambda: None, 0.0001)
        flusher.start()
        for _ in range(number % 5):
            flusher.dirty()
        flusher.stop()
        flusher.stop()


def test_stop_does_not_wait_for_the_interval() -> None:
    flusher = Flusher(lambda: None, 3600)
    flusher.start()
    flusher.dirty()
    flusher.stop()
    assert not any(thread.name == "hq-flush" for thread in threading.enumerate())


def test_a_flush_by_the_clock_that_fails_is_met_by_the_next_append(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = threading.Event()

    def failing(_: int) -> None:
        tried.set()
        raise OSError(5, "Input/output error")

    backend = spool.open(fsync="interval", fsync_interval=0.001)
    backend.append([b"one"])
    backend._writer.flusher.stop()  # type: ignore[union-attr]
    monkeypatch.setattr(os, "fdatasync", failing)
    backend._writer.flush_soon()
    assert tried.is_set()
    with pytest.raises(OSError, match="an earlier flush failed"):
        backend.append([b"ghost"])
    monkeypatch.undo()
    assert read_all(backend) == [b"one"]
    spool.opened.remove(backend)
    backend.close(delete=True)


def test_a_flush_by_the_clock_amid_a_trim_leaves_the_position_where_the_trim_put_it(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a kill after the punching finds a position in the hole: zeros, so empty items."""
    backend = spool.open(fsync="interval", fsync_interval=3600)
    backend.append([bytes(2 << 20), b"", b"left"])

    def punch(*_: int) -> bool:
        backend._writer.flush_soon()
        return True

    monkeypatch.setattr(space, "punch", punch)
    backend.trim(1)
    position = spool.noted()
    assert (position.head, position.records) == (backend._log.extent[0], 2)


def test_a_drained_file_that_cannot_be_flushed_is_empty_all_the_same(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Undoing the next append must not make it as long as it was: that would be empty items."""
    backend = spool.open(fsync="always")
    backend.append([bytes(2 << 20)])

    def failing(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", failing)
    backend.trim(1)
    with pytest.raises(OSError, match="an earlier flush failed"):
        backend.append([b"ghost"])
    assert (backend.size_bytes(), spool.path.stat().st_size) == (0, 0)


# ---- options ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("fsync", "sometimes", "fsync must be 'never', 'interval' or 'always', not 'sometimes'"),
        ("fsync", None, "fsync must be"),
        ("fsync_interval", 0, "fsync_interval must be 0.001 to 3600 seconds, not 0"),
        ("fsync_interval", float("nan"), "fsync_interval must be"),
        ("fsync_interval", "1", "fsync_interval must be"),
        ("fsync_interval", True, "fsync_interval must be"),
        ("checksum", 1, "checksum must be True or False, not 1"),
    ],
)
def test_a_wrong_value_is_refused(spool: Spool, name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spool.open(**{name: value})


def test_options_come_from_the_queue(spool: Spool) -> None:
    options = {"fsync": "sometimes"}
    with pytest.raises(ValueError, match="fsync must be"):
        HybridQueue("s", 1, spool.directory, backend_options=options)
