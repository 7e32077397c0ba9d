"""Reading records at an offset: short ones out of blocks read ahead, a long one by itself.

The reader has no position. It keeps the last block: going on where the last read ended finds the
next records in it, and reading elsewhere replaces it.
"""

from typing import Final

from hq_backends.file.files import OpenFile, read_at
from hq_backends.file.format import Format
from hq_core.errors import CorruptedData

__all__ = ["Reader"]


class Reader:
    """The data file, and the block of it that was read ahead: at most `read_ahead` bytes."""

    def __init__(self, data: OpenFile, read_ahead: int) -> None:
        self._data = data
        self._read_ahead: Final = read_ahead
        self._block, self._start = b"", 0  # `_start` is the offset of its first byte

    def forget(self) -> None:
        """Drop the block, because the file has changed or is about to."""
        self._block = b""

    def read(
        self, form: Format, offset: int, tail: int, max_records: int, max_bytes: int
    ) -> list[bytes]:
        """The records from `offset` on, up to `tail`; raises `CorruptedData` and `OSError`."""
        block, at = self._block, offset - self._start
        if not 0 <= at <= len(block):
            block, at = b"", 0
        found = form.decode(block, at, max_records, max_bytes)
        while found.missing and not found.records:
            if found.missing > self._read_ahead:
                header = block[at : at + form.header_bytes]
                return [self._read_large(form, header, offset, tail, found.missing)]
            block, at = self._pread(self._read_ahead, found.missing, offset, tail), 0
            self._block, self._start = block, offset
            found = form.decode(block, at, max_records, max_bytes)
        return found.records

    def peek(self, size: int, offset: int) -> bytes:
        """`size` bytes from `offset` on, fewer only if the file ends there; raises `OSError`."""
        at = offset - self._start
        if 0 <= at <= len(self._block) - size:
            return self._block[at : at + size]
        return read_at(self._data.fd, size, offset)

    def record_bytes(self, form: Format, offset: int, tail: int) -> int:
        """Bytes of the whole record at `offset`; of its header only the length is looked at.

        Raises `CorruptedData` if there can be none, or it ends after `tail`.
        """
        block, at = self._block, offset - self._start
        if not 0 <= at <= len(block) - form.header_bytes:
            block, at = self._pread(self._read_ahead, form.header_bytes, offset, tail), 0
            self._block, self._start = block, offset
        size = form.record_bytes(block[at : at + form.header_bytes])
        if offset + size > tail:
            raise self._ends_early(tail)
        return size

    def end_if_proven(self, form: Format, offset: int, tail: int) -> int:
        """Where the record at `offset` ends, if checksums prove that one begins there; else 0."""
        if not form.seed:
            return 0
        try:
            end = offset + self.record_bytes(form, offset, tail)
            if not self.void_bytes(form, end, tail):
                self._verify(form, end, tail)
        except CorruptedData:
            return 0
        return end

    def void_bytes(self, form: Format, offset: int, tail: int) -> int:
        """Bytes of the record at `offset` if it is a void (see `Checked.void`), else 0."""
        header = read_at(self._data.fd, form.header_bytes, offset)
        if len(header) < form.header_bytes or not form.is_void(header):
            return 0
        try:
            size = form.record_bytes(header)
        except CorruptedData:
            return 0
        try:
            self._verify(form, offset, tail)  # a record's checksum may look like a void's by chance
        except CorruptedData:
            return size if offset + size <= tail else 0
        return 0

    def _verify(self, form: Format, offset: int, tail: int) -> None:
        header = self._pread(form.header_bytes, form.header_bytes, offset, tail)
        size = form.record_bytes(header) - form.header_bytes
        form.verify(header, self._pread(size, size, offset + form.header_bytes, tail))

    def _read_large(self, form: Format, header: bytes, offset: int, tail: int, size: int) -> bytes:
        """The record of `size` bytes, header included, at `offset`; without a second copy."""
        payload_bytes = size - form.header_bytes
        payload = self._pread(payload_bytes, payload_bytes, offset + form.header_bytes, tail)
        form.verify(header, payload)
        return payload

    def _pread(self, size: int, at_least: int, offset: int, tail: int) -> bytes:
        block = read_at(self._data.fd, max(0, min(size, tail - offset)), offset)
        if len(block) < at_least:
            raise self._ends_early(offset + len(block))
        return block

    def _ends_early(self, offset: int) -> CorruptedData:
        return CorruptedData(f"{self._data.path} ends amid a record, at byte {offset}")
