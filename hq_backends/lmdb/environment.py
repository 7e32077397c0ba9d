"""An LMDB environment that is opened when needed and grows by itself.

The map is how much of the file LMDB may use, and its disk space is reserved before LMDB gets it.
A transaction that does not fit is undone, the map grows, and the transaction is done again. So a
full disk is met while no transaction is open: nothing is ever half written, and a writable map
(`writemap`) is not torn from under the process. Where the file system cannot reserve, a full disk
is met by the commit, which LMDB undoes.

LMDB copies the pages it changes, so that deleting takes room too: adding leaves pages free for it.

`KeyboardInterrupt` may come before any line. Whether the environment is open, `_map` says: it is
set last and taken back first.
"""

import errno
import mmap
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import lmdb

from hq_backends.lmdb.datafile import OUT_OF_SPACE, DataFile
from hq_core.errors import CorruptedData, QueueFull

if TYPE_CHECKING:
    from lmdb import Transaction

__all__ = ["Environment"]

_T = TypeVar("_T")

_DAMAGED: Final = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError)
_SMALLEST: Final = 2 * mmap.PAGESIZE
"""Bytes of a map with no records: the two meta pages."""
_STEP: Final = 256 * 1024
"""Least that the map grows by, in bytes."""
_FREE_PAGES: Final = 32
"""Pages that adding leaves free, besides a share of the map."""
_FREE_SHARE: Final = 64
"""One page in so many is left free as well: the list of free pages grows with the map."""


class Environment:
    """The environment in `file`; that and its directory are made when something is written.

    `map_size` is the first size of the map and `limit` the largest that appending may grow it to,
    in bytes; for `sync` and `writemap` see `LmdbBackend`. Methods raise `lmdb.Error` and `OSError`.
    """

    def __init__(
        self, file: DataFile, *, map_size: int, limit: int | None, sync: bool, writemap: bool
    ) -> None:
        self.file = file
        self._first_size = _pages(map_size)
        self._limit = limit
        self._sync = sync
        self._writemap = writemap
        self._env: lmdb.Environment | None = None
        self._map = 0  # bytes; 0: what `_env` has is not open, or not for use
        self._unfinished = False  # the file was not there, and may be now, but not as LMDB's
        self._flush_failed = ""

    # ---- transactions ------------------------------------------------------------------------

    def read(self, work: "Callable[[Transaction[memoryview]], _T]") -> _T:
        """Do `work` in a read transaction; damage that LMDB notices is `CorruptedData`."""
        try:
            with self._opened().begin(buffers=True) as txn:
                return work(txn)
        except _DAMAGED as exc:
            self.close()
            raise CorruptedData(f"{self.file.shown} is damaged: {exc}") from exc

    def add(self, work: "Callable[[Transaction[memoryview]], _T]", size: int) -> _T:
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
                f"the overflow disk is full, {self.file.shown} cannot grow: {exc}; "
                "consume items or free disk space"
            ) from exc

    def remove(self, work: "Callable[[Transaction[memoryview]], _T]") -> _T:
        """Do `work`, which deletes, in a write transaction; the limit does not hold for it."""
        return self._write(work, lambda _: self._resize(self._map + _STEP))

    def _leaving_room(
        self, work: "Callable[[Transaction[memoryview]], _T]", txn: "Transaction[memoryview]"
    ) -> _T:
        result = work(txn)
        stat, pages = txn.stat(), self._map // mmap.PAGESIZE
        live = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        if live + _FREE_PAGES + pages // _FREE_SHARE > pages:
            raise lmdb.MapFullError("the rest of the map is for deleting")
        return result

    def _write(
        self,
        work: "Callable[[Transaction[memoryview]], _T]",
        grow: Callable[[lmdb.MapFullError], object],
    ) -> _T:
        while True:
            env = self._opened()
            try:
                with env.begin(write=True, buffers=True) as txn:
                    return work(txn)
            except lmdb.MapFullError as full:
                grow(full)
            except lmdb.Error:
                self.close()  # a failed commit may leave it unusable; the next call opens it again
                raise

    # ---- the file ----------------------------------------------------------------------------

    def is_there(self) -> bool:
        """Whether there is an environment in the file."""
        return not self._unfinished and self.file.size() > 0

    def has_grown(self) -> bool:
        """Whether the map is larger than at first."""
        self._opened()
        return self._map > self._first_size

    def used_bytes(self) -> int:
        """Bytes of the file that are or were in use, a whole number of pages."""
        return (self._opened().info()["last_pgno"] + 1) * mmap.PAGESIZE

    def empty(self) -> None:
        """Delete all records at once, and give their space back. Nothing happens if it fails."""
        self.close()
        self.file.empty()

    def compact(self) -> None:
        """Copy the records to a new file that takes this one's place; without room, raises."""
        self.file.new.remove()
        old = os.open(self.file.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self._copy_to(self.file.new)
            self.close()  # before another file has the name
            self.file.replace()
            if self._sync:
                self.file.sync_names()
            os.ftruncate(old, 0)  # a forked child may keep the old file in being
        except BaseException:
            self.file.new.remove()
            raise
        finally:
            os.close(old)

    def _copy_to(self, new: DataFile) -> None:
        new.make_directory()
        fd = os.open(new.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            self._opened().copyfd(fd, compact=True)
            if self._sync:
                os.fsync(fd)
        finally:
            os.close(fd)

    def beside(self) -> "Environment":
        """A new one, in the file that is made to replace this one's."""
        return Environment(
            self.file.new, map_size=self._first_size, limit=None, sync=self._sync, writemap=False
        )

    def move_aside(self, target: Path) -> None:
        """Move the file to the directory `target`; what is new takes its place, if there is one."""
        self.close()
        self.file.move_aside(target)
        if self._sync:
            self.file.sync_names()

    def sync(self) -> None:
        """Flush everything committed to the disk. Once it has failed it fails for ever.

        The system reports a failed flush once and forgets what was not written: later ones prove
        nothing about it.
        """
        if self._flush_failed:
            raise OSError(errno.EIO, f"an earlier flush failed: {self._flush_failed}; reopen")
        if not self.is_there():
            return
        try:
            self._opened().sync(True)
            self.file.sync_names()
        except (lmdb.Error, OSError) as exc:
            self._flush_failed = str(exc)
            raise

    def close(self) -> None:
        """Let go of the file; the next call opens it again. Idempotent."""
        self._map = 0
        if self._env is not None:
            self._env.close()
            self._env = None

    def delete(self) -> None:
        """Close it and leave no file behind."""
        self.close()
        self.file.remove()

    # ---- opening and growing -----------------------------------------------------------------

    def _opened(self) -> lmdb.Environment:
        if self._env is not None and self._map and not self._unfinished:
            return self._env
        self.close()
        if self._unfinished:
            self._remove_unfinished()
        size = self.file.size()
        self._unfinished = not size
        try:
            env = self._map_it(max(size, _SMALLEST)) if size else self._make()
            self._unfinished = False
        except BaseException:
            self.close()
            if self._unfinished:
                with suppress(OSError):  # then before it is opened the next time
                    self._remove_unfinished()
            raise
        return env

    def _remove_unfinished(self) -> None:
        self.empty()
        self._unfinished = False

    def _make(self) -> lmdb.Environment:
        self.file.make_directory()
        self._map_it(_SMALLEST)
        env = self._resize(self._first_size)
        if self._sync:
            self.file.sync_names()
        return env

    def _map_it(self, size: int) -> lmdb.Environment:
        env = self._env = lmdb.open(
            str(self.file.directory),
            map_size=size,
            mode=0o700,
            sync=self._sync,
            writemap=self._writemap,
            lock=False,  # the queue calls one method at a time and owns the stream
            max_spare_txns=1,
        )
        self._map = env.info()["map_size"]
        return env

    def _grow(self, full: lmdb.MapFullError, wanted: int) -> None:
        """Make the map larger, by `wanted` bytes if possible; `QueueFull` at its limit."""
        least = self._map + _STEP
        size = max(least, self._map + _pages(wanted), self._map + _pages(self._map // 2))
        if self._limit is not None and size > self._limit:
            if self._map >= self._limit:
                raise QueueFull(
                    f"{self.file.shown} has reached the {self._limit} bytes that its map may have: "
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
        self.file.reserve(size)
        self.close()
        return self._map_it(size)


def _pages(size: int) -> int:
    """`size` in bytes, rounded up to whole pages."""
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _errno(exc: lmdb.Error | OSError) -> int | None:
    return exc.errno if isinstance(exc, OSError) else getattr(exc, "code", None)
