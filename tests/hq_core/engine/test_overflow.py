"""The engine's side of a backend: what was read ahead, its bound, its failures."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from hq_core.engine.overflow import READ_BYTES, READ_RECORDS, Overflow
from hq_core.errors import (
    BackendError,
    BackendUnavailable,
    CorruptedData,
    HybridQueueError,
    MessageTooLargeError,
    QueueFull,
    StreamLostError,
)
from hq_core.spool.directory import Directory
from hq_core.testing import FaultyBackend, MemoryBackend
from hq_core.testing.spool import numbered


class Trouble:
    """What the next calls of a backend are to raise, and how it was called."""

    def __init__(self) -> None:
        self.raised: Exception | None = None
        self.calls: list[str] = []

    def __call__(self, method: str, number: int) -> Exception | None:
        self.calls.append(method)
        return self.raised


@pytest.fixture
def trouble() -> Trouble:
    return Trouble()


@pytest.fixture
def lost() -> list[HybridQueueError]:
    return []


@pytest.fixture
def overflow(tmp_path: Path, trouble: Trouble, lost: list[HybridQueueError]) -> Iterator[Overflow]:
    """With the reference backend, at most 100 live bytes, 4 of framing a record."""
    overflow = Overflow(100, lambda: True, lost.append)
    with Directory(tmp_path) as directory:
        overflow.backend = FaultyBackend(MemoryBackend(directory.stream("s")), trouble)
        yield overflow
        overflow.close(delete=True)


def settle(overflow: Overflow) -> None:
    """As the engine does after each call."""
    overflow.depth, overflow.size_bytes = overflow.facts()


def store(overflow: Overflow, records: list[bytes]) -> None:
    assert overflow.append(records, 0.0, 0) is None
    settle(overflow)


def read(overflow: Overflow) -> list[bytes]:
    records = overflow.read()
    overflow.ahead.extend(records)
    return records


# ---- reading ahead ---------------------------------------------------------------------------


def test_what_was_read_ahead_counts_as_stored_until_it_is_passed_on(overflow: Overflow) -> None:
    store(overflow, numbered(5))
    assert (overflow.stored, overflow.unread) == (5, 5)
    assert read(overflow) == numbered(5)
    assert (overflow.stored, overflow.unread) == (5, 0)
    overflow.pass_on(2)
    assert (overflow.stored, overflow.unread, overflow.passed) == (3, 0, 2)
    assert list(overflow.ahead) == numbered(3, 2)
    assert overflow.backend.depth() == 5


def test_a_read_goes_on_where_the_last_one_ended(overflow: Overflow) -> None:
    store(overflow, numbered(2))
    read(overflow)
    overflow.pass_on(1)
    store(overflow, numbered(2, 2))
    assert read(overflow) == numbered(2, 2)
    assert list(overflow.ahead) == numbered(3, 1)


def test_what_was_forgotten_is_read_again(overflow: Overflow) -> None:
    store(overflow, numbered(3))
    read(overflow)
    overflow.pass_on(1)
    overflow.forget_ahead()
    assert overflow.unread == 2
    assert read(overflow) == numbered(2, 1)


def test_the_first_ahead_are_those_within_both_limits(overflow: Overflow) -> None:
    overflow.ahead.extend([b"1", b"22", b"333", b""])
    assert overflow.first_ahead(9) == [b"1", b"22", b"333", b""]
    assert overflow.first_ahead(2) == [b"1", b"22"]
    assert overflow.first_ahead(9, 3) == [b"1", b"22"]
    assert overflow.first_ahead(9, 2) == [b"1"]
    assert overflow.first_ahead(9, 0) == overflow.first_ahead(0) == []


def test_no_more_than_1024_records_are_read_ahead(overflow: Overflow) -> None:
    assert READ_RECORDS == 1024
    overflow.max_bytes = None
    store(overflow, numbered(3_000))
    assert read(overflow) == numbered(1024)
    assert overflow.read() == []
    overflow.pass_on(3)
    assert read(overflow) == numbered(3, 1024)
    assert len(overflow.ahead) == 1024


def test_no_more_than_a_mebibyte_is_read_ahead_unless_one_record_is_longer(
    overflow: Overflow,
) -> None:
    assert READ_BYTES == 1 << 20
    overflow.max_bytes = None
    half, long = bytes(1 << 19), bytes(3 << 20)
    store(overflow, [half, half, b"x", long, b"y", long])
    assert read(overflow) == [half, half]
    assert read(overflow) == []
    overflow.pass_on(2)
    assert read(overflow) == [b"x"]
    assert read(overflow) == []
    overflow.pass_on(1)
    assert read(overflow) == [long]
    assert read(overflow) == []
    overflow.pass_on(1)
    assert read(overflow) == [b"y"]


def test_a_backend_that_hides_a_record_is_an_error(
    overflow: Overflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(overflow, numbered(2))
    read(overflow)
    overflow.pass_on(1)
    overflow.forget_ahead()
    monkeypatch.setattr(overflow.backend, "read", lambda *_: [])
    with pytest.raises(BackendError, match="holds 2 records and does not give record 1"):
        overflow.read()


# ---- the bound -------------------------------------------------------------------------------


def test_what_fits_exactly_is_stored_and_a_byte_more_is_refused(overflow: Overflow) -> None:
    store(overflow, [bytes(46)])
    full = overflow.append([bytes(47)], 0.0, 0)
    assert isinstance(full, QueueFull)
    for word in ("51 bytes more", "50 of max_overflow_bytes=100"):
        assert word in str(full)
    assert full.__cause__ is None
    store(overflow, [bytes(46)])
    assert overflow.size_bytes == 100


def test_what_is_done_and_cannot_be_trimmed_yet_does_not_count(overflow: Overflow) -> None:
    store(overflow, [bytes(46), bytes(46)])
    assert isinstance(overflow.append([bytes(1)], 0.0, 4), QueueFull)
    assert overflow.append([bytes(1)], 0.0, 5) is None


def test_the_bound_is_about_what_the_backend_says_records_cost(
    overflow: Overflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overflow.backend, "cost", lambda records: 60 * len(records))
    store(overflow, [b""])
    overflow.size_bytes = 60
    assert isinstance(overflow.append([b""], 0.0, 0), QueueFull)


def test_without_a_bound_the_cost_is_not_asked(
    overflow: Overflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    overflow.max_bytes = None
    asked: list[int] = []
    monkeypatch.setattr(overflow.backend, "cost", lambda records: asked.append(len(records)))
    store(overflow, [bytes(1000)])
    overflow.check_capacity([bytes(1000)], (0, 0))
    assert asked == []


def test_a_store_that_has_no_room_is_an_answer(overflow: Overflow, trouble: Trouble) -> None:
    for trouble.raised in (QueueFull("no space left"), BackendUnavailable("away")):
        assert overflow.append([b"x"], 0.0, 0) is trouble.raised
    trouble.raised = None
    assert overflow.facts() == (0, 0)


@pytest.mark.parametrize(
    ("items", "memory", "ever"),
    [
        ([bytes(96)], (0, 0), True),
        ([bytes(97)], (0, 0), False),
        ([bytes(97)], (1, 97), True),
        ([bytes(97)], (1, 96), False),
        ([bytes(50)] * 2, (1, 1000), False),
        ([bytes(50)] * 2, (2, 100), True),
    ],
)
def test_what_neither_tier_can_ever_hold_is_refused(
    overflow: Overflow, items: list[bytes], memory: tuple[int, int], ever: bool
) -> None:
    if ever:
        overflow.check_capacity(items, memory)
        return
    with pytest.raises(MessageTooLargeError, match="can never be held"):
        overflow.check_capacity(items, memory)


# ---- failures --------------------------------------------------------------------------------


def test_what_a_backend_raises_is_wrapped_once_with_its_cause(
    overflow: Overflow, trouble: Trouble
) -> None:
    store(overflow, numbered(1))
    trouble.raised = OSError("the disk is gone")
    for call in (
        lambda: overflow.append([b"x"], 0.0, 0),
        overflow.read,
        lambda: overflow.trim(1, 0.0),
    ):
        with pytest.raises(BackendError, match="OSError: the disk is gone") as failure:
            call()
        assert failure.value.__cause__ is trouble.raised
    trouble.raised = None
    assert overflow.facts() == (1, overflow.size_bytes)


@pytest.mark.parametrize("error", [BackendError("own"), CorruptedData("damaged")])
def test_errors_of_the_library_are_passed_as_they_are(
    overflow: Overflow, trouble: Trouble, error: HybridQueueError
) -> None:
    store(overflow, numbered(1))
    trouble.raised = error
    with pytest.raises(type(error)) as failure:
        overflow.read()
    assert failure.value is error


def test_a_stream_that_is_lost_is_told(
    overflow: Overflow, trouble: Trouble, lost: list[HybridQueueError]
) -> None:
    store(overflow, numbered(1))
    trouble.raised = StreamLostError("another owner")
    with pytest.raises(StreamLostError):
        overflow.read()
    assert lost == [trouble.raised]
    trouble.raised = None


def test_a_store_is_away_until_a_call_succeeds_or_it_says_that_it_is_back(
    overflow: Overflow, trouble: Trouble
) -> None:
    store(overflow, numbered(2))
    assert not overflow.away
    trouble.raised = BackendUnavailable("away")
    with pytest.raises(BackendUnavailable):
        overflow.read()
    assert overflow.away
    overflow.in_contact()
    assert not overflow.away
    assert not overflow.trim(1, 0.0)
    assert overflow.away
    assert overflow.retry_trim == math.inf
    trouble.raised = None
    read(overflow)
    assert not overflow.away


def test_a_store_that_came_back_during_the_call_is_not_away(
    overflow: Overflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(overflow, numbered(2))

    def back_again(*_: int) -> list[bytes]:
        overflow.in_contact()
        raise BackendUnavailable("away for a moment")

    monkeypatch.setattr(overflow.backend, "read", back_again)
    with pytest.raises(BackendUnavailable):
        overflow.read()
    assert not overflow.away


def test_a_failed_trim_is_told_once_and_tried_again_later_and_later(
    overflow: Overflow, trouble: Trouble
) -> None:
    store(overflow, numbered(2))
    trouble.raised = OSError("no")
    with pytest.raises(BackendError):
        overflow.trim(1, 100.0)
    waits = [overflow.retry_trim - 100.0]
    for _ in range(7):
        assert not overflow.trim(1, 100.0)
        waits.append(overflow.retry_trim - 100.0)
    assert waits == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0])
    trouble.raised = None
    assert overflow.trim(1, 100.0)
    assert overflow.retry_trim == math.inf
    trouble.raised = OSError("again")
    with pytest.raises(BackendError):
        overflow.trim(1, 100.0)
    assert overflow.retry_trim == pytest.approx(100.05)
    trouble.raised = None


def test_it_is_noted_what_a_call_is_about_before_it_is_made(
    overflow: Overflow, trouble: Trouble
) -> None:
    trouble.raised = OSError("interrupted")
    with pytest.raises(BackendError):
        overflow.append([b"four", b"x"], 7.0, 0)
    noted: list[str] = [overflow.doing]
    assert overflow.appending == (5, 7.0)
    with pytest.raises(BackendError):
        overflow.trim(1, 0.0)
    noted.append(overflow.doing)
    trouble.raised = None
    store(overflow, numbered(1))
    overflow.read()
    noted.append(overflow.doing)
    assert noted == ["append", "trim", "read"]


def test_a_backend_is_called_holding_io_only(tmp_path: Path) -> None:
    overflow = Overflow(None, lambda: False, lambda _: None)
    with Directory(tmp_path) as directory:
        overflow.backend = MemoryBackend(directory.stream("s"))
        with pytest.raises(AssertionError):
            overflow.sync()
