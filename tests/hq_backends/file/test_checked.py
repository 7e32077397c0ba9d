"""The format with checksums: damage is never delivered, and the queue goes on."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hq_backends.file import FileBackend
from hq_backends.file.checked import PREAMBLE_BYTES, Checked, checked_of
from hq_backends.file.format import Plain
from hq_core import CorruptedData, HybridQueue
from hq_core.protocols import MAX_MESSAGE_BYTES
from hq_core.testing.forking import killed_after
from hq_core.testing.spool import ANY_SIZE, numbered, read_all
from tests.hq_backends.file.conftest import Spool

SEED = 0x01020304
FORM = Checked(SEED)
NO_LIMIT = 10**9


def written(records: list[bytes]) -> bytes:
    return b"".join(FORM.encode(records))


def leave(spool: Spool, records: list[bytes]) -> None:
    """Be an owner that is killed once it has appended `records`, each by itself."""

    def work() -> None:
        backend = FileBackend(spool.stream(), checksum=True)
        for record in records:
            backend.append([record])

    killed_after(work)


def everything(backend: FileBackend) -> tuple[list[bytes], int]:
    """All that can be read, and how often there was damage."""
    records: list[bytes] = []
    damaged = 0
    while len(records) < backend.depth():
        try:
            records += backend.read(len(records), 3, ANY_SIZE)
        except CorruptedData:
            damaged += 1
    return records, damaged


# ---- the bytes -------------------------------------------------------------------------------


def test_a_file_begins_with_its_seed_and_a_record_with_its_checksum() -> None:
    assert FORM.preamble.hex(" ", -4) == "48514352 43333201 01020304 009001d0"
    assert written([b"abc", b""]).hex(" ", -4) == "00000003 f51b8af8 61626300 000000e9 51a406"


@settings(derandomize=True, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=12), st.binary(max_size=9))
def test_what_was_written_is_read_back_from_anywhere_in_a_block(
    records: list[bytes], before: bytes
) -> None:
    block = before + written(records)
    found = FORM.decode(block, len(before), len(records) + 1, NO_LIMIT)
    assert (found.records, found.end) == (records, len(block))


def test_every_flipped_bit_is_noticed() -> None:
    records = [b"one", b"", b"three"]
    whole = written(records)
    for bit in range(8 * len(whole)):
        block = bytearray(whole)
        block[bit // 8] ^= 1 << bit % 8
        try:
            found = FORM.decode(bytes(block), 0, 9, NO_LIMIT).records
        except CorruptedData:
            found = []
        assert found == records[: len(found)]
        assert len(found) < 3


def test_a_record_of_another_file_is_none() -> None:
    other = b"".join(Checked(SEED + 1).encode([b"old"]))
    with pytest.raises(CorruptedData, match="checksum of a record of 3 bytes"):
        FORM.decode(other, 0, 9, NO_LIMIT)


def test_zeros_are_no_records() -> None:
    with pytest.raises(CorruptedData):
        FORM.decode(bytes(100), 0, 9, NO_LIMIT)
    with pytest.raises(CorruptedData):
        FORM.record_bytes(bytes(8))


def test_limits_end_a_run_before_checksums_do() -> None:
    block = written([b"abc", b"def"])
    assert FORM.decode(block, 0, 1, NO_LIMIT).records == [b"abc"]
    assert FORM.decode(block, 0, 9, 5).records == [b"abc"]
    assert FORM.decode(block, 0, 9, 2).records == []


def test_read_as_the_specified_format_it_is_damage() -> None:
    with pytest.raises(CorruptedData):
        Plain().decode(FORM.preamble + written([b"abc"]), 0, 9, NO_LIMIT)


@pytest.mark.parametrize("start", [b"", b"\0\0\0\3one", FORM.preamble[:-1], b"HQCRC32\x01" * 2])
def test_other_beginnings_are_not_of_this_format(start: bytes) -> None:
    assert checked_of(start) is None


def test_the_preamble_tells_the_seed() -> None:
    found = checked_of(FORM.preamble + b"more")
    assert found is not None
    assert (found.seed, found.preamble) == (SEED, FORM.preamble)


# ---- the file --------------------------------------------------------------------------------


def test_overhead_counts_and_the_preamble_does_not(spool: Spool) -> None:
    backend = spool.open(checksum=True)
    backend.append([b"abc", b""])
    assert backend.cost([b"abc", b""]) == backend.size_bytes() == 2 * 8 + 3
    assert spool.path.stat().st_size == PREAMBLE_BYTES + 2 * 8 + 3


def test_each_beginning_has_a_seed_of_its_own(spool: Spool) -> None:
    backend = spool.open(checksum=True)
    preambles = set()
    for _ in range(3):
        backend.append([b"x"])
        preambles.add(spool.path.read_bytes()[:PREAMBLE_BYTES])
        backend.trim(1)
    assert len(preambles) == 3


@pytest.mark.parametrize("damage", [b"\0", b"\0\0\0\0", bytes(PREAMBLE_BYTES)])
def test_a_damaged_beginning_makes_it_no_file_of_the_other_format(
    spool: Spool, damage: bytes
) -> None:
    """The position tells the seed as well; read as records, zeros would be messages."""
    leave(spool, numbered(10))
    spool.path.write_bytes(damage + spool.path.read_bytes()[len(damage) :])
    assert everything(spool.open()) == (numbered(10), 0)


def test_a_beginning_of_zeros_costs_the_records_among_them(spool: Spool) -> None:
    leave(spool, numbered(10))
    spool.path.write_bytes(bytes(60) + spool.path.read_bytes()[60:])
    assert everything(spool.open()) == (numbered(10)[3:], 0)


def test_a_wrong_length_that_points_beyond_the_end_is_damage(spool: Spool) -> None:
    backend = spool.open(checksum=True)
    backend.append([b"one", b"two", b"three"])
    spool.close(backend)
    data = bytearray(spool.path.read_bytes())
    data[PREAMBLE_BYTES : PREAMBLE_BYTES + 4] = (1000).to_bytes(4, "big")
    spool.path.write_bytes(data)
    assert everything(spool.open()) == ([b"two", b"three"], 0)


@pytest.mark.parametrize("at", range(0, 16, 3))
def test_a_damaged_record_is_set_aside_and_the_next_delivered(spool: Spool, at: int) -> None:
    """Whether it is its length, its checksum or its payload."""
    records = numbered(10)
    leave(spool, records)
    start, size = PREAMBLE_BYTES + 4 * (8 + len(records[0])), 8 + len(records[4])
    spool.flip(start + at)
    damaged = spool.path.read_bytes()
    backend = spool.open()
    got, _ = everything(backend)
    assert got == [*records[:4], *records[5:]]
    assert spool.quarantined() == damaged[:PREAMBLE_BYTES] + damaged[start : start + size]
    assert backend.size_bytes() == backend.cost(got)
    backend.trim(len(got))
    assert backend.size_bytes() == 0


def test_damage_in_the_last_record_loses_that_one(spool: Spool) -> None:
    records = numbered(5)
    leave(spool, records)
    spool.flip(spool.path.stat().st_size - 1)
    backend = spool.open()
    assert everything(backend) == (records[:4], 0)
    backend.append([b"new"])
    assert read_all(backend) == [*records[:4], b"new"]


def test_damage_in_the_first_record_is_trimmed_with_the_next(spool: Spool) -> None:
    records = numbered(3)
    leave(spool, records)
    spool.flip(PREAMBLE_BYTES + 8)
    backend = spool.open()
    assert everything(backend) == (records[1:], 0)
    backend.trim(2)
    assert (backend.size_bytes(), spool.path.stat().st_size) == (0, 0)


def test_a_large_record_is_verified_too(spool: Spool) -> None:
    records = [b"small", bytes(1_000_000), b"small too"]
    leave(spool, records)
    spool.flip(500_000)
    assert everything(spool.open()) == ([b"small", b"small too"], 0)


def test_a_hostile_length_is_not_believed(spool: Spool) -> None:
    leave(spool, [b"one"])
    with spool.path.open("ab") as file:
        file.write((MAX_MESSAGE_BYTES + 1).to_bytes(4, "big") + bytes(100))
    backend = spool.open()
    assert backend.recovered.quarantined_bytes == 104
    assert read_all(backend) == [b"one"]


def test_zeros_at_the_end_are_set_aside(spool: Spool) -> None:
    leave(spool, [b"one", b""])
    with spool.path.open("ab") as file:
        file.write(bytes(1000))
    backend = spool.open()
    assert backend.recovered.quarantined_bytes == 1000
    assert read_all(backend) == [b"one", b""]


def test_a_length_that_leads_beyond_the_file_is_damage_and_no_other_error(spool: Spool) -> None:
    backend = spool.open(checksum=True)
    backend.append(numbered(3))
    spool.close(backend)
    spool.flip(PREAMBLE_BYTES + 2)  # by 256 bytes
    assert everything(spool.open()) == (numbered(3)[1:], 0)


def test_a_file_that_lost_all_is_not_read_as_plain(spool: Spool) -> None:
    """A power cut may leave zeros, which the specified format reads as empty messages."""
    leave(spool, [b"one", b"two"])
    size = spool.path.stat().st_size
    with spool.path.open("r+b") as file:
        file.write(bytes(size))
    backend = spool.open(checksum=True)
    assert read_all(backend) == []
    assert backend.recovered.quarantined_bytes == size


def test_a_file_that_lost_its_preamble_has_its_seed_from_its_position(spool: Spool) -> None:
    leave(spool, [b"one", b"two"])
    with spool.path.open("r+b") as file:
        file.write(bytes(PREAMBLE_BYTES))
    assert read_all(spool.open()) == [b"one", b"two"]


@pytest.mark.parametrize("checksum", [False, True])
def test_a_file_of_the_other_format_is_read_and_the_next_is_in_its_own(
    spool: Spool, checksum: bool
) -> None:
    backend = spool.open(checksum=checksum)
    backend.append([b"one", b"two"])
    spool.close(backend)
    backend = spool.open(checksum=not checksum)
    backend.append([b"three"])
    assert read_all(backend) == [b"one", b"two", b"three"]
    backend.trim(3)
    backend.append([b"four"])
    assert spool.path.read_bytes().startswith(b"HQCRC32") is not checksum
    assert read_all(backend) == [b"four"]


def test_what_records_cost_is_what_the_format_of_the_file_makes_of_them(spool: Spool) -> None:
    """Not what the option says, until the file is begun anew."""
    for first in (False, True):
        backend = spool.open(checksum=first)
        assert backend.cost([b"abc"]) == (11 if first else 7)
        backend.append([b"one", b"two"])
        spool.close(backend)
        backend = spool.open(checksum=not first)
        for _ in range(2):
            before, cost = backend.size_bytes(), backend.cost([b"three"])
            assert cost == 5 + (8 if first else 4)
            backend.append([b"three"])
            assert backend.size_bytes() == before + cost
        backend.trim(4)
        assert backend.cost([b"three"]) == 5 + (4 if first else 8)
        backend.append([b"three"])
        assert backend.size_bytes() == 5 + (4 if first else 8)
        spool.close(backend, delete=True)


@pytest.mark.parametrize("checksum", [False, True])
def test_a_drained_file_that_stays_is_gone_on_with_in_its_format(
    spool: Spool, checksum: bool
) -> None:
    backend = spool.open(checksum=checksum)
    backend.append([b"one"])
    spool.close(backend)
    backend = spool.open(checksum=not checksum, fsync="always")
    backend.trim(1)
    cost = backend.cost([b"two"])
    backend.append([b"two"])
    assert backend.size_bytes() == cost == 3 + (8 if checksum else 4)


def test_the_queue_counts_what_is_lost_and_goes_on(spool: Spool) -> None:
    records = numbered(20)
    backend = spool.open(checksum=True)
    backend.append(records)
    spool.close(backend)
    spool.flip(PREAMBLE_BYTES + 9 * (8 + len(records[0])) + 8)  # where no position has looked
    with HybridQueue("s", 4, spool.directory, backend_options={"checksum": True}) as queue:
        got = []
        told = 0
        while queue.depth:
            try:
                got.append(queue.try_dequeue())
            except CorruptedData:
                told += 1
        assert got == [*records[:9], *records[10:]]
        assert told == 1
        stats = queue.stats()
        assert (stats.enqueued, stats.dequeued, stats.discarded) == (20, 19, 1)


@pytest.mark.parametrize("byte", range(4))
def test_a_length_that_is_damaged_amid_a_thousand_records_costs_one(
    spool: Spool, byte: int
) -> None:
    """Delivered or read by the tools, and by these before it is opened and afterwards."""
    records = numbered(1000)
    backend = spool.open(checksum=True)
    backend.append(records)
    spool.close(backend)
    spool.flip(PREAMBLE_BYTES + backend.cost(records[:500]) + byte)
    left = [*records[:500], *records[501:]]
    found = list(FileBackend.tools.salvage(spool.path))
    assert [record for record in found if isinstance(record, bytes)] == left
    backend = spool.open()
    assert everything(backend) == (left, 1)
    spool.close(backend)
    assert list(FileBackend.tools.salvage(spool.path)) == left
    assert read_all(spool.open()) == left
