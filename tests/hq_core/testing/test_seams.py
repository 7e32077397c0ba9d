"""The suites are tests, so they are tested: on this library's own parts, and on broken ones."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from hq_core import BytesTier, CountTier, InlinePump, Pump, ThreadPump, TokenBucket, Unlimited
from hq_core.testing import LimiterConformance, MemoryTierConformance, PumpConformance


class TestCountTier(MemoryTierConformance):
    tier = partial(CountTier, 5)


class TestCountTierOfOne(MemoryTierConformance):
    tier = partial(CountTier, 1)


class TestBytesTier(MemoryTierConformance):
    tier = partial(BytesTier, 100, 7)


class TestBytesTierOfFewBytes(MemoryTierConformance):
    tier = partial(BytesTier, 3)


class TestTokenBucket(LimiterConformance):
    limiter = TokenBucket


class TestTokenBucketOfOne(LimiterConformance):
    limiter = partial(TokenBucket, 0.1, 1)


class TestUnlimited(LimiterConformance):
    limiter = Unlimited


class TestThreadPump(PumpConformance):
    pump = ThreadPump


class TestInlinePump(PumpConformance):
    pump = InlinePump


# ---- broken tiers ----------------------------------------------------------------------------


class LastInFirstOut(BytesTier):
    def take_one(self) -> bytes | None:
        self._queue.reverse()
        item = super().take_one()
        self._queue.reverse()
        return item


class TakesTheNewest(BytesTier):
    def take(self, max_items: int) -> list[bytes]:
        self._queue.rotate(max_items)
        return super().take(max_items)


class HoldsOneItemMore(BytesTier):
    """Counts an item only after it has taken it, the usual slip."""

    def offer_one(self, item: bytes) -> bool:
        if len(self._queue) > self._max_items or self._bytes + len(item) > self._max_bytes:
            return False
        self._queue.append(item)
        self._bytes += len(item)
        return True


class HoldsOneByteMore(BytesTier):
    def offer(self, items: Sequence[bytes]) -> bool:
        self._max_bytes += 1
        accepted = super().offer(items)
        self._max_bytes -= 1
        return accepted


class TakesAsMuchOfABatchAsFits(BytesTier):
    def offer(self, items: Sequence[bytes]) -> bool:
        accepted = [self.offer_one(item) for item in items]
        return all(accepted)


class PromisesRoomItLacks(BytesTier):
    def room(self) -> tuple[int, int]:
        return self.capacity()


class DropsEmptyMessages(BytesTier):
    def offer_one(self, item: bytes) -> bool:
        return not item or super().offer_one(item)


class KeepsTheCallersList(BytesTier):
    """Copies a batch when it is asked for it, not when it gets it."""

    def __init__(self, max_bytes: int, max_items: int) -> None:
        super().__init__(max_bytes, max_items)
        self._batch: Sequence[bytes] = ()

    def offer(self, items: Sequence[bytes]) -> bool:
        self._batch = items
        return True

    def items(self) -> int:
        return len(self._batch)


class IsFalsyWhenEmpty(BytesTier):
    def __len__(self) -> int:
        return self.items()


class ForgetsWhatLeft(BytesTier):
    def take(self, max_items: int) -> list[bytes]:
        size = self._bytes
        items = super().take(max_items)
        self._bytes = size
        return items


M = MemoryTierConformance
BROKEN_TIERS: list[tuple[type[BytesTier], Callable[..., None]]] = [
    (LastInFirstOut, M.test_the_oldest_item_leaves_first),
    (TakesTheNewest, M.test_take_returns_the_oldest_items_oldest_first_and_no_more_than_asked_for),
    (HoldsOneItemMore, M.test_it_accepts_as_many_items_as_its_capacity_says_and_no_more),
    (HoldsOneByteMore, M.test_it_accepts_as_many_bytes_as_its_capacity_says_and_no_more),
    (TakesAsMuchOfABatchAsFits, M.test_a_batch_is_taken_as_a_whole_or_not_at_all),
    (PromisesRoomItLacks, M.test_a_full_tier_has_no_room),
    (DropsEmptyMessages, M.test_an_empty_message_is_an_item),
    (KeepsTheCallersList, M.test_lists_given_and_taken_belong_to_the_caller),
    (IsFalsyWhenEmpty, M.test_an_empty_tier_is_not_falsy),
    (ForgetsWhatLeft, M.test_what_leaves_makes_room),
]


COMPARED = [
    LastInFirstOut,
    TakesTheNewest,
    HoldsOneItemMore,
    HoldsOneByteMore,
    TakesAsMuchOfABatchAsFits,
    PromisesRoomItLacks,
    DropsEmptyMessages,
    ForgetsWhatLeft,
]
BROKEN_TIERS += [
    (broken, M.test_every_short_sequence_of_calls_answers_as_a_bounded_deque_does)
    for broken in COMPARED
]


@pytest.mark.parametrize(("broken", "test"), BROKEN_TIERS)
def test_a_broken_tier_fails_on_the_test_meant_for_it(
    broken: type[BytesTier], test: Callable[..., None]
) -> None:
    class Suite(MemoryTierConformance):
        tier = partial(broken, 100, 7)

    with pytest.raises((AssertionError, ExceptionGroup)):
        test(Suite())


# ---- broken limiters -------------------------------------------------------------------------


class SavesUpWithoutEnd(TokenBucket):
    def admit(self, tokens: int, now: float) -> bool:
        self._tokens += 1_000
        return super().admit(tokens, now) or tokens <= self._tokens


class LetsEveryBatchThrough(TokenBucket):
    """Asks only whether there is a token."""

    def admit(self, tokens: int, now: float) -> bool:
        return super().admit(1, now)


class SpendsOnRefusal(TokenBucket):
    def admit(self, tokens: int, now: float) -> bool:
        admitted = super().admit(tokens, now)
        if not admitted:
            self._tokens = 0.0
        return admitted


class NeverAdmitsAWholeBurst(TokenBucket):
    def admit(self, tokens: int, now: float) -> bool:
        return tokens < self.burst and super().admit(tokens, now)


class StartsAtZero(TokenBucket):
    """Takes the clock's zero for its own beginning, with nothing saved up."""

    def __init__(self) -> None:
        super().__init__()
        self._tokens, self._updated = 0.0, 0.0


class AnswersWithANumber(TokenBucket):
    def admit(self, tokens: int, now: float) -> bool:
        return int(super().admit(tokens, now))  # type: ignore[return-value]  # the defect


class SharesItsTokens(TokenBucket):
    _shared = TokenBucket(burst=100)

    def admit(self, tokens: int, now: float) -> bool:
        return self._shared.admit(tokens, now)


class ReadsTheClock(TokenBucket):
    def admit(self, tokens: int, now: float) -> bool:
        return super().admit(tokens, time.monotonic())


L = LimiterConformance
BROKEN_LIMITERS: list[tuple[type[TokenBucket], Callable[..., None]]] = [
    (SavesUpWithoutEnd, L.test_no_call_ever_gets_more_tokens_than_the_burst),
    (LetsEveryBatchThrough, L.test_no_call_ever_gets_more_tokens_than_the_burst),
    (SpendsOnRefusal, L.test_what_is_refused_takes_no_token),
    (NeverAdmitsAWholeBurst, L.test_a_call_can_get_as_many_tokens_as_the_burst),
    (StartsAtZero, L.test_where_the_clock_starts_does_not_matter),
    (AnswersWithANumber, L.test_it_answers_true_or_false),
    (SharesItsTokens, L.test_two_of_them_share_nothing),
    (ReadsTheClock, L.test_it_never_sleeps_and_reads_no_clock),
]


@pytest.mark.parametrize(("broken", "test"), BROKEN_LIMITERS)
def test_a_broken_limiter_fails_on_the_test_meant_for_it(
    broken: type[TokenBucket], test: Callable[..., None]
) -> None:
    class Suite(LimiterConformance):
        limiter = broken

    with pytest.raises(AssertionError):
        test(Suite())


# ---- broken pumps ----------------------------------------------------------------------------


class NeverSteps(ThreadPump):
    def wake(self) -> None: ...


class StepsOnce(ThreadPump):
    """Takes one batch a wake, and forgets the rest."""

    def start(self, step: Callable[[], bool], name: str) -> None:
        super().start(lambda: step() and False, name)


class LosesAWakeDuringAStep(InlinePump):
    """Believes that whoever steps already will do."""

    _busy = False

    def wake(self) -> None:
        if not self._busy:
            self._busy = True
            super().wake()
            self._busy = False


class WakesOnce(InlinePump):
    def wake(self) -> None:
        super().wake()
        self.stop()


class OutlivesStop(ThreadPump):
    """Tells its thread to end and does not wait."""

    def stop(self) -> None:
        self._stopping = True
        self._alarm.set()


class StepsAfterStop(InlinePump):
    def stop(self) -> None: ...


class Polls(ThreadPump):
    def _run(self) -> None:
        while not self._stopping:
            self._alarm.wait(0.001)
            while self._step():
                pass


class TripsOverNames(ThreadPump):
    def start(self, step: Callable[[], bool], name: str) -> None:
        name.encode("ascii")
        super().start(step, name)


P = PumpConformance
BROKEN_PUMPS: list[tuple[type[Pump], Callable[..., None]]] = [
    (NeverSteps, P.test_after_a_wake_it_steps_until_there_is_nothing_more_to_do),
    (StepsOnce, P.test_after_a_wake_it_steps_until_there_is_nothing_more_to_do),
    (WakesOnce, P.test_every_wake_after_that_is_served_again),
    (NeverSteps, P.test_a_wake_may_come_from_any_thread),
    (LosesAWakeDuringAStep, P.test_a_wake_during_the_last_step_is_not_lost),
    (Polls, P.test_nobody_polls),
    (OutlivesStop, P.test_stop_returns_only_when_no_step_runs),
    (OutlivesStop, P.test_stop_returns_only_when_no_step_runs_whoever_made_the_wake),
    (StepsAfterStop, P.test_no_step_runs_after_stop_whatever_wakes),
    (TripsOverNames, lambda suite: suite.test_the_name_is_any_text("hq-pump-\u00e9")),
]


@pytest.mark.parametrize(("broken", "test"), BROKEN_PUMPS)
def test_a_broken_pump_fails_on_the_test_meant_for_it(
    broken: type[Pump], test: Callable[..., None]
) -> None:
    class Suite(PumpConformance):
        pump = broken
        patience = 0.1

    with pytest.raises((AssertionError, UnicodeError)):
        test(Suite())


# ---- in the hands of a stranger --------------------------------------------------------------

A_MODULE = """
from hq_core import CountTier, ThreadPump, TokenBucket
from hq_core.testing import LimiterConformance, MemoryTierConformance, PumpConformance

class TestTier(MemoryTierConformance):
    tier = lambda: CountTier(4)

class TestLimiter(LimiterConformance):
    limiter = staticmethod(lambda: TokenBucket(100, 10))

class TestPump(PumpConformance):
    pump = ThreadPump
"""


@pytest.mark.slow
def test_the_suites_need_no_conftest_and_no_markers(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(A_MODULE)
    options = ["-W", "error", "--strict-markers", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--rootdir", tmp_path, "test_mine.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
