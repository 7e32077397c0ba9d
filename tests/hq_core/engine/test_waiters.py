"""Parking and waking."""

import threading
from dataclasses import dataclass

import pytest

from hq_core.engine.waiters import Line, ThreadWaiter

LONG = 60.0
"""Seconds nobody waits: what is waited for has happened, or is about to in another thread."""


@dataclass(eq=False)
class Sleeper:
    """A waiter that counts its wake-ups, and notes in what order sleepers are woken."""

    name: str
    log: list[str]
    wakeups: int = 0
    gone: bool = False

    def wake(self) -> bool:
        self.wakeups += 1
        self.log.append(self.name)
        return not self.gone


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def sleepers(log: list[str]) -> list[Sleeper]:
    return [Sleeper(name, log) for name in "abcd"]


@pytest.fixture
def line(sleepers: list[Sleeper]) -> Line:
    """A line in which all four are parked."""
    line = Line()
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
    assert not line


def test_wake_all_wakes_everybody(line: Line, log: list[str]) -> None:
    line.wake_all()
    assert log == ["a", "b", "c", "d"]


def test_a_waiter_is_woken_once_only(line: Line, sleepers: list[Sleeper]) -> None:
    line.wake(2)
    line.wake_all()
    line.wake_all()
    line.wake(1)
    assert [sleeper.wakeups for sleeper in sleepers] == [1, 1, 1, 1]


def test_a_line_is_true_while_somebody_is_parked(line: Line) -> None:
    line.wake(3)
    assert line
    line.wake(1)
    assert not line


def test_a_new_line_is_empty() -> None:
    assert not Line()


def test_who_left_is_not_woken(line: Line, sleepers: list[Sleeper], log: list[str]) -> None:
    line.leave(sleepers[1])
    assert log == []
    line.wake_all()
    assert log == ["a", "c", "d"]


def test_the_last_one_to_leave_empties_the_line(line: Line, sleepers: list[Sleeper]) -> None:
    for sleeper in sleepers:
        line.leave(sleeper)
    assert not line


def test_who_gives_up_after_being_woken_passes_the_wake_up_on(
    line: Line, sleepers: list[Sleeper], log: list[str]
) -> None:
    line.wake(1)
    line.leave(sleepers[0])
    assert log == ["a", "b"]


def test_a_wake_up_is_passed_on_until_somebody_uses_it(
    line: Line, sleepers: list[Sleeper], log: list[str]
) -> None:
    line.wake(1)
    for sleeper in sleepers[:3]:
        line.leave(sleeper)
    assert log == ["a", "b", "c", "d"]


def test_a_wake_up_that_nobody_else_needs_is_gone(sleepers: list[Sleeper], log: list[str]) -> None:
    line = Line()
    line.park(sleepers[0])
    line.wake(1)
    line.leave(sleepers[0])
    line.park(sleepers[1])
    assert log == ["a"]
    assert line


def test_who_parks_again_goes_to_the_end(
    line: Line, sleepers: list[Sleeper], log: list[str]
) -> None:
    line.wake(1)
    line.park(sleepers[0])
    line.wake_all()
    assert log == ["a", "b", "c", "d", "a"]


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
