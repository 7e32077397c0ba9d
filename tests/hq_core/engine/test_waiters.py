"""Parking and waking."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from hq_core.engine.waiters import Line, ThreadWaiter, Waiter
from hq_core.testing import ManualClock

LONG = 60.0
"""Seconds nobody waits: what is waited for has happened, or is about to in another thread."""


@dataclass(eq=False)
class Sleeper(Waiter):
    """A waiter that counts its wake-ups, and notes in what order sleepers are woken."""

    name: str
    log: list[str]
    of: object = None
    """Its event loop."""
    needs: tuple[int, int] = (1, 0)
    place: int = 0
    cost: int = 0
    wakeups: int = 0
    gone: bool = False

    @property
    def loop(self) -> object:
        return self.of

    def wake(self) -> bool:
        self.wakeups += 1
        self.log.append(self.name)
        return not self.gone


def parked(line: Line) -> list[str]:
    """The names of those in `line`, by place."""
    waiting = [waiter for of in line.waiting.values() for waiter in of]
    assert all(isinstance(waiter, Sleeper) for waiter in waiting)
    return [w.name for w in sorted(waiting, key=lambda w: w.place) if isinstance(w, Sleeper)]


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(100.0)


@pytest.fixture
def sleepers(log: list[str]) -> list[Sleeper]:
    return [Sleeper(name, log) for name in "abcd"]


@pytest.fixture
def line(sleepers: list[Sleeper], clock: ManualClock) -> Line:
    """A line in which all four are parked."""
    line = Line(clock)
    for sleeper in sleepers:
        line.park(sleeper)
    return line


def test_parking_wakes_nobody(line: Line, log: list[str]) -> None:
    assert log == []


def test_who_came_first_is_woken_first(line: Line, log: list[str]) -> None:
    for _ in range(4):
        line.wake(1)
    assert log == ["a", "b", "c", "d"]


def test_as_many_are_woken_as_asked_for(line: Line, log: list[str]) -> None:
    line.wake(2)
    assert log == ["a", "b"]
    assert parked(line) == ["c", "d"]


def test_waking_more_than_there_are_wakes_those_there_are(line: Line, log: list[str]) -> None:
    line.wake(9)
    assert log == ["a", "b", "c", "d"]


def test_waking_none_wakes_nobody(line: Line, log: list[str]) -> None:
    line.wake(0)
    assert log == []


def test_in_the_stead_of_one_that_is_gone_the_next_is_woken(
    line: Line, sleepers: list[Sleeper], log: list[str]
) -> None:
    sleepers[0].gone = sleepers[1].gone = True
    line.wake(1)
    assert log == ["a", "b", "c"]


def test_nobody_is_woken_when_all_are_gone(
    line: Line, sleepers: list[Sleeper], log: list[str]
) -> None:
    for sleeper in sleepers:
        sleeper.gone = True
    line.wake(1)
    assert log == ["a", "b", "c", "d"]
    assert not line.waiting


def test_wake_all_wakes_everybody(line: Line, log: list[str]) -> None:
    line.wake_all()
    assert log == ["a", "b", "c", "d"]
    assert not line.waiting


def test_a_waiter_is_woken_once_only(line: Line, sleepers: list[Sleeper]) -> None:
    line.wake(2)
    line.wake_all()
    line.wake_all()
    line.wake(1)
    assert [sleeper.wakeups for sleeper in sleepers] == [1, 1, 1, 1]


def test_somebody_is_waiting_while_somebody_is_parked(line: Line) -> None:
    line.wake(3)
    assert line.waiting
    line.wake(1)
    assert not line.waiting


def test_a_new_line_is_empty(clock: ManualClock) -> None:
    assert not Line(clock).waiting


def test_who_left_is_not_woken(line: Line, sleepers: list[Sleeper], log: list[str]) -> None:
    assert line.leave(sleepers[1]) is True
    assert log == []
    line.wake_all()
    assert log == ["a", "c", "d"]


def test_the_last_one_to_leave_empties_the_line(line: Line, sleepers: list[Sleeper]) -> None:
    for sleeper in sleepers:
        line.leave(sleeper)
    assert not line.waiting


def test_who_leaves_is_told_whether_it_was_woken_before(
    line: Line, sleepers: list[Sleeper], log: list[str]
) -> None:
    line.wake(1)
    assert line.leave(sleepers[0]) is False
    assert line.leave(sleepers[1]) is True
    assert line.leave(sleepers[1]) is False
    assert line.leave(Sleeper("never there", log)) is False


def test_to_park_twice_is_to_park_once(line: Line, sleepers: list[Sleeper]) -> None:
    line.park(sleepers[1])
    assert parked(line) == ["a", "b", "c", "d"]


def test_a_sleeper_that_fails_to_be_woken_stays(line: Line, sleepers: list[Sleeper]) -> None:
    """An interruption in the middle of a wake-up: to wake twice is harmless, to forget is not."""

    class Interrupted(Sleeper):
        def wake(self) -> bool:
            raise KeyboardInterrupt

    first = Interrupted("z", sleepers[0].log)
    fresh = Line(lambda: 0.0)
    fresh.park(first)
    with pytest.raises(KeyboardInterrupt):
        fresh.wake(1)
    assert parked(fresh) == ["z"]


# ---- places ----------------------------------------------------------------------------------


def test_who_parks_again_stands_where_it_stood(
    line: Line, sleepers: list[Sleeper], log: list[str]
) -> None:
    line.wake(2)
    line.park(sleepers[1])
    line.park(sleepers[0])
    assert parked(line) == ["a", "b", "c", "d"]
    line.wake(1)
    line.wake(1)
    assert log == ["a", "b", "a", "b"]


def test_who_left_and_comes_again_stands_where_it_stood(
    line: Line, sleepers: list[Sleeper]
) -> None:
    line.leave(sleepers[2])
    line.park(sleepers[2])
    assert parked(line) == ["a", "b", "c", "d"]


def test_who_comes_new_goes_to_the_end(line: Line, sleepers: list[Sleeper], log: list[str]) -> None:
    line.wake(1)
    line.park(Sleeper("e", log))
    line.park(sleepers[0])
    assert parked(line) == ["a", "b", "c", "d", "e"]


def test_those_that_fit_are_woken_and_asked_in_order(
    line: Line, sleepers: list[Sleeper], log: list[str]
) -> None:
    asked = []

    def fits(waiter: Waiter) -> bool:
        asked.append(waiter.place)
        return waiter.place % 2 == 0

    line.wake_fitting(fits)
    assert asked == [1, 2, 3, 4]
    assert log == ["b", "d"]
    assert parked(line) == ["a", "c"]


def test_only_those_after_a_place_are_asked(
    line: Line, sleepers: list[Sleeper], log: list[str]
) -> None:
    line.wake_fitting(lambda _: True, sleepers[1].place)
    assert log == ["c", "d"]


# ---- several loops, and threads ---------------------------------------------------------------


@pytest.fixture
def mixed(log: list[str], clock: ManualClock) -> Callable[[str], Line]:
    """A line in which those are parked: a letter is a coroutine of that loop, a digit a thread."""

    def park(who: str) -> Line:
        line = Line(clock)
        for number, kind in enumerate(who):
            of = None if kind.isdigit() else kind
            line.park(Sleeper(f"{kind}{number}", log, of))
        return line

    return park


@pytest.mark.parametrize(
    ("who", "count", "woken", "why"),
    [
        ("000", 1, ["00"], "a thread runs for certain"),
        ("x0", 1, ["x0", "01"], "the loop may not run"),
        ("0x", 1, ["00"], "who comes first runs for certain"),
        ("xy0", 1, ["x0", "y1", "02"], "neither loop may run"),
        ("xx0", 1, ["x0", "02"], "if the loop runs, its first coroutine has it"),
        ("x00", 1, ["x0", "01"], "one thread is enough"),
        ("xy", 1, ["x0", "y1"], "neither loop may run"),
        ("xx", 1, ["x0"], "there is nobody elsewhere"),
        ("x0x00", 2, ["x0", "01", "x2", "03"], "two for the loop, two for the threads"),
        ("00x", 2, ["00", "01"], "who comes first runs for certain"),
        ("xxx0", 2, ["x0", "x1", "03"], "two for the loop, and there is one thread"),
    ],
)
def test_a_wake_up_for_a_coroutine_goes_on_to_the_next_elsewhere(
    mixed: Callable[[str], Line],
    log: list[str],
    who: str,
    count: int,
    woken: list[str],
    why: str,
) -> None:
    mixed(who).wake(count)
    assert log == woken, why


def test_in_the_stead_of_a_loop_that_is_closed_others_are_woken(
    mixed: Callable[[str], Line], log: list[str]
) -> None:
    line = mixed("xxyy0")
    for sleeper in line.waiting["x"]:
        assert isinstance(sleeper, Sleeper)
        sleeper.gone = True
    line.wake(1)
    assert log == ["x0", "x1", "y2", "04"]
    assert parked(line) == ["y3"]


def test_all_are_woken_by_place_whatever_they_belong_to(
    mixed: Callable[[str], Line], log: list[str]
) -> None:
    line = mixed("x0yx0")
    line.wake_all()
    assert log == ["x0", "01", "y2", "x3", "04"]
    assert not line.waiting


def test_a_waiter_of_another_loop_keeps_its_place_too(
    mixed: Callable[[str], Line], log: list[str]
) -> None:
    line = mixed("x0y")
    (sleeper,) = line.waiting["x"]
    line.wake(1)
    line.park(sleeper)
    assert parked(line) == ["x0", "y2"]
    line.wake(1)
    assert log == ["x0", "01", "x0", "y2"]


# ---- how long they wait ----------------------------------------------------------------------


def test_the_time_in_the_line_is_counted(
    line: Line, sleepers: list[Sleeper], clock: ManualClock
) -> None:
    clock.advance(1.0)
    assert line.seconds(clock.now) == 4.0
    line.wake(1)
    line.leave(sleepers[1])
    clock.advance(1.0)
    assert line.seconds(clock.now) == 6.0
    line.wake_all()
    clock.advance(9.0)
    assert line.seconds(clock.now) == 6.0
    line.park(sleepers[0])
    clock.advance(1.0)
    assert line.seconds(clock.now) == 7.0


# ---- a thread --------------------------------------------------------------------------------


def test_a_thread_woken_before_it_waits_does_not_sleep() -> None:
    waiter = ThreadWaiter()
    waiter.wake()
    assert waiter.wait(LONG) is True


def test_a_thread_woken_before_it_waits_without_end_does_not_sleep() -> None:
    waiter = ThreadWaiter()
    waiter.wake()
    assert waiter.wait() is True


@pytest.mark.parametrize("timeout", [0, 0.0, 0.001])
def test_a_wait_that_nobody_ends_says_so(timeout: float) -> None:
    assert ThreadWaiter().wait(timeout) is False


def test_a_wake_up_serves_one_wait_only() -> None:
    waiter = ThreadWaiter()
    waiter.wake()
    waiter.wait()
    assert waiter.wait(0) is False


@pytest.mark.parametrize("timeout", [None, LONG])
def test_another_thread_ends_the_wait(timeout: float | None) -> None:
    waiter = ThreadWaiter()
    woken: list[bool] = []
    thread = threading.Thread(target=lambda: woken.append(waiter.wait(timeout)))
    thread.start()
    waiter.wake()
    thread.join()
    assert woken == [True]


def test_a_thread_can_be_woken_after_it_gave_up() -> None:
    waiter = ThreadWaiter()
    assert not waiter.wait(0)
    waiter.wake()
    assert waiter.wait(0)


def test_to_wake_a_thread_twice_wakes_it_once() -> None:
    waiter = ThreadWaiter()
    assert waiter.wake()
    assert waiter.wake()
    assert waiter.wait(0)
    assert not waiter.wait(0)


def test_a_thread_belongs_to_no_loop_and_says_what_it_needs() -> None:
    waiter = ThreadWaiter((3, 40))
    assert (waiter.loop, waiter.needs, waiter.place) == (None, (3, 40), 0)
    assert ThreadWaiter().needs == (1, 0)
