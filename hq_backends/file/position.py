"""The position sidecar's byte format. Pure: bytes in, bytes out.

Two slots are written in turn, each a block of the file system from the other. A slot that a crash
has torn fails its checksum, and the other one, a little older, is whole.

A position proves itself: it has checksums of the bytes of the data file around what it tells. So it
is not by the number of the file, or the name of the disk, that it is known to be about a file.
"""

from collections.abc import Iterable
from struct import Struct, error
from typing import Final, NamedTuple
from zlib import crc32

__all__ = ["PROOF_BYTES", "SIDECAR_BYTES", "SLOT_SPACING", "Position", "decode", "encode", "whole"]

_MAGIC: Final = b"HQPOS\0\0\2"
_SLOT: Final = Struct(">8sQ16sQIQQQQII")
_CRC: Final = Struct(">I")
_LAST: Final = 1 << 63
"""A sequence that no file lives to see; one more must fit as well."""
SLOT_SPACING: Final = 4096
"""Bytes from the start of one slot to that of the other."""
SIDECAR_BYTES: Final = 2 * SLOT_SPACING
PROOF_BYTES: Final = 64
"""Bytes on either side of the head, and before the tail, that prove the two."""


class Position(NamedTuple):
    """What is known of the data file at one moment; offsets in bytes."""

    boot: bytes
    """Which run of the operating system wrote it, 16 bytes."""
    inode: int
    """The number of the data file it is about."""
    seed: int
    """The seed of that file, if it has checksums."""
    head: int
    """Offset of the oldest record that is not done."""
    tail: int
    """Offset behind the newest record; the file may go on behind it."""
    records: int
    """How many records are between the two."""
    committed: int
    """Offset up to which the data is known to be on the disk."""
    around_head: int
    """CRC-32 of the last bytes before the head, and of the first between head and tail."""
    before_tail: int
    """CRC-32 of the last bytes between head and tail."""


def encode(position: Position, sequence: int) -> bytes:
    """The bytes of a slot; the one with the higher `sequence` counts."""
    slot = _SLOT.pack(_MAGIC, sequence, *position)
    return slot + _CRC.pack(crc32(slot))


def decode(slot: bytes) -> tuple[int, Position] | None:
    """Sequence and position of a slot; None if it is not a whole one."""
    try:
        magic, sequence, *fields = _SLOT.unpack_from(slot)
        (crc,) = _CRC.unpack_from(slot, _SLOT.size)
    except error:
        return None
    if magic != _MAGIC or crc != crc32(slot[: _SLOT.size]) or sequence > _LAST:
        return None
    return sequence, Position(*fields)


def whole(slots: Iterable[bytes]) -> list[tuple[int, Position]]:
    """The whole slots, the one with the highest sequence first."""
    found = [slot for slot in map(decode, slots) if slot is not None]
    return sorted(found, key=lambda slot: -slot[0])
