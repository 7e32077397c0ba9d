"""The backend alone: an ordered log with a read position and a trim position."""

import itertools
import os
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest

from hq_core.capabilities import Capability
from hq_core.errors import QueueFull
from hq_core.protocols import API_VERSION, MAX_MESSAGE_BYTES, OverflowBackend
from hq_core.stats import RecoveryReport
from hq_core.testing.spool import (
    ANY_SIZE,
    Spool,
    allocated,
    file_size_limit,
    leaving_nothing,
    numbered,
    read_all,
)
from hq_core.testing.stateful import Model, run_steps

__all__ = ["LogSuite"]

T = TypeVar("T")
MIB = 1024 * 1024


class LogSuite:
    """Sentences of `OverflowBackend` that hold for every backend, whatever it promises."""

    # ---- what it is --------------------------------------------------------------------------

    def test_it_has_what_the_seam_demands(self, spool: Spool) -> None:
        backend = spool.open()
        assert isinstance(backend, OverflowBackend)
        assert isinstance(backend.name, str)
        assert backend.api_version == API_VERSION
        assert isinstance(backend.capabilities, Capability)
        assert isinstance(backend.record_overhead, int)
        assert backend.record_overhead >= 0
        assert isinstance(backend.recovered, RecoveryReport)

    def test_an_empty_backend_is_not_falsy(self, spool: Spool) -> None:
        assert bool(spool.open())

    def test_a_new_one_is_empty(self, spool: Spool) -> None:
        backend = spool.open()
        assert (backend.depth(), backend.size_bytes(), backend.recovered.records) == (0, 0, 0)
        assert backend.read(10, ANY_SIZE) == []

    # ---- append and read ---------------------------------------------------------------------

    def test_records_are_read_in_the_order_they_were_appended(self, spool: Spool) -> None:
        backend = spool.open()
        for record in numbered(50):
            backend.append([record])
        backend.append(numbered(50, start=50))
        assert read_all(backend) == numbered(100)

    def test_a_batch_keeps_its_order_and_its_size_does_not_matter(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append(numbered(3000))
        backend.append(numbered(1, start=3000))
        assert read_all(backend) == numbered(3001)

    def test_an_empty_record_is_a_record(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append([b"", b"x", b""])
        backend.append([b""])
        assert backend.depth() == 4
        assert read_all(backend) == [b"", b"x", b"", b""]

    def test_records_that_look_like_anything_come_back_as_they_were(self, spool: Spool) -> None:
        records = [bytes(range(256)), bytes(8), b"\xff" * 12, b"\r\n", b"\0", b"\0\0\0\1x"]
        backend = spool.open()
        backend.append(records)
        assert read_all(backend) == records

    def test_the_largest_record_passes(self, spool: Spool) -> None:
        records = [b"before", os.urandom(MAX_MESSAGE_BYTES), b"after"]
        backend = spool.open()
        backend.append(records)
        assert read_all(backend) == records

    @pytest.mark.parametrize("size", [1, 4095, 4096, 65_531, 65_532, 65_536, 1_048_577])
    def test_records_of_one_size_follow_one_another(self, spool: Spool, size: int) -> None:
        records = numbered(5, size=size)
        backend = spool.open()
        for record in records:
            backend.append([record])
        assert read_all(backend) == records

    def test_read_returns_what_it_was_given_as_bytes(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append([b"one", b"two"])
        assert [type(record) for record in read_all(backend)] == [bytes, bytes]

    def test_read_gives_no_more_records_than_asked_for(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append(numbered(5))
        assert backend.read(1, ANY_SIZE) == numbered(1)
        assert len(backend.read(3, ANY_SIZE)) <= 3

    def test_read_gives_no_more_bytes_than_asked_for(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append([b"aa", b"bb", b"cc"])
        got = backend.read(10, 5)
        assert got in ([b"aa"], [b"aa", b"bb"])
        assert got + read_all(backend) == [b"aa", b"bb", b"cc"]

    def test_read_gives_at_least_the_next_record_if_it_fits(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append([b"aaaa", b"b"])
        assert backend.read(10, 4) == [b"aaaa"]
        assert backend.read(10, 1) == [b"b"]

    def test_read_gives_nothing_if_the_next_record_alone_is_too_large(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append([b"a" * 100_000, b"b"])
        assert backend.read(10, 99_999) == []
        assert backend.depth() == 2
        assert backend.read(1, 100_000) == [b"a" * 100_000]
        assert read_all(backend) == [b"b"]

    def test_read_never_gives_a_record_twice(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append(numbered(10))
        seen = [backend.read(1, ANY_SIZE) for _ in range(10)]
        assert list(itertools.chain(*seen)) == numbered(10)
        assert backend.read(1, ANY_SIZE) == []

    def test_what_is_appended_after_all_was_read_is_read_next(self, spool: Spool) -> None:
        backend = spool.open()
        for number in range(20):
            backend.append(numbered(1, start=number))
            assert backend.read(10, ANY_SIZE) == numbered(1, start=number)
            assert backend.read(10, ANY_SIZE) == []

    # ---- depth, size, trim -------------------------------------------------------------------

    def test_depth_counts_what_is_not_read(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append(numbered(5))
        assert backend.depth() == 5
        read = len(backend.read(2, ANY_SIZE))
        assert backend.depth() == 5 - read
        backend.trim(read)
        assert backend.depth() == 5 - read

    def test_size_counts_what_is_not_trimmed_payload_and_overhead(self, spool: Spool) -> None:
        backend = spool.open()
        overhead = backend.record_overhead
        backend.append([b"", b"a" * 1000, b"b" * 10])
        assert backend.size_bytes() == 1010 + 3 * overhead
        backend.read(1, ANY_SIZE)
        assert backend.size_bytes() == 1010 + 3 * overhead, "reading alone gives nothing back"
        backend.trim(1)
        assert backend.size_bytes() == 1010 + 2 * overhead
        backend.read(1, ANY_SIZE)
        backend.trim(1)
        assert backend.size_bytes() == 10 + overhead
        backend.read(1, ANY_SIZE)
        backend.trim(1)
        assert backend.size_bytes() == 0

    def test_what_was_read_ahead_can_be_trimmed_in_parts(self, spool: Spool) -> None:
        backend = spool.open()
        records = numbered(20)
        backend.append(records)
        read: list[bytes] = []
        while len(read) < 10:
            read += backend.read(10 - len(read), ANY_SIZE)
        size = backend.size_bytes()
        for start, end in ((0, 1), (1, 5), (5, 10)):
            backend.trim(end - start)
            size -= sum(map(len, records[start:end])) + (end - start) * backend.record_overhead
            assert backend.size_bytes() == size
        backend.append(numbered(5, start=20))
        assert read + read_all(backend) == numbered(25)

    def test_trimming_everything_read_leaves_the_rest_alone(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append(numbered(6))
        first = backend.read(3, ANY_SIZE)
        backend.trim(len(first))
        assert first + read_all(backend) == numbered(6)

    def test_a_log_that_was_drained_starts_afresh(self, spool: Spool) -> None:
        backend = spool.open()
        for _ in range(5):
            backend.append(numbered(30))
            assert read_all(backend) == numbered(30)
            backend.trim(30)
            assert (backend.depth(), backend.size_bytes()) == (0, 0)

    def test_space_follows_live_data_while_it_runs(self, spool: Spool) -> None:
        """48 MiB pass through a backlog of one; at no time are 24 MiB of disk in use."""
        backend = spool.open()
        record = os.urandom(64 * 1024 - 100)
        most = 0
        for number in range(768):
            backend.append([record])
            if number >= 16:
                backend.trim(len(backend.read(1, ANY_SIZE)))
            if number % 16 == 0:
                most = max(most, allocated(spool.directory))
        assert most < 24 * MIB

    def test_sync_may_be_called_at_any_time(self, spool: Spool) -> None:
        backend = spool.open()
        backend.sync()
        backend.append([b"x"])
        backend.sync()
        assert read_all(backend) == [b"x"]

    # ---- failure -----------------------------------------------------------------------------

    @pytest.mark.parametrize("beyond", [0, 1, 3, 4, 5, 100, 4096, 70_000, 1_000_000])
    def test_a_batch_that_does_not_fit_on_the_disk_is_undone_as_a_whole(
        self, spool: Spool, beyond: int
    ) -> None:
        """The disk fills up, as far as it can be staged, `beyond` bytes after what is there."""
        backend = spool.open()
        backend.append(numbered(3))
        before = (backend.depth(), backend.size_bytes())
        used = max([path.stat().st_size for path in spool.directory.rglob("*")], default=0)
        with file_size_limit(used + beyond):
            full = _what_full_says(backend, batch := numbered(40, start=3, size=100_000))
            if full is None:
                assert read_all(backend) == [*numbered(3), *batch], "accepted, and not there"
                pytest.skip("it stores four megabytes where files may not grow by them")
            assert full.__cause__ is not None, "the original error is the cause"
            assert (backend.depth(), backend.size_bytes()) == before
            assert backend.read(1, ANY_SIZE) == numbered(1), "what was accepted stays readable"
        backend.append(numbered(2, start=3))
        assert read_all(backend) == numbered(4, start=1), "space again, and no ghost"

    # ---- surroundings ------------------------------------------------------------------------

    def test_calls_come_from_any_thread(self, spool: Spool) -> None:
        backend = spool.open()
        _in_a_thread(lambda: backend.append(numbered(3)))
        got = _in_a_thread(lambda: backend.read(3, ANY_SIZE))
        _in_a_thread(lambda: backend.trim(len(got)))
        assert got + _in_a_thread(lambda: read_all(backend)) == numbered(3)

    def test_streams_of_one_directory_are_strangers(self, spool: Spool) -> None:
        names = [
            "s",
            "S",
            "s.overflow",
            "../s",
            "/etc/s",
            "..",
            "",
            "s\0",
            "s\n",
            "\u00e9",
            "s" * 999,
        ]
        backends = {name: spool.open(name) for name in names}
        for name, backend in backends.items():
            backend.append([name.encode(), b"2"])
        for name, backend in backends.items():
            assert read_all(backend) == [name.encode(), b"2"]
        above = {path.name for path in spool.directory.parent.iterdir()}
        assert above == {spool.directory.name}, "a file outside the directory"

    def test_files_are_for_their_owner_alone(self, spool: Spool) -> None:
        spool.open().append([b"x"])
        modes = [(p, p.stat().st_mode & 0o777) for p in spool.directory.rglob("*")]
        assert [(p, oct(mode)) for p, mode in modes if mode & 0o077] == []

    def test_closing_with_delete_leaves_no_file_descriptor_or_thread(self, spool: Spool) -> None:
        with leaving_nothing():
            backend = spool.open()
            backend.append(numbered(10))
            backend.read(3, ANY_SIZE)
            spool.close(backend, delete=True)
        assert list(spool.directory.iterdir()) == []

    def test_a_deleted_stream_is_empty_when_it_is_opened_again(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append(numbered(10))
        spool.close(backend, delete=True)
        backend = spool.open()
        assert (backend.depth(), backend.recovered.records) == (0, 0)

    # ---- against the model -------------------------------------------------------------------

    def test_every_short_sequence_of_calls_behaves_as_the_model(self, spool: Spool) -> None:
        """All sequences of four, of seven different calls."""
        backend = spool.open()
        for calls in itertools.product(_CALLS, repeat=4):
            model = Model(backend.record_overhead)
            for call in calls:
                call(backend, model)
                model.check(backend)
            model.finish(backend)

    def test_long_random_sequences_of_calls_behave_as_the_model(self, spool: Spool) -> None:
        run_steps(spool, steps=1500)


def _append(records: Sequence[bytes]) -> Callable[[OverflowBackend, Model], None]:
    def call(backend: OverflowBackend, model: Model) -> None:
        backend.append(records)
        model.append(records)

    return call


def _read(max_records: int, max_bytes: int) -> Callable[[OverflowBackend, Model], None]:
    def call(backend: OverflowBackend, model: Model) -> None:
        model.read(backend.read(max_records, max_bytes), max_records, max_bytes)

    return call


def _trim(share: float) -> Callable[[OverflowBackend, Model], None]:
    def call(backend: OverflowBackend, model: Model) -> None:
        count = -int(-len(model.read_not_trimmed) * share)
        if count:
            backend.trim(count)
            model.trim(count)

    return call


_CALLS = [
    _append([b"a"]),
    _append([b"", b"bbb", b"cc"]),
    _read(1, ANY_SIZE),
    _read(9, 3),
    _read(9, ANY_SIZE),
    _trim(0.5),
    _trim(1.0),
]


def _what_full_says(backend: OverflowBackend, records: Sequence[bytes]) -> QueueFull | None:
    try:
        backend.append(records)
    except QueueFull as full:
        return full
    return None


def _in_a_thread(call: Callable[[], T]) -> T:
    results: list[T] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    thread.join()
    assert results, "the call failed in a thread of its own"
    return results[0]
