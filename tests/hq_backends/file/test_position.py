"""The position sidecar: its bytes, and what opening makes of it in every state of the two files."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hq_backends.file import FileBackend, recovery
from hq_backends.file.position import SLOT_SPACING, Position, decode, encode, whole
from hq_core.errors import BackendError
from hq_core.testing.forking import killed_after
from hq_core.testing.spool import numbered, read_all, take
from tests.hq_backends.file.conftest import Spool

POSITION = Position(b"0123456789abcdef", 7, 0, 100, 300, 5, 200, 0x01020304, 0x05060708)
KIB = 1024
MIB = 1024 * KIB
PAGE = 4 * KIB


def left_by_a_killed_owner(spool: Spool, records: list[bytes], taken: int, **options: str) -> None:
    """Append `records` one by one, take some of them, and die."""

    def work() -> None:
        backend = FileBackend(spool.stream(), **options)  # type: ignore[arg-type]
        for record in records:
            backend.append([record])
        if taken:
            take(backend, taken)

    killed_after(work)


@pytest.fixture
def power_cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, the system has been started again."""
    return lambda: monkeypatch.setattr(recovery, "boot_id", lambda: bytes(range(16)))


# ---- the bytes -------------------------------------------------------------------------------


def test_a_slot_is_these_bytes() -> None:
    assert encode(POSITION, 3).hex(" ", -4) == (
        "4851504f 53000002 00000000 00000003 30313233 34353637 38396162 63646566 "
        "00000000 00000007 00000000 00000000 00000064 00000000 0000012c 00000000 "
        "00000005 00000000 000000c8 01020304 05060708 10ed72c1"
    )


def test_a_slot_says_what_was_written() -> None:
    assert decode(encode(POSITION, 3) + b"more") == (3, POSITION)


def test_a_slot_in_which_a_bit_is_flipped_is_none() -> None:
    slot = encode(POSITION, 3)
    for bit in range(8 * len(slot)):
        flipped = bytearray(slot)
        flipped[bit // 8] ^= 1 << bit % 8
        assert decode(bytes(flipped)) is None


@settings(derandomize=True, deadline=None)
@given(st.binary(max_size=200))
def test_a_slot_of_any_bytes_is_none(slot: bytes) -> None:
    assert decode(slot) is None


def test_the_newest_whole_slot_comes_first() -> None:
    slots = [encode(POSITION._replace(head=head), head) for head in (8, 9)]
    positions = [(9, POSITION._replace(head=9)), (8, POSITION._replace(head=8))]
    assert whole(slots) == positions
    assert whole([slots[0], slots[1][:-1]]) == positions[1:]
    assert whole([b"", b""]) == []


def test_a_sequence_with_none_after_it_is_none() -> None:
    assert decode(encode(POSITION, 2**64 - 1)) is None


# ---- after a killed process ------------------------------------------------------------------


@pytest.mark.parametrize("fsync", ["never", "interval", "always"])
@pytest.mark.parametrize("taken", [0, 1, 4, 9, 10])
def test_what_was_trimmed_does_not_come_again(spool: Spool, taken: int, fsync: str) -> None:
    left_by_a_killed_owner(spool, numbered(10), taken, fsync=fsync)
    backend = spool.open(fsync=fsync)
    assert backend.recovered.records == 10 - taken
    assert read_all(backend) == numbered(10)[taken:]


def test_a_file_whose_start_was_given_back_goes_on_at_its_position(spool: Spool) -> None:
    records = [b"%05d" % number + bytes(10_000) for number in range(300)]
    left_by_a_killed_owner(spool, records, 250)
    assert spool.path.stat().st_blocks * 512 < 2 * MIB
    backend = spool.open()
    assert read_all(backend) == records[250:]


def test_empty_messages_at_the_end_are_messages(spool: Spool) -> None:
    left_by_a_killed_owner(spool, [b"x", *[b""] * 2000], 1)
    assert read_all(spool.open()) == [b""] * 2000


def test_only_what_was_appended_since_the_last_note_is_walked(
    spool: Spool, calls: Callable[[str], list[tuple[Any, ...]]]
) -> None:
    left_by_a_killed_owner(spool, [bytes([number]) * 100_000 for number in range(50)], 7)
    noted = spool.noted()
    reads = calls("pread")
    assert spool.open().recovered.records == 43
    passed = [offset for _, size, offset in reads if noted.head + 64 < offset < noted.tail - 64]
    assert passed == []


@pytest.mark.parametrize("checksum", [False, True])
def test_opening_reads_no_more_of_a_large_file_than_of_a_small_one(
    spool: Spool, calls: Callable[[str], list[tuple[Any, ...]]], checksum: bool
) -> None:
    """And of a copy, which has to be walked, the headers only."""
    reads = calls("pread")

    def bytes_read(count: int, *, copied: bool) -> int:
        backend = spool.open(checksum=checksum)
        backend.append([bytes([number]) * 30_000 for number in range(1, count)])
        take(backend, 7)
        spool.abandon(backend)
        if copied:
            copy = shutil.copy(spool.path, spool.path.with_name("copy"))
            Path(copy).rename(spool.path)
        del reads[:]
        backend = spool.open()
        assert backend.recovered.records == count - 8
        spool.close(backend, delete=True)
        return sum(size for _, size, _ in reads)

    assert bytes_read(200, copied=False) == bytes_read(20, copied=False) < 32 * 1024
    assert bytes_read(200, copied=True) < bytes_read(20, copied=True) + 180 * 16 < 256 * 1024


def test_a_backlog_is_noted_while_it_grows(spool: Spool) -> None:
    backend = spool.open()
    for number in range(40):
        backend.append([b"%d" % number + bytes(100_000)])
    assert spool.noted().tail > 3 * MIB


@pytest.mark.parametrize("torn", [0, 1])
@pytest.mark.parametrize("taken", [3, 4])
def test_a_torn_slot_leaves_the_older_one(spool: Spool, torn: int, taken: int) -> None:
    left_by_a_killed_owner(spool, numbered(10), 0)
    backend = spool.open()
    for _ in range(taken):
        take(backend, 1)
    with spool.sidecar.open("r+b") as file:
        file.seek(torn * SLOT_SPACING + 50)
        file.write(b"torn")
    spool.abandon(backend)
    got = read_all(spool.open())
    assert got in (numbered(10)[taken:], numbered(10)[taken - 1 :])


def test_a_lost_sidecar_means_from_the_beginning(spool: Spool) -> None:
    left_by_a_killed_owner(spool, numbered(10), 4)
    spool.sidecar.unlink()
    assert read_all(spool.open()) == numbered(10)


def test_a_copy_is_read_where_the_position_is(spool: Spool) -> None:
    left_by_a_killed_owner(spool, numbered(10), 4)
    copy = spool.path.with_name("copy")
    shutil.copy(spool.path, copy)
    copy.rename(spool.path)
    assert read_all(spool.open()) == numbered(10)[4:]


def test_a_sidecar_of_another_file_does_not_count(spool: Spool) -> None:
    left_by_a_killed_owner(spool, numbered(10), 4)
    position = spool.sidecar.read_bytes()
    spool.close(spool.open(), delete=True)
    left_by_a_killed_owner(spool, numbered(10, start=50), 2)
    spool.sidecar.write_bytes(position)
    assert read_all(spool.open()) == numbered(10, start=50)


def test_a_position_behind_the_end_means_from_the_beginning(spool: Spool) -> None:
    """The drained file was truncated, begun again by somebody, and the sidecar is the old one."""
    left_by_a_killed_owner(spool, numbered(10), 4)
    with spool.path.open("r+b") as file:
        file.truncate(0)
        file.write(b"\0\0\0\3new")
    assert read_all(spool.open()) == [b"new"]


def test_a_sidecar_without_data_is_removed(spool: Spool) -> None:
    left_by_a_killed_owner(spool, numbered(10), 4)
    spool.path.unlink()
    backend = spool.open()
    assert backend.recovered.records == 0
    assert not spool.sidecar.exists()


def test_a_quarantined_file_keeps_its_position(spool: Spool) -> None:
    left_by_a_killed_owner(spool, numbered(10), 4)
    before = spool.sidecar.read_bytes()
    spool.open(leftover="quarantine")
    assert (spool.directory / "s.overflow.quarantine-1.pos").read_bytes() == before


def test_closing_and_keeping_keeps_the_position(spool: Spool) -> None:
    backend = spool.open()
    backend.append(numbered(10))
    take(backend, 6)
    read_all(backend)
    spool.close(backend)
    assert read_all(spool.open()) == numbered(10)[6:]


@pytest.mark.parametrize("kind", ["link", "directory", "fifo"])
def test_another_thing_in_the_sidecars_place_is_refused(spool: Spool, kind: str) -> None:
    spool.path.write_bytes(b"\0\0\0\3one")
    if kind == "link":
        spool.sidecar.symlink_to(spool.path)
    elif kind == "directory":
        spool.sidecar.mkdir()
    else:
        os.mkfifo(spool.sidecar)
    with pytest.raises(BackendError, match="not a regular file of this user"):
        spool.open()
    assert spool.path.read_bytes() == b"\0\0\0\3one"


@pytest.mark.parametrize(
    "changes",
    [
        {"records": 2**63},
        {"records": 0},
        {"head": 1, "tail": 0},
        {"tail": 2**64 - 1},
        {"head": 2**64 - 1, "tail": 2**64 - 1},
        {"committed": 2**64 - 1},
    ],
)
def test_a_position_that_cannot_be_is_not_believed(spool: Spool, changes: dict[str, int]) -> None:
    left_by_a_killed_owner(spool, numbered(10), 0)
    spool.sidecar.write_bytes(encode(spool.noted()._replace(**changes), 99))  # type: ignore[arg-type]
    got = read_all(spool.open())
    assert got == numbered(10)[10 - len(got) :]


# ---- after a power cut -----------------------------------------------------------------------


def test_zeros_that_a_power_cut_left_are_no_messages(
    spool: Spool, power_cut: Callable[[], None]
) -> None:
    left_by_a_killed_owner(spool, numbered(10), 3)
    power_cut()
    with spool.path.open("ab") as file:
        file.write(bytes(1000))
    backend = spool.open()
    assert backend.recovered.torn_bytes == 1000
    assert "zeros" in backend.recovered.reason
    assert read_all(backend) == numbered(10)[3:]


def test_zeros_up_to_the_end_of_a_page_end_the_log(
    spool: Spool, power_cut: Callable[[], None]
) -> None:
    left_by_a_killed_owner(spool, numbered(10), 3)
    power_cut()
    with spool.path.open("r+b") as file:
        file.seek(PAGE)
        file.write(b"\0\0\0\3new")
    backend = spool.open()
    assert backend.recovered.quarantined_bytes == PAGE + 7 - 130
    assert spool.quarantined().endswith(bytes(PAGE - 130) + b"\0\0\0\3new")
    assert read_all(backend) == numbered(10)[3:]


def test_zeros_before_something_else_on_the_page_are_messages(
    spool: Spool, power_cut: Callable[[], None]
) -> None:
    left_by_a_killed_owner(spool, [b"one", b"", b"", b"two"], 0)
    power_cut()
    assert read_all(spool.open()) == [b"one", b"", b"", b"two"]


def test_zeros_that_were_flushed_are_messages(spool: Spool, power_cut: Callable[[], None]) -> None:
    left_by_a_killed_owner(spool, [b"x", b"", b""], 0, fsync="always")
    power_cut()
    assert read_all(spool.open()) == [b"x", b"", b""]


def test_that_they_were_flushed_is_not_forgotten_by_the_next_note(
    spool: Spool, power_cut: Callable[[], None]
) -> None:
    left_by_a_killed_owner(spool, [b"x", b"", b""], 1, fsync="always")
    power_cut()
    assert read_all(spool.open()) == [b"", b""]


def test_without_its_tail_the_file_gives_what_is_left(
    spool: Spool, power_cut: Callable[[], None]
) -> None:
    left_by_a_killed_owner(spool, numbered(10), 3)
    power_cut()
    os.truncate(spool.path, 105)
    assert read_all(spool.open()) == numbered(10)[3:8]


def test_without_what_is_close_to_its_head_it_gives_what_was_done_again(
    spool: Spool, power_cut: Callable[[], None]
) -> None:
    left_by_a_killed_owner(spool, numbered(10), 3)
    power_cut()
    os.truncate(spool.path, 65)
    assert read_all(spool.open()) == numbered(10)[:5]


def test_a_position_amid_a_record_is_of_another_time(
    spool: Spool, power_cut: Callable[[], None]
) -> None:
    """The new contents reached the disk, the reset position did not."""
    left_by_a_killed_owner(spool, numbered(10), 3)
    power_cut()
    data = b"\0\0\0\x50" + bytes(80) + b"\0\0\0\3new"
    spool.path.write_bytes(data)
    assert read_all(spool.open()) == [bytes(80), b"new"]


def test_zeros_are_no_messages_if_the_position_never_reached_the_disk(spool: Spool) -> None:
    """A power cut left the sidecar, of zeros, and fewer zeros behind the data than a page."""
    spool.path.write_bytes(b"\0\0\0\3one" + bytes(400))
    spool.sidecar.write_bytes(bytes(8192))
    backend = spool.open()
    assert read_all(backend) == [b"one"]
    assert backend.recovered.torn_bytes == 400


@pytest.mark.parametrize("zeros", [PAGE, 2 * PAGE])
def test_a_page_of_zeros_at_the_end_of_a_file_without_position_is_no_messages(
    spool: Spool, zeros: int
) -> None:
    spool.path.write_bytes(b"\0\0\0\3one" + bytes(zeros))
    backend = spool.open()
    assert read_all(backend) == [b"one"]
    assert backend.recovered.torn_bytes == zeros
    assert spool.quarantined() == bytes(zeros)


@pytest.mark.parametrize("before", [1, PAGE - 11])
def test_empty_messages_in_a_file_of_another_program_are_messages(
    spool: Spool, before: int
) -> None:
    """If they are no whole page."""
    first = before.to_bytes(4, "big") + b"x" * before
    spool.path.write_bytes(first + bytes(400) + b"\0\0\0\3two" + bytes(8))
    assert read_all(spool.open()) == [b"x" * before, *[b""] * 100, b"two", b"", b""]


# ---- failing while it is written -------------------------------------------------------------


def test_a_position_that_cannot_be_written_trims_nothing(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = spool.open()
    backend.append(numbered(3))
    before = backend.size_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        with pytest.raises(OSError, match="on purpose"):
            backend.trim(2)
    assert backend.size_bytes() == before
    backend.trim(2)
    assert read_all(backend) == numbered(3)[2:]


def test_nothing_is_appended_before_the_reset_position_is_written(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = spool.open()
    backend.append(numbered(3))
    take(backend, 3)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        with pytest.raises(OSError, match="on purpose"):
            backend.append([b"ghost"])
    assert spool.path.stat().st_size == 0
    backend.append([b"new"])
    assert read_all(backend) == [b"new"]


def test_the_sidecar_has_its_space_before_the_disk_is_full(spool: Spool) -> None:
    spool.open().append([b"x"])
    assert spool.sidecar.stat().st_size == 2 * SLOT_SPACING
    assert spool.sidecar.stat().st_blocks * 512 >= 2 * SLOT_SPACING


def fail(*_: object) -> int:
    raise OSError(5, "on purpose")


def test_every_file_is_removed_with_the_queue(spool: Spool) -> None:
    backend = spool.open()
    backend.append([b"x"])
    spool.close(backend, delete=True)
    assert list(Path(spool.directory).iterdir()) == []
