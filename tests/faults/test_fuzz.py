"""Files that nobody wrote, or that somebody damaged: what comes out, and what never may."""

import os
import tracemalloc
from pathlib import Path
from random import Random

import pytest

from hq_backends.file import FileBackend
from hq_backends.file.checked import checked_of
from hq_backends.file.format import Format
from hq_backends.file.position import SLOT_SPACING, Position, encode
from hq_core import CorruptedData
from hq_core.protocols import MAX_MESSAGE_BYTES
from hq_core.spool.directory import Directory
from hq_core.testing.spool import ANY_SIZE
from tests.faults.campaign import amount, note
from tests.faults.fuzzing import (
    Opened,
    check_parser,
    check_sidecar,
    damaged,
    opened,
    spool,
)
from tests.faults.leftovers import (
    FORMATS,
    PAGE,
    Case,
    Noted,
    is_part,
    leave,
    make_case,
    untouched,
)

pytestmark = pytest.mark.slow

MEMORY = 11 * 1024 * 1024 + 512 * 1024
"""A record of the largest length, what is read ahead, and a little."""


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
    return Position(random.randbytes(16), *(random.randrange(1 << 20) for _ in range(8)))


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


def check_opened(case: Case, said: Noted, found: Opened, directory: Path) -> None:
    """Nothing is made up, and of what nobody has touched nothing is gone."""
    aside = b"".join(path.read_bytes() for path in directory.glob("*.quarantine-*"))
    if checked_of(case.data):
        assert set(found.records) <= set(case.written)
        assert is_part(untouched(case, said.start(case)), found.records)
    elif case.data == case.intact:
        assert found.records == case.written[len(case.written) - len(found.records) :] or (
            case.written[-1] == b""  # uncounted at the end, it may be what a power cut left
        )
    for record in untouched(case, said.start(case)):
        assert record in found.records or record in aside


def test_opening_gives_nothing_that_was_not_written_and_never_fails(directory: Path) -> None:
    count = amount(8_000, 300_000)
    for seed in range(count):
        random = Random(seed)
        case = make_case(random)
        said = leave(case, directory, random)
        try:
            found = opened(directory, random.choice([1, 3, 1000]))
            check_opened(case, said, found, directory)
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
        with Directory(directory) as held:
            tracemalloc.start()
            backend = FileBackend(held.stream("s"))
            while backend.depth():
                try:
                    backend.trim(len(backend.read(0, 1000, MAX_MESSAGE_BYTES)))
                except CorruptedData:
                    assert backend.depth() >= 0
            backend.close(delete=True)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < MEMORY, f"seed {seed}"
        for path in directory.iterdir():
            path.unlink()
    note("fuzz", f"hostile lengths, {type(form).__name__}", files=count)
