"""The data file of an environment and its directory, held by descriptor until they are let go of.

Whatever becomes of their names, what is read and written is the file that was opened. A name is
given to another file, or removed, only after it was seen to be this file's: by device and inode.

It is replaced by a file that is made beside it, ``new/data.mdb``. When it is moved aside first,
there is a moment without it, and only then is the new one all that there is: `finish` sees that.
"""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from hq_backends.lmdb import kept
from hq_core.errors import BackendError
from hq_core.protocols import Stream

__all__ = ["OUT_OF_SPACE", "DataFile"]

OUT_OF_SPACE: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CANNOT_RESERVE: Final = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_DATA: Final = "data.mdb"
_NEW: Final = "new"
_OPEN: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DESCRIPTORS: Final = ("/proc/self/fd", "/dev/fd")
"""Where systems give open files a name."""


class DataFile:
    """``data.mdb`` in the directory `name` of the directory `parent`; neither need be there.

    Methods raise `OSError`, and `BackendError` on what is not the backend's.
    """

    def __init__(self, parent: int, name: str, shown: Path) -> None:
        self.shown = shown
        """What messages call the directory."""
        self._parent = parent
        self._name = name
        self._directory = -1
        self._fd = -1
        self._least = 0  # bytes; another program has cut it if it has fewer
        self._leaving = False  # it is being moved aside
        self._new: DataFile | None = None
        self._names_changed = False  # and are not flushed

    @classmethod
    def of(cls, stream: Stream) -> Self:
        """The one in ``<stream>.lmdb``."""
        name = f"{stream.file_name}.lmdb"
        return cls(stream.dir_fd, name, stream.directory / name)

    @property
    def new(self) -> "DataFile":
        """The one that is made to replace it; a crash may leave it behind."""
        if self._new is None or self._new._parent != self._directory:
            self._new = DataFile(self._directory, _NEW, self.shown)
        return self._new

    # ---- what is held ------------------------------------------------------------------------

    @property
    def fd(self) -> int:
        """Its descriptor; -1 if there is no file."""
        return self._fd

    @property
    def path(self) -> str:
        """What LMDB, which takes only names, is to open it by."""
        for names in _DESCRIPTORS:
            if os.path.exists(f"{names}/{self._fd}"):  # noqa: PTH110 # a name, not a path of ours
                return f"{names}/{self._fd}"
        path = self.shown / _DATA
        if not self._fd_is(path):
            raise BackendError(
                f"{path} is another file than was opened, and without {_DESCRIPTORS[0]} "
                "LMDB finds that by its name only: mount it"
            )
        return str(path)

    def find(self) -> None:
        """Hold what is there.

        Raises `BackendError` on a link, or a thing of another kind or of somebody else's, in the
        place of it or of its directory.
        """
        self._find_directory()
        if self._directory >= 0 and self._fd < 0:
            self._fd = _hold(self._directory, _DATA, self.shown / _DATA, stat.S_IFREG)
            self._least = self.size()

    def size(self) -> int:
        """In bytes; 0 if there is no file."""
        return os.fstat(self._fd).st_size if self._fd >= 0 else 0

    def is_cut(self) -> bool:
        """Whether another program has made it shorter; touching its map would be SIGBUS."""
        size = self.size()
        if size < self._least:
            return True
        self._least = size
        return False

    def is_removed(self) -> bool:
        """Whether it has no name any more."""
        return self._fd >= 0 and not os.fstat(self._fd).st_nlink

    def is_lost(self) -> bool:
        """Whether it is not where it was any more: removed, renamed or replaced."""
        return self._fd >= 0 and not (
            _identity(self._parent, self._name) == _identity(self._directory)
            and _identity(self._directory, _DATA) == _identity(self._fd)
        )

    def beside(self, directory: Path | None) -> "DataFile":
        """The one in `directory`, in the same place as its own; None: what has its name by now."""
        shown = self.shown if directory is None else directory
        return DataFile(self._parent, self._name if directory is None else shown.name, shown)

    def leave(self) -> None:
        """Hold it no longer, nor its directory if that is not where it was."""
        self._drop()
        if _identity(self._parent, self._name) != _identity(self._directory):
            self.let_go()

    def let_go(self) -> None:
        """Hold nothing any more. Idempotent."""
        new, self._new = self._new, None
        if new is not None:
            new.let_go()
        self._drop()
        fd, self._directory = self._directory, -1
        if fd >= 0:
            os.close(fd)

    # ---- what changes it ---------------------------------------------------------------------

    def make(self) -> None:
        """Make it, empty, and its directory, unless it is held."""
        if self._fd >= 0:
            return
        self._make_directory()
        self.find()
        if self._fd < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _OPEN
            self._fd = os.open(_DATA, flags, 0o600, dir_fd=self._directory)
        elif self.size():
            self.let_go()
            raise self._taken()

    def make_room(self) -> None:
        """Make its directory, in which a new file is to replace nothing."""
        self._make_directory()
        if _identity(self._directory, _DATA):
            raise self._taken()
        self.new.find()
        self.new.remove()

    def reserve(self, size: int) -> None:
        """Make it `size` bytes long, on disk too where the file system can do that."""
        before = self.size()
        try:
            os.posix_fallocate(self._fd, 0, size)
            self._least = size
        except OSError as exc:
            if exc.errno in _CANNOT_RESERVE:
                return
            with suppress(OSError):
                os.ftruncate(self._fd, before)
            raise

    def shorten(self, size: int) -> None:
        """Give back what was reserved beyond `size` bytes."""
        self._least = min(self._least, size)
        if self.size() > size:
            os.ftruncate(self._fd, size)

    def empty(self) -> None:
        """Give its space back; LMDB takes an empty file for a new one.

        If it was given another name, that is somebody's copy by now.
        """
        if self._is_elsewhere():
            self.leave()
        elif self._fd >= 0:
            self.shorten(0)

    def replace(self) -> None:
        """Let the new file take its place."""
        if _identity(self._directory, _DATA) not in (None, _identity(self._fd)):
            raise self._taken()
        self._names_changed = True
        os.rename(_DATA, _DATA, src_dir_fd=self.new._directory, dst_dir_fd=self._directory)
        self.finish()

    def move_aside(self, target: str, note: bytes, *, sync: bool) -> None:
        """Move it to a directory `target`, made beside its own; what is new takes its place.

        With a `note` beside it, unless that is empty, or there is no room for it.
        """
        if self.is_lost():
            raise BackendError(f"{self.shown} is not what was opened any more")
        os.mkdir(target, 0o700, dir_fd=self._parent)
        aside = _hold(self._parent, target, self.shown.with_name(target), stat.S_IFDIR)
        try:
            self._names_changed = self._leaving = True
            os.rename(_DATA, _DATA, src_dir_fd=self._directory, dst_dir_fd=aside)
            if note:
                with suppress(OSError):
                    _write(aside, _DATA + kept.SUFFIX, note)
            if sync:
                os.fsync(aside)
        finally:
            os.close(aside)
        self.finish()

    def move_new_aside(self, target: str) -> None:
        """Move what is new, with its directory, to `target` beside its own."""
        self._names_changed = True
        os.rename(_NEW, target, src_dir_fd=self._directory, dst_dir_fd=self._parent)
        self.new.let_go()

    def finish(self) -> None:
        """Do what is left of a replacement that was cut short; the rest of another is removed."""
        if self._directory < 0:
            return
        new = self.new
        new.find()
        named = _identity(self._directory, _DATA)
        if self._leaving and named != _identity(self._fd):
            self._drop()
        self._leaving = False
        if named is None and self._fd < 0 and new.size():
            self._names_changed = True
            os.rename(_DATA, _DATA, src_dir_fd=new._directory, dst_dir_fd=self._directory)
            named = _identity(new._fd)
        if new._fd >= 0 and named == _identity(new._fd):
            self._least, self._fd, new._fd = new.size(), new._fd, self._fd
        new.remove()

    def remove(self) -> None:
        """Leave nothing of it behind, in a forked child neither, and nothing else touched."""
        if self._directory < 0:
            return
        if self._fd < 0:  # its making may have been cut short, which leaves it empty
            self.find()
            if self.size():
                self._drop()
        is_elsewhere = self._is_elsewhere()
        if self._fd >= 0 and not is_elsewhere:
            if os.fstat(self._fd).st_nlink <= 1:  # else it is somebody's copy too
                self.shorten(0)
            if not self.is_lost():
                os.unlink(_DATA, dir_fd=self._directory)
        self._drop()
        if self._new is not None:
            self._new.remove()
        if _identity(self._parent, self._name) == _identity(self._directory):
            self._remove_directory()
        self.let_go()
        if is_elsewhere:
            raise BackendError(
                f"{self.shown} was renamed or replaced by another program while it was in use: "
                "what it held is not deleted"
            )

    def sync_names(self) -> None:
        """Flush the names that have changed to the disk."""
        if self._names_changed and self._directory >= 0:
            os.fsync(self._directory)
            os.fsync(self._parent)
            self._names_changed = False

    # ---- inside ------------------------------------------------------------------------------

    def _drop(self) -> None:
        fd, self._fd, self._least = self._fd, -1, 0
        if fd >= 0:
            os.close(fd)

    def _find_directory(self) -> None:
        if self._directory < 0 <= self._parent:
            self._directory = _hold(self._parent, self._name, self.shown, stat.S_IFDIR)

    def _make_directory(self) -> None:
        self._names_changed = True
        if self._directory < 0:
            with suppress(FileExistsError):
                os.mkdir(self._name, 0o700, dir_fd=self._parent)
            self._find_directory()

    def _is_elsewhere(self) -> bool:
        """Whether it has another name by now, by which somebody may have kept it."""
        return self.is_lost() and not self.is_removed()

    def _remove_directory(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink("lock.mdb", dir_fd=self._directory)  # LMDB's own tools make it
        try:
            os.rmdir(self._name, dir_fd=self._parent)
        except OSError as exc:
            if exc.errno != errno.ENOTEMPTY:
                raise
            raise self._taken() from exc

    def _taken(self) -> BackendError:
        return BackendError(f"{self.shown} has a file by now that the queue did not make")

    def _fd_is(self, path: Path) -> bool:
        with suppress(FileNotFoundError):
            info = path.lstat()
            return (info.st_dev, info.st_ino) == _identity(self._fd)
        return False


def _identity(fd: int, name: str | None = None) -> tuple[int, int] | None:
    """Device and inode of what is open as `fd`, or called `name` in that directory.

    None if there is nothing.
    """
    if fd < 0:
        return None
    try:
        info = os.fstat(fd) if name is None else os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return info.st_dev, info.st_ino


def _write(directory: int, name: str, data: bytes) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN, 0o600, dir_fd=directory)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def _hold(parent: int, name: str, shown: Path, kind: int) -> int:
    """Open `name` in the directory `parent`, of that `kind` and ours; -1 if there is none."""
    try:
        info = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return -1
    is_file = kind == stat.S_IFREG
    if stat.S_IFMT(info.st_mode) != kind or info.st_uid != os.geteuid():
        what = "regular file" if is_file else "directory"
        raise BackendError(
            f"{shown} is not a {what} of this user: move it away, or use another directory"
        )
    if is_file and info.st_nlink > 1:
        raise BackendError(
            f"{shown} has another name elsewhere, a hard link, and what is done to it "
            "would be done to that: remove either, or use another directory"
        )
    fd = os.open(name, _OPEN | (os.O_RDWR if is_file else os.O_DIRECTORY), dir_fd=parent)
    try:
        if _identity(fd) != (info.st_dev, info.st_ino):
            raise BackendError(f"{shown} has become another one while it was opened")
    except BaseException:
        os.close(fd)
        raise
    return fd
