"""The limiters; the time is an argument, so no test waits."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hq_core import Limiter, TokenBucket, Unlimited

reproducible = settings(derandomize=True, deadline=None)

rates = st.floats(0.001, 1e6)
bursts = st.integers(1, 2_000)
moments = st.floats(-1e6, 1e6)
"""Of a clock that need not start at 0 and, in these tests, need not go forward either."""
requests = st.lists(st.tuples(moments, st.integers(1, 2_000)), max_size=40)


def admitted_at_once(limiter: Limiter, now: float, at_most: int) -> int:
    """How many single tokens `limiter` gives at `now`."""
    count = 0
    while count < at_most and limiter.admit(1, now):
        count += 1
    return count


def test_the_default_starts_with_a_burst_of_1000() -> None:
    assert TokenBucket().burst == 1_000
    assert admitted_at_once(TokenBucket(), 0.0, 5_000) == 1_000


def test_the_default_admits_10000_a_second_after_the_burst() -> None:
    bucket = TokenBucket()
    admitted_at_once(bucket, 0.0, 5_000)
    ticks = [i / 1024 for i in range(1, 1025)]
    assert sum(admitted_at_once(bucket, now, 5_000) for now in ticks) == 10_000


def test_nothing_is_admitted_before_a_token_has_grown() -> None:
    bucket = TokenBucket(rate=4, burst=1)
    assert bucket.admit(1, 0.0)
    assert not bucket.admit(1, 0.1875)
    assert bucket.admit(1, 0.25)


def test_a_rate_below_one_a_second_is_a_rate() -> None:
    bucket = TokenBucket(rate=0.5, burst=1)
    assert bucket.admit(1, 100.0)
    assert not bucket.admit(1, 101.0)
    assert bucket.admit(1, 102.0)


def test_idle_time_saves_up_no_more_than_the_burst() -> None:
    bucket = TokenBucket(rate=100, burst=7)
    assert bucket.admit(7, 0.0)
    assert admitted_at_once(bucket, 1e9, 100) == 7


def test_the_first_moment_may_be_any() -> None:
    for start in (-1e9, 0.0, 1e9):
        assert admitted_at_once(TokenBucket(rate=1, burst=5), start, 100) == 5


def test_a_batch_takes_as_many_tokens_as_it_has_items() -> None:
    bucket = TokenBucket(rate=1, burst=10)
    assert bucket.admit(7, 0.0)
    assert admitted_at_once(bucket, 0.0, 100) == 3


def test_a_refused_batch_takes_no_token() -> None:
    bucket = TokenBucket(rate=1, burst=10)
    assert bucket.admit(7, 0.0)
    assert not bucket.admit(4, 0.0)
    assert bucket.admit(3, 0.0)


@reproducible
@given(rate=rates, burst=bursts, times=st.lists(moments, min_size=1, max_size=20))
def test_a_batch_larger_than_the_burst_never_passes(
    rate: float, burst: int, times: list[float]
) -> None:
    bucket = TokenBucket(rate, burst)
    assert not any(bucket.admit(burst + 1, now) for now in times)


def test_time_going_backwards_grants_nothing() -> None:
    bucket = TokenBucket(rate=1, burst=2)
    assert bucket.admit(2, 1000.0)
    assert not bucket.admit(1, 0.0)
    assert not bucket.admit(1, 1000.0)
    assert not bucket.admit(1, 1000.5)
    assert bucket.admit(1, 1001.0)


def test_time_going_backwards_takes_nothing_away() -> None:
    bucket = TokenBucket(rate=1, burst=2)
    assert bucket.admit(1, 1000.0)
    assert bucket.admit(1, 0.0)


def _granted(bucket: TokenBucket, script: Sequence[tuple[float, int]]) -> int:
    return sum(tokens for now, tokens in script if bucket.admit(tokens, now))


@reproducible
@given(rate=rates, burst=bursts, script=requests)
def test_never_more_than_the_burst_and_the_rate_times_the_time_is_admitted(
    rate: float, burst: int, script: list[tuple[float, int]]
) -> None:
    assume(script)
    times = [Fraction(now) for now, _ in script]
    allowed = burst + Fraction(rate) * (max(times) - min(times))
    rounding = 1 + Fraction(1, 10**9)
    assert _granted(TokenBucket(rate, burst), script) <= allowed * rounding


@reproducible
@given(burst=bursts, gaps=st.lists(st.integers(0, 64), max_size=60), data=st.data())
def test_between_any_two_moments_the_same_bound_holds(
    burst: int, gaps: list[int], data: st.DataObject
) -> None:
    rate, bucket, now = 512, TokenBucket(512, burst), Fraction(0)
    grants = [(now, 0)]
    for gap in gaps:
        now += Fraction(gap, 256)
        tokens = data.draw(st.integers(1, burst))
        grants.append((now, tokens if bucket.admit(tokens, float(now)) else 0))
    for first, (start, _) in enumerate(grants):
        total = 0
        for end, tokens in grants[first:]:
            total += tokens
            assert total <= burst + rate * (end - start)


@reproducible
@given(burst=bursts, script=requests)
def test_after_enough_idle_time_a_whole_burst_passes(
    burst: int, script: list[tuple[float, int]]
) -> None:
    bucket = TokenBucket(1, burst)
    _granted(bucket, script)
    assert bucket.admit(burst, 1e6 + burst + 1)


def test_unlimited_admits_everything() -> None:
    limiter: Limiter = Unlimited()
    assert limiter.burst is None
    assert all(limiter.admit(10**9, now) for now in (0.0, 0.0, -1.0))


@pytest.mark.parametrize("wrong", ["10", None, True, b"1", 1j])
def test_a_rate_that_is_no_number_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^rate must be a number, not"):
        TokenBucket(rate=wrong)


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), float("-inf")])
def test_a_rate_that_is_no_rate_is_refused_and_unlimited_named(wrong: float) -> None:
    with pytest.raises(ValueError, match=r"^rate must be positive and finite.*Unlimited\(\)"):
        TokenBucket(rate=wrong)


@pytest.mark.parametrize("wrong", [1.0, True, "1", None])
def test_a_burst_that_is_no_int_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^burst must be an int, not"):
        TokenBucket(burst=wrong)


@pytest.mark.parametrize("wrong", [0, -1])
def test_a_burst_below_one_is_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match=r"^burst must be at least 1, not"):
        TokenBucket(burst=wrong)
