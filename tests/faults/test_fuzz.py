"""Files that nobody wrote, or that somebody damaged: what comes out, and what never may."""

import os
import tempfile
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from random import Random

import pytest

from hq_backends.file import FileBackend, recovery
from hq_backends.file.checked import Checked, checked_of
from hq_backends.file.format import Format, Plain
from hq_backends.file.position import SLOT_SPACING, Position, encode
from hq_core import CorruptedData, Stream
from hq_core.protocols import MAX_MESSAGE_BYTES
from hq_core.testing.spool import ANY_SIZE
from tests.faults.campaign import amount, note
from tests.faults.fuzzing import (
    SEED,
    Opened,
    check_parser,
    check_sidecar,
    damaged,
    opened,
    plain_records,
    spool,
)

pytestmark = pytest.mark.slow

FORMATS: list[Format] = [Plain(), Checked(SEED)]
BOOT = recovery.boot_id()
ANOTHER_BOOT = b"another boot id!"
PAGE = 4096
MEMORY = 11 * 1024 * 1024 + 512 * 1024
"""A record of the largest length, what is read ahead, and a little."""


@pytest.fixture
def directory() -> Iterator[Path]:
    """On a file system in memory, if there is one."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as name:
        yield Path(name)


# ---- the parsers -----------------------------------------------------------------------------


def test_the_parsers_find_what_simple_readers_find() -> None:
    count = amount(40_000, 600_000)
    for seed in range(count):
        random = Random(seed)
        records, data = spool(random.choice(FORMATS), random)
        data = random.randbytes(random.randrange(64)) if seed % 16 == 0 else damaged(data, random)
        most = random.choice([1, 3, 1000])
        try:
            check_parser(data, most, random.choice([ANY_SIZE, MAX_MESSAGE_BYTES, 50]))
        except BaseException as exc:
            exc.add_note(f"seed {seed}: {records} became {data.hex(' ', 4)}")
            raise
    note("fuzz", "record parsers", files=count)


def some_position(random: Random) -> Position:
    return Position(random.randbytes(16), *(random.randrange(1 << 20) for _ in range(6)))


def two_slots(written: Sequence[tuple[int, Position]]) -> bytes:
    """A sidecar with these in its two slots."""
    return b"".join(
        encode(place, sequence).ljust(SLOT_SPACING, b"\0") for sequence, place in written
    )


def test_a_sidecar_gives_a_position_that_was_written_or_none() -> None:
    count = amount(40_000, 300_000)
    for seed in range(count):
        random = Random(seed)
        sequence = random.choice([0, 1, random.randrange(1 << 62)])
        written = [(sequence, some_position(random)), (sequence + 1, some_position(random))]
        first, second = (encode(place, number) for number, place in written)
        pair = [random.choice([first, damaged(first, random)]), damaged(second, random)]
        random.shuffle(pair)
        sidecar = pair[0].ljust(SLOT_SPACING, b"\0")[:SLOT_SPACING] + pair[1]
        try:
            check_sidecar(sidecar, written)
        except BaseException as exc:
            exc.add_note(f"seed {seed}: {written} became {sidecar.hex(' ', 4)}")
            raise
    note("fuzz", "sidecar parser", files=count)


# ---- opening ---------------------------------------------------------------------------------


@dataclass
class Case:
    """A data file and its sidecar, and what they were before they were damaged."""

    form: Format
    written: list[bytes]
    intact: bytes
    data: bytes
    positions: list[Position]
    """What the sidecar says, the older first; their inode is not known yet."""
    sidecar_damage: int | None
    """Seed of what is done to the sidecar."""


def make_case(random: Random) -> Case:
    form = random.choice(FORMATS)
    written, intact = spool(form, random)
    ends = [*accumulate((form.header_bytes + len(r) for r in written), initial=len(form.preamble))]
    boot = random.choice([BOOT, ANOTHER_BOOT])
    positions = []
    head = tail = committed = 0
    for _ in range(random.choice([0, 1, 2, 2])):
        head = random.randrange(head, len(ends))
        tail = random.randrange(max(head, tail), len(ends))
        committed = random.choice([committed, random.randrange(committed, tail + 1)])
        place = Position(boot, 0, form.seed, ends[head], ends[tail], tail - head, ends[committed])
        positions.append(place)
    return Case(
        form,
        written,
        intact,
        random.choice([intact, *[damaged(intact, random) for _ in range(3)]]),
        positions,
        random.choice([None, None, random.randrange(1 << 32)]),
    )


@dataclass
class Noted:
    """What the sidecar says."""

    position: Position | None = None
    """Of the data file."""
    blank: bool = False
    """It is there, and says nothing of any file."""


def leave(case: Case, directory: Path, random: Random) -> Noted:
    """Write the files of `case`; what the sidecar says then."""
    data = directory / "s.overflow"
    data.write_bytes(case.data)
    own = data.stat().st_ino
    inode = random.choice([own, own, own, own + 1])
    placed = [place._replace(inode=inode) for place in case.positions]
    if not placed:
        return Noted()
    sidecar = two_slots(list(enumerate(placed, start=1)))
    if case.sidecar_damage is not None:
        how = Random(case.sidecar_damage)
        start = how.choice([0, SLOT_SPACING])
        slot = damaged(sidecar[start : start + 100], how).ljust(100, b"\0")
        sidecar = sidecar[:start] + slot + sidecar[start + len(slot) :]
        sidecar = sidecar[: how.choice([len(sidecar), SLOT_SPACING + 50, how.randrange(200)])]
    data.with_name("s.overflow.pos").write_bytes(sidecar)
    slots = [sidecar[:SLOT_SPACING], sidecar[SLOT_SPACING:]]
    whole = [
        place
        for number, place in enumerate(placed, start=1)
        if any(slot.startswith(encode(place, number)) for slot in slots)
    ]
    return Noted(whole[-1] if whole and inode == own else None, blank=not whole)


def expected_of_plain(
    data: bytes, noted: Position | None, *, blank: bool
) -> tuple[list[bytes], int]:
    """What a plain file holds, by the rules in its document, and how many records are counted."""
    size = len(data)
    if noted is None or noted.head > size:
        power_was_cut = noted.boot != BOOT if noted else blank
        least = 0 if power_was_cut else PAGE
        log = plain_records(data, 0, size, zeros_from=0, least_zeros=least)
        return log.records, len(log.records)
    same_boot = noted.boot == BOOT
    sure = noted.tail if same_boot else max(noted.committed, noted.head)
    if noted.tail <= size and sure <= noted.tail:
        counted = plain_records(data, sure, noted.tail, zeros_from=sure)
        right_count = sure > noted.head or len(counted.records) == noted.records
        if counted.end == noted.tail and right_count:
            zeros_from = None if same_boot else noted.tail
            rest = plain_records(data, noted.tail, size, zeros_from=zeros_from)
            log = plain_records(data, noted.head, rest.end)
            return log.records, noted.records + len(rest.records)
    head = noted.head
    if noted.committed < head and plain_records(data, 0, head).end != head:
        head = 0
    log = plain_records(data, head, size, zeros_from=None if same_boot else noted.committed)
    return log.records, len(log.records)


def untouched(case: Case, start: int) -> list[bytes]:
    """The records from offset `start` on in front of the first byte that was changed."""
    records = []
    pairs = zip(case.intact, case.data, strict=False)
    same = next((at for at, (one, other) in enumerate(pairs) if one != other), len(case.data))
    at = len(case.form.preamble)
    for record in case.written:
        end = at + case.form.header_bytes + len(record)
        if at >= start and end <= same:
            records.append(record)
        at = end
    return records


def check_opened(case: Case, said: Noted, found: Opened) -> None:
    checked, noted = checked_of(case.data), said.position
    if noted and noted.seed != (checked.seed if checked else 0):
        if checked:
            noted = None
        else:  # the preamble is damaged, and the sidecar tells that there was one
            checked = Checked(noted.seed)
    if not checked:
        records, counted = expected_of_plain(case.data, noted, blank=said.blank)
        if len(found.records) < len(records):  # a length was damaged, but behind the position
            assert found.damage
            assert len(found.records) < counted
            records = records[: len(found.records)]
        assert found.records == records
        assert found.report.records in (0, counted)
    else:
        assert set(found.records) <= set(case.written)
        start = noted.head if noted and noted.head <= len(case.data) else 0
        assert is_part(untouched(case, start), found.records)


def is_part(few: Sequence[bytes], many: Sequence[bytes]) -> bool:
    """Whether `few` are among `many`, in that order."""
    rest = iter(many)
    return all(record in rest for record in few)


def test_opening_gives_nothing_that_was_not_written_and_never_fails(directory: Path) -> None:
    count = amount(8_000, 300_000)
    for seed in range(count):
        random = Random(seed)
        case = make_case(random)
        said = leave(case, directory, random)
        try:
            found = opened(directory, random.choice([1, 3, 1000]))
            check_opened(case, said, found)
        except BaseException as exc:
            exc.add_note(f"seed {seed}: {case}, noted: {said}")
            raise
        for path in directory.iterdir():
            assert ".quarantine-" in path.name
            path.unlink()
    note("fuzz", "files opened", files=count)


@pytest.mark.parametrize("form", FORMATS, ids=["plain", "checksum"])
def test_a_hostile_length_never_costs_more_memory_than_the_largest_record(
    directory: Path, form: Format
) -> None:
    count = amount(20, 400)
    for seed in range(count):
        random = Random(seed)
        lengths = [9000, MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES + 1, 0x7FFFFFFF, 0xFFFFFFFF]
        data = directory / "s.overflow"
        with data.open("wb") as file:
            file.write(form.preamble)
            for _ in range(random.randrange(1, 5)):
                length = random.choice([9000, MAX_MESSAGE_BYTES, random.choice(lengths)])
                file.write(length.to_bytes(4, "big").ljust(form.header_bytes, b"\0"))
                file.write(b"\1" * 2 * PAGE)  # a hole would mean that its start was given back
                file.seek(max(0, min(length, MAX_MESSAGE_BYTES) - 2 * PAGE), os.SEEK_CUR)
            file.truncate(file.tell() + random.choice([0, 4, 1 << 20]))
        tracemalloc.start()
        backend = FileBackend(Stream("s", "s", directory))
        while backend.depth():
            try:
                backend.read(1000, MAX_MESSAGE_BYTES)
            except CorruptedData:
                assert backend.depth() >= 0
        backend.close(delete=True)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MEMORY, f"seed {seed}"
        for path in directory.iterdir():
            path.unlink()
    note("fuzz", f"hostile lengths, {type(form).__name__}", files=count)
