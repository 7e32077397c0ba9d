"""Stores that are full, away, slow or lost, and threads that cannot be started."""

import errno
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from hq_core import (
    BackendError,
    BackendUnavailable,
    CorruptedData,
    DequeueTimeout,
    HybridQueue,
    InlinePump,
    QueueEmpty,
    QueueFull,
    StreamLostError,
    ThreadPump,
)
from hq_core.protocols import OverflowBackend, Stream
from hq_core.registry import open_backend
from hq_core.testing import ManualPump, RemoteBackend
from tests.hq_core.promises.staging import (
    BACKENDS,
    FRONTS,
    PATIENCE,
    around,
    backend_named,
    balanced,
    drain,
    hands,
    items,
    opened,
    started,
    until,
)

DURABLE = pytest.mark.parametrize("durable", [False, True], ids=["passing", "durable"])


class Remote:
    """A factory of a backend that goes away and comes back."""

    store: RemoteBackend

    def __init__(self, backend: str) -> None:
        self._backend = backend

    def __call__(self, stream: Stream) -> OverflowBackend:
        inner = open_backend(backend_named(self._backend), stream, {})
        self.store = RemoteBackend(inner, stream)
        return self.store


def remote(directory: Path, backend: str, **options: Any) -> tuple[HybridQueue, RemoteBackend]:
    """A queue on such a backend."""
    factory = Remote(backend)
    return opened(directory, options.pop("memory_items", 2), factory, **options), factory.store


class TestAway:
    """`BackendUnavailable`: no room now, and it passes by itself."""

    @BACKENDS
    def test_memory_goes_on_both_ways(self, tmp_path: Path, backend: str) -> None:
        """While nothing is stored, a queue does not even notice."""
        queue, store = remote(tmp_path, backend)
        store.go_away()
        for item in items(9):
            queue.enqueue(item)
            assert queue.dequeue() == item
        balanced(queue)
        queue.close()

    @DURABLE
    @BACKENDS
    @pytest.mark.parametrize("when_full", ["raise", "drop_oldest", "drop_newest"])
    def test_the_policy_decides_about_what_needs_the_store(
        self, tmp_path: Path, backend: str, when_full: str, durable: bool
    ) -> None:
        """And what was accepted before comes in order when it is back."""
        queue, store = remote(tmp_path, backend, when_full=when_full, durable=durable)
        for item in items(6):
            queue.enqueue(item)
        store.go_away()
        if when_full == "raise":
            for _ in range(3):
                with pytest.raises(BackendUnavailable):
                    queue.enqueue(b"refused")
            assert queue.stats().enqueued == 6
        else:
            queue.enqueue(b"dropped")
            assert queue.stats().dropped == 1
        balanced(queue)
        store.come_back()
        queue.enqueue(items(7)[6])
        got = drain(queue)
        assert got == items(7)[7 - len(got) :]
        assert len(got) >= 7 - (when_full == "drop_oldest")
        balanced(queue)
        queue.close()

    @FRONTS
    @DURABLE
    @BACKENDS
    def test_producers_and_consumers_wait_until_it_is_back(
        self, tmp_path: Path, backend: str, durable: bool, front: str
    ) -> None:
        """`on_ready` wakes both; nobody polls meanwhile."""
        queue, store = remote(tmp_path, backend, when_full="block", durable=durable)
        with hands(queue, front, 2) as (producer, consumer):
            for item in items(6):
                queue.enqueue(item)
            at_hand = [queue.dequeue() for _ in range(queue.stats().memory_items)]
            store.go_away()
            while True:
                with suppress(DequeueTimeout):
                    at_hand.append(queue.dequeue(0.05))
                    continue
                break
            waiting = [producer.begin("enqueue", items(7)[6])]
            if queue.depth:
                waiting.append(consumer.begin("dequeue"))
                until(lambda: queue._engine._consumers.waiting)
            until(lambda: queue._engine._producers.waiting)
            store.come_back()
            waiting[0].result(PATIENCE)
            at_hand += [call.result(PATIENCE) for call in waiting[1:]]
            assert at_hand + drain(queue) == items(7)
            balanced(queue)
        queue.close()

    @FRONTS
    @BACKENDS
    def test_deadlines_are_kept_while_it_is_away(
        self, tmp_path: Path, backend: str, front: str
    ) -> None:
        """Who waits for a stored item, or for room, gives up in time, and learns why."""
        queue, store = remote(tmp_path, backend, when_full="block", durable=True)
        with hands(queue, front, 1) as (hand,):
            store.go_away()
            began = time.monotonic()
            for timeout in (0, 0.05):
                with pytest.raises((QueueFull, BackendUnavailable)):
                    hand.do("enqueue", b"x", timeout)
                with pytest.raises(DequeueTimeout):
                    hand.do("dequeue", timeout)
            with pytest.raises(QueueEmpty):
                hand.do("try_dequeue")
            assert time.monotonic() - began < 1.0
        queue.close()

    @BACKENDS
    def test_it_comes_back_while_the_refusal_is_on_its_way(
        self, tmp_path: Path, backend: str
    ) -> None:
        """`on_ready` before the queue has heard that it is away: nobody sleeps for ever."""
        stores: list[OverflowBackend] = []

        def make(stream: Stream) -> OverflowBackend:
            remote = Remote(backend)
            remote(stream)

            class Back(RemoteBackend):
                times = 3

                def _before(self, method: str) -> None:
                    if method in ("append", "read") and self.times:
                        self.times -= 1
                        stream.on_ready()
                        raise BackendUnavailable("for a moment")

            stores.append(Back(remote.store, stream))
            return stores[-1]

        with opened(tmp_path, 2, make, when_full="block", durable=True) as queue:
            queue.enqueue(b"stored", PATIENCE / 4)
            assert queue.dequeue(PATIENCE / 4) == b"stored"


class TestLost:
    """`StreamLostError`: the queue has ended, and what is stored is another owner's."""

    @FRONTS
    @DURABLE
    @BACKENDS
    def test_every_call_says_so_and_whoever_waits_is_told(
        self, tmp_path: Path, backend: str, durable: bool, front: str
    ) -> None:
        """What a durable queue had read ahead is not delivered: the other owner delivers it."""
        queue, store = remote(tmp_path, backend, durable=durable)
        with hands(queue, front, 2) as (waiter, other):
            waiting = waiter.begin("dequeue")
            until(lambda: queue._engine._consumers.waiting)
            store.lose()
            with pytest.raises(StreamLostError):
                waiting.result(PATIENCE)
            for call in (("enqueue", b"x"), ("dequeue",), ("dequeue_many", 3), ("lease",)):
                with pytest.raises(StreamLostError):
                    other.do(*call)
            balanced(queue)
        queue.close()

    @BACKENDS
    @pytest.mark.parametrize("leased", [False, True])
    def test_nothing_of_the_new_owner_is_touched(
        self, tmp_path: Path, backend: str, leased: bool
    ) -> None:
        """Neither by close, nor by what consumers were done with."""
        queue, store = remote(tmp_path, backend, durable=True, memory_items=4)
        queue.enqueue_many(items(300))
        lease = queue.lease(2) if leased else None
        queue.dequeue_many(280)
        before = (store.depth(), store.size_bytes())
        store.lose()
        if lease is not None:
            with pytest.raises(StreamLostError):
                lease.ack()
        with pytest.raises(StreamLostError):
            queue.try_dequeue()
        assert (store.depth(), store.size_bytes()) == before
        balanced(queue)
        queue.close()
        with opened(tmp_path, 400, backend, durable=True) as again:
            got = drain(again)
        assert got == items(300)[300 - len(got) :]
        assert len(got) == before[0]


class TestFull:
    """A store without room."""

    @DURABLE
    @pytest.mark.parametrize("count", [100, 50_000])
    @pytest.mark.parametrize("size", [10, 1000])
    def test_dropping_stops_when_it_cannot_help(
        self, tmp_path: Path, durable: bool, count: int, size: int
    ) -> None:
        """A disk that stays full whatever is trimmed: few are dropped, and then it is said so."""
        full = False

        def refuse(method: str) -> None:
            if full and method == "append":
                raise QueueFull("full") from OSError(errno.ENOSPC, "no space")

        backend = around("memory", before=refuse)
        queue = opened(tmp_path, 4, backend, when_full="drop_oldest", durable=durable)
        made = items(count, size=12)
        for first in range(0, count, 1000):
            queue.enqueue_many(made[first : first + 1000])
        full = True
        with suppress(QueueFull):
            queue.enqueue(b"." * size)
        left = queue.stats()
        assert left.depth >= count - max(64, (2 * 64 * 1024) // 16), "nearly all were dropped"
        full = False
        got = drain(queue)
        assert got[:-1] == made[count - len(got) + 1 :] or got == made[count - len(got) :]
        balanced(queue)
        queue.close()

    @DURABLE
    def test_dropping_goes_on_while_it_makes_room(self, tmp_path: Path, durable: bool) -> None:
        """A store that gives space back in pieces: a call drops no more than its item needs, but
        the next ones more and more, so that soon one gets in."""
        store: list[Any] = []

        def refuse(method: str) -> None:
            if method == "append" and store and store[0]._engine.overflow.backend.depth() > 90:
                raise QueueFull("full") from OSError(errno.ENOSPC, "no space")

        backend = around("memory", before=refuse)
        queue = opened(tmp_path, 4, backend, when_full="drop_oldest", durable=durable)
        queue.enqueue_many(items(100))
        store.append(queue)
        for _ in range(8):
            with suppress(QueueFull):
                queue.enqueue(b"newest")
                break
        got = drain(queue)
        assert got[-1] == b"newest"
        assert got[:-1] == items(100)[100 - len(got) + 1 :]
        assert len(got) >= 70
        balanced(queue)
        queue.close()


class NotStarted(threading.Thread):
    """A thread that cannot be started: there are too many."""

    @override
    def start(self) -> None:
        raise RuntimeError("can't start new thread")


class NotMade(threading.Thread):
    """A thread that cannot even be made, as in a subinterpreter."""

    def __init__(self, *args: Any, **options: Any) -> None:
        raise RuntimeError("daemon threads are not allowed in this (sub)interpreter")


@pytest.mark.parametrize("no_thread", [NotStarted, NotMade])
@DURABLE
@pytest.mark.parametrize(
    "take",
    [
        lambda q: [q.dequeue()],
        lambda q: q.dequeue_many(3),
        lambda q: [q.try_dequeue()],
        lambda q: q.lease(2).items,
    ],
    ids=["dequeue", "dequeue_many", "try_dequeue", "lease"],
)
def test_what_is_taken_arrives_though_the_pump_gets_no_thread(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    durable: bool,
    take: Callable[[HybridQueue], list[bytes]],
    no_thread: type[threading.Thread],
) -> None:
    """The caller takes the step itself; and when there are threads again, the pump has one."""
    queue = opened(tmp_path, 40, "file", durable=durable, pump=ThreadPump())
    for item in items(400):
        queue.enqueue(item)
    got: list[bytes] = []
    with monkeypatch.context() as patch:
        patch.setattr(threading, "Thread", no_thread)
        while len(got) < 120:
            got += take(queue)
    while queue.depth:
        got += queue.dequeue_many(7)
    assert got == items(400)
    balanced(queue)
    queue.close()


class Failing(ManualPump):
    """A pump that cannot be woken."""

    def wake(self) -> None:
        raise OSError(errno.EAGAIN, "no resources")


@DURABLE
@pytest.mark.parametrize("pump", [Failing, InlinePump])
def test_what_is_taken_arrives_though_the_pump_cannot_be_woken(
    tmp_path: Path, durable: bool, pump: Callable[[], Any]
) -> None:
    """Its failure is not the consumer's."""
    queue = opened(tmp_path, 40, "file", durable=durable, pump=pump())
    queue.enqueue_many(items(400))
    assert [queue.dequeue() for _ in range(400)] == items(400)
    balanced(queue)
    queue.close()


class Unreadable:
    """Whatever is read of what is stored, it is trouble; and perhaps a record is lost besides."""

    def __init__(self, trouble: Exception, loses: int) -> None:
        self.trouble: Exception | None = trouble
        self.loses = loses
        self.records: list[bytes] = []

    def __call__(self, method: str) -> None:
        if method != "read" or self.trouble is None or not self.records:
            return
        del self.records[: self.loses]
        self.loses = 0
        raise self.trouble


@FRONTS
@pytest.mark.parametrize("pump", [ManualPump, InlinePump, ThreadPump])
@pytest.mark.parametrize("timeout", [None, 0, 0.1])
@pytest.mark.parametrize(
    ("trouble", "loses"),
    [(OSError(errno.EIO, "I/O"), 0), (CorruptedData("a length"), 0), (CorruptedData("a sum"), 1)],
    ids=["fails", "damaged", "damage waits to be told"],
)
def test_an_enqueue_ends_though_the_oldest_can_be_neither_read_nor_dropped(
    tmp_path: Path,
    front: str,
    pump: Callable[[], Any],
    timeout: float | None,
    trouble: Exception,
    loses: int,
) -> None:
    """The bound is reached, memory is drained, and what is stored cannot be read: it is refused,
    and nothing that is there is lost by it."""
    store = Unreadable(trouble, loses)
    queue = opened(
        tmp_path,
        1,
        around("memory", store),
        when_full="drop_oldest",
        max_overflow_bytes=100,
        pump=pump(),
    )
    queue._engine.pumping.rests = True  # not by the pump: it is read when room is wanted
    with hands(queue, front, 1) as (producer,):
        for item in items(10):
            queue.enqueue(item)
        store.records = queue._engine.overflow.backend.inner._records  # type: ignore[attr-defined]
        made = [*items(1), *store.records]
        got = [queue.dequeue()]
        with pytest.raises((QueueFull, BackendError)):
            producer.do("enqueue", b"." * 60, timeout)
        balanced(queue)
        store.trouble = None
        with suppress(CorruptedData):
            got.append(queue.dequeue())
        assert got + drain(queue) == [item for item in made if item in got or item in made[2:]]
        balanced(queue)
    queue.close()


@BACKENDS
@pytest.mark.parametrize("no_thread", [NotStarted, NotMade])
def test_a_pump_that_gets_no_thread_says_so_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    backend: str,
    no_thread: type[threading.Thread],
) -> None:
    """However often it is woken."""
    queue = opened(tmp_path, 40, backend, pump=ThreadPump())
    for item in items(400):
        queue.enqueue(item)
    with monkeypatch.context() as patch:
        patch.setattr(threading, "Thread", no_thread)
        for _ in range(5):
            queue._engine.pumping.wake()
        assert [queue.dequeue() for _ in range(400)] == items(400)
    assert caplog.text.count("has no thread") == 1
    queue.close()


def depth_of(exc: BaseException) -> int:
    """The frames of its traceback."""
    return sum(1 for _ in traceback.walk_tb(exc.__traceback__))


@FRONTS
@DURABLE
@pytest.mark.parametrize(
    "call",
    [("enqueue", b"x"), ("enqueue_many", [b"x"]), ("dequeue",), ("try_dequeue",), ("lease",)],
    ids=lambda call: call[0],
)
def test_the_traceback_of_a_loss_does_not_grow_call_by_call(
    tmp_path: Path, front: str, durable: bool, call: tuple[Any, ...]
) -> None:
    """The exception is kept, and raised again and again."""
    queue, store = remote(tmp_path, "memory", durable=durable)
    store.lose()
    depths = []
    with hands(queue, front, 1) as (hand,):
        for _ in range(30):
            raised = hand.begin(*call).exception(PATIENCE)
            assert isinstance(raised, StreamLostError)
            depths.append(depth_of(raised))
    assert depths[-1] <= depths[1] + 2
    queue.close()


@FRONTS
@DURABLE
@pytest.mark.parametrize("call", ["enqueue", "dequeue", "stats"])
def test_a_loss_that_is_told_from_outside_is_logged_by_the_next_call(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, front: str, durable: bool, call: str
) -> None:
    """Once, whichever call that is."""
    queue, store = remote(tmp_path, "memory", durable=durable)
    queue.enqueue_many(items(1))
    with hands(queue, front, 1) as (hand,):
        started(store.lose).join(PATIENCE)
        for _ in range(3):
            with suppress(StreamLostError):
                hand.do(call, *([b"x"] if call == "enqueue" else []))
        assert caplog.text.count("is lost: another owner") == 1
    queue.close()
