"""What was handed out: whose it is, when it is done, and in what order it is taken again."""

import gc
import weakref
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hq_core.engine.in_flight import (
    MAX_OVERTAKING,
    MAX_OVERTAKING_BYTES,
    Holder,
    InFlight,
    Run,
)


class Taker:
    """A thread or task."""

    def __init__(self) -> None:
        self.ended = False
        self.holder: Holder = weakref.ref(self)

    def done(self) -> bool:
        return self.ended


@pytest.fixture
def ledger() -> InFlight:
    """That of a durable queue, so that `done` and `records` are about the log."""
    return InFlight(durable=True)


@pytest.fixture
def passing() -> InFlight:
    """That of a queue that is not durable."""
    return InFlight(durable=False)


@pytest.fixture
def one() -> Taker:
    return Taker()


@pytest.fixture
def other() -> Taker:
    return Taker()


def dropping() -> None:
    """The holder of what a policy drops: it has ended."""


def items(*numbers: int) -> list[bytes]:
    return [b"%d" % number for number in numbers]


def taken(runs: list[Run]) -> list[bytes]:
    return [item for run in runs for item in run.items]


def take_back(ledger: InFlight, max_items: int, taker: Taker) -> list[bytes]:
    got: list[bytes] = []
    ledger.take_back(got, max_items, taker.holder, None)
    return got


def lapse(ledger: InFlight, now: float) -> bool:
    ended = ledger.lapsed(now)
    for run in ended:
        ledger.give_back(run)
    return bool(ended)


def lease(ledger: InFlight, *numbers: int, until: float = 100.0) -> Run:
    return ledger.lease(items(*numbers), until, numbers[0] if numbers else 0)


# ---- threads and tasks -----------------------------------------------------------------------


def test_what_a_thread_took_is_not_done(ledger: InFlight, one: Taker) -> None:
    ledger.hand(one.holder, 3, 30)
    assert (ledger.done, ledger.records()) == (0, 3)


def test_its_holder_finishes_it(ledger: InFlight, one: Taker) -> None:
    ledger.hand(one.holder, 3, 30)
    ledger.hand(one.holder, 2, 20)
    ledger.finish(one.holder)
    assert (ledger.done, ledger.records(), ledger.runs) == (5, 5, [])


def test_nobody_else_does(ledger: InFlight, one: Taker, other: Taker) -> None:
    ledger.hand(one.holder, 3, 30)
    ledger.hand(other.holder, 2, 20)
    ledger.finish(other.holder)
    third = Taker()
    ledger.finish(third.holder)
    ledger.hand(dropping, 4, 40)
    assert (ledger.done, ledger.records()) == (0, 9)
    ledger.finish(one.holder)
    assert ledger.done == 9


def test_the_log_is_done_up_to_the_first_item_that_is_not(
    ledger: InFlight, one: Taker, other: Taker
) -> None:
    ledger.hand(one.holder, 1, 10)
    ledger.hand(other.holder, 2, 20)
    ledger.hand(one.holder, 4, 40)
    ledger.finish(one.holder)
    assert (ledger.done, ledger.pinned()) == (1, 40)
    ledger.finish(other.holder)
    assert (ledger.done, ledger.pinned()) == (7, 0)


def test_to_finish_twice_finishes_once(ledger: InFlight, one: Taker) -> None:
    ledger.hand(one.holder, 3, 30)
    ledger.finish(one.holder)
    ledger.finish(one.holder)
    assert ledger.done == 3


def test_what_is_taken_after_finishing_is_held_again(ledger: InFlight, one: Taker) -> None:
    ledger.hand(one.holder, 3, 30)
    ledger.finish(one.holder)
    ledger.hand(one.holder, 1, 10)
    assert (ledger.done, ledger.records()) == (3, 4)


def test_who_ends_has_finished(ledger: InFlight, one: Taker, other: Taker) -> None:
    ledger.hand(one.holder, 3, 30)
    ledger.hand(other.holder, 1, 10)
    one.ended = True
    ledger.advance()
    assert ledger.done == 3


def test_who_is_gone_has_finished(ledger: InFlight, other: Taker) -> None:
    gone = Taker()
    ledger.hand(gone.holder, 3, 30)
    ledger.hand(other.holder, 1, 10)
    del gone
    gc.collect()
    ledger.advance()
    assert ledger.done == 3


def test_holders_that_have_ended_are_forgotten(ledger: InFlight) -> None:
    """A task for each item is usual."""
    for _ in range(2_000):
        task = Taker()
        ledger.hand(task.holder, 1, 10)
        del task
    ledger.advance()
    assert ledger.done == 2_000
    assert len(ledger._held) < 100


@pytest.mark.parametrize("size", [0, 10])
def test_overtaken_by_1024_items_a_thread_has_finished(
    ledger: InFlight, one: Taker, other: Taker, size: int
) -> None:
    assert MAX_OVERTAKING == 1024
    ledger.hand(one.holder, 1, size)
    for _ in range(1023):
        ledger.finish(other.holder)
        ledger.hand(other.holder, 1, size)
    assert ledger.done == 0
    ledger.finish(other.holder)
    ledger.hand(other.holder, 1, size)
    assert ledger.done == 1024
    ledger.finish(one.holder)
    assert ledger.done == 1024


def test_overtaken_by_64_mebibytes_a_thread_has_finished(
    ledger: InFlight, one: Taker, other: Taker
) -> None:
    assert MAX_OVERTAKING_BYTES == 64 << 20
    ledger.hand(one.holder, 1, 10 << 20)
    ledger.hand(other.holder, 7, (64 << 20) - 1)
    assert ledger.done == 0
    ledger.hand(other.holder, 1, 1)
    assert ledger.done == 1


def test_who_took_a_large_batch_is_not_overtaken_by_it(ledger: InFlight, one: Taker) -> None:
    ledger.hand(one.holder, 5_000, 80 << 20)
    assert ledger.done == 0


def test_a_thread_is_overtaken_by_what_is_dropped(ledger: InFlight, one: Taker) -> None:
    ledger.hand(one.holder, 1, 10)
    ledger.hand(dropping, 1024, 10)
    assert ledger.done == 1025


def test_a_thread_is_overtaken_by_what_is_leased(ledger: InFlight, one: Taker) -> None:
    """Else an idle thread pins the log for as long as the others take on leases."""
    ledger.hand(one.holder, 1, 10)
    for number in range(1024):
        ledger.ack(lease(ledger, number))
    ledger.advance()
    assert ledger.done == 1025


def test_who_took_what_was_given_back_and_more_is_not_overtaken_by_itself(
    ledger: InFlight, one: Taker
) -> None:
    ledger.give_back(lease(ledger, 1))
    ledger.take_back([], 5_000, one.holder, None)
    ledger.hand(one.holder, 4_999, 10)
    assert ledger.done == 0
    ledger.finish(one.holder)
    assert ledger.done == 5_000


def test_a_lease_is_not_overtaken(ledger: InFlight, one: Taker) -> None:
    lease(ledger, 1, 2)
    for _ in range(3):
        ledger.finish(one.holder)
        ledger.hand(one.holder, 2_000, 64 << 20)
    assert ledger.done == 0


def test_in_a_queue_that_is_not_durable_nothing_is_in_the_log(passing: InFlight) -> None:
    first = lease(passing, 1, 2)
    second = lease(passing, 3)
    passing.ack(second)
    passing.ack(first)
    assert (passing.done, passing.records(), passing.runs) == (0, 0, [])


# ---- leases ----------------------------------------------------------------------------------


def test_leased_items_are_counted_with_their_bytes(ledger: InFlight) -> None:
    first = lease(ledger, 1, 22, 333)
    lease(ledger, 4444)
    assert ledger.leased() == (4, 10)
    ledger.ack(first)
    assert ledger.leased() == (1, 4)


def test_an_acknowledged_lease_is_done(ledger: InFlight) -> None:
    first, second = lease(ledger, 1, 2), lease(ledger, 3)
    assert ledger.ack(second)
    assert ledger.done == 0
    assert ledger.ack(first)
    assert (ledger.done, ledger.leases) == (3, [])


def test_a_lease_is_acknowledged_once(ledger: InFlight) -> None:
    run = lease(ledger, 1, 2)
    assert ledger.ack(run)
    assert not ledger.ack(run)
    assert ledger.done == 2


def test_a_thread_finishes_no_lease(ledger: InFlight, one: Taker) -> None:
    ledger.hand(one.holder, 1, 10)
    lease(ledger, 1)
    ledger.finish(one.holder)
    assert ledger.done == 1


@pytest.mark.parametrize("durable", [True, False])
def test_what_is_given_back_is_taken_again_in_order(durable: bool, one: Taker) -> None:
    ledger = InFlight(durable)
    runs = [lease(ledger, 1, 2), lease(ledger, 3), lease(ledger, 4, 5)]
    for run in reversed(runs):
        ledger.give_back(run)
    assert (ledger.back, ledger.leased()) == (5, (0, 0))
    assert take_back(ledger, 99, one) == items(1, 2, 3, 4, 5)
    assert ledger.back == 0


def test_to_give_back_twice_gives_back_once(ledger: InFlight, one: Taker) -> None:
    run = lease(ledger, 1)
    ledger.give_back(run)
    ledger.give_back(run)
    assert ledger.back == 1
    ledger.take_back([], 1, one.holder, None)
    ledger.give_back(run)
    assert ledger.back == 0


def test_what_is_done_is_not_given_back(ledger: InFlight) -> None:
    run = lease(ledger, 1)
    ledger.ack(run)
    ledger.give_back(run)
    assert ledger.back == 0


@pytest.mark.parametrize("durable", [True, False])
def test_a_run_is_split_when_fewer_are_taken_than_were_given_back(
    durable: bool, one: Taker
) -> None:
    ledger = InFlight(durable)
    ledger.give_back(lease(ledger, 1, 2, 3))
    ledger.give_back(lease(ledger, 4, 5))
    got = []
    for left in (3, 1, 0):
        got.append(take_back(ledger, 2, one))
        assert ledger.back == left
    assert got == [items(1, 2), items(3, 4), items(5)]
    assert take_back(ledger, 2, one) == []


def test_what_is_taken_again_is_held_by_who_took_it(
    ledger: InFlight, one: Taker, other: Taker
) -> None:
    ledger.give_back(lease(ledger, 1, 2, 3))
    ledger.take_back([], 2, one.holder, None)
    ledger.take_back([], 1, other.holder, None)
    ledger.finish(other.holder)
    assert (ledger.done, ledger.records()) == (0, 3)
    ledger.finish(one.holder)
    assert ledger.done == 3


def test_what_is_leased_again_is_leased_until_then(ledger: InFlight, one: Taker) -> None:
    ledger.give_back(lease(ledger, 1, 2, 3, until=5.0))
    (run,) = ledger.take_back([], 2, one.holder, 9.0)
    assert (ledger.leased(), ledger.back, ledger.next_lapse()) == ((2, 2), 1, 9.0)
    ledger.finish(one.holder)
    assert ledger.done == 0
    assert ledger.ack(run)
    assert ledger.done == 2


def test_between_two_that_are_out_what_was_given_back_keeps_its_place(
    ledger: InFlight, one: Taker
) -> None:
    first, second, third = lease(ledger, 1), lease(ledger, 2), lease(ledger, 3)
    ledger.give_back(second)
    ledger.take_back([], 1, one.holder, None)
    ledger.finish(one.holder)
    ledger.ack(third)
    assert (ledger.done, ledger.records()) == (0, 3)
    ledger.ack(first)
    assert ledger.done == 3


def test_an_acknowledgement_that_comes_late_counts_if_nobody_has_taken_them(
    ledger: InFlight, one: Taker
) -> None:
    run = lease(ledger, 1, 2)
    ledger.give_back(run)
    assert ledger.ack(run)
    assert (ledger.done, ledger.back) == (2, 0)
    assert take_back(ledger, 9, one) == []


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("count", [1, 2])
def test_it_comes_too_late_once_somebody_has_taken_one_of_them(
    durable: bool, count: int, one: Taker
) -> None:
    ledger = InFlight(durable)
    run = lease(ledger, 1, 2)
    ledger.give_back(run)
    ledger.take_back([], count, one.holder, None)
    assert not ledger.ack(run)
    assert (ledger.done, ledger.back) == (0, 2 - count)


def test_a_lease_lapses_at_its_deadline_and_not_before(ledger: InFlight, one: Taker) -> None:
    lease(ledger, 1, until=7.0)
    lease(ledger, 2, until=5.0)
    lease(ledger, 3, until=6.0)
    assert ledger.next_lapse() == 5.0
    assert not lapse(ledger, 4.9)
    assert lapse(ledger, 6.0)
    assert (ledger.back, ledger.leased(), ledger.next_lapse()) == (2, (1, 1), 7.0)
    assert take_back(ledger, 9, one) == items(2, 3)


def test_without_leases_nothing_lapses(ledger: InFlight, one: Taker) -> None:
    ledger.hand(one.holder, 1, 10)
    assert ledger.next_lapse() == float("inf")
    assert not lapse(ledger, 1e9)


def test_what_is_forgotten_is_not_taken_again(ledger: InFlight, one: Taker) -> None:
    lease(ledger, 1)
    ledger.give_back(lease(ledger, 2))
    ledger.forget_back()
    assert (ledger.back, ledger.leased()) == (0, (1, 1))
    assert take_back(ledger, 9, one) == []


# ---- interruptions ---------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("until", [None, 9.0])
@pytest.mark.parametrize("behind", [False, True], ids=["in front", "behind a lease"])
def test_what_did_not_reach_its_taker_is_taken_again_once_and_in_order(
    durable: bool, until: float | None, behind: bool, one: Taker
) -> None:
    ledger = InFlight(durable)
    if behind:
        lease(ledger, 0)
    for run in [lease(ledger, 1, 2), lease(ledger, 3), lease(ledger, 4, 5)]:
        ledger.give_back(run)
    records = ledger.records()
    got: list[bytes] = []
    runs = ledger.take_back(got, 4, one.holder, until)
    ledger.put_back(got, runs if until else [], one.holder, 4 * (not durable), 4)
    assert (ledger.back, ledger.records()) == (5, records)
    assert ledger.leased()[0] == behind
    assert take_back(ledger, 99, one) == items(1, 2, 3, 4, 5)


def test_what_is_in_no_run_yet_is_taken_again_in_its_place(ledger: InFlight, one: Taker) -> None:
    ledger.hand(one.holder, 1, 10)
    ledger.finish(one.holder)
    ledger.put_back(items(1, 2), [], one.holder, 2, 3)
    assert (ledger.done, ledger.records(), ledger.back, ledger.first_place()) == (1, 3, 2, 2)
    assert take_back(ledger, 9, one) == items(1, 2)


def test_what_was_handed_out_is_taken_again_and_counted_once(
    ledger: InFlight, one: Taker, other: Taker
) -> None:
    ledger.hand(other.holder, 1, 10)
    ledger.hand(one.holder, 2, 20)
    ledger.hand(other.holder, 1, 10)
    ledger.put_back(items(1, 2), [], one.holder, 0, 3)
    assert (ledger.records(), ledger.back) == (4, 2)
    ledger.finish(other.holder)
    assert (ledger.done, ledger.first_place()) == (1, 2)
    assert take_back(ledger, 9, one) == items(1, 2)


def test_what_was_overtaken_meanwhile_is_done(ledger: InFlight, one: Taker, other: Taker) -> None:
    ledger.hand(one.holder, 1, 1)
    ledger.hand(other.holder, MAX_OVERTAKING, MAX_OVERTAKING)
    ledger.advance()
    ledger.put_back(items(1), [], one.holder, 0, 1)
    assert (ledger.done, ledger.back) == (1, 0)


def test_in_a_queue_that_is_not_durable_it_goes_before_later_ones(
    passing: InFlight, one: Taker
) -> None:
    passing.give_back(lease(passing, 5))
    passing.put_back(items(3, 4), [], one.holder, 2, 4)
    assert take_back(passing, 9, one) == items(3, 4, 5)
    passing.reached(one.holder)
    assert (passing.runs, passing.back, passing._held) == ([], 0, {})


# ---- many ------------------------------------------------------------------------------------


def test_what_is_done_behind_an_idle_lease_takes_little_room(ledger: InFlight, one: Taker) -> None:
    idle = lease(ledger, 0)
    most = 0
    for _ in range(50_000):
        ledger.finish(one.holder)
        ledger.hand(one.holder, 1, 10)
        most = max(most, len(ledger.runs))
    assert most < 100
    ledger.finish(one.holder)
    assert (ledger.records(), ledger.pinned()) == (50_001, 500_000)
    ledger.ack(idle)
    assert (ledger.done, ledger.pinned()) == (50_001, 0)


def test_joining_what_is_done_keeps_the_others_apart(ledger: InFlight) -> None:
    leases = [lease(ledger, number) for number in range(300)]
    for number, run in enumerate(leases):
        if number % 3:
            ledger.ack(run)
    assert (ledger.records(), ledger.leased()[0]) == (300, 100)
    assert ledger.done == 0
    for number, run in enumerate(leases):
        if not number % 3:
            ledger.ack(run)
            assert ledger.done == number + 3
    assert ledger.runs == []


class Model:
    """Every item of a durable queue by itself: its number, and who has it."""

    def __init__(self) -> None:
        self.ledger = InFlight(durable=True)
        self.takers = [Taker() for _ in range(3)]
        self.next = 0
        self.now = 0.0
        self.back: set[int] = set()
        self.held: list[set[int]] = [set() for _ in self.takers]
        self.leases: deque[tuple[list[Run], set[int], float]] = deque()
        """Those that their takers have not ended, lapsed or not."""

    def fresh(self, count: int) -> list[bytes]:
        self.next += count
        return items(*range(self.next - count, self.next))

    def hand(self, who: int, count: int) -> None:
        self.ledger.finish(self.takers[who].holder)
        self.held[who].clear()
        again = take_back(self.ledger, count, self.takers[who])
        self.check_taken(again, count)
        new = self.fresh(count - len(again))
        if new:
            self.ledger.hand(self.takers[who].holder, len(new), sum(map(len, new)))
        self.held[who] = set(map(int, again + new))

    def lease(self, count: int, seconds: int) -> None:
        until = self.now + seconds
        runs = self.ledger.take_back([], count, self.takers[0].holder, until)
        again = taken(runs)
        self.check_taken(again, count)
        new = self.fresh(count - len(again))
        if new:
            runs = [*runs, self.ledger.lease(new, until, 0)]
        self.leases.append((runs, set(map(int, again + new)), until))

    def check_taken(self, again: list[bytes], count: int) -> None:
        expected = sorted(self.back)[:count]
        assert list(map(int, again)) == expected
        self.back -= set(expected)
        for _, numbers, _ in self.leases:
            numbers.difference_update(expected)  # somebody else has them

    def end(self, done: bool) -> None:
        if not self.leases:
            return
        runs, numbers, until = self.leases.popleft()
        for run in runs:
            if done:
                of_run = set(map(int, run.items))
                on_time = until > self.now or of_run <= self.back
                assert self.ledger.ack(run) is on_time
                if on_time:
                    self.back -= of_run
            else:
                self.ledger.give_back(run)
        if not done and until > self.now:
            self.back |= numbers

    def lapse(self, seconds: int) -> None:
        before, self.now = self.now, self.now + seconds
        lapse(self.ledger, self.now)
        for _, numbers, until in self.leases:
            if before < until <= self.now:
                self.back |= numbers

    def check(self) -> None:
        self.ledger.advance()
        out = set().union(*(numbers for _, numbers, until in self.leases if until > self.now))
        assert self.ledger.back == len(self.back)
        assert self.ledger.leased()[0] == len(out)
        assert self.ledger.records() == self.next
        assert self.ledger.done == min(self.back.union(out, *self.held), default=self.next)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("hand"), st.integers(0, 2), st.integers(1, 5)),
            st.tuples(st.just("lease"), st.integers(1, 5), st.integers(1, 9)),
            st.tuples(st.just("end"), st.booleans()),
            st.tuples(st.just("lapse"), st.integers(1, 4)),
        ),
        max_size=60,
    )
)
def test_any_history_is_that_of_single_items(steps: list[tuple[str, *tuple[int, ...]]]) -> None:
    model = Model()
    for name, *arguments in steps:
        getattr(model, name)(*arguments)
        model.check()
