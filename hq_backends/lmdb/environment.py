"""An LMDB environment that is opened when needed and grows by itself.

The map is how much of the file LMDB may use, and its disk space is reserved before LMDB gets it.
A transaction that does not fit is undone, the map grows, and the transaction is done again. So a
full disk is met while no transaction is open: nothing is ever half written, and a writable map
(`writemap`) is not torn from under the process. Where the file system cannot reserve, a full disk
is met by the commit, which LMDB undoes.

LMDB copies the pages it changes, so that deleting takes room too: adding leaves pages free for it.
"""

import errno
import mmap
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import lmdb

from hq_core.errors import CorruptedData, QueueFull

if TYPE_CHECKING:
    from lmdb import Transaction

__all__ = ["OUT_OF_SPACE", "Environment"]

_T = TypeVar("_T")

OUT_OF_SPACE: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CANNOT_RESERVE: Final = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_DAMAGED: Final = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError)
_STEP: Final = 256 * 1024
"""Least that the map grows by, in bytes."""
_FREE_PAGES: Final = 32
"""Pages that adding leaves free, besides a share of the map."""
_FREE_SHARE: Final = 64
"""One page in so many is left free as well: the list of free pages grows with the map."""


class Environment:
    """The environment in `directory`; neither need be there before something is written.

    `map_size` is the first size of the map and `limit` the largest that appending may grow it to,
    in bytes; for `sync` and `writemap` see `LmdbBackend`. Methods raise `lmdb.Error` and `OSError`.
    """

    def __init__(
        self, directory: Path, *, map_size: int, limit: int | None, sync: bool, writemap: bool
    ) -> None:
        self.directory = directory
        self.data = directory / "data.mdb"
        self._first_size = _pages(map_size)
        self._limit = limit
        self._sync = sync
        self._writemap = writemap
        self._env: lmdb.Environment | None = None
        self._map = 0
        self._unfinished = False  # the file was not there, and may be now, but not as LMDB's
        self._names_to_sync = False
        self._flush_failed = ""

    # ---- transactions ------------------------------------------------------------------------

    def read(self, work: "Callable[[Transaction[memoryview]], _T]") -> _T:
        """Do `work` in a read transaction; damage that LMDB notices is `CorruptedData`."""
        try:
            with self._opened().begin(buffers=True) as txn:
                return work(txn)
        except _DAMAGED as exc:
            self.close()
            raise CorruptedData(f"{self.data} is damaged: {exc}") from exc

    def add(self, work: "Callable[[Transaction[bytes]], _T]", size: int) -> _T:
        """Do `work`, which adds `size` bytes, in a write transaction, and commit it.

        Raises `QueueFull` if there is no room, in the map's limit or on the disk.
        """
        try:
            return self._write(
                lambda txn: self._leaving_room(work, txn), lambda full: self._grow(full, 2 * size)
            )
        except (lmdb.Error, OSError) as exc:
            if _errno(exc) not in OUT_OF_SPACE:
                raise
            raise QueueFull(
                f"the overflow disk is full, {self.data} cannot grow: {exc}; "
                "consume items or free disk space"
            ) from exc

    def remove(self, work: "Callable[[Transaction[bytes]], None]") -> None:
        """Do `work`, which deletes, in a write transaction; the limit does not hold for it."""
        self._write(work, lambda _: self._resize(self._map + _STEP))

    def _leaving_room(
        self, work: "Callable[[Transaction[bytes]], _T]", txn: "Transaction[bytes]"
    ) -> _T:
        result = work(txn)
        stat, pages = txn.stat(), self._map // mmap.PAGESIZE
        live = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        if live + _FREE_PAGES + pages // _FREE_SHARE > pages:
            raise lmdb.MapFullError("the rest of the map is for deleting")
        return result

    def _write(
        self,
        work: "Callable[[Transaction[bytes]], _T]",
        grow: Callable[[lmdb.MapFullError], object],
    ) -> _T:
        while True:
            env = self._opened()
            try:
                with env.begin(write=True) as txn:
                    return work(txn)
            except lmdb.MapFullError as full:
                grow(full)
            except lmdb.Error:
                self.close()  # a failed commit may leave it unusable; the next call opens it again
                raise

    # ---- the file ----------------------------------------------------------------------------

    def has_grown(self) -> bool:
        """Whether the map is larger than at first."""
        return self._map > self._first_size

    def used_bytes(self) -> int:
        """Bytes of the file that are or were in use, a whole number of pages."""
        return (self._opened().info()["last_pgno"] + 1) * mmap.PAGESIZE

    def empty(self) -> None:
        """Delete all records at once, and give their space back. Nothing happens if it fails."""
        self.close()
        with suppress(FileNotFoundError):
            os.truncate(self.data, 0)  # LMDB takes an empty file for a new one

    def compact(self) -> None:
        """Copy the records to a new file that takes this one's place; without room, raises."""
        target = new_path(self.directory)
        old = os.open(self.data, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self._copy_to(target)
            target.rename(self.data)
            self.close()
            os.ftruncate(old, 0)  # a forked child may keep the old file in being
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        finally:
            os.close(old)

    def _copy_to(self, target: Path) -> None:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            self._opened().copyfd(fd, compact=True)
            if self._sync:
                os.fsync(fd)
        finally:
            os.close(fd)
        self._names_to_sync = True

    def sync(self) -> None:
        """Flush everything committed to the disk. Once it has failed it fails for ever.

        The system reports a failed flush once and forgets what was not written: later ones prove
        nothing about it.
        """
        if self._flush_failed:
            raise OSError(errno.EIO, f"an earlier flush failed: {self._flush_failed}; reopen")
        if not self._file_size():
            return
        try:
            self._opened().sync(True)
            self._sync_names()
        except (lmdb.Error, OSError) as exc:
            self._flush_failed = str(exc)
            raise

    def _sync_names(self) -> None:
        if not self._names_to_sync:
            return
        for directory in (self.directory, self.directory.parent):
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        self._names_to_sync = False

    def close(self) -> None:
        """Let go of the file; the next call opens it again. Idempotent."""
        env, self._env = self._env, None
        self._map = 0
        if env is not None:
            env.close()

    def delete(self) -> None:
        """Close it and leave no file behind."""
        self.empty()
        for name in ("data.mdb", "lock.mdb"):  # LMDB's own tools make the lock file
            (self.directory / name).unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            self.directory.rmdir()

    # ---- opening and growing -----------------------------------------------------------------

    def _opened(self) -> lmdb.Environment:
        if self._env is None:
            if self._unfinished:
                self._remove_unfinished()
            size = self._file_size()
            self._unfinished = not size
            try:
                self._env = self._open(size)
            except BaseException:
                self.close()
                if self._unfinished:
                    with suppress(OSError):  # then before it is opened the next time
                        self._remove_unfinished()
                raise
            self._unfinished = False
        return self._env

    def _remove_unfinished(self) -> None:
        self.empty()
        self._unfinished = False

    def _open(self, size: int) -> lmdb.Environment:
        """Open the environment, whose file of `size` bytes is the space reserved so far."""
        env = self._map_it(max(size, 2 * mmap.PAGESIZE))
        if not size:
            env = self._resize(self._first_size)
            self._names_to_sync = True
            if self._sync:
                self._sync_names()
        return env

    def _map_it(self, size: int) -> lmdb.Environment:
        env = self._env = lmdb.open(
            str(self.directory),
            map_size=size,
            mode=0o700,
            sync=self._sync,
            writemap=self._writemap,
            lock=False,  # the queue calls one method at a time and owns the stream
            max_spare_txns=1,
        )
        self._map = env.info()["map_size"]
        return env

    def _file_size(self) -> int:
        try:
            return self.data.stat().st_size
        except FileNotFoundError:
            return 0

    def _grow(self, full: lmdb.MapFullError, wanted: int) -> None:
        """Make the map larger, by `wanted` bytes if possible; `QueueFull` at its limit."""
        least = self._map + _STEP
        size = max(least, self._map + _pages(wanted), self._map + _pages(self._map // 2))
        if self._limit is not None and size > self._limit:
            if self._map >= self._limit:
                raise QueueFull(
                    f"{self.data} has reached the {self._limit} bytes that its map may have: "
                    "consume items, or raise max_overflow_bytes"
                ) from full
            least = size = self._limit
        try:
            self._resize(size)
        except OSError as exc:
            if size == least or exc.errno not in OUT_OF_SPACE:
                raise
            self._resize(least)

    def _resize(self, size: int) -> lmdb.Environment:
        """Reserve `size` bytes of disk and let LMDB use them.

        By opening it anew: after a ``set_mapsize`` that failed, closing unmaps what is not LMDB's.
        """
        self._reserve(size)
        self.close()
        return self._map_it(size)

    def _reserve(self, end: int) -> None:
        fd = os.open(self.data, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            before = os.fstat(fd).st_size
            try:
                os.posix_fallocate(fd, 0, end)
            except OSError as exc:
                if exc.errno in _CANNOT_RESERVE:
                    return
                with suppress(OSError):
                    os.ftruncate(fd, before)
                raise
        finally:
            os.close(fd)


def new_path(directory: Path) -> Path:
    """Where `Environment.compact` copies to; a crash may leave it behind."""
    return directory / "data.mdb.new"


def _pages(size: int) -> int:
    """`size` in bytes, rounded up to whole pages."""
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _errno(exc: lmdb.Error | OSError) -> int | None:
    return exc.errno if isinstance(exc, OSError) else getattr(exc, "code", None)
