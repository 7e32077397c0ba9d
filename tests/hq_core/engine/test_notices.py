"""What is logged: when no lock is held, and without harm to the caller."""

import logging
from collections.abc import Callable, Iterator

import pytest

from hq_core import HybridQueue, QueueFull, Stream, Unlimited
from hq_core.engine.notices import Notices
from hq_core.testing import FaultyBackend, ManualClock, ManualPump, MemoryBackend


@pytest.fixture
def notices() -> Notices:
    return Notices()


def nothing() -> None:
    """What a hook does unless a test says otherwise."""


class Hook(logging.Filter):
    """Calls `call` for each record, as a handler that feeds a queue would."""

    def __init__(self) -> None:
        super().__init__()
        self.call: Callable[[], None] = nothing

    def filter(self, record: logging.LogRecord) -> bool:
        self.call()
        return True


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()
    logger = logging.getLogger("hq_core")
    logger.addFilter(hook)
    yield hook
    logger.removeFilter(hook)


def test_nothing_is_logged_until_it_is_said(
    notices: Notices, caplog: pytest.LogCaptureFixture
) -> None:
    notices.add(logging.WARNING, "%r is full", "s")
    assert caplog.messages == []
    notices.say()
    assert caplog.messages == ["'s' is full"]


def test_it_is_said_once_and_in_order(notices: Notices, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(3):
        notices.add(logging.WARNING, "%d", number)
    notices.say()
    notices.say()
    assert caplog.messages == ["0", "1", "2"]


def test_a_notice_has_its_level_and_its_exception(
    notices: Notices, caplog: pytest.LogCaptureFixture
) -> None:
    notices.add(logging.ERROR, "failed", exc=ValueError("why"))
    notices.say()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "ValueError: why" in caplog.text


def test_what_comes_while_it_is_said_is_said_too(
    notices: Notices, hook: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    def more() -> None:
        hook.call = nothing
        notices.add(logging.WARNING, "another")
        notices.say()

    hook.call = more
    notices.add(logging.WARNING, "one")
    notices.add(logging.WARNING, "two")
    notices.say()
    assert sorted(caplog.messages) == ["another", "one", "two"]
    assert notices.pending == []


def test_what_a_filter_raises_is_not_the_callers(
    notices: Notices,
    hook: Hook,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        hook.call = nothing
        raise OSError("no log")

    hook.call = fail
    notices.add(logging.WARNING, "one")
    notices.add(logging.WARNING, "two")
    notices.say()
    assert caplog.messages == ["two"]
    assert "OSError: no log" in capsys.readouterr().err


def test_it_is_left_out_where_logging_is_to_be_silent(
    notices: Notices,
    hook: Hook,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise OSError("no log")

    monkeypatch.setattr(logging, "raiseExceptions", False)
    hook.call = fail
    notices.add(logging.WARNING, "one")
    notices.say()
    assert capsys.readouterr().err == ""


def test_an_interruption_is_no_trouble_of_the_log(notices: Notices, hook: Hook) -> None:
    def interrupt() -> None:
        hook.call = nothing
        raise KeyboardInterrupt

    hook.call = interrupt
    notices.add(logging.WARNING, "one")
    with pytest.raises(KeyboardInterrupt):
        notices.say()


def test_what_comes_again_and_again_is_said_every_ten_minutes(
    notices: Notices, caplog: pytest.LogCaptureFixture
) -> None:
    told = []
    for now in (0.0, 1.0, 599.9, 600.0, 601.0, 1200.0):
        notices.add_at_times(now, "the disk is full")
        notices.say()
        told.append(len(caplog.records))
    assert told == [1, 1, 1, 2, 2, 3]


# ---- of a queue ------------------------------------------------------------------------------


def full_disk(method: str, number: int) -> Exception | None:
    if method != "append":
        return None
    try:
        raise OSError("there is no space left")
    except OSError as exc:
        full = QueueFull("the disk is full")
        full.__cause__ = exc
        return full


def faulty(stream: Stream) -> FaultyBackend:
    return FaultyBackend(MemoryBackend(stream), full_disk)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    clock = ManualClock(1000.0)
    monkeypatch.setattr("hq_core.engine.opening.time.monotonic", clock)
    return clock


@pytest.mark.parametrize(
    ("when_full", "consequence"),
    [
        ("block", "its producers wait until there is room"),
        ("drop_newest", "new items are dropped"),
        ("drop_oldest", "its oldest items are dropped"),
    ],
)
def test_a_full_disk_is_told_with_its_consequence_and_not_again_for_ten_minutes(
    tmp_path_factory: pytest.TempPathFactory,
    clock: ManualClock,
    caplog: pytest.LogCaptureFixture,
    when_full: str,
    consequence: str,
) -> None:
    with HybridQueue(
        "s",
        1,
        tmp_path_factory.mktemp("spool"),
        backend=faulty,
        limiter=Unlimited(),
        pump=ManualPump(),
        when_full=when_full,  # type: ignore[arg-type] # it is one of them
    ) as queue:
        queue.enqueue(b"in memory")
        told = []
        for seconds in (0.0, 1.0, 598.0, 1.0, 1.0):
            clock.advance(seconds)
            if when_full == "block":
                with pytest.raises(QueueFull):
                    queue.enqueue(b"x", 0)
            else:
                queue.enqueue(b"x")
            told.append(len(caplog.records))
        assert told == [1, 1, 1, 2, 2]
        assert f"'s': the disk is full; {consequence}" in caplog.text


def test_a_caller_that_gets_the_error_is_not_told_by_the_log_too(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path_factory.mktemp("spool")
    with HybridQueue("s", 1, directory, backend=faulty, limiter=Unlimited()) as queue:
        queue.enqueue(b"in memory")
        with pytest.raises(QueueFull):
            queue.enqueue(b"x")
        assert not caplog.records


def test_a_bound_that_is_reached_is_no_news(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path_factory.mktemp("spool")
    with HybridQueue(
        "s", 1, directory, limiter=Unlimited(), max_overflow_bytes=9, when_full="drop_newest"
    ) as queue:
        for _ in range(5):
            queue.enqueue(b"x")
        assert queue.stats().dropped > 0
        assert not caplog.records


def test_a_log_handler_may_use_the_very_queue_it_hears_of(
    tmp_path_factory: pytest.TempPathFactory, hook: Hook
) -> None:
    directory = tmp_path_factory.mktemp("spool")
    with HybridQueue(
        "s", 3, directory, backend=faulty, limiter=Unlimited(), when_full="drop_newest"
    ) as queue:
        heard = []

        def feed() -> None:
            heard.append(queue.dequeue(0))
            queue.enqueue(b"from the log")

        for _ in range(3):
            queue.enqueue(b"x")
        hook.call = feed
        queue.enqueue(b"does not fit")
        hook.call = nothing
        assert heard == [b"x"]
        assert queue.dequeue_many(9) == [b"x", b"x", b"from the log"]
