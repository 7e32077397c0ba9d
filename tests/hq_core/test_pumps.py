"""The pumps: when a step runs, in which thread, and when none runs any more."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

import pytest

from hq_core import HybridQueue, InlinePump, Pump, ThreadPump, Unlimited
from hq_core.testing import MemoryBackend

NAME = "hq-pump-test"
LONG = 60.0
"""Seconds until a test gives up on a thread; none takes that long."""


@dataclass
class Work:
    """A step that has `batches` batches to move, then none."""

    batches: int = 0
    calls: int = 0
    threads: set[Thread] = field(default_factory=set)
    done: Event = field(default_factory=Event)

    def step(self) -> bool:
        self.calls += 1
        self.threads.add(threading.current_thread())
        more = self.batches > 0
        self.batches -= more
        if not more:
            self.done.set()
        return more

    def wait(self) -> None:
        assert self.done.wait(LONG)
        self.done.clear()


@pytest.fixture
def thread_pump() -> Iterator[ThreadPump]:
    pump = ThreadPump()
    yield pump
    pump.stop()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Thread]:
    """Every thread started during the test."""
    threads: list[Thread] = []
    original = Thread.start

    def start(thread: Thread) -> None:
        threads.append(thread)
        original(thread)

    monkeypatch.setattr(Thread, "start", start)
    return threads


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The process has reached its limit of threads, until the value is called."""

    def refuse(thread: Thread) -> None:
        raise RuntimeError("can't start new thread")

    original = Thread.start
    monkeypatch.setattr(Thread, "start", refuse)
    return lambda: monkeypatch.setattr(Thread, "start", original)


# ---- ThreadPump ------------------------------------------------------------------------------


def test_there_is_no_thread_before_the_first_wake(
    thread_pump: ThreadPump, started: list[Thread]
) -> None:
    work = Work()
    thread_pump.start(work.step, NAME)
    assert started == []
    assert work.calls == 0


def test_the_first_wake_starts_a_daemon_thread_of_that_name(thread_pump: ThreadPump) -> None:
    work = Work()
    thread_pump.start(work.step, NAME)
    thread_pump.wake()
    work.wait()
    (thread,) = work.threads
    assert thread is not threading.current_thread()
    assert (thread.name, thread.daemon) == (NAME, True)


def test_steps_follow_one_another_until_nothing_is_left(thread_pump: ThreadPump) -> None:
    work = Work(batches=3)
    thread_pump.start(work.step, NAME)
    thread_pump.wake()
    work.wait()
    thread_pump.stop()
    assert work.calls == 4


def test_every_wake_is_served_by_the_same_thread(thread_pump: ThreadPump) -> None:
    work = Work()
    thread_pump.start(work.step, NAME)
    for _ in range(5):
        thread_pump.wake()
        work.wait()
    assert len(work.threads) == 1


def test_a_wake_during_a_step_is_not_lost(thread_pump: ThreadPump) -> None:
    entered, go_on, again = Event(), Event(), Event()

    def step() -> bool:
        if entered.is_set():
            again.set()
        entered.set()
        assert go_on.wait(LONG)
        return False

    thread_pump.start(step, NAME)
    thread_pump.wake()
    assert entered.wait(LONG)
    thread_pump.wake()
    go_on.set()
    assert again.wait(LONG)


def test_the_thread_ends_at_stop(thread_pump: ThreadPump) -> None:
    work = Work()
    thread_pump.start(work.step, NAME)
    thread_pump.wake()
    work.wait()
    thread_pump.stop()
    (thread,) = work.threads
    assert not thread.is_alive()


def test_a_wake_after_stop_starts_no_thread(thread_pump: ThreadPump, started: list[Thread]) -> None:
    thread_pump.start(Work().step, NAME)
    thread_pump.stop()
    thread_pump.wake()
    assert started == []


def test_without_a_thread_to_have_whoever_wakes_takes_the_steps_and_it_is_logged(
    thread_pump: ThreadPump, no_threads: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Were no step taken, the queue would think the pump busy and never wake it again."""
    work = Work(batches=2)
    thread_pump.start(work.step, NAME)
    thread_pump.wake()
    assert (work.calls, work.threads) == (3, {threading.current_thread()})
    assert caplog.record_tuples == [
        ("hq_core", logging.WARNING, f"{NAME} has no thread: can't start new thread")
    ]


def test_a_later_wake_finds_a_thread_again(
    thread_pump: ThreadPump, no_threads: Callable[[], None]
) -> None:
    work = Work()
    thread_pump.start(work.step, NAME)
    thread_pump.wake()
    work.wait()
    no_threads()  # no more
    thread_pump.wake()
    work.wait()
    assert len(work.threads - {threading.current_thread()}) == 1


# ---- InlinePump ------------------------------------------------------------------------------


def test_an_inline_pump_does_nothing_before_a_wake() -> None:
    work = Work(batches=3)
    InlinePump().start(work.step, NAME)
    assert work.calls == 0


def test_an_inline_pump_moves_everything_in_the_thread_of_the_wake() -> None:
    work = Work(batches=3)
    pump = InlinePump()
    pump.start(work.step, NAME)
    pump.wake()
    assert work.calls == 4
    assert work.threads == {threading.current_thread()}


# ---- both ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ThreadPump, InlinePump])
def test_stop_returns_only_after_the_step_under_way(kind: Callable[[], Pump]) -> None:
    pump = kind()
    entered, go_on = Event(), Event()
    ended: list[str] = []

    def step() -> bool:
        entered.set()
        assert go_on.wait(LONG)
        ended.append("step")
        return False

    def stop() -> None:
        pump.stop()
        ended.append("stop")

    pump.start(step, NAME)
    waker, stopper = Thread(target=pump.wake), Thread(target=stop)
    waker.start()
    assert entered.wait(LONG)
    stopper.start()
    stopper.join(0.02)  # time to be wrong in: to be right takes none of it
    go_on.set()
    waker.join()
    stopper.join()
    assert ended == ["step", "stop"]


@pytest.mark.parametrize("kind", [ThreadPump, InlinePump])
def test_no_step_runs_after_stop(kind: Callable[[], Pump]) -> None:
    work = Work()
    pump = kind()
    pump.start(work.step, NAME)
    pump.wake()
    work.wait()
    pump.stop()
    calls = work.calls
    pump.wake()
    assert work.calls == calls


def queue_of(pump: Pump, directory: Path) -> HybridQueue:
    """One item in memory, everything else in a backend."""
    return HybridQueue(
        "pumped", 64, directory, pump=pump, limiter=Unlimited(), backend=MemoryBackend
    )


@pytest.mark.parametrize("kind", [ThreadPump, InlinePump])
def test_a_closed_queue_takes_a_late_wake(kind: Callable[[], Pump], tmp_path: Path) -> None:
    pump = kind()
    queue = queue_of(pump, tmp_path)
    for number in range(200):
        queue.enqueue(b"%d" % number)
    queue.close()
    before = queue.stats()
    pump.wake()
    assert queue.stats() == before


def test_a_queue_that_never_overflows_has_no_thread(tmp_path: Path, started: list[Thread]) -> None:
    with HybridQueue("calm", 2, tmp_path) as queue:
        for _ in range(10):
            queue.enqueue(b"x")
            queue.dequeue()
    assert started == []


def test_the_pump_of_a_closed_queue_has_ended(tmp_path: Path, started: list[Thread]) -> None:
    with HybridQueue("busy", 64, tmp_path, limiter=Unlimited()) as queue:
        queue.enqueue_many([b"x"] * 64)
        queue.enqueue(b"x")
        queue.dequeue_many(64)
    (pump,) = started
    assert pump.name == "hq-pump-busy"
    assert not pump.is_alive()


def test_a_queue_without_a_thread_to_have_delivers_everything_in_order(
    tmp_path: Path, no_threads: Callable[[], None]
) -> None:
    with queue_of(ThreadPump(), tmp_path) as queue:
        sent = [b"%d" % number for number in range(1_000)]
        for item in sent:
            queue.enqueue(item)
        assert [queue.try_dequeue() for _ in sent] == sent


# ---- woken by producers ----------------------------------------------------------------------


def test_what_a_durable_queue_stores_follows_into_memory(tmp_path: Path) -> None:
    with HybridQueue(
        "s", 10, tmp_path, durable=True, limiter=Unlimited(), pump=InlinePump()
    ) as queue:
        queue.enqueue(b"item")
        assert (queue.stats().memory_items, queue.has_disk_data) == (1, False)
        assert queue.pressure == 0.1


def test_what_is_stored_while_a_consumer_makes_room_follows_into_memory(tmp_path: Path) -> None:
    class Slow(MemoryBackend):
        """Memory is drained while it stores."""

        def append(self, records: Sequence[bytes]) -> None:
            assert queue.try_dequeue() == b"first"
            super().append(records)

    with HybridQueue(
        "s", 1, tmp_path, backend=Slow, limiter=Unlimited(), pump=InlinePump()
    ) as queue:
        queue.enqueue(b"first")
        queue.enqueue(b"second")
        assert (queue.stats().memory_items, queue.has_disk_data) == (1, False)
        assert queue.try_dequeue() == b"second"
