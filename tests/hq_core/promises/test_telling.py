"""No surprise from inside: what a queue has to say, and what comes in the middle of its calls."""

import errno
import gc
import logging
import logging.handlers
import queue as stdlib_queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from hq_core import (
    HybridQueue,
    HybridQueueError,
    InlinePump,
    QueueClosed,
    QueueFull,
    ReentrantCallError,
    StdlibQueue,
    ThreadPump,
)
from hq_core.protocols import Stream
from hq_core.testing import MemoryBackend
from hq_core.testing.spool import numbered
from tests.hq_core.promises.staging import (
    PATIENCE,
    around,
    balanced,
    drain,
    items,
    opened,
    started,
    until,
)

log = logging.getLogger("hq_core")


class Disk:
    """What happens before a call on the backend: it may be full, or fail to trim."""

    def __init__(self) -> None:
        self.full = False
        self.trims = True

    def __call__(self, method: str) -> None:
        if method == "append" and self.full:
            raise QueueFull("no space") from OSError(errno.ENOSPC, "no space")
        if method == "trim" and not self.trims:
            raise OSError(errno.EIO, "no trim")


class Telling(logging.Handler):
    """Calls `tell` for each record, without the lock that `logging` would hold meanwhile."""

    def __init__(self, tell: Callable[[logging.LogRecord], object]) -> None:
        super().__init__()
        self._tell = tell
        self.heard = 0

    def createLock(self) -> None:
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        self.heard += 1
        self._tell(record)


@pytest.fixture
def listen() -> Iterator[Callable[[logging.Handler], None]]:
    """Adds a handler to what `hq_core` logs."""
    added: list[logging.Handler] = []

    def listen(handler: logging.Handler) -> None:
        added.append(handler)
        log.addHandler(handler)

    yield listen
    for handler in added:
        log.removeHandler(handler)


def _full_disk(queue: HybridQueue, disk: Disk) -> None:
    disk.full = True
    with suppress(QueueFull):
        queue.enqueue(b"too much", 0)


def _failing_trim(queue: HybridQueue, disk: Disk) -> None:
    disk.trims = False
    with suppress(HybridQueueError):
        drain(queue)
        queue.try_dequeue()  # a durable one is done with the last item when asked for more


NOTICES = pytest.mark.parametrize("cause", [_full_disk, _failing_trim])


@NOTICES
@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("when_full", ["block", "drop_oldest", "drop_newest"])
def test_a_log_handler_that_takes_long_keeps_nobody_else_waiting(
    tmp_path: Path,
    listen: Callable[[logging.Handler], None],
    cause: Callable[[HybridQueue, Disk], None],
    durable: bool,
    when_full: str,
) -> None:
    """Whatever is told: others take, put, ask and shut down while it is being logged."""
    disk, go_on = Disk(), threading.Event()
    handler = Telling(lambda record: go_on.wait(PATIENCE))
    queue = opened(tmp_path, 2, around("memory", before=disk), when_full=when_full, durable=durable)
    queue.enqueue_many(items(4))
    listen(handler)
    teller = started(lambda: cause(queue, disk))
    try:
        until(lambda: handler.heard)
        began = time.monotonic()
        disk.full, disk.trims = False, True
        queue.enqueue(b"new")
        drain(queue)
        queue.stats()
        queue.shutdown()
        assert time.monotonic() - began < 1.0
        assert teller.is_alive(), "it was not told while the others worked"
    finally:
        go_on.set()
    teller.join(PATIENCE)
    balanced(queue)
    queue.close()


@NOTICES
@pytest.mark.parametrize("when_full", ["block", "drop_oldest", "drop_newest"])
def test_a_log_handler_may_feed_the_very_queue_it_hears_of(
    tmp_path: Path,
    listen: Callable[[logging.Handler], None],
    cause: Callable[[HybridQueue, Disk], None],
    when_full: str,
) -> None:
    """It neither hangs nor breaks anything, and what it puts is delivered or refused."""
    disk = Disk()
    queue = opened(tmp_path, 2, around("memory", before=disk), when_full=when_full)

    def feed(record: logging.LogRecord) -> None:
        disk.full = False
        queue.enqueue(b"told", 0)
        queue.stats()

    handler = Telling(feed)
    queue.enqueue_many(items(4))
    listen(handler)
    teller = started(lambda: cause(queue, disk))
    teller.join(PATIENCE)
    assert not teller.is_alive()
    assert handler.heard
    log.removeHandler(handler)
    assert queue.stats().enqueued >= 5
    drain(queue)
    balanced(queue)
    queue.close()


@pytest.mark.parametrize("when_full", ["block", "drop_oldest", "drop_newest"])
def test_a_queue_may_carry_what_it_logs_itself(
    tmp_path: Path, listen: Callable[[logging.Handler], None], when_full: str
) -> None:
    """A `QueueHandler` on a `StdlibQueue` whose disk gets full: the program goes on."""
    disk = Disk()
    hybrid = opened(tmp_path, 2, around("memory", before=disk), when_full=when_full)
    carrier = StdlibQueue[Any](
        hybrid, dumps=lambda record: record.getMessage().encode(), loads=lambda data: data
    )
    listen(logging.handlers.QueueHandler(carrier))

    def work() -> None:
        for number in range(6):
            disk.full = number > 3
            if not (disk.full and when_full == "block"):
                log.warning("message %d", number)
                continue
            with pytest.raises(stdlib_queue.Full):
                carrier.put_nowait(logging.makeLogRecord({"msg": "refused"}))

    worker = started(work)
    worker.join(PATIENCE)
    assert not worker.is_alive(), "it hangs"
    disk.full = False
    balanced(hybrid)
    assert drain(hybrid)
    hybrid.close()


@pytest.mark.parametrize("later", [0, 5])
@pytest.mark.parametrize("when_full", ["drop_oldest", "drop_newest"])
def test_a_queue_listener_stops_though_its_queue_drops(
    tmp_path: Path, when_full: str, later: int
) -> None:
    """What `QueueListener.stop` puts last arrives, or `get` ends otherwise; also if others go on
    logging, and so put and drop more."""
    hybrid = opened(tmp_path, 2, when_full=when_full, max_overflow_bytes=1)
    carrier = StdlibQueue[Any](
        hybrid,
        dumps=lambda record: b"" if record is None else record.getMessage().encode(),
        loads=lambda data: logging.makeLogRecord({"msg": data.decode()}) if data else None,
    )
    busy, go_on, stops = threading.Event(), threading.Event(), threading.Event()

    class Listener(logging.handlers.QueueListener):
        @override
        def enqueue_sentinel(self) -> None:
            super().enqueue_sentinel()
            stops.set()

    def hear(record: logging.LogRecord) -> None:
        busy.set()
        go_on.wait(PATIENCE)

    listener = Listener(carrier, Telling(hear))
    handler = logging.handlers.QueueHandler(carrier)
    listener.start()
    thread = listener._thread
    assert thread is not None
    for number in range(9):
        handler.handle(logging.makeLogRecord({"msg": f"message {number}"}))
        assert busy.wait(PATIENCE)
    stopping = started(listener.stop)
    assert stops.wait(PATIENCE)
    for number in range(later):
        handler.handle(logging.makeLogRecord({"msg": f"later {number}"}))
    go_on.set()
    stopping.join(PATIENCE / 4)
    stopped = not stopping.is_alive()
    if not stopped:  # let it go
        carrier.put(None)
        stopping.join(PATIENCE)
    hybrid.close()
    assert stopped, "the sentinel was dropped, and it waits for ever"


# ---- in the middle of this thread's own call -------------------------------------------------


class Signalled:
    """Raises a signal in the middle of a call on the backend; the handler makes `call`."""

    def __init__(self, method: str, call: Callable[[], object]) -> None:
        self.method, self.call = method, call
        self.outcome: object = None
        self.armed = False

    def __call__(self, method: str) -> None:
        if self.armed and method == self.method:
            self.armed = False
            signal.raise_signal(signal.SIGUSR1)

    def handle(self, number: int, frame: object) -> None:
        try:
            self.call()
            self.outcome = "worked"
        except HybridQueueError as exc:
            self.outcome = exc


CALLS: dict[str, Callable[[HybridQueue], object]] = {
    "shutdown": lambda q: q.shutdown(),
    "close": lambda q: q.close(),
    "stats": lambda q: q.stats(),
    "depth": lambda q: q.depth,
    "enqueue": lambda q: q.enqueue(b"from the handler", 0),
    "enqueue_many": lambda q: q.enqueue_many([b"from the handler"] * 9, 0),
    "dequeue": lambda q: q.dequeue(0),
    "dequeue_many": lambda q: q.dequeue_many(100, 0),
    "try_dequeue": lambda q: q.try_dequeue(),
    "lease": lambda q: q.lease(3, 0),
    "sync": lambda q: q.sync(),
}


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("method", ["append", "read", "trim"])
@pytest.mark.parametrize("name", CALLS)
def test_a_call_from_a_signal_handler_works_or_is_refused_and_never_hangs(
    tmp_path: Path, name: str, method: str, durable: bool
) -> None:
    """In the middle of this thread's own call on the backend. `shutdown`, `close` and questions
    work; the rest is `ReentrantCallError`, or works too; the interrupted call ends as it should."""
    queue: HybridQueue
    signalled = Signalled(method, lambda: CALLS[name](queue))
    before = signal.signal(signal.SIGUSR1, signalled.handle)
    queue = opened(tmp_path, 2, around("memory", before=signalled), durable=durable)
    done: list[bytes] = []
    try:
        queue.enqueue_many(items(300, start=0))
        signalled.armed = True
        try:
            if method == "append":
                queue.enqueue(items(301)[300])
            else:
                while signalled.armed:
                    done.append(queue.dequeue(0))
        except QueueClosed:
            assert name in ("shutdown", "close")
        assert not signalled.armed
        if name in ("shutdown", "close", "stats", "depth"):
            assert signalled.outcome == "worked"
        else:
            worked = signalled.outcome == "worked"
            assert worked or isinstance(signalled.outcome, (ReentrantCallError, QueueFull))
        balanced(queue)
        if name == "close":
            with pytest.raises(QueueClosed):
                queue.enqueue(b"closed")
            opened(tmp_path, 2, around("memory"), durable=durable).close()
    finally:
        signal.signal(signal.SIGUSR1, before)
        queue.close()


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("view", [False, True])
def test_a_queue_that_is_collected_without_close_says_so_and_frees_its_stream(
    tmp_path: Path, durable: bool, view: bool
) -> None:
    """A `ResourceWarning`; what is stored stays for the next owner."""
    queue: Any = opened(tmp_path, 2, durable=durable)
    for record in numbered(6):
        queue.enqueue(record)
    if view:
        queue = queue.aio
        gc.collect()
        assert queue.depth == 6
    left = [queue]
    del queue
    with pytest.warns(ResourceWarning, match="never closed"):
        left.clear()
    with opened(tmp_path, 20, durable=durable) as queue:
        assert drain(queue) == numbered(6)[0 if durable else 2 :]


@pytest.mark.parametrize("when", ["opening", "append", "close", "elsewhere"])
def test_what_a_backend_tells_is_logged_once_and_when_no_lock_is_held(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    """Also by a handler that uses the very queue."""
    queues: list[HybridQueue] = []
    depths: list[int] = []

    class Asking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if queues and "the file is gone" in record.getMessage():
                depths.append(queues[0].depth)

    class Telling(MemoryBackend):
        def __init__(self, stream: Stream) -> None:
            super().__init__(stream)
            self.stream = stream
            self.said("opening")

        def said(self, now: str) -> None:
            if now == when:
                self.stream.tell("the file is gone")

        @override
        def append(self, records: Sequence[bytes]) -> None:
            super().append(records)
            self.said("append")

        @override
        def close(self, *, delete: bool) -> None:
            super().close(delete=delete)
            self.said("close")

    handler = Asking()
    log.addHandler(handler)
    try:
        queue = opened(tmp_path, 1, Telling)
        queues.append(queue)
        if when == "elsewhere":
            queue._engine.overflow.backend.said(when)  # type: ignore[attr-defined] # it is Telling
        queue.enqueue_many(items(1))
        queue.enqueue(b"stored")
        queue.close()
    finally:
        log.removeHandler(handler)
    assert [r.getMessage() for r in caplog.records].count("'stream': the file is gone") == 1
    assert len(depths) == (when != "opening")


class Watched:
    """The lock of a log handler; tells when the thread `name` wants it."""

    def __init__(self, name: str) -> None:
        self.wanted = threading.Event()
        self._name = name
        self._lock = threading.RLock()

    def acquire(self) -> None:
        if threading.current_thread().name == self._name:
            self.wanted.set()
        self._lock.acquire()

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()


@pytest.mark.slow
@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("pump", [InlinePump, ThreadPump])
def test_a_log_handler_may_use_the_queue_while_another_thread_logs_its_trouble(
    tmp_path: Path, durable: bool, pump: type[InlinePump] | type[ThreadPump]
) -> None:
    """Nobody logs while holding the pump's lock: a handler in one thread, which holds its own,
    takes from the queue and so wakes the pump; another thread's step has something to say."""
    inside = threading.Event()
    fails: list[OSError] = []

    def before(method: str) -> None:
        if method == "trim" and fails:
            assert inside.wait(PATIENCE)
            raise fails.pop()

    queue = opened(tmp_path, 64, around("memory", before), durable=durable, pump=pump())
    says = "taking" if pump is InlinePump else "hq-pump-stream"
    lock = Watched(says)

    class Feeding(logging.Handler):
        def createLock(self) -> None:
            self.lock = lock  # type: ignore[assignment]

        def emit(self, record: logging.LogRecord) -> None:
            if record.name == "application":
                inside.set()
                lock.wanted.wait(1)
                queue.dequeue_many(60)
                queue.enqueue(b"what was said")

    for item in items(3000):
        queue.enqueue(item)
    handler = Feeding()
    logging.getLogger().addHandler(handler)
    try:
        fails.append(OSError(errno.EIO, "no trim"))
        threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for name, target in {
                "taking": lambda: [queue.dequeue() for _ in range(600)],
                "telling": lambda: logging.getLogger("application").warning("hello"),
            }.items()
        ]
        threads[0].start()
        threads[1].start()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "they wait for one another"
    finally:
        logging.getLogger().removeHandler(handler)
    assert drain(queue)[-1] == b"what was said"
    balanced(queue)
    queue.close()
