"""An overflow backend for hybrid-queue: one SQLite database a stream, ``<stream>.sqlite``.

Records are numbered. The numbers never restart while the backend is open, and have no gaps::

    ... trimmed ... _head ... read, not trimmed ... _next ... stored, not read ... _tail

SQLite's defaults are kept where they will do. The journal is a rollback journal: one file a stream
and none beside it between two calls. A write-ahead log would make small appends three times as
fast, but it is two files more, and it gives space back only after a checkpoint.
"""

import itertools
import os
import resource
import sqlite3
import stat
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final, Literal
from urllib.parse import quote

from hq_core.capabilities import Capability
from hq_core.errors import BackendError, CorruptedData, QueueFull, StreamBusyError
from hq_core.hookspecs import hookimpl
from hq_core.protocols import API_VERSION, OverflowBackend, Stream
from hq_core.stats import Damage, Inspection, RecoveryReport

__all__ = ["SqliteBackend"]

_TABLE: Final = "CREATE TABLE IF NOT EXISTS records (seq INTEGER PRIMARY KEY, data BLOB NOT NULL)"
_SYNCHRONOUS: Final = {"off": "OFF", "full": "EXTRA"}
_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class SqliteTools:
    """``hq inspect``, ``verify``, ``cat`` and ``repair`` for these files: a `SpoolTools`."""

    suffix: ClassVar[str] = ".sqlite"
    companions: ClassVar[tuple[str, ...]] = ()

    def inspect(self, path: Path) -> Inspection:
        """How many records it holds."""
        damage = ""
        count = first = end = size = 0
        with closing(_open_to_read(path)) as db:
            try:
                for seq, length in _rows(db, "length(data)"):
                    first, end = first if count else seq, seq + 1
                    count, size = count + 1, size + length + SqliteBackend.record_overhead
            except sqlite3.DatabaseError as exc:
                damage = _damage_of(exc)
        return Inspection("sqlite", count, size, head=first, tail=end, damage=damage)

    def salvage(self, path: Path) -> Iterator[bytes | Damage]:
        """Its records up to the first that cannot be read; a number that is missing is told."""
        expected = None
        with closing(_open_to_read(path)) as db:
            try:
                for seq, data in _rows(db, "data"):
                    if expected is not None and seq != expected:
                        yield Damage(0, 0, f"records {expected} to {seq - 1} are missing")
                    expected = seq + 1
                    yield bytes(data)
                for (said,) in db.execute("PRAGMA quick_check(1)"):
                    if said != "ok":
                        yield Damage(0, 0, said)
            except sqlite3.DatabaseError as exc:
                yield Damage(0, 0, _damage_of(exc))


class SqliteBackend:
    """``<stream>.sqlite``: the records of one stream, a row each.

    Parameters
    ----------
    sync
        ``"off"``: the operating system decides when data reaches the disk. A killed process loses
        nothing; power loss may cost the whole database. ``"full"``: every append is on the disk
        when it returns, and power loss costs nothing either.
    """

    name: ClassVar[str] = "sqlite"
    api_version: ClassVar[int] = API_VERSION
    capabilities: ClassVar[Capability] = (
        Capability.DURABLE | Capability.CRASH_SAFE | Capability.POWER_SAFE
    )
    record_overhead: ClassVar[int] = 16
    tools: ClassVar[SqliteTools] = SqliteTools()
    recovered: RecoveryReport

    def __init__(self, stream: Stream, *, sync: Literal["off", "full"] = "off") -> None:
        if sync not in _SYNCHRONOUS:
            raise ValueError(f"sync must be one of {', '.join(_SYNCHRONOUS)}, not {sync!r}")
        if sync == "off":
            # The class says the most; this instance promises less.
            self.capabilities &= ~Capability.POWER_SAFE  # type: ignore[misc]
        self._stream = stream
        self._sync = sync
        self._path = stream.directory / f"{stream.file_name}.sqlite"
        self._head = self._next = self._tail = self._size = 0
        self._sizes: deque[int] = deque()  # of the records read and not trimmed
        self._db = self._connect()
        try:
            self.recovered = self._recover()
        except BaseException:
            self._db.close()
            raise

    # ---- the seam ----------------------------------------------------------------------------

    def append(self, records: Sequence[bytes]) -> None:
        """Insert `records` in one transaction."""
        try:
            self._db.execute(_TABLE)
            with self._db:
                # An earlier append may have been interrupted after its commit.
                self._db.execute("DELETE FROM records WHERE seq >= ?", (self._tail,))
                self._db.executemany(
                    "INSERT INTO records VALUES (?, ?)", enumerate(records, self._tail)
                )
        except sqlite3.OperationalError as exc:
            if _out_of_space(exc):
                raise QueueFull(f"the overflow disk is full: {exc}") from exc
            raise
        self._tail += len(records)
        self._size += sum(map(len, records)) + len(records) * self.record_overhead

    def read(self, max_records: int, max_bytes: int) -> list[bytes]:
        """Select as many of the next rows as fit, looking at their sizes first."""
        if not self.depth():
            return []
        try:
            with _damage_told(self._path):
                records = self._select(min(max_records, self.depth()), max_bytes)
        except CorruptedData as damage:
            if self._stream.on_corruption == "raise":
                raise
            aside = self._set_aside()
            lost, self._tail = self.depth(), self._next
            self._size = sum(self._sizes)
            raise CorruptedData(f"{damage}; {lost} records are in {aside}") from damage
        self._next += len(records)
        self._sizes.extend([len(record) + self.record_overhead for record in records])
        return records

    def trim(self, count: int) -> None:
        """Delete the oldest rows, or the whole file if the disk is too full even for that."""
        if count > len(self._sizes):
            raise ValueError(f"{count} records to trim, {len(self._sizes)} read and not trimmed")
        head = self._head + count
        try:
            self._db.execute(_TABLE)
            with self._db:
                self._db.execute("DELETE FROM records WHERE seq < ?", (head,))
        except sqlite3.OperationalError as exc:
            if head < self._tail or not _out_of_space(exc):
                raise
            self._start_over()  # deleting takes space for the journal, this does not
        self._head = head
        self._size -= sum(self._sizes.popleft() for _ in range(count))

    def sync(self) -> None:
        """Nothing to do: with ``sync="full"`` every append has done it."""

    def depth(self) -> int:
        """Number of records stored and not yet read."""
        return self._tail - self._next

    def size_bytes(self) -> int:
        """Payload and overhead of every record not trimmed."""
        return self._size

    def close(self, *, delete: bool) -> None:
        """Close the database, and remove its files if there is nothing to be kept."""
        self._db.close()
        if delete or self._head == self._tail:
            self._remove()

    # ---- inside ------------------------------------------------------------------------------

    def _files(self) -> list[Path]:
        """The database and its journal. This order: SQLite ignores a journal left alone."""
        return [self._path, self._path.with_name(f"{self._path.name}-journal")]

    def _connect(self) -> sqlite3.Connection:
        """Make the file, unless it is there, and open it. Nothing of it is looked at."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(self._path, flags, 0o600)
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid():
                raise BackendError(f"{self._path} is not a regular file of this user")
            if self._stream.leftover == "discard":
                os.ftruncate(fd, 0)
        finally:
            os.close(fd)
        return sqlite3.connect(self._path, check_same_thread=False)

    def _recover(self) -> RecoveryReport:
        """Do with what an earlier owner left as the stream says."""
        leftover, damage = self._stream.leftover, ""
        try:
            with _damage_told(self._path):
                self._prepare()
                self._survey()
        except CorruptedData as exc:
            damage = str(exc)
            if leftover == "resume" and self._stream.on_corruption == "raise":
                raise
        if not damage and not self.depth():
            return RecoveryReport()
        if leftover == "refuse":
            raise StreamBusyError(
                f"{damage or f'{self._path} holds {self.depth()} records'}; an earlier owner left "
                "it: open it with leftover='resume', or move it away"
            )
        if damage or leftover == "quarantine":
            size = self._path.stat().st_size
            aside = self._set_aside()
            self._head = self._next = self._tail = self._size = 0
            reason = damage or "leftover='quarantine'"
            return RecoveryReport(quarantined_bytes=size, quarantine=aside, reason=reason)
        return RecoveryReport(records=self.depth(), size_bytes=self._size)

    def _prepare(self) -> None:
        self._db.execute(f"PRAGMA synchronous = {_SYNCHRONOUS[self._sync]}")
        self._db.execute("PRAGMA cache_size = -512")  # KiB
        self._db.execute("PRAGMA auto_vacuum = FULL")  # a trim makes the file shorter

    def _survey(self) -> None:
        """Find out what the database holds."""
        self._db.execute(_TABLE)
        count, first, size = self._db.execute(
            "SELECT count(*), coalesce(min(seq), 0), coalesce(sum(length(data)), 0) FROM records"
        ).fetchone()
        self._head = self._next = first
        self._tail = first + count
        self._size = size + count * self.record_overhead

    def _select(self, limit: int, max_bytes: int) -> list[bytes]:
        rows = "FROM records WHERE seq >= ? AND seq < ? ORDER BY seq"
        sizes = self._db.execute(f"SELECT length(data) {rows}", (self._next, self._next + limit))
        totals = list(itertools.accumulate(size for (size,) in sizes))
        if len(totals) < limit:
            raise CorruptedData(f"{self._path}: {limit - len(totals)} records are missing")
        end = self._next + sum(total <= max_bytes for total in totals)
        return [data for (data,) in self._db.execute(f"SELECT data {rows}", (self._next, end))]

    def _start_over(self) -> None:
        self._db.close()
        self._remove()
        self._db = self._connect()
        self._prepare()

    def _remove(self) -> None:
        for file in self._files():
            file.unlink(missing_ok=True)

    def _set_aside(self) -> Path:
        """Rename the database to ``<path>.quarantine-N``, and start a new one; the new name."""
        self._db.close()
        names = (f"{self._path}.quarantine-{n}" for n in itertools.count(1))
        aside = next(name for name in names if not os.path.lexists(name))
        for file in self._files():
            if file.exists():
                file.rename(f"{aside}{file.name.removeprefix(self._path.name)}")
        self._start_over()
        return Path(aside)


@hookimpl
def hq_register_backends() -> list[type[OverflowBackend]]:
    """Offer `SqliteBackend` under the name ``sqlite``."""
    return [SqliteBackend]


def _open_to_read(path: Path) -> sqlite3.Connection:
    """Open it without a lock, which an owner that is writing would meet."""
    journal = path.with_name(f"{path.name}-journal")
    if journal.exists():
        raise BackendError(
            f"{path} is being written, or was when its owner died: let a queue open it"
        )
    where = f"file:{quote(os.fspath(path.absolute()))}?mode=ro&immutable=1"
    return sqlite3.connect(where, uri=True)


def _rows(db: sqlite3.Connection, column: str) -> Iterable[tuple[int, Any]]:
    """Every record's number and `column`; none of a database that has not been used."""
    made = db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'records'").fetchone()[0]
    return db.execute(f"SELECT seq, {column} FROM records ORDER BY seq") if made else ()


def _damage_of(exc: sqlite3.DatabaseError) -> str:
    """What is wrong. Raises `exc` again if it is about something else."""
    if getattr(exc, "sqlite_errorcode", 0) & 0xFF not in _DAMAGED:
        raise exc
    return str(exc)


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    """Within it, SQLite's word for damage becomes the seam's."""
    try:
        yield
    except sqlite3.DatabaseError as exc:
        if getattr(exc, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
            raise CorruptedData(f"{path} is damaged: {exc}") from exc
        raise


def _out_of_space(exc: sqlite3.OperationalError) -> bool:
    """A limit on the size of files (``ulimit -f``) looks like any failing write to SQLite."""
    if exc.sqlite_errorcode == sqlite3.SQLITE_IOERR_WRITE:
        return resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY
    return exc.sqlite_errorcode == sqlite3.SQLITE_FULL
