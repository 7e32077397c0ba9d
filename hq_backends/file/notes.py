"""Writing the position: when, and in which order with what it is about.

A position may be written before it is true: until then its checksums, or the count of its records,
say otherwise.
"""

from contextlib import suppress
from typing import Final

from hq_backends.file import recovery
from hq_backends.file.files import DataFile, Sidecar
from hq_backends.file.log import Extent, Log
from hq_backends.file.position import PROOF_BYTES, Position
from hq_backends.file.proof import around_head, before_tail
from hq_backends.file.reader import Reader

__all__ = ["Notes"]

KIB: Final = 1024

_NOTE_BYTES: Final = 1024 * KIB
_NOTE_RECORDS: Final = 16 * KIB
"""What is appended between two notes of the tail: as much has to be walked after a crash."""


class Notes:
    """Writes the sidecar; `flushing`: what has to be there after a power cut is flushed."""

    def __init__(
        self, log: Log, data: DataFile, sidecar: Sidecar, reader: Reader, *, flushing: bool
    ) -> None:
        self._log = log
        self._reader = reader
        self._data = data
        self._sidecar = sidecar
        self._flushing = flushing
        self._boot: Final = recovery.boot_id()
        self._tail = 0  # of the position written last
        self._appended = 0  # records since then
        self._proven = (0, 0, 0), 0  # a generation, a head and a tail, and what proves the tail

    def write(self) -> None:
        """Write where the log is."""
        with self._log.guard:
            self._write(self._log.extent)

    def announce(self, extent: Extent) -> None:
        """Write where the log is about to be: with empty records, which only that proves."""
        with self._log.guard:
            self._write(extent)

    def move(self, extent: Extent) -> None:
        """Write that the log is `extent`, and make it so; on an exception it is what it was."""
        try:
            with self._log.guard:
                self._write(extent)
                self._log.extent = extent
        except BaseException:
            with suppress(OSError):  # an interrupt may have come when it was written
                self.write()
            raise

    def place(self) -> None:
        """Make the sidecar be about the data file as it is now, and look at both."""
        self._log.misplaced = True
        self.write()
        self.flush()
        self._log.misplaced = False

    def place_anew(self) -> None:
        """`place`, with another sidecar if somebody else has done something to this one."""
        if not self._sidecar.is_ours():
            self._sidecar.let_go()
        self.place()

    def flush(self) -> None:
        """Make what was written survive power loss, if that is wanted."""
        if self._flushing:
            self._sidecar.flush()

    def appended(self, count: int) -> None:
        """Count `count` more records in the log, and write the position from time to time."""
        self._appended += count
        if self._log.extent[1] - self._tail >= _NOTE_BYTES or self._appended >= _NOTE_RECORDS:
            with suppress(OSError):  # recovery would have more to walk, that is all
                self.write()

    def position(self, extent: Extent) -> Position:
        """What to write of the log when it is `extent`."""
        log, data = self._log, self._data
        head, tail, records, _ = extent
        if log.uncounted_to > head:
            tail, records = head, 0
        return Position(
            self._boot,
            data.inode(),
            log.form.seed,
            head,
            tail,
            records,
            min(log.committed, tail),
            around_head(self._reader.peek, len(log.form.preamble), head, tail),
            self._before_tail(head, tail),
        )

    def _before_tail(self, head: int, tail: int) -> int:
        """See `proof.before_tail`; while records are taken, it is the same again and again."""
        of = self._log.generation, max(head, tail - PROOF_BYTES), tail
        if self._proven[0] != of:
            self._proven = of, before_tail(self._reader.peek, head, tail)
        return self._proven[1]

    def _write(self, extent: Extent) -> None:
        if self._sidecar.fd < 0:
            self._sidecar.create()
        grown = extent[1] != self._tail or self._log.misplaced
        self._tail, self._appended = extent[1], 0
        self._sidecar.write(self.position(extent))
        astray = self._data.astray(self._log.extent[1], grown=grown)
        if not astray and self._sidecar.was_removed():
            astray = "has lost its position"
        self._log.astray = astray
