"""What a backend may promise beyond the life of its owner, and what holds of damaged data.

Tested only where it is promised, and where a record can be damaged.
"""

import os
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from hq_core.capabilities import Capability
from hq_core.errors import CorruptedData, HybridQueueError, StreamBusyError, StreamLostError
from hq_core.protocols import OverflowBackend, SpoolTools
from hq_core.testing.forking import forked
from hq_core.testing.spool import ANY_SIZE, Spool, numbered, read_all, take

__all__ = ["PromiseSuite"]

_PATIENCE: Final = 30.0
"""Seconds until a test gives up on a call that another thread is to make."""


class PromiseSuite:
    """`DURABLE`, `CRASH_SAFE`, `POWER_SAFE`, `SHARED`, and damage: one test for each sentence."""

    # ---- DURABLE -----------------------------------------------------------------------------

    def test_what_was_kept_at_close_is_there_in_order(self, spool: Spool) -> None:
        backend = promising(spool, Capability.DURABLE)
        backend.append(numbered(100))
        backend = spool.reopen(backend)
        assert (backend.recovered.records, backend.depth()) == (100, 100)
        backend.append(numbered(5, start=100))
        assert read_all(backend) == numbered(105)

    def test_the_size_is_known_again_after_reopening(self, spool: Spool) -> None:
        backend = promising(spool, Capability.DURABLE)
        backend.append([b"", b"abc", b"x" * 5000])
        size = backend.size_bytes()
        backend = spool.reopen(backend)
        assert backend.size_bytes() == backend.recovered.size_bytes == size

    def test_what_was_read_but_not_trimmed_comes_again(self, spool: Spool) -> None:
        backend = promising(spool, Capability.DURABLE)
        backend.append(numbered(10))
        backend.read(0, 5, ANY_SIZE)
        backend.trim(1)
        backend = spool.reopen(backend)
        assert read_all(backend) == numbered(9, start=1)

    @pytest.mark.parametrize("read", [True, False])
    def test_what_was_trimmed_does_not_come_again(self, spool: Spool, read: bool) -> None:
        backend = promising(spool, Capability.DURABLE)
        backend.append(numbered(10))
        if read:
            read_all(backend)
        backend.trim(7)
        backend = spool.reopen(backend)
        assert read_all(backend) == numbered(3, start=7)

    def test_it_can_be_reopened_again_and_again(self, spool: Spool) -> None:
        backend = promising(spool, Capability.DURABLE)
        for number in range(10):
            backend.append(numbered(2, start=2 * number))
            if number:
                take(backend, 1)
            backend = spool.reopen(backend)
        assert read_all(backend) == numbered(11, start=9)

    def test_keeping_nothing_leaves_nothing_to_recover(self, spool: Spool) -> None:
        backend = promising(spool, Capability.DURABLE)
        backend.append(numbered(3))
        backend.trim(3)
        backend = spool.reopen(backend)
        assert (backend.recovered.records, backend.depth()) == (0, 0)

    def test_leftover_discard_deletes_what_was_left(self, spool: Spool) -> None:
        backend = promising(spool, Capability.DURABLE)
        backend.append(numbered(3))
        backend = spool.reopen(backend, leftover="discard")
        assert (backend.recovered.records, backend.depth(), backend.size_bytes()) == (0, 0, 0)
        assert spool.reopen(backend).depth() == 0

    def test_leftover_refuse_raises_and_touches_nothing(self, spool: Spool) -> None:
        backend = promising(spool, Capability.DURABLE)
        backend.append(numbered(3))
        spool.close(backend)
        with pytest.raises(StreamBusyError):
            spool.open(leftover="refuse")
        assert read_all(spool.open()) == numbered(3)

    def test_leftover_refuse_has_nothing_against_an_empty_stream(self, spool: Spool) -> None:
        backend = promising(spool, Capability.DURABLE)
        backend = spool.reopen(backend, leftover="refuse")
        assert backend.depth() == 0

    def test_leftover_quarantine_moves_what_was_left_aside(self, spool: Spool) -> None:
        backend = promising(spool, Capability.DURABLE)
        backend.append(numbered(3))
        backend = spool.reopen(backend, leftover="quarantine")
        report = backend.recovered
        assert (backend.depth(), report.records) == (0, 0)
        assert report.quarantine is not None
        assert report.quarantined_bytes > 0
        assert report.reason
        backend.append([b"new"])
        assert read_all(spool.reopen(backend)) == [b"new"]

    def test_what_is_moved_aside_has_a_name_of_its_own_and_leaves_nothing_else(
        self, spool: Spool
    ) -> None:
        """The one that `Stream.quarantine_path` gives, and names that go on from there."""
        paths = [quarantined(spool, numbered(3, start=start)) for start in (0, 3)]
        assert len(set(paths)) == 2, "the older one was written over"
        name = re.escape(spool.stream().file_name)
        for path in paths:
            assert path.parent == spool.directory
            assert re.fullmatch(rf"{name}\.[a-z0-9-]+\.quarantine-[0-9]+", path.name)
            assert path.exists()
        kept = "|".join(re.escape(path.name) for path in paths)
        there = [path.name for path in spool.directory.iterdir()]
        assert [n for n in there if not re.fullmatch(rf"({kept})(\.[a-z0-9-]+)?", n)] == []

    def test_what_was_moved_aside_can_be_read_back(self, spool: Spool) -> None:
        """In order, by what the backend has for that."""
        path = quarantined(spool, records := [b"", b"one", bytes(70_000), b"last"])
        backend = spool.open()
        tools = getattr(backend, "tools", None)
        if not isinstance(tools, SpoolTools):
            pytest.skip("not tested: what is aside cannot be read, because it has no `tools`")
        inner = tools.suffix.partition("/")[2]
        data = path / inner if inner else path
        assert list(tools.salvage(data)) == records
        assert tools.inspect(data).records == len(records)
        assert list(tools.salvage(data)) == records, "it only looks"

    # ---- damage ------------------------------------------------------------------------------

    def test_reading_a_damaged_record_says_so_and_the_records_before_it_stay(
        self, spool: Spool
    ) -> None:
        backend = spool.open()
        backend.append(records := numbered(5))
        spool.damage(backend, 2)
        assert backend.read(0, 2, ANY_SIZE) == records[:2]
        with pytest.raises(CorruptedData):
            backend.read(2, 1, ANY_SIZE)
        left = read_all(backend)
        assert left in (records[:2], [*records[:2], *records[3:]]), "it, or it and what follows it"
        assert backend.depth() == len(left)
        assert backend.size_bytes() == sum(backend.cost([record]) for record in left)
        backend.append([b"next"])
        assert read_all(backend) == [*left, b"next"], "the log goes on"
        assert take(backend, len(left) + 1) == [*left, b"next"]
        assert (backend.depth(), backend.size_bytes()) == (0, 0)

    def test_a_run_ends_before_a_damaged_record(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append(records := numbered(5))
        spool.damage(backend, 2)
        got = backend.read(0, 5, ANY_SIZE)
        assert got
        assert got == records[: min(len(got), 2)]
        assert backend.depth() == 5, "nobody has met the damage yet"

    def test_told_to_raise_it_leaves_a_damaged_record_where_it_is(self, spool: Spool) -> None:
        backend = spool.open(on_corruption="raise")
        backend.append(records := numbered(5))
        spool.damage(backend, 2)
        before = (backend.depth(), backend.size_bytes())
        names = sorted(spool.directory.iterdir())
        for _ in range(2):
            with pytest.raises(CorruptedData):
                backend.read(2, 1, ANY_SIZE)
            assert (backend.depth(), backend.size_bytes()) == before
            assert backend.read(0, 1, ANY_SIZE) == records[:1]
        assert sorted(spool.directory.iterdir()) == names

    # ---- CRASH_SAFE --------------------------------------------------------------------------

    @pytest.mark.parametrize("acknowledged", [1, 2, 17, 200])
    def test_what_was_appended_survives_the_death_of_the_process(
        self, spool: Spool, acknowledged: int
    ) -> None:
        require(spool, Capability.CRASH_SAFE)
        kill_while_appending(spool, acknowledged, size=0)
        records = read_all(spool.open())
        assert len(records) >= acknowledged
        assert records == numbered(len(records)), "a prefix of what was appended, and whole"

    @pytest.mark.parametrize("acknowledged", [1, 3, 8])
    def test_a_torn_tail_is_no_record(self, spool: Spool, acknowledged: int) -> None:
        """Killed amid records of 4 MiB, most of the time within one."""
        require(spool, Capability.CRASH_SAFE)
        kill_while_appending(spool, acknowledged, size=4 << 20)
        records = read_all(spool.open())
        assert len(records) >= acknowledged
        assert records == numbered(len(records), size=4 << 20)

    def test_after_a_death_what_was_not_trimmed_comes_again_and_nothing_is_missing(
        self, spool: Spool
    ) -> None:
        require(spool, Capability.CRASH_SAFE)

        def work(acknowledge: Callable[[], None]) -> None:
            backend = spool.open()
            backend.append(numbered(100))
            while backend.depth():
                take(backend, 1)
                acknowledge()

        kill_after(work, acknowledgements=30)
        records = read_all(spool.open())
        first = 100 - len(records)
        assert records == numbered(len(records), start=first)

    def test_a_stream_that_survived_a_death_works_as_before(self, spool: Spool) -> None:
        require(spool, Capability.CRASH_SAFE)
        kill_while_appending(spool, 5, size=0)
        backend = spool.open()
        before = backend.depth()
        backend.append([b"new"])
        assert read_all(backend)[before:] == [b"new"]
        backend.trim(before + 1)
        assert backend.size_bytes() == 0

    # ---- POWER_SAFE --------------------------------------------------------------------------

    def test_sync_returns_only_with_everything_on_the_disk(self, spool: Spool) -> None:
        require(spool, Capability.POWER_SAFE)
        pytest.skip("a power cut cannot be staged here; the promise is taken on trust")

    # ---- SHARED ------------------------------------------------------------------------------

    def test_whoever_opens_a_shared_stream_last_is_its_only_owner(self, spool: Spool) -> None:
        require(spool, Capability.SHARED)
        lost: list[HybridQueueError] = []
        told = threading.Event()

        def on_lost(exc: HybridQueueError) -> None:
            lost.append(exc)
            told.set()

        backend = spool.open(on_lost=on_lost)
        backend.append(numbered(3))
        owner = spool.open()
        for call in (
            lambda: backend.append([b"x"]),
            lambda: backend.read(0, 1, ANY_SIZE),
            lambda: backend.trim(1),
        ):
            with pytest.raises(StreamLostError):
                call()
        assert told.wait(_PATIENCE), "the owner before is not told"
        spool.close(backend, delete=True)
        assert [type(exc) for exc in lost] == [StreamLostError]
        assert read_all(owner) == numbered(3), "the other owner's, untouched"


def require(spool: Spool, capability: Capability) -> None:
    """Skip the test unless the backend promises `capability`."""
    backend = spool.open()
    promised = backend.capabilities
    spool.close(backend, delete=True)
    if capability not in promised:
        pytest.skip(f"it does not promise {capability.name}")


def promising(spool: Spool, capability: Capability) -> OverflowBackend:
    """A new backend that promises `capability`; skips the test if it does not."""
    require(spool, capability)
    return spool.open()


def quarantined(spool: Spool, records: list[bytes]) -> Path:
    """Where a backend has moved `records` of an earlier owner; it is closed again."""
    backend = promising(spool, Capability.DURABLE)
    backend.append(records)
    backend = spool.reopen(backend, leftover="quarantine")
    path = backend.recovered.quarantine
    spool.close(backend, delete=True)
    if not isinstance(path, Path):
        pytest.skip(f"not tested: it is no file, because the backend moves it to {path!r}")
    return path


def kill_after(work: Callable[[Callable[[], None]], None], acknowledgements: int) -> None:
    """Run `work(acknowledge)` in a child, and kill it once it has acknowledged so often."""
    acknowledged, tell = os.pipe()
    child = forked(lambda: work(lambda: _write(tell)))
    os.close(tell)
    try:
        for _ in range(acknowledgements):
            assert os.read(acknowledged, 1), "the child ended by itself"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(acknowledged)


def kill_while_appending(spool: Spool, acknowledgements: int, size: int) -> None:
    """Let a child append numbered records of `size` bytes, and kill it amid them."""

    def work(acknowledge: Callable[[], None]) -> None:
        backend = spool.open()
        for number in range(100_000):
            backend.append(numbered(1, start=number, size=size))
            acknowledge()

    kill_after(work, acknowledgements)


def _write(descriptor: int) -> None:
    os.write(descriptor, b".")
