"""The byte format of the overflow file, against golden bytes and against itself."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hq_backends.file.format import Plain
from hq_core import MAX_MESSAGE_BYTES, CorruptedData

reproducible = settings(derandomize=True, deadline=None)

PLAIN = Plain()
NO_LIMIT = 10**9
TOO_LONG = MAX_MESSAGE_BYTES + 1

GOLDEN = bytes.fromhex(
    "00000000"  # an empty message
    "00000003 616263"  # "abc"
    "00000002 0000"  # two zero bytes
)
RECORDS = [b"", b"abc", b"\0\0"]

records_of_any_kind = st.lists(st.binary(max_size=40), max_size=12)


def written(records: list[bytes]) -> bytes:
    return b"".join(PLAIN.encode(records))


def header(length: int) -> bytes:
    return length.to_bytes(4, "big")


def test_a_record_is_its_length_in_4_bytes_big_endian_and_its_payload() -> None:
    assert written(RECORDS) == GOLDEN


def test_a_length_uses_all_4_bytes() -> None:
    assert written([bytes(0x010203)])[:5] == bytes.fromhex("00010203 00")


def test_a_header_is_4_bytes() -> None:
    assert PLAIN.header_bytes == 4


def test_the_golden_bytes_are_read_as_what_was_written() -> None:
    found = PLAIN.decode(GOLDEN, 0, 99, NO_LIMIT)
    assert found.records == RECORDS
    assert found.end == len(GOLDEN)


@reproducible
@given(records=records_of_any_kind, before=st.binary(max_size=9))
def test_what_was_written_is_read_back_from_anywhere_in_a_block(
    records: list[bytes], before: bytes
) -> None:
    block = before + written(records)
    found = PLAIN.decode(block, len(before), len(records) + 1, NO_LIMIT)
    assert (found.records, found.end) == (records, len(block))


@reproducible
@given(records=records_of_any_kind, data=st.data())
def test_a_block_cut_anywhere_shows_the_records_that_are_whole_and_asks_for_the_next(
    records: list[bytes], data: st.DataObject
) -> None:
    whole = written(records)
    cut = data.draw(st.integers(0, len(whole)))
    found = PLAIN.decode(whole[:cut], 0, len(records) + 1, NO_LIMIT)
    ends = [len(written(records[:count])) for count in range(len(records) + 1)]
    shown = sum(end <= cut for end in ends) - 1
    assert found.records == records[:shown]
    assert found.end == ends[shown]
    if shown == len(records) or cut < ends[shown] + PLAIN.header_bytes:
        assert found.missing == PLAIN.header_bytes
    else:
        assert found.missing == PLAIN.header_bytes + len(records[shown])


@reproducible
@given(records=records_of_any_kind, step=st.integers(0, 9))
def test_reading_block_by_block_with_what_is_missing_reads_everything(
    records: list[bytes], step: int
) -> None:
    whole = written(records)
    got: list[bytes] = []
    offset, size = 0, 1
    while offset < len(whole):
        found = PLAIN.decode(whole[offset : offset + size], 0, 99, NO_LIMIT)
        got += found.records
        offset += found.end
        size = found.missing + step
    assert got == records


@reproducible
@given(records=records_of_any_kind, most=st.integers(1, 14))
def test_never_more_records_than_asked_for_are_given(records: list[bytes], most: int) -> None:
    assert PLAIN.decode(written(records), 0, most, NO_LIMIT).records == records[:most]


@reproducible
@given(records=records_of_any_kind, most=st.integers(0, 200))
def test_as_many_records_are_given_as_the_bytes_allow(records: list[bytes], most: int) -> None:
    found = PLAIN.decode(written(records), 0, 99, most)
    count = len(found.records)
    assert found.records == records[:count]
    assert sum(map(len, found.records)) <= most
    assert count == len(records) or sum(map(len, records[: count + 1])) > most


@reproducible
@given(records=records_of_any_kind, count=st.integers(1, 13), size=st.integers(0, 200))
def test_the_next_call_goes_on_where_the_last_one_ended(
    records: list[bytes], count: int, size: int
) -> None:
    whole = written(records)
    first = PLAIN.decode(whole, 0, count, size)
    rest = PLAIN.decode(whole, first.end, 99, NO_LIMIT)
    assert first.records + rest.records == records


@pytest.mark.parametrize(("most", "size"), [(1, NO_LIMIT), (99, 3)])
def test_nothing_is_missing_when_a_limit_ended_the_run(most: int, size: int) -> None:
    assert PLAIN.decode(GOLDEN, 0, most, size).missing == 0


def test_nothing_is_missing_when_the_next_record_alone_is_over_the_limit() -> None:
    found = PLAIN.decode(GOLDEN, 4, 99, 2)
    assert (found.records, found.end, found.missing) == ([], 4, 0)


@pytest.mark.parametrize("block", [b"", b"\0", b"\0\0", b"\0\0\0"])
def test_a_torn_header_is_no_record(block: bytes) -> None:
    found = PLAIN.decode(GOLDEN + block, len(GOLDEN), 99, NO_LIMIT)
    assert (found.records, found.end, found.missing) == ([], len(GOLDEN), 4)


def test_a_torn_payload_is_no_record() -> None:
    found = PLAIN.decode(GOLDEN + header(5) + b"four", len(GOLDEN), 99, NO_LIMIT)
    assert (found.records, found.end, found.missing) == ([], len(GOLDEN), 9)


def test_a_torn_record_of_the_largest_length_is_torn_not_damaged() -> None:
    found = PLAIN.decode(header(MAX_MESSAGE_BYTES) + b"start", 0, 99, NO_LIMIT)
    assert found.missing == 4 + MAX_MESSAGE_BYTES


def test_a_record_of_the_largest_length_is_read() -> None:
    largest = bytes(MAX_MESSAGE_BYTES)
    assert PLAIN.decode(written([largest]), 0, 1, MAX_MESSAGE_BYTES).records == [largest]


@pytest.mark.parametrize("length", [TOO_LONG, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_length_above_the_limit_is_damage_and_the_error_names_both(length: int) -> None:
    with pytest.raises(CorruptedData, match=f"{length} bytes; {MAX_MESSAGE_BYTES} is the limit"):
        PLAIN.decode(header(length), 0, 99, NO_LIMIT)


def test_a_length_above_the_limit_is_damage_however_little_was_asked_for() -> None:
    with pytest.raises(CorruptedData):
        PLAIN.decode(header(TOO_LONG), 0, 1, 0)


def test_records_before_a_damaged_one_are_given_first() -> None:
    block = GOLDEN + header(TOO_LONG) + b"noise"
    found = PLAIN.decode(block, 0, 99, NO_LIMIT)
    assert (found.records, found.end, found.missing) == (RECORDS, len(GOLDEN), 0)
    with pytest.raises(CorruptedData):
        PLAIN.decode(block, found.end, 99, NO_LIMIT)


def test_what_is_behind_a_damaged_record_is_never_given() -> None:
    block = written([b"before"]) + header(TOO_LONG) + written([b"behind"])
    assert PLAIN.decode(block, 0, 99, NO_LIMIT).records == [b"before"]


@pytest.mark.parametrize("length", [0, 1, 255, 65_536, MAX_MESSAGE_BYTES])
def test_a_header_tells_how_long_its_record_is(length: int) -> None:
    assert PLAIN.record_bytes(header(length)) == 4 + length


@pytest.mark.parametrize("length", [TOO_LONG, 0xFFFFFFFF])
def test_a_header_that_nobody_wrote_is_damage(length: int) -> None:
    with pytest.raises(CorruptedData, match=f"{length} bytes; {MAX_MESSAGE_BYTES} is the limit"):
        PLAIN.record_bytes(header(length))
