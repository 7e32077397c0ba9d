"""A backend written against API version 1. FROZEN: it must never be changed.

It stands for every plugin that was published for this version and will not be released again. As
long as API version 1 is accepted, this file, as it is, must load and pass the suite. If a change
of the seam makes it fail, the change is one that needs a new API version. `test_api_version_1.py`
holds the digest of this file.

It imports what a plugin may import and nothing else, and says 1 where others say `API_VERSION`.

The store: a folder for each stream, a file for each record, named by its number.
"""

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import ClassVar

from hq_core.capabilities import Capability
from hq_core.errors import CorruptedData, QueueFull, StreamBusyError
from hq_core.hookspecs import hookimpl
from hq_core.protocols import OverflowBackend, Stream
from hq_core.stats import RecoveryReport

_OUT_OF_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Shelf:
    """``<stream>.shelf``, with the files ``00000000000000000000`` and so on."""

    name: ClassVar[str] = "shelf-1"
    api_version: ClassVar[int] = 1
    capabilities: ClassVar[Capability] = Capability.DURABLE | Capability.CRASH_SAFE
    recovered: RecoveryReport

    def __init__(self, stream: Stream, *, first: int = 0) -> None:
        if first < 0:
            raise ValueError(f"first must be at least 0, not {first}")
        self._stream = stream
        self._number = first  # the next file's
        self._log: list[tuple[str, int]] = []  # each record's file and size, oldest first
        self._folder = self._open_folder()
        try:
            self.recovered = self._recover()
        except BaseException:
            self._let_go()
            raise

    def append(self, records: Sequence[bytes]) -> None:
        first = self._number
        self._number += len(records)  # used up, whatever happens
        names = [f"{number:020}" for number in range(first, self._number)]
        try:
            for name, record in zip(names, records, strict=True):
                self._write(name, record)
            self._log += zip(names, map(len, records), strict=True)
        except BaseException as exc:
            self._remove(names)
            if isinstance(exc, OSError) and exc.errno in _OUT_OF_SPACE:
                raise QueueFull(f"the disk is full: {exc.strerror}") from exc
            raise

    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        records: list[bytes] = []
        for name, size in self._log[skip : skip + max_records]:
            max_bytes -= size
            if max_bytes < 0:
                break
            record = self._read(name)
            if len(record) != size:
                if not records:
                    raise self._damaged(skip)
                break
            records.append(record)
        return records

    def trim(self, count: int) -> None:
        names = [name for name, _ in self._log[:count]]
        del self._log[:count]
        self._remove(names)

    def sync(self) -> None:
        pass

    def depth(self) -> int:
        return len(self._log)

    def size_bytes(self) -> int:
        return sum(size for _, size in self._log)

    def cost(self, records: Sequence[bytes]) -> int:
        return sum(map(len, records))

    def close(self, *, delete: bool) -> None:
        if self._folder < 0:
            return
        kept = set() if delete else {name for name, _ in self._log}
        try:
            self._remove([name for name in self._names() if name not in kept])
        finally:
            self._let_go()

    # ---- the folder --------------------------------------------------------------------------

    def _open_folder(self) -> int:
        name, parent = f"{self._stream.file_name}.shelf", self._stream.dir_fd
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, dir_fd=parent)

    def _let_go(self) -> None:
        folder, self._folder = self._folder, -1
        os.close(folder)
        with suppress(OSError):  # it holds what is to be kept
            os.rmdir(f"{self._stream.file_name}.shelf", dir_fd=self._stream.dir_fd)

    def _open(self, name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW, 0o600, dir_fd=self._folder)

    def _write(self, name: str, record: bytes) -> None:
        with open("unfinished", "wb", opener=self._open) as file:
            file.write(record)
        os.rename("unfinished", name, src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def _read(self, name: str) -> bytes:
        with open(name, "rb", opener=self._open) as file:
            return file.read()

    def _names(self) -> list[str]:
        return sorted(os.listdir(self._folder))  # noqa: PTH208 # not of a path

    def _remove(self, names: Sequence[str]) -> None:
        """What cannot be removed now is removed at close."""
        for name in names:
            with suppress(OSError):
                os.unlink(name, dir_fd=self._folder)

    # ---- what was left, what is damaged --------------------------------------------------------

    def _recover(self) -> RecoveryReport:
        self._remove(["unfinished"])
        names = self._names()
        log = [(name, os.stat(name, dir_fd=self._folder).st_size) for name in names]
        size = sum(size for _, size in log)
        leftover = self._stream.leftover
        if not log:
            return RecoveryReport()
        if leftover == "refuse":
            raise StreamBusyError(f"{self._stream.stream_id!r} has {len(log)} records: resume them")
        if leftover == "discard":
            self._remove(names)
            return RecoveryReport()
        if leftover == "quarantine":
            return self._set_aside(size)
        self._log = log
        self._number = int(names[-1]) + 1
        return RecoveryReport(records=len(log), size_bytes=size)

    def _set_aside(self, size: int) -> RecoveryReport:
        parent = self._stream.dir_fd
        aside = self._stream.quarantine_path("shelf")
        name = f"{self._stream.file_name}.shelf"
        os.rename(name, aside.name, src_dir_fd=parent, dst_dir_fd=parent)
        folder, self._folder = self._folder, self._open_folder()
        os.close(folder)
        return RecoveryReport(quarantined_bytes=size, quarantine=aside, reason="as asked for")

    def _damaged(self, number: int) -> CorruptedData:
        """Record `number` is not as long as it was: move it aside, if that is wanted."""
        name, size = self._log[number]
        if self._stream.on_corruption == "raise":
            return CorruptedData(f"{name} is not {size} bytes long")
        aside = self._stream.quarantine_path("shelf")
        os.rename(name, aside.name, src_dir_fd=self._folder, dst_dir_fd=self._stream.dir_fd)
        del self._log[number]
        return CorruptedData(f"{name} is not {size} bytes long; it is now {aside}")


@hookimpl
def hq_register_backends() -> list[type[OverflowBackend]]:
    return [Shelf]
