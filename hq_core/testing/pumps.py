"""The suite of pumps."""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Final

import pytest

from hq_core.protocols import Pump
from hq_core.testing.parts import made, queue_with
from hq_core.testing.spool import balanced, numbered

__all__ = ["PumpConformance"]

_MOMENT: Final = 0.05
"""Seconds in which a pump that does not wait for its step returns from `stop`."""


class PumpConformance:
    """Inherit in a test module and set `pump`."""

    pump: ClassVar[Callable[[], Pump]]
    """Makes a pump that was not started."""
    patience: ClassVar[float] = 30.0
    """Seconds until a test gives up on a step. A pump that steps makes no test wait so long."""

    def test_it_has_what_the_seam_demands(self) -> None:
        assert isinstance(made(self, "pump"), Pump)

    def test_after_a_wake_it_steps_until_there_is_nothing_more_to_do(self) -> None:
        work = _Work(batches=3)
        with _started(self, work.step) as (pump, stop):
            pump.wake()
            assert work.ended.wait(self.patience), f"{work.calls} steps of 4"
            stop()
        assert work.calls == 4

    def test_every_wake_after_that_is_served_again(self) -> None:
        work = _Work()
        with _started(self, work.step) as (pump, _):
            for _ in range(5):
                work.batches = 2
                pump.wake()
                assert work.ended.wait(self.patience), "a wake was not served"
                work.ended.clear()
        assert work.calls == 15

    def test_a_wake_may_come_from_any_thread(self) -> None:
        work = _Work(batches=1)
        with _started(self, work.step) as (pump, _):
            waker = threading.Thread(target=pump.wake)
            waker.start()
            waker.join()
            assert work.ended.wait(self.patience)

    def test_a_wake_during_the_last_step_is_not_lost(self) -> None:
        """The queue may wake from the moment a step has found nothing, before it has returned."""
        entered, go_on, again = threading.Event(), threading.Event(), threading.Event()
        steps = itertools.count()

        def step() -> bool:
            if next(steps):
                again.set()
            else:
                entered.set()
                go_on.wait(self.patience)
            return False

        with _started(self, step) as (pump, _):
            wakers = [threading.Thread(target=pump.wake) for _ in range(2)]
            wakers[0].start()
            assert entered.wait(self.patience)
            wakers[1].start()
            wakers[1].join(_MOMENT)  # its wake may have to wait for the step
            go_on.set()
            assert again.wait(self.patience)
            for waker in wakers:
                waker.join()

    def test_nobody_polls(self) -> None:
        """No thread but the test's own sleeps, or waits with a time limit."""
        work = _Work()
        with _timed_waits() as waits:
            with _started(self, work.step) as (pump, _):
                for _ in range(3):
                    pump.wake()
                    assert work.ended.wait(self.patience)
                    work.ended.clear()
            assert waits == []

    # ---- stop --------------------------------------------------------------------------------

    def test_a_pump_that_was_never_woken_stops(self) -> None:
        work = _Work()
        with _started(self, work.step) as (_, stop):
            stop()
            calls = work.calls
        assert work.calls == calls

    def test_stop_returns_only_when_no_step_runs(self) -> None:
        self._stop_during_a_step(lambda wake: wake())

    def test_stop_returns_only_when_no_step_runs_whoever_made_the_wake(self) -> None:
        wakers: list[threading.Thread] = []

        def wake_elsewhere(wake: Callable[[], None]) -> None:
            wakers.append(threading.Thread(target=wake))
            wakers[0].start()

        try:
            self._stop_during_a_step(wake_elsewhere)
        finally:
            wakers[0].join()

    def _stop_during_a_step(self, do: Callable[[Callable[[], None]], None]) -> None:
        entered, stopped, release = threading.Event(), threading.Event(), threading.Event()
        finished: list[bool] = []

        def step() -> bool:
            entered.set()
            release.wait(self.patience)
            finished.append(True)
            return False

        def release_later() -> None:
            entered.wait(self.patience)
            stopped.wait(_MOMENT)
            release.set()

        releaser = threading.Thread(target=release_later)
        releaser.start()
        try:
            with _started(self, step) as (pump, stop):
                do(pump.wake)
                assert entered.wait(self.patience), "a wake was not served"
                stop()
                assert finished, "stop() has returned, and a step is running"
        finally:
            entered.set()
            stopped.set()
            releaser.join()

    def test_no_step_runs_after_stop_whatever_wakes(self) -> None:
        work = _Work(batches=1)
        with _started(self, work.step) as (pump, stop):
            pump.wake()
            assert work.ended.wait(self.patience)
            stop()
            calls = work.calls
            work.ended.clear()
            pump.wake()
            assert not work.ended.wait(_MOMENT)
        assert work.calls == calls

    # ---- surroundings ------------------------------------------------------------------------

    @pytest.mark.parametrize("name", ["", "hq-pump-\u00e9\0\n", "x" * 5000])
    def test_the_name_is_any_text(self, name: str) -> None:
        work = _Work()
        with _started(self, work.step, name) as (pump, _):
            pump.wake()
            assert work.ended.wait(self.patience)

    def test_a_queue_keeps_the_order_with_it(self, tmp_path: Path) -> None:
        items = numbered(2000)
        with queue_with(tmp_path, memory_items=40, pump=made(self, "pump")) as queue:
            producer = threading.Thread(target=lambda: deque(map(queue.enqueue, items), maxlen=0))
            producer.start()
            got = [queue.dequeue(self.patience) for _ in items]
            producer.join()
            assert got == items
            balanced(queue)

    def test_a_queue_closes_with_items_left_and_takes_a_late_wake(self, tmp_path: Path) -> None:
        pump: Pump = made(self, "pump")
        with queue_with(tmp_path, memory_items=40, pump=pump) as queue:
            queue.enqueue_many(numbered(200))
            queue.dequeue_many(50)
        before = queue.stats()
        pump.wake()
        assert queue.stats() == before
        assert before.discarded == 150


class _Work:
    """A step that has `batches` batches to move, then none."""

    def __init__(self, batches: int = 0) -> None:
        self.batches = batches
        self.calls = 0
        self.ended = threading.Event()

    def step(self) -> bool:
        self.calls += 1
        if self.batches:
            self.batches -= 1
            return True
        self.ended.set()
        return False


@contextmanager
def _started(
    suite: PumpConformance, step: Callable[[], bool], name: str = "hq-pump-test"
) -> Iterator[tuple[Pump, Callable[[], None]]]:
    """A pump at work, and its `stop`, which is called at the end unless the test has done so."""
    pump: Pump = made(suite, "pump")
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        pump.stop()

    pump.start(step, name)
    try:
        yield pump, stop
    finally:
        if not stopped:
            pump.stop()


@contextmanager
def _timed_waits() -> Iterator[list[str]]:
    """What other threads do within it that ends by itself: sleeping, waiting with a time limit."""
    waits: list[str] = []
    here = threading.current_thread()
    sleep, wait = time.sleep, threading.Condition.wait

    def watched_sleep(seconds: float) -> None:
        if threading.current_thread() is not here:
            waits.append(f"sleep({seconds})")
        sleep(seconds)

    def watched_wait(condition: threading.Condition, timeout: float | None = None) -> bool:
        if timeout is not None and threading.current_thread() is not here:
            waits.append(f"wait({timeout})")
        return wait(condition, timeout)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", watched_sleep)
        patch.setattr(threading.Condition, "wait", watched_wait)
        yield waits
