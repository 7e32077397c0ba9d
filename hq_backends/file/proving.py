"""Records that their checksums prove, one behind the other or behind damage.

Where a damaged record ends cannot be known; where the next whole one begins can: it is looked for,
byte by byte.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from hq_backends.file.files import OpenFile, next_data, read_at
from hq_backends.file.format import Format
from hq_backends.file.reader import Reader
from hq_core.errors import CorruptedData
from hq_core.protocols import MAX_MESSAGE_BYTES

__all__ = ["Stretch", "stretches"]

_BLOCK: Final = 64 * 1024
_MANY: Final = 1000
_SEARCH_BYTES: Final = 4 * 1024 * 1024 * 1024
"""Most bytes whose checksum is taken in search of records: a few seconds. Only a file made for it
takes more."""


class Stretch(NamedTuple):
    """Bytes `start` to `end` of a file: whole records, or a void, or damage."""

    start: int
    end: int
    records: list[bytes]
    reason: str
    """Why there is no record to be had; empty if there are some, or it is a void."""


def stretches(data: OpenFile, form: Format, start: int, end: int) -> Iterator[Stretch]:
    """All that is between `start`, where a record should begin, and `end`, in memory for a few
    records. What is at the end may be torn as well as damaged."""
    reader, search = Reader(data, _BLOCK), _Search(data.fd, form, end)
    while start < end:
        try:
            records, reason = reader.read(form, start, end, _MANY, MAX_MESSAGE_BYTES), ""
        except CorruptedData as damage:
            records, reason = [], str(damage)
        if records:
            stop = start + sum(map(len, records)) + len(records) * form.header_bytes
        elif void := reader.void_bytes(form, start, end):
            stop, reason = start + void, ""
        else:  # the record that was read is let go of before another one is
            stop = search.next_whole(start + 1)
        yield Stretch(start, stop, records, reason)
        start = stop


class _Search:
    """Looks for records that their checksums prove, in the first `size` bytes of a file."""

    def __init__(self, fd: int, form: Format, size: int) -> None:
        self._fd = fd
        self._form = form
        self._size = size
        self._left = _SEARCH_BYTES

    def next_whole(self, start: int) -> int:
        """Offset of the first such record from `start` on; `size` if there is none."""
        header_bytes = self._form.header_bytes
        while start + header_bytes <= self._size and self._left > 0:
            start = max(start, next_data(self._fd, start, self._size) - header_bytes)
            block = read_at(self._fd, min(_BLOCK, self._size - start), start)
            at = block.find(0)  # the first byte of every length there may be
            while 0 <= at <= len(block) - header_bytes:
                header = block[at : at + header_bytes]
                if self._is_whole(header, start + at):
                    return start + at
                if not any(header):  # nor is there one in the rest of the zeros
                    at = len(block) - len(block[at:].lstrip(b"\0")) - header_bytes
                at = block.find(0, at + 1)
            start += max(len(block) - header_bytes + 1, 1)
        return self._size

    def _is_whole(self, header: bytes, start: int) -> bool:
        try:
            size = self._form.record_bytes(header)
            if start + size > self._size or self._left <= 0:
                return False
            self._left -= size
            body = self._form.header_bytes
            self._form.verify(header, read_at(self._fd, size - body, start + body))
        except CorruptedData:
            return False
        return True
