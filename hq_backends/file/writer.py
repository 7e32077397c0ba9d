"""Appending: all of it or nothing, whatever comes in between; and beginning the file anew.

An exception may come between any two calls. So each change first sets a flag (`Log.untidy`,
`Log.misplaced`), then replaces `Log.extent`, then clears the flag. What an exception leaves untidy
is put right at once or, if that fails too, before anything more is written.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Literal

from hq_backends.file.aside import OUT_OF_SPACE
from hq_backends.file.checked import Checked
from hq_backends.file.damage import Damages
from hq_backends.file.files import DataFile, Sidecar
from hq_backends.file.flusher import Flusher
from hq_backends.file.format import Format, Plain
from hq_backends.file.log import Extent, Log
from hq_backends.file.notes import Notes
from hq_backends.file.reader import Reader
from hq_backends.file.space import Space
from hq_core.errors import QueueFull

__all__ = ["Fsync", "Writer"]

Fsync = Literal["never", "interval", "always"]


class Writer:
    """Writes records at the tail. `interval`: seconds between two flushes, see `FileBackend`."""

    def __init__(
        self,
        log: Log,
        data: DataFile,
        sidecar: Sidecar,
        notes: Notes,
        reader: Reader,
        space: Space,
        damages: Damages,
        *,
        fsync: Fsync,
        interval: float,
        checksum: bool,
    ) -> None:
        self._log = log
        self._data = data
        self._sidecar = sidecar
        self._notes = notes
        self._reader = reader
        self._space = space
        self._damages = damages
        self._fsync = fsync
        self._checksum = checksum
        self.flusher: Final = Flusher(self.flush_soon, interval) if fsync == "interval" else None

    def append(self, records: Sequence[bytes]) -> None:
        """See `FileBackend`."""
        log = self._log
        try:
            if log.untidy or log.misplaced or not log.extent[1] or self._data.flush_failed:
                self._prepare()
            head, tail, count, voids = log.extent
            log.untidy = True
            end = tail + self._data.write(log.form.encode(records), tail)
            extent = (head, end, count + len(records), voids)
            if self._fsync == "always":
                self._data.flush()
            if not all(records) and not log.form.seed:
                self._announce(extent)
            log.extent = extent
            log.untidy = log.misplaced = False
        except BaseException as exc:
            with suppress(OSError):  # then the next append tries again, before it writes
                self.undo()
            if isinstance(exc, OSError) and exc.errno in OUT_OF_SPACE:
                raise QueueFull(f"the overflow disk is full: {exc.strerror}") from exc
            raise
        if self.flusher is not None:
            self.flusher.dirty()
        elif self._fsync == "always":
            log.committed = end
        self._notes.appended(len(records))

    def undo(self) -> None:
        """Cut what may lie after the last record. Raises `OSError`."""
        log = self._log
        if log.owed_to > log.extent[1]:
            return
        if self._data.fd >= 0:
            self._data.cut(log.extent[1])
        log.untidy = False

    def empty(self) -> None:
        """Empty the drained file. Its position follows before the next append.

        Raises `OSError`; then nothing has changed.
        """
        log = self._log
        before = log.extent, log.gaps, log.uncounted_to, log.holes_to
        self._reader.forget()
        self._space.begin()
        log.clear()
        try:
            self._data.cut(0)
        except OSError:
            log.extent, log.gaps, log.uncounted_to, log.holes_to = before
            raise
        log.untidy = False
        if self._fsync != "never":
            with suppress(OSError):  # then nothing more is appended, and that says why
                self._data.flush()

    def format(self) -> Format | type[Format]:
        """The format that the next record is written in."""
        if self._log.extent[1]:
            return self._log.form
        return Checked if self._checksum else Plain

    def flush_soon(self) -> None:
        """What the flusher does, in its thread."""
        log = self._log
        with self._data.in_place:
            if self._data.fd < 0:
                return  # it was set aside meanwhile
            with log.guard:
                tail, generation = log.extent[1], log.generation
            with suppress(OSError):  # the next append meets it
                self._data.flush()
                with log.guard:
                    if generation == log.generation:
                        log.committed = max(tail, log.committed)
                self._notes.flush()  # what proves the empty records among them

    def _prepare(self) -> None:
        """See that what is about to be written will be found again."""
        log, data = self._log, self._data
        if data.flush_failed:
            data.flush()  # which raises, and says why
        if data.fd < 0:
            if self._sidecar.fd < 0:
                self._sidecar.create()
            log.misplaced = True
            data.create()
        if log.owed_to > log.extent[1] and not self._damages.paid():
            raise QueueFull("the overflow disk has no room to set damage aside, nor for more")
        if log.astray:
            self._space.regain()
        if log.untidy:
            self.undo()
        if not log.extent[1]:
            self._begin()
        if log.misplaced:
            self._notes.place()

    def _begin(self) -> None:
        """Begin an empty file: in which format it is to be is the option's to say."""
        form: Format = Checked(int.from_bytes(os.urandom(4)) | 1) if self._checksum else Plain()
        log = self._log
        if form.preamble:
            log.misplaced = log.untidy = True
            self._data.write([form.preamble], 0)
        log.begin(form, len(form.preamble))
        log.untidy = False

    def _announce(self, extent: Extent) -> None:
        """Write that the log is `extent`, with empty records, which are no zeros only by that."""
        self._log.misplaced = True  # should they not come to count
        self._notes.announce(extent)
        if self._fsync == "always":
            self._notes.flush()
