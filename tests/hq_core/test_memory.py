"""The memory tiers, against a deque and two numbers."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hq_core import MAX_MESSAGE_BYTES, BytesTier, CountTier, MemoryTier

reproducible = settings(derandomize=True, deadline=None)

MOST_ITEMS = 4
MOST_BYTES = 12


@dataclass
class Model:
    """What a tier of these limits has to do, said with a deque."""

    most_items: int
    most_bytes: int
    held: deque[bytes] = field(default_factory=deque)

    def size(self) -> int:
        return sum(map(len, self.held))

    def fits(self, items: Sequence[bytes]) -> bool:
        count = len(self.held) + len(items)
        return count <= self.most_items and self.size() + sum(map(len, items)) <= self.most_bytes

    def leave(self, count: int) -> list[bytes]:
        return [self.held.popleft() for _ in range(min(count, len(self.held)))]


@dataclass(frozen=True)
class Kind:
    """A tier and the limits it is to keep."""

    make: Callable[[], MemoryTier]
    most_bytes: int

    def model(self) -> Model:
        return Model(MOST_ITEMS, self.most_bytes)


COUNT = Kind(lambda: CountTier(MOST_ITEMS), MOST_ITEMS * MAX_MESSAGE_BYTES)
BYTES = Kind(lambda: BytesTier(MOST_BYTES, MOST_ITEMS), MOST_BYTES)
both = pytest.mark.parametrize("kind", [COUNT, BYTES], ids=["CountTier", "BytesTier"])

Action = Callable[[MemoryTier, Model], None]


def _offer(items: list[bytes]) -> Action:
    def act(tier: MemoryTier, model: Model) -> None:
        fits = model.fits(items)
        assert tier.offer(items) is fits
        model.held.extend(items if fits else [])

    return act


def _offer_one(item: bytes) -> Action:
    def act(tier: MemoryTier, model: Model) -> None:
        fits = model.fits([item])
        assert tier.offer_one(item) is fits
        model.held.extend([item] if fits else [])

    return act


def _take(count: int) -> Action:
    def act(tier: MemoryTier, model: Model) -> None:
        assert tier.take(count) == model.leave(count)

    return act


def _take_one(tier: MemoryTier, model: Model) -> None:
    assert tier.take_one() == next(iter(model.leave(1)), None)


small = st.binary(max_size=6)
actions = st.lists(
    st.one_of(
        st.builds(_offer, st.lists(small, min_size=1, max_size=MOST_ITEMS + 1)),
        st.builds(_offer_one, small),
        st.builds(_take, st.integers(1, MOST_ITEMS + 1)),
        st.just(_take_one),
    ),
    max_size=30,
)


def played(kind: Kind, script: Sequence[Action]) -> Iterator[tuple[MemoryTier, Model]]:
    """A tier and its model at the start and after each action."""
    tier, model = kind.make(), kind.model()
    yield tier, model
    for act in script:
        act(tier, model)
        yield tier, model


@both
@reproducible
@given(script=actions)
def test_a_tier_answers_as_a_bounded_deque_does(kind: Kind, script: list[Action]) -> None:
    *_, (tier, model) = played(kind, script)
    assert tier.take(MOST_ITEMS) == list(model.held)


@both
@reproducible
@given(
    script=st.lists(
        st.tuples(st.lists(small, min_size=1, max_size=MOST_ITEMS + 1), small, st.booleans()),
        max_size=30,
    )
)
def test_the_limits_are_never_exceeded(
    kind: Kind, script: list[tuple[list[bytes], bytes, bool]]
) -> None:
    tier = kind.make()
    held: deque[bytes] = deque()
    for batch, single, take in script:
        held.extend(batch if tier.offer(batch) else [])
        assert len(held) <= MOST_ITEMS
        assert sum(map(len, held)) <= kind.most_bytes
        held.extend([single] if tier.offer_one(single) else [])
        assert len(held) <= MOST_ITEMS
        assert sum(map(len, held)) <= kind.most_bytes
        if take and tier.take_one() is not None:
            held.popleft()


@both
@reproducible
@given(script=actions)
def test_the_counters_tell_what_is_held(kind: Kind, script: list[Action]) -> None:
    for tier, model in played(kind, script):
        assert tier.items() == len(model.held)
        assert tier.payload_bytes() == model.size()


@reproducible
@given(script=actions)
def test_room_tells_how_many_bytes_are_accepted(script: list[Action]) -> None:
    for tier, model in played(BYTES, script):
        items, size = tier.room()
        if items:
            assert size == MOST_BYTES - model.size()


@both
@reproducible
@given(script=actions)
def test_room_tells_how_many_items_are_accepted(kind: Kind, script: list[Action]) -> None:
    *_, (tier, _) = played(kind, script)
    items, _ = tier.room()
    assert not tier.offer([b""] * (items + 1))
    assert not items or tier.offer([b""] * items)


@both
def test_a_full_tier_has_no_room_for_bytes_either(kind: Kind) -> None:
    tier = kind.make()
    assert tier.offer([b""] * MOST_ITEMS)
    assert tier.room() == (0, 0)


@both
def test_capacity_is_the_room_of_an_empty_tier_and_stays_the_same(kind: Kind) -> None:
    tier = kind.make()
    empty = tier.room()
    assert empty == (MOST_ITEMS, kind.most_bytes)
    tier.offer([b"x", b"y"])
    assert tier.capacity() == empty


@reproducible
@given(script=actions)
def test_count_tier_fill_is_the_share_of_its_items(script: list[Action]) -> None:
    for tier, model in played(COUNT, script):
        assert tier.fill() == len(model.held) / MOST_ITEMS


@reproducible
@given(script=actions)
def test_bytes_tier_fill_is_the_share_of_the_tighter_limit(script: list[Action]) -> None:
    for tier, model in played(BYTES, script):
        assert tier.fill() == max(len(model.held) / MOST_ITEMS, model.size() / MOST_BYTES)


@both
def test_a_refused_offer_leaves_nothing_behind(kind: Kind) -> None:
    tier = kind.make()
    tier.offer([b"first"])
    assert not tier.offer([b"x"] * MOST_ITEMS)
    assert (tier.items(), tier.payload_bytes()) == (1, 5)
    assert tier.take(MOST_ITEMS) == [b"first"]


def test_a_batch_too_large_in_bytes_is_refused_whole() -> None:
    tier = BytesTier(MOST_BYTES)
    assert not tier.offer([b"a", b"b" * MOST_BYTES])
    assert tier.items() == 0


@both
def test_an_empty_message_is_an_item(kind: Kind) -> None:
    tier = kind.make()
    assert tier.offer_one(b"")
    assert tier.items() == 1
    assert tier.take_one() == b""
    assert tier.take_one() is None


def test_an_empty_message_fits_where_no_byte_does() -> None:
    tier = BytesTier(MOST_BYTES, MOST_ITEMS)
    assert tier.offer_one(bytes(MOST_BYTES))
    assert not tier.offer_one(b"x")
    assert tier.offer_one(b"")


@both
def test_an_empty_tier_gives_nothing(kind: Kind) -> None:
    tier = kind.make()
    assert tier.take_one() is None
    assert tier.take(5) == []


def test_count_tier_takes_items_of_any_size() -> None:
    largest = bytes(MAX_MESSAGE_BYTES)
    tier = CountTier(3)
    assert tier.offer([largest] * 3)
    assert tier.payload_bytes() == 3 * MAX_MESSAGE_BYTES
    assert not tier.offer_one(b"")


def test_bytes_tier_refuses_an_item_longer_than_it_can_ever_hold() -> None:
    assert not BytesTier(MOST_BYTES).offer_one(bytes(MOST_BYTES + 1))


@pytest.mark.parametrize(("max_bytes", "items"), [(1, 64), (64 * 64, 64), (6_400_000, 100_000)])
def test_bytes_tier_allows_one_item_for_every_64_bytes_but_at_least_64(
    max_bytes: int, items: int
) -> None:
    assert BytesTier(max_bytes).capacity() == (items, max_bytes)


@pytest.mark.parametrize("wrong", [0, -1])
def test_a_limit_below_one_is_refused_by_name(wrong: int) -> None:
    with pytest.raises(ValueError, match=r"^max_items must be at least 1, not"):
        CountTier(wrong)
    with pytest.raises(ValueError, match=r"^max_bytes must be at least 1, not"):
        BytesTier(wrong)
    with pytest.raises(ValueError, match=r"^max_items must be at least 1, not"):
        BytesTier(1, wrong)


@pytest.mark.parametrize("wrong", [1.0, True, "1", b"1"])
def test_a_limit_that_is_no_int_is_refused_by_name(wrong: int) -> None:
    with pytest.raises(TypeError, match=r"^max_items must be an int, not"):
        CountTier(wrong)
    with pytest.raises(TypeError, match=r"^max_bytes must be an int, not"):
        BytesTier(wrong)
    with pytest.raises(TypeError, match=r"^max_items must be an int, not"):
        BytesTier(1, wrong)
