"""Giving a file's consumed prefix back to the file system while the rest is in use.

And what that is done by where holes cannot be punched, of use elsewhere too: copying the records to
a new file that takes the place of this one.
"""

import errno
import functools
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from hq_backends.file.aside import NEW_FILE, copy
from hq_backends.file.files import DataFile, identity
from hq_backends.file.log import Extent, Log
from hq_backends.file.notes import Notes
from hq_backends.file.position import PROOF_BYTES
from hq_backends.file.reader import Reader
from hq_backends.file.recovery import LEAST_GIVEN_BACK
from hq_core.errors import BackendError

__all__ = ["Space", "punch"]

MIB: Final = 1024 * 1024

_PUNCH_STEP: Final = LEAST_GIVEN_BACK
"""Consumed bytes given back at once; smaller steps cost more calls than they free."""
_REWRITE_FROM: Final = 64 * MIB
"""Consumed bytes from which, without hole punching, the rest is copied to a new file."""
_BLOCK: Final = 4 * 1024
"""What file systems give back at least."""

_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02
_UNSUPPORTED: Final = {errno.EOPNOTSUPP, errno.ENOSYS}


class Space:
    """The consumed prefix of the data file. `flushing`: all that is written has to be flushed."""

    def __init__(
        self,
        log: Log,
        data: DataFile,
        notes: Notes,
        reader: Reader,
        tell: Callable[[str], None],
        *,
        flushing: bool,
    ) -> None:
        self._log = log
        self._data = data
        self._notes = notes
        self._reader = reader
        self._flushing = flushing
        self._tell = tell
        self._told = ""
        self._new_name: Final = f"{data.path.name}.new"
        self._punched = 0
        self._can_punch = True
        self._rewrite_from = _REWRITE_FROM

    def give_back(self) -> None:
        """Free what is before the head, if it is enough by now. The position was noted.

        The records are done in any case: what cannot be freed stays until the next time.
        """
        head, tail, _, _ = self._log.extent
        if self._can_punch:
            first = self._punched or -(-len(self._log.form.preamble) // _BLOCK) * _BLOCK
            end = (head - PROOF_BYTES) // _BLOCK * _BLOCK  # what proves the head stays
            if end - first < _PUNCH_STEP:
                return
            with suppress(OSError):
                self._punch(first, end)
        if self._can_punch or head < self._rewrite_from or head < tail - head:
            return
        self._rewrite_from = 2 * head  # unless it succeeds, do not try again soon
        with suppress(OSError, BackendError):
            self.rewrite(self._log.extent)
            self._rewrite_from = _REWRITE_FROM

    def begin(self) -> None:
        """The file is begun anew: none of it was given back."""
        self._punched = 0

    def finish(self) -> None:
        """Finish a rewrite amid which an earlier owner was killed, when it had made way for it."""
        with suppress(FileNotFoundError):
            if self._data.named() is None:
                self._rename(self._new_name, self._data.path.name)

    def clean(self) -> None:
        """Remove what an unfinished rewrite may have left."""
        with suppress(FileNotFoundError):
            os.unlink(self._new_name, dir_fd=self._data.dir_fd)

    def rewrite(self, extent: Extent, aside: Path | None = None) -> None:
        """Copy the records of `extent` to a new file that takes this one's place, and is the log.

        This one gets the name of `aside`; without that it goes, if it had still the name. Raises
        `OSError`, and `BackendError` if the name is another file's by now.
        """
        log, data = self._log, self._data
        head, tail, records, voids = extent
        start = len(log.form.preamble)
        shift = head - start
        with data.in_place:
            fd = os.open(self._new_name, NEW_FILE | os.O_TRUNC, 0o600, dir_fd=data.dir_fd)
            try:
                copy(data.fd, fd, 0, start)
                copy(data.fd, fd, head, tail)
                if self._flushing:
                    os.fdatasync(fd)
                if data.named() is not None and not data.is_ours():
                    raise BackendError(f"{data.path} is another file by now")
                if aside is not None:
                    data.rename(aside)
                self._rename(self._new_name, data.path.name)
                self._switch(fd, (start, tail - shift, records, voids), shift)
            except BaseException:
                if data.fd == fd:
                    raise
                if data.has_name(fd):  # an interrupt came in between
                    self._switch(fd, (start, tail - shift, records, voids), shift)
                else:
                    os.close(fd)
                    self.clean()
                raise

    def regain(self) -> None:
        """Have a file of the name again, and in it all that is stored; told once.

        Raises `BackendError`, if what somebody else has done cannot be undone, and `OSError`.
        """
        log, data, reason = self._log, self._data, self._log.astray
        log.misplaced = True
        try:
            if data.size() < log.extent[1]:
                raise BackendError(f"{data.path} was cut short by somebody else")
            if not data.is_ours():
                self.rewrite(log.extent)
            self._notes.place_anew()
        except (OSError, BackendError) as exc:
            self._tell_once(f"{data.path} {reason}: what is stored cannot be kept: {exc}")
            raise
        log.astray = ""
        self._told = ""
        self._tell_once(f"{data.path} {reason}: what is stored has files of that name again")

    def _tell_once(self, message: str) -> None:
        if message != self._told:
            self._told = message
            self._tell(message)

    def _punch(self, first: int, end: int) -> None:
        self._notes.flush()
        self._can_punch = punch(self._data.fd, first, end)
        if self._can_punch:
            self._punched = end

    def _rename(self, name: str, to: str) -> None:
        dir_fd = self._data.dir_fd
        os.rename(name, to, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)

    def _switch(self, fd: int, extent: Extent, shift: int) -> None:
        """The file `fd`, in which all begins `shift` bytes earlier, is the data file now."""
        log, data, tail = self._log, self._data, extent[1]
        self._reader.forget()
        self._punched = 0
        ends = deque(end for end in (end - shift for end in log.ends) if extent[0] < end <= tail)
        gaps = {at - shift: size for at, size in log.gaps.items() if extent[0] <= at - shift < tail}
        uncounted_to = max(0, min(log.uncounted_to - shift, tail))
        new = fd, identity(os.fstat(fd)), ends, gaps, uncounted_to, extent
        old = data.fd
        with log.guard:
            log.generation += 1
            log.committed = tail if self._flushing else 0
            log.misplaced = True
            log.holes_to = log.owed_to = 0
            data.named_on_disk = False
            data.fd, data.identity, log.ends, log.gaps, log.uncounted_to, log.extent = new
            log.untidy = False
        with suppress(OSError):
            if not os.fstat(old).st_nlink:  # a forked child may keep the old file in being
                os.ftruncate(old, 0)
        os.close(old)


def punch(fd: int, start: int, end: int) -> bool:
    """Give back the blocks between byte `start` and byte `end`; offsets of all else stay.

    False if the system or the file system has no hole punching. Raises `OSError`.
    """
    fallocate = _fallocate()
    if fallocate is None:
        return False
    failure = fallocate(fd, start, end - start)
    if failure in _UNSUPPORTED:
        return False
    if failure:
        raise OSError(failure, os.strerror(failure))
    return True


@functools.cache
def _fallocate() -> Callable[[int, int, int], int] | None:
    """``fallocate(2)`` with the mode for holes, returning an errno; Python's `os` lacks it."""
    import ctypes  # at the first megabyte given back, not at import

    function = getattr(ctypes.CDLL(None, use_errno=True), "fallocate64", None)
    if function is None:
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]

    def call(fd: int, start: int, length: int) -> int:
        if function(fd, _KEEP_SIZE | _PUNCH_HOLE, start, length) == 0:
            return 0
        return ctypes.get_errno()

    return call
