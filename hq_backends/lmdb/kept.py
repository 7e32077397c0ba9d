"""A note beside a file that was moved aside: how many of its records the log has gone on with.

``data.mdb.kept``: the magic, the number of records that were kept, the oldest ones, and where they
end in the log, 8 bytes each, big-endian; the file's size; then a CRC-32 of that and of the file's
first 8,192 bytes, so that it is believed of this file only. Without it, all of the file's records
count as set aside.
"""

import os
from pathlib import Path
from struct import Struct
from typing import Final
from zlib import crc32

from hq_backends.lmdb.records import Span

__all__ = ["SUFFIX", "note", "read"]

SUFFIX: Final = ".kept"
_MAGIC: Final = b"hq-kept\x01"
_FIELDS: Final = Struct(">8sQQQ")
_CRC: Final = Struct(">I")
_LOOKED_AT: Final = 8192


def note(fd: int, kept: Span) -> bytes:
    """What to write of the data file `fd`, whose records in `kept` the log goes on with."""
    fields = _FIELDS.pack(_MAGIC, kept.records, kept.tail, os.fstat(fd).st_size)
    return fields + _CRC.pack(crc32(fields + os.pread(fd, _LOOKED_AT, 0)))


def read(data: Path, fd: int) -> tuple[int, int | None]:
    """How many records of `data`, open as `fd`, were kept, and where they end; 0 and None if it is
    not known."""
    path = data.with_name(data.name + SUFFIX)
    try:
        noted = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return 0, None
    try:
        found = os.pread(noted, _FIELDS.size + _CRC.size, 0)
    except OSError:
        return 0, None
    finally:
        os.close(noted)
    if len(found) < _FIELDS.size:
        return 0, None
    _, records, tail, _ = _FIELDS.unpack_from(found)
    if found != note(fd, Span(0, tail, records)):
        return 0, None
    return records, tail
