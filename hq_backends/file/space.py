"""Giving a file's consumed prefix back to the file system while the rest is in use."""

import errno
import functools
import os
from collections.abc import Callable
from typing import Final

__all__ = ["punch"]

_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02
_UNSUPPORTED: Final = {errno.EOPNOTSUPP, errno.ENOSYS}


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
