"""What is known of the log: where it begins and ends, and where its first records do.

Offsets, each on a record's first byte::

    0 ... given back ... head ... records whose end is known ... others ... tail = end of file

`Log.extent` is one tuple, replaced as a whole: it is of one moment, whatever interrupts and
whichever thread looks. `ends` is only a cache of what the file says. After an interrupted trim it
may still begin with records that are done: those that do not end after the head.

A *void* is damage that was moved aside while records before it are not done. It stays where it is,
marked, and is counted neither as a record nor in bytes.
"""

import threading
from collections import deque
from collections.abc import Sequence
from typing import Final

from hq_backends.file.format import Format, Plain
from hq_backends.file.reader import Reader

__all__ = ["Extent", "Log"]

Extent = tuple[int, int, int, int]
"""Offset of the first record, offset after the last one, number of records, bytes of voids."""


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
        """Where the first records end, including the voids after them."""
        self.gaps: dict[int, int] = {}
        """The voids that were passed: offset and bytes."""
        self.uncounted_to = 0
        """There are no voids from this offset on. While it is above the head, positions count no
        records, so that whoever opens the file walks it and meets the voids."""
        self.committed = 0
        """The data up to here is on the disk."""
        self.generation = 0
        """Changes whenever offsets come to mean something else."""
        self.untidy = False
        """Bytes of a failed append may lie after the tail."""
        self.misplaced = False
        """The sidecar is not about the data as it is now."""
        self.holes_to = 0
        """There may be holes up to here, as in a copy, that hold empty records all the same."""
        self.owed_to = 0
        """Up to here there is damage that had no room to be set aside: it is not to be written
        over, nor given back."""
        self.astray = ""
        """What somebody else has done to the file, once that was seen."""

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

    def after_voids(self, offset: int) -> int:
        """`offset`, or the end of the voids that begin there."""
        while size := self._void_bytes(offset):
            offset += size
        return offset

    def without(self, count: int) -> Extent:
        """What `extent` is without the first `count` records. Raises like `find`."""
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
        """Drop from `ends` the records that are done."""
        ends, head = self.ends, self.extent[0]
        if ends and ends[-1] <= head:
            ends.clear()
        while ends and ends[0] <= head:
            ends.popleft()

    def holding(self, number: int, offset: int) -> Extent:
        """What `extent` is with the first `number` records alone, of which the last ends there."""
        head = min(self.extent[0], offset)
        return head, offset, number, self.voids_between(head, offset)

    def voids_between(self, start: int, end: int) -> int:
        """Bytes of the voids between two offsets, of those that were passed."""
        return sum(size for at, size in self.gaps.items() if start <= at < end)

    def forget(self, number: int = 0) -> None:
        """Drop what is known of record `number` and those after it."""
        while len(self.ends) > number:
            self.ends.pop()

    def shrink(self, extent: Extent, voids: Sequence[tuple[int, int]] = ()) -> None:
        """The log is less than it was: `extent`; between these offsets there are new voids.

        The only way to move the tail back. What is in the file behind it is no record.
        """
        gaps = {**self.gaps, **{start: end - start for start, end in voids}}
        with self.guard:
            self.untidy = self.misplaced = True
            self.generation += 1
            self.committed = min(self.committed, extent[1])
            self.uncounted_to = max([self.uncounted_to, *(end for _, end in voids)])
            self.gaps, self.extent = gaps, extent
        while self.ends and self.ends[-1] > extent[1]:
            self.ends.pop()

    def clear(self) -> None:
        """There are no records, and there will be another file, or this one begun anew."""
        self.forget()
        self.shrink((0, 0, 0, 0))
        self.gaps, self.uncounted_to, self.holes_to, self.owed_to = {}, 0, 0, 0

    def begin(self, form: Format, start: int) -> None:
        """The file is empty but for a preamble that ends at `start`."""
        with self.guard:
            self.form, self.extent = form, (start, start, 0, 0)

    def _pass_voids(self, number: int) -> int:
        """Offset of record `number`; where the one before it ends is known, but for voids."""
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
