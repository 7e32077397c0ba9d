import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hq_cli.descriptors import Sink, Source, check_open
from hq_cli.errors import CommandError


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        with suppress(OSError):
            os.close(fd)


def test_a_source_gives_blocks_as_they_come_until_the_end(ends: tuple[int, int]) -> None:
    reader, writer = ends
    source = Source(reader, 4)
    blocks = iter(source)
    os.write(writer, b"ab")
    assert next(blocks) == b"ab"
    os.write(writer, b"cdefgh")
    assert next(blocks) == b"cdef"
    os.close(writer)
    assert list(blocks) == [b"gh"]
    source.stop()


def test_a_source_that_waits_can_be_stopped(ends: tuple[int, int]) -> None:
    source = Source(ends[0], 4)
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.extend(source))
    thread.start()
    source.stop()
    thread.join()
    assert got == []


def test_a_stopped_source_leaves_the_rest_unread(ends: tuple[int, int]) -> None:
    reader, writer = ends
    source = Source(reader, 4)
    os.write(writer, b"unread")
    source.stop()
    source.stop()
    assert list(source) == []
    assert os.read(reader, 6) == b"unread"


def test_a_source_waits_for_a_descriptor_that_somebody_made_non_blocking(
    ends: tuple[int, int],
) -> None:
    reader, writer = ends
    os.set_blocking(reader, False)
    source = Source(reader, 4)
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.extend(source))
    thread.start()
    os.write(writer, b"abcdef")
    os.close(writer)
    thread.join()
    source.stop()
    assert b"".join(got) == b"abcdef"
    assert not os.get_blocking(reader)


def test_a_source_leaves_no_descriptor_behind(ends: tuple[int, int]) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    source = Source(ends[0], 4)
    source.stop()
    assert list(source) == []
    assert descriptors() == before


def test_a_sink_writes_to_the_last_byte_where_little_is_taken_at_once(
    ends: tuple[int, int],
) -> None:
    reader, writer = ends
    os.set_blocking(writer, False)
    data = os.urandom(300_000)
    sink = Sink(writer)

    def write() -> None:
        sink.write(data)
        sink.write(b"")
        os.close(writer)

    thread = threading.Thread(target=write)
    thread.start()
    got = []
    while part := os.read(reader, 5000):
        got.append(part)
    thread.join()
    assert b"".join(got) == data
    assert sink.written == len(data)


def test_a_sink_whose_reader_is_gone_raises(ends: tuple[int, int]) -> None:
    reader, writer = ends
    os.close(reader)
    sink = Sink(writer)
    with pytest.raises(BrokenPipeError):
        sink.write(b"anybody?")
    assert sink.written == 0


def test_closed_and_wrongly_opened_descriptors_are_told_apart(ends: tuple[int, int]) -> None:
    reader, writer = ends
    check_open(reader, "standard input", writable=False)
    check_open(writer, "standard output", writable=True)
    with pytest.raises(CommandError, match="standard output is not open for writing"):
        check_open(reader, "standard output", writable=True)
    with pytest.raises(CommandError, match="standard input is not open for reading"):
        check_open(writer, "standard input", writable=False)
    os.close(reader)
    with pytest.raises(CommandError, match="standard input is closed"):
        check_open(reader, "standard input", writable=False)
