"""What is known of the log: where it begins and ends, and where its first records do.

Offsets, each on a record's first byte::

    0 ... given back ... head ... records whose end is known ... others ... tail = end of file

`Log.extent` is one tuple, replaced as a whole: whatever interrupts, and whichever thread looks, it
is of one moment. All else here is looked up in the file again if it was forgotten, so `ends` may
be behind `extent`: what is not above its head is done with.

A *void* is a damaged record that was moved aside while records before it are not done. It stays
where it is, marked, between two records; it is not counted, neither as a record nor in bytes.
"""

import threading
from collections import deque
from typing import Final

from hq_backends.file.format import Format, Plain
from hq_backends.file.reader import Reader

__all__ = ["Extent", "Log"]

Extent = tuple[int, int, int, int]
"""Offset of the first record, offset behind the last one, how many they are, bytes of voids."""


class Log:
    """The records of the data file that are not done."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.guard: Final = threading.Lock()
        """Held where more than `extent` changes of what a position is made of."""
        self.extent: Extent = (0, 0, 0, 0)
        self.form: Format = Plain()
        """The format of the file, unless it is empty."""
        self.ends: deque[int] = deque()
        """Where the first records end, voids behind them included."""
        self.gaps: dict[int, int] = {}
        """The voids that were passed: offset and bytes."""
        self.uncounted_to = 0
        """There are no voids from here on. If this is above the head, positions count no records:
        who opens the file has to walk, and meets them."""
        self.committed = 0
        """The data up to here is on the disk."""
        self.generation = 0
        """Changes whenever offsets come to mean something else."""
        self.inode = 0
        """Of the data file; 0 if it was not asked."""
        self.untidy = False
        """Bytes of a failed append may lie behind the tail."""
        self.misplaced = False
        """The sidecar does not hold for the data any more."""

    def find(self, number: int) -> int:
        """Offset of record `number`, at most the number of records; walks headers if it must.

        Raises `CorruptedData` if record ``len(ends)``, one before `number`, cannot be one.
        """
        ends = self.ends
        self.drop_done()
        while True:
            known = len(ends)
            offset = self._pass_voids(min(number, known))
            if number <= known:
                return offset
            size = self._reader.record_bytes(self.form, offset, self.extent[1])
            ends.append(offset + size)

    def behind_voids(self, offset: int) -> int:
        """Where the record begins that comes behind the voids at `offset`, if there are any."""
        while size := self._void_bytes(offset):
            offset += size
        return offset

    def without(self, count: int) -> Extent:
        """What `extent` is without the first `count` records, see `find`."""
        head, tail, records, voids = self.extent
        if count == records:
            return tail, tail, 0, 0
        ends = self.ends
        if count <= len(ends) and head >= self.uncounted_to and ends[0] > head:
            return ends[count - 1], tail, records - count, voids
        offset = self.find(count)
        head, tail, records, voids = self.extent
        return offset, tail, records - count, voids - self.voids_between(head, offset)

    def drop_done(self) -> None:
        """Forget where records end that are not in the log any more."""
        ends, head = self.ends, self.extent[0]
        if ends and ends[-1] <= head:
            ends.clear()
        while ends and ends[0] <= head:
            ends.popleft()

    def voids_between(self, start: int, end: int) -> int:
        """Bytes of the voids that were passed between two offsets."""
        return sum(size for at, size in self.gaps.items() if start <= at < end)

    def forget(self, number: int = 0) -> None:
        """Where record `number` and those behind it end is not known any more."""
        while len(self.ends) > number:
            self.ends.pop()

    def make_void(self, number: int, behind: int) -> None:
        """Record `number`, which ends at `behind`, is none: it lies before the next one."""
        offset = self.find(number)
        self.forget(number)
        head, tail, records, voids = self.extent
        if not number:
            self.extent = (behind, tail, records - 1, voids)
            return
        self.uncounted_to = behind if behind > self.uncounted_to else self.uncounted_to
        size = behind - offset
        extent = (head, tail, records - 1, voids + size)
        self.gaps[offset], self.ends[number - 1], self.extent = size, behind, extent

    def begin(self, form: Format, start: int) -> None:
        """The file is empty but for a preamble that ends at `start`."""
        with self.guard:
            self.form, self.extent = form, (start, start, 0, 0)

    def _pass_voids(self, number: int) -> int:
        """Offset of record `number`, which is known but for voids behind the one before it."""
        offset = self.ends[number - 1] if number else self.extent[0]
        while size := self._void_bytes(offset):
            if number:
                self.gaps[offset] = size
                offset += size
                self.ends[number - 1] = offset
            else:
                offset += size
                _, tail, records, voids = self.extent
                self.extent = (offset, tail, records, voids - size)
        return offset

    def _void_bytes(self, offset: int) -> int:
        """Bytes of the void at `offset`; 0: there is none."""
        if offset >= self.uncounted_to:
            return 0
        return self.gaps.get(offset) or self._reader.void_bytes(self.form, offset, self.extent[1])
