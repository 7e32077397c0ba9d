"""Numbers larger than anything can count: as good as the largest, or refused in words."""

from pathlib import Path

import pytest

from hq_core import BytesTier, TokenBucket
from tests.hq_core.promises.staging import (
    BACKENDS,
    FRONTS,
    ON_DISK,
    balanced,
    drain,
    hands,
    items,
    opened,
)

DURABLE = pytest.mark.parametrize("durable", [False, True], ids=["passing", "durable"])
HUGE = pytest.mark.parametrize("huge", [2**31, 2**63, 2**64, 10**400], ids=["31", "63", "64", "e"])


@HUGE
@FRONTS
@DURABLE
@BACKENDS
def test_so_many_items_at_once_are_all_there_are(
    tmp_path: Path, backend: str, durable: bool, front: str, huge: int
) -> None:
    """From memory and from the store; leased for as long as one likes."""
    queue = opened(tmp_path, 4, backend, durable=durable)
    got: list[bytes] = []
    with hands(queue, front, 1) as (hand,):
        for item in items(9):
            queue.enqueue(item)
        while len(got) < 9:
            got += hand.do("dequeue_many", huge, 0)
        queue.enqueue_many(items(2, start=9))
        lease = hand.do("lease", huge, deadline=huge)
        assert lease.items == items(2, start=9)
        lease.nack()
        got += drain(queue)
    assert got == items(11)
    balanced(queue)
    queue.close()


@HUGE
@FRONTS
def test_a_call_that_waits_for_so_long_is_woken_as_any_other(
    tmp_path: Path, front: str, huge: int
) -> None:
    queue = opened(tmp_path)
    with hands(queue, front, 2) as (consumer, producer):
        waiting = consumer.begin("dequeue", huge)
        producer.do("enqueue", b"x", huge)
        assert waiting.result(20) == b"x"
    queue.close()


@HUGE
@DURABLE
@ON_DISK
def test_a_memory_of_so_many_items_takes_in_what_was_recovered(
    tmp_path: Path, backend: str, durable: bool, huge: int
) -> None:
    with opened(tmp_path, 4, backend, durable=True) as earlier:
        earlier.enqueue_many(items(9))
    queue = opened(tmp_path, huge, backend, durable=durable)
    queue.enqueue(items(10)[9])
    assert queue.stats().pressure >= 0
    assert drain(queue) == items(10)
    balanced(queue)
    queue.close()


@HUGE
def test_a_memory_of_so_many_bytes_and_a_bound_of_so_many_hold_what_others_do(
    tmp_path: Path, huge: int
) -> None:
    queue = opened(tmp_path, None, memory=BytesTier(huge), max_overflow_bytes=huge)
    queue.enqueue_many(items(9))
    assert queue.stats().pressure >= 0
    assert drain(queue) == items(9)
    balanced(queue)
    queue.close()


@HUGE
def test_a_burst_of_so_many_is_never_used_up(huge: int) -> None:
    bucket = TokenBucket(1, burst=huge)
    assert all(bucket.admit(10**6, 0.0) for _ in range(100))


@pytest.mark.parametrize("rate", [10**400, float("inf"), float("nan")])
def test_a_rate_that_no_clock_can_count_is_refused_in_words(rate: float) -> None:
    with pytest.raises(ValueError, match="rate must be positive and finite"):
        TokenBucket(rate)
