"""What a backend may promise beyond the life of its owner; tested only where it is promised."""

import os
import signal
from collections.abc import Callable

import pytest

from hq_core.capabilities import Capability
from hq_core.errors import StreamBusyError
from hq_core.protocols import OverflowBackend
from hq_core.testing.forking import forked
from hq_core.testing.spool import ANY_SIZE, Spool, numbered, read_all

__all__ = ["PromiseSuite"]


class PromiseSuite:
    """`DURABLE`, `CRASH_SAFE`, `POWER_SAFE`, one test for each sentence."""

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
        got = backend.read(5, ANY_SIZE)
        backend.trim(1)
        assert len(got) > 1 or not got
        backend = spool.reopen(backend)
        assert read_all(backend) == numbered(9, start=1)

    def test_what_was_trimmed_does_not_come_again(self, spool: Spool) -> None:
        backend = promising(spool, Capability.DURABLE)
        backend.append(numbered(10))
        done = 0
        while done < 7:
            done += (count := len(backend.read(7 - done, ANY_SIZE)))
            backend.trim(count)
        backend = spool.reopen(backend)
        assert read_all(backend) == numbered(3, start=7)

    def test_it_can_be_reopened_again_and_again(self, spool: Spool) -> None:
        backend = promising(spool, Capability.DURABLE)
        for number in range(10):
            backend.append(numbered(2, start=2 * number))
            if number:
                backend.trim(len(backend.read(1, ANY_SIZE)))
            backend = spool.reopen(backend)
        assert read_all(backend) == numbered(11, start=9)

    def test_keeping_nothing_leaves_nothing_to_recover(self, spool: Spool) -> None:
        backend = promising(spool, Capability.DURABLE)
        backend.append(numbered(3))
        backend.trim(len(read_all(backend)))
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
                backend.trim(len(backend.read(1, ANY_SIZE)))
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
