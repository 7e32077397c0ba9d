"""Records in a transaction: the key is where a record starts in the log, the value its payload.

An offset is a sequence number that counts bytes, as TCP's do, from the first record ever
appended: each record takes the 8 bytes of its key and its payload. So the first and the last key
tell how large the log is, however long, and a record that is missing, or of another length than
it had, leaves a gap that reading notices.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Final

from hq_core.errors import CorruptedData
from hq_core.protocols import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from lmdb import Transaction

__all__ = ["KEY_BYTES", "Span", "delete_before", "delete_from", "put", "read", "span"]

KEY_BYTES: Final = 8
"""Length of a key, an unsigned big-endian offset, so that LMDB's order is the log's."""


@dataclass(frozen=True, slots=True)
class Span:
    """The part of the log that is there."""

    head: int
    """Offset of the first record."""
    tail: int
    """Offset behind the last record."""
    records: int
    """Number of records between them."""


def put(txn: "Transaction[bytes]", offset: int, records: Sequence[bytes]) -> int:
    """Add `records` from `offset` on, the end of the log; the offset behind them."""
    *offsets, end = accumulate((KEY_BYTES + len(record) for record in records), initial=offset)
    _, added = txn.cursor().putmulti(zip(map(_key, offsets), records, strict=True), append=True)
    if added != len(records):
        raise CorruptedData(f"there are records behind offset {offset}, where the log should end")
    return end


def read(
    txn: "Transaction[memoryview]", offset: int, max_records: int, max_bytes: int
) -> list[bytes]:
    """The records from `offset` on, at most `max_records` and `max_bytes` of payload.

    Raises `CorruptedData` if the record at `offset` is not there or cannot be one; a good record
    before a bad one is returned first.
    """
    cursor = txn.cursor()
    if not cursor.set_range(_key(offset)):
        raise CorruptedData(f"the record at offset {offset} is missing")
    records: list[bytes] = []
    for key, value in islice(cursor.iternext(), max_records):
        size = len(value)  # looked at before anything is copied
        if int.from_bytes(key, "big") != offset or size > MAX_MESSAGE_BYTES:
            if records:
                break
            raise CorruptedData(f"what is at offset {offset} is not the record that was there")
        if size > max_bytes:
            break
        max_bytes -= size
        offset += KEY_BYTES + size
        records.append(bytes(value))
    return records


def delete_before(txn: "Transaction[bytes]", offset: int) -> None:
    """Delete the records that start before `offset`."""
    cursor, bound = txn.cursor(), _key(offset)
    more = cursor.first()
    while more and cursor.key() < bound:
        more = cursor.delete()


def delete_from(txn: "Transaction[bytes]", offset: int) -> None:
    """Delete the records that start at `offset` or behind it."""
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
    head, tail = int.from_bytes(first, "big"), int.from_bytes(last, "big") + KEY_BYTES + len(value)
    records = txn.stat()["entries"]
    if not records * KEY_BYTES <= tail - head <= records * (KEY_BYTES + MAX_MESSAGE_BYTES):
        raise CorruptedData(f"{records} records cannot take up {tail - head} bytes")
    return Span(head, tail, records)


def _key(offset: int) -> bytes:
    return offset.to_bytes(KEY_BYTES, "big")
