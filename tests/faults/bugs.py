"""Bugs to plant in the library: each is a way to write it wrong that the campaign has to find."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import lmdb

from hq_backends.file import files as file_files
from hq_backends.file import reader as file_reader
from hq_backends.file import recovery as file_recovery
from hq_backends.file.backend import FileBackend
from hq_backends.file.files import DataFile, Sidecar
from hq_backends.file.format import Format
from hq_backends.file.position import SLOT_SPACING, Position, encode
from hq_backends.file.reader import Reader
from hq_backends.lmdb import recovery as lmdb_recovery
from hq_backends.lmdb.backend import LmdbBackend
from hq_backends.lmdb.records import Span
from hq_core.engine import overflow
from hq_core.engine.engine import Engine
from hq_core.errors import CorruptedData

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
    def undo(self: FileBackend) -> None:
        self._untidy = False

    _set(FileBackend, "_undo", undo)


def _short_write_taken_for_whole() -> None:
    def write(self: DataFile, buffers: Sequence[bytes], at: int) -> int:
        os.pwritev(self.fd, buffers, at)
        return sum(map(len, buffers))

    _set(DataFile, "write", write)


def _short_read_taken_for_the_end() -> None:
    for module in (file_reader, file_files, file_recovery):
        _set(module, "read_at", os.pread)


def _failed_write_acknowledged() -> None:
    original = FileBackend.append

    def append(self: FileBackend, records: Sequence[bytes]) -> None:
        try:
            original(self, records)
        except OSError:
            self._unread += len(records)

    _set(FileBackend, "append", append)


def _torn_tail_delivered() -> None:
    original = file_recovery.walk

    def walk(*args: Any, **options: Any) -> file_recovery.Survey:
        found = original(*args, **options)
        if not found.torn:
            return found
        return replace(found, records=found.records + 1, end=found.end + found.torn, torn=0)

    _set(file_recovery, "walk", walk)


def _position_reset_before_the_data_is_truncated() -> None:
    original = FileBackend._restart

    def restart(self: FileBackend) -> None:
        self._note(head=0, tail=0, records=0)
        original(self)

    _set(FileBackend, "_restart", restart)


def _position_written_after_the_hole_is_punched() -> None:
    note, trim, give_back = FileBackend._note, FileBackend.trim, FileBackend._give_back
    trimming = False

    def late(self: FileBackend, **coming: int) -> None:
        if not trimming:
            note(self, **coming)

    def noting(self: FileBackend, head: int) -> int:
        moved = give_back(self, head)
        note(self, head=moved, records=self._records())
        return moved

    def careless(self: FileBackend, count: int) -> None:
        nonlocal trimming
        trimming = True
        try:
            trim(self, count)
        finally:
            trimming = False

    _set(FileBackend, "_note", late)
    _set(FileBackend, "_give_back", noting)
    _set(FileBackend, "trim", careless)


def _position_of_the_file_before() -> None:
    def place(self: FileBackend) -> None:
        self._misplaced = False

    _set(DataFile, "inode", lambda self: 1)
    _set(FileBackend, "_place", place)


def _position_in_one_slot() -> None:
    def write(self: Sidecar, position: Position) -> None:
        self._sequence += 1
        os.pwrite(self.fd, encode(position, self._sequence), SLOT_SPACING)

    _set(Sidecar, "write", write)


def _failed_flush_tried_again() -> None:
    original = DataFile.flush

    def flush(self: DataFile) -> None:
        self.flush_failed = ""
        original(self)

    _set(DataFile, "flush", flush)
    _set(FileBackend, "_prepare", _forgetful(FileBackend._prepare))


def _forgetful(prepare: Callable[[FileBackend], None]) -> Callable[[FileBackend], None]:
    def forgetting(self: FileBackend) -> None:
        self._data.flush_failed = ""
        prepare(self)

    return forgetting


def _failed_read_skips_the_record() -> None:
    original = Reader._read_large

    def read_large(self: Reader, form: Format, tail: int, size: int) -> bytes:
        try:
            return original(self, form, tail, size)
        except OSError:
            self.seek(self.offset + size)
            raise

    _set(Reader, "_read_large", read_large)


def _descriptor_kept_when_closing_fails() -> None:
    def close(self: FileBackend, *, delete: bool) -> None:
        if delete or self._head == self._tail:
            self._data.delete()
            self._sidecar.delete()
        else:
            self._note()
        self._close_files()

    _set(FileBackend, "close", close)


def _given_up_before_it_is_taken() -> None:
    original = Engine._transfer

    def transfer(self: Engine, max_records: int, max_bytes: int) -> int:
        moved = original(self, max_records, max_bytes)
        self._done += moved
        return moved

    _set(Engine, "_transfer", transfer)
    _set(Engine, "_hand", lambda self, count: None)


def _counted_before_it_is_stored() -> None:
    original = Engine._append

    def append(self: Engine, items: Sequence[bytes]) -> object:
        self._enqueued += len(items)
        self._stored += len(items)
        full = original(self, items)
        self._enqueued -= len(items)
        self._stored -= len(items)
        return full

    _set(Engine, "_append", append)


def _memory_though_something_is_stored() -> None:
    def put(self: Engine, items: Sequence[bytes]) -> bool:
        if not self._memory.offer(items):
            return False
        self._enqueued += len(items)
        return True

    _set(Engine, "_put", put)


def _drops_not_counted() -> None:
    _set(Engine, "_drop", lambda self, count: None)


def _errors_not_wrapped() -> None:
    _set(overflow, "_call", lambda method, *args, **options: method(*args, **options))


def _end_moved_before_the_commit() -> None:
    original = LmdbBackend.append

    def append(self: LmdbBackend, records: Sequence[bytes]) -> None:
        tail = self._tail
        try:
            original(self, records)
        except BaseException:
            self._tail = tail + sum(map(len, records)) + len(records) * self.record_overhead
            raise

    _set(LmdbBackend, "append", append)


def _system_error_taken_for_damage() -> None:
    original = lmdb_recovery.survey

    def survey(*args: Any) -> lmdb_recovery.Survey:
        try:
            return original(*args)
        except (CorruptedData, lmdb.Error) as exc:
            return lmdb_recovery.Survey(Span(0, 0, 0), str(exc))

    _set(lmdb_recovery, "survey", survey)


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
    "items are given up before they are taken": Bug(
        "file", _given_up_before_it_is_taken, "kill after"
    ),
    "items are counted before they are stored": Bug("lmdb", _counted_before_it_is_stored, "EIO"),
    "memory is used though something is stored": Bug(
        "file, not durable", _memory_though_something_is_stored
    ),
    "drops are not counted": Bug("lmdb, drop_oldest", _drops_not_counted),
    "errors of the system come out as they are": Bug("lmdb", _errors_not_wrapped, "EIO"),
    "the end of the log moves before the commit": Bug("lmdb", _end_moved_before_the_commit, "EIO"),
    "an error of the system is taken for damage": Bug(
        "lmdb", _system_error_taken_for_damage, "EIO"
    ),
}
