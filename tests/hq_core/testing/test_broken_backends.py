"""The suite is a test, so it is tested: each broken backend fails, on the test meant for it."""

import os
import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from typing_extensions import override

from hq_backends.file import FileBackend
from hq_core.errors import CorruptedData
from hq_core.protocols import OverflowBackend, Stream
from hq_core.testing import MemoryBackend, idling
from hq_core.testing import promises as promised
from hq_core.testing.log import LogSuite
from hq_core.testing.promises import PromiseSuite
from hq_core.testing.spool import Spool
from hq_core.testing.through_queue import QueueSuite
from tests.compat.api_version_1 import Shelf
from tests.hq_core.testing.references import Damageable, Shared

Test = Callable[[Spool], None]

log, promises, through_queue = LogSuite(), PromiseSuite(), QueueSuite()

# ---- append and read -------------------------------------------------------------------------


class LastInFirstOut(MemoryBackend):
    @override
    def append(self, records: Sequence[bytes]) -> None:
        self._records[:0] = reversed(records)


class DropsEmptyRecords(MemoryBackend):
    @override
    def append(self, records: Sequence[bytes]) -> None:
        super().append([record for record in records if record])


class GivesMoreRecordsThanAskedFor(MemoryBackend):
    @override
    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        return super().read(skip, max_records + 1, max_bytes)


class GivesMoreBytesThanAskedFor(MemoryBackend):
    """Counts a record only after it has taken it, the usual slip."""

    @override
    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        found: list[bytes] = []
        for record in self._records[skip : skip + max_records]:
            if max_bytes < 0:
                break
            found.append(record)
            max_bytes -= len(record)
        return found


class GivesNothingUntilThereIsRoomForAll(MemoryBackend):
    @override
    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        if sum(map(len, self._records[skip:])) > max_bytes:
            return []
        return super().read(skip, max_records, max_bytes)


class GivesViews(MemoryBackend):
    @override
    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        found = super().read(skip, max_records, max_bytes)
        return [memoryview(record) for record in found]  # type: ignore[misc] # the defect


class DestructiveRead(MemoryBackend):
    """Forgets what it reads, as a queue would."""

    @override
    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        found = super().read(skip, max_records, max_bytes)
        del self._records[skip : skip + len(found)]
        return found

    @override
    def trim(self, count: int) -> None: ...


class HasAReadPosition(MemoryBackend):
    """Goes on where the last call ended, whatever it is asked for."""

    _position = 0

    @override
    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        found = super().read(self._position, max_records, max_bytes)
        self._position += len(found)
        return found

    @override
    def trim(self, count: int) -> None:
        super().trim(count)
        self._position = max(0, self._position - count)


class OnlyGoesOn(HasAReadPosition):
    """Skips forwards, and never goes back."""

    @override
    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        self._position = max(skip, self._position)
        return super().read(skip, max_records, max_bytes)


class LosesWhatItReadsWhenInterrupted(MemoryBackend):
    @override
    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        records, self._records = self._records, self._records[skip:]
        found = super().read(0, max_records, max_bytes)
        self._records = records
        return found


class NumbersFromTheFirstRecordEver(MemoryBackend):
    _trimmed = 0

    @override
    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        return super().read(max(0, skip - self._trimmed), max_records, max_bytes)

    @override
    def trim(self, count: int) -> None:
        super().trim(count)
        self._trimmed += count


class KnowsNoEnd(MemoryBackend):
    """Gives the last record when there is none."""

    @override
    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        return super().read(min(skip, max(0, self.depth() - 1)), max_records, max_bytes)


# ---- depth, size, trim, cost -----------------------------------------------------------------


class CountsWhatIsNotRead(MemoryBackend):
    _read = 0

    @override
    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        found = super().read(skip, max_records, max_bytes)
        self._read = max(self._read, skip + len(found))
        return found

    @override
    def trim(self, count: int) -> None:
        super().trim(count)
        self._read = max(0, self._read - count)

    @override
    def depth(self) -> int:
        return super().depth() - self._read


class TrimsOnlyWhatWasRead(CountsWhatIsNotRead):
    @override
    def trim(self, count: int) -> None:
        super().trim(min(count, self._read))

    @override
    def depth(self) -> int:
        return len(self._records)


class TrimsOneMore(MemoryBackend):
    @override
    def trim(self, count: int) -> None:
        super().trim(min(count + 1, self.depth()))


class TrimsEverything(MemoryBackend):
    """Takes any trim for one of all there is."""

    @override
    def trim(self, count: int) -> None:
        super().trim(self.depth())


class TrimsOneByOne(MemoryBackend):
    """Stops in the middle when it is interrupted."""

    @override
    def trim(self, count: int) -> None:
        for _ in range(count):
            self._records.pop(0)


class ForgetsTheFraming(MemoryBackend):
    @override
    def size_bytes(self) -> int:
        return sum(map(len, self._records))


class TakesEmptyRecordsForFree(MemoryBackend):
    @override
    def cost(self, records: Sequence[bytes]) -> int:
        return super().cost([record for record in records if record])

    @override
    def size_bytes(self) -> int:
        return super().cost(self._records)


class FramesABatchOnce(TakesEmptyRecordsForFree):
    """Says so, and frames each record."""

    @override
    def cost(self, records: Sequence[bytes]) -> int:
        return sum(map(len, records)) + 4


class AppendsToKnowTheCost(TakesEmptyRecordsForFree):
    @override
    def cost(self, records: Sequence[bytes]) -> int:
        before = self.size_bytes()
        self.append(records)
        return self.size_bytes() - before


class NeverGivesSpaceBack(Shelf):
    def _remove(self, names: Sequence[str]) -> None: ...


# ---- failure ---------------------------------------------------------------------------------


class LeavesAPartOfAFailedBatch(MemoryBackend):
    """Keeps the records of a batch in front of one that cannot be stored."""

    @override
    def append(self, records: Sequence[bytes]) -> None:
        for record in records:
            super().append([record])


class LeavesAPartWhenTheDiskIsFull(FileBackend):
    """Keeps the whole records of a batch that did not fit."""

    def append(self, records: Sequence[bytes]) -> None:
        for record in records:
            super().append([record])


class LosesRecordsWhenTheDiskIsFull(FileBackend):
    """Swallows the error."""

    def append(self, records: Sequence[bytes]) -> None:
        with suppress(Exception):
            super().append(records)


class CountsBeforeItStores(MemoryBackend):
    """Says the wrong depth when it is interrupted in between."""

    _count = 0

    @override
    def append(self, records: Sequence[bytes]) -> None:
        self._count += len(records)
        super().append(records)

    @override
    def trim(self, count: int) -> None:
        super().trim(count)
        self._count -= count

    @override
    def depth(self) -> int:
        return self._count


# ---- surroundings ----------------------------------------------------------------------------


class IsFalsyWhenEmpty(MemoryBackend):
    def __len__(self) -> int:
        return self.depth()


class Polls(MemoryBackend):
    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="poller")
        self._thread.start()

    def _poll(self) -> None:
        while not self._stop.wait(0.01):
            pass

    @override
    def close(self, *, delete: bool) -> None:
        self._stop.set()
        self._thread.join()
        super().close(delete=delete)


class LeavesAFileBehind(Shelf):
    def close(self, *, delete: bool) -> None:
        super().close(delete=delete)
        (self._stream.directory / "forgotten").touch()


class LeaksADescriptor(Shelf):
    def close(self, *, delete: bool) -> None:
        os.dup(self._folder)
        super().close(delete=delete)


class BelievesTheStreamId(Shelf):
    """Names its folder after the id rather than the safe name."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(replace(stream, file_name=stream.stream_id[:50].lstrip("/")))


class DeletesWhatBeginsWithItsName(Shelf):
    def close(self, *, delete: bool) -> None:
        super().close(delete=delete)
        if delete:
            for path in self._stream.directory.glob(f"{self._stream.file_name}*"):
                shutil.rmtree(path)


class KnowsAStreamByItsIdAlone(MemoryBackend):
    everything: ClassVar[dict[str, list[bytes]]] = {}

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self._records = self.everything.setdefault(stream.stream_id, [])


class OpenToEverybody(Shelf):
    def append(self, records: Sequence[bytes]) -> None:
        super().append(records)
        os.chmod(self._log[-1][0], 0o644, dir_fd=self._folder)


# ---- promises --------------------------------------------------------------------------------


class BringsBackWhatWasTrimmed(MemoryBackend):
    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self._ever = list(self._records)

    @override
    def append(self, records: Sequence[bytes]) -> None:
        super().append(records)
        self._ever += records

    @override
    def close(self, *, delete: bool) -> None:
        self._records = self._ever
        super().close(delete=delete)


class KeepsNothing(MemoryBackend):
    """Claims `DURABLE` falsely."""

    @override
    def close(self, *, delete: bool) -> None:
        super().close(delete=True)


class ClaimsCrashSafety(Shelf):
    """Keeps appended records in its own memory until it is closed or read."""

    def __init__(self, stream: Stream) -> None:
        self._pending: list[bytes] = []
        super().__init__(stream)

    def append(self, records: Sequence[bytes]) -> None:
        self._pending += records

    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        self._flush()
        return super().read(skip, max_records, max_bytes)

    def depth(self) -> int:
        return super().depth() + len(self._pending)

    def close(self, *, delete: bool) -> None:
        self._flush()
        super().close(delete=delete)

    def _flush(self) -> None:
        if self._pending:
            super().append(self._pending)
            self._pending = []


class MovesAsideToANameOfItsOwn(MemoryBackend):
    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        if isinstance(self.recovered.quarantine, Path):
            own = self.recovered.quarantine.with_name(f"{stream.file_name}.old-{id(self)}")
            self.recovered = replace(
                self.recovered, quarantine=self.recovered.quarantine.rename(own)
            )


class LeavesANoteBesideWhatIsAside(MemoryBackend):
    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        if self.recovered.quarantine:
            (stream.directory / f"{stream.file_name}.note").touch()


class WritesOverWhatIsAside(MemoryBackend):
    def __init__(self, stream: Stream) -> None:
        for path in stream.directory.glob("*.quarantine-1"):
            path.unlink()
        super().__init__(stream)


class CutsWhatIsAside(MemoryBackend):
    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        if isinstance(self.recovered.quarantine, Path):
            os.truncate(self.recovered.quarantine, 9)


class ForgetsAllWhenOneIsDamaged(Damageable):
    @override
    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        try:
            return super().read(skip, max_records, max_bytes)
        except CorruptedData:
            self._records.clear()
            raise


class GivesDamagedRecords(Damageable):
    """Looks at the first record only."""

    @override
    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        super().read(skip, 1, max_bytes)
        return MemoryBackend.read(self, skip, max_records, max_bytes)


class MovesAsideThoughToldToRaise(Damageable):
    def __init__(self, stream: Stream) -> None:
        super().__init__(replace(stream, on_corruption="quarantine"))


class TellsNobody(Shared):
    @override
    def tell(self) -> None: ...


class GoesOnWithoutItsStream(Shared):
    @override
    def _check(self) -> None: ...


BROKEN: list[tuple[type[OverflowBackend], Test]] = [
    (LastInFirstOut, log.test_records_are_read_in_the_order_they_were_appended),
    (LastInFirstOut, through_queue.test_a_queue_keeps_the_order_across_its_tiers),
    (DropsEmptyRecords, log.test_an_empty_record_is_a_record),
    (GivesMoreRecordsThanAskedFor, log.test_read_gives_no_more_records_than_asked_for),
    (GivesMoreBytesThanAskedFor, log.test_read_gives_no_more_bytes_than_asked_for),
    (GivesNothingUntilThereIsRoomForAll, log.test_read_gives_at_least_the_next_record_if_it_fits),
    (GivesViews, log.test_read_returns_what_it_was_given_as_bytes),
    (DestructiveRead, log.test_size_counts_what_is_not_trimmed_with_its_framing),
    (DestructiveRead, promises.test_what_was_read_but_not_trimmed_comes_again),
    (HasAReadPosition, log.test_reading_changes_nothing_and_gives_the_same_again),
    (OnlyGoesOn, lambda s: log.test_reading_begins_wherever_it_is_asked_to(s, 10)),
    (
        LosesWhatItReadsWhenInterrupted,
        log.test_reading_that_is_interrupted_changes_nothing_and_gives_the_same_again,
    ),
    (NumbersFromTheFirstRecordEver, log.test_trimming_renumbers_what_is_read),
    (KnowsNoEnd, log.test_there_is_nothing_to_read_beyond_the_end),
    (CountsWhatIsNotRead, log.test_depth_counts_what_is_not_trimmed),
    (TrimsOnlyWhatWasRead, log.test_what_was_never_read_can_be_trimmed),
    (TrimsOneMore, log.test_trimming_leaves_the_rest_alone),
    (TrimsEverything, log.test_what_was_read_can_be_trimmed_in_parts),
    (TrimsOneByOne, log.test_a_trim_that_is_interrupted_is_done_or_undone_as_a_whole),
    (ForgetsTheFraming, log.test_size_counts_what_is_not_trimmed_with_its_framing),
    (
        TakesEmptyRecordsForFree,
        lambda s: log.test_cost_says_what_an_append_then_adds_to_the_size(s, [b""]),
    ),
    (
        FramesABatchOnce,
        lambda s: log.test_cost_says_what_an_append_then_adds_to_the_size(s, [b"", b""]),
    ),
    (
        AppendsToKnowTheCost,
        lambda s: log.test_cost_says_what_an_append_then_adds_to_the_size(s, [b"x"]),
    ),
    (
        LeavesAPartOfAFailedBatch,
        lambda s: log.test_a_record_that_cannot_be_stored_undoes_its_whole_batch(
            s, 3, "without bytes"
        ),
    ),
    (
        LeavesAPartWhenTheDiskIsFull,
        lambda s: log.test_a_batch_that_does_not_fit_on_the_disk_is_undone_as_a_whole(s, 1_000_000),
    ),
    (
        LosesRecordsWhenTheDiskIsFull,
        lambda s: log.test_a_batch_that_does_not_fit_on_the_disk_is_undone_as_a_whole(s, 0),
    ),
    (CountsBeforeItStores, log.test_an_append_that_is_interrupted_is_done_or_undone_as_a_whole),
    (IsFalsyWhenEmpty, log.test_an_empty_backend_is_not_falsy),
    (Polls, log.test_nothing_runs_while_it_is_open_and_idle),
    (LeavesAFileBehind, log.test_closing_with_delete_leaves_no_file_descriptor_or_thread),
    (LeaksADescriptor, log.test_closing_with_delete_leaves_no_file_descriptor_or_thread),
    (BelievesTheStreamId, log.test_streams_of_one_directory_are_strangers),
    (DeletesWhatBeginsWithItsName, log.test_closing_with_delete_touches_no_other_stream),
    (
        KnowsAStreamByItsIdAlone,
        log.test_the_same_stream_id_in_two_directories_is_two_streams,
    ),
    (OpenToEverybody, log.test_files_are_for_their_owner_alone),
    (
        BringsBackWhatWasTrimmed,
        lambda s: promises.test_what_was_trimmed_does_not_come_again(s, True),
    ),
    (KeepsNothing, promises.test_what_was_kept_at_close_is_there_in_order),
    (
        ClaimsCrashSafety,
        lambda s: promises.test_what_was_appended_survives_the_death_of_the_process(s, 1),
    ),
    (
        MovesAsideToANameOfItsOwn,
        promises.test_what_is_moved_aside_has_a_name_of_its_own_and_leaves_nothing_else,
    ),
    (
        LeavesANoteBesideWhatIsAside,
        promises.test_what_is_moved_aside_has_a_name_of_its_own_and_leaves_nothing_else,
    ),
    (
        WritesOverWhatIsAside,
        promises.test_what_is_moved_aside_has_a_name_of_its_own_and_leaves_nothing_else,
    ),
    (CutsWhatIsAside, promises.test_what_was_moved_aside_can_be_read_back),
    (
        ForgetsAllWhenOneIsDamaged,
        promises.test_reading_a_damaged_record_says_so_and_the_records_before_it_stay,
    ),
    (GivesDamagedRecords, promises.test_a_run_ends_before_a_damaged_record),
    (
        MovesAsideThoughToldToRaise,
        promises.test_told_to_raise_it_leaves_a_damaged_record_where_it_is,
    ),
    (TellsNobody, promises.test_whoever_opens_a_shared_stream_last_is_its_only_owner),
    (GoesOnWithoutItsStream, promises.test_whoever_opens_a_shared_stream_last_is_its_only_owner),
]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that is waited for will come."""
    monkeypatch.setattr(promised, "_PATIENCE", 0.01)
    monkeypatch.setattr(idling, "_MOMENTS", 1)


SLOWLY = pytest.param(
    NeverGivesSpaceBack,
    log.test_space_follows_live_data_while_it_runs,
    marks=pytest.mark.slow,
)


@pytest.mark.parametrize(("backend", "test"), [*BROKEN, SLOWLY])
def test_a_broken_backend_fails_on_the_test_meant_for_it(
    tmp_path: Path, backend: type[OverflowBackend], test: Test
) -> None:
    spool = Spool(backend, {}, tmp_path / "spool", getattr(backend, "damage", None))
    with pytest.raises((AssertionError, OSError, pytest.fail.Exception)):
        test(spool)
    with suppress(Exception):
        spool.leave()


LOGS = [
    LastInFirstOut,
    DropsEmptyRecords,
    DestructiveRead,
    GivesMoreRecordsThanAskedFor,
    GivesMoreBytesThanAskedFor,
    HasAReadPosition,
    OnlyGoesOn,
    NumbersFromTheFirstRecordEver,
    KnowsNoEnd,
    CountsWhatIsNotRead,
    TrimsOnlyWhatWasRead,
    TrimsOneMore,
    TrimsEverything,
    ForgetsTheFraming,
    TakesEmptyRecordsForFree,
    FramesABatchOnce,
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
    with pytest.raises((AssertionError, IndexError, ValueError, ExceptionGroup)):
        test(spool)
