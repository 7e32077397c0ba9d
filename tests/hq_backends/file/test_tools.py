"""What the tools make of overflow files that a queue would set aside, or go on from."""

import errno
import os
from typing import NoReturn

import pytest

from hq_backends.file import FileBackend, proving, space
from hq_core.errors import CorruptedData
from hq_core.stats import Damage
from hq_core.testing.spool import ANY_SIZE
from tests.hq_backends.file.conftest import Spool

MIB = 1024 * 1024


def leave(spool: Spool, records: list[bytes], *, checksum: bool = False) -> None:
    backend = spool.open(checksum=checksum)
    backend.append(records)
    spool.close(backend)


def salvaged(spool: Spool) -> tuple[list[bytes], list[Damage]]:
    found = list(FileBackend.tools.salvage(spool.path))
    return (
        [record for record in found if isinstance(record, bytes)],
        [damage for damage in found if isinstance(damage, Damage)],
    )


def overwrite(spool: Spool, offset: int, data: bytes) -> None:
    with spool.path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize("checksum", [False, True])
def test_a_punched_file_is_read_from_its_position(spool: Spool, checksum: bool) -> None:
    backend = spool.open(checksum=checksum)
    records = [b"%04d" % number * 5000 for number in range(200)]
    backend.append(records)
    backend.trim(150)
    spool.close(backend)
    assert salvaged(spool) == (records[150:], [])


def test_without_a_position_only_checksums_tell_where_to_begin(spool: Spool) -> None:
    for checksum in (False, True):
        records = [b"%04d" % number * 5000 for number in range(60)]
        leave(spool, records, checksum=checksum)
        spool.sidecar.unlink()
        fd = os.open(spool.path, os.O_RDWR)
        punched = space.punch(fd, 4096 if checksum else 0, MIB)
        os.close(fd)
        if not punched:
            pytest.skip("this file system has no holes")
        found, damage = salvaged(spool)
        if checksum:
            assert found == records[-len(found) :]
            assert len(found) == 7  # those that lie wholly behind the hole
        else:
            assert found == []
            assert "zeros" in damage[0].reason
        spool.path.unlink()


def test_behind_damage_a_plain_file_goes_on_where_the_position_was(spool: Spool) -> None:
    backend = spool.open()
    backend.append([bytes(100), b"two" * 36, bytes(100)])
    backend._notes.write()
    backend.append([b"four", b"five"])
    spool.abandon(backend)
    overwrite(spool, 107, b"\xff" * 4)
    records, damage = salvaged(spool)
    assert records == [bytes(100), b"four", b"five"]
    assert [(place.offset, place.size_bytes) for place in damage] == [(104, 216)]


@pytest.mark.parametrize("far", [False, True])
def test_records_that_the_position_counts_otherwise_are_damage(spool: Spool, far: bool) -> None:
    """Close to the head, where it shows at once that something is wrong, none is believed."""
    around = [b"x" * 100] if far else []
    leave(spool, [*around, b"one", b"two", b"three", *around])
    overwrite(spool, 104 * far, b"\0\0\0\x0a")  # swallows the second, to its last byte
    records, damage = salvaged(spool)
    assert records == ([*around, b"one\0\0\0\3two", b"three", *around] if far else [])
    count = 3 + 2 * far
    assert [place.reason for place in damage] == [
        f"the position counts {count} records up to here, not {count - 1}"
    ]


def test_between_damaged_records_every_whole_one_is_found(spool: Spool) -> None:
    records = [b"%d " % number * 400 for number in range(300)]
    leave(spool, records, checksum=True)
    overwrite(spool, 30_000, b"\xff" * 3000)
    overwrite(spool, 90_000, b"\x00" * 3000)
    found, damage = salvaged(spool)
    assert len(damage) == 2
    assert len(found) >= 290
    assert found == [record for record in records if record in found]


def test_a_search_comes_to_an_end(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(spool, [b"one", b"\0\1\0\0" * 40_000], checksum=True)
    overwrite(spool, 27, b"\xff")
    monkeypatch.setattr(proving, "_SEARCH_BYTES", MIB)
    found, damage = salvaged(spool)
    assert found == [b"one"]
    assert [place.offset for place in damage] == [27]


def test_a_failing_disk_is_no_damage(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    leave(spool, [b"one"])
    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(OSError, match="Input/output error"):
        salvaged(spool)


@pytest.mark.parametrize(
    ("sidecar", "position"),
    [(None, "missing"), (b"", "unreadable"), (b"x" * 8192, "unreadable")],
)
def test_a_position_that_says_nothing_is_told(
    spool: Spool, sidecar: bytes | None, position: str
) -> None:
    leave(spool, [b"one", b"two"])
    spool.sidecar.unlink()
    if sidecar is not None:
        spool.sidecar.write_bytes(sidecar)
    inspection = FileBackend.tools.inspect(spool.path)
    assert (inspection.position, inspection.records) == (position, 2)


def test_a_position_of_another_file_or_behind_its_end_is_told(spool: Spool) -> None:
    leave(spool, [b"one", b"two"])
    spool.path.rename(spool.path.with_name("other"))
    spool.path.write_bytes(b"\0\0\0\5three\0\0\0\4four")
    assert FileBackend.tools.inspect(spool.path).position == "of another file"
    assert salvaged(spool) == ([b"three", b"four"], [])


def test_of_a_void_nothing_is_told(spool: Spool) -> None:
    """It was told when it was set aside."""
    backend = spool.open(checksum=True)
    backend.append([b"one", b"two", b"three"])
    spool.flip(16 + 11 + 8)
    with pytest.raises(CorruptedData):
        backend.read(1, 1, ANY_SIZE)
    spool.close(backend)
    assert salvaged(spool) == ([b"one", b"three"], [])
    inspection = FileBackend.tools.inspect(spool.path)
    assert (inspection.records, inspection.size_bytes) == (2, 11 + 13)
