"""What is in the environment, byte for byte."""

import lmdb
import pytest

from hq_core.errors import CorruptedData
from hq_core.protocols import MAX_MESSAGE_BYTES
from hq_core.testing.spool import ANY_SIZE, read_all
from tests.hq_backends.lmdb.conftest import Spool


def test_a_key_is_where_the_record_starts_and_the_value_its_payload(spool: Spool) -> None:
    backend = spool.open()
    backend.append([b"abc"])
    backend.append([b"", b"\xff" * 300, b"last"])
    assert backend.size_bytes() == 4 * 8 + 3 + 300 + 4
    spool.close(backend)
    assert spool.stored() == [
        (b"\0\0\0\0\0\0\0\x00", b"abc"),
        (b"\0\0\0\0\0\0\0\x0b", b""),
        (b"\0\0\0\0\0\0\0\x13", b"\xff" * 300),
        (b"\0\0\0\0\0\0\x01\x47", b"last"),
    ]


def test_offsets_go_on_where_they_were_after_reopening(spool: Spool) -> None:
    backend = spool.open()
    backend.append([b"abc", b"d", b"e"])
    backend.trim(1)
    spool.close(backend)
    assert spool.stored() == [(b"\0\0\0\0\0\0\0\x0b", b"d"), (b"\0\0\0\0\0\0\0\x14", b"e")]
    backend = spool.open()
    assert backend.recovered.records == 2
    assert backend.recovered.size_bytes == backend.size_bytes() == 18
    backend.append([b"f"])
    spool.close(backend)
    assert spool.stored()[-1] == (b"\0\0\0\0\0\0\0\x1d", b"f")


def test_the_size_of_a_log_is_told_by_its_ends(spool: Spool) -> None:
    """A log whose beginning is long gone."""
    with lmdb.open(str(spool.path), lock=False) as env, env.begin(write=True) as txn:
        for number in range(1000, 1003):
            txn.put((number * 9).to_bytes(8, "big"), b"x")
    backend = spool.open()
    assert (backend.recovered.records, backend.recovered.size_bytes) == (3, 27)


@pytest.mark.parametrize(
    ("records", "good"),
    [
        ([(0, b"a"), (9, b"b"), (20, b"c"), (29, b"d")], [b"a", b"b"]),
        ([(0, b"a"), (9, b"bb"), (18, b"c"), (27, b"d")], [b"a", b"bb"]),
        ([(0, b"a"), (9, b"x" * (MAX_MESSAGE_BYTES + 1)), (10485778, b"c")], [b"a"]),
    ],
    ids=["a gap", "another length", "too long"],
)
def test_a_record_that_is_not_what_was_there_is_not_delivered(
    spool: Spool, records: list[tuple[int, bytes]], good: list[bytes]
) -> None:
    with (
        lmdb.open(str(spool.path), map_size=1 << 25, lock=False) as env,
        env.begin(write=True) as txn,
    ):
        for offset, payload in records:
            txn.put(offset.to_bytes(8, "big"), payload)
    backend = spool.open()
    assert backend.read(0, 10, ANY_SIZE) == good
    with pytest.raises(CorruptedData, match="not what was there"):
        backend.read(len(good), 10, ANY_SIZE)
    assert backend.depth() == len(good)
    assert spool.names() == ["s.lmdb", "s.lmdb.quarantine-1"]
    backend.append([b"new"])
    assert read_all(backend) == [*good, b"new"]
    backend.trim(len(good) + 1)
    assert backend.size_bytes() == 0


def test_an_environment_of_another_program_is_not_taken_for_a_log(spool: Spool) -> None:
    with lmdb.open(str(spool.path), lock=False) as env, env.begin(write=True) as txn:
        txn.put(b"name", b"value")
    report = spool.open().recovered
    assert report.quarantine == spool.directory / "s.lmdb.quarantine-1"
    assert "another program" in report.reason
