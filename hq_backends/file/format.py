"""The specified byte format of an overflow file. Pure: bytes in, bytes out.

Grammar::

    file   = record* torn?
    record = length payload
    length = 4 bytes, big-endian, at most MAX_MESSAGE_BYTES
    torn   = a record whose end was never written: its append did not return

Torn and damaged are told apart by one rule, here and nowhere else: a record that ends beyond the
last byte is torn, since appends are cut short only at the end; a length above the limit was never
written by anybody, so it and all behind it is damaged, for there is no way to find the next
record but to guess. (With checksums there is, see `hq_backends.file.proving`.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import ClassVar, Final, Protocol

from typing_extensions import override

from hq_core.errors import CorruptedData
from hq_core.protocols import MAX_MESSAGE_BYTES

__all__ = ["Decoded", "Format", "Plain", "checked_length"]

_LENGTH: Final = Struct(">I")


@dataclass(frozen=True, slots=True)
class Decoded:
    """What `Format.decode` found."""

    records: list[bytes]
    """The payloads, in order."""
    end: int
    """Index in the block behind the last of them."""
    missing: int
    """Bytes the block must hold from `end` on to show the next record; 0 if a limit ended it."""


class Format(Protocol):
    """How records lie in a file."""

    header_bytes: ClassVar[int]
    """Bytes in front of each payload."""
    preamble: bytes
    """What the file begins with, before its first record."""
    seed: int
    """What tells this file from others of the format; 0 if nothing does."""

    def encode(self, records: Sequence[bytes]) -> list[bytes]:
        """The file's bytes for `records`, as buffers to be written one behind the other."""

    def decode(self, block: bytes, start: int, max_records: int, max_bytes: int) -> Decoded:
        """Up to `max_records` whole records with up to `max_bytes` of payload, from `start` on.

        Raises `CorruptedData` if the record at `start` cannot be one; a damaged record further on
        ends the run, so that what is before it is delivered first.
        """

    def record_bytes(self, header: bytes) -> int:
        """Bytes of the whole record that starts with `header`; raises `CorruptedData`."""

    def verify(self, header: bytes, payload: bytes) -> None:
        """Raise `CorruptedData` if the two are seen not to belong together."""

    def is_void(self, header: bytes) -> bool:
        """Whether the record that starts with `header` was made void, see `voids`.

        One in 2**32 whole records looks like that as well: ask `verify` too.
        """

    def voids(self, size: int) -> list[tuple[int, bytes]]:
        """What to write, and where, to make `size` bytes void, which are as long as a header."""


class Plain(Format):
    """The specified format."""

    header_bytes: ClassVar[int] = _LENGTH.size
    preamble = b""
    seed = 0

    @override
    def encode(self, records: Sequence[bytes]) -> list[bytes]:
        """See `Format`."""
        buffers = []
        for record in records:
            buffers.append(_LENGTH.pack(len(record)))
            buffers.append(record)
        return buffers

    @override
    def decode(self, block: bytes, start: int, max_records: int, max_bytes: int) -> Decoded:
        """See `Format`."""
        records: list[bytes] = []
        size = len(block)
        while len(records) < max_records:
            body = start + _LENGTH.size
            if body > size:
                return Decoded(records, start, _LENGTH.size)
            (length,) = _LENGTH.unpack_from(block, start)
            if length > MAX_MESSAGE_BYTES:
                if records:
                    break
                checked_length(length)
            if length > max_bytes:
                break
            end = body + length
            if end > size:
                return Decoded(records, start, _LENGTH.size + length)
            records.append(block[body:end])
            max_bytes -= length
            start = end
        return Decoded(records, start, 0)

    @override
    def record_bytes(self, header: bytes) -> int:
        """See `Format`."""
        (length,) = _LENGTH.unpack_from(header)
        return _LENGTH.size + checked_length(length)

    @override
    def verify(self, header: bytes, payload: bytes) -> None:
        """Nothing can be seen."""

    @override
    def is_void(self, header: bytes) -> bool:
        """None is: where a damaged record ends cannot be seen."""
        return False

    @override
    def voids(self, size: int) -> list[tuple[int, bytes]]:
        """Nothing: see `is_void`."""
        return []


def checked_length(length: int) -> int:
    """`length`, unless nobody can have written it: then raises `CorruptedData`."""
    if length > MAX_MESSAGE_BYTES:
        raise CorruptedData(f"a record claims {length} bytes; {MAX_MESSAGE_BYTES} is the limit")
    return length
