"""The engine's side of the backend."""

import pytest

from hq_core.engine.overflow import Overflow
from hq_core.errors import QueueFull
from hq_core.protocols import Stream, WhenFull
from hq_core.testing import FaultyBackend, MemoryBackend


def full_overflow(stream: Stream, when_full: WhenFull, times: list[float]) -> Overflow:
    """One whose disk is full, at the `times` given."""
    backend = FaultyBackend(MemoryBackend(stream), lambda *_: QueueFull("the disk is full"))
    clock = iter(times)
    return Overflow(
        backend,
        stream_id="s",
        max_bytes=None,
        when_full=when_full,
        clock=lambda: next(clock),
    )


@pytest.fixture
def stream(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    return Stream("s", "s", tmp_path_factory.mktemp("spool"))


def test_a_full_disk_is_told_with_its_consequence_and_not_again_for_ten_minutes(
    stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    overflow = full_overflow(stream, "block", [0.0, 1.0, 599.0, 600.0, 601.0])
    told = []
    for _ in range(5):
        assert isinstance(overflow.append([b"x"]), QueueFull)
        told.append(len(caplog.records))
    assert told == [1, 1, 1, 2, 2]
    assert "'s': the disk is full; its producers wait until there is room" in caplog.text


def test_a_caller_that_gets_the_error_is_not_told_by_the_log_too(
    stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    full_overflow(stream, "raise", [0.0]).append([b"x"])
    assert not caplog.records
