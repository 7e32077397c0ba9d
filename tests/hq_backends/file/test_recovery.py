"""What opening makes of a file that an earlier owner left: the states a crash can leave it in."""

import os
from pathlib import Path

import pytest

from hq_backends.file import FileBackend
from hq_core.errors import CorruptedData, QueueFull, StreamBusyError
from hq_core.protocols import MAX_MESSAGE_BYTES
from hq_core.testing.forking import killed_after
from hq_core.testing.spool import file_size_limit, numbered, read_all, take
from tests.hq_backends.file.conftest import Spool

EVERYTHING = 1_000_000_000
WHOLE = b"\0\0\0\3one\0\0\0\0\0\0\0\5three"
RECORDS = [b"one", b"", b"three"]
DAMAGE = (MAX_MESSAGE_BYTES + 1).to_bytes(4, "big") + b"whatever follows"


def drain(backend: FileBackend) -> list[bytes]:
    """Take everything, one by one."""
    records: list[bytes] = []
    while backend.depth():
        records += take(backend, 1)
    return records


def test_whole_records_are_resumed(spool: Spool) -> None:
    spool.path.write_bytes(WHOLE)
    backend = spool.open()
    assert (backend.recovered.records, backend.recovered.size_bytes) == (3, len(WHOLE))
    assert backend.recovered.quarantine is None
    backend.append([b"new"])
    assert drain(backend) == [*RECORDS, b"new"]


@pytest.mark.parametrize("checksum", [False, True])
def test_a_read_that_returns_less_than_is_there_is_no_damage(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, checksum: bool
) -> None:
    """The system returns what it got before the page a disk fails at, and the error only then."""
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, at: real(fd, -(-size // 2), at))
    backend = spool.open(checksum=checksum)
    records = [*RECORDS, bytes(100_000)]
    backend.append(records)
    assert backend.read(0, 1, EVERYTHING) == records[:1]
    spool.abandon(backend)
    backend = spool.open()
    assert drain(backend) == records
    assert spool.names() == ["s.overflow"]


def test_what_a_failed_append_left_does_not_come_to_life_by_closing(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise OSError(5, "Input/output error")

    backend = spool.open(fsync="always")
    backend.append([b"one"])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing)
        patch.setattr(os, "ftruncate", failing)
        with pytest.raises(OSError, match="could not be flushed"):
            backend.append([b"ghost"])
    with pytest.raises(OSError, match="an earlier flush failed"):
        spool.close(backend)
    assert drain(spool.open()) == [b"one"]


def test_closing_lets_go_of_the_files_though_they_cannot_be_removed(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    backend = spool.open()
    backend.append([b"one"])
    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", failing)
        with pytest.raises(OSError, match="Input/output error"):
            spool.close(backend, delete=True)
    assert (backend._data.fd, backend._sidecar.fd) == (-1, -1)


@pytest.mark.parametrize("cut", range(1, 4))
def test_part_of_a_length_is_cut_without_more_ado(spool: Spool, cut: int) -> None:
    spool.path.write_bytes(WHOLE + b"\0\0\0\7"[:cut])
    backend = spool.open()
    assert backend.recovered.torn_bytes == cut
    assert spool.path.read_bytes() == WHOLE
    assert spool.names() == ["s.overflow"]
    assert drain(backend) == RECORDS


@pytest.mark.parametrize("cut", range(4, 11))
def test_a_record_cut_short_is_set_aside_and_cut(spool: Spool, cut: int) -> None:
    torn = b"\0\0\0\x07payload"[:cut]
    spool.path.write_bytes(WHOLE + torn)
    backend = spool.open()
    report = backend.recovered
    assert (report.records, report.torn_bytes, report.quarantined_bytes) == (3, cut, cut)
    assert isinstance(report.quarantine, Path)
    assert report.quarantine.read_bytes() == torn
    assert spool.path.read_bytes() == WHOLE
    assert drain(backend) == RECORDS


def test_every_cut_of_a_file_gives_a_prefix_of_its_records(spool: Spool) -> None:
    for size in range(len(WHOLE) + 1):
        spool.path.write_bytes(WHOLE[:size])
        backend = spool.open()
        got = drain(backend)
        assert got == RECORDS[: len(got)]
        assert sum(4 + len(record) for record in got) + backend.recovered.torn_bytes == size
        spool.close(backend, delete=True)


def test_damage_ends_the_log_and_the_rest_is_set_aside(spool: Spool) -> None:
    spool.path.write_bytes(WHOLE + DAMAGE)
    backend = spool.open()
    report = backend.recovered
    assert str(MAX_MESSAGE_BYTES + 1) in report.reason
    assert report.quarantine == (aside := spool.directory / "s.overflow.quarantine-1")
    assert aside.read_bytes() == DAMAGE
    assert drain(backend) == RECORDS


def test_a_file_damaged_from_its_start_is_renamed(spool: Spool) -> None:
    spool.path.write_bytes(DAMAGE)
    backend = spool.open()
    assert backend.recovered.quarantined_bytes == len(DAMAGE)
    assert spool.names() == ["s.overflow.quarantine-1"]
    backend.append([b"new"])
    assert drain(backend) == [b"new"]


def test_a_damaged_length_that_makes_more_records_of_the_file_is_found(spool: Spool) -> None:
    backend = spool.open()
    backend.append([bytes(40), b"two"])
    spool.close(backend)
    with spool.path.open("r+b") as file:
        file.write(bytes(4))
    data = spool.path.read_bytes()
    backend = spool.open()
    assert backend.depth() == 0
    assert spool.quarantined() == data
    backend.append([b"new"])
    assert drain(backend) == [b"new"]


def test_no_quarantine_overwrites_another(spool: Spool) -> None:
    for number in (1, 2, 3):
        spool.path.write_bytes(DAMAGE + bytes([number]))
        spool.close(spool.open())
        aside = spool.directory / f"s.overflow.quarantine-{number}"
        assert aside.read_bytes() == DAMAGE + bytes([number])


def test_on_corruption_raise_touches_nothing(spool: Spool) -> None:
    spool.path.write_bytes(WHOLE + DAMAGE)
    with pytest.raises(CorruptedData, match=f"at byte {len(WHOLE)}"):
        spool.open(on_corruption="raise")
    assert spool.path.read_bytes() == WHOLE + DAMAGE
    assert spool.names() == ["s.overflow"]


def test_a_file_whose_start_was_given_back_is_set_aside_whole(spool: Spool) -> None:
    """Zeros parse as empty messages; nothing tells where the first real record is."""
    with spool.path.open("wb") as file:
        file.truncate(1024 * 1024)
        file.seek(1024 * 1024)
        file.write(WHOLE)
    backend = spool.open()
    assert backend.recovered.records == 0
    assert "zeros" in backend.recovered.reason
    assert backend.depth() == 0


def test_leftover_discard_deletes(spool: Spool) -> None:
    spool.path.write_bytes(WHOLE)
    backend = spool.open(leftover="discard")
    assert backend.recovered.records == 0
    assert backend.depth() == 0
    assert not spool.path.exists()
    assert not spool.sidecar.exists()


def test_leftover_refuse_leaves_it_and_says_what_is_there(spool: Spool) -> None:
    spool.path.write_bytes(WHOLE)
    with pytest.raises(StreamBusyError, match="holds 3 records"):
        spool.open(leftover="refuse")
    assert spool.path.read_bytes() == WHOLE
    assert spool.names() == ["s.overflow"]


def test_leftover_quarantine_renames(spool: Spool) -> None:
    spool.path.write_bytes(WHOLE)
    backend = spool.open(leftover="quarantine")
    aside = spool.directory / "s.overflow.quarantine-1"
    assert aside.read_bytes() == WHOLE
    assert backend.recovered.quarantine == aside
    assert backend.depth() == 0


@pytest.mark.parametrize("leftover", ["resume", "discard", "refuse", "quarantine"])
def test_an_empty_leftover_is_none_at_all(spool: Spool, leftover: str) -> None:
    spool.path.touch()
    assert spool.open(leftover=leftover).recovered.records == 0


def test_large_records_are_counted_without_reading_them(spool: Spool) -> None:
    with spool.path.open("wb") as file:
        for size in (5_000_000, 1, 70_000, 0, 65_536):
            file.write(size.to_bytes(4, "big"))
            file.write(os.urandom(size))
    backend = spool.open()
    assert backend.recovered.records == 5
    assert [len(record) for record in drain(backend)] == [5_000_000, 1, 70_000, 0, 65_536]


@pytest.mark.parametrize("end", ["trim", "close", "delete", "room", "kill"])
def test_without_room_for_a_copy_damage_waits_for_it_and_nothing_else_does(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    spool.path.write_bytes(WHOLE + DAMAGE)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "sendfile", full)
        backend = spool.open(tell=said.append)
        assert "still in the file" in said[0]
        assert backend.recovered.quarantine is None
        for _ in range(2):
            with pytest.raises(QueueFull, match="no room to set damage aside"):
                backend.append([b"new"])
        backend.sync()
        assert spool.path.read_bytes() == WHOLE + DAMAGE
        if end == "trim":
            assert drain(backend) == RECORDS
            assert spool.names() == ["s.overflow.quarantine-1", "s.overflow.quarantine-1.pos"]
            assert spool.quarantined() == WHOLE + DAMAGE
        elif end == "kill":
            spool.abandon(backend)
        elif end != "room":
            backend.trim(2)
            spool.close(backend, delete=end == "delete")
    if end == "delete":
        assert spool.quarantined() == WHOLE + DAMAGE
        return
    if end in {"close", "kill"}:
        backend = spool.open()
    backend.append([b"new"])
    assert DAMAGE in spool.quarantined()
    left = {"trim": [], "close": RECORDS[2:]}.get(end, RECORDS)
    assert drain(backend) == [*left, b"new"]


def test_a_copy_that_fails_for_another_reason_changes_nothing(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.path.write_bytes(WHOLE + DAMAGE)

    def failing(*_: object) -> int:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "sendfile", failing)
        with pytest.raises(OSError, match="Input/output error"):
            spool.open()
    assert spool.path.read_bytes() == WHOLE + DAMAGE
    assert spool.names() == ["s.overflow"]


def test_a_killed_writer_leaves_what_it_had_acknowledged(spool: Spool) -> None:
    killed_after(lambda: spool.open().append(RECORDS))
    assert drain(spool.open()) == RECORDS


def test_the_remains_of_a_rewrite_are_removed(spool: Spool) -> None:
    spool.path.write_bytes(WHOLE)
    spool.path.with_name("s.overflow.new").write_bytes(WHOLE[:5])
    assert drain(spool.open()) == RECORDS
    assert spool.names() == ["s.overflow"]


@pytest.mark.parametrize("leftover", ["resume", "refuse", "quarantine"])
def test_a_file_in_which_all_is_done_is_none_at_all(spool: Spool, leftover: str) -> None:
    def work() -> None:
        backend = FileBackend(spool.stream(), fsync="always")
        backend.append(RECORDS)
        drain(backend)

    killed_after(work)
    assert spool.path.stat().st_size == len(WHOLE)
    assert spool.open(leftover=leftover).recovered.records == 0
    assert not spool.path.exists()


def test_on_a_full_disk_it_is_resumed_all_the_same(spool: Spool) -> None:
    """No room for a sidecar, nor for keeping what is torn, of which nobody was told."""
    spool.path.write_bytes(WHOLE * 2000 + b"\0\0\x10\0" + bytes(3000))
    with file_size_limit(1000):
        backend = spool.open()
        assert backend.recovered.torn_bytes == 3004
        assert backend.recovered.quarantine is None
        assert read_all(backend) == RECORDS * 2000
        backend.trim(6000)
        with pytest.raises(QueueFull):
            backend.append([bytes(2000)])
    backend.append([b"new"])
    assert drain(backend) == [b"new"]


@pytest.mark.parametrize("zeros", [8, 30, 70])
@pytest.mark.parametrize("batch", [1, 1000])
def test_lengths_that_are_wrong_but_possible_do_not_displace_what_comes_later(
    spool: Spool, zeros: int, batch: int
) -> None:
    """Ten records were counted; more, or fewer, seem to be there."""
    backend = spool.open()
    backend.append(numbered(10))
    spool.close(backend)
    spool.path.write_bytes(bytes(zeros) + spool.path.read_bytes()[zeros:])
    data = spool.path.read_bytes()
    backend = spool.open()
    while backend.depth():
        backend.trim(len(backend.read(0, batch, EVERYTHING)))
    assert spool.quarantined() == data, "they are the position's word against the file's"
    backend.append([b"new"])
    assert drain(backend) == [b"new"]
