"""Giving a file's consumed prefix back to the file system while the rest is in use."""

import errno
import functools
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from hq_backends.file.aside import NEW_FILE, copy
from hq_backends.file.files import DataFile
from hq_backends.file.log import Extent, Log
from hq_backends.file.notes import Notes
from hq_backends.file.reader import Reader

__all__ = ["Space", "punch"]

MIB: Final = 1024 * 1024

_PUNCH_STEP: Final = 1 * MIB
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
        self, log: Log, data: DataFile, notes: Notes, reader: Reader, *, flushing: bool
    ) -> None:
        self._log = log
        self._data = data
        self._notes = notes
        self._reader = reader
        self._flushing = flushing
        self._new_name: Final = f"{data.path.name}.new"
        self._punched = 0
        self._can_punch = True
        self._rewrite_from = _REWRITE_FROM
        self.in_place: Final = threading.Lock()
        """Held by whoever flushes the data file: it is not replaced meanwhile."""

    def give_back(self) -> None:
        """Free what is before the head, if it is enough by now. The position was noted.

        The records are done in any case: what cannot be freed stays until the next time.
        """
        head, tail, _, _ = self._log.extent
        if self._can_punch:
            first = self._punched or -(-len(self._log.form.preamble) // _BLOCK) * _BLOCK
            end = head - head % _BLOCK
            if end - first < _PUNCH_STEP:
                return
            with suppress(OSError):
                self._punch(first, end)
        if self._can_punch or head < self._rewrite_from or head < tail - head:
            return
        self._rewrite_from = 2 * head  # unless it succeeds, do not try again soon
        with suppress(OSError), self.in_place:
            self._rewrite()
            self._rewrite_from = _REWRITE_FROM

    def begin(self) -> None:
        """The file is begun anew: none of it was given back."""
        self._punched = 0

    def clean(self) -> None:
        """Remove what an unfinished rewrite may have left."""
        with suppress(FileNotFoundError):
            os.unlink(self._new_name, dir_fd=self._data.dir_fd)

    def _punch(self, first: int, end: int) -> None:
        self._notes.flush()
        self._can_punch = punch(self._data.fd, first, end)
        if self._can_punch:
            self._punched = end

    def _rewrite(self) -> None:
        """Copy the records to a new file that takes this one's place."""
        log, data = self._log, self._data
        head, tail, records, voids = log.extent
        start = len(log.form.preamble)
        shift = head - start
        extent = (start, tail - shift, records, voids)
        fd = os.open(self._new_name, NEW_FILE | os.O_TRUNC, 0o600, dir_fd=data.dir_fd)
        try:
            copy(data.fd, fd, 0, start)
            copy(data.fd, fd, head, tail)
            if self._flushing:
                os.fdatasync(fd)
            os.rename(
                self._new_name, data.path.name, src_dir_fd=data.dir_fd, dst_dir_fd=data.dir_fd
            )
            self._switch(fd, extent, shift)
        except BaseException:
            if data.fd == fd:
                raise
            if data.has_name(fd):  # an interrupt came in between
                self._switch(fd, extent, shift)
            else:
                os.close(fd)
                self.clean()
            raise

    def _switch(self, fd: int, extent: Extent, shift: int) -> None:
        """The file `fd`, in which all begins `shift` bytes earlier, is the data file now."""
        log, data, head = self._log, self._data, self._log.extent[0]
        self._reader.forget()
        ends = deque(end - shift for end in log.ends if end > head)
        gaps = {at - shift: size for at, size in log.gaps.items() if at >= head}
        new = fd, 0, ends, gaps, max(0, log.uncounted_to - shift), extent
        old = data.fd
        with log.guard:
            log.generation += 1
            log.committed = 0
            log.misplaced = True
            data.named_on_disk = False
            data.fd, log.inode, log.ends, log.gaps, log.uncounted_to, log.extent = new
            log.untidy = False
            if self._flushing:
                log.committed = extent[1]
        with suppress(OSError):
            os.ftruncate(old, 0)  # a forked child may keep the old file in being
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
