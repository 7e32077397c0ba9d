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
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
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
    record_overhead: ClassVar[int] = 0
    recovered: RecoveryReport

    def __init__(self, stream: Stream, *, first: int = 0) -> None:
        if first < 0:
            raise ValueError(f"first must be at least 0, not {first}")
        self._stream = stream
        self._folder = stream.directory / f"{stream.file_name}.shelf"
        self._head = self._next = self._tail = first
        self._sizes: deque[int] = deque()
        self._live = 0
        self.recovered = self._recover()

    def append(self, records: Sequence[bytes]) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        try:
            for number, record in enumerate(records, start=self._tail):
                self._write(number, record)
        except BaseException as exc:
            for number in range(self._tail, self._tail + len(records)):
                with suppress(OSError):
                    self._path(number).unlink()
            if isinstance(exc, OSError) and exc.errno in _OUT_OF_SPACE:
                raise QueueFull(f"the disk is full: {exc.strerror}") from exc
            raise
        self._tail += len(records)
        self._sizes.extend(map(len, records))
        self._live += sum(map(len, records))

    def read(self, max_records: int, max_bytes: int) -> list[bytes]:
        records: list[bytes] = []
        for size in islice(self._sizes, self._next - self._head, None):
            max_bytes -= size
            if len(records) == max_records or max_bytes < 0:
                break
            record = self._path(self._next + len(records)).read_bytes()
            if len(record) != size:
                raise CorruptedData(f"record {self._next + len(records)} has changed its size")
            records.append(record)
        self._next += len(records)
        return records

    def trim(self, count: int) -> None:
        if count > self._next - self._head:
            raise ValueError(f"{count} records to trim, {self._next - self._head} read")
        for _ in range(count):
            self._path(self._head).unlink(missing_ok=True)
            self._head += 1
            self._live -= self._sizes.popleft()

    def sync(self) -> None:
        pass

    def depth(self) -> int:
        return self._tail - self._next

    def size_bytes(self) -> int:
        return self._live

    def close(self, *, delete: bool) -> None:
        if delete:
            self._clear()
        with suppress(OSError):
            self._folder.rmdir()

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:020}"

    def _write(self, number: int, record: bytes) -> None:
        unfinished = self._folder / "unfinished"
        fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            view = memoryview(record)
            while view:
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)
        unfinished.rename(self._path(number))

    def _clear(self) -> None:
        if self._folder.exists():
            for path in self._folder.iterdir():
                path.unlink()

    def _recover(self) -> RecoveryReport:
        (self._folder / "unfinished").unlink(missing_ok=True)
        files = sorted(self._folder.iterdir()) if self._folder.exists() else []
        if not files:
            return RecoveryReport()
        leftover = self._stream.leftover
        if leftover == "refuse":
            raise StreamBusyError(f"{self._folder} holds {len(files)} records: resume them")
        if leftover == "discard":
            self._clear()
            return RecoveryReport()
        sizes = [path.stat().st_size for path in files]
        if leftover == "quarantine":
            return self._set_aside(sum(sizes))
        self._head = self._next = int(files[0].name)
        self._tail = self._head + len(files)
        self._sizes.extend(sizes)
        self._live = sum(sizes)
        return RecoveryReport(records=len(files), size_bytes=self._live)

    def _set_aside(self, size: int) -> RecoveryReport:
        number = 1
        while (aside := self._folder.with_suffix(f".quarantine-{number}")).exists():
            number += 1
        self._folder.rename(aside)
        return RecoveryReport(quarantined_bytes=size, quarantine=aside, reason="as asked for")


@hookimpl
def hq_register_backends() -> list[type[OverflowBackend]]:
    return [Shelf]
