"""Damage found while records before it are not done: they stay, whatever comes afterwards."""

import itertools
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import pytest

from hq_backends.file import FileBackend, recovery
from hq_backends.file.checked import PREAMBLE_BYTES, Checked, checked_of
from hq_backends.file.log import Log
from hq_backends.file.position import whole
from hq_core.errors import CorruptedData
from hq_core.testing.interrupting import interrupted, interruptions
from hq_core.testing.spool import ANY_SIZE, numbered, read_all, take
from tests.hq_backends.file.conftest import Spool

MIB = 1024 * 1024
RECORDS = numbered(10)
SIZE = 8 + len(RECORDS[0])

End = Callable[[Spool, FileBackend], None]


def damage_record(spool: Spool, number: int) -> None:
    """Flip a bit of the payload of one of `RECORDS`, in a file with checksums."""
    spool.flip(PREAMBLE_BYTES + number * SIZE + 8)


def overlong(spool: Spool, offset: int) -> None:
    """Make the length at `offset` one that no record has."""
    with spool.path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 4)


def told(backend: FileBackend, skip: int) -> str:
    with pytest.raises(CorruptedData) as caught:
        backend.read(skip, 100, ANY_SIZE)
    return str(caught.value)


def filled(spool: Spool, *damaged: int) -> FileBackend:
    backend = spool.open(checksum=True)
    backend.append(RECORDS)
    for number in damaged:
        damage_record(spool, number)
    return backend


def without(*gone: int) -> list[bytes]:
    return [record for number, record in enumerate(RECORDS) if number not in gone]


ENDS: dict[str, End] = {
    "close": lambda spool, backend: spool.close(backend),
    "kill": lambda spool, backend: spool.abandon(backend),
}


@pytest.fixture(params=ENDS)
def end(request: pytest.FixtureRequest) -> End:
    """How an owner may leave."""
    return ENDS[request.param]


# ---- one record ------------------------------------------------------------------------------


@pytest.mark.parametrize("trimmed", [0, 1, 3, 4, 9])
@pytest.mark.parametrize("number", [0, 1, 4, 8])
def test_only_the_damaged_record_goes_and_that_outlives_its_finder(
    spool: Spool, end: End, number: int, trimmed: int
) -> None:
    backend = filled(spool, number)
    assert read_all_up_to(backend, number) == RECORDS[:number]
    assert "checksum" in told(backend, number)
    left = without(number)
    assert read_all(backend) == left
    backend.trim(trimmed)
    for _ in range(2):
        end(spool, backend)
        backend = spool.open()
        assert backend.recovered.records == backend.depth() == 9 - trimmed
        assert read_all(backend) == left[trimmed:]
        assert backend.size_bytes() == backend.recovered.size_bytes == backend.cost(left[trimmed:])
    aside = spool.quarantined()
    assert len(aside) == PREAMBLE_BYTES + SIZE
    assert aside[:PREAMBLE_BYTES] == Checked(checked_of(aside).seed).preamble  # type: ignore[union-attr]


def read_all_up_to(backend: FileBackend, number: int) -> list[bytes]:
    return backend.read(0, number, ANY_SIZE) if number else []


def test_a_void_is_these_bytes(spool: Spool) -> None:
    backend = filled(spool, 4)
    read_all_up_to(backend, 4)
    damaged = spool.path.read_bytes()
    told(backend, 4)
    form = backend._log.form
    assert isinstance(form, Checked)
    start = PREAMBLE_BYTES + 4 * SIZE
    ((at, void),) = form.voids(SIZE)
    assert at == 0
    assert spool.path.read_bytes() == damaged[:start] + void + damaged[start + 8 :]
    assert [(at, void.hex()) for at, void in Checked(0x01020304).voids(11)] == [
        (0, "00000003aee3d55f")
    ]


@pytest.mark.parametrize("size", [8, 9, 10 * MIB + 8, 10 * MIB + 9, 10 * MIB + 16, 25 * MIB])
def test_voids_fill_a_gap_of_any_length(size: int) -> None:
    form, end = Checked(1), 0
    for at, header in form.voids(size):
        assert at == end
        assert form.is_void(header)
        end = at + form.record_bytes(header)
    assert end == size


def test_less_than_a_header_cannot_be_marked() -> None:
    assert Checked(1).voids(7) == []


def test_several_damaged_records_are_told_of_one_by_one(spool: Spool, end: End) -> None:
    backend = filled(spool, 1, 3, 4, 7)  # behind 3 there is none at once
    assert read_all_up_to(backend, 9) == RECORDS[:1]
    assert "it is in" in told(backend, 1)
    assert backend.read(1, 9, ANY_SIZE) == RECORDS[2:3]
    assert "it is in" in told(backend, 2)
    left = without(1, 3, 4, 7)
    assert read_all(backend) == left
    assert backend.size_bytes() == backend.cost(left)
    end(spool, backend)
    backend = spool.open()
    backend.append([b"new"])
    assert read_all(backend) == [*left, b"new"]


@pytest.mark.parametrize("order", list(itertools.permutations([2, 4, 6])))
def test_they_are_passed_by_whoever_opens_the_file_wherever_it_reads_first(
    spool: Spool, end: End, order: tuple[int, ...]
) -> None:
    backend = filled(spool, 2, 5, 8)
    for skip in (2, 4, 6):
        read_all_up_to(backend, skip)
        told(backend, skip)
    left = without(2, 5, 8)
    end(spool, backend)
    backend = spool.open()
    for skip in order:
        assert backend.read(skip, 1, ANY_SIZE) == left[skip : skip + 1]
    for trimmed in (1, 1, 3):
        backend.trim(trimmed)
        left = left[trimmed:]
        assert backend.size_bytes() == backend.cost(left)
        assert backend.read(1, 1, ANY_SIZE) == left[1:2]
    assert read_all(backend) == left
    backend.append([b"new"])
    assert take(backend, len(left) + 1) == [*left, b"new"]
    assert backend.size_bytes() == 0


def test_a_void_at_the_end_is_no_miscount(spool: Spool, end: End) -> None:
    """The record before it is the last, and does not end where the file does."""
    backend = filled(spool, 8)
    read_all_up_to(backend, 8)
    told(backend, 8)
    damage_record(spool, 9)
    backend._reader.forget()
    assert "1 records, are in" in told(backend, 8)
    assert read_all(backend) == RECORDS[:8]
    end(spool, backend)
    backend = spool.open()
    assert read_all(backend) == RECORDS[:8]
    assert backend.size_bytes() == backend.cost(RECORDS[:8])


def test_a_position_counts_nothing_while_there_is_a_void_and_all_after_it(spool: Spool) -> None:
    def noted() -> tuple[int, int]:
        _, found = whole([spool.slot(0), spool.slot(1)])[0]
        return found.records, found.tail - found.head

    backend = filled(spool, 4)
    read_all_up_to(backend, 4)
    told(backend, 4)
    backend.trim(3)
    assert noted() == (0, 0)
    backend.trim(1)
    assert noted() == (5, 5 * SIZE)


def test_a_record_whose_checksum_looks_like_that_of_a_void_is_a_record(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checked, "is_void", lambda self, header: True)
    backend = filled(spool)
    backend._log.uncounted_to = backend._log.extent[1]
    assert read_all(backend) == RECORDS
    spool.abandon(backend)
    spool.sidecar.unlink()
    assert read_all(spool.open()) == RECORDS


def test_when_it_cannot_be_marked_it_is_told_once_more_and_nothing_is_lost(
    spool: Spool, end: End, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> int:
        raise OSError(5, "on purpose")

    for name in ("pwrite", "pwritev"):
        backend = filled(spool, 4)
        read_all_up_to(backend, 4)
        with monkeypatch.context() as patch:
            patch.setattr(os, name, failing)
            told(backend, 4)
        assert read_all(backend) == without(4)
        assert backend.size_bytes() == backend.cost(without(4))
        end(spool, backend)
        backend = spool.open()
        assert backend.recovered.quarantined_bytes == SIZE
        assert read_all(backend) == without(4)
        spool.close(backend, delete=True)


def test_a_rewrite_takes_voids_with_it(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = filled(spool, 3, 8)
    for skip in (3, 7):
        read_all_up_to(backend, skip)
        told(backend, skip)
    monkeypatch.setattr(backend._space, "_can_punch", False)
    monkeypatch.setattr(backend._space, "_rewrite_from", 1)
    left = without(3, 8)
    backend.trim(5)
    assert spool.path.stat().st_size == PREAMBLE_BYTES + 4 * SIZE
    assert read_all(backend) == left[5:]
    assert backend.size_bytes() == backend.cost(left[5:])
    spool.abandon(backend)
    assert read_all(spool.open()) == left[5:]


def test_after_a_power_cut_too(spool: Spool, end: End, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = filled(spool, 4)
    read_all_up_to(backend, 4)
    told(backend, 4)
    backend.sync()
    end(spool, backend)
    monkeypatch.setattr(recovery, "boot_id", lambda: bytes(range(16)))
    assert read_all(spool.open()) == without(4)


# ---- it and what follows it ------------------------------------------------------------------


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("number", [0, 1, 4, 9])
def test_records_before_one_whose_length_is_damaged_stay(
    spool: Spool, end: End, number: int, checksum: bool
) -> None:
    """And those behind it, if they prove themselves."""
    backend = spool.open(checksum=checksum)
    backend.append(RECORDS)
    size = backend.cost(RECORDS[:1])
    overlong(spool, spool.path.stat().st_size - (10 - number) * size)
    damaged = spool.path.read_bytes()
    assert read_all_up_to(backend, 10 if number else 0) == RECORDS[:number]
    gone = 1 if checksum else 10 - number
    where = f"{gone} records, are in" if number + gone == 10 else "it is in"
    assert where in told(backend, number)
    start = len(damaged) - (10 - number) * size
    assert damaged[start : start + gone * size] in spool.quarantined()
    left = RECORDS[:number] + RECORDS[number + gone :]
    for _ in range(2):
        assert read_all(backend) == left
        assert backend.size_bytes() == backend.cost(left)
        end(spool, backend)
        backend = spool.open(checksum=checksum)
    backend.append([b"new"])
    assert take(backend, len(left) + 1) == [*left, b"new"]


def test_damage_on_the_way_to_a_record_takes_what_follows_it_too(spool: Spool, end: End) -> None:
    """Where the record is that was asked for cannot be told."""
    backend = spool.open()
    backend.append(RECORDS)
    overlong(spool, 3 * 13)
    assert "7 records, are in" in told(backend, 6)
    assert read_all(backend) == RECORDS[:3]
    end(spool, backend)
    assert read_all(spool.open()) == RECORDS[:3]


@pytest.mark.parametrize("number", [0, 3])
def test_a_miscount_leaves_what_was_read_before(spool: Spool, end: End, number: int) -> None:
    records = [b"a", b"b", b"c", b"d", bytes(40), b"e"]
    backend = spool.open()
    backend.append(records)
    with spool.path.open("r+b") as file:
        file.seek(4 * 5)
        file.write(bytes(4))
    assert read_all_up_to(backend, number) == records[:number]
    assert "end before byte 69" in told(backend, number)
    assert read_all(backend) == records[:number]
    end(spool, backend)
    assert read_all(spool.open()) == records[:number]


@pytest.mark.parametrize("checksum", [False, True])
def test_told_to_raise_it_touches_nothing_and_raises_again(spool: Spool, checksum: bool) -> None:
    backend = spool.open(checksum=checksum, on_corruption="raise")
    backend.append(RECORDS)
    if checksum:
        damage_record(spool, 4)
    else:
        overlong(spool, 4 * 13)
    before = spool.path.read_bytes(), backend.depth(), backend.size_bytes()
    assert read_all_up_to(backend, 9) == RECORDS[:4]
    assert told(backend, 4) == told(backend, 4)
    assert (spool.path.read_bytes(), backend.depth(), backend.size_bytes()) == before
    assert spool.names() == ["s.overflow"]
    assert backend.read(0, 2, ANY_SIZE) == RECORDS[:2]


@pytest.mark.parametrize("end", ["close", "kill", "drained"])
def test_without_room_for_a_copy_what_is_damaged_stays_and_is_passed_by(
    spool: Spool, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    backend = filled(spool, 4)
    read_all_up_to(backend, 4)
    damaged = spool.path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "sendfile", full)
        assert "still in the file" in told(backend, 4)
        assert read_all(backend) == without(4)
        backend.trim(7)  # nothing is given back
        backend.append([b"new"])
        assert spool.path.read_bytes()[: len(damaged)] == damaged
        if end == "drained":
            backend.trim(3)
            assert spool.names() == ["s.overflow.quarantine-1", "s.overflow.quarantine-1.pos"]
            assert spool.quarantined()[: len(damaged)] == damaged
            backend.append([b"newer"])
            assert read_all(backend) == [b"newer"]
            return
        ENDS[end](spool, backend)
    backend = spool.open()
    assert read_all(backend) == [*RECORDS[8:], b"new"]


# ---- interrupted -----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 4])
@pytest.mark.parametrize("kind", ["payload", "length"])
@pytest.mark.slow
def test_wherever_it_is_interrupted_nothing_is_lost_and_nothing_comes_twice(
    spool: Spool, end: End, number: int, kind: str
) -> None:
    rest = without(number)
    for line in interruptions():
        backend = filled(spool)
        if kind == "payload":
            damage_record(spool, number)
        else:
            overlong(spool, PREAMBLE_BYTES + number * SIZE)
        read_all_up_to(backend, number)
        came = False
        with suppress(CorruptedData):
            came = interrupted(partial(backend.read, number, 1, ANY_SIZE), line)
        if backend.depth() == 10:
            told(backend, number)
        assert read_all(backend) == rest
        assert backend.size_bytes() == backend.cost(rest)
        end(spool, backend)
        backend = spool.open()
        if backend.depth() > len(rest):  # it could not be marked
            assert read_all_up_to(backend, number) == RECORDS[:number]
            told(backend, number)
        assert read_all(backend) == rest
        spool.close(backend, delete=True)
        if not came:
            break


def test_what_is_known_of_the_log_is_found_again_if_it_was_forgotten(spool: Spool) -> None:
    backend = filled(spool, 4)
    read_all_up_to(backend, 4)
    told(backend, 4)
    log: Log = backend._log
    for number in range(10):
        log.forget(number % 4)
        assert read_all(backend) == without(4)
        assert log.find(9) == log.extent[1]
