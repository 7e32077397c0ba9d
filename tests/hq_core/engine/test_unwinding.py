"""Letting go of what was taken, whatever interrupts it."""

import threading
from collections.abc import Callable

import pytest

from hq_core.engine.unwinding import Unwinding


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def unwinding() -> Unwinding:
    return Unwinding()


def failing(log: list[str], name: str, error: BaseException, times: int = 1) -> Callable[[], None]:
    left = [error] * times

    def step() -> None:
        log.append(name)
        if left:
            raise left.pop()

    return step


def test_steps_are_taken_the_last_first_and_once(unwinding: Unwinding, log: list[str]) -> None:
    unwinding.steps += [lambda: log.append("first"), lambda: log.append("last")]
    unwinding.run()
    unwinding.run()
    assert log == ["last", "first"]
    assert unwinding.steps == []


def test_without_steps_there_is_nothing_to_do(unwinding: Unwinding) -> None:
    unwinding.run()


def test_a_failing_step_does_not_keep_the_rest_and_the_first_failure_is_told(
    unwinding: Unwinding, log: list[str]
) -> None:
    for name in "abc":
        unwinding.steps.append(failing(log, name, OSError(name)))
    unwinding.steps.append(lambda: log.append("d"))
    with pytest.raises(OSError, match="c"):
        unwinding.run()
    assert log == ["d", "c", "b", "a"]
    unwinding.run()
    assert log == ["d", "c", "b", "a"]


def test_an_interrupted_step_is_taken_again_by_the_next_call(
    unwinding: Unwinding, log: list[str]
) -> None:
    unwinding.steps += [
        lambda: log.append("a"),
        failing(log, "b", KeyboardInterrupt(), times=2),
        lambda: log.append("c"),
    ]
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            unwinding.run()
    unwinding.run()
    assert log == ["c", "b", "b", "b", "a"]


def test_after_an_interruption_another_thread_can_go_on(
    unwinding: Unwinding, log: list[str]
) -> None:
    unwinding.steps.append(failing(log, "a", KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        unwinding.run()
    thread = threading.Thread(target=unwinding.run)
    thread.start()
    thread.join()
    assert log == ["a", "a"]
    assert unwinding.steps == []


def test_a_step_that_asks_for_it_all_gets_an_answer_at_once(
    unwinding: Unwinding, log: list[str]
) -> None:
    def step() -> None:
        unwinding.run()
        log.append("a")

    unwinding.steps += [lambda: log.append("b"), step]
    unwinding.run()
    assert log == ["a", "b"]


class Slow:
    """A step that does not end until it may."""

    def __init__(self, log: list[str]) -> None:
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self._log = log

    def __call__(self) -> None:
        self.begun.set()
        assert self.may_end.wait(60)
        self._log.append("slow")


def test_of_several_callers_one_takes_the_steps_and_all_return_after_it(
    unwinding: Unwinding, log: list[str]
) -> None:
    slow = Slow(log)
    unwinding.steps.append(slow)

    def run() -> None:
        unwinding.run()
        log.append("returned")

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert slow.begun.wait(60)
    assert log == []
    slow.may_end.set()
    for thread in threads:
        thread.join()
    assert log == ["slow", "returned", "returned", "returned"]


def test_who_is_waited_for_by_a_step_does_not_wait(unwinding: Unwinding, log: list[str]) -> None:
    slow = Slow(log)
    unwinding.steps.append(slow)
    thread = threading.Thread(target=unwinding.run)
    thread.start()
    assert slow.begun.wait(60)
    unwinding.run(wait=False)
    assert log == []
    slow.may_end.set()
    thread.join()
    assert log == ["slow"]
