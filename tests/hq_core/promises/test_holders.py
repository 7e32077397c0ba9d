"""Every item has a holder: what nobody is done with comes again after a kill, in order."""

import mmap
import os
import signal
import time
from pathlib import Path

import pytest

from hq_core import InlinePump, QueueEmpty, QueueFull
from tests.hq_core.promises.staging import (
    FRONTS,
    ON_DISK,
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


def _killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # the signal comes before this ends


@FRONTS
@ON_DISK
@pytest.mark.parametrize("memory_items", [1, 8])
def test_what_a_slow_consumer_works_on_comes_again_though_a_fast_one_took_more(
    tmp_path: Path, backend: str, front: str, memory_items: int
) -> None:
    """Only its holder finishes an item: not who takes all the later ones, and asks for more."""

    def work() -> None:
        queue = opened(tmp_path, memory_items, backend, durable=True, pump=InlinePump())
        with hands(queue, front, 2) as (slow, fast):
            for item in items(4):
                queue.enqueue(item)
            assert slow.do("dequeue") == items(4)[0]
            for item in items(3, start=1):
                assert fast.do("dequeue") == item
            with pytest.raises(QueueEmpty):  # so that what is done is trimmed
                fast.do("try_dequeue")
            _killed()

    dies(work)
    with opened(tmp_path, 8, backend, durable=True) as queue:
        assert drain(queue) == items(4)


@FRONTS
@ON_DISK
def test_what_a_consumer_works_on_comes_again_though_another_one_adds(
    tmp_path: Path, backend: str, front: str
) -> None:
    """A producer finishes nothing that somebody else holds, not even another task of its loop; and
    the pump, which trims what is finished, comes to it."""

    def work() -> None:
        queue = opened(tmp_path, 2, backend, durable=True, pump=InlinePump())
        with hands(queue, front, 2) as (consumer, producer):
            for item in items(2):
                producer.do("enqueue", item)
            assert consumer.do("dequeue") == items(1)[0]
            for item in items(3, start=2):
                producer.do("enqueue", item)
            _killed()

    dies(work)
    with opened(tmp_path, 8, backend, durable=True) as queue:
        assert drain(queue) == items(5)


@ON_DISK
def test_what_is_held_comes_again_and_what_was_dropped_behind_it_harms_no_order(
    tmp_path: Path, backend: str
) -> None:
    """`drop_oldest` drops nothing that a consumer holds; what stays comes in order."""
    with opened(tmp_path, 1, backend, durable=True) as probe:
        for item in items(3, size=10):
            probe.enqueue(item)
        bound = probe.stats().disk_bytes
        assert drain(probe) == items(3, size=10)

    def work() -> None:
        queue = opened(
            tmp_path, 1, backend, durable=True, when_full="drop_oldest", max_overflow_bytes=bound
        )
        with hands(queue, "thread", 1) as (consumer,):
            for item in items(3, size=10):
                queue.enqueue(item)
            assert consumer.do("dequeue") == items(1, size=10)[0]
            queue.enqueue(items(4, size=10)[3])
            _killed()

    dies(work)
    with opened(tmp_path, 8, backend, durable=True) as queue:
        found = drain(queue)
    numbers = [items(4, size=10).index(item) for item in found]
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 0, "what was held is gone"
    assert numbers[-1] == 3


@ON_DISK
@pytest.mark.parametrize("trims", [1, 2, 4])
@pytest.mark.parametrize("call", ["dequeue", "dequeue_many", "lease"])
def test_a_trim_that_is_the_last_thing_a_process_does_takes_nothing_that_is_not_done(
    tmp_path: Path, backend: str, call: str, trims: int
) -> None:
    """What a call is about to return is not trimmed before its holder asks for more, though a
    producer waits for the room; nor is anything behind it."""
    made = items(8, size=10)
    with opened(tmp_path, 1, backend, durable=True) as probe:
        probe.enqueue_many(made[:2])
        bound = probe.stats().disk_bytes
        assert drain(probe) == made[:2]
    notes = mmap.mmap(-1, mmap.PAGESIZE)  # items returned, and accepted

    def work() -> None:
        left = trims

        def after(method: str) -> None:
            nonlocal left
            left -= method == "trim"
            if not left:
                _killed()

        queue = opened(
            tmp_path,
            4,
            around(backend, after=after),
            durable=True,
            when_full="block",
            max_overflow_bytes=bound,
            pump=InlinePump(),
        )

        def produce() -> None:
            for number, item in enumerate(made):
                queue.enqueue(item)
                notes[1] = number + 1

        producer = started(produce)
        for number, item in enumerate(made):
            until(lambda: queue._engine._producers.waiting or not producer.is_alive())
            if call == "lease":
                lease = queue.lease(1)
                assert lease.items == [item]
                notes[0] = number + 1
                lease.ack()
            else:
                taken = queue.dequeue() if call == "dequeue" else queue.dequeue_many(1)[0]
                assert taken == item
                notes[0] = number + 1

    dies(work)
    returned, accepted = notes[0], notes[1]
    with opened(tmp_path, 8, backend, durable=True) as queue:
        found = [made.index(item) for item in drain(queue)]
        balanced(queue)
    assert found == list(range(found[0], found[-1] + 1))
    assert found[0] <= returned, "what the last call was about to return is gone"
    assert found[-1] >= accepted - 1


@ON_DISK
@pytest.mark.parametrize("how", ["dequeue", "lease"])
def test_what_is_not_done_when_its_process_dies_comes_again_and_what_is_done_does_not(
    tmp_path: Path, backend: str, how: str
) -> None:
    """A lease that was acknowledged is gone, one that was not comes again; so do dequeues."""

    def work() -> None:
        queue = opened(tmp_path, 8, backend, durable=True)
        for item in items(6):
            queue.enqueue(item)
        if how == "lease":
            first = queue.lease(2)
            queue.lease(2)
            first.ack()
        else:
            queue.dequeue_many(2)
            queue.dequeue_many(2)
        _killed()

    dies(work)
    with opened(tmp_path, 8, backend, durable=True) as queue:
        found = drain(queue)
    assert found[-4:] == items(4, start=2), "what was not done is gone"
    # Trims are gathered: what was done may come again, in order.
    assert found == items(6)[6 - len(found) :]


@FRONTS
@pytest.mark.parametrize("how", ["asked for more", "ended"])
def test_a_producer_gets_the_room_of_what_its_holder_is_done_with(
    tmp_path: Path, front: str, how: str
) -> None:
    """It waits for no more than that: a thread or task that has ended holds nothing, and nobody
    needs to come by for the room to be found."""
    with opened(tmp_path, 4, "memory", durable=True) as probe:
        probe.enqueue(b"first")
        bound = probe.stats().disk_bytes
        assert drain(probe) == [b"first"]
    queue = opened(tmp_path, 4, "memory", durable=True, when_full="block", max_overflow_bytes=bound)
    with hands(queue, front, 2) as (holder, producer):
        queue.enqueue(b"first")
        assert holder.do("dequeue") == b"first"
        waiting = producer.begin("enqueue", b"other")
        until(lambda: queue._engine._producers.waiting)
        if how == "ended":
            holder.end()
        else:
            assert holder.do("dequeue") == b"other"
        waiting.result(5)
    balanced(queue)
    queue.close()


@FRONTS
@ON_DISK
@pytest.mark.parametrize("when_full", ["raise", "block"])
def test_an_enqueue_without_room_finishes_nothing_that_would_give_it_none(
    tmp_path: Path, backend: str, front: str, when_full: str
) -> None:
    """What the caller holds behind another's item is not done, and comes again after a kill."""
    with opened(tmp_path, 8, backend, durable=True) as probe:
        for item in items(4, size=10):
            probe.enqueue(item)
        bound = probe.stats().disk_bytes
        assert drain(probe) == items(4, size=10)

    def work() -> None:
        queue = opened(
            tmp_path, 8, backend, durable=True, when_full=when_full, max_overflow_bytes=bound
        )
        with hands(queue, front, 3) as (oldest, asking, producer):
            for item in items(4, size=10):
                queue.enqueue(item)
            assert oldest.do("dequeue") == items(1, size=10)[0]
            assert asking.do("dequeue") == items(2, size=10)[1]
            with pytest.raises(QueueFull):
                asking.do("enqueue", b"refused...", 0)
            assert oldest.do("dequeue") == items(3, size=10)[2]
            producer.do("enqueue", b"let in....", 0)  # into the room of the oldest
            _killed()

    dies(work)
    with opened(tmp_path, 8, backend, durable=True) as queue:
        found = drain(queue)
    assert found[-4:] == [*items(3, start=1, size=10), b"let in...."]
