"""Records in a transaction: the key is where a record starts in the log, the value its payload.

An offset is a sequence number that counts bytes, as TCP's do, from the first record ever
appended: each record takes the 8 bytes of its key and its payload. So the first and the last key
tell how large the log is, however long, and a record that is missing, or of another length than
it had, leaves a gap: the record after a gap is damaged, whatever it is.
"""

from collections.abc import Sequence
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Final, NamedTuple

from hq_core.errors import CorruptedData
from hq_core.protocols import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from lmdb import Transaction

__all__ = [
    "KEY_BYTES",
    "Span",
    "cost",
    "delete_first",
    "delete_from",
    "put",
    "put_at",
    "read",
    "span",
]

KEY_BYTES: Final = 8
"""Length of a key, an unsigned big-endian offset, so that LMDB's order is the log's."""


class Span(NamedTuple):
    """The part of the log that is there."""

    head: int
    """Offset of the first record."""
    tail: int
    """Offset after the last record."""
    records: int
    """Number of records between them."""
    first: int = 0
    """Number of the first one, counted since the environment was looked at."""


def cost(records: Sequence[bytes]) -> int:
    """How far `records` move the tail."""
    return sum(map(len, records)) + KEY_BYTES * len(records)


def put(txn: "Transaction[memoryview]", offset: int, records: Sequence[bytes]) -> int:
    """Add `records` from `offset` on, the end of the log; the offset after them."""
    *offsets, end = accumulate((KEY_BYTES + len(record) for record in records), initial=offset)
    put_at(txn, offsets, records)
    return end


def put_at(
    txn: "Transaction[memoryview]", offsets: Sequence[int], records: Sequence[bytes]
) -> None:
    """Add `records` at these offsets, in order, after what is there."""
    _, added = txn.cursor().putmulti(zip(map(_key, offsets), records, strict=True), append=True)
    if added != len(records):
        raise CorruptedData(
            f"there are records after offset {offsets[0]}, where the log should end"
        )


def read(
    txn: "Transaction[memoryview]", offset: int, skip: int, max_records: int, max_bytes: int
) -> tuple[list[bytes], int, bool]:
    """Records from the one `skip` after that at `offset` on, and the offset after them.

    At most `max_records` (>= 1) and `max_bytes` of payload. Raises `CorruptedData` if the first of
    them is not there, does not begin where the one before it ends, or is too long to be one; a
    record before such a one is returned first. And whether the last one ends where the next record
    begins: if not, either may be wrong.
    """
    cursor = txn.cursor()
    items = cursor.iternext() if cursor.set_range(_key(offset)) else iter(())
    for key, value in islice(items, skip):
        offset = _end(key, value)
    records: list[bytes] = []
    meets = True
    for key, value in items:
        size = len(value)  # looked at before anything is copied
        meets = int.from_bytes(key, "big") == offset
        if not meets or size > MAX_MESSAGE_BYTES:
            break
        if size > max_bytes or len(records) == max_records:
            return records, offset, True
        max_bytes -= size
        offset += KEY_BYTES + size
        records.append(bytes(value))
    if not records:
        raise CorruptedData(f"the record at offset {offset} is missing, or not what was there")
    return records, offset, meets


def delete_first(txn: "Transaction[memoryview]", count: int) -> int:
    """Delete the oldest `count` records (>= 1); the offset after them.

    Raises `CorruptedData` if there are fewer.
    """
    cursor = txn.cursor()
    more = cursor.first()
    for _ in range(count - 1):
        more = cursor.delete()
    if not more:
        raise CorruptedData("records are missing")
    end = _end(*cursor.item())
    cursor.delete()
    return end


def delete_from(txn: "Transaction[memoryview]", offset: int) -> None:
    """Delete the records that start at `offset` or after it."""
    cursor = txn.cursor()
    more = cursor.set_range(_key(offset))
    while more:
        more = cursor.delete()


def span(txn: "Transaction[memoryview]") -> Span:
    """What is there; looks at the first and the last record. Raises `CorruptedData`."""
    cursor = txn.cursor()
    if not cursor.first():
        return Span(0, 0, 0)
    first = cursor.key()
    cursor.last()
    last, value = cursor.item()
    if len(first) != KEY_BYTES or len(last) != KEY_BYTES:
        raise CorruptedData("its keys are not offsets of a log: another program wrote it")
    head, tail = int.from_bytes(first, "big"), _end(last, value)
    records = txn.stat()["entries"]
    if not records * KEY_BYTES <= tail - head <= records * (KEY_BYTES + MAX_MESSAGE_BYTES):
        raise CorruptedData(f"{records} records cannot take up {tail - head} bytes")
    return Span(head, tail, records)


def _key(offset: int) -> bytes:
    return offset.to_bytes(KEY_BYTES, "big")


def _end(key: memoryview, value: memoryview) -> int:
    """The offset after this record."""
    return int.from_bytes(key, "big") + KEY_BYTES + len(value)
