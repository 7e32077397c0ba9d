"""The backend alone: an ordered log that is appended at one end and trimmed at the other."""

import itertools
import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import pytest

from hq_core.capabilities import Capability
from hq_core.errors import QueueFull
from hq_core.protocols import API_VERSION, MAX_MESSAGE_BYTES, OverflowBackend, SpoolTools
from hq_core.stats import RecoveryReport
from hq_core.testing.idling import restless
from hq_core.testing.interrupting import interrupted, interruptions
from hq_core.testing.spool import (
    ANY_SIZE,
    Spool,
    allocated,
    file_size_limit,
    leaving_nothing,
    numbered,
    read_all,
    take,
)
from hq_core.testing.stateful import Model, append_to_both, run_steps

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
        assert isinstance(backend.recovered, RecoveryReport)

    def test_an_empty_backend_is_not_falsy(self, spool: Spool) -> None:
        assert bool(spool.open())

    def test_a_new_one_is_empty(self, spool: Spool) -> None:
        backend = spool.open()
        assert (backend.depth(), backend.size_bytes(), backend.recovered.records) == (0, 0, 0)
        assert backend.read(0, 10, ANY_SIZE) == []

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
        assert backend.read(0, 1, ANY_SIZE) == numbered(1)
        assert len(backend.read(1, 3, ANY_SIZE)) <= 3

    def test_read_gives_no_more_bytes_than_asked_for(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append([b"aa", b"bb", b"cc"])
        got = backend.read(0, 10, 5)
        assert got in ([b"aa"], [b"aa", b"bb"])
        assert got + read_all(backend, len(got)) == [b"aa", b"bb", b"cc"]

    def test_read_gives_at_least_the_next_record_if_it_fits(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append([b"aaaa", b"b"])
        assert backend.read(0, 10, 4) == [b"aaaa"]
        assert backend.read(1, 10, 1) == [b"b"]

    def test_read_gives_nothing_if_the_next_record_alone_is_too_large(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append([b"a" * 100_000, b"b"])
        assert backend.read(0, 10, 99_999) == []
        assert backend.depth() == 2
        assert backend.read(0, 1, 100_000) == [b"a" * 100_000]
        assert read_all(backend, 1) == [b"b"]

    def test_reading_changes_nothing_and_gives_the_same_again(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append(records := numbered(10, size=9_000))
        before = (backend.depth(), backend.size_bytes())
        for _ in range(3):
            assert backend.read(0, 1, ANY_SIZE) == records[:1]
            assert read_all(backend) == records
            assert backend.read(4, 1, ANY_SIZE) == records[4:5]
        assert (backend.depth(), backend.size_bytes()) == before

    def test_reading_that_is_interrupted_changes_nothing_and_gives_the_same_again(
        self, spool: Spool
    ) -> None:
        backend = spool.open()
        backend.append(records := numbered(10, size=9_000))
        for skip in (0, 6):
            for line in interruptions():
                came = interrupted(partial(backend.read, skip, 3, ANY_SIZE), line)
                assert read_all(backend) == records
                if not came:
                    break

    @pytest.mark.parametrize("size", [0, 10, 30_000, 300_000])
    def test_reading_begins_wherever_it_is_asked_to(self, spool: Spool, size: int) -> None:
        backend = spool.open()
        records = numbered(30, size=size)
        for first in range(0, 30, 10):
            backend.append(records[first : first + 10])
        for skip in (7, 8, 29, 0, 15, 14, 13, 1, 28, 10, 9, 0):
            assert backend.read(skip, 1, ANY_SIZE) == records[skip : skip + 1]
            assert read_all(backend, skip) == records[skip:]

    def test_trimming_renumbers_what_is_read(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append(numbered(20))
        for trimmed in range(1, 19):
            backend.trim(1)
            for skip in (0, 1, 19 - trimmed):
                assert backend.read(skip, 1, ANY_SIZE) == numbered(1, start=trimmed + skip)
            assert backend.read(20 - trimmed, 1, ANY_SIZE) == []

    def test_there_is_nothing_to_read_beyond_the_end(self, spool: Spool) -> None:
        backend = spool.open()
        for skip in (0, 1, 1_000_000):
            assert backend.read(skip, 10, ANY_SIZE) == []
        backend.append(numbered(3))
        for skip in (3, 4, 1_000_000):
            assert backend.read(skip, 10, ANY_SIZE) == []
        assert read_all(backend) == numbered(3)

    def test_what_is_appended_after_all_was_read_is_read_next(self, spool: Spool) -> None:
        backend = spool.open()
        for number in range(20):
            assert backend.read(number, 10, ANY_SIZE) == []
            backend.append(numbered(1, start=number))
            assert backend.read(number, 10, ANY_SIZE) == numbered(1, start=number)
        assert read_all(backend) == numbered(20)

    # ---- depth, size, trim -------------------------------------------------------------------

    def test_depth_counts_what_is_not_trimmed(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append(numbered(5))
        assert backend.depth() == 5
        backend.read(0, 2, ANY_SIZE)
        assert backend.depth() == 5, "reading alone changes nothing"
        backend.trim(2)
        assert backend.depth() == 3

    def test_size_counts_what_is_not_trimmed_with_its_framing(self, spool: Spool) -> None:
        backend = spool.open()
        records = [b"", b"a" * 1000, b"b" * 10]
        costs = [backend.cost([record]) for record in records]
        assert all(cost >= len(record) for cost, record in zip(costs, records, strict=True))
        backend.append(records)
        assert backend.size_bytes() == sum(costs)
        for number in range(3):
            backend.read(0, 1, ANY_SIZE)
            assert backend.size_bytes() == sum(costs[number:]), "reading alone gives nothing back"
            backend.trim(1)
            assert backend.size_bytes() == sum(costs[number + 1 :])

    @pytest.mark.parametrize(
        "records",
        [
            [b""],
            [b"x"],
            [b"", b"", b""],
            [bytes(100_000)],
            [bytes(MIB), b"", b"x"],
            [b"%d" % n for n in range(600)],
        ],
        ids=["empty", "one byte", "three empty", "long", "mixed", "many"],
    )
    def test_cost_says_what_an_append_then_adds_to_the_size(
        self, spool: Spool, records: list[bytes]
    ) -> None:
        backend = spool.open()
        for _ in range(2):  # the first append makes what there is of files
            before = (backend.depth(), backend.size_bytes())
            cost = backend.cost(records)
            assert (backend.depth(), backend.size_bytes()) == before, "it only says so"
            backend.append(records)
            assert backend.size_bytes() == before[1] + cost
        backend.trim(backend.depth())
        cost = backend.cost(records)
        backend.append(records)
        assert backend.size_bytes() == cost

    def test_what_was_read_can_be_trimmed_in_parts(self, spool: Spool) -> None:
        backend = spool.open()
        records = numbered(20)
        backend.append(records)
        read = read_all(backend)
        for start, end in ((0, 1), (1, 5), (5, 10)):
            cost = backend.cost(records[start:end])
            size = backend.size_bytes()
            backend.trim(end - start)
            assert backend.size_bytes() == size - cost
        backend.append(numbered(5, start=20))
        assert read[:10] + read_all(backend) == numbered(25)

    def test_what_was_never_read_can_be_trimmed(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append(numbered(6))
        backend.trim(2)
        assert backend.read(0, 1, ANY_SIZE) == numbered(1, start=2)
        backend.trim(3)  # two more than were read
        backend.append(numbered(1, start=6))
        assert read_all(backend) == numbered(2, start=5)
        backend.trim(2)
        assert (backend.depth(), backend.size_bytes()) == (0, 0)

    def test_trimming_leaves_the_rest_alone(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append(numbered(6))
        assert take(backend, 3) + read_all(backend) == numbered(6)

    def test_a_log_that_was_drained_starts_afresh(self, spool: Spool) -> None:
        backend = spool.open()
        for _ in range(5):
            backend.append(numbered(30))
            assert take(backend, 30) == numbered(30)
            assert (backend.depth(), backend.size_bytes()) == (0, 0)

    def test_space_follows_live_data_while_it_runs(self, spool: Spool) -> None:
        """48 MiB pass through a backlog of one; at no time are 24 MiB of disk in use."""
        backend = spool.open()
        record = os.urandom(64 * 1024 - 100)
        most = 0
        for number in range(768):
            backend.append([record])
            if number >= 16:
                assert take(backend, 1) == [record]
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
            assert read_all(backend) == numbered(3), "what was accepted stays readable"
        backend.append(numbered(2, start=3))
        assert read_all(backend) == numbered(5), "space again, and no ghost"

    @pytest.mark.parametrize("record", ["without a length", "without bytes"])
    @pytest.mark.parametrize("count", [3, 600])
    def test_a_record_that_cannot_be_stored_undoes_its_whole_batch(
        self, spool: Spool, count: int, record: str
    ) -> None:
        backend = spool.open()
        for start in (0, 3):
            before = (backend.depth(), backend.size_bytes())
            batch: list[Any] = numbered(count, start=start, size=100)
            batch[count * 2 // 3] = object() if record == "without a length" else _WithoutBytes()
            assert _fails(partial(backend.append, batch)), "nobody can store that"
            assert (backend.depth(), backend.size_bytes()) == before
            backend.append(numbered(3, start=start))
            assert read_all(backend) == numbered(start + 3)

    def test_an_append_that_is_interrupted_is_done_or_undone_as_a_whole(self, spool: Spool) -> None:
        """And `depth` says which, whether it is the first append or a later one."""
        batch = [b"1", b"", b"3"]
        for line in interruptions():
            backend = spool.open(f"first {line}")
            came = interrupted(partial(backend.append, batch), line)
            depth = _one_or_the_other(backend, [], batch)
            backend.append([b"next"])
            assert read_all(backend, depth) == [b"next"]
            spool.close(backend, delete=True)
            if not came:
                break
        backend = spool.open()
        for line in interruptions():
            backend.append([b"before"])
            came = interrupted(partial(backend.append, batch), line)
            depth = _one_or_the_other(backend, [b"before"], [b"before", *batch])
            backend.append([b"next"])
            assert read_all(backend, depth) == [b"next"]
            backend.trim(depth + 1)
            assert (backend.depth(), backend.size_bytes()) == (0, 0)
            if not came:
                break

    def test_a_trim_that_is_interrupted_is_done_or_undone_as_a_whole(self, spool: Spool) -> None:
        """And `depth` says which, whether something stays or nothing."""
        backend = spool.open()
        records = [b"1", b"22", b"333"]
        for count in (2, 3):
            for line in interruptions():
                backend.append(records)
                came = interrupted(partial(backend.trim, count), line)
                depth = _one_or_the_other(backend, records, records[count:])
                if depth:
                    backend.trim(depth)
                assert (backend.depth(), backend.size_bytes()) == (0, 0)
                if not came:
                    break

    # ---- surroundings ------------------------------------------------------------------------

    def test_calls_come_from_any_thread(self, spool: Spool) -> None:
        backend = spool.open()
        _in_a_thread(lambda: backend.append(numbered(3)))
        assert _in_a_thread(lambda: read_all(backend)) == numbered(3)
        _in_a_thread(lambda: backend.trim(1))
        assert _in_a_thread(lambda: read_all(backend)) == numbered(2, start=1)

    def test_nothing_runs_while_it_is_open_and_idle(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append(numbered(10))
        backend.read(0, 5, ANY_SIZE)
        backend.trim(3)
        assert not restless()

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

    def test_the_same_stream_id_in_two_directories_is_two_streams(self, spool: Spool) -> None:
        other = spool.beside()
        backend, neighbour = spool.open(), other.open()
        backend.append(numbered(3))
        neighbour.append(numbered(2, start=7))
        assert (read_all(backend), read_all(neighbour)) == (numbered(3), numbered(2, start=7))
        spool.close(backend, delete=True)
        assert read_all(neighbour) == numbered(2, start=7)
        assert spool.open().depth() == 0

    def test_files_are_for_their_owner_alone(self, spool: Spool) -> None:
        spool.open().append([b"x"])
        modes = [(p, p.stat().st_mode & 0o777) for p in spool.directory.rglob("*")]
        assert [(p, oct(mode)) for p, mode in modes if mode & 0o077] == []

    def test_closing_with_delete_leaves_no_file_descriptor_or_thread(self, spool: Spool) -> None:
        with leaving_nothing():
            backend = spool.open()
            backend.append(numbered(10))
            backend.read(0, 3, ANY_SIZE)
            backend.trim(2)
            spool.close(backend, delete=True)
        assert list(spool.directory.iterdir()) == []

    def test_closing_with_delete_touches_no_other_stream(self, spool: Spool) -> None:
        """Whatever the others are called: longer, shorter, or like a file of this one."""
        neighbours = {"s": spool.open("s")}
        tools = getattr(neighbours["s"], "tools", None)
        suffixes = [".", ".t", "t", "-1", ".lock", ".new", ".pos", "%", " ", ".quarantine-1"]
        if isinstance(tools, SpoolTools):
            own = tools.suffix.partition("/")[0]
            suffixes += [own, f"{own}.quarantine-1", *(own + more for more in tools.companions)]
        neighbours |= {f"st{suffix}": spool.open(f"st{suffix}") for suffix in suffixes}
        for name, neighbour in neighbours.items():
            neighbour.append([name.encode()])
        backend = spool.open("st")
        backend.append(numbered(3))
        spool.close(backend, delete=True)
        for name, neighbour in neighbours.items():
            assert read_all(neighbour) == [name.encode()]
        neighbours = {name: _reopened(spool, n, name) for name, n in neighbours.items()}
        for name, neighbour in neighbours.items():
            assert read_all(neighbour) == [name.encode()]

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
            model = Model()
            for call in calls:
                call(backend, model)
                model.check(backend)
            model.finish(backend)

    def test_long_random_sequences_of_calls_behave_as_the_model(self, spool: Spool) -> None:
        run_steps(spool, steps=1000)


class _WithoutBytes:
    """It has a length, and what it is long of cannot be had."""

    def __len__(self) -> int:
        return 100


def _fails(call: Callable[[], object]) -> bool:
    try:
        call()
    except Exception:
        return True
    return False


def _one_or_the_other(
    backend: OverflowBackend, before: Sequence[bytes], after: Sequence[bytes]
) -> int:
    """The log is as it was before, or as it is after the call, and all agree on which; `depth`."""
    depth = backend.depth()
    assert depth in {len(before), len(after)}, f"{depth} records: neither before nor after the call"
    wanted = before if depth == len(before) else after
    assert read_all(backend) == wanted
    assert backend.size_bytes() == sum(backend.cost([record]) for record in wanted)
    return depth


def _reopened(spool: Spool, backend: OverflowBackend, stream_id: str) -> OverflowBackend:
    """`backend` after closing and opening it again, if it promises to keep its records then."""
    if Capability.DURABLE not in backend.capabilities:
        return backend
    spool.close(backend)
    return spool.open(stream_id)


def _append(records: Sequence[bytes]) -> Callable[[OverflowBackend, Model], None]:
    return lambda backend, model: append_to_both(backend, model, records)


def _read(skip: int, max_records: int, max_bytes: int) -> Callable[[OverflowBackend, Model], None]:
    def call(backend: OverflowBackend, model: Model) -> None:
        got = backend.read(skip, max_records, max_bytes)
        model.read(got, skip, max_records, max_bytes)

    return call


def _trim(share: float) -> Callable[[OverflowBackend, Model], None]:
    def call(backend: OverflowBackend, model: Model) -> None:
        count = -int(-len(model.records) * share)
        if count:
            backend.trim(count)
            model.trim(count)

    return call


_CALLS = [
    _append([b"a"]),
    _append([b"", b"bbb", b"cc"]),
    _read(0, 1, ANY_SIZE),
    _read(1, 9, 3),
    _read(2, 9, ANY_SIZE),
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
