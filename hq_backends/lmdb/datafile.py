"""The data file of an environment by its name: reserved, emptied, replaced, removed.

It is replaced by a file that is made beside it, ``new/data.mdb``. When it is moved aside first,
there is a moment without it, and only then is the new one all that there is: `finish` sees that.
"""

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from hq_core.protocols import Stream

__all__ = ["OUT_OF_SPACE", "DataFile"]

OUT_OF_SPACE: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CANNOT_RESERVE: Final = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_WRITE: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


class DataFile:
    """``data.mdb`` in `directory`; neither need be there. Methods raise `OSError`."""

    def __init__(self, directory: Path, shown: Path) -> None:
        self.directory = directory
        self.path = directory / "data.mdb"
        self.shown = shown
        """What messages call the directory."""
        self._names_to_sync: set[Path] = set()  # the directories that they are in

    @classmethod
    def of(cls, stream: Stream) -> Self:
        """The one in ``<stream>.lmdb``."""
        name = f"{stream.file_name}.lmdb"
        # LMDB takes only names; this one leads to the queue's directory wherever that is by now.
        return cls(Path(f"/proc/self/fd/{stream.dir_fd}", name), stream.directory / name)

    @property
    def new(self) -> "DataFile":
        """The one that is made to replace it; a crash may leave it behind."""
        return DataFile(self.directory / "new", self.shown)

    def size(self) -> int:
        """In bytes; 0 if there is no file."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def make_directory(self) -> None:
        """Make its directory, unless it is there."""
        self._names_to_sync |= {self.directory, self.directory.parent}
        self.directory.mkdir(mode=0o700, exist_ok=True)

    def reserve(self, size: int) -> None:
        """Make it `size` bytes long, on disk too where the file system can do that."""
        fd = os.open(self.path, _WRITE)
        try:
            before = os.fstat(fd).st_size
            try:
                os.posix_fallocate(fd, 0, size)
            except OSError as exc:
                if exc.errno in _CANNOT_RESERVE:
                    return
                with suppress(OSError):
                    os.ftruncate(fd, before)
                raise
        finally:
            os.close(fd)

    def empty(self) -> None:
        """Give its space back; LMDB takes an empty file for a new one."""
        with suppress(FileNotFoundError):
            os.truncate(self.path, 0)

    def replace(self) -> None:
        """Let the new file take its place."""
        self._names_to_sync.add(self.directory)
        self.new.path.rename(self.path)
        self.new.directory.rmdir()

    def move_aside(self, target: Path) -> None:
        """Move it to a directory of its own, `target`, and what is new takes its place."""
        aside = self.directory.with_name(target.name)
        self._names_to_sync |= {aside, self.directory, self.directory.parent}
        aside.mkdir(mode=0o700)
        self.path.rename(aside / self.path.name)
        self.finish()

    def finish(self) -> None:
        """Do what is left of a replacement that was cut short; the rest of another is removed."""
        if os.path.lexists(self.path):
            self.new.remove()
        elif self.new.size():
            self.replace()

    def remove(self) -> None:
        """Leave nothing of it behind, in a forked child neither."""
        if not self.directory.is_dir():
            return
        self.empty()
        self.new.remove()
        for name in ("data.mdb", "lock.mdb"):  # LMDB's own tools make the lock file
            (self.directory / name).unlink(missing_ok=True)
        self.directory.rmdir()

    def sync_names(self) -> None:
        """Flush the names that have changed to the disk."""
        for directory in self._names_to_sync:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        self._names_to_sync.clear()
