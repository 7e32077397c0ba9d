"""What a fuzzer needs: files to damage, ways to damage them, and what may come of it.

The readers here are independent of the library's, and as simple as can be.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final
from zlib import crc32

from hq_backends.file import FileBackend, position
from hq_backends.file.checked import PREAMBLE_BYTES, Checked, checked_of
from hq_backends.file.format import Format, Plain
from hq_backends.file.position import SLOT_SPACING, Position
from hq_core import CorruptedData, RecoveryReport
from hq_core.protocols import MAX_MESSAGE_BYTES
from hq_core.spool.directory import Directory
from hq_core.testing.spool import ANY_SIZE, numbered

__all__ = [
    "SEED",
    "Log",
    "Opened",
    "check_parser",
    "check_sidecar",
    "damaged",
    "opened",
    "plain_records",
    "spool",
]

SEED: Final = 0x5EEDED
"""Of the files with checksums."""
_PAGE: Final = 4096
_HOSTILE: Final = [0xFFFFFFFF, 0x80000000, 0x7FFFFFFF, 0x00A00001, 0x00A00000, 0x009FFFFF, 0xFFFF]
"""Lengths at and beyond the limits."""


# ---- what a file says ------------------------------------------------------------------------


@dataclass
class Log:
    """What a reader finds in a stretch of a file."""

    records: list[bytes]
    end: int
    """Offset behind the last of them."""
    damaged: bool
    """Whether what follows can be no record; else it is at most a torn one."""


def plain_records(
    data: bytes, start: int, end: int, *, zeros_from: int | None = None, least_zeros: int = 1
) -> Log:
    """Read the specified format as its document says it, headers one after the other.

    From `zeros_from` on, zeros up to the end of the file or of a page, and at least so many of
    them, are no empty records.
    """
    records: list[bytes] = []
    at = start
    while at + 4 <= end:
        length = int.from_bytes(data[at : at + 4], "big")
        if length > MAX_MESSAGE_BYTES:
            return Log(records, at, damaged=True)
        if zeros_from is not None and at >= zeros_from and not length:
            zeros = len(data[at:end]) - len(data[at:end].lstrip(b"\0"))
            to_the_page = _PAGE - at % _PAGE
            if zeros >= least_zeros and (at + zeros == end or zeros >= to_the_page):
                break
        if at + 4 + length > end:
            break
        records.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return Log(records, at, damaged=False)


def checked_records(data: bytes, start: int, seed: int) -> Log:
    """Read the format with checksums, up to the first record that is not whole and right."""
    records: list[bytes] = []
    at = start
    while at + 8 <= len(data):
        length, crc = (int.from_bytes(data[at + i : at + i + 4], "big") for i in (0, 4))
        payload = data[at + 8 : at + 8 + length]
        if length <= MAX_MESSAGE_BYTES and len(payload) < length:
            break
        if length > MAX_MESSAGE_BYTES or crc32(data[at : at + 4] + payload, seed) != crc:
            return Log(records, at, damaged=True)
        records.append(payload)
        at += 8 + length
    return Log(records, at, damaged=False)


# ---- making and damaging files ---------------------------------------------------------------


def spool(form: Format, random: Random) -> tuple[list[bytes], bytes]:
    """Different records, a few of them empty or equal, and the file they are in."""
    records = numbered(random.randrange(1, 12), start=random.randrange(1000))
    for index in range(len(records)):
        if random.random() < 0.4:
            size = random.choice([0, 1, 5, 40, 100, 300])
            records[index] = (records[index] + random.randbytes(size))[: random.choice([size, 999])]
    return records, form.preamble + b"".join(form.encode(records))


def damaged(data: bytes, random: Random) -> bytes:
    """`data` with one to three things wrong with it."""
    changed = bytearray(data)
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        random.choice(_DAMAGE)(changed, random)
    return bytes(changed)


def _flip(data: bytearray, random: Random) -> None:
    if data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _truncate(data: bytearray, random: Random) -> None:
    del data[random.randrange(len(data) + 1) :]


def _zero(data: bytearray, random: Random) -> None:
    start = random.randrange(len(data) + 1)
    count = random.choice([1, 4, 8, 40, len(data) - start])
    data[start : start + count] = bytes(count)


def _grow_by_zeros(data: bytearray, random: Random) -> None:
    data += bytes(random.choice([1, 3, 4, 8, 12, 100, _PAGE, 2 * _PAGE]))


def _splice(data: bytearray, random: Random) -> None:
    """Some of it comes again, in the place of or between other bytes: a stale block."""
    source, target = (random.randrange(len(data) + 1) for _ in range(2))
    piece = data[source : source + random.randrange(1, 80)]
    replaced = random.choice([0, len(piece), random.randrange(80)])
    data[target : target + replaced] = piece


def _hostile_length(data: bytearray, random: Random) -> None:
    start = random.choice([0, random.randrange(len(data) + 1)])
    data[start : start + 4] = random.choice(_HOSTILE).to_bytes(4, "big")


def _forged_record(data: bytearray, random: Random) -> None:
    """A length that cannot be, with the checksum of all that follows."""
    start = random.choice([PREAMBLE_BYTES, random.randrange(len(data) + 1)])
    length = random.choice([size for size in _HOSTILE if size > MAX_MESSAGE_BYTES])
    header = length.to_bytes(4, "big")
    crc = crc32(header + data[start + 8 :], SEED)
    data[start : start + 8] = header + crc.to_bytes(4, "big")


def _replace(data: bytearray, random: Random) -> None:
    start = random.randrange(len(data) + 1)
    data[start:] = random.randbytes(random.randrange(200))


_DAMAGE: Final[list[Callable[[bytearray, Random], None]]] = [
    _flip,
    _flip,
    _truncate,
    _zero,
    _grow_by_zeros,
    _splice,
    _hostile_length,
    _forged_record,
    _replace,
]


# ---- what may come of it ---------------------------------------------------------------------


def check_parser(data: bytes, max_records: int, max_bytes: int) -> None:
    """Both formats read `data` as the readers here do, in batches within the two limits."""
    _check_parser(Plain(), data, 0, plain_records(data, 0, len(data)), max_records, max_bytes)
    checked = checked_of(data)
    assert (checked is not None) == (data[:PREAMBLE_BYTES] == Checked(_seed(data)).preamble)
    form, start = checked or Checked(SEED), len(checked.preamble) if checked else 0
    log = checked_records(data, start, form.seed)
    _check_parser(form, data, start, log, max_records, max_bytes)


def _seed(data: bytes) -> int:
    return int.from_bytes(data[8:12].ljust(4, b"\0"), "big")


def _check_parser(
    form: Format, data: bytes, at: int, log: Log, max_records: int, max_bytes: int
) -> None:
    got: list[bytes] = []
    while True:
        try:
            found = form.decode(data, at, max_records, max_bytes)
        except CorruptedData:
            assert log.damaged
            assert (got, at) == (log.records, log.end)
            return
        assert len(found.records) <= max_records
        assert sum(map(len, found.records)) <= max_bytes
        got += found.records
        at = found.end
        if not found.records:
            break
    if found.missing:  # torn
        assert not log.damaged
        assert (got, at) == (log.records, log.end)
        assert len(data) - at < found.missing <= form.header_bytes + MAX_MESSAGE_BYTES
    else:  # the next record is too long for the limit
        assert got == log.records[: len(got)]
        length = int.from_bytes(data[at : at + 4], "big")
        assert max_bytes < length <= MAX_MESSAGE_BYTES


def check_sidecar(sidecar: bytes, written: Sequence[tuple[int, Position]]) -> None:
    """Of the slots `written`, those that are whole in `sidecar` count, and nothing else does."""
    slots = [sidecar[:SLOT_SPACING], sidecar[SLOT_SPACING:]]
    whole = [
        (sequence, place)
        for sequence, place in written
        if any(slot.startswith(position.encode(place, sequence)) for slot in slots)
    ]
    assert position.whole(slots) == sorted(whole, reverse=True)


@dataclass
class Opened:
    """What opening and reading a file gave."""

    report: RecoveryReport
    records: list[bytes]
    damage: int
    """How often reading met damage."""


def opened(directory: Path, most: int) -> Opened:
    """Open the stream ``s`` of `directory`, read it to its end, twice, append to it and read that.

    Reads up to `most` records at once; leaves no file but what was set aside.
    """
    with Directory(directory) as held:
        backend = FileBackend(held.stream("s"))
        try:
            records, damage = _read_all(backend, most)
            report = backend.recovered
            assert len(records) + damage <= report.records
            backend.close(delete=False)
            backend = FileBackend(held.stream("s"))
            assert backend.recovered.torn_bytes == 0
            assert backend.recovered.quarantined_bytes < 24, "less than a header cannot be marked"
            assert _read_all(backend, most) == (records, 0)
            backend.append([b"new", b""])
            assert _read_all(backend, most) == ([*records, b"new", b""], 0)
            backend.trim(len(records))
            assert _read_all(backend, most) == ([b"new", b""], 0)
            return Opened(report, records, damage)
        finally:
            backend.close(delete=True)


def _read_all(backend: FileBackend, most: int) -> tuple[list[bytes], int]:
    """Every record, none of which is trimmed, and how often there was damage."""
    records: list[bytes] = []
    damage = 0
    while len(records) < backend.depth():
        before = backend.depth()
        try:
            found = backend.read(len(records), most, ANY_SIZE)
            assert 1 <= len(found) <= most
            assert backend.depth() == before
            records += found
        except CorruptedData:
            assert len(records) <= backend.depth() < before
            damage += 1
    assert backend.size_bytes() == backend.cost(records)
    return records, damage
