"""`KeyboardInterrupt` anywhere: `depth` says what came of it, and everything else agrees."""

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from hq_backends.file import FileBackend, space
from hq_core.testing.interrupting import interrupted, interruptions
from hq_core.testing.spool import ANY_SIZE, leaving_nothing, read_all, take
from tests.hq_backends.file.conftest import Spool

BEFORE = [b"one", b"", b"three"]
BATCH = [b"", b"five", b""]
OPTIONS: list[dict[str, Any]] = [{}, {"checksum": True}, {"fsync": "always"}]

Calls = ("open", "posix_fallocate", "pwrite", "pwritev", "ftruncate", "fdatasync", "fsync")


def interrupt_after(patch: pytest.MonkeyPatch, name: str, nth: int) -> list[int]:
    """The `nth` call of a function of `os` does what it does, and then an interrupt comes.

    Returns a list that has an element once it came.
    """
    real: Callable[..., Any] = getattr(os, name)
    came: list[int] = []
    calls = 0

    def call(*args: Any, **options: Any) -> Any:
        nonlocal calls
        result = real(*args, **options)
        calls += 1
        if calls == nth:
            came.append(nth)
            if name == "open":
                os.close(result)  # nobody hears of it
            raise KeyboardInterrupt
        return result

    patch.setattr(os, name, call)
    return came


def check_append(spool: Spool, backend: FileBackend, before: list[bytes], **options: Any) -> None:
    """After an append of `BATCH` that was interrupted, everybody agrees."""
    after = [*before, *BATCH]
    assert backend.depth() in {len(before), len(after)}
    wanted = before if backend.depth() == len(before) else after
    assert read_all(backend) == wanted
    assert backend.size_bytes() == backend.cost(wanted)
    spool.abandon(backend)
    backend = spool.open(**options)
    assert read_all(backend) == wanted, "what is in the file is something else"
    backend.append([b"next"])
    assert read_all(backend) == [*wanted, b"next"]
    spool.abandon(backend)
    backend = spool.open(**options)
    assert read_all(backend) == [*wanted, b"next"]
    spool.close(backend, delete=True)
    assert list(spool.directory.iterdir()) == []


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("before", [[], BEFORE], ids=["first", "later"])
def test_an_append_interrupted_at_any_line_is_in_the_log_or_not(
    spool: Spool, before: list[bytes], options: dict[str, Any]
) -> None:
    for line in interruptions():
        backend = spool.open(**options)
        if before:
            backend.append(before)
        came = interrupted(partial(backend.append, BATCH), line)
        check_append(spool, backend, before, **options)
        if not came:
            break


@pytest.mark.parametrize("name", Calls)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("before", [[], BEFORE], ids=["first", "later"])
def test_an_append_interrupted_behind_any_call_is_in_the_log_or_not(
    spool: Spool,
    monkeypatch: pytest.MonkeyPatch,
    before: list[bytes],
    options: dict[str, Any],
    name: str,
) -> None:
    for nth in range(1, 6):
        backend = spool.open(**options)
        if before:
            backend.append(before)
        with monkeypatch.context() as patch:
            came = interrupt_after(patch, name, nth)
            try:
                backend.append(BATCH)
            except KeyboardInterrupt:
                assert came
        check_append(spool, backend, before, **options)


@pytest.mark.parametrize("name", ["open", "posix_fallocate", "pwrite"])
def test_after_an_interrupt_amid_the_first_append_the_next_one_works(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for nth in (1, 2):
        backend = spool.open()
        with monkeypatch.context() as patch:
            interrupt_after(patch, name, nth)
            try:
                backend.append(BATCH)
            except KeyboardInterrupt:
                assert backend.depth() == 0
        backend.append([b"next"])
        assert read_all(backend)[-1:] == [b"next"]
        spool.close(backend, delete=True)
        assert list(spool.directory.iterdir()) == []


def test_a_file_made_by_an_interrupted_append_is_removed_with_the_stream(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for nth in (1, 2):
        for delete in (False, True):
            backend = spool.open()
            with monkeypatch.context() as patch:
                interrupt_after(patch, "open", nth)
                with pytest.raises(KeyboardInterrupt):
                    backend.append(BATCH)
            spool.close(backend, delete=delete)
            assert list(spool.directory.iterdir()) == []


def test_a_position_noted_by_an_interrupted_append_is_no_ghost(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counted what was undone; what is written in its place next must not be counted twice."""
    backend = spool.open(fsync="always")
    backend.append([b"one"])
    with monkeypatch.context() as patch:
        came = interrupt_after(patch, "pwrite", 1)
        with pytest.raises(KeyboardInterrupt):
            backend.append([b"ghost", b""])
        assert came
    assert backend.depth() == 1
    backend.append([b"more than the ghost"])
    spool.abandon(backend)
    backend = spool.open()
    assert read_all(backend) == [b"one", b"more than the ghost"]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("read", [False, True])
def test_a_trim_interrupted_at_any_line_is_done_or_not(
    spool: Spool, options: dict[str, Any], count: int, read: bool
) -> None:
    for line in interruptions():
        backend = spool.open(**options)
        backend.append(BEFORE)
        if read:
            read_all(backend)
        came = interrupted(partial(backend.trim, count), line)
        wanted = BEFORE if backend.depth() == 3 else BEFORE[count:]
        assert read_all(backend) == wanted
        assert backend.size_bytes() == backend.cost(wanted)
        backend.append([b"next"])
        assert read_all(backend) == [*wanted, b"next"]
        backend.trim(len(wanted))
        spool.abandon(backend)
        backend = spool.open(**options)
        assert take(backend, 1) == [b"next"]
        spool.close(backend, delete=True)
        if not came:
            break


@pytest.mark.parametrize("punching", [False, True])
def test_giving_space_back_can_be_interrupted_at_any_line(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, punching: bool
) -> None:
    if not punching:
        monkeypatch.setattr(space, "punch", lambda fd, start, end: False)
    monkeypatch.setattr(space, "_PUNCH_STEP", 0)
    monkeypatch.setattr(space, "_REWRITE_FROM", 1)
    records = [bytes([number]) * 5000 for number in range(10)]
    for line in interruptions():
        backend = spool.open()
        backend.append(records)
        backend.read(0, 3, ANY_SIZE)
        came = interrupted(partial(backend.trim, 6), line)
        wanted = records[-backend.depth() :]
        assert read_all(backend) == wanted
        backend.append([b"next"])
        backend.trim(1)
        spool.abandon(backend)
        backend = spool.open()
        assert read_all(backend) == [*wanted[1:], b"next"]
        spool.close(backend, delete=True)
        assert list(spool.directory.iterdir()) == []
        if not came:
            break


def test_a_rename_by_which_a_rewrite_is_interrupted_counts(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "punch", lambda fd, start, end: False)
    monkeypatch.setattr(space, "_PUNCH_STEP", 0)
    monkeypatch.setattr(space, "_REWRITE_FROM", 1)
    backend = spool.open()
    backend.append([b"1" * 900, b"2", b"3"])
    with monkeypatch.context() as patch:
        interrupt_after(patch, "rename", 1)
        with pytest.raises(KeyboardInterrupt):
            backend.trim(1)
    assert read_all(backend) == [b"2", b"3"]
    backend.append([b"4"])
    spool.abandon(backend)
    backend = spool.open()
    assert read_all(backend) == [b"2", b"3", b"4"]


EVERY_FSYNC = [*OPTIONS, {"fsync": "interval", "fsync_interval": 3600}]


def check_closed(spool: Spool, backend: FileBackend, delete: bool, **options: Any) -> None:
    """After a close that was interrupted and repeated."""
    spool.opened.remove(backend)
    if delete:
        assert list(spool.directory.iterdir()) == []
    else:
        backend = spool.open(**options)
        assert read_all(backend) == BEFORE[1:]
        spool.close(backend, delete=True)


@pytest.mark.parametrize("delete", [False, True])
@pytest.mark.parametrize("options", EVERY_FSYNC, ids=str)
def test_a_close_interrupted_at_any_line_can_be_repeated(
    spool: Spool, options: dict[str, Any], delete: bool
) -> None:
    for line in interruptions():
        backend = spool.open(**options)
        backend.append(BEFORE)
        backend.trim(1)
        came = interrupted(partial(backend.close, delete=delete), line)
        if came:
            backend.close(delete=delete)
        check_closed(spool, backend, delete, **options)
        if not came:
            break


@pytest.mark.parametrize("name", ["close", "ftruncate", "unlink", "pwrite", "fdatasync"])
@pytest.mark.parametrize("delete", [False, True])
@pytest.mark.parametrize("options", EVERY_FSYNC, ids=str)
def test_a_close_interrupted_behind_any_call_can_be_repeated_and_lets_go_of_everything(
    spool: Spool,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    delete: bool,
    name: str,
) -> None:
    for nth in (1, 2):
        with leaving_nothing():
            backend = spool.open(**options)
            backend.append(BEFORE)
            backend.trim(1)
            with monkeypatch.context() as patch:
                interrupt_after(patch, name, nth)
                with suppress(KeyboardInterrupt):
                    backend.close(delete=delete)
            backend.close(delete=delete)
        check_closed(spool, backend, delete, **options)


def test_a_read_interrupted_behind_its_call_gives_the_same_again(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [b"1" * 50_000, b"2" * 50_000, b"3" * 200_000, b"4"]
    backend = spool.open()
    backend.append(records)
    for skip in (0, 2, 1, 3):
        with monkeypatch.context() as patch:
            interrupt_after(patch, "pread", 1)
            with suppress(KeyboardInterrupt):
                backend.read(skip, 4, ANY_SIZE)
        assert read_all(backend, skip) == records[skip:]
