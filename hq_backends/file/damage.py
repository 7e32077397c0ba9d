"""Damage, met at opening or while reading: what is set aside, and what of the log is left.

The damaged bytes are copied first, then the log shrinks in memory, then the file. If that fails,
or a crash comes before it, the damage is found again and nothing else is lost.

A backlog is never copied for it: if less is left of the log than is to go, that is copied to a new
file, and the old one is set aside as it is. Nor does damage wait for room to keep others from being
delivered: without it, what is damaged is passed by and stays, a debt. Nothing of the file is given
back, and nothing written over it, until there is room, or the log is drained and the file is set
aside as it is.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

from hq_backends.file.aside import OUT_OF_SPACE, copy_aside, move_aside
from hq_backends.file.files import DataFile, Sidecar
from hq_backends.file.log import Extent, Log
from hq_backends.file.notes import Notes
from hq_backends.file.position import Position
from hq_backends.file.proving import stretches
from hq_backends.file.reader import Reader
from hq_backends.file.recovery import Survey
from hq_backends.file.space import Space
from hq_core.errors import CorruptedData
from hq_core.protocols import Stream
from hq_core.stats import RecoveryReport

__all__ = ["Damages"]

_Part = tuple[int, int]
_NO_ROOM: Final = "still in the file, as there is no room for a copy of it"


class _Loss(NamedTuple):
    """What is to go, as offsets of its parts, and what the log is then."""

    parts: Sequence[_Part]
    log: Extent

    @property
    def voids(self) -> list[_Part]:
        """Those parts that the log goes on behind."""
        head, tail, _, _ = self.log
        return [part for part in self.parts if head <= part[0] < tail]

    @property
    def size(self) -> int:
        """Bytes of the parts."""
        return sum(end - start for start, end in self.parts)


class Damages:
    """Does with damaged records what the stream's `on_corruption` says."""

    def __init__(
        self,
        stream: Stream,
        log: Log,
        data: DataFile,
        sidecar: Sidecar,
        notes: Notes,
        reader: Reader,
        space: Space,
    ) -> None:
        self._stream = stream
        self._log = log
        self._data = data
        self._sidecar = sidecar
        self._notes = notes
        self._reader = reader
        self._space = space
        self._debts: list[_Loss] = []

    def at_opening(self, found: Survey) -> RecoveryReport:
        """Set aside what of the file is no record, and what an append left unfinished.

        The log is what was found, but for that. There is a record, or nothing but what is torn.
        """
        head, end, size = found.head, found.end, found.size
        parts = [(at.offset, at.offset + at.size_bytes) for at in found.damage if at.size_bytes]
        voids = sum(stop - start for start, stop in parts if head <= start < end)
        if found.torn >= found.form.header_bytes:
            parts.append((end, size))
        loss = _Loss(parts, (head, end, found.records, found.voids + voids))
        try:
            aside = self._set_aside(loss, copying=not found.damage) if parts else None
        except OSError as exc:
            if exc.errno not in OUT_OF_SPACE:
                raise
            aside = None  # what was merely torn nobody was told of: not worth failing for
            if found.damage:
                self._owe(loss)
        reason = found.damage[0].reason if found.damage else found.why_torn
        if self._debts:
            self._stream.tell(f"{self._data.path}: {reason}: {_NO_ROOM}")
        self._log.untidy = self._data.size() > self._log.extent[1]
        with suppress(OSError):  # then before the next append
            self._settle(loss.voids)
        head, end, _, void_bytes = self._log.extent
        return RecoveryReport(
            records=found.records,
            size_bytes=end - head - void_bytes,
            torn_bytes=found.torn,
            quarantined_bytes=loss.size if aside else 0,
            quarantine=aside,
            reason=reason if aside else "",
        )

    def all_at_opening(self, size: int, reason: str) -> RecoveryReport:
        """Set the file aside as it is."""
        aside = move_aside(self._stream, self._data, self._sidecar)
        self._let_go()
        return RecoveryReport(quarantined_bytes=size, quarantine=aside, reason=reason)

    def set_aside(self, number: int, damage: CorruptedData) -> NoReturn:
        """Set record `number`, whose offset is known, aside if that is wanted; raise in any case.

        What follows it goes too, but for records that their checksums prove.
        """
        if self._stream.on_corruption == "raise":
            raise damage
        self._lose(number, self._look_behind(number), damage)

    def miscounted(self, number: int) -> NoReturn:
        """`set_aside` for record `number` and all after it, which do not end at the tail.

        A length that is wrong but possible shows only in this.
        """
        _, tail, records, _ = self._log.extent
        damage = CorruptedData(f"its last {records - number} records end before byte {tail}")
        if self._stream.on_corruption == "raise":
            raise damage
        self._lose(number, self._rest(number), damage)

    def _look_behind(self, number: int) -> _Loss:
        """What goes with record `number`, which is damaged."""
        log, form = self._log, self._log.form
        offset = log.find(number)
        head, tail, records, voids = log.extent
        if not form.seed or self._data.size() < tail:
            return self._rest(number)
        if end := self._reader.end_if_proven(form, offset, tail):  # its length is not what is wrong
            part = offset, end
            kept = (head, tail, records - 1, voids + end - offset)
            return _Loss([part], kept if number else (end, tail, records - 1, voids))
        parts: list[_Part] = []
        kept_to, count, voids = offset, number, log.holding(number, offset)[3]
        for found in stretches(self._data, form, offset, tail):
            if found.reason:
                parts.append((found.start, found.end))
            else:
                kept_to, count = found.end, count + len(found.records)
                voids += 0 if found.records else found.end - found.start
        inner = [part for part in parts if part[0] < kept_to]
        if not number and inner and inner[0][0] == head:  # nothing is before it
            head, inner = inner[0][1], inner[1:]
        voids += sum(end - start for start, end in inner)
        return _Loss(parts, (head, kept_to, count, voids))

    def _rest(self, number: int) -> _Loss:
        """Record `number` and everything behind it."""
        log, size = self._log, self._data.size()
        while number and log.find(number) > size:
            number -= 1  # somebody else has cut the file
        offset = log.find(number)
        return _Loss([(min(offset, size), size)], log.holding(number, offset))

    def _lose(self, number: int, loss: _Loss, damage: CorruptedData) -> NoReturn:
        before = self._log.extent
        if not loss.parts:
            raise damage  # it is whole by now: somebody else is writing, or the disk is to blame
        where = ""
        try:
            if not loss.size:
                self._log.shrink(loss.log)
                where = "gone: somebody else has cut the file"
            elif loss.log[2]:
                where = f"in {self._set_aside(loss)}"
            else:
                where = f"in {self.all_aside()}"
        except OSError as exc:
            if exc.errno not in OUT_OF_SPACE:
                raise
            self._owe(loss)
            where = _NO_ROOM
        if self._data.fd >= 0:
            with suppress(OSError):  # then before the next append, or by the next owner
                self._settle(loss.voids)
        lost = before[2] - self._log.extent[2]
        what = f"it and what follows, {lost} records, are" if loss.log[1] < before[1] else "it is"
        raise CorruptedData(f"{self._data.path}: {damage}; {what} {where}") from damage

    def _set_aside(self, loss: _Loss, *, copying: bool = False) -> Path:
        """Set parts of the file aside, and make the log what it is then; where they are.

        By `copying` them, or by copying what is left if that is less.
        """
        log, data, kept = self._log, self._data, loss.log
        if not copying and not loss.voids and kept[1] - kept[0] < loss.size:
            aside = self._stream.quarantine_path("overflow")
            position = self._notes.position((loss.parts[0][0], loss.parts[0][0], 0, 0))
            self._space.rewrite(kept, aside)
            self._leave_position(aside, position)
            return aside
        aside = copy_aside(self._stream, data.fd, log.form, loss.parts)
        self._reader.forget()
        log.shrink(kept, loss.voids)
        return aside

    def paid(self) -> bool:
        """Whether there are no debts, after an attempt to pay them. Raises `OSError`."""
        log = self._log
        if not log.owed_to:  # there is another file by now, and they are not in it
            self._debts = []
        voids = [void for loss in self._debts for void in loss.voids]
        while self._debts:
            loss = self._debts[0]
            try:
                aside = copy_aside(self._stream, self._data.fd, log.form, loss.parts)
            except OSError as exc:
                if exc.errno not in OUT_OF_SPACE:
                    raise
                return False
            del self._debts[0]
            self._stream.tell(f"{loss.size} damaged bytes of {self._data.path} are in {aside}")
        if log.owed_to:
            log.owed_to = 0
            self._settle(voids)
        return True

    def all_aside(self) -> Path:
        """Set the file aside as it is, with a position that says where its unread rest begins."""
        head = min([part[0] for loss in self._debts for part in loss.parts], default=None)
        with suppress(OSError):
            if head is None:
                self._notes.write()
            else:
                self._notes.announce((head, head, 0, 0))
        with self._data.in_place:
            aside = move_aside(self._stream, self._data, self._sidecar)
            self._let_go()
        return aside

    def _let_go(self) -> None:
        """The log is empty, and has no files. It never has those that were set aside."""
        log, data = self._log, self._data
        self._reader.forget()
        self._space.begin()
        self._sidecar.let_go()
        fd = data.fd
        log.shrink(log.extent)
        self._debts, log.owed_to = [], 0
        data.fd, data.identity, log.extent = -1, None, (0, 0, 0, 0)
        os.close(fd)
        log.clear()

    def _owe(self, loss: _Loss) -> None:
        """The log goes on without what there is no room to set aside; it stays in the file."""
        self._reader.forget()
        self._debts.append(loss)
        self._log.owed_to = max(end for loss in self._debts for _, end in loss.parts)
        self._log.shrink(loss.log, loss.voids)

    def _leave_position(self, aside: Path, position: Position) -> None:
        sidecar = Sidecar(aside.with_name(f"{aside.name}.pos"), self._stream.dir_fd)
        with suppress(OSError):  # it can be read without
            sidecar.create()
            sidecar.write(position)
        sidecar.close()

    def _settle(self, voids: Sequence[_Part]) -> None:
        """Make the files be what the log is. Raises `OSError`."""
        log, data = self._log, self._data
        if log.untidy and log.owed_to <= log.extent[1]:
            data.cut(log.extent[1])
            log.untidy = False
        self._notes.place()
        if log.owed_to:
            return
        for start, end in voids:  # now that nobody counts on them
            self._reader.forget()
            for at, header in log.form.voids(end - start):
                data.write([header], start + at)
