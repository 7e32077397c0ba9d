"""`HybridQueue` with the default backend: the specification's core, life cycle and overflow."""

import contextlib
import functools
import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hq_core import (
    BackendError,
    BytesTier,
    CorruptedData,
    DequeueTimeout,
    HybridQueue,
    InlinePump,
    QueueClosed,
    QueueEmpty,
    QueueFull,
    RateLimited,
    Stream,
    StreamBusyError,
    TokenBucket,
    Unlimited,
)
from hq_core.testing import FaultyBackend, ManualPump, MemoryBackend
from hq_core.testing.forking import in_child
from tests.faults.spoilable import Spoilable

MakeQueue = Callable[..., HybridQueue]


@pytest.fixture
def make_queue(tmp_path: Path) -> Iterator[MakeQueue]:
    """Queues named ``cam`` in `tmp_path`, without limiter or pump thread unless asked for."""
    opened: list[HybridQueue] = []

    def make(memory_items: int | None = 2, **options: Any) -> HybridQueue:
        options.setdefault("limiter", Unlimited())
        options.setdefault("pump", InlinePump())
        opened.append(HybridQueue("cam", memory_items, tmp_path, **options))
        return opened[-1]

    yield make
    for queue in opened:
        queue.close()


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [b"item %d" % i for i in range(start, start + count)]


def drain(queue: HybridQueue) -> list[bytes]:
    items = []
    while queue.depth:
        items.append(queue.try_dequeue())
    return items


def started(target: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=target)
    thread.start()
    return thread


class TestCore:
    """Enqueue, dequeue, depth, pressure."""

    def test_items_come_out_as_they_went_in(self, make_queue: MakeQueue) -> None:
        queue = make_queue(10)
        for item in numbered(10):
            queue.enqueue(item)
        assert not queue.has_disk_data
        assert [queue.dequeue() for _ in range(10)] == numbered(10)

    def test_overflow_goes_to_disk_and_comes_back_in_order(
        self, make_queue: MakeQueue, tmp_path: Path
    ) -> None:
        queue = make_queue(3)
        for item in numbered(10):
            queue.enqueue(item)
        assert queue.has_disk_data
        assert queue.depth == 10
        assert queue.stats().memory_items == 3
        expected = b"".join(len(i).to_bytes(4, "big") + i for i in numbered(7, start=3))
        assert (tmp_path / "cam.overflow").read_bytes() == expected
        assert drain(queue) == numbered(10)
        assert not queue.has_disk_data

    def test_new_items_go_behind_those_on_disk_though_memory_has_room(
        self, make_queue: MakeQueue
    ) -> None:
        queue = make_queue(4, pump=ManualPump())
        for item in numbered(6):
            queue.enqueue(item)
        assert queue.dequeue() == b"item 0"
        queue.enqueue(b"item 6")
        assert queue.stats().memory_items == 3
        assert drain(queue) == numbered(6, start=1)

    def test_the_file_is_empty_once_drained(self, make_queue: MakeQueue, tmp_path: Path) -> None:
        queue = make_queue(1)
        for _ in range(10):
            queue.enqueue_many(numbered(100))
            assert drain(queue) == numbered(100)
            assert (tmp_path / "cam.overflow").stat().st_size == 0

    def test_pressure_is_the_share_of_memory_until_overflow_takes_it_above_one(
        self, make_queue: MakeQueue
    ) -> None:
        queue = make_queue(4)
        assert queue.pressure == 0.0
        queue.enqueue(b"a")
        assert queue.pressure == 0.25
        for _ in range(3):
            queue.enqueue(b"a")
        assert queue.pressure == 1.0
        queue.enqueue(b"x" * 1024)
        assert queue.pressure == 1.0 + 1028 / (100 * 1024 * 1024)

    def test_pressure_refers_to_the_overflow_limit_if_there_is_one(
        self, make_queue: MakeQueue
    ) -> None:
        queue = make_queue(1, max_overflow_bytes=4096)
        queue.enqueue_many([b"a", b"x" * 1020])
        assert queue.pressure == 1.0 + (1024 + 5) / 4096

    def test_an_empty_message_on_disk_is_overflow_too(self, make_queue: MakeQueue) -> None:
        queue = make_queue(1)
        queue.enqueue(b"")
        queue.enqueue(b"")
        assert queue.pressure > 1.0
        assert drain(queue) == [b"", b""]

    def test_a_message_is_copied_so_the_caller_may_reuse_its_buffer(
        self, make_queue: MakeQueue
    ) -> None:
        queue = make_queue(1)
        buffer = bytearray(b"abcd")
        queue.enqueue(buffer)
        queue.enqueue(memoryview(buffer)[::2])
        buffer[:] = b"----"
        assert drain(queue) == [b"abcd", b"ac"]

    def test_dequeue_many_returns_what_is_there_across_both_tiers(
        self, make_queue: MakeQueue
    ) -> None:
        queue = make_queue(2)
        queue.enqueue_many(numbered(7))
        assert queue.dequeue_many(5) == numbered(5)
        assert queue.dequeue_many(100) == numbered(2, start=5)

    def test_a_batch_is_taken_whole_or_not_at_all(self, make_queue: MakeQueue) -> None:
        queue = make_queue(2, max_overflow_bytes=20)
        queue.enqueue(b"first")
        before = queue.stats()
        with pytest.raises(QueueFull, match="max_overflow_bytes"):
            queue.enqueue_many([b"12345678", b"87654321"])
        assert queue.stats() == before
        queue.enqueue_many([b"1234", b"4321"])
        assert drain(queue) == [b"first", b"1234", b"4321"]

    def test_an_empty_batch_is_nothing(self, make_queue: MakeQueue) -> None:
        queue = make_queue(1)
        queue.enqueue_many([])
        assert queue.stats().enqueued == 0

    def test_try_dequeue_finds_an_item_whenever_there_is_one(self, make_queue: MakeQueue) -> None:
        queue = make_queue(1, pump=ManualPump())
        queue.enqueue_many(numbered(3))
        assert [queue.try_dequeue() for _ in range(3)] == numbered(3)
        with pytest.raises(QueueEmpty):
            queue.try_dequeue()

    @pytest.mark.parametrize("timeout", [0, 0.001])
    def test_a_timed_dequeue_of_nothing_times_out(
        self, make_queue: MakeQueue, timeout: float
    ) -> None:
        with pytest.raises(DequeueTimeout):
            make_queue().dequeue(timeout)

    def test_rate_limited_items_leave_no_trace_but_the_count(self, make_queue: MakeQueue) -> None:
        queue = make_queue(10, limiter=TokenBucket(rate=1e-9, burst=2))
        queue.enqueue_many([b"1", b"2"])
        with pytest.raises(RateLimited, match="slow down"):
            queue.enqueue(b"3")
        assert queue.stats().rate_limited == 1
        assert drain(queue) == [b"1", b"2"]

    def test_a_batch_larger_than_the_burst_can_never_pass(self, make_queue: MakeQueue) -> None:
        queue = make_queue(10, limiter=TokenBucket(burst=2))
        with pytest.raises(RateLimited, match="batch of 3 can never pass: the burst is 2"):
            queue.enqueue_many([b"1", b"2", b"3"])
        queue.enqueue_many([b"1", b"2"])

    def test_the_three_positional_arguments_give_the_specified_limiter(
        self, tmp_path: Path
    ) -> None:
        with (
            HybridQueue("cam", 2000, tmp_path) as queue,
            pytest.raises(RateLimited, match="burst is 1000"),
        ):
            queue.enqueue_many([b""] * 1001)

    @given(
        st.lists(
            st.one_of(
                st.binary(max_size=6).map(lambda item: [item]),
                st.lists(st.binary(max_size=6), max_size=6),
                st.integers(1, 8),
            ),
            max_size=60,
        ),
        st.integers(1, 5),
    )
    @settings(max_examples=150, deadline=None)
    @pytest.mark.slow
    def test_any_sequence_of_calls_behaves_as_a_list(
        self, tmp_path_factory: pytest.TempPathFactory, calls: list[Any], memory_items: int
    ) -> None:
        model: list[bytes] = []
        directory = tmp_path_factory.mktemp("spool")
        with HybridQueue("cam", memory_items, directory, limiter=Unlimited()) as queue:
            for call in calls:
                if isinstance(call, list):
                    queue.enqueue_many(call)
                    model += call
                elif model:
                    assert queue.dequeue_many(call) == model[:call]
                    del model[:call]
                stats = queue.stats()
                assert stats.depth == len(model)
                assert stats.enqueued == stats.dequeued + stats.discarded + stats.depth
                assert stats.memory_items <= memory_items


class TestFull:
    """`max_overflow_bytes` and `when_full`."""

    def test_raise_refuses_and_accepts_again_once_there_is_room(
        self, make_queue: MakeQueue
    ) -> None:
        queue = make_queue(1, max_overflow_bytes=10)
        queue.enqueue(b"1")
        queue.enqueue(b"222")
        with pytest.raises(QueueFull):
            queue.enqueue(b"333")
        assert queue.dequeue() == b"1"
        queue.enqueue(b"333")
        assert drain(queue) == [b"222", b"333"]

    def test_drop_newest_drops_what_comes(self, make_queue: MakeQueue) -> None:
        queue = make_queue(1, max_overflow_bytes=14, when_full="drop_newest")
        queue.enqueue(b"1")
        queue.enqueue(b"222")
        queue.enqueue_many([b"333", b"44"])
        stats = queue.stats()
        assert (stats.dropped, stats.discarded, stats.enqueued) == (2, 2, 4)
        assert drain(queue) == [b"1", b"222"]

    def test_drop_oldest_makes_room_for_what_comes(self, make_queue: MakeQueue) -> None:
        queue = make_queue(2, max_overflow_bytes=14, when_full="drop_oldest")
        for number in range(10):
            queue.enqueue(b"%03d" % number)
        assert queue.stats().dropped == 6
        assert drain(queue) == [b"006", b"007", b"008", b"009"]

    def test_block_gives_up_after_the_timeout(self, make_queue: MakeQueue) -> None:
        queue = make_queue(1, max_overflow_bytes=5, when_full="block")
        queue.enqueue(b"1")
        queue.enqueue(b"2")
        for timeout in (0, 0.001):
            with pytest.raises(QueueFull):
                queue.enqueue(b"3", timeout)
        assert drain(queue) == [b"1", b"2"]

    def test_a_batch_that_can_never_fit_is_refused_before_anything_is_dropped(
        self, make_queue: MakeQueue
    ) -> None:
        queue = make_queue(2, max_overflow_bytes=14, when_full="drop_oldest")
        queue.enqueue(b"1")
        with pytest.raises(ValueError, match="never be held"):
            queue.enqueue_many([b"22222222", b"3", b"4"])
        assert drain(queue) == [b"1"]

    def test_waiting_for_room_in_an_empty_queue_would_be_in_vain(
        self, make_queue: MakeQueue
    ) -> None:
        def fault(method: str, _: int) -> Exception | None:
            return QueueFull("disk full") if method == "append" else None

        queue = make_queue(1, backend=_faulty(fault), when_full="block")
        with pytest.raises(QueueFull):
            queue.enqueue_many([b"1", b"2"])


class TestFailure:
    """What raises leaves everything as it was."""

    def test_an_item_whose_append_fails_is_not_in_the_queue(self, make_queue: MakeQueue) -> None:
        def fault(method: str, number: int) -> Exception | None:
            return OSError(5, "Input/output error") if number == 1 else None

        queue = make_queue(1, backend=_faulty(fault))
        queue.enqueue(b"1")
        before = queue.stats()
        with pytest.raises(BackendError, match="Input/output error") as caught:
            queue.enqueue(b"2")
        assert isinstance(caught.value.__cause__, OSError)
        assert queue.stats() == before
        queue.enqueue(b"3")
        assert drain(queue) == [b"1", b"3"]

    def test_a_read_that_fails_takes_nothing_and_can_be_repeated(
        self, make_queue: MakeQueue
    ) -> None:
        failing = True

        def fault(method: str, _: int) -> Exception | None:
            return OSError(5, "Input/output error") if method == "read" and failing else None

        queue = make_queue(1, backend=_faulty(fault))
        queue.enqueue_many([b"1", b"2"])
        for _ in range(2):
            with pytest.raises(BackendError):
                queue.dequeue()
        assert queue.depth == 2
        failing = False
        assert drain(queue) == [b"1", b"2"]

    def test_items_at_hand_are_given_before_an_error_is(self, make_queue: MakeQueue) -> None:
        def fault(method: str, number: int) -> Exception | None:
            return OSError(5, "Input/output error") if method == "read" else None

        queue = make_queue(1, backend=_faulty(fault))
        queue.enqueue(b"1")
        queue.enqueue(b"2")
        assert queue.dequeue_many(2) == [b"1"]
        with pytest.raises(BackendError):
            queue.dequeue_many(2)

    def test_space_that_cannot_be_given_back_harms_nobody_and_is_tried_again(
        self, make_queue: MakeQueue, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fault(method: str, number: int) -> Exception | None:
            return OSError(5, "Input/output error") if method == "trim" and number < 4 else None

        queue = make_queue(1, backend=_faulty(fault), pump=ManualPump())
        queue.enqueue_many(numbered(5))
        assert drain(queue) == numbered(5)
        assert queue.stats().disk_bytes == 0
        assert [r.levelno for r in caplog.records] == [logging.WARNING]

    def test_a_backend_that_hides_its_records_is_an_error_not_an_endless_loop(
        self, make_queue: MakeQueue
    ) -> None:
        class Hiding(MemoryBackend):
            def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
                return []

        queue = make_queue(1, backend=Hiding)
        queue.enqueue_many([b"1", b"2"])
        with pytest.raises(BackendError, match="holds 2 records and does not give record 0"):
            queue.dequeue()

    def test_what_is_longer_than_memory_allows_is_delivered_past_memory(
        self, make_queue: MakeQueue
    ) -> None:
        with make_queue(None, memory=BytesTier(1000), durable=True) as queue:
            queue.enqueue(bytes(500))
        with make_queue(None, memory=BytesTier(100), durable=True) as queue:
            assert queue.dequeue() == bytes(500)

    def test_drop_oldest_drops_nothing_where_dropping_makes_no_room(
        self, make_queue: MakeQueue
    ) -> None:
        class Stuck(MemoryBackend):
            def trim(self, count: int) -> None:
                raise OSError(5, "on purpose")

        queue = make_queue(
            1, backend=Stuck, durable=True, max_overflow_bytes=50, when_full="drop_oldest"
        )
        queue.enqueue_many([b"1" * 10, b"2" * 10, b"3" * 10])
        with pytest.raises(QueueFull):
            queue.enqueue(b"4" * 10)
        assert queue.stats().dropped == 1
        assert drain(queue) == [b"2" * 10, b"3" * 10]

    def test_a_damaged_record_is_reported_once_and_the_queue_goes_on(
        self, make_queue: MakeQueue, tmp_path: Path
    ) -> None:
        queue = make_queue(1)
        queue.enqueue_many([b"aaaa", b"bbbb", b"cccc"])
        with (tmp_path / "cam.overflow").open("r+b") as file:
            file.seek(8)
            file.write(b"\xff\xff\xff\xff")
        assert queue.dequeue() == b"aaaa"
        with pytest.raises(CorruptedData, match="2 records"):
            queue.dequeue()
        queue.enqueue(b"dddd")
        assert queue.dequeue() == b"dddd"
        stats = queue.stats()
        assert (stats.enqueued, stats.dequeued, stats.discarded) == (4, 2, 2)
        aside = (tmp_path / "cam.overflow.quarantine-1").read_bytes()
        assert aside.endswith(b"\xff\xff\xff\xffbbbb\0\0\0\4cccc")

    def test_a_producer_gets_the_room_that_damaged_records_leave(
        self, make_queue: MakeQueue
    ) -> None:
        class Spoiled(Spoilable):
            spoiled = True

        queue = make_queue(1, backend=Spoiled, pump=ManualPump(), max_overflow_bytes=5)
        queue.enqueue(b"1")
        queue.enqueue(b"2")
        assert queue.dequeue() == b"1"
        queue.enqueue(b"3")
        assert queue.dequeue() == b"3"
        with pytest.raises(CorruptedData):
            queue.dequeue()

    def test_on_corruption_raise_keeps_raising_and_touches_nothing(
        self, make_queue: MakeQueue, tmp_path: Path
    ) -> None:
        queue = make_queue(1, on_corruption="raise")
        queue.enqueue_many([b"aaaa", b"bbbb"])
        with (tmp_path / "cam.overflow").open("r+b") as file:
            file.seek(8)
            file.write(b"\xff\xff\xff\xff")
        assert queue.dequeue() == b"aaaa"
        for _ in range(2):
            with pytest.raises(CorruptedData):
                queue.dequeue()
        assert queue.depth == 1


class TestLifeCycle:
    """Close, shutdown, waiting, threads: the specification's goroutine group."""

    def test_close_discards_says_how_many_and_deletes_the_file(
        self, make_queue: MakeQueue, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        queue = make_queue(1)
        queue.enqueue_many(numbered(5))
        queue.close()
        assert "discards 5 items" in caplog.text
        assert list(tmp_path.iterdir()) == []
        stats = queue.stats()
        assert (stats.discarded, stats.depth, stats.disk_bytes) == (5, 0, 0)

    def test_close_is_idempotent(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        queue.close()
        queue.close()

    def test_the_context_manager_closes(self, tmp_path: Path) -> None:
        with HybridQueue("cam", 1, tmp_path) as queue:
            queue.enqueue(b"1")
        with pytest.raises(QueueClosed):
            queue.enqueue(b"2")

    def test_after_close_everything_but_asking_raises(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        queue.enqueue(b"1")
        queue.close()
        for call in (
            lambda: queue.enqueue(b"2"),
            lambda: queue.enqueue_many([b"2"]),
            queue.dequeue,
            queue.try_dequeue,
            lambda: queue.dequeue_many(1),
        ):
            with pytest.raises(QueueClosed, match="closed"):
                call()
        assert (queue.depth, queue.pressure, queue.has_disk_data) == (0, 0.0, False)

    @pytest.mark.parametrize("end", ["close", "shutdown"])
    def test_an_empty_batch_is_refused_as_any_other_is(
        self, make_queue: MakeQueue, end: str
    ) -> None:
        queue = make_queue()
        getattr(queue, end)()
        with pytest.raises(QueueClosed):
            queue.enqueue_many([])

    def test_an_empty_batch_is_refused_in_a_forked_child(self, make_queue: MakeQueue) -> None:
        queue = make_queue()

        def child() -> None:
            with pytest.raises(StreamBusyError, match="forked"):
                queue.enqueue_many([])

        in_child(child)

    @pytest.mark.parametrize("directory", [5, None, b"spool", ["spool"]])
    def test_a_directory_that_is_no_path_is_refused_by_name(self, directory: Any) -> None:
        with pytest.raises(TypeError, match=r"directory must be a str or os\.PathLike, not "):
            HybridQueue("cam", 1, directory)

    @pytest.mark.parametrize("timeout", [1e300, 10**400])
    def test_a_timeout_beyond_all_clocks_is_one_without_end(
        self, make_queue: MakeQueue, timeout: float
    ) -> None:
        queue = make_queue()
        queue.enqueue(b"1", timeout)
        assert queue.dequeue(timeout) == b"1"
        thread = started(lambda: queue.enqueue(b"2"))
        assert queue.dequeue_many(1, timeout) == [b"2"]
        thread.join()

    def test_after_shutdown_the_rest_is_delivered_and_nothing_is_accepted(
        self, make_queue: MakeQueue
    ) -> None:
        queue = make_queue(1)
        queue.enqueue_many(numbered(3))
        queue.shutdown()
        with pytest.raises(QueueClosed, match="shut down"):
            queue.enqueue(b"late")
        assert [queue.dequeue() for _ in range(3)] == numbered(3)
        with pytest.raises(QueueClosed, match="shut down"):
            queue.dequeue()

    def test_a_waiting_consumer_wakes_when_an_item_comes(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        got: list[bytes] = []
        thread = started(lambda: got.append(queue.dequeue(60)))
        queue.enqueue(b"1")
        thread.join()
        assert got == [b"1"]

    @pytest.mark.parametrize("end", ["close", "shutdown"])
    def test_waiting_consumers_wake_at_the_end(self, make_queue: MakeQueue, end: str) -> None:
        queue = make_queue()
        ended: list[type] = []

        def consume() -> None:
            try:
                queue.dequeue(60)
            except QueueClosed as exc:
                ended.append(type(exc))

        threads = [started(consume) for _ in range(4)]
        getattr(queue, end)()
        for thread in threads:
            thread.join()
        assert ended == [QueueClosed] * 4

    def test_a_waiting_producer_wakes_at_close(self, make_queue: MakeQueue) -> None:
        queue = make_queue(1, max_overflow_bytes=5, when_full="block")
        queue.enqueue_many([b"1"])
        queue.enqueue(b"2")
        ended: list[bool] = []

        def produce() -> None:
            with pytest.raises(QueueClosed):
                queue.enqueue(b"3", 60)
            ended.append(True)

        thread = started(produce)
        queue.close()
        thread.join()
        assert ended == [True]

    def test_the_pump_refills_memory_in_the_background_and_ends_at_close(
        self, tmp_path: Path
    ) -> None:
        refilled = threading.Event()
        before = set(threading.enumerate())
        backend = _announcing_reads(refilled)
        with HybridQueue("cam", 100, tmp_path, limiter=Unlimited(), backend=backend) as queue:
            queue.enqueue_many(numbered(99))
            queue.enqueue_many(numbered(51, start=99))
            assert set(threading.enumerate()) == before
            assert queue.dequeue_many(51) == numbered(51)
            assert refilled.wait(60)
            pump = (set(threading.enumerate()) - before).pop()
            assert pump.name == "hq-pump-cam"
            assert pump.daemon
            assert drain(queue) == numbered(99, start=51)
        assert set(threading.enumerate()) == before

    def test_a_queue_that_never_overflows_has_no_thread_and_no_file(self, tmp_path: Path) -> None:
        before = set(threading.enumerate())
        with HybridQueue("cam", 100, tmp_path) as queue:
            queue.enqueue_many(numbered(100))
            drain(queue)
            assert set(threading.enumerate()) == before
            assert [p.name for p in tmp_path.iterdir()] == ["cam.lock"]

    @pytest.mark.slow
    def test_many_queues_leave_no_thread_descriptor_or_file(self, tmp_path: Path) -> None:
        threads, descriptors = set(threading.enumerate()), _descriptors()
        for number in range(50):
            with HybridQueue(f"cam-{number}", 1, tmp_path, limiter=Unlimited()) as queue:
                queue.enqueue_many(numbered(20))
                assert queue.dequeue_many(10) == numbered(10)
        assert set(threading.enumerate()) == threads
        assert _descriptors() == descriptors
        assert list(tmp_path.iterdir()) == []

    def test_a_closed_queue_is_let_go(self, tmp_path: Path) -> None:
        queue = HybridQueue("cam", 1, tmp_path)
        gone = weakref.ref(queue)
        queue.close()
        del queue
        gc.collect()
        assert gone() is None


class TestRecovery:
    """What an earlier owner left; the details are the backend's (`test_recovery.py` there)."""

    def leave(self, tmp_path: Path, content: bytes) -> Path:
        path = tmp_path / "cam.overflow"
        path.write_bytes(content)
        return path

    def test_items_left_behind_are_delivered_first(
        self, make_queue: MakeQueue, tmp_path: Path
    ) -> None:
        self.leave(tmp_path, b"\0\0\0\3old\0\0\0\0")
        queue = make_queue(1)
        assert queue.recovery.records == 2
        queue.enqueue(b"new")
        assert drain(queue) == [b"old", b"", b"new"]
        stats = queue.stats()
        assert (stats.recovered, stats.enqueued, stats.dequeued) == (2, 3, 3)

    def test_an_unfinished_record_is_cut(self, make_queue: MakeQueue, tmp_path: Path) -> None:
        self.leave(tmp_path, b"\0\0\0\3old\0\0\0\5hal")
        queue = make_queue(1)
        queue.enqueue(b"new")
        assert drain(queue) == [b"old", b"new"]

    def test_what_cannot_be_read_is_moved_aside_and_the_queue_works(
        self, make_queue: MakeQueue, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.leave(tmp_path, b"\0\0\0\3old\x7f\xff\xff\xffrest")
        queue = make_queue(1)
        assert "2147483647 bytes" in queue.recovery.reason
        assert "set aside" in caplog.text
        assert isinstance(queue.recovery.quarantine, Path)
        assert queue.recovery.quarantine.read_bytes().endswith(b"\x7f\xff\xff\xffrest")
        assert drain(queue) == [b"old"]


def produce(queue: HybridQueue, items: list[bytes]) -> None:
    for item in items:
        queue.enqueue(item, 60)


def consume(queue: HybridQueue, got: list[bytes]) -> None:
    with contextlib.suppress(QueueClosed):
        while True:
            got += queue.dequeue_many(7, 60)


@pytest.mark.slow
def test_many_threads_deliver_everything_once(tmp_path: Path) -> None:
    """Four producers and four consumers, 5,000 items each, small memory and a small disk bound."""
    sent = [[b"%d %06d" % (name, number) for number in range(5000)] for name in range(4)]
    got: list[list[bytes]] = [[], [], [], []]
    with HybridQueue(
        "cam",
        None,
        tmp_path,
        memory=BytesTier(2000),
        limiter=Unlimited(),
        max_overflow_bytes=20_000,
        when_full="block",
    ) as queue:
        producers = [started(functools.partial(produce, queue, items)) for items in sent]
        consumers = [started(functools.partial(consume, queue, mine)) for mine in got]
        for thread in producers:
            thread.join()
        queue.shutdown()
        for thread in consumers:
            thread.join()
        stats = queue.stats()
    assert sorted(chain(*got)) == sorted(chain(*sent))
    for mine in got:
        for name in b"0123":
            of_one = [item for item in mine if item[0] == name]
            assert of_one == sorted(of_one)
    assert stats.enqueued == stats.dequeued == 20_000
    assert stats.spilled > 0


def _faulty(
    fault: Callable[[str, int], Exception | None],
) -> Callable[[Stream], FaultyBackend]:
    return lambda stream: FaultyBackend(MemoryBackend(stream), fault)


def _announcing_reads(event: threading.Event) -> Callable[[Stream], MemoryBackend]:
    class Announcing(MemoryBackend):
        def trim(self, count: int) -> None:
            super().trim(count)
            event.set()

    return Announcing


def _descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}
