"""What becomes of a queue when its process, or a thread of it, does not end as it should.

The program exits without closing, gets a signal, forks while other threads are inside the queue;
the pump's thread meets an error nobody thought of.
"""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hq_core import (
    CountTier,
    DequeueTimeout,
    HybridQueue,
    OverflowBackend,
    QueueFull,
    Stream,
    ThreadPump,
    Unlimited,
)
from hq_core.engine.engine import Engine
from hq_core.testing import ManualPump, MemoryBackend
from hq_core.testing.forking import in_child
from hq_core.testing.spool import balanced, drain, numbered
from hq_core.testing.through_queue import refused_in_child

PATIENCE = 60.0
"""Seconds until a test gives up; none takes that long."""

KINDS = pytest.mark.parametrize(
    ("backend", "options", "durable"),
    [
        ("file", {}, False),
        ("file", {}, True),
        ("file", {"fsync": "interval", "checksum": True}, True),
        ("lmdb", {}, True),
    ],
    ids=["file", "durable file", "durable file with a flusher", "durable lmdb"],
)

OWNER = """
import sys, threading
from hq_core import HybridQueue, Unlimited
from hq_core.testing.spool import numbered

backend, options, durable = eval(sys.argv[1])
queue = HybridQueue(
    "s", 100, ".", limiter=Unlimited(), backend=backend, backend_options=options, durable=durable
)
"""
"""Opens a queue as its arguments say."""


def program(rest: str, directory: Path, *kind: object) -> list[str]:
    """The command of a program that opens a queue of that kind in `directory` and does `rest`."""
    return [sys.executable, "-W", "error", "-c", OWNER + rest, repr(kind)]


def next_owner(
    directory: Path, backend: str, options: dict[str, object], durable: bool
) -> HybridQueue:
    return HybridQueue(
        "s",
        100,
        directory,
        limiter=Unlimited(),
        backend=backend,
        backend_options=options,
        durable=durable,
    )


# ---- the process ends ------------------------------------------------------------------------


@pytest.mark.slow
@KINDS
@pytest.mark.parametrize(
    ("end", "status"),
    [("", 0), ("sys.exit(3)", 3), ("raise SystemError('on purpose')", 1)],
    ids=["falls off its end", "exits", "fails"],
)
def test_a_program_that_ends_without_closing_leaves_what_was_stored(
    tmp_path: Path,
    backend: str,
    options: dict[str, object],
    durable: bool,
    end: str,
    status: int,
) -> None:
    """Its pump has a thread, and a consumer waits for ever, at another queue.

    Whether it is told that it did not close the queue depends on what is left of Python by then.
    """
    work = """
queue.enqueue_many(numbered(100))
queue.enqueue_many(numbered(200, start=100))
assert queue.dequeue_many(80) == numbered(80)
idle = HybridQueue("idle", 1, ".", backend=backend, durable=durable)
threading.Thread(target=idle.dequeue, daemon=True).start()
"""
    command = program(work + end, tmp_path, backend, options, durable)
    ended = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert ended.returncode == status
    said, _, warning = ended.stderr.partition("Exception ignored")  # `-W error`, in a finaliser
    assert said.rstrip().endswith("on purpose" if status == 1 else "")
    assert not warning or "ResourceWarning: the queue 's' was never closed" in warning
    with next_owner(tmp_path, backend, options, durable) as queue:
        got = drain(queue)
    everything = numbered(300)
    assert got == everything[len(everything) - len(got) :]
    # Not durable: what was in memory is gone, and the pump may have filled it up.
    assert len(got) >= (220 if durable else 120)


@pytest.mark.slow
@KINDS
def test_sigterm_ends_the_program_at_once_and_what_was_stored_is_there(
    tmp_path: Path, backend: str, options: dict[str, object], durable: bool
) -> None:
    work = """
for number in range(10**9):
    queue.enqueue(b"%d" % number)
    print(number, flush=True)
"""
    command = program(work, tmp_path, backend, options, durable)
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        lines = [next(running.stdout) for _ in range(300)]
        running.terminate()
        lines += running.stdout
        assert running.wait(PATIENCE) == -signal.SIGTERM
    accepted = len([line for line in lines if line.endswith("\n")])
    in_memory = 0 if durable else 100
    with next_owner(tmp_path, backend, options, durable) as queue:
        got = drain(queue)
    # The last one may have been stored, and its line not been written.
    assert len(got) + in_memory in (accepted, accepted + 1)
    assert got == [b"%d" % number for number in range(in_memory, in_memory + len(got))]


# ---- Ctrl-C ----------------------------------------------------------------------------------


class Interrupted(MemoryBackend):
    """A backend during whose next call of one method Ctrl-C is pressed."""

    method = ""

    def _maybe_interrupt(self, method: str) -> None:
        if self.method == method:
            self.method = ""
            signal.raise_signal(signal.SIGINT)

    def append(self, records: Sequence[bytes]) -> None:
        self._maybe_interrupt("append")
        super().append(records)

    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        self._maybe_interrupt("read")
        return super().read(skip, max_records, max_bytes)

    def trim(self, count: int) -> None:
        self._maybe_interrupt("trim")
        super().trim(count)


@pytest.fixture
def interrupted(tmp_path: Path) -> Iterator[Callable[..., tuple[HybridQueue, Interrupted]]]:
    """Opens a queue and its backend."""
    opened: list[HybridQueue] = []

    def open_(**options: Any) -> tuple[HybridQueue, Interrupted]:
        backends: list[Interrupted] = []

        def backend(stream: Stream) -> OverflowBackend:
            backends.append(Interrupted(stream))
            return backends[-1]

        options = {"limiter": Unlimited(), "pump": ManualPump(), **options}
        opened.append(HybridQueue("s", 1, tmp_path, backend=backend, **options))
        return opened[-1], backends[-1]

    yield open_
    for queue in opened:
        queue.close()


@pytest.mark.parametrize("durable", [False, True])
def test_ctrl_c_in_the_middle_of_an_enqueue_leaves_the_queue_as_it_was(
    interrupted: Callable[..., tuple[HybridQueue, Interrupted]], durable: bool
) -> None:
    queue, backend = interrupted(durable=durable)
    queue.enqueue_many(numbered(3))
    before = queue.stats()
    backend.method = "append"
    with pytest.raises(KeyboardInterrupt):
        queue.enqueue(b"interrupted")
    assert queue.stats() == before
    queue.enqueue(b"next")
    assert drain(queue) == [*numbered(3), b"next"]


@pytest.mark.parametrize("durable", [False, True])
def test_ctrl_c_in_the_middle_of_a_dequeue_loses_nothing(
    interrupted: Callable[..., tuple[HybridQueue, Interrupted]], durable: bool
) -> None:
    queue, backend = interrupted(durable=durable)
    queue.enqueue(numbered(1)[0])
    queue.enqueue_many(numbered(2, start=1))
    if durable:  # what it has just been given it need not read
        queue.close()
        queue, backend = interrupted(durable=durable)
    taken = [] if durable else [queue.dequeue()]  # that was in memory, the others are not
    backend.method = "read"
    with pytest.raises(KeyboardInterrupt):
        queue.dequeue()
    balanced(queue)
    assert taken + drain(queue) == numbered(3)


@contextmanager
def ctrl_c_when(waiting: Callable[[], object]) -> Iterator[None]:
    """Interrupts the main thread, once, when `waiting` is true.

    A signal that comes just before the thread goes to sleep does not wake it, in any Python
    program: so it is sent until it has been noticed.
    """
    main = threading.main_thread().ident
    assert main is not None
    noticed = threading.Event()

    def interrupt(*_: object) -> None:
        if not noticed.is_set():
            noticed.set()
            raise KeyboardInterrupt

    def press() -> None:
        while not waiting():
            pass
        while not noticed.is_set():
            signal.pthread_kill(main, signal.SIGINT)
            noticed.wait(0.05)

    before = signal.signal(signal.SIGINT, interrupt)
    thread = threading.Thread(target=press, daemon=True)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_a_wait_for_items_and_takes_no_wake_up_with_it(
    interrupted: Callable[..., tuple[HybridQueue, Interrupted]],
) -> None:
    queue, _ = interrupted()
    with ctrl_c_when(lambda: queue._engine._consumers.waiting):
        queue.dequeue()
    queue.enqueue(b"1")
    assert queue.dequeue(timeout=0) == b"1"
    with pytest.raises(DequeueTimeout):
        queue.dequeue(timeout=0)
    balanced(queue)


def test_ctrl_c_ends_a_wait_for_room_and_the_item_is_not_in_the_queue(
    interrupted: Callable[..., tuple[HybridQueue, Interrupted]],
) -> None:
    queue, _ = interrupted(max_overflow_bytes=5, when_full="block")
    queue.enqueue(b"1")
    queue.enqueue(b"2")
    with ctrl_c_when(lambda: queue._engine._producers.waiting):
        queue.enqueue(b"3")
    with pytest.raises(QueueFull):
        queue.enqueue(b"4", timeout=0)
    assert drain(queue) == [b"1", b"2"]
    balanced(queue)


# ---- the pump's thread -----------------------------------------------------------------------


def test_an_error_nobody_thought_of_rests_the_pump_and_the_consumers_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = Engine._refill
    failed = threading.Event()

    def refill(engine: Engine, wanted: int = 1) -> bool:
        if threading.current_thread().name == "hq-pump-s":
            failed.set()
            raise MemoryError("on order")
        return original(engine, wanted)

    monkeypatch.setattr(Engine, "_refill", refill)
    pump = ThreadPump()
    with HybridQueue("s", 100, tmp_path, limiter=Unlimited(), pump=pump) as queue:
        queue.enqueue_many(numbered(100))
        queue.enqueue_many(numbered(100, start=100))
        assert queue.dequeue_many(99) == numbered(99)
        assert queue.dequeue() == b"record 99 "
        queue.enqueue_many(numbered(100, start=200))
        assert failed.wait(PATIENCE)
        assert [queue.dequeue(PATIENCE) for _ in range(200)] == numbered(200, start=100)
        balanced(queue)
    assert "MemoryError: on order" in caplog.text
    assert pump._thread is not None
    assert not pump._thread.is_alive()


# ---- forks -----------------------------------------------------------------------------------


class Held:
    """Somebody is inside, until let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.let_go = threading.Event()

    def stay(self) -> None:
        self.entered.set()
        assert self.let_go.wait(PATIENCE)


@pytest.mark.parametrize("lock", ["_io", "_mutex"])
def test_a_child_forked_while_a_thread_holds_a_lock_does_not_wait_for_it(
    tmp_path: Path, lock: str
) -> None:
    held = Held()

    class HeldTier(CountTier):
        def offer_one(self, item: bytes) -> bool:
            if lock == "_mutex" and item == b"held":
                held.stay()
            return super().offer_one(item)

    class HeldBackend(MemoryBackend):
        def append(self, records: Sequence[bytes]) -> None:
            if lock == "_io" and records == [b"held"]:
                held.stay()
            super().append(records)

    memory = HeldTier(1 if lock == "_io" else 2)
    with HybridQueue(
        "s", None, tmp_path, memory=memory, backend=HeldBackend, limiter=Unlimited()
    ) as queue:
        queue.enqueue(b"first")
        thread = threading.Thread(target=queue.enqueue, args=[b"held"])
        thread.start()
        assert held.entered.wait(PATIENCE)

        in_child(lambda: refused_in_child(queue))
        held.let_go.set()
        thread.join()
        assert drain(queue) == [b"first", b"held"]
