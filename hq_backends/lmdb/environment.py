"""An LMDB environment that is opened when needed and grows by itself.

The map is how much of the file LMDB may use, and its disk space is reserved before LMDB gets it.
A transaction that does not fit is undone, the map grows, and the transaction is done again. So a
full disk is met while no transaction is open: nothing is ever half written, and a writable map
(`writemap`) is not torn from under the process. Where the file system cannot reserve, a full disk
is met by the commit, which LMDB undoes. A map that cannot be had is met in the same way: what was
reserved for it is given back, and the map stays as large as it was.

LMDB opens the file that is held, by a name that the system gives to its descriptor. Other programs
may remove or replace it all the same: `hold` sees that, before anything is promised about it.

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
from hq_backends.lmdb.pages import Node, Pages
from hq_core.errors import BackendError, CorruptedData, QueueFull

if TYPE_CHECKING:
    from lmdb import Transaction

__all__ = ["Environment", "errno_of"]

_T = TypeVar("_T")

_NO_ROOM: Final = OUT_OF_SPACE | {errno.ENOMEM}
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
    in bytes; `tell` is a stream's; for `sync` and `writemap` see `LmdbBackend`. Methods raise
    `lmdb.Error` and `OSError`, `BackendError` if the file is somebody else's by now, and
    `CorruptedData` if it is damaged.
    """

    def __init__(
        self,
        file: DataFile,
        tell: Callable[[str], None],
        *,
        map_size: int,
        limit: int | None,
        sync: bool,
        writemap: bool,
    ) -> None:
        self.file = file
        self._first_size = _pages(map_size)
        self._limit = limit
        self._tell = tell
        self._sync = sync
        self._writemap = writemap
        self._env: lmdb.Environment | None = None
        self._map = 0  # bytes; 0: what `_env` has is not open, or not for use
        self._unfinished = False  # the file was not there, and may be now, but not as LMDB's
        self._doubted = False  # another has its name, which is still to be told
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

    def fills_its_place(self, offset: int) -> bool:
        """Whether the record at `offset` in the log is as long as its place in the file."""
        for node in Pages(self.file.fd).nodes():
            if isinstance(node, Node) and node.key >= offset:
                return node.key == offset
        return False

    def add(self, work: "Callable[[Transaction[memoryview]], _T]", size: int) -> _T:
        """Do `work`, which adds `size` bytes, in a write transaction, and commit it.

        Raises `QueueFull` if there is no room, in the map's limit or on the disk.
        """
        try:
            return self._write(
                lambda txn: self._leaving_room(work, txn), lambda full: self._grow(full, 2 * size)
            )
        except (lmdb.Error, OSError) as exc:
            if errno_of(exc) not in _NO_ROOM:
                raise
            what, cure = "the overflow disk is full", "consume items or free disk space"
            if errno_of(exc) == errno.ENOMEM:
                what, cure = "there is no memory to map it", "consume items or raise the limit"
            raise QueueFull(f"{self.file.shown} cannot grow, {what}: {exc}; {cure}") from exc

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
                if not self.hold(thoroughly=True):
                    grow(full)
            except lmdb.Error:
                self.close()  # a failed commit may leave it unusable; the next call opens it again
                raise

    # ---- the file ----------------------------------------------------------------------------

    def is_there(self) -> bool:
        """Whether there is an environment in the file, or ought to be."""
        return not self._unfinished and (self.file.size() > 0 or self.file.is_cut())

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
        if self.file.is_lost():
            self._doubted = True
            return
        self.file.finish()
        try:
            self._copy_to(self.file.new)
            self.close()  # before another file has the name
            self.file.replace()
            if self._sync:
                self.file.sync_names()
        except BaseException:
            self.close()
            self.file.finish()
            raise

    def _copy_to(self, new: DataFile) -> None:
        env = self._opened()
        new.make()
        env.copyfd(new.fd, compact=True)
        if self._sync:
            os.fsync(new.fd)

    def beside(self) -> "Environment":
        """A new one, in the file that is made to replace this one's."""
        return Environment(
            self.file.new,
            self._tell,
            map_size=self._first_size,
            limit=None,
            sync=self._sync,
            writemap=False,
        )

    def move_aside(self, target: Path, note: bytes = b"") -> None:
        """Move the file to the directory `target`; what is new takes its place, if there is one.

        The `note`, unless it is empty, is put beside it.
        """
        self.close()
        self.file.move_aside(target.name, note, sync=self._sync)
        if self._sync:
            self.file.sync_names()

    def hold(self, *, thoroughly: bool = False, aside: Path | None = None) -> bool:
        """See whether somebody else has removed, renamed or replaced the file; whether they have.

        A removed one is seen at once, the others `thoroughly`. What it holds is written to a new
        file in its place, which is told. Raises `BackendError` if that is taken; then it is in the
        directory `aside`, if one is given.
        """
        if not (self._doubted or thoroughly or self.file.is_removed()) or not self.file.is_lost():
            return False
        if not self.file.size():  # nothing is lost with it
            self.close()
            self.file.leave()
            return True
        what = f"{self.file.shown} was removed or replaced by another program while it was in use"
        failure: Exception | None = None
        for place in [self.file.beside(None), *([self.file.beside(aside)] if aside else [])]:
            try:
                self._write_to(place)
            except (lmdb.Error, OSError, BackendError) as exc:
                failure = failure or exc
                continue
            told = f"{what}; what it held is in a new file in {place.shown}"
            if failure:
                raise BackendError(told) from failure
            self._tell(told)
            return True
        raise BackendError(
            f"{what}, and there can be no new one: {failure}; what it holds can be read until the "
            "queue is closed, and is not kept"
        ) from failure

    def _write_to(self, place: DataFile) -> None:
        """Copy the records to `place`, where nothing is, in one step, and go on with that."""
        try:
            place.make_room()
            self._copy_to(place.new)
            os.fsync(place.new.fd)
            self.close()
            place.replace()
            place.sync_names()
        except BaseException:
            self.close()
            place.let_go()
            raise
        self.file, lost = place, self.file
        self._doubted = False
        lost.let_go()

    def sync(self) -> None:
        """Flush everything committed to the disk. Once it has failed it fails for ever.

        The system reports a failed flush once and forgets what was not written: later ones prove
        nothing about it.
        """
        if self._flush_failed:
            raise OSError(errno.EIO, f"an earlier flush failed: {self._flush_failed}; reopen")
        if not self.is_there():
            return
        env = self._opened()
        try:
            env.sync(True)
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

    def let_go(self) -> None:
        """Close it, and hold the file no longer. Idempotent."""
        self.close()
        self.file.let_go()

    def delete(self) -> None:
        """Close it and leave no file behind."""
        self.close()
        self.file.remove()

    # ---- opening and growing -----------------------------------------------------------------

    def _opened(self) -> lmdb.Environment:
        if self._env is not None and self._map and not self._unfinished and not self.file.is_cut():
            return self._env
        self.close()
        self.file.finish()
        if self._unfinished:
            self._remove_unfinished()
        if self.file.is_cut():
            raise CorruptedData(f"{self.file.shown} was made shorter by another program")
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
        if self.file.is_lost():
            self.file.leave()
        self.file.make()
        self._map_it(_SMALLEST)
        env = self._resize(self._first_size)
        if self._sync:
            self.file.sync_names()
        return env

    def _map_it(self, size: int) -> lmdb.Environment:
        env = self._env = lmdb.open(
            self.file.path,
            subdir=False,
            map_size=size,
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
        except (lmdb.Error, OSError) as exc:
            if size == least or errno_of(exc) not in _NO_ROOM:
                raise
            self._resize(least)

    def _resize(self, size: int) -> lmdb.Environment:
        """Reserve `size` bytes of disk and let LMDB use them.

        By opening it anew: after a ``set_mapsize`` that failed, closing unmaps what is not LMDB's.
        """
        before = self.file.size()
        self.file.reserve(size)
        self.close()
        try:
            return self._map_it(size)
        except BaseException:
            self.close()
            self.file.shorten(before)
            raise


def _pages(size: int) -> int:
    """`size` in bytes, rounded up to whole pages."""
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def errno_of(exc: BaseException | None) -> int | None:
    """The error number of the system's that an `OSError` or `lmdb.Error` has."""
    if isinstance(exc, lmdb.MemoryError):
        return errno.ENOMEM
    return exc.errno if isinstance(exc, OSError) else getattr(exc, "code", None)
