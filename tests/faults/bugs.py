"""Bugs to plant in the library: each is a way to write it wrong that the campaign has to find."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import lmdb

from hq_backends.file import files as file_files
from hq_backends.file import notes as file_notes
from hq_backends.file import reader as file_reader
from hq_backends.file import recovery as file_recovery
from hq_backends.file.backend import FileBackend
from hq_backends.file.files import DataFile, Sidecar
from hq_backends.file.log import Extent
from hq_backends.file.notes import Notes
from hq_backends.file.position import SLOT_SPACING, Position, encode
from hq_backends.file.space import Space
from hq_backends.file.writer import Writer
from hq_backends.lmdb import opening as lmdb_opening
from hq_backends.lmdb import recovery as lmdb_recovery
from hq_backends.lmdb.backend import LmdbBackend
from hq_backends.lmdb.records import Span
from hq_backends.lmdb.salvage import set_aside
from hq_core.engine.accounts import Accounts
from hq_core.engine.engine import Engine
from hq_core.engine.overflow import Overflow
from hq_core.errors import BackendUnavailable, CorruptedData, QueueFull

__all__ = ["BUGS", "Bug"]


@dataclass(frozen=True)
class Bug:
    """What to break, and the setup it shows in."""

    setup: str
    plant: Callable[[], None]
    how: str = ""
    """The way a call goes wrong in which it shows, if it is one, so that it is found soon."""


def _set(owner: Any, name: str, value: object) -> None:
    assert hasattr(owner, name)
    setattr(owner, name, value)


def _rollback_skipped() -> None:
    def undo(self: Writer) -> None:
        self._log.untidy = False

    _set(Writer, "undo", undo)


def _short_write_taken_for_whole() -> None:
    def write(self: DataFile, buffers: Sequence[bytes], at: int) -> int:
        os.pwritev(self.fd, buffers, at)
        return sum(map(len, buffers))

    _set(DataFile, "write", write)


def _short_read_taken_for_the_end() -> None:
    for module in (file_reader, file_files, file_recovery):
        _set(module, "read_at", os.pread)


def _failed_write_acknowledged() -> None:
    original = Writer.append

    def append(self: Writer, records: Sequence[bytes]) -> None:
        try:
            original(self, records)
        except (OSError, QueueFull):
            head, tail, count, voids = self._log.extent
            self._log.extent = (head, tail, count + len(records), voids)

    _set(Writer, "append", append)


def _torn_tail_delivered() -> None:
    original = file_recovery.walk

    def walk(fd: int, form: Any, start: int, end: int, **options: Any) -> file_recovery.Walk:
        found = original(fd, form, start, end, **options)
        if found.stop != "cut short":
            return found
        return replace(found, records=found.records + 1, end=end, stop="end")

    _set(file_recovery, "walk", walk)


def _position_reset_before_the_data_is_truncated() -> None:
    original = Writer.empty

    def empty(self: Writer) -> None:
        with self._log.guard:
            self._notes._write((0, 0, 0, 0))
        original(self)

    _set(Writer, "empty", empty)


def _position_written_after_the_hole_is_punched() -> None:
    give_back = Space.give_back

    def move(self: Notes, extent: Extent) -> None:
        self._log.extent = extent

    def late(self: Space) -> None:
        give_back(self)
        self._notes.write()

    _set(Notes, "move", move)
    _set(Space, "give_back", late)


def _position_of_the_file_before() -> None:
    def place(self: Notes) -> None:
        self._log.misplaced = False

    _set(DataFile, "inode", lambda self: 1)
    _set(Notes, "place", place)
    _set(file_recovery, "around_head", lambda read, first, head, tail: 0)
    _set(file_recovery, "before_tail", lambda read, head, tail: 0)
    _set(file_notes, "around_head", lambda read, first, head, tail: 0)
    _set(file_notes, "before_tail", lambda read, head, tail: 0)


def _position_in_one_slot() -> None:
    def write(self: Sidecar, position: Position) -> None:
        self._sequence += 1
        os.pwrite(self.fd, encode(position, self._sequence), SLOT_SPACING)

    _set(Sidecar, "write", write)


def _failed_flush_tried_again() -> None:
    original, prepare = DataFile.flush, Writer._prepare

    def flush(self: DataFile) -> None:
        self.flush_failed = ""
        original(self)

    def forgetting(self: Writer) -> None:
        self._data.flush_failed = ""
        prepare(self)

    _set(DataFile, "flush", flush)
    _set(Writer, "_prepare", forgetting)


def _failed_read_skips_the_record() -> None:
    original = FileBackend.read

    def read(self: FileBackend, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        try:
            return original(self, skip, max_records, max_bytes)
        except OSError:
            if self.depth() > skip + 1:
                return original(self, skip + 1, max_records, max_bytes)
            raise

    _set(FileBackend, "read", read)


def _descriptor_kept_when_closing_fails() -> None:
    def close(self: FileBackend, *, delete: bool) -> None:
        if delete or not self._log.extent[2]:
            self._begin(0)
            self._space.clean()
        else:
            self._notes.place()
        self._close_files()

    _set(FileBackend, "close", close)


def _given_up_before_it_is_taken() -> None:
    original = Engine.let_go

    def let_go(self: Engine) -> None:
        if self.durable and not self._in_flight.runs:
            self._in_flight.done += self._memory.items()
        original(self)

    _set(Engine, "let_go", let_go)


def _counted_before_it_is_stored() -> None:
    original = Overflow.append

    def append(
        self: Overflow, items: Sequence[bytes], offered: float, pinned: int
    ) -> QueueFull | BackendUnavailable | None:
        self.depth += len(items)
        refusal = original(self, items, offered, pinned)
        self.depth -= len(items)
        return refusal

    _set(Overflow, "append", append)
    _set(Engine, "_settle", _only_if_it_worked(Engine._settle))


def _only_if_it_worked(settle: Callable[[Engine], None]) -> Callable[[Engine], None]:
    def settling(self: Engine) -> None:
        if sys.exc_info()[0] is None:
            settle(self)

    return settling


def _memory_though_something_is_stored() -> None:
    original = Engine._put

    def put(self: Engine, items: Sequence[bytes], offered: float, *, admit: bool = False) -> bool:
        passed, self.overflow.passed = self.overflow.passed, self.overflow.depth
        try:
            return original(self, items, offered, admit=admit)
        finally:
            self.overflow.passed = passed

    _set(Engine, "_put", put)


def _drops_not_counted() -> None:
    _set(Accounts, "drop", lambda self, count: None)


def _errors_not_wrapped() -> None:
    def call(
        self: Overflow, method: Callable[..., object], *args: object, **named: object
    ) -> object:
        return method(*args, **named)

    _set(Overflow, "_call", call)


def _end_moved_before_the_commit() -> None:
    original = LmdbBackend.append

    def append(self: LmdbBackend, records: Sequence[bytes]) -> None:
        held = self._log
        try:
            original(self, records)
        except BaseException:
            self._log = held._replace(tail=held.tail + self.cost(records))
            self._unsure = False
            raise

    _set(LmdbBackend, "append", append)


def _system_error_taken_for_damage() -> None:
    survey = lmdb_recovery.survey

    def surveyed(*args: Any) -> lmdb_recovery.Survey:
        try:
            return survey(*args)
        except (CorruptedData, lmdb.Error, OSError) as exc:
            return lmdb_recovery.Survey(Span(0, 0, 0), str(exc))

    def moved(*args: Any) -> Span:
        try:
            return set_aside(*args)
        except OSError as exc:
            raise CorruptedData(str(exc)) from exc

    _set(lmdb_recovery, "survey", surveyed)
    _set(lmdb_opening, "set_aside", moved)


BUGS: Final[Mapping[str, Bug]] = {
    "a failed write is not rolled back": Bug("file", _rollback_skipped, "short, then ENOSPC"),
    "a short write is taken for a whole one": Bug("file", _short_write_taken_for_whole, "short"),
    "a short read is taken for the end": Bug("file", _short_read_taken_for_the_end, "short"),
    "a failed write is acknowledged": Bug("file", _failed_write_acknowledged, "EIO"),
    "a torn tail is delivered": Bug("file", _torn_tail_delivered, "kill amid"),
    "drained: the position is reset before the data is truncated": Bug(
        "file", _position_reset_before_the_data_is_truncated, "kill before"
    ),
    "consumed: the position is written after the hole is punched": Bug(
        "file", _position_written_after_the_hole_is_punched, "kill after"
    ),
    "a rewritten file is read by the position of the one before": Bug(
        "file, without holes", _position_of_the_file_before, "kill before"
    ),
    "the position has one slot": Bug("file", _position_in_one_slot, "kill amid"),
    "a failed flush is tried again": Bug("file, always", _failed_flush_tried_again, "EIO"),
    "a failed read skips the record": Bug("file", _failed_read_skips_the_record, "EIO"),
    "a descriptor is kept when closing fails": Bug(
        "file", _descriptor_kept_when_closing_fails, "EIO"
    ),
    "closing gives up what memory has read ahead": Bug("file", _given_up_before_it_is_taken),
    "items are counted before they are stored": Bug("lmdb", _counted_before_it_is_stored, "EIO"),
    "memory is used though something is stored": Bug(
        "file, not durable", _memory_though_something_is_stored
    ),
    "drops are not counted": Bug("lmdb, drop_oldest", _drops_not_counted),
    "errors of the system come out as they are": Bug("lmdb", _errors_not_wrapped, "EIO"),
    "the end of the log moves before the commit": Bug("lmdb", _end_moved_before_the_commit, "EIO"),
    "an error of the system is taken for damage": Bug(
        "lmdb", _system_error_taken_for_damage, "EIO twice"
    ),
}
