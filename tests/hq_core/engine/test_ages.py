"""The age of the oldest item, against a model that remembers the time of every one."""

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hq_core.engine.ages import Ages

reproducible = settings(derandomize=True, deadline=None, max_examples=300)

FINEST = 0.1
SHARE = 1 / 64
MOST = 256


class Traffic:
    """`Ages` as the engine uses it, beside the time of every item."""

    def __init__(self) -> None:
        self.ages = Ages()
        self.items: deque[float] = deque()
        self.now = 0.0
        self.left = 0
        self.greatest = 0.0
        """The greatest age of an oldest item since the queue was last seen empty."""

    def come(self, count: int, after: float = 0.0) -> None:
        self.now += after
        self.items.extend([self.now] * count)
        self.greatest = max(self.greatest, self.now - self.items[0])
        if self.now >= self.ages.due:
            self.ages.mark(self.left + len(self.items) - count + 1, self.now, self.left + 1)
        assert len(self.ages._marks) <= MOST

    def leave(self, count: int) -> None:
        for _ in range(min(count, len(self.items))):
            self.items.popleft()
            self.left += 1

    def lose(self, behind: int, count: int) -> None:
        behind = min(behind, len(self.items))
        count = min(count, len(self.items) - behind)
        if count:
            self.ages.lose(self.left + behind + 1, count)
            for _ in range(count):
                del self.items[behind]

    def age(self, after: float = 0.0) -> float:
        self.now += after
        return self.ages.age(self.left + 1, self.left + len(self.items), self.now)

    def check(self, after: float = 0.0) -> None:
        age = self.age(after)
        if not self.items:
            assert age == 0.0
            self.greatest = 0.0
            return
        real = self.now - self.items[0]
        self.greatest = max(self.greatest, age)
        assert real <= age
        assert age - real < max(FINEST, self.greatest * SHARE)


steps = st.one_of(
    st.tuples(st.just("come"), st.integers(1, 50), st.floats(0, 40)),
    st.tuples(st.just("come"), st.just(1), st.floats(0, 0.2)),
    st.tuples(st.just("leave"), st.integers(1, 60)),
    st.tuples(st.just("lose"), st.integers(0, 20), st.integers(1, 30)),
    st.tuples(st.just("check"), st.floats(0, 10)),
)


@reproducible
@given(st.lists(steps, max_size=60))
def test_an_age_is_never_too_low_and_too_high_by_less_than_the_bound(
    given_steps: list[tuple[str, *tuple[float, ...]]],
) -> None:
    traffic = Traffic()
    for name, *arguments in given_steps:
        getattr(traffic, name)(*arguments)
    traffic.check()


@pytest.mark.parametrize("pace", [0.001, 0.05, 0.3, 7.0])
def test_a_backlog_that_grows_for_long_has_few_marks_and_a_good_age(pace: float) -> None:
    traffic = Traffic()
    for _ in range(10_000):
        traffic.come(1, pace)
    traffic.check()
    while traffic.items:
        traffic.leave(97)
        traffic.check(pace)


@pytest.mark.parametrize("lag", [1, 1_000, 5_000])
def test_a_consumer_that_lags_behind_steadily_is_told_its_lag(lag: int) -> None:
    traffic = Traffic()
    traffic.come(lag)
    for _ in range(10_000):
        traffic.come(1, 0.02)
        traffic.leave(1)
    assert traffic.age() == pytest.approx((lag - 1) * 0.02, abs=FINEST + lag * 0.02 * SHARE)


def test_nobody_has_to_ask_for_the_marks_to_stay_fine() -> None:
    traffic = Traffic()
    for _ in range(10_000):
        traffic.come(1, 1.0)
        traffic.leave(1)
    traffic.come(1, 1.0)
    assert traffic.age(0.5) == 0.5


def test_the_first_item_after_a_quiet_time_is_as_old_as_it_is() -> None:
    traffic = Traffic()
    traffic.come(5)
    traffic.leave(5)
    traffic.come(1, 3600.0)
    assert traffic.age(0.25) == 0.25


def test_once_seen_empty_a_queue_that_was_far_behind_is_exact_again() -> None:
    traffic = Traffic()
    for _ in range(3_600):
        traffic.come(1, 1.0)
    traffic.leave(3_600)
    assert traffic.age() == 0.0
    traffic.come(1, 0.5)
    assert traffic.age(0.25) == 0.25


def test_items_lost_in_the_middle_leave_the_others_as_old_as_they_are() -> None:
    traffic = Traffic()
    for _ in range(9):
        traffic.come(1, 1.0)
    traffic.lose(2, 4)
    ages = []
    while traffic.items:
        ages.append(traffic.age())
        traffic.leave(1)
    assert ages == [8.0, 7.0, 2.0, 1.0, 0.0]


def test_all_that_is_stored_may_be_lost() -> None:
    traffic = Traffic()
    for _ in range(9):
        traffic.come(1, 1.0)
    traffic.lose(0, 9)
    assert traffic.age() == 0.0
    traffic.come(1, 1.0)
    assert traffic.age(2.0) == 2.0
