"""The suite is a test, so it is tested: each broken backend fails, on the test meant for it."""

import os
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from hq_backends.file import FileBackend
from hq_core.capabilities import Capability
from hq_core.protocols import OverflowBackend, Stream
from hq_core.testing import MemoryBackend
from hq_core.testing.log import LogSuite
from hq_core.testing.promises import PromiseSuite
from hq_core.testing.spool import Spool
from hq_core.testing.through_queue import QueueSuite

Test = Callable[[Spool], None]

log, promises, through_queue = LogSuite(), PromiseSuite(), QueueSuite()


class LastInFirstOut(MemoryBackend):
    def read(self, max_records: int, max_bytes: int) -> list[bytes]:
        self._unread.reverse()
        try:
            return super().read(max_records, max_bytes)
        finally:
            self._unread.reverse()


class DropsEmptyRecords(MemoryBackend):
    def append(self, records: Sequence[bytes]) -> None:
        super().append([record for record in records if record])


class DestructiveRead(MemoryBackend):
    """Forgets what it reads, as a queue would."""

    def read(self, max_records: int, max_bytes: int) -> list[bytes]:
        records = super().read(max_records, max_bytes)
        super().trim(len(records))
        return records

    def trim(self, count: int) -> None: ...


class GivesMoreRecordsThanAskedFor(MemoryBackend):
    def read(self, max_records: int, max_bytes: int) -> list[bytes]:
        return super().read(max_records + 1, max_bytes)


class GivesMoreBytesThanAskedFor(MemoryBackend):
    """Counts a record only after it has taken it, the usual slip."""

    def read(self, max_records: int, max_bytes: int) -> list[bytes]:
        records: list[bytes] = []
        while len(records) < max_records and max_bytes >= 0 and self._unread:
            records += super().read(1, 1 << 40)
            max_bytes -= len(records[-1])
        return records


class GivesNothingUntilThereIsRoomForAll(MemoryBackend):
    def read(self, max_records: int, max_bytes: int) -> list[bytes]:
        if sum(map(len, self._unread)) > max_bytes:
            return []
        return super().read(max_records, max_bytes)


class ReadsTheSameAgain(MemoryBackend):
    """Has a position for trimming only."""

    def read(self, max_records: int, max_bytes: int) -> list[bytes]:
        records = super().read(max_records, max_bytes)
        self._unread.extendleft(reversed(records))
        return records


class LosesItsCursor(MemoryBackend):
    """After reopening it takes what was trimmed for still there."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self._ever: deque[bytes] = deque(self._unread)

    def append(self, records: Sequence[bytes]) -> None:
        super().append(records)
        self._ever.extend(records)

    def close(self, *, delete: bool) -> None:
        self._read.clear()
        self._unread = self._ever
        super().close(delete=delete)


class KeepsNothing(MemoryBackend):
    """Claims `DURABLE` falsely."""

    def close(self, *, delete: bool) -> None:
        super().close(delete=True)


class TrimsUnreadRecords(MemoryBackend):
    def trim(self, count: int) -> None:
        super().trim(count)
        if self._unread:
            self._size -= len(self._unread.popleft()) + self.record_overhead


class TrimsEverythingRead(MemoryBackend):
    """Takes any trim for one of all that was read."""

    def trim(self, count: int) -> None:
        super().trim(len(self._read))


class NeverGivesSpaceBack(FileBackend):
    def _give_back(self, head: int) -> int:
        return head


class LeavesAPartOfAFailedAppend(FileBackend):
    """Keeps the whole records of a batch that did not fit."""

    def append(self, records: Sequence[bytes]) -> None:
        for record in records:
            super().append([record])


class LosesRecordsWhenTheDiskIsFull(FileBackend):
    """Swallows the error."""

    def append(self, records: Sequence[bytes]) -> None:
        try:
            super().append(records)
        except Exception:
            self._unread += 0


class ClaimsCrashSafety(FileBackend):
    """Keeps appended records in its own memory until it is closed or read."""

    capabilities: ClassVar[Capability] = Capability.CRASH_SAFE

    def __init__(self, stream: Stream) -> None:
        self._pending: list[bytes] = []
        super().__init__(stream)

    def append(self, records: Sequence[bytes]) -> None:
        self._pending += records

    def read(self, max_records: int, max_bytes: int) -> list[bytes]:
        self._flush()
        return super().read(max_records, max_bytes)

    def depth(self) -> int:
        return super().depth() + len(self._pending)

    def close(self, *, delete: bool) -> None:
        self._flush()
        super().close(delete=delete)

    def _flush(self) -> None:
        if self._pending:
            super().append(self._pending)
            self._pending = []


class LeavesAFileBehind(FileBackend):
    def close(self, *, delete: bool) -> None:
        super().close(delete=delete)
        (self._stream.directory / "forgotten").touch()


class LeaksADescriptor(FileBackend):
    def close(self, *, delete: bool) -> None:
        if self._data.fd >= 0:
            os.dup(self._data.fd)
        super().close(delete=delete)


class BelievesTheStreamId(FileBackend):
    """Names its file after the id rather than the safe name."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self._data.path = Path(os.path.join(stream.directory, stream.stream_id[:50] or "empty"))  # noqa: PTH118


class IsFalsyWhenEmpty(MemoryBackend):
    def __len__(self) -> int:
        return self.depth()


class ForgetsItsOverhead(MemoryBackend):
    def size_bytes(self) -> int:
        return super().size_bytes() - len(self._unread) * self.record_overhead


class GivesViews(MemoryBackend):
    def read(self, max_records: int, max_bytes: int) -> list[bytes]:
        records = super().read(max_records, max_bytes)
        return [memoryview(record) for record in records]  # type: ignore[misc]


class OpenToEverybody(FileBackend):
    def append(self, records: Sequence[bytes]) -> None:
        super().append(records)
        self._data.path.chmod(0o644)


BROKEN: list[tuple[type[OverflowBackend], Test]] = [
    (LastInFirstOut, log.test_records_are_read_in_the_order_they_were_appended),
    (LastInFirstOut, through_queue.test_a_queue_keeps_the_order_across_its_tiers),
    (DropsEmptyRecords, log.test_an_empty_record_is_a_record),
    (DestructiveRead, log.test_size_counts_what_is_not_trimmed_payload_and_overhead),
    (DestructiveRead, promises.test_what_was_read_but_not_trimmed_comes_again),
    (GivesMoreRecordsThanAskedFor, log.test_read_gives_no_more_records_than_asked_for),
    (GivesMoreBytesThanAskedFor, log.test_read_gives_no_more_bytes_than_asked_for),
    (GivesNothingUntilThereIsRoomForAll, log.test_read_gives_at_least_the_next_record_if_it_fits),
    (ReadsTheSameAgain, log.test_read_never_gives_a_record_twice),
    (LosesItsCursor, promises.test_what_was_trimmed_does_not_come_again),
    (KeepsNothing, promises.test_what_was_kept_at_close_is_there_in_order),
    (TrimsUnreadRecords, log.test_trimming_everything_read_leaves_the_rest_alone),
    (TrimsEverythingRead, log.test_what_was_read_ahead_can_be_trimmed_in_parts),
    (NeverGivesSpaceBack, log.test_space_follows_live_data_while_it_runs),
    (IsFalsyWhenEmpty, log.test_an_empty_backend_is_not_falsy),
    (ForgetsItsOverhead, log.test_size_counts_what_is_not_trimmed_payload_and_overhead),
    (GivesViews, log.test_read_returns_what_it_was_given_as_bytes),
    (LeavesAFileBehind, log.test_closing_with_delete_leaves_no_file_descriptor_or_thread),
    (LeaksADescriptor, log.test_closing_with_delete_leaves_no_file_descriptor_or_thread),
    (BelievesTheStreamId, log.test_streams_of_one_directory_are_strangers),
    (OpenToEverybody, log.test_files_are_for_their_owner_alone),
    (
        LeavesAPartOfAFailedAppend,
        lambda s: log.test_a_batch_that_does_not_fit_on_the_disk_is_undone_as_a_whole(s, 1_000_000),
    ),
    (
        LosesRecordsWhenTheDiskIsFull,
        lambda s: log.test_a_batch_that_does_not_fit_on_the_disk_is_undone_as_a_whole(s, 0),
    ),
    (
        ClaimsCrashSafety,
        lambda s: promises.test_what_was_appended_survives_the_death_of_the_process(s, 1),
    ),
]


@pytest.mark.parametrize(("backend", "test"), BROKEN)
def test_a_broken_backend_fails_on_the_test_meant_for_it(
    tmp_path: Path, backend: type[OverflowBackend], test: Test
) -> None:
    spool = Spool(backend, {}, tmp_path / "spool")
    spool.directory.mkdir()
    with pytest.raises((AssertionError, OSError)):
        test(spool)


LOGS = [
    LastInFirstOut,
    DropsEmptyRecords,
    DestructiveRead,
    GivesMoreRecordsThanAskedFor,
    GivesMoreBytesThanAskedFor,
    ReadsTheSameAgain,
    TrimsUnreadRecords,
    TrimsEverythingRead,
]


@pytest.mark.parametrize("backend", LOGS)
@pytest.mark.parametrize(
    "test",
    [
        log.test_every_short_sequence_of_calls_behaves_as_the_model,
        log.test_long_random_sequences_of_calls_behave_as_the_model,
    ],
)
@pytest.mark.slow
def test_the_comparisons_with_the_model_find_every_broken_log(
    tmp_path: Path, backend: type[OverflowBackend], test: Test
) -> None:
    spool = Spool(backend, {}, tmp_path / "spool")
    spool.directory.mkdir()
    with pytest.raises((AssertionError, IndexError, ExceptionGroup)):
        test(spool)
