"""What an earlier owner left in an overflow file: finding it. Nothing is changed here.

A position counts if its checksums match and, besides, either it was written in this run of the
system about this very file and none of that is a hole, or the records walk from its head to its
tail and are as many as it says. So a copy, a restored or a moved file is read where it was left.
Where nothing proves where the log begins, repeats are preferred to loss.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from struct import Struct
from typing import Final, Literal

from hq_backends.file.checked import PREAMBLE_BYTES, Checked, checked_of
from hq_backends.file.files import OpenFile, next_data, next_hole, read_at
from hq_backends.file.format import Format, Plain
from hq_backends.file.position import Position
from hq_backends.file.proof import around_head, before_tail
from hq_backends.file.proving import stretches
from hq_core.errors import CorruptedData
from hq_core.protocols import MAX_MESSAGE_BYTES
from hq_core.stats import Damage

__all__ = ["LEAST_GIVEN_BACK", "Survey", "Walk", "boot_id", "find", "walk"]

_BLOCK: Final = 64 * 1024
_PAGE: Final = 4096
LEAST_GIVEN_BACK: Final = 1024 * 1024
"""Bytes of the consumed start of a file that are given back at once, at least."""
_ZEROS: Final = bytes(_BLOCK)
_LENGTH: Final = Struct(">I")
_CUT_SHORT: Final = "the last record is unfinished"
_ONLY_ZEROS: Final = "zeros, such as a power cut leaves, are no records"
_AMID_ZEROS: Final = "zeros, which are no records, and more behind them"
_ZEROS_IN_FRONT: Final = "zeros, which are no records, at the front of the file"
_POSITION_LOST: Final = "where the log begins is not known"

_Stop = Literal["end", "cut short", "zeros", "damage"]


@dataclass(frozen=True, slots=True)
class Survey:
    """The records of a file that are not done, and what else there is."""

    form: Format
    """The format of the file."""
    size: int
    """Bytes in it."""
    head: int
    """Offset of the first of the records."""
    records: int
    """How many there are."""
    end: int
    """Offset behind the last of them."""
    damage: tuple[Damage, ...] = ()
    """Where no record can be made of what is there, in order."""
    torn: int = 0
    """Bytes behind `end` that an append has left unfinished."""
    why_torn: str = ""
    """What these are."""
    noted: Position | None = None
    """The position that it was found by."""
    unwalked: int = 0
    """How many of the records were not walked, as the position is sure of them."""
    unwalked_to: int = 0
    """Offset behind those."""
    voids: int = 0
    """Bytes between the records that hold none any more, see `Checked.void`."""
    voids_to: int = 0
    """There are none of these from here on."""

    @property
    def holds_something(self) -> bool:
        """Whether there is more than a part of a header."""
        return bool(self.records or self.damage or self.torn >= self.form.header_bytes)


@dataclass(frozen=True, slots=True)
class Walk:
    """Headers followed from one record to the next."""

    records: int
    """How many records were passed."""
    end: int
    """Offset behind the last of them."""
    stop: _Stop
    """What is there: the end; a record that goes on beyond it; zeros up to it; no record."""
    reason: str = ""
    """What to say of that."""


def boot_id() -> bytes:
    """Which run of the operating system this is, 16 bytes; zeros if it does not say."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text("ascii")
    except OSError:
        return bytes(16)
    return bytes.fromhex(text.replace("-", ""))


def find(data: OpenFile, positions: Sequence[Position] | None) -> Survey:
    """What is in the file `data`, given what its sidecar says, the newer position first.

    None: it has none, as other programs leave it.

    In constant memory. What a position is sure of is not walked, so that a large backlog opens at
    once. Raises `OSError`.
    """
    return _Finding(data, positions).find()


def walk(
    fd: int,
    form: Format,
    start: int,
    end: int,
    *,
    zeros_from: int | None = None,
    least_zeros: int = 0,
    most: int | None = None,
) -> Walk:
    """Walk the headers between two offsets, over `most` records; payloads are not looked at, and
    voids taken for records.

    From `zeros_from` on, zeros where a record would begin are not empty records, but what a power
    cut leaves on some systems, unless there is a whole record behind them and they do not go on to
    the end of a page, or are less than `least_zeros`.
    """
    walking = _Walking(fd, form, end, end if zeros_from is None else zeros_from, least_zeros)
    return walking.walk(start, end if most is None else most)  # no record takes less than a byte


class _Walking:
    """Where a walk has got to."""

    def __init__(self, fd: int, form: Format, end: int, zeros_from: int, least_zeros: int) -> None:
        self._fd = fd
        self._form = form
        self._end = end
        self._zeros_from = zeros_from
        self._least_zeros = least_zeros
        self._zeros_end = 0

    def walk(self, offset: int, most: int) -> Walk:
        """See `walk`."""
        fd, form, end, zeros_from = self._fd, self._form, self._end, self._zeros_from
        header_bytes, length_at = form.header_bytes, _LENGTH.unpack_from
        records, block, block_start, wanted = 0, b"", 0, _BLOCK
        sure = 0, offset  # without empty records that nothing is behind and no position counts
        while offset + header_bytes <= end and records < most:
            at = offset - block_start
            if at + header_bytes > len(block):
                block, block_start, at = read_at(fd, wanted, offset), offset, 0
            (length,) = length_at(block, at)
            if 0 < length <= MAX_MESSAGE_BYTES:
                size = header_bytes + length
            else:
                header = block[at : at + header_bytes]
                try:
                    size = form.record_bytes(header)
                except CorruptedData as exc:
                    return self._ends(sure, "damage", str(exc))
                if not length and offset >= zeros_from and (stop := self._stop_by_zeros(offset)):
                    return self._ends(sure, *stop)
            if offset + size > end:
                return self._ends(sure, "cut short", _CUT_SHORT)
            offset += size
            records += 1
            if length or offset <= zeros_from or self._least_zeros:
                sure = records, offset
            wanted = _BLOCK if size < _BLOCK // 4 else header_bytes
        if 0 < end - offset < header_bytes:
            return self._ends(sure, "cut short", _CUT_SHORT)
        return self._ends((records, offset), "end", "")

    def _ends(self, sure: tuple[int, int], stop: _Stop, reason: str) -> Walk:
        return Walk(*sure, stop, reason)

    def _stop_by_zeros(self, offset: int) -> tuple[_Stop, str] | None:
        """How the walk ends, if it does, at the zeros at `offset`."""
        if self._zeros_end <= offset:
            self._zeros_end = zeros_end(self._fd, offset, self._end)
        if self._zeros_end == self._end:
            return ("zeros", _ONLY_ZEROS) if self._end - offset >= self._least_zeros else None
        page_end = -(-(offset + 1) // _PAGE) * _PAGE
        if self._zeros_end >= max(page_end, offset + self._least_zeros):
            return "damage", _AMID_ZEROS
        return None


def zeros_end(fd: int, start: int, end: int) -> int:
    """Where the zeros that begin at `start` end, at most `end`."""
    while start < end:
        start = next_data(fd, start, end)
        block = read_at(fd, min(_BLOCK, end - start), start)
        if block != _ZEROS[: len(block)]:
            return start + len(block) - len(block.lstrip(b"\0"))
        if not block:
            break
        start += len(block)
    return end


class _Finding:
    """One look at a file. Each way to find where the log begins gives None if it is none."""

    def __init__(self, data: OpenFile, positions: Sequence[Position] | None) -> None:
        info = os.fstat(data.fd)
        self._data = data
        self._fd = data.fd
        self._size = info.st_size
        self._inode = info.st_ino
        self._least_zeros = _PAGE if positions is None else 0
        self._newest = positions[0] if positions else None
        self._form = self._format(positions or [])
        self._first = len(self._form.preamble)
        self._positions = [noted for noted in positions or [] if self._is_possible(noted)]

    def find(self) -> Survey:
        """See `find`."""
        by_position = map(self._by_position, self._positions)
        by_count = map(self._by_count, self._positions)
        from_tail = map(self._from_tail, self._positions)
        found = _first(by_position) or self._from_the_front() or _first(by_count)
        if self._form.seed:
            return found or self._behind_what_was_given_back() or self._by_checksums(self._first)
        return found or self._up_to_damage() or _first(from_tail) or self._nothing()

    @cached_property
    def _front(self) -> Walk:
        """From the front of the file on, as far as nothing speaks against it."""
        fd, form, first = self._fd, self._form, self._first
        if form.seed:
            return walk(fd, form, first, self._size)
        header = read_at(fd, form.header_bytes, first)
        if len(header) == form.header_bytes and not any(header):
            zeros = zeros_end(fd, first, self._size) - first
            if zeros >= self._least_zeros:
                return Walk(0, first, "damage", _ZEROS_IN_FRONT)
        for noted in self._positions:
            if noted.inode == self._inode and noted.tail <= self._size:
                before = walk(fd, form, first, noted.head, zeros_from=first)
                within = walk(fd, form, noted.head, noted.tail)
                ends = before.end, within.end
                if ends == (noted.head, noted.tail) and within.records != noted.records:
                    return replace(before, stop="damage", reason=_miscount(noted, within))
        least = self._least_zeros
        return walk(fd, form, first, self._size, zeros_from=first, least_zeros=least)

    # ---- what a position says --------------------------------------------------------------

    def _format(self, positions: Sequence[Position]) -> Format:
        found = checked_of(read_at(self._fd, PREAMBLE_BYTES, 0))
        if found is not None:
            return found
        for noted in positions:  # the beginning may be damaged; each record tells if it is whole
            if noted.seed and (
                noted.inode == self._inode or self._proves(noted, PREAMBLE_BYTES)[0]
            ):
                return Checked(noted.seed)
        return Plain()

    def _is_possible(self, noted: Position) -> bool:
        size, least = noted.tail - noted.head, self._form.header_bytes
        return (
            noted.seed == self._form.seed
            and self._first <= noted.head <= self._size
            and noted.records * least <= size <= noted.records * (least + MAX_MESSAGE_BYTES)
        )

    def _proves(self, noted: Position, first: int) -> tuple[bool, bool]:
        """Whether the head, and the tail, that were noted are seen to be those of this file."""
        if not first <= noted.head <= min(self._size, noted.tail):
            return False, False
        if noted.tail == first:  # there was nothing yet to have a checksum of
            return noted.inode == self._inode and noted == self._newest, False
        read, head, tail = partial(read_at, self._fd), noted.head, noted.tail
        tail_holds = (
            head < tail <= self._size and before_tail(read, head, tail) == noted.before_tail
        )
        return around_head(read, first, head, tail) == noted.around_head, tail_holds

    def _counts(self, noted: Position) -> bool:
        """Whether as many records as were noted lead from the head to the tail."""
        if noted.tail > self._size:
            return False
        found = walk(self._fd, self._form, noted.head, noted.tail, most=noted.records + 1)
        return (found.records, found.end) == (noted.records, noted.tail)

    def _is_untouched(self, noted: Position) -> bool:
        """Whether nobody but us, in this run of the system, can have changed the file."""
        here = noted.inode == self._inode and noted.boot == boot_id() != bytes(16)
        return here and next_hole(self._fd, noted.head) >= noted.tail

    # ---- where the log may begin -----------------------------------------------------------

    def _by_position(self, noted: Position) -> Survey | None:
        """By a head that proves itself, or a tail that does and the number of records."""
        head, tail = self._proves(noted, self._first)
        if head and tail and self._is_untouched(noted):
            return self._counted(noted, unwalked=noted.records)
        if (head or tail) and self._counts(noted):
            return self._counted(noted)
        if not head:
            return None
        found = self._from_head(noted, leads_to_tail=tail)
        return None if found.damage and not found.records else replace(found, noted=noted)

    def _from_the_front(self) -> Survey | None:
        """From the front, if records follow one another from there to the end of the file."""
        found = self._front
        if found.stop == "damage":
            return None
        if self._form.seed:
            return self._by_checksums(self._first)
        return self._survey(self._first, found)

    def _by_count(self, noted: Position) -> Survey | None:
        """By a position whose proof is damaged, if as many records as it says are there."""
        if not noted.records or not self._counts(noted):
            return None
        return self._behind_damage(self._counted(noted))

    def _by_checksums(self, start: int) -> Survey:
        """All that proves itself, from `start` on."""
        head = end = voids_to = start
        records = voids = torn = 0
        damage: list[Damage] = []
        for found in stretches(self._data, self._form, start, self._size):
            length = found.end - found.start
            if found.reason:
                damage.append(Damage(found.start, length, found.reason))
                continue
            end = found.end
            if found.records:
                head = head if records else found.start
                records += len(found.records)
            elif records:
                voids, voids_to = voids + length, end
        if damage and damage[-1].offset >= end and self._is_torn(damage[-1].offset):
            torn = damage.pop().size_bytes
            end = self._size - torn
        return Survey(
            self._form,
            self._size,
            head if records else end,
            records,
            end,
            tuple(damage),
            torn,
            _CUT_SHORT if torn else "",
            voids=voids,
            voids_to=voids_to,
        )

    def _behind_what_was_given_back(self) -> Survey | None:
        """Behind a hole that we have left: all that is before it is done."""
        start = -(-self._first // _PAGE) * _PAGE
        end = zeros_end(self._fd, start, self._size)
        if end - start < LEAST_GIVEN_BACK:
            return None
        found = self._by_checksums(end)
        if not found.records:
            return None
        before = Damage(self._first, found.head - self._first, _POSITION_LOST)
        later = [place for place in found.damage if place.offset >= found.head]
        return replace(found, damage=(before, *later))

    def _up_to_damage(self) -> Survey | None:
        """From the front up to where records do not follow one another any more."""
        return self._survey(self._first, self._front) if self._front.records else None

    def _from_tail(self, noted: Position) -> Survey | None:
        """From the tail that was noted, if that leads to the end of the file."""
        if not self._first < noted.tail < self._size:
            return None
        found = walk(self._fd, self._form, noted.tail, self._size, zeros_from=noted.tail)
        if found.stop != "end":
            return None
        return self._behind_damage(replace(self._survey(noted.tail, found), noted=noted))

    def _nothing(self) -> Survey:
        """Of the file as a whole nothing can be said."""
        first = self._first
        damage = Damage(first, self._size - first, self._front.reason)
        return Survey(self._form, self._size, first, 0, first, (damage,))

    # ---- and what is there then ------------------------------------------------------------

    def _from(self, start: int, zeros_from: int | None = None) -> Survey:
        """The records from `start` on; where there are checksums, by these: a length may be wrong
        and lead to the end all the same."""
        if self._form.seed:
            return self._by_checksums(start)
        zeros_from = start if zeros_from is None else zeros_from
        found = walk(self._fd, self._form, start, self._size, zeros_from=zeros_from)
        return self._survey(start, found)

    def _survey(self, start: int, found: Walk) -> Survey:
        """What `found`, a walk from `start` on, makes of a plain file."""
        rest = self._size - found.end
        counted = [noted.tail for noted in self._positions if noted.tail <= self._size]
        is_damage = found.stop == "damage" or (rest > 0 and found.end < max(counted, default=0))
        return Survey(
            self._form,
            self._size,
            start,
            found.records,
            found.end,
            (Damage(found.end, rest, found.reason),) if is_damage else (),
            0 if is_damage else rest,
            found.reason if rest and not is_damage else "",
        )

    def _counted(self, noted: Position, *, unwalked: int = 0) -> Survey:
        """With the records that were noted, and those behind them."""
        rest = self._from(noted.tail)
        head = noted.head if noted.records else rest.head
        return replace(
            rest,
            head=head,
            records=noted.records + rest.records,
            noted=noted,
            unwalked=unwalked,
            unwalked_to=noted.tail if unwalked else 0,
        )

    def _from_head(self, noted: Position, *, leads_to_tail: bool) -> Survey:
        """The records from the head that was noted, which are not as many as it says."""
        sure, tail = max(noted.head, noted.committed), noted.tail
        found = self._from(noted.head, zeros_from=sure)
        if self._form.seed or not leads_to_tail or found.end < tail:
            return found
        before = walk(self._fd, self._form, noted.head, tail, zeros_from=sure)
        if before.end < tail:  # a record seems to go on beyond where one ended
            return self._survey(noted.head, before)
        return replace(found, damage=(Damage(tail, 0, _miscount(noted, before)), *found.damage))

    def _behind_damage(self, found: Survey) -> Survey:
        """`found`, and that what is before it may be done or not: it is damage, but for zeros."""
        start = zeros_end(self._fd, self._first, found.head)
        if start == found.head:
            return found
        damage = Damage(start, found.head - start, _POSITION_LOST)
        return replace(found, damage=(damage, *found.damage))

    def _is_torn(self, start: int) -> bool:
        """Whether what is at `start` may be the beginning of a record, cut short by the end."""
        header = read_at(self._fd, self._form.header_bytes, start)
        try:
            return len(header) < self._form.header_bytes or (
                start + self._form.record_bytes(header) > self._size
            )
        except CorruptedData:
            return False


def _miscount(noted: Position, found: Walk) -> str:
    return f"the position counts {noted.records} records up to here, not {found.records}"


def _first(found: Iterator[Survey | None]) -> Survey | None:
    return next((survey for survey in found if survey is not None), None)
