"""How a position and a data file are seen to belong together: by bytes around what it tells.

Where the file is shorter, by what is there.
"""

from collections.abc import Callable
from zlib import crc32

from hq_backends.file.position import PROOF_BYTES

__all__ = ["Read", "around_head", "before_tail"]

Read = Callable[[int, int], bytes]
"""Gives so many bytes of the file from an offset on. Raises `OSError`."""


def around_head(read: Read, first: int, head: int, tail: int) -> int:
    """See `Position`; records begin at `first` or later, in a drained file nowhere."""
    start = max(min(first, head), head - PROOF_BYTES)
    return crc32(read(min(head + PROOF_BYTES, tail) - start, start))


def before_tail(read: Read, head: int, tail: int) -> int:
    """See `Position`."""
    start = max(head, tail - PROOF_BYTES)
    return crc32(read(tail - start, start))
