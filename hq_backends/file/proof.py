"""How a position and a data file are seen to belong together."""

from typing import NamedTuple
from zlib import crc32

from hq_backends.file.files import read_at
from hq_backends.file.position import PROOF_BYTES

__all__ = ["Proof", "proof"]


class Proof(NamedTuple):
    """Checksums of bytes of the data file, as `Position` has them."""

    around_head: int
    before_tail: int


def proof(fd: int, first: int, head: int, tail: int) -> Proof:
    """Of the file `fd`, whose records begin at `first` or later, for a head and a tail.

    Where the file is shorter, of what is there; a drained one has no beginning even. Raises
    `OSError`.
    """
    start = max(min(first, head), head - PROOF_BYTES)
    around = read_at(fd, min(head + PROOF_BYTES, tail) - start, start)
    start = max(head, tail - PROOF_BYTES)
    return Proof(crc32(around), crc32(read_at(fd, tail - start, start)))
