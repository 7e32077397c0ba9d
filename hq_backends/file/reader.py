"""Reading records: short ones out of blocks read ahead, a long one by itself."""

import os
from typing import Final

from hq_backends.file.files import DataFile
from hq_backends.file.format import Format
from hq_core.errors import CorruptedData

__all__ = ["Reader"]


class Reader:
    """A position in the data file, and the block of it that was read ahead."""

    def __init__(self, data: DataFile, read_ahead: int) -> None:
        self._data = data
        self._read_ahead: Final = read_ahead
        self._block, self._at = b"", 0  # `_at` is where `offset` lies in it
        self.offset = 0
        """Offset of the next record."""

    def seek(self, offset: int) -> None:
        """Go on at `offset`; what was read ahead does not count any more."""
        self.offset = offset
        self._block, self._at = b"", 0

    def read(self, form: Format, tail: int, max_records: int, max_bytes: int) -> list[bytes]:
        """The next records before `tail`; raises `CorruptedData` and `OSError`, and then stays."""
        start = self._at
        found = form.decode(self._block, start, max_records, max_bytes)
        while found.missing and not found.records:
            if found.missing > self._read_ahead:
                return [self._read_large(form, tail, found.missing)]
            self._block = self._pread(self._read_ahead, found.missing, self.offset, tail)
            self._at = start = 0
            found = form.decode(self._block, start, max_records, max_bytes)
        self._at = found.end
        self.offset += found.end - start
        return found.records

    def whole_behind(self, form: Format, tail: int) -> int:
        """Where the record behind the next one starts, if checksums show one there; else 0."""
        if not form.seed:
            return 0
        try:
            behind = self.offset + self._record_bytes(form, self.offset, tail)
            size = self._record_bytes(form, behind, tail)
            record = self._pread(size, size, behind, tail)
            form.verify(record[: form.header_bytes], record[form.header_bytes :])
        except CorruptedData:
            return 0
        return behind

    def _record_bytes(self, form: Format, offset: int, tail: int) -> int:
        return form.record_bytes(self._pread(form.header_bytes, form.header_bytes, offset, tail))

    def _read_large(self, form: Format, tail: int, size: int) -> bytes:
        """The record of `size` bytes, header included, that comes next; without a second copy."""
        body = self.offset + form.header_bytes
        payload_bytes = size - form.header_bytes
        payload = self._pread(payload_bytes, payload_bytes, body, tail)
        form.verify(self._block[self._at : self._at + form.header_bytes], payload)
        self.seek(self.offset + size)
        return payload

    def _pread(self, size: int, at_least: int, offset: int, tail: int) -> bytes:
        block = os.pread(self._data.fd, max(0, min(size, tail - offset)), offset)
        if len(block) < at_least:
            raise CorruptedData(
                f"{self._data.path} ends amid a record, at byte {offset + len(block)}"
            )
        return block
