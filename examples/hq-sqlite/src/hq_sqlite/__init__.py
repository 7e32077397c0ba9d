"""An overflow backend for hybrid-queue: one SQLite database a stream, ``<stream>.sqlite``.

Records are numbered, without gaps: record `n` of the log is in the row ``head + n``. What the rows
are, `_log` says. A call sets it once, after its commit. One that was cut short by Ctrl-C may have
been committed or not: `_unsure` is set, and whoever comes next looks into the database.

SQLite's defaults are kept where they will do. The journal is a rollback journal: one file a stream
and none beside it between two calls. A write-ahead log would make small appends three times as
fast, but it is two files more, and it gives space back only after a checkpoint.
"""

import os
import resource
import sqlite3
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, NamedTuple
from urllib.parse import quote

from typing_extensions import override

from hq_core.capabilities import Capability
from hq_core.errors import BackendError, CorruptedData, QueueFull, StreamBusyError
from hq_core.hookspecs import hookimpl
from hq_core.protocols import API_VERSION, OverflowBackend, SpoolTools, Stream
from hq_core.stats import Damage, Inspection, RecoveryReport

__all__ = ["SqliteBackend"]

_TABLE: Final = "CREATE TABLE IF NOT EXISTS records (seq INTEGER PRIMARY KEY, data BLOB NOT NULL)"
_SYNCHRONOUS: Final = {"off": "OFF", "full": "EXTRA"}
_NO_END: Final = (1 << 63) - 1
_OVERHEAD: Final = 16
"""Bytes that a row is taken to cost beside its data."""
_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class SqliteTools(SpoolTools):
    """``hq inspect``, ``verify``, ``cat`` and ``repair`` for these files."""

    suffix = ".sqlite"
    companions = ()

    @override
    def inspect(self, path: Path) -> Inspection:
        """How many records it holds."""
        damage = ""
        count = first = end = size = 0
        with closing(_open_to_read(path)) as db:
            try:
                for seq, length in _rows(db, "length(data)"):
                    first, end = first if count else seq, seq + 1
                    count, size = count + 1, size + length + _OVERHEAD
            except sqlite3.DatabaseError as exc:
                damage = _damage_of(exc)
        return Inspection(
            "sqlite", count, size, head=first, tail=end, damage=damage, damage_offset=end
        )

    @override
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


class _Log(NamedTuple):
    head: int
    """Number of the first row."""
    tail: int
    """Number that the next one gets."""
    size: int
    """Live bytes of those between."""

    @property
    def depth(self) -> int:
        return self.tail - self.head


class SqliteBackend(OverflowBackend):
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
        self._name = f"{stream.file_name}.sqlite"
        self._path = stream.directory / self._name
        self._log = _Log(0, 0, 0)
        self._unsure = False  # the database may hold something other than `_log`
        self._db = self._connect(self._name, empty=stream.leftover == "discard")
        try:
            self.recovered = self._recover()
        except BaseException:
            self._db.close()
            raise

    # ---- the seam ----------------------------------------------------------------------------

    @override
    def append(self, records: Sequence[bytes]) -> None:
        """Insert `records` in one transaction."""
        self._settle()
        head, tail, size = self._log
        try:
            with self._transaction() as db:
                db.execute(_TABLE)
                db.executemany("INSERT INTO records VALUES (?, ?)", enumerate(records, tail))
        except sqlite3.OperationalError as exc:
            if _out_of_space(exc):
                raise QueueFull(f"the overflow disk is full: {exc}") from exc
            raise
        self._log = _Log(head, tail + len(records), size + self.cost(records))
        self._unsure = False

    @override
    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        """Select rows."""
        try:
            with _damage_told(self._path):
                self._settle()
                return self._select(skip, max_records, max_bytes)
        except CorruptedData as damage:
            if self._stream.on_corruption == "raise":
                raise
            before = self._log
            aside = self._set_aside(before.head + skip, str(damage))
            lost = before.depth - self._log.depth
            raise CorruptedData(f"{damage}; {lost} records are in {aside}") from damage

    @override
    def trim(self, count: int) -> None:
        """Delete the oldest rows, or the whole file if the disk is too full even for that."""
        self._settle()
        head, tail, size = self._log
        if count > tail - head:
            raise ValueError(f"{count} records to trim, there are {tail - head}")
        head += count
        try:
            with self._transaction() as db:
                size -= self._survey(end=head).size
                db.execute("DELETE FROM records WHERE seq < ?", (head,))
        except sqlite3.OperationalError as exc:
            if head < tail or not _out_of_space(exc):
                raise
            self._start_over()  # deleting takes space for the journal, this does not
            size = 0
        self._log = _Log(head, tail, size)
        self._unsure = False

    @override
    def sync(self) -> None:
        """Nothing to do: with ``sync="full"`` every append has done it."""

    @override
    def depth(self) -> int:
        """Number of rows."""
        self._try_to_settle()
        return self._log.depth

    @override
    def size_bytes(self) -> int:
        """Payload and overhead of every row."""
        self._try_to_settle()
        return self._log.size

    @override
    def cost(self, records: Sequence[bytes]) -> int:
        """Payload and overhead."""
        return sum(map(len, records)) + _OVERHEAD * len(records)

    @override
    def close(self, *, delete: bool) -> None:
        """Close the database, and remove its files if there is nothing to be kept."""
        try:
            if not delete:
                self._settle()
        finally:
            self._db.close()
        if delete or not self._log.depth:
            self._remove()

    # ---- inside ------------------------------------------------------------------------------

    def _connect(self, name: str, *, empty: bool = False) -> sqlite3.Connection:
        """Make the file `name`, unless it is there, and open it. Nothing of it is looked at."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=self._stream.dir_fd)
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid():
                raise BackendError(f"{self._path} is not a regular file of this user")
            if empty:
                os.ftruncate(fd, 0)
        finally:
            os.close(fd)
        # SQLite takes only names; this one is in the queue's directory, whatever that is called.
        path = f"/proc/self/fd/{self._stream.dir_fd}/{name}"
        return sqlite3.connect(path, check_same_thread=False)

    def _prepare(self, db: sqlite3.Connection) -> None:
        db.execute(f"PRAGMA synchronous = {_SYNCHRONOUS[self._sync]}")
        db.execute("PRAGMA cache_size = -512")  # KiB
        db.execute("PRAGMA auto_vacuum = FULL")  # a trim makes the file shorter

    def _recover(self) -> RecoveryReport:
        """Do with what an earlier owner left as the stream says."""
        leftover, damage = self._stream.leftover, ""
        try:
            with _damage_told(self._path):
                self._prepare(self._db)
                self._log = self._survey()
        except CorruptedData as exc:
            damage = str(exc)
            if leftover == "resume" and self._stream.on_corruption == "raise":
                raise
        if not damage and not self._log.depth:
            return RecoveryReport()
        if leftover == "refuse":
            raise StreamBusyError(
                f"{damage or f'{self._path} holds {self._log.depth} records'}; an earlier owner "
                "left it: open it with leftover='resume', or move it away"
            )
        size, aside, reason = 0, None, ""
        if damage or leftover == "quarantine":
            size = os.stat(self._name, dir_fd=self._stream.dir_fd).st_size
            reason = damage or "leftover='quarantine'"
            aside = self._set_aside(0 if leftover == "quarantine" else _NO_END, reason)
        return RecoveryReport(
            records=self._log.depth,
            size_bytes=self._log.size,
            quarantined_bytes=size,
            quarantine=aside,
            reason=reason,
        )

    def _survey(self, end: int = _NO_END) -> _Log:
        """What the rows before `end` are."""
        self._db.execute(_TABLE)
        count, first, last, size = self._db.execute(
            "SELECT count(*), min(seq), max(seq), sum(length(data)) FROM records WHERE seq < ?",
            (end,),
        ).fetchone()
        return _Log(first, last + 1, size + _OVERHEAD * count) if count else _Log(0, 0, 0)

    def _select(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        start = self._log.head + skip
        end = min(start + max_records, self._log.tail)
        records: list[bytes] = []
        rows = self._db.execute(
            "SELECT seq, length(data), CASE WHEN length(data) <= ? THEN data END FROM records"
            " WHERE seq >= ? AND seq < ? ORDER BY seq",
            (max_bytes, start, end),
        )
        try:
            for seq, size, data in rows:
                if seq != start + len(records):
                    break
                max_bytes -= size
                if max_bytes < 0:
                    return records
                records.append(data)
        except sqlite3.DatabaseError:
            if not records:
                raise  # else the next read meets it
        if start < end and not records:
            raise CorruptedData(f"{self._path}: record {start} is missing")
        return records

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing. Afterwards it is for the caller to set `_log` and to be sure again."""
        self._unsure = True
        try:
            with self._db:
                yield self._db
        except sqlite3.Error:
            self._unsure = self._db.in_transaction  # as a rule SQLite has undone it
            raise

    def _settle(self) -> None:
        """After a call that was cut short: make the database and `_log` say the same."""
        if not self._unsure:
            return
        tail = self._log.tail
        self._reconnect()
        if self._survey().tail > tail:
            with self._db:
                self._db.execute("DELETE FROM records WHERE seq >= ?", (tail,))
        self._log = self._survey()
        self._unsure = False

    def _try_to_settle(self) -> None:
        with suppress(sqlite3.Error, OSError):  # what failed has changed nothing
            self._settle()

    def _reconnect(self) -> None:
        self._db.close()
        self._db = self._connect(self._name)
        self._prepare(self._db)

    def _start_over(self) -> None:
        self._db.close()
        self._remove()
        self._reconnect()

    def _remove(self, suffixes: Sequence[str] = ("", "-journal", "-new", "-new-journal")) -> None:
        """The database goes before its journal: SQLite ignores a journal left alone."""
        for suffix in suffixes:
            with suppress(FileNotFoundError):
                os.unlink(f"{self._name}{suffix}", dir_fd=self._stream.dir_fd)

    def _set_aside(self, end: int, reason: str) -> Path:
        """Move the database aside, and go on in a new one with the whole records before `end`.

        Raises `CorruptedData` if there is no room for those; then nothing has changed.
        """
        self._unsure = True
        try:
            aside = self._stream.quarantine_path("sqlite")
            self._copy_whole(f"{self._name}-new", end)
            self._db.close()
            self._exchange(f"{self._name}-new", aside.name)
        except (sqlite3.Error, OSError) as exc:
            self._remove(("-new", "-new-journal"))
            raise CorruptedData(f"{reason}; it cannot be moved aside: {exc}") from exc
        self._reconnect()
        self._log = self._survey()
        self._unsure = False
        return aside

    def _copy_whole(self, name: str, end: int) -> None:
        """Copy the rows before `end`, up to the first that is damaged, to the database `name`."""
        with closing(self._connect(name, empty=True)) as new:
            if not end:
                return  # so that nothing needs no room
            self._prepare(new)
            new.execute(_TABLE)
            with suppress(CorruptedData), _damage_told(self._path):
                rows = self._db.execute(
                    "SELECT seq, data FROM records WHERE seq < ? ORDER BY seq", (end,)
                )
                new.executemany("INSERT INTO records VALUES (?, ?)", rows)
            new.commit()

    def _exchange(self, new: str, aside: str) -> None:
        """Call the database `aside`, and `new` what it was called: at no time is it without."""
        fd = self._stream.dir_fd
        os.link(self._name, aside, src_dir_fd=fd, dst_dir_fd=fd)
        with suppress(FileNotFoundError):  # there is none, but for damage after a crash
            os.rename(f"{self._name}-journal", f"{aside}.journal", src_dir_fd=fd, dst_dir_fd=fd)
        os.rename(new, self._name, src_dir_fd=fd, dst_dir_fd=fd)
        os.fsync(fd)


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
