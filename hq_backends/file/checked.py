"""The format with checksums (``checksum=True``). Pure: bytes in, bytes out.

Grammar, all numbers 4 bytes and big-endian::

    file     = preamble (record | void)* torn?
    preamble = "HQCRC32" 0x01 seed crc(all before)
    record   = length crc(length payload, from seed on) payload
    void     = length crc(length, from seed with all bits flipped) payload

A void is damage that was set aside, and that its reader could not cut away since records before it
were not done. It is no record any more: whoever opens the file goes on behind it.

The seed is drawn anew for each file, and each time a drained file is begun again, so a block of an
earlier one is not taken for a record. Read by the specified format, the preamble claims a first
record of more than a gigabyte: damage, and no record is made up.
"""

from collections.abc import Sequence
from struct import Struct
from typing import ClassVar, Final
from zlib import crc32

from typing_extensions import override

from hq_backends.file.format import Decoded, Format, checked_length
from hq_core.errors import CorruptedData
from hq_core.protocols import MAX_MESSAGE_BYTES

__all__ = ["PREAMBLE_BYTES", "Checked", "checked_of"]

_MAGIC: Final = b"HQCRC32\x01"
_SEED: Final = Struct(">8sI")
_CRC: Final = Struct(">I")
_HEADER: Final = Struct(">II")
_LENGTH: Final = Struct(">I")
PREAMBLE_BYTES: Final = _SEED.size + _CRC.size


class Checked(Format):
    """Records with a CRC-32 each, of their length and payload."""

    header_bytes: ClassVar[int] = _HEADER.size

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._seed_of_voids = seed ^ 0xFFFFFFFF
        start = _SEED.pack(_MAGIC, seed)
        self.preamble = start + _CRC.pack(crc32(start))

    @override
    def encode(self, records: Sequence[bytes]) -> list[bytes]:
        """See `Format`."""
        buffers = []
        for record in records:
            length = len(record)
            crc = crc32(record, crc32(_LENGTH.pack(length), self.seed))
            buffers.append(_HEADER.pack(length, crc))
            buffers.append(record)
        return buffers

    @override
    def decode(self, block: bytes, start: int, max_records: int, max_bytes: int) -> Decoded:
        """See `Format`."""
        records: list[bytes] = []
        size = len(block)
        while len(records) < max_records:
            body = start + _HEADER.size
            if body > size:
                return Decoded(records, start, _HEADER.size)
            length, crc = _HEADER.unpack_from(block, start)
            if length > MAX_MESSAGE_BYTES:
                if records:
                    break
                checked_length(length)
            if length > max_bytes:
                break
            end = body + length
            if end > size:
                return Decoded(records, start, _HEADER.size + length)
            payload = block[body:end]
            if crc32(payload, crc32(block[start : start + 4], self.seed)) != crc:
                if records:
                    break
                raise _mismatch(length)
            records.append(payload)
            max_bytes -= length
            start = end
        return Decoded(records, start, 0)

    @override
    def record_bytes(self, header: bytes) -> int:
        """See `Format`; an empty record is verified, so that zeros are none."""
        length, _ = _HEADER.unpack_from(header)
        checked_length(length)
        if not length and not self.is_void(header):
            self.verify(header, b"")
        return _HEADER.size + int(length)

    @override
    def verify(self, header: bytes, payload: bytes) -> None:
        """See `Format`."""
        length, crc = _HEADER.unpack_from(header)
        if length != len(payload) or crc32(payload, crc32(header[:4], self.seed)) != crc:
            raise _mismatch(length)

    @override
    def is_void(self, header: bytes) -> bool:
        """See `Format`."""
        _, crc = _HEADER.unpack(header)
        return bool(crc == crc32(header[: _LENGTH.size], self._seed_of_voids))

    @override
    def voids(self, size: int) -> list[tuple[int, bytes]]:
        """See `Format`."""
        headers = []
        start = 0
        while size - start >= _HEADER.size:
            end = min(size, start + _HEADER.size + MAX_MESSAGE_BYTES)
            if 0 < size - end < _HEADER.size:  # the next one would have no room
                end -= _HEADER.size
            headers.append((start, self._void(end - start - _HEADER.size)))
            start = end
        return headers

    def _void(self, length: int) -> bytes:
        start = _LENGTH.pack(length)
        return start + _CRC.pack(crc32(start, self._seed_of_voids))


def checked_of(start: bytes) -> Checked | None:
    """The format of a file that begins with `start`; None: it is not one with checksums."""
    if len(start) < PREAMBLE_BYTES:
        return None
    magic, seed = _SEED.unpack_from(start)
    found = Checked(seed)
    return found if magic == _MAGIC and start.startswith(found.preamble) else None


def _mismatch(length: int) -> CorruptedData:
    return CorruptedData(f"the checksum of a record of {length} bytes is wrong")
