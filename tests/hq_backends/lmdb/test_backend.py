"""The backend as its users meet it: options, promises, failures, threads, the command line."""

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import pytest

from hq_backends.lmdb import LmdbBackend, environment
from hq_backends.lmdb import records as log
from hq_backends.lmdb.datafile import DataFile
from hq_core.capabilities import Capability
from hq_core.limiters import Unlimited
from hq_core.protocols import MAX_MESSAGE_BYTES
from hq_core.queue import HybridQueue
from hq_core.registry import load
from hq_core.testing.forking import in_child
from hq_core.testing.interrupting import interrupted, interruptions
from hq_core.testing.spool import ANY_SIZE, numbered, read_all
from tests.cli.running import pipe
from tests.hq_backends.lmdb.conftest import Spool

SURVIVES = Capability.DURABLE | Capability.CRASH_SAFE


class TestOptions:
    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("map_size", 0, "map_size must be 262144 to 70368744177664 bytes, not 0"),
            ("map_size", 262_143, "map_size must be"),
            ("map_size", 1 << 47, "map_size must be"),
            ("map_size", "1M", "map_size must be .*, not '1M'"),
            ("map_size", True, "map_size must be"),
            ("sync", 1, "sync must be True or False, not 1"),
            ("writemap", "yes", "writemap must be True or False, not 'yes'"),
        ],
    )
    def test_a_wrong_value_is_refused(
        self, spool: Spool, name: str, value: object, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            spool.open(**{name: value})
        assert spool.names() == []

    def test_power_loss_is_survived_with_sync_only(self, spool: Spool) -> None:
        assert LmdbBackend.capabilities == SURVIVES | Capability.POWER_SAFE
        assert spool.open().capabilities == SURVIVES
        assert spool.open(sync=True).capabilities == LmdbBackend.capabilities
        assert LmdbBackend.capabilities == SURVIVES | Capability.POWER_SAFE

    @pytest.mark.parametrize("sync", [False, True])
    @pytest.mark.parametrize("writemap", [False, True])
    def test_options_reach_lmdb(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch, sync: bool, writemap: bool
    ) -> None:
        flags: list[Any] = []
        real = lmdb.open

        def opening(*args: Any, **options: Any) -> lmdb.Environment:
            env = real(*args, **options)
            flags.append(env.flags())
            return env

        monkeypatch.setattr(lmdb, "open", opening)
        spool.open(sync=sync, writemap=writemap).append([b"x"])
        assert (flags[0]["sync"], flags[0]["writemap"], flags[0]["lock"]) == (sync, writemap, False)


class TestAppend:
    def test_records_of_every_size_come_back(self, spool: Spool) -> None:
        sizes = [0, 1, 2038, 2039, 4080, 4081, 65_536, MAX_MESSAGE_BYTES]
        records = [bytes([number]) * size for number, size in enumerate(sizes)]
        backend = spool.open()
        for record in records:
            backend.append([record])
        assert read_all(backend) == records

    def test_what_was_committed_but_interrupted_is_undone_by_the_next(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        backend = spool.open()
        backend.append([b"before"])
        interrupt_after_commit(backend, monkeypatch, [b"ghost"])
        assert (backend.depth(), backend.size_bytes()) == (1, 14)
        assert read_all(backend) == [b"before"]
        backend.append([b"after"])
        assert read_all(backend) == [b"before", b"after"]

    def test_it_is_undone_by_closing_as_well(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        backend = spool.open()
        backend.append([b"before"])
        interrupt_after_commit(backend, monkeypatch, [b"ghost"])
        spool.close(backend)
        assert read_all(spool.open()) == [b"before"]

    def test_a_failing_transaction_is_raised_raw_and_undone(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        backend = spool.open()
        backend.append([b"before"])

        def fail(txn: "lmdb.Transaction[memoryview]", offset: int, records: Sequence[bytes]) -> int:
            txn.put(offset.to_bytes(8, "big"), records[0])
            raise lmdb.DiskError("on purpose", 5)

        with monkeypatch.context() as patch:
            patch.setattr(log, "put", fail)
            with pytest.raises(lmdb.DiskError):
                backend.append([b"ghost"])
        backend.append([b"after"])
        assert read_all(backend) == [b"before", b"after"]

    def test_a_file_begun_in_vain_is_removed_before_the_next_append_if_not_at_once(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else what LMDB wrote of it on a disk that got full would be taken for its file."""

        def half_open(path: str, **options: object) -> None:
            Path(path).write_bytes(bytes(100))
            raise lmdb.DiskError("on purpose", 28)

        def fail(fd: int, size: int) -> None:
            raise OSError(28, "No space left on device")

        backend = spool.open()
        with monkeypatch.context() as patch:
            patch.setattr(lmdb, "open", half_open)
            patch.setattr(os, "ftruncate", fail)
            with pytest.raises(lmdb.DiskError):
                backend.append([b"ghost"])
        backend.append([b"x"])
        assert read_all(backend) == [b"x"]

    def test_failing_on_a_record_in_the_middle_leaves_the_log_as_it_was(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append([b"before"])
        for wrong in ("text", None):
            batch: list[Any] = [b"one", wrong, b"three"]
            with pytest.raises(TypeError):
                backend.append(batch)
            assert (backend.depth(), backend.size_bytes()) == (1, 14)
        backend.append([b"after"])
        spool.close(backend)
        assert read_all(spool.open()) == [b"before", b"after"]


class TestRead:
    def test_going_on_where_the_last_one_ended_walks_over_nothing(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever was appended and trimmed in between."""
        walked: list[int] = []
        real = log.read

        def reading(
            txn: Any, offset: int, skip: int, *limits: int
        ) -> tuple[list[bytes], int, bool]:
            walked.append(skip)
            return real(txn, offset, skip, *limits)

        monkeypatch.setattr(log, "read", reading)
        backend = spool.open()
        at = 0
        for number in range(10):
            backend.append(numbered(10, start=10 * number))
            for _ in range(2):
                assert len(backend.read(at, 3, ANY_SIZE)) == 3
                at += 3
            backend.trim(2)
            at -= 2
        assert walked == [0] * 20
        assert backend.read(0, 1, ANY_SIZE) == numbered(1, start=20)
        assert backend.read(at, 1, ANY_SIZE) == numbered(1, start=20 + at)


class TestTrim:
    def test_trimming_more_than_there_is_is_refused(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append([b"a", b"b"])
        with pytest.raises(ValueError, match="3 records to trim, there are 2"):
            backend.trim(3)
        assert backend.depth() == 2

    def test_trimming_nothing_changes_nothing(self, spool: Spool) -> None:
        backend = spool.open()
        backend.trim(0)
        assert spool.names() == []

    def test_a_trim_that_fails_has_trimmed_nothing(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        backend = spool.open()
        backend.append([b"a", b"b", b"c"])

        def fail(txn: "lmdb.Transaction[memoryview]", count: int) -> int:
            raise lmdb.DiskError("on purpose", 5)

        with monkeypatch.context() as patch:
            patch.setattr(log, "delete_first", fail)
            with pytest.raises(lmdb.DiskError):
                backend.trim(1)
        assert (backend.depth(), backend.size_bytes()) == (3, 27)
        backend.trim(2)
        spool.close(backend)
        assert [value for _, value in spool.stored()] == [b"c"]


class TestSync:
    def test_a_flush_that_failed_is_never_said_to_have_worked(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The system reports the failure once; the next flush would succeed and mean nothing."""
        backend = spool.open(sync=True)

        def fail(self: DataFile) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(DataFile, "sync_names", fail)
            with pytest.raises(OSError, match="Input/output error"):
                backend.append([b"x"])
        backend.append([b"x"])
        backend.sync()
        with monkeypatch.context() as patch:
            patch.setattr(DataFile, "sync_names", fail)
            with pytest.raises(OSError, match="Input/output error"):
                backend.sync()
        with pytest.raises(OSError, match="an earlier flush failed"):
            backend.sync()
        assert read_all(backend) == [b"x"]


class TestClose:
    @pytest.mark.slow
    @pytest.mark.parametrize("delete", [False, True])
    def test_it_can_be_interrupted_at_any_line_and_made_again(
        self, spool: Spool, delete: bool
    ) -> None:
        for line in interruptions():
            backend = spool.open()
            backend.append([b"one", b"two"])
            came = interrupted(partial(backend.close, delete=delete), line)
            spool.close(backend, delete=delete)
            assert spool.names() == ([] if delete else ["s.lmdb"])
            assert backend._env._env is None
            backend = spool.open()
            assert read_all(backend) == ([] if delete else [b"one", b"two"])
            spool.close(backend, delete=True)
            if not came:
                break

    def test_another_directory_that_has_got_the_name_is_not_touched(self, spool: Spool) -> None:
        backend = spool.open(map_size=262_144)
        backend.append([b"one"])
        moved = spool.directory.with_name(f"{spool.directory.name}-moved")
        spool.directory.rename(moved)
        spool.directory.mkdir()
        spool.path.mkdir()
        spool.data.write_bytes(b"a neighbour's")
        backend.append([b"x" * 500_000])
        backend.trim(1)
        assert read_all(backend) == [b"x" * 500_000]
        spool.close(backend, delete=True)
        assert list(moved.iterdir()) == []
        assert spool.data.read_bytes() == b"a neighbour's"


class TestSurroundings:
    def test_one_thread_appends_while_another_reads(self, spool: Spool) -> None:
        """Through a queue, whose lock serialises them."""
        items = numbered(3000)

        def produce() -> None:
            for item in items:
                queue.enqueue(item)

        with HybridQueue(
            "s", 10, spool.directory, backend=LmdbBackend, limiter=Unlimited()
        ) as queue:
            producer = threading.Thread(target=produce)
            producer.start()
            got = [queue.dequeue(60) for _ in items]
            producer.join()
        assert got == items

    def test_a_forked_child_that_ends_harms_nothing(self, spool: Spool) -> None:
        backend = spool.open()
        backend.append([b"one"])
        in_child(lambda: None)
        backend.append([b"two"])
        in_child(sys.exc_info)
        assert read_all(backend) == [b"one", b"two"]

    def test_it_is_found_by_name_and_durable(self, tmp_path: Path) -> None:
        assert load("lmdb") is LmdbBackend
        for expected in ([], [b"kept"]):
            with HybridQueue("s", 2, tmp_path, backend="lmdb", durable=True) as queue:
                assert queue.stats().recovered == len(expected)
                queue.enqueue(b"kept")

    def test_whoever_uses_the_file_never_loads_lmdb(self, tmp_path: Path) -> None:
        program = (
            "import sys; from hq_core import HybridQueue\n"
            f"with HybridQueue('s', 1, {str(tmp_path)!r}) as q:\n"
            "    q.enqueue(b'1'); q.enqueue(b'2'); q.dequeue()\n"
            "assert not [name for name in sys.modules if 'lmdb' in name]"
        )
        subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)

    @pytest.mark.slow
    def test_a_pipe_goes_over_it_while_its_reader_waits(self, tmp_path: Path) -> None:
        data = b"".join(b"%07d\n" % number for number in range(100_000))
        options = ["--memory", "64K", "--backend", "lmdb", "-o", "map_size=256K"]
        with pipe(*options, "--dir", tmp_path, "--name", "tv") as running:
            running.feed(data)
            running.end_input()
            full = running.reading(lambda r: r["in_bytes"] == len(data))
            assert full["disk_bytes"] > 500_000
            assert (tmp_path / "tv.lmdb" / "data.mdb").exists()
            assert running.rest() == data
            assert running.status() == 0
        assert list(tmp_path.iterdir()) == []


def interrupt_after_commit(
    backend: LmdbBackend, monkeypatch: pytest.MonkeyPatch, records: list[bytes]
) -> None:
    """Append `records`, and press Ctrl-C between the commit and what follows it."""
    real = environment.Environment.add

    def interrupted(*args: Any) -> int:
        real(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(environment.Environment, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            backend.append(records)
