"""Leases: items that are done when the block is left, and come back when it is not left well."""

import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from hq_core import (
    HybridQueue,
    InlinePump,
    LeaseExpired,
    QueueClosed,
    QueueEmpty,
    ReentrantCallError,
    Unlimited,
)
from hq_core.engine.leases import Lease
from tests.hq_core.promises.staging import (
    BACKENDS,
    FRONTS,
    ON_DISK,
    PATIENCE,
    Gate,
    around,
    balanced,
    dies,
    drain,
    hands,
    items,
    opened,
    started,
    until,
)

DURABLE = pytest.mark.parametrize("durable", [False, True], ids=["passing", "durable"])
MEMORY = pytest.mark.parametrize("memory_items", [1, 4, 100])


@MEMORY
@DURABLE
@BACKENDS
def test_what_a_block_leaves_well_is_done(
    tmp_path: Path, backend: str, durable: bool, memory_items: int
) -> None:
    """It does not come again, here or when the stream is opened next."""
    queue = opened(tmp_path, memory_items, backend, durable=durable)
    queue.enqueue_many(items(9))
    with queue.lease(3) as taken:
        count = len(taken)
        assert 1 <= count <= 3
        assert taken == items(count)
        assert queue.stats().leased == count
        assert queue.depth == 9 - count
        balanced(queue)
    assert queue.stats().leased == 0
    balanced(queue)
    if durable:
        queue.close()
        queue = opened(tmp_path, memory_items, backend, durable=durable)
    assert drain(queue) == items(9)[count:]
    queue.close()


@MEMORY
@DURABLE
@BACKENDS
@pytest.mark.parametrize("leases", [1, 3])
def test_what_is_given_back_comes_first_and_in_the_order_of_the_queue(
    tmp_path: Path, backend: str, durable: bool, memory_items: int, leases: int
) -> None:
    """Whichever lease ends first, and wherever the items behind them are."""
    for backwards in (False, True):
        queue = opened(tmp_path, memory_items, backend, durable=durable)
        queue.enqueue_many(items(9))
        out = [queue.lease(2) for _ in range(leases)]
        queue.enqueue_many(items(2, start=9))
        for lease in reversed(out) if backwards else out:
            lease.nack()
            balanced(queue)
        assert queue.stats().leased == 0
        assert drain(queue) == items(11)
        balanced(queue)
        queue.close()


@DURABLE
def test_a_block_that_raises_gives_its_items_back(tmp_path: Path, durable: bool) -> None:
    """In order, to the front, whatever was raised; and the exception goes on."""
    queue = opened(tmp_path, durable=durable)
    queue.enqueue_many(items(6))
    for exception in (ZeroDivisionError, KeyboardInterrupt):
        with pytest.raises(exception):
            _raise_in_a_block(queue, exception)
    assert drain(queue) == items(6)
    queue.close()


def _raise_in_a_block(queue: HybridQueue, exception: type[BaseException]) -> None:
    with queue.lease(2) as taken:
        assert taken == items(2)
        raise exception


@FRONTS
@DURABLE
def test_a_lease_ends_by_itself_and_whoever_waits_gets_its_items(
    tmp_path: Path, front: str, durable: bool
) -> None:
    """At its deadline, though nothing else happens to the queue."""
    queue = opened(tmp_path, durable=durable)
    with hands(queue, front, 2) as (lessee, waiter):
        queue.enqueue_many(items(2))
        lease = lessee.do("lease", 2, deadline=0.1)
        began = time.monotonic()
        assert waiter.do("dequeue") == items(2)[0]
        assert time.monotonic() - began < PATIENCE / 4
        assert waiter.do("dequeue") == items(2)[1]
        with pytest.raises(LeaseExpired):
            lease.ack()
        balanced(queue)
    queue.close()


@DURABLE
def test_a_lease_that_has_lapsed_can_be_finished_while_nobody_has_its_items(
    tmp_path: Path, durable: bool
) -> None:
    """Late is not too late as long as nothing comes twice by it."""
    queue = opened(tmp_path, durable=durable)
    queue.enqueue_many(items(3))
    lease = queue.lease(2, deadline=0.001)
    until(lambda: not queue.stats().leased)
    lease.ack()
    assert drain(queue) == items(3)[2:]
    balanced(queue)
    queue.close()


@FRONTS
@ON_DISK
def test_a_lease_that_has_not_ended_comes_again_after_a_kill(
    tmp_path: Path, backend: str, front: str
) -> None:
    """Also if others have finished later items; nothing that was not done is left out."""

    def work() -> None:
        queue = opened(tmp_path, 4, backend, durable=True)
        with hands(queue, front, 2) as (lessee, other):
            queue.enqueue_many(items(400))
            assert lessee.do("lease", 2).items == items(2)
            for item in items(300, start=2):
                assert other.do("dequeue") == item
            os.kill(os.getpid(), signal.SIGKILL)

    dies(work)
    with opened(tmp_path, 4, backend, durable=True) as queue:
        got = drain(queue)
    assert got[:2] == items(2)
    assert got == items(400)[400 - len(got) :]


@FRONTS
@BACKENDS
def test_a_lease_that_has_not_ended_comes_again_after_close_if_the_queue_is_durable(
    tmp_path: Path, backend: str, front: str
) -> None:
    """And who finishes it later is told that it comes again."""
    queue = opened(tmp_path, 4, backend, durable=True)
    with hands(queue, front, 1) as (lessee,):
        queue.enqueue_many(items(6))
        lease = lessee.do("lease", 2)
        queue.close()
        with pytest.raises(QueueClosed):
            lease.ack()
    with opened(tmp_path, 4, backend, durable=True) as queue:
        assert drain(queue) == items(6)


def test_a_lease_that_outlives_a_queue_that_keeps_nothing_can_be_finished(tmp_path: Path) -> None:
    """Its items are with its holder: done if it says so, discarded if it gives them back."""
    for give_back in (False, True):
        queue = opened(tmp_path)
        queue.enqueue_many(items(6))
        lease = queue.lease(2)
        queue.close()
        balanced(queue)
        if give_back:
            lease.nack()
        else:
            lease.ack()
        balanced(queue)
        stats = queue.stats()
        assert (stats.leased, stats.depth) == (0, 0)
        assert stats.dequeued == (0 if give_back else 2)


@FRONTS
def test_what_may_be_out_is_bounded_and_who_waits_for_that_gets_on(
    tmp_path: Path, front: str
) -> None:
    """1,024 items; the next lease waits for one of those to end, a plain consumer does not."""
    queue = opened(tmp_path, 4)
    with hands(queue, front, 2) as (lessee, plain):
        queue.enqueue_many(items(1100))
        out = []
        while queue.stats().leased < 1024:
            out.append(lessee.do("lease", 100))
        assert queue.stats().leased == 1024
        waiting = lessee.begin("lease", 100)
        assert plain.do("dequeue") == items(1025)[1024]
        assert not waiting.done()
        out[0].ack()
        assert waiting.result(PATIENCE).items[0] == items(1026)[1025]
        balanced(queue)
    queue.close()


@FRONTS
@DURABLE
@pytest.mark.parametrize("given_back", [False, True])
def test_a_queue_that_was_shut_down_ends_when_its_last_lease_does(
    tmp_path: Path, front: str, durable: bool, given_back: bool
) -> None:
    """Consumers wait for what may come back, get it, and then meet `QueueClosed`."""
    queue = opened(tmp_path, durable=durable)
    with hands(queue, front, 2) as (lessee, waiter):
        queue.enqueue(b"last")
        lease = lessee.do("lease")
        queue.shutdown()
        with pytest.raises(QueueEmpty):
            waiter.do("dequeue", 0.05)
        waiting = waiter.begin("dequeue")
        until(lambda: queue._engine._consumers.waiting)
        if given_back:
            lease.nack()
            assert waiting.result(PATIENCE) == b"last"
            waiting = waiter.begin("dequeue")
        else:
            lease.ack()
        with pytest.raises(QueueClosed):
            waiting.result(PATIENCE)
    queue.close()


def test_a_loop_over_a_queue_gives_everything_and_ends_with_it(tmp_path: Path) -> None:
    """``for item in queue``: from now on, until it is shut down and drained, or closed."""
    queue: HybridQueue = opened(tmp_path, 2)
    got: list[bytes] = []
    consumer = started(lambda: got.extend(queue))
    queue.enqueue_many(items(9))
    queue.shutdown()
    consumer.join(PATIENCE)
    assert got == items(9)
    queue.close()
    assert list(queue) == []


@pytest.mark.slow
@FRONTS
def test_a_lease_that_lapses_is_seen_though_those_who_knew_its_deadline_have_left(
    tmp_path: Path, front: str
) -> None:
    """Of three who wait one was never woken since the lease was made: it gets what is given back
    in time, when the others have left with other items."""
    queue = opened(tmp_path, 10)
    engine = queue._engine
    waiting: Any = engine._consumers.waiting

    def are_parked(count: int) -> bool:
        return sum(map(len, waiting.values())) == count

    with hands(queue, front, 3) as consumers:
        calls = []
        for consumer in consumers:
            calls.append(consumer.begin("dequeue"))
            until(partial(are_parked, len(calls)))
        with engine._locks.mutex:  # before any of them can look
            queue.enqueue(items(1)[0])
            lease = queue.lease(deadline=0.4)
        until(partial(are_parked, 3))
        assert lease.items == items(1)
        queue.enqueue(items(2)[1])
        queue.enqueue(items(3)[2])
        assert sorted(call.result(PATIENCE / 4) for call in calls) == items(3)
        balanced(queue)
    queue.close()


@DURABLE
@pytest.mark.parametrize("again", ["ack", "nack"])
def test_a_lease_can_be_ended_again_while_its_first_ending_is_at_work(
    tmp_path: Path, durable: bool, again: str
) -> None:
    """Which trims; the second one returns at once and does nothing."""
    gate = Gate("trim")
    queue = opened(tmp_path, 1000, around("memory", gate), durable=durable, pump=InlinePump())
    queue.enqueue_many(items(300))
    lease = queue.lease(300)
    gate.shut()
    acking = started(lease.ack)
    if durable:
        assert gate.reached.wait(PATIENCE)
    else:
        acking.join(PATIENCE)
    second = started(getattr(lease, again))
    second.join(PATIENCE / 4)
    assert not second.is_alive()
    gate.open()
    acking.join(PATIENCE)
    assert not acking.is_alive()
    getattr(lease, again)()
    stats = queue.stats()
    assert (stats.dequeued, stats.leased, stats.depth) == (300, 0, 0)
    balanced(queue)
    queue.close()


@DURABLE
@pytest.mark.parametrize("first", ["ack", "nack"])
@pytest.mark.parametrize("again", ["ack", "nack"])
@pytest.mark.parametrize("exception", [KeyboardInterrupt, MemoryError])
def test_what_was_interrupted_when_the_lease_had_ended_can_be_called_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    durable: bool,
    first: str,
    again: str,
    exception: type[BaseException],
) -> None:
    """Its items are done, or given back, once."""
    queue = opened(tmp_path, durable=durable)
    queue.enqueue_many(items(3))
    lease = queue.lease(2)

    def interrupt() -> None:
        raise exception

    with monkeypatch.context() as patch:
        patch.setattr(queue._engine.pumping, "wake_if_needed", interrupt)
        with pytest.raises(exception):
            getattr(lease, first)()
    getattr(lease, again)()
    done = "ack" in (first, again)  # late is not too late while nobody has them
    assert queue.stats().dequeued == 2 * done
    getattr(lease, again)()
    assert queue.stats().dequeued == 2 * done
    assert drain(queue) == items(3)[2 * done :]
    balanced(queue)
    queue.close()


@DURABLE
@pytest.mark.parametrize("end", ["ack", "nack"])
def test_an_end_of_a_lease_that_was_refused_can_be_made_later(
    tmp_path: Path, durable: bool, end: str
) -> None:
    """`ReentrantCallError`, in the middle of this thread's own call, changes nothing."""
    refused = []

    class Limiter(Unlimited):
        lease: Lease | None = None

        @override
        def admit(self, tokens: int, now: float) -> bool:
            if self.lease is not None:
                with pytest.raises(ReentrantCallError):
                    getattr(self.lease, end)()
                refused.append(end)
            return True

    limiter = Limiter()
    queue = opened(tmp_path, durable=durable, limiter=limiter)
    queue.enqueue(items(1)[0])
    limiter.lease = lease = queue.lease()
    queue.enqueue(items(2)[1])
    limiter.lease = None
    assert refused
    assert queue.stats().leased == 1
    getattr(lease, end)()
    assert queue.stats().leased == 0
    assert drain(queue) == items(2)[end == "ack" :]
    balanced(queue)
    queue.close()
