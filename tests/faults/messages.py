"""Messages that tell their number: what comes back can be judged without remembering what was sent.

Message `number` of `seed` is always the same bytes, of one of many sizes. Those of even seeds
are empty now and then, those of seeds 3, 7, 11 ... are all short.
"""

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Final

__all__ = ["bytes_of", "first_of", "message", "messages"]

_HEAD: Final = Struct(">QQ")
_SIZES: Final = (0, 16, 17, 40, 188, 188, 316, 1316, 1316, 1316, 1400, 3000, 4092, 4096, 9000, 0)
_LARGE: Final = 300_000
"""How long one in 128 is."""
_SMALL: Final = 40


def message(seed: int, number: int) -> bytes:
    """Message `number` of `seed`: both of them and filling, or, if `seed` is even, nothing."""
    mixed = ((number + 1) * 0x9E3779B97F4A7C15 ^ seed * 0xD1B54A32D192ED03) >> 29
    size = _LARGE if mixed % 128 == 5 else _SIZES[mixed // 128 % len(_SIZES)]
    if seed % 2:
        size = size or _HEAD.size
    if seed % 4 == 3:
        size = min(size, _SMALL)
    return (_HEAD.pack(seed, number) + bytes([mixed % 251]) * (size - _HEAD.size))[:size]


def messages(seed: int, first: int, end: int) -> list[bytes]:
    """Messages `first` to `end` of `seed`, without the last."""
    return [message(seed, number) for number in range(first, end)]


def bytes_of(seed: int, numbers: Iterable[int]) -> int:
    """Payload of those messages in all."""
    return sum(len(message(seed, number)) for number in numbers)


def first_of(seed: int, found: Sequence[bytes], ends: Iterable[int]) -> int:
    """The number of the first of `found`, which are messages of `seed` in a row, whole, as sent.

    Raises `AssertionError` if they are not. If they are all empty, their row is one that ends at
    one of `ends`.
    """
    numbers = [_HEAD.unpack_from(item)[1] - n for n, item in enumerate(found) if len(item) >= 16]
    wrong = 0
    for first in numbers[:1] or [end - len(found) for end in ends]:
        wrong = _first_wrong(seed, found, first)
        if wrong == len(found):
            return int(first)
    around = [_shown(item) for item in found[max(0, wrong - 3) : wrong + 10]]
    raise AssertionError(
        f"of {len(found)} items, that at {wrong} was not sent so: ... {around} ..."
    )


def _first_wrong(seed: int, found: Sequence[bytes], first: int) -> int:
    """Index of the first item that is not the message it should be; their number if all are."""
    for index, item in enumerate(found):
        if item != message(seed, first + index):
            return index
    return len(found)


def _shown(item: bytes) -> str:
    if len(item) < _HEAD.size:
        return str(item)
    return f"{_HEAD.unpack_from(item)}, {len(item)} bytes, ending in {item[-8:]!r}"
