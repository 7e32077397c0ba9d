"""Locks that know their owner."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from time import monotonic
from typing import Any

import pytest

from hq_core import QueueClosed, ReentrantCallError
from hq_core.engine.locks import Locks
from hq_core.testing import ManualClock


@pytest.fixture
def mended() -> list[bool]:
    """For each time, whether the mutex was held."""
    return []


@pytest.fixture
def locks(mended: list[bool]) -> Locks:
    made = Locks("cam", lambda: mended.append(made.mutex._is_owned()))
    return made


@contextmanager
def held_elsewhere(lock: Any) -> Iterator[None]:
    """Another thread holds `lock`."""
    taken, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            assert may_end.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(60)
    try:
        yield
    finally:
        may_end.set()
        thread.join()


def raising(error: BaseException) -> Callable[[], None]:
    def change() -> None:
        raise error

    return change


# ---- the mutex -------------------------------------------------------------------------------


def test_a_change_is_made_under_the_mutex(locks: Locks) -> None:
    def change(number: int, *, more: int) -> tuple[int, bool, bool]:
        return number + more, locks.mutex._is_owned(), locks.inside

    assert locks.change(change, 1, more=2) == (3, True, True)
    assert not locks.mutex._is_owned()
    assert not locks.inside


def test_in_the_middle_of_a_change_another_is_refused(locks: Locks, mended: list[bool]) -> None:
    with pytest.raises(ReentrantCallError) as refusal:
        locks.change(lambda: locks.change(lambda: None))
    for word in ("'cam'", "shutdown, close or stats", "another thread"):
        assert word in str(refusal.value)
    assert not locks.inside
    assert mended == []


def test_in_the_middle_of_a_change_questions_are_answered(locks: Locks) -> None:
    def ask() -> bool:
        with locks.mutex:
            return True

    assert locks.change(ask)


def test_a_change_that_is_interrupted_is_mended_under_the_mutex(
    locks: Locks, mended: list[bool]
) -> None:
    for error in (KeyboardInterrupt(), MemoryError(), ZeroDivisionError()):
        with pytest.raises(type(error)):
            locks.change(raising(error))
    assert mended == [True, True, True]
    assert not locks.inside
    assert not locks.any_is_mine()


def test_an_answer_needs_no_mending(locks: Locks, mended: list[bool]) -> None:
    with pytest.raises(QueueClosed):
        locks.change(raising(QueueClosed("closed")))
    assert mended == []
    assert not locks.inside


# ---- io --------------------------------------------------------------------------------------


def test_it_is_taken_at_once_if_it_is_free(locks: Locks) -> None:
    for deadline in (None, -1.0, 1e9):
        assert locks.enter_io(deadline)
        assert locks.io._is_owned()
        locks.io.release()


def test_it_is_waited_for_until_the_deadline(locks: Locks, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock(100.0)
    monkeypatch.setattr("hq_core.engine.locks.monotonic", clock)
    with held_elsewhere(locks.io):
        assert not locks.enter_io(100.0)
        assert not locks.enter_io(99.0)
        assert not locks.enter_io(100.001)
    assert locks.enter_io(100.0)
    locks.io.release()


@pytest.mark.parametrize("seconds", [None, 60.0, 1e300])
def test_who_waits_gets_it_when_it_is_free(locks: Locks, seconds: float | None) -> None:
    entered, waits = [], threading.Event()
    real = locks.io

    class Announcing:
        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
            if blocking:
                waits.set()
            return real.acquire(blocking, timeout)

        def release(self) -> None:
            real.release()

        def _is_owned(self) -> bool:
            return bool(real._is_owned())

    def wait() -> None:
        deadline = None if seconds is None else monotonic() + seconds
        entered.append(locks.enter_io(deadline))
        locks.io.release()

    with held_elsewhere(real):
        locks.io = Announcing()  # type: ignore[assignment] # as far as it is used here
        thread = threading.Thread(target=wait)
        thread.start()
        assert waits.wait(60)
        assert entered == []
    thread.join()
    assert entered == [True]


@pytest.mark.parametrize("name", ["io", "mutex"])
def test_in_the_middle_of_a_call_it_is_refused_and_not_waited_for(locks: Locks, name: str) -> None:
    with getattr(locks, name), pytest.raises(ReentrantCallError):
        locks.enter_io(None)
    assert not locks.any_is_mine()


def test_at_the_end_of_the_program_nobody_waits_for_it(
    locks: Locks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "is_finalizing", lambda: True)
    assert locks.enter_io(None)
    locks.io.release()
    with held_elsewhere(locks.io):
        assert not locks.enter_io(None)


def test_interrupted_when_it_was_just_taken_it_is_free_again(locks: Locks) -> None:
    real = RLock()

    class Interrupted:
        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
            real.acquire()
            raise KeyboardInterrupt

        def release(self) -> None:
            real.release()

        def _is_owned(self) -> bool:
            return bool(real._is_owned())  # type: ignore[attr-defined]

    locks.io = Interrupted()  # type: ignore[assignment] # as far as it is used here
    with pytest.raises(KeyboardInterrupt):
        locks.enter_io(None)
    assert not real._is_owned()  # type: ignore[attr-defined]


def test_a_lock_is_mine_or_it_is_not(locks: Locks) -> None:
    assert not locks.any_is_mine()
    with held_elsewhere(locks.io), held_elsewhere(locks.mutex):
        assert not locks.any_is_mine()
        assert not locks.only_io_is_mine()
    with locks.io:
        assert locks.only_io_is_mine()
        with locks.mutex:
            assert locks.any_is_mine()
            assert not locks.only_io_is_mine()
    with locks.mutex:
        assert locks.any_is_mine()
        assert not locks.only_io_is_mine()
