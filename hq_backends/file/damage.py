"""Damage met while reading: what is moved aside, and what of the log is left.

The damaged bytes are copied first, then the log shrinks in memory, then the file. If that fails,
or a crash comes before it, the damage is found again and nothing else is lost.
"""

from contextlib import suppress
from typing import NoReturn

from hq_backends.file.aside import move_part_aside
from hq_backends.file.checked import VOID_AT, Checked
from hq_backends.file.files import DataFile, read_at
from hq_backends.file.log import Log
from hq_backends.file.notes import Notes
from hq_backends.file.reader import Reader
from hq_core.errors import CorruptedData
from hq_core.protocols import Stream

__all__ = ["Damages"]


class Damages:
    """Does with damaged records what the stream's `on_corruption` says."""

    def __init__(
        self, stream: Stream, log: Log, data: DataFile, notes: Notes, reader: Reader
    ) -> None:
        self._stream = stream
        self._log = log
        self._data = data
        self._notes = notes
        self._reader = reader

    def set_aside(self, number: int, damage: CorruptedData) -> NoReturn:
        """Set record `number`, whose offset is known, aside if that is wanted; raise in any case.

        If the record after it proves to be whole, only `number` goes; else everything from it on.
        """
        if self._stream.on_corruption == "raise":
            raise damage
        log = self._log
        offset = log.find(number)
        end = self._reader.end_if_proven(log.form, offset, log.extent[1])
        if not end:
            self._set_rest_aside(number, damage)
        aside = move_part_aside(self._stream, self._data.fd, offset, end)
        log.make_void(number, end)
        with suppress(OSError):  # the next owner would meet the damage once more, that is all
            self._notes.write()
            if number:
                self._notes.flush()
                self._mark_void(offset)
        raise CorruptedData(f"{self._data.path}: {damage}; it is in {aside}") from damage

    def miscounted(self, number: int) -> NoReturn:
        """`set_aside` for record `number` and all after it, which do not end at the tail.

        A length that is wrong but possible shows only in this.
        """
        _, tail, records, _ = self._log.extent
        damage = CorruptedData(
            f"{self._data.path}: its last {records - number} records end before byte {tail}"
        )
        if self._stream.on_corruption == "raise":
            raise damage
        self._set_rest_aside(number, damage)

    def _mark_void(self, offset: int) -> None:
        form = self._log.form
        assert isinstance(form, Checked)  # in others no record is seen to be whole
        self._reader.forget()
        header = read_at(self._data.fd, form.header_bytes, offset)
        self._data.write([form.void(header)], offset + VOID_AT)

    def _set_rest_aside(self, number: int, damage: CorruptedData) -> NoReturn:
        """Set everything from record `number` on aside; the records before it remain."""
        log, size = self._log, self._data.size()
        while number and log.find(number) > size:
            number -= 1  # somebody else has cut the file
        offset = log.find(number)
        start = min(offset, size)
        aside = move_part_aside(self._stream, self._data.fd, start, size)
        self._reader.forget()
        log.forget(number)
        with log.guard:
            head, _, records, _ = log.extent
            voids = log.voids_between(head, offset)
            log.untidy = log.misplaced = True
            log.generation += 1
            log.committed = min(log.committed, offset)
            log.extent = (head, offset, number, voids)
        with suppress(OSError):  # then before the next append
            self._data.cut(offset)
            log.untidy = False
            self._notes.place()
        lost = records - number
        raise CorruptedData(
            f"{damage}; it and what follows, {lost} records, are in {aside}"
        ) from damage
