"""Waits that overlap, added up."""

from hypothesis import given, settings
from hypothesis import strategies as st

from hq_core.engine.stopwatch import Stopwatch
from hq_core.engine.waiters import ThreadWaiter


def test_waits_add_up_and_those_under_way_count() -> None:
    watch, one, two = Stopwatch(), ThreadWaiter(), ThreadWaiter()
    assert watch.seconds(5.0) == 0.0
    watch.start(one, 10.0)
    assert watch.seconds(11.0) == 1.0
    watch.start(two, 12.0)
    assert watch.seconds(14.0) == 6.0
    watch.stop(one, 14.0)
    assert watch.seconds(15.0) == 7.0
    watch.stop(two, 16.0)
    assert watch.seconds(99.0) == 8.0


def test_who_never_began_may_stop() -> None:
    watch = Stopwatch()
    watch.stop(ThreadWaiter(), 3.0)
    assert watch.seconds(4.0) == 0.0


@settings(derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 4)), max_size=30))
def test_the_sum_never_goes_back(steps: list[tuple[float, int]]) -> None:
    watch, waiters = Stopwatch(), [ThreadWaiter() for _ in range(5)]
    waiting: set[int] = set()
    now = last = 0.0
    for passed, number in steps:
        now += passed
        if number in waiting:
            watch.stop(waiters[number], now)
        else:
            watch.start(waiters[number], now)
        waiting ^= {number}
        assert watch.seconds(now) >= last
        last = watch.seconds(now)
