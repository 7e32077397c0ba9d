"""The suite of memory tiers."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar, Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from hq_core.errors import MessageTooLargeError
from hq_core.protocols import MAX_MESSAGE_BYTES, MemoryTier
from hq_core.pumps import InlinePump
from hq_core.testing.parts import made, no_time, queue_with
from hq_core.testing.spool import balanced, drain

__all__ = ["MemoryTierConformance"]

_MOST_ITEMS: Final = 1_000_000
"""A tier of more items is not filled: that would take too long."""

_reproducible = settings(
    max_examples=100,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


class MemoryTierConformance:
    """Inherit in a test module and set `tier`."""

    tier: ClassVar[Callable[[], MemoryTier]]
    """Makes an empty tier."""

    def test_it_has_what_the_seam_demands(self) -> None:
        assert isinstance(made(self, "tier"), MemoryTier)

    def test_a_new_tier_is_empty(self) -> None:
        tier = _tier(self)
        assert (tier.items(), tier.payload_bytes(), tier.fill()) == (0, 0, 0.0)
        assert tier.take_one() is None
        assert tier.take(5) == []

    def test_an_empty_tier_is_not_falsy(self) -> None:
        assert bool(_tier(self))

    # ---- order -------------------------------------------------------------------------------

    def test_the_oldest_item_leaves_first(self) -> None:
        tier = _tier(self)
        sent = _filled(tier)
        assert [tier.take_one() for _ in sent] == sent
        assert tier.take_one() is None

    def test_take_returns_the_oldest_items_oldest_first_and_no_more_than_asked_for(self) -> None:
        tier = _tier(self)
        sent = _filled(tier)
        half = max(1, len(sent) // 2)
        assert tier.take(half) == sent[:half]
        assert tier.take(len(sent) + 1) == sent[half:]
        assert tier.take(1) == []

    def test_a_batch_goes_behind_what_is_held_in_its_own_order(self) -> None:
        tier = _tier(self)
        items = _small(min(6, *tier.capacity()), tier)
        for item in items[:2]:
            assert tier.offer_one(item) is True
        if items[2:]:
            assert tier.offer(tuple(items[2:])) is True
        assert tier.take(len(items)) == items

    def test_an_empty_message_is_an_item(self) -> None:
        tier = _tier(self)
        assert tier.offer_one(b"") is True
        assert (tier.items(), tier.payload_bytes()) == (1, 0)
        assert tier.take_one() == b""
        assert tier.offer([b""]) is True
        assert tier.take(1) == [b""]

    def test_lists_given_and_taken_belong_to_the_caller(self) -> None:
        tier = _tier(self)
        given_ = _small(1, tier)
        sent = list(given_)
        tier.offer(given_)
        given_.clear()
        assert tier.items() == 1
        taken = tier.take(1)
        assert taken == sent
        taken.append(b"more")
        assert (tier.items(), tier.take(1)) == (0, [])

    # ---- bounds ------------------------------------------------------------------------------

    def test_capacity_is_the_room_of_an_empty_tier_and_stays_the_same(self) -> None:
        tier = _tier(self)
        capacity = tier.capacity()
        assert min(capacity) >= 1
        assert tier.room() == capacity
        sent = _filled(tier)
        assert tier.capacity() == capacity
        tier.take(len(sent))
        assert tier.capacity() == tier.room() == capacity

    def test_it_accepts_as_many_items_as_its_capacity_says_and_no_more(self) -> None:
        tier = _tier(self)
        most, _ = _fillable(tier)
        assert tier.offer([b""] * (most + 1)) is False
        assert tier.offer([b""] * most) is True
        assert tier.offer_one(b"") is False
        assert tier.offer([b""]) is False
        assert tier.items() == most

    def test_it_accepts_as_many_bytes_as_its_capacity_says_and_no_more(self) -> None:
        tier = _tier(self)
        most_items, most = _fillable(tier)
        items = _of_bytes(min(most, most_items * MAX_MESSAGE_BYTES))
        if sum(map(len, items)) == most < most_items * MAX_MESSAGE_BYTES:  # else no item is so long
            assert tier.offer([*items[:-1], items[-1] + b"x"]) is False
        assert tier.offer(items) is True
        assert tier.payload_bytes() == sum(map(len, items))
        assert tier.offer_one(b"x") is False
        assert tier.offer([b"x"]) is False

    def test_a_batch_is_taken_as_a_whole_or_not_at_all(self) -> None:
        tier = _tier(self)
        most, _ = _fillable(tier)
        tier.offer_one(b"")
        assert tier.offer(_small(most, tier)) is False
        assert (tier.items(), tier.payload_bytes()) == (1, 0)
        assert tier.take(most) == [b""]

    def test_a_full_tier_has_no_room(self) -> None:
        tier = _tier(self)
        most, _ = _fillable(tier)
        tier.offer([b""] * most)
        assert tier.room() == (0, 0)
        assert 0.0 < tier.fill() <= 1.0
        tier.take_one()
        assert tier.room()[0] == 1

    def test_what_leaves_makes_room(self) -> None:
        tier = _tier(self)
        sent = _filled(tier)
        assert tier.take(len(sent)) == sent
        for _ in range(3):
            assert _filled(tier) == sent
            assert tier.take(len(sent)) == sent

    def test_every_short_sequence_of_calls_answers_as_a_bounded_deque_does(self) -> None:
        """What the room allows is accepted, what the capacity forbids is not, counters agree.

        All sequences of three, of some twenty calls at and around the bounds.
        """
        for script in itertools.product(_calls(_tier(self)), repeat=3):
            _play(_tier(self), script)

    def test_long_random_sequences_of_calls_answer_as_a_bounded_deque_does(self) -> None:
        @_reproducible
        @given(st.lists(st.sampled_from(_calls(_tier(self))), min_size=20, max_size=60))
        def compare(script: list[_Call]) -> None:
            _play(_tier(self), script)

        compare()

    # ---- surroundings ------------------------------------------------------------------------

    def test_it_never_sleeps_and_reads_no_clock(self) -> None:
        tier = _tier(self)
        with no_time():
            tier.take(len(_filled(tier)))
            tier.offer_one(b"")
            tier.take_one()

    def test_a_queue_keeps_order_and_bound_with_it(self, tmp_path: Path) -> None:
        tier = _tier(self)
        most_items, most_bytes = tier.capacity()
        sent = _small(min(3 * most_items, 2000), tier)
        with queue_with(tmp_path, memory=tier, pump=InlinePump()) as queue:
            got = []
            for number, item in enumerate(sent):
                queue.enqueue(item)
                if number % 3 == 2:
                    got.append(queue.try_dequeue())
                stats = queue.stats()
                assert stats.memory_items <= most_items
                assert stats.memory_bytes <= most_bytes
                balanced(queue)
            assert got + drain(queue) == sent

    def test_a_queue_refuses_what_it_can_never_hold(self, tmp_path: Path) -> None:
        tier = _tier(self)
        with queue_with(tmp_path, memory=tier) as queue, pytest.raises(MessageTooLargeError):
            queue.enqueue(bytes(min(tier.capacity()[1], MAX_MESSAGE_BYTES) + 1))


def _tier(suite: MemoryTierConformance) -> MemoryTier:
    tier: MemoryTier = made(suite, "tier")
    return tier


def _small(count: int, tier: MemoryTier) -> list[bytes]:
    """`count` items that tell their number, as short as it takes for many to fit into `tier`."""
    most_items, most_bytes = tier.capacity()
    size = min(6, max(1, most_bytes // min(most_items, count)))
    return [(b"%06d" % n)[6 - size :] for n in range(count)]


def _filled(tier: MemoryTier) -> list[bytes]:
    """Fill an empty tier, up to 1,000 items, one by one; what was accepted."""
    items = _small(min(1000, tier.capacity()[0]), tier)
    return list(itertools.takewhile(tier.offer_one, items))


def _fillable(tier: MemoryTier) -> tuple[int, int]:
    """The capacity of a tier small enough to be filled."""
    if tier.capacity()[0] > _MOST_ITEMS:
        pytest.skip("it takes too many items to fill: let the factory make a smaller tier")
    return tier.capacity()


def _of_bytes(size: int) -> list[bytes]:
    """As few messages as hold `size` (>= 1) bytes; long ones are one object many times."""
    whole, rest = divmod(size, MAX_MESSAGE_BYTES)
    return [bytes(MAX_MESSAGE_BYTES)] * whole + ([bytes(rest)] if rest else [])


_Call = tuple[str, int, int]
"""A method of a tier, a number of items, and the size of each."""


def _calls(tier: MemoryTier) -> list[_Call]:
    """Calls that matter to a tier of this capacity, if not all of those of a large one."""
    most_items, most_bytes = tier.capacity()
    counts = sorted({2, *(min(n, 300) for n in (most_items, most_items + 1))})
    sizes = sorted({1, *(min(n, 5000) for n in (most_bytes // 2, most_bytes, most_bytes + 1))})
    return [
        ("take_one", 1, 0),
        *(("take", count, 0) for count in (1, *counts)),
        *(("offer_one", 1, size) for size in (0, *sizes)),
        *(("offer", 1, size) for size in sizes),
        *(("offer", count, size) for count in counts for size in (0, 1)),
    ]


def _play(tier: MemoryTier, script: Iterable[_Call]) -> None:
    """Call `tier` and a deque in turn."""
    most_items, most_bytes = tier.capacity()
    held: deque[bytes] = deque()
    numbers = itertools.count()
    for call, count, size in script:
        if call.startswith("offer"):
            count = 1 if call == "offer_one" else count
            items = [(b"%d" % next(numbers)).ljust(size, b".")[:size] for _ in range(count)]
            room, total = tier.room(), count * size
            accepted = tier.offer_one(items[0]) if call == "offer_one" else tier.offer(items)
            if count <= room[0] and total <= room[1]:
                assert accepted, f"{count} items of {total} bytes refused, and there was {room}"
            held.extend(items if accepted else [])
        elif call == "take":
            assert tier.take(count) == [held.popleft() for _ in range(min(count, len(held)))]
        else:
            assert tier.take_one() == (held.popleft() if held else None)
        used = sum(map(len, held))
        assert (tier.items(), tier.payload_bytes()) == (len(held), used)
        assert len(held) <= most_items
        assert used <= most_bytes
        assert tier.room()[0] <= most_items - len(held)
        assert tier.room()[1] <= most_bytes - used
        assert 0.0 <= tier.fill() <= 1.0
        assert held or tier.fill() == 0.0
