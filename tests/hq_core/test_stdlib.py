"""`StdlibQueue`: what CPython's own tests do not ask of it, and code written for `queue.Queue`."""

import errno
import json
import logging
import logging.config
import logging.handlers
import pickle
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hq_core import (
    BackendError,
    CorruptedData,
    HybridQueue,
    InlinePump,
    MessageTooLargeError,
    QueueClosed,
    ShutDown,
    StdlibQueue,
    Stream,
    TokenBucket,
    Unlimited,
)
from hq_core.testing import FaultyBackend, MemoryBackend
from tests.faults.spoilable import Spoilable

OpenHybrid = Callable[..., HybridQueue]
Run = Callable[[Callable[[], object]], threading.Thread]


@pytest.fixture
def hybrid(tmp_path: Path) -> Iterator[OpenHybrid]:
    """Hybrid queues named ``jobs`` that a `StdlibQueue` takes."""
    opened: list[HybridQueue] = []

    def make(memory_items: int = 2, **options: Any) -> HybridQueue:
        options.setdefault("limiter", Unlimited())
        options.setdefault("pump", InlinePump())
        options.setdefault("when_full", "block")
        opened.append(HybridQueue("jobs", memory_items, tmp_path, **options))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def run() -> Iterator[Run]:
    """Starts threads, which have to end with the test."""
    threads: list[threading.Thread] = []

    def start(target: Callable[[], object]) -> threading.Thread:
        threads.append(threading.Thread(target=target))
        threads[-1].start()
        return threads[-1]

    yield start
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def until_waiting(condition: threading.Condition, count: int = 1) -> None:
    """Return once `count` threads wait for `condition`."""
    while True:
        with condition:
            if len(condition._waiters) == count:  # type: ignore[attr-defined] # no other way to see
                return


class TestItems:
    def test_are_bytes_unless_told_otherwise(self, hybrid: OpenHybrid) -> None:
        q = StdlibQueue(hybrid(1))
        for item in (b"one", b"", b"three"):
            q.put(item)
        assert [q.get(), q.get_nowait(), q.get(timeout=1)] == [b"one", b"", b"three"]

    def test_of_other_kinds_need_a_codec(self, hybrid: OpenHybrid) -> None:
        q: StdlibQueue[Any] = StdlibQueue(hybrid())
        with pytest.raises(TypeError, match="a message must be bytes or another buffer, not str"):
            q.put("text")
        assert (q.qsize(), q.unfinished_tasks) == (0, 0)

    def test_pass_through_the_codec(self, hybrid: OpenHybrid) -> None:
        q: StdlibQueue[str] = StdlibQueue(hybrid(1), dumps=str.encode, loads=bytes.decode)
        for item in ("one", "two", "drei…"):
            q.put(item)
        assert [q.get() for _ in range(3)] == ["one", "two", "drei…"]

    def test_that_cannot_be_encoded_are_not_in_the_queue(self, hybrid: OpenHybrid) -> None:
        q: StdlibQueue[Any] = StdlibQueue(hybrid(), 1, dumps=pickle.dumps, loads=pickle.loads)
        with pytest.raises((AttributeError, pickle.PicklingError)):
            q.put(lambda: None)
        q.put_nowait("there is room for this one")
        assert q.unfinished_tasks == 1

    def test_that_cannot_be_decoded_are_gone_and_their_tasks_done(self, hybrid: OpenHybrid) -> None:
        q: StdlibQueue[object] = StdlibQueue(hybrid(), 1, dumps=bytes, loads=json.loads)  # type: ignore[arg-type]
        q.put(b"{")
        with pytest.raises(json.JSONDecodeError):
            q.get()
        q.join()
        q.put_nowait(b"1")
        assert q.get() == 1


class TestArguments:
    @pytest.mark.parametrize("half", ["dumps", "loads"])
    def test_half_a_codec_is_refused(self, hybrid: OpenHybrid, half: str) -> None:
        options: dict[str, Any] = {half: pickle.dumps}
        with pytest.raises(TypeError, match="dumps and loads go together"):
            StdlibQueue(hybrid(), **options)

    def test_what_is_no_hybrid_queue_is_refused(self) -> None:
        nothing: Any = queue.Queue()
        with pytest.raises(TypeError, match="hybrid must be an open HybridQueue, not Queue"):
            StdlibQueue(nothing)

    def test_a_maxsize_that_is_no_number_is_refused(self, hybrid: OpenHybrid) -> None:
        wrong: Any = "10"
        with pytest.raises(TypeError, match="maxsize must be a number of items, not str"):
            StdlibQueue(hybrid(), wrong)

    def test_a_limiter_is_refused_since_a_put_cannot_say_so(self, hybrid: OpenHybrid) -> None:
        with pytest.raises(ValueError, match=r"limiter=Unlimited\(\)"):
            StdlibQueue(hybrid(limiter=TokenBucket(10, 10)))

    def test_a_queue_that_raises_is_refused_since_a_put_waits(self, hybrid: OpenHybrid) -> None:
        with pytest.raises(ValueError, match='when_full="block"'):
            StdlibQueue(hybrid(when_full="raise"))

    @pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
    def test_maxsize_and_dropping_exclude_one_another(
        self, hybrid: OpenHybrid, policy: str
    ) -> None:
        with pytest.raises(ValueError, match=f'maxsize=1 makes put.. wait, when_full="{policy}"'):
            StdlibQueue(hybrid(when_full=policy), 1)

    def test_a_refused_queue_is_as_it_was(self, hybrid: OpenHybrid) -> None:
        refused = hybrid(when_full="raise")
        with pytest.raises(ValueError, match="when_full"):
            StdlibQueue(refused)
        refused.enqueue(b"item")
        assert refused.dequeue() == b"item"

    def test_a_timeout_without_block_is_ignored(self, hybrid: OpenHybrid) -> None:
        q = StdlibQueue(hybrid())
        q.put(b"item", False, -1)
        assert q.get(False, -1) == b"item"

    @pytest.mark.parametrize("timeout", [-1, float("nan")])
    def test_a_timeout_that_is_none_is_refused(self, hybrid: OpenHybrid, timeout: float) -> None:
        q = StdlibQueue(hybrid())
        with pytest.raises(ValueError, match="timeout must be a number of seconds, 0 or more"):
            q.put(b"item", timeout=timeout)
        with pytest.raises(ValueError, match="timeout must be a number of seconds, 0 or more"):
            q.get(timeout=timeout)
        assert q.empty()

    def test_a_timeout_beyond_all_clocks_is_one_without_end(self, hybrid: OpenHybrid) -> None:
        q = StdlibQueue(hybrid(), 1)
        q.put(b"item", timeout=float("inf"))
        assert q.get(timeout=1e300) == b"item"


class TestErrors:
    def test_are_those_of_the_standard_library(self, hybrid: OpenHybrid) -> None:
        q = StdlibQueue(hybrid(), 1)
        assert isinstance(q, queue.Queue)
        with pytest.raises(queue.Empty):
            q.get(block=False)
        q.put(b"item")
        with pytest.raises(queue.Full, match="the queue holds 1 items, its maxsize"):
            q.put(b"item", block=False)
        q.shutdown(immediate=True)
        with pytest.raises(ShutDown):
            q.get()
        with pytest.raises(ShutDown):
            q.put(b"item")
        assert issubclass(QueueClosed, ShutDown)

    @pytest.mark.skipif(sys.version_info < (3, 13), reason="queue.ShutDown is new in 3.13")
    def test_shutdown_is_theirs_where_they_have_it(self) -> None:
        assert ShutDown is vars(queue)["ShutDown"]

    def test_a_failing_disk_is_told_and_leaves_the_queue_as_it_was(
        self, hybrid: OpenHybrid
    ) -> None:
        broken = True

        def fault(method: str, number: int) -> Exception | None:
            return OSError(errno.EIO, "broken") if broken else None

        q = StdlibQueue(
            hybrid(1, backend=lambda stream: FaultyBackend(MemoryBackend(stream), fault)), 2
        )
        q.put(b"in memory")
        with pytest.raises(BackendError, match="broken"):
            q.put(b"to disk")
        assert (q.qsize(), q.unfinished_tasks) == (1, 1)
        broken = False
        q.put_nowait(b"to disk now")
        assert q.full()
        assert [q.get(), q.get()] == [b"in memory", b"to disk now"]

    def test_what_can_never_be_held_is_refused_at_once(self, hybrid: OpenHybrid) -> None:
        q = StdlibQueue(hybrid(max_overflow_bytes=100, durable=True))
        with pytest.raises(MessageTooLargeError):
            q.put(bytes(200))
        q.join()


class TestRoom:
    def test_maxsize_counts_both_tiers(self, hybrid: OpenHybrid) -> None:
        q = StdlibQueue(hybrid(1), 3)
        for _ in range(3):
            assert not q.full()
            q.put_nowait(b"item")
        assert q.full()
        with pytest.raises(queue.Full):
            q.put(b"item", timeout=0.01)
        assert q.qsize() == 3

    def test_items_of_an_earlier_owner_take_up_room(self, hybrid: OpenHybrid) -> None:
        with hybrid(durable=True) as earlier:
            earlier.enqueue_many([b"one", b"two"])
        q = StdlibQueue(hybrid(durable=True), 2)
        assert q.full()
        with pytest.raises(queue.Full):
            q.put_nowait(b"three")

    def test_an_item_on_its_way_takes_up_room_until_it_fails(
        self, hybrid: OpenHybrid, run: Run
    ) -> None:
        appending, goes_on = threading.Event(), threading.Event()
        errors: list[BackendError] = []

        def fault(method: str, number: int) -> Exception | None:
            if number > 1:
                return None
            appending.set()
            goes_on.wait()
            return OSError(errno.EIO, "broken")

        q = StdlibQueue(
            hybrid(1, backend=lambda stream: FaultyBackend(MemoryBackend(stream), fault)), 2
        )
        q.put(b"in memory")

        def put() -> None:
            try:
                q.put(b"fails")
            except BackendError as exc:
                errors.append(exc)

        run(put)
        appending.wait()
        with pytest.raises(queue.Full):
            q.put_nowait(b"no room")
        waiting = run(lambda: q.put(b"follows"))
        until_waiting(q.not_full)
        goes_on.set()
        waiting.join()
        assert len(errors) == 1
        assert [q.get(), q.get()] == [b"in memory", b"follows"]

    def test_a_bound_in_bytes_makes_put_wait_or_say_full(
        self, hybrid: OpenHybrid, run: Run
    ) -> None:
        q = StdlibQueue(hybrid(1, max_overflow_bytes=20))
        q.put(b"in memory")
        q.put(bytes(16))
        with pytest.raises(queue.Full):
            q.put_nowait(b"more")
        with pytest.raises(queue.Full):
            q.put(b"more", timeout=0.01)
        waiting = run(lambda: q.put(b"more"))
        assert [q.get(), q.get(), q.get()] == [b"in memory", bytes(16), b"more"]
        waiting.join()
        assert q.unfinished_tasks == 3

    def test_waiting_for_either_room_shares_the_timeout(
        self, hybrid: OpenHybrid, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        q = StdlibQueue(hybrid(1, max_overflow_bytes=1), 5)
        q.put(b"item")
        clock = SimpleNamespace(monotonic=iter([0.0, 60.0]).__next__)
        monkeypatch.setattr("hq_core.stdlib.time", clock)
        with pytest.raises(queue.Full):
            q.put(b"item", timeout=60)

    def test_memory_alone_is_a_queue_too(self, hybrid: OpenHybrid, tmp_path: Path) -> None:
        q = StdlibQueue(hybrid(2, max_overflow_bytes=1))
        q.put(b"one")
        q.put(b"two")
        with pytest.raises(queue.Full):
            q.put_nowait(b"three")
        assert list(tmp_path.glob("*.overflow")) == []


class TestTasks:
    def test_of_an_earlier_owner_are_waited_for(self, hybrid: OpenHybrid, run: Run) -> None:
        with hybrid(durable=True) as earlier:
            earlier.enqueue_many([b"one", b"two", b"three"])
        q = StdlibQueue(hybrid(durable=True))
        assert q.unfinished_tasks == 3
        joiner = run(q.join)
        for _ in range(3):
            until_waiting(q.all_tasks_done)
            q.get()
            q.task_done()
        joiner.join()
        with pytest.raises(ValueError, match="called too many times"):
            q.task_done()

    def test_start_with_what_is_in_the_queue(self, hybrid: OpenHybrid) -> None:
        used = hybrid()
        used.enqueue_many([b"one", b"two"])
        used.dequeue()
        assert StdlibQueue(used).unfinished_tasks == 1

    @pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
    def test_of_dropped_items_are_done(self, hybrid: OpenHybrid, policy: str) -> None:
        q = StdlibQueue(hybrid(2, max_overflow_bytes=1, when_full=policy))
        for _ in range(5):
            q.put(b"item")
        assert q.unfinished_tasks == 2
        for _ in range(2):
            q.get()
            q.task_done()
        q.join()

    def test_of_damaged_items_are_done_and_whoever_waits_goes_on(
        self, hybrid: OpenHybrid, run: Run
    ) -> None:
        opened: list[Spoilable] = []

        def backend(stream: Stream) -> Spoilable:
            opened.append(Spoilable(stream))
            return opened[0]

        q = StdlibQueue(hybrid(1, backend=backend), 3)
        for item in (b"in memory", b"stored", b"stored"):
            q.put(item)
        q.get()
        q.put(b"stored")
        q.task_done()
        joiner = run(q.join)
        producer = run(lambda: q.put(b"new"))
        until_waiting(q.all_tasks_done)
        until_waiting(q.not_full)
        opened[0].spoiled = True
        met: set[object] = set()
        while len(met) < 2:  # the producer may be in before this consumer is told
            try:
                met.add(q.get())
            except CorruptedData as exc:
                met.add(type(exc))
        producer.join()
        assert met == {b"new", CorruptedData}
        q.task_done()
        joiner.join()

    def test_finished_too_early_are_no_debt(self, hybrid: OpenHybrid) -> None:
        q = StdlibQueue(hybrid())
        q.put(b"item")
        q.task_done()
        q.shutdown(immediate=True)
        assert q.unfinished_tasks == 0

    def test_that_were_taken_are_waited_for_after_an_immediate_shutdown(
        self, hybrid: OpenHybrid, run: Run
    ) -> None:
        q = StdlibQueue(hybrid())
        for _ in range(5):
            q.put(b"item")
        q.get()
        q.shutdown(immediate=True)
        assert q.unfinished_tasks == 1
        joiner = run(q.join)
        until_waiting(q.all_tasks_done)
        q.task_done()
        joiner.join()


class TestShutdown:
    @pytest.mark.parametrize("immediate", [False, True])
    def test_wakes_whoever_waits_for_room(
        self, hybrid: OpenHybrid, run: Run, immediate: bool
    ) -> None:
        q = StdlibQueue(hybrid(), 1)
        q.put(b"item")
        refused: list[ShutDown] = []

        def put() -> None:
            try:
                q.put(b"item")
            except ShutDown as exc:
                refused.append(exc)

        threads = [run(put) for _ in range(3)]
        until_waiting(q.not_full, 3)
        q.shutdown(immediate)
        for thread in threads:
            thread.join()
        assert len(refused) == 3
        assert q.qsize() == (0 if immediate else 1)

    def test_of_a_durable_queue_keeps_the_rest_for_the_next(self, hybrid: OpenHybrid) -> None:
        with StdlibQueue(hybrid(durable=True)) as q:
            q.put(b"one")
            q.put(b"two")
            assert q.get() == b"one"
            q.task_done()
        assert (q.qsize(), q.empty(), q.unfinished_tasks) == (0, True, 0)
        q.join()
        assert StdlibQueue(hybrid(durable=True)).get() == b"two"

    def test_that_fails_to_close_the_backend_says_so_and_has_ended_all_the_same(
        self, hybrid: OpenHybrid, run: Run
    ) -> None:
        class Clings(MemoryBackend):
            def close(self, *, delete: bool) -> None:
                raise OSError(errno.EIO, "broken")

        q = StdlibQueue(hybrid(backend=Clings))
        q.put(b"item")
        joiner = run(q.join)
        until_waiting(q.all_tasks_done)
        with pytest.raises(BackendError, match="broken"):
            q.shutdown(immediate=True)
        joiner.join()
        assert q.is_shutdown
        assert q.empty()


# ---- what ends a worker --------------------------------------------------------------------------


def as_text(item: str | None) -> bytes:
    return json.dumps(item).encode()


class TestEnds:
    """`None` in a queue that drops."""

    @pytest.fixture(params=["drop_oldest", "drop_newest"])
    def policy(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture
    def q(self, hybrid: OpenHybrid, policy: str) -> StdlibQueue[str | None]:
        """Room for two items."""
        opened = hybrid(2, max_overflow_bytes=1, when_full=policy)
        return StdlibQueue(opened, dumps=as_text, loads=json.loads)

    def test_are_not_dropped_and_keep_their_places(
        self, q: StdlibQueue[str | None], policy: str
    ) -> None:
        for item in ("one", "two", None, "three", None, None):
            q.put_nowait(item)
        assert q.qsize() == q.unfinished_tasks == 5
        got = [q.get_nowait() for _ in range(5)]
        if policy == "drop_newest":
            assert got == ["one", "two", None, None, None]
        else:
            assert got == ["two", None, "three", None, None]
        assert q.empty()
        for _ in got:
            q.task_done()
        q.join()
        with pytest.raises(queue.Empty):
            q.get_nowait()

    def test_come_though_all_that_was_before_them_is_dropped(
        self, hybrid: OpenHybrid, run: Run
    ) -> None:
        q: StdlibQueue[str | None] = StdlibQueue(
            hybrid(2, max_overflow_bytes=1, when_full="drop_oldest"),
            dumps=as_text,
            loads=json.loads,
        )
        for item in ("one", None, "two", "three", "four"):
            q.put(item)
        assert [q.get() for _ in range(3)] == [None, "three", "four"]

    def test_pass_through_the_overflow_in_their_places(
        self, hybrid: OpenHybrid, policy: str
    ) -> None:
        q: StdlibQueue[str | None] = StdlibQueue(
            hybrid(1, when_full=policy), dumps=as_text, loads=json.loads
        )
        items = ["one", None, "two", "three", None, "four", "five", None]
        for item in items:
            q.put(item)
        assert [q.get() for _ in items] == items

    def test_wake_one_worker_each(self, q: StdlibQueue[str | None], run: Run) -> None:
        ended: queue.SimpleQueue[int] = queue.SimpleQueue()

        def work() -> None:
            while q.get() is not None:
                q.task_done()
            q.task_done()
            ended.put(1)

        workers = [run(work) for _ in range(3)]
        waiting = q._hybrid._engine._consumers.waiting
        while len(waiting.get(None, ())) < 3:
            pass
        q.put("one")
        for _ in workers:
            q.put(None)
        for _ in workers:
            ended.get(timeout=30)
        q.join()

    def test_are_met_before_a_deadline(self, q: StdlibQueue[str | None]) -> None:
        with pytest.raises(queue.Empty):
            q.get(timeout=0.001)
        q.put(None)
        assert q.get(timeout=0.001) is None

    def test_come_before_the_queue_is_shut_down(self, q: StdlibQueue[str | None]) -> None:
        q.put("one")
        q.put(None)
        q.shutdown()
        with pytest.raises(ShutDown):
            q.put(None)
        assert [q.get(), q.get()] == ["one", None]
        with pytest.raises(ShutDown):
            q.get()

    def test_are_woken_for_by_a_shutdown_at_once(
        self, q: StdlibQueue[str | None], run: Run
    ) -> None:
        met: queue.SimpleQueue[object] = queue.SimpleQueue()

        def work() -> None:
            try:
                met.put(q.get())
            except ShutDown as exc:
                met.put(type(exc))

        for _ in range(2):
            run(work)
        waiting = q._hybrid._engine._consumers.waiting
        while len(waiting.get(None, ())) < 2:
            pass
        with q._hybrid._engine._locks.mutex:  # both are woken, and neither has looked yet
            q._put_end(as_text(None))
            q._hybrid.shutdown()
        assert {met.get(timeout=30), met.get(timeout=30)} == {None, QueueClosed}

    def test_are_gone_after_an_immediate_shutdown(self, q: StdlibQueue[str | None]) -> None:
        q.put("one")
        q.put(None)
        q.shutdown(immediate=True)
        assert q.qsize() == q.unfinished_tasks == 0
        with pytest.raises(ShutDown):
            q.get()

    def test_are_refused_as_other_items_are(self, hybrid: OpenHybrid, policy: str) -> None:
        q: StdlibQueue[Any] = StdlibQueue(hybrid(when_full=policy))
        with pytest.raises(TypeError, match="a message must be bytes or another buffer, not None"):
            q.put(None)
        q.shutdown(immediate=True)
        closed: StdlibQueue[Any] = StdlibQueue(
            hybrid(when_full=policy), dumps=as_text, loads=json.loads
        )
        closed._hybrid.close()
        with pytest.raises(ShutDown):
            closed.put(None)

    def test_come_though_what_was_before_them_is_damaged(self, hybrid: OpenHybrid) -> None:
        opened: list[Spoilable] = []

        def backend(stream: Stream) -> Spoilable:
            opened.append(Spoilable(stream))
            return opened[0]

        q: StdlibQueue[str | None] = StdlibQueue(
            hybrid(1, backend=backend, when_full="drop_newest"), dumps=as_text, loads=json.loads
        )
        for item in ("in memory", "stored", "stored", None):
            q.put(item)
        opened[0].spoiled = True
        assert q.get() == "in memory"
        with pytest.raises(CorruptedData):
            q.get()
        assert q.get() is None
        q.put("new")
        assert q.get() == "new"

    def test_are_for_workers_of_this_process(self, hybrid: OpenHybrid, policy: str) -> None:
        """A durable queue does not keep them: its next owner has workers of its own."""
        with StdlibQueue(
            hybrid(durable=True, when_full=policy), dumps=as_text, loads=json.loads
        ) as q:
            q.put("one")
            q.put(None)
        again: StdlibQueue[str | None] = StdlibQueue(
            hybrid(durable=True, when_full=policy), dumps=as_text, loads=json.loads
        )
        assert again.qsize() == 1
        assert again.get() == "one"

    def test_that_find_no_room_in_a_queue_that_blocks_wait_or_are_refused(
        self, hybrid: OpenHybrid, run: Run
    ) -> None:
        q: StdlibQueue[str | None] = StdlibQueue(
            hybrid(1, max_overflow_bytes=1), dumps=as_text, loads=json.loads
        )
        q.put("one")
        with pytest.raises(queue.Full):
            q.put_nowait(None)
        waiting = run(lambda: q.put(None))
        assert [q.get(), q.get()] == ["one", None]
        waiting.join()


# ---- programs written for queue.Queue ------------------------------------------------------------


def as_json(record: logging.LogRecord | None) -> bytes:
    return json.dumps(None if record is None else vars(record)).encode()


def from_json(data: bytes) -> logging.LogRecord | None:
    fields = json.loads(data)
    return None if fields is None else logging.makeLogRecord(fields)


class Collecting(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(f"{record.name}: {record.getMessage()}")


@pytest.mark.parametrize("codec", [(as_json, from_json), (pickle.dumps, pickle.loads)])
def test_log_records_pass_from_a_handler_to_a_listener(
    hybrid: OpenHybrid, codec: tuple[Any, Any]
) -> None:
    opened = hybrid(3)
    q = StdlibQueue(opened, dumps=codec[0], loads=codec[1])
    handler = logging.handlers.QueueHandler(q)
    for number in range(50):
        handler.handle(logging.makeLogRecord({"name": "plant", "msg": f"boiler {number}"}))
    assert opened.has_disk_data
    collecting = Collecting()
    listener = logging.handlers.QueueListener(q, collecting)
    listener.start()
    listener.stop()
    assert collecting.messages == [f"plant: boiler {n}" for n in range(50)]
    q.join()


class Held(Collecting):
    """Handles the first record only when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.busy, self.go_on = threading.Event(), threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.busy.set()
        self.go_on.wait(30)
        super().emit(record)


@pytest.mark.parametrize(
    ("policy", "later", "handled"),
    [
        ("drop_oldest", [], ["0", "3", "4"]),
        ("drop_oldest", ["5", "6", "7"], ["0"]),
        ("drop_newest", [], ["0", "1", "2"]),
        ("drop_newest", ["5", "6", "7"], ["0", "1", "2"]),
    ],
)
def test_a_listener_stops_when_it_has_handled_what_is_left_though_its_queue_drops(
    hybrid: OpenHybrid, run: Run, policy: str, later: list[str], handled: list[str]
) -> None:
    q = StdlibQueue(
        hybrid(2, max_overflow_bytes=1, when_full=policy), dumps=as_json, loads=from_json
    )
    handler, held = logging.handlers.QueueHandler(q), Held()

    def log(messages: list[str]) -> None:
        for message in messages:
            handler.handle(logging.makeLogRecord({"name": "plant", "msg": message}))

    listener = logging.handlers.QueueListener(q, held)
    listener.start()
    log(["0"])
    assert held.busy.wait(30)
    log(["1", "2", "3", "4"])
    stopping = run(listener.stop)
    while q.qsize() < 3:
        pass
    log(later)
    held.go_on.set()
    stopping.join(30)
    assert not stopping.is_alive()
    assert held.messages == [f"plant: {message}" for message in handled]


def test_a_listener_whose_queue_is_full_and_blocks_is_not_stopped_as_theirs_is_not(
    hybrid: OpenHybrid,
) -> None:
    blocks = StdlibQueue(hybrid(1, max_overflow_bytes=1), dumps=as_json, loads=from_json)
    theirs: queue.Queue[Any] = queue.Queue(1)
    for q in (theirs, blocks):
        handler, held = logging.handlers.QueueHandler(q), Held()
        listener = logging.handlers.QueueListener(q, held)
        listener.start()
        handler.handle(logging.makeLogRecord({"name": "plant", "msg": "one"}))
        assert held.busy.wait(30)
        handler.handle(logging.makeLogRecord({"name": "plant", "msg": "two"}))
        with pytest.raises(queue.Full):
            listener.stop()
        held.go_on.set()
        q.join()
        listener.stop()
        assert held.messages == ["plant: one", "plant: two"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="dictConfig takes a queue since 3.12")
def test_the_logging_configuration_takes_it(hybrid: OpenHybrid) -> None:
    q = StdlibQueue(hybrid(1), dumps=as_json, loads=from_json)
    collecting = Collecting()
    queued = {
        "class": "logging.handlers.QueueHandler",
        "queue": q,
        "listener": logging.handlers.QueueListener,
        "handlers": ["collecting"],
    }
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {"collecting": {"()": lambda: collecting}, "queued": queued},
            "loggers": {"configured": {"handlers": ["queued"], "propagate": False}},
        }
    )
    logger = logging.getLogger("configured")
    (handler,) = logger.handlers
    logger.error("one")
    logger.error("two")
    logger.removeHandler(handler)
    listener = vars(handler)["listener"]
    listener.start()
    listener.stop()
    assert collecting.messages == ["configured: one", "configured: two"]


def test_workers_share_the_jobs_and_join_waits_for_the_last(hybrid: OpenHybrid, run: Run) -> None:
    q: StdlibQueue[Any] = StdlibQueue(
        hybrid(5, max_overflow_bytes=4_000), dumps=pickle.dumps, loads=pickle.loads
    )
    results: list[int] = []

    def work() -> None:
        while True:
            job = q.get()
            try:
                if job is None:
                    return
                function, arguments = job
                results.append(function(*arguments))
            finally:
                q.task_done()

    for _ in range(4):
        run(work)
    for number in range(500):
        q.put((pow, (number, 2)))
    q.join()
    assert sorted(results) == [number**2 for number in range(500)]
    for _ in range(4):
        q.put(None)
    q.join()


def test_workers_drain_the_queue_after_shutdown_and_end(hybrid: OpenHybrid, run: Run) -> None:
    q = StdlibQueue(hybrid(5), 10)
    got: list[bytes] = []

    def work() -> None:
        while True:
            try:
                got.append(q.get())
            except ShutDown:
                return
            q.task_done()

    workers = [run(work) for _ in range(3)]
    for number in range(100):
        q.put(b"%d" % number)
    q.shutdown()
    q.join()
    for worker in workers:
        worker.join()
    assert sorted(got, key=int) == [b"%d" % number for number in range(100)]
