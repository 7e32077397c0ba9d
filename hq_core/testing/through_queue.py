"""The backend as the overflow of a real `HybridQueue`."""

import itertools
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import pytest

from hq_core.capabilities import Capability
from hq_core.errors import (
    BackendError,
    HybridQueueError,
    QueueClosed,
    QueueEmpty,
    QueueFull,
    StreamBusyError,
)
from hq_core.protocols import OverflowBackend, Stream
from hq_core.pumps import ThreadPump
from hq_core.queue import HybridQueue
from hq_core.testing.fakes import FaultyBackend, ManualPump
from hq_core.testing.forking import in_child
from hq_core.testing.spool import Spool, balanced, drain, leaving_nothing, numbered

__all__ = ["QueueSuite"]


class QueueSuite:
    """The rules of the queue hold with this backend."""

    # ---- order -------------------------------------------------------------------------------

    def test_a_queue_keeps_the_order_across_its_tiers(self, spool: Spool) -> None:
        queue = spool.queue(3)
        for item in numbered(50):
            queue.enqueue(item)
        assert queue.has_disk_data
        assert drain(queue) == numbered(50)
        assert not queue.has_disk_data

    def test_every_short_sequence_of_enqueue_dequeue_and_pump_keeps_the_order(
        self, spool: Spool
    ) -> None:
        """All sequences of five, of: enqueue, dequeue, a step of the pump, one that fails."""
        failing = False

        def fault(method: str, _: int) -> Exception | None:
            return OSError(5, "on purpose") if failing and method == "read" else None

        pump = ManualPump()
        queue = spool.queue(1, backend=faulty(spool, fault), pump=pump)
        numbers = itertools.count()
        for calls in itertools.product("edpf", repeat=5):
            model: deque[bytes] = deque()
            for call in calls:
                failing = call == "f"
                if call == "e":
                    model.append(b"%d" % next(numbers))
                    queue.enqueue(model[-1])
                elif call == "d" and model:
                    assert queue.try_dequeue() == model.popleft()
                elif call == "d":
                    with pytest.raises(QueueEmpty):
                        queue.try_dequeue()
                else:
                    pump.step()
                assert queue.depth == len(model)
            failing = False
            assert drain(queue) == list(model)

    def test_order_holds_between_two_threads_with_a_pump(self, spool: Spool) -> None:
        queue = spool.queue(40, pump=ThreadPump())
        items = numbered(2000)
        producer = threading.Thread(target=lambda: deque(map(queue.enqueue, items), maxlen=0))
        producer.start()
        got = [queue.dequeue(60) for _ in items]
        producer.join()
        assert got == items

    def test_sixteen_streams_run_side_by_side(self, spool: Spool) -> None:
        queues = [spool.queue(2, f"stream {n}") for n in range(16)]
        items = numbered(100)
        got: list[list[bytes]] = [[] for _ in queues]

        def run(number: int) -> None:
            for item in items:
                queues[number].enqueue(item)
            got[number] = drain(queues[number])

        threads = [threading.Thread(target=run, args=(n,)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert got == [items] * 16

    # ---- failure, bounds, accounts -----------------------------------------------------------

    @pytest.mark.parametrize("number", range(1, 25))
    def test_a_call_that_fails_in_its_turn_loses_nothing(self, spool: Spool, number: int) -> None:
        """What raises is not in the queue, what was accepted comes in order, accounts balance."""

        def fault(_: str, call: int) -> Exception | None:
            return OSError(5, "on purpose") if call == number else None

        queue = spool.queue(2, backend=faulty(spool, fault))
        accepted: list[bytes] = []
        got: list[bytes] = []
        for item in numbered(12):
            try:
                queue.enqueue(item)
                accepted.append(item)
            except BackendError:
                pass
            if len(accepted) % 3 == 0:
                with suppress(HybridQueueError):
                    got.append(queue.try_dequeue())
            balanced(queue)
        while queue.depth:
            with suppress(BackendError):
                got.append(queue.try_dequeue())
        assert got == accepted
        balanced(queue)

    def test_a_bound_on_the_overflow_is_exact(self, spool: Spool) -> None:
        queue = spool.queue(1, max_overflow_bytes=1000)
        queue.enqueue(b"x" * 100)
        count, cost = 1, 0
        while queue.stats().disk_bytes + cost <= 1000:
            queue.enqueue(b"x" * 100)
            count += 1
            cost = cost or queue.stats().disk_bytes
        with pytest.raises(QueueFull):
            queue.enqueue(b"x" * 100)
        queue.dequeue()
        queue.enqueue(b"y" * 100)
        assert queue.stats().disk_bytes <= 1000
        assert drain(queue) == [b"x" * 100] * (count - 1) + [b"y" * 100]

    def test_drop_oldest_keeps_the_newest_in_order(self, spool: Spool) -> None:
        queue = spool.queue(2, max_overflow_bytes=500, when_full="drop_oldest")
        items = numbered(100)
        for item in items:
            queue.enqueue(item)
        dropped = queue.stats().dropped
        assert 0 < dropped < 100
        assert drain(queue) == items[dropped:]
        balanced(queue)

    def test_the_accounts_add_up(self, spool: Spool) -> None:
        queue = spool.queue(3)
        for number in range(200):
            queue.enqueue_many(numbered(number % 4))
            if number % 3 == 0 and queue.depth:
                queue.dequeue_many(4)
            balanced(queue)
            stats = queue.stats()
            assert stats.memory_items <= 3
            assert (stats.pressure > 1.0) == queue.has_disk_data
        drain(queue)
        assert queue.stats().disk_bytes == 0

    # ---- ends --------------------------------------------------------------------------------

    def test_close_wakes_whoever_waits_to_take(self, spool: Spool) -> None:
        queue = spool.queue(1)
        ended = ends_with_closed(queue, lambda: queue.dequeue(60))
        assert ended

    def test_close_wakes_whoever_waits_for_room(self, spool: Spool) -> None:
        queue = spool.queue(1, max_overflow_bytes=100, when_full="block")
        with suppress(QueueFull):
            while True:
                queue.enqueue(b"x" * 50, 0)
        assert ends_with_closed(queue, lambda: queue.enqueue(b"x" * 50, 60))

    def test_a_closed_queue_leaves_no_file_descriptor_or_thread(self, spool: Spool) -> None:
        with leaving_nothing():
            queue = spool.queue(40, pump=ThreadPump())
            queue.enqueue_many(numbered(200))
            queue.dequeue_many(50)
            queue.close()
        assert list(spool.directory.iterdir()) == []
        assert queue.stats().discarded == 150

    def test_a_durable_queue_goes_on_where_it_was_closed(self, spool: Spool) -> None:
        backend = spool.open()
        durable = Capability.DURABLE in backend.capabilities
        spool.close(backend, delete=True)
        if not durable:
            pytest.skip("it does not promise DURABLE")
        items = numbered(60)
        got: list[bytes] = []
        for start in range(0, 60, 20):
            queue = spool.queue(4, durable=True)
            queue.enqueue_many(items[start : start + 20])
            got += queue.dequeue_many(13)
            balanced(queue)
            queue.close()
        got += drain(spool.queue(4, durable=True))
        assert got == items

    # ---- ownership ---------------------------------------------------------------------------

    def test_a_second_owner_is_refused_and_harms_nothing(self, spool: Spool) -> None:
        queue = spool.queue(1)
        queue.enqueue_many(numbered(5))
        for leftover in ("resume", "discard", "quarantine"):
            with pytest.raises(StreamBusyError):
                spool.queue(1, leftover=leftover)
        in_child(lambda: refused(lambda: spool.queue(1, leftover="discard")))
        assert drain(queue) == numbered(5)

    def test_a_forked_child_is_refused_and_harms_nothing(self, spool: Spool) -> None:
        queue = spool.queue(1)
        queue.enqueue_many(numbered(5))

        in_child(lambda: refused_in_child(queue))
        queue.enqueue(b"parent")
        assert drain(queue) == [*numbered(5), b"parent"]


def faulty(
    spool: Spool, fault: Callable[[str, int], Exception | None]
) -> Callable[[Stream], OverflowBackend]:
    """A factory of the backend under test that fails on order."""
    return lambda stream: FaultyBackend(spool.make(stream), fault)


def ends_with_closed(queue: HybridQueue, call: Callable[[], object]) -> bool:
    """Whether `call`, made by another thread, raises `QueueClosed` because of `queue.close()`."""
    ended: list[bool] = []

    def run() -> None:
        with suppress(QueueClosed):
            call()
            return
        ended.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    queue.close()
    thread.join()
    return bool(ended)


def refused(call: Callable[[], object]) -> None:
    """`call` raises `StreamBusyError`."""
    with pytest.raises(StreamBusyError):
        call()


def refused_in_child(queue: HybridQueue) -> None:
    """In a forked child: its parent's queue refuses every call but `close`, which does nothing."""
    for call in (
        lambda: queue.enqueue(b"child"),
        queue.try_dequeue,
        queue.dequeue,
        queue.shutdown,
        queue.stats,
    ):
        refused(call)
    queue.close()
