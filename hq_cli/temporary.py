"""Temporary spools: the directories of pipes that were given none.

A pipe makes one for itself, and removes it. A killed pipe leaves it, perhaps with something in it.

- A pipe locks its directory (`flock`) as long as it lives. Whoever removes one locks it first. A
  pipe whose new directory was removed before it was locked notices by the name, and makes another.
- Directories are opened by name once, without following a link, and then held: nothing is looked
  at, or removed, that is in their place later. Those of other users are left alone, also by root.
- Files are removed by a queue that opens their stream, and refuses if it has an owner, or records.
  The directory goes last, and only if it is empty.
"""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from hq_core import HybridQueue, HybridQueueError, InlinePump, Unlimited
from hq_core.spool import finding, lock, names
from hq_core.spool.checking import inspect

__all__ = ["Temporary", "clear", "new", "place", "temporaries"]

_PREFIX: Final = "hq-pipe-"
_NAME: Final = re.compile(rf"{_PREFIX}[a-z0-9_]{{8}}")
"""What `tempfile.mkdtemp` makes of the prefix."""
_LARGE: Final = "/var/tmp"
_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_IS_NONE: Final = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
"""What opening says of a directory that has gone, or of something else that has its name."""


class Temporary:
    """A temporary spool that is there, held by descriptor while the context lasts."""

    def __init__(self, place_fd: int, path: Path) -> None:
        self.path = path
        self._place_fd = place_fd
        self._fd = os.open(path.name, _FLAGS, dir_fd=place_fd)

    def __enter__(self) -> "Temporary":
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._fd)

    @property
    def held(self) -> Path:
        """A name that leads to it whatever is in its place by now."""
        return Path(f"/proc/self/fd/{self._fd}")

    def is_ours(self) -> bool:
        """Whether it is this user's."""
        return os.fstat(self._fd).st_uid == os.geteuid()

    def is_named(self) -> bool:
        """Whether it still has its name."""
        try:
            named = os.stat(self.path.name, dir_fd=self._place_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(self._fd))

    def lock(self, *, wait: bool) -> bool:
        """Own it until the context ends; False: somebody else does, or it cannot be locked."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            return False
        return True

    def owner(self) -> int | None:
        """Process id of the pipe whose it is, or of another queue that is open in it."""
        owners = map(lock.owner, [self.held / ".", *sorted(self.held.glob("*.lock"))])
        return next((owner for owner in owners if owner), None)

    def usage(self) -> tuple[int, float]:
        """Bytes that it takes on disk, and when anything in it was written last."""
        size, written = 0, os.fstat(self._fd).st_mtime
        for _, directories, files, fd in os.fwalk(".", dir_fd=self._fd):
            for name in (*directories, *files):
                with contextlib.suppress(FileNotFoundError):
                    info = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    size += 512 * info.st_blocks
                    written = max(written, info.st_mtime)
        return size, written

    def remove(self) -> bool:
        """Remove it if there is nothing in it; the caller has locked it. Raises `OSError`."""
        if any(self.held.iterdir()) and not self._emptied():
            return False
        if not self.is_named():
            return True
        try:
            os.rmdir(self.path.name, dir_fd=self._place_fd)
        except OSError as exc:
            if exc.errno != errno.ENOTEMPTY:
                raise
            return False
        return True

    def remove_all(self) -> None:
        """Remove it with all that is in it, if it still has its name. Raises `OSError`."""
        if self.is_named():
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self.path.name, dir_fd=self._place_fd)

    def is_bare(self) -> bool:
        """Whether nothing is in it but what a queue has while it stores nothing."""
        try:
            spools = finding.find(self.held)
            found = [inspect(spool) for spool in spools]
            if finding.set_aside(self.held):
                return False
        except (HybridQueueError, OSError):  # it cannot be seen
            return False
        if any(one.records or one.damage or one.torn_bytes for one in found):
            return False
        known = tuple(f"{name}." for name in self._streams(spools))
        return all(path.name.startswith(known) for path in self.held.iterdir())

    def _streams(self, spools: Sequence[finding.Spool]) -> dict[str, str]:
        """The file name of each stream, and its backend; if it has no data any will do."""
        locks = [path.name.removesuffix(".lock") for path in self.held.glob("*.lock")]
        return dict.fromkeys(locks, "file") | {spool.name: spool.backend.name for spool in spools}

    def _emptied(self) -> bool:
        """Let a queue remove the files of each stream, if none of them holds anything."""
        if not self.is_bare():
            return False
        try:
            for name, backend in self._streams(finding.find(self.held)).items():
                self._open_and_close(name, backend)
        except (HybridQueueError, OSError):  # in use, or holds something after all
            return False
        return True

    def _open_and_close(self, name: str, backend: str) -> None:
        """Closing removes the files. A cut name cannot be turned into a stream, and stays."""
        stream = names.stream_id(name)
        if stream is not None:
            HybridQueue(
                stream,
                1,
                self.held,
                backend=backend,
                limiter=Unlimited(),
                pump=InlinePump(),
                leftover="refuse",
                on_corruption="raise",
            ).close()


def place() -> Path:
    """Where a pipe's is made: TMPDIR if set, else ``/var/tmp``, as ``/tmp`` is often in memory."""
    own_choice = os.environ.get("TMPDIR") or not os.access(_LARGE, os.W_OK)
    return Path(tempfile.gettempdir() if own_choice else _LARGE)


@contextlib.contextmanager
def new() -> Iterator[Path]:
    """A temporary spool of one's own, which goes with the context."""
    where = place()
    with _open(where) as place_fd, _made(where, place_fd) as made:
        try:
            yield made.path
        finally:
            made.remove_all()


def temporaries(where: Path) -> Iterator[Temporary]:
    """Those of this user in `where`, by name, each open until the next; raises `OSError`.

    One that cannot be opened is left out.
    """
    with _open(where) as place_fd:
        for name in sorted(filter(_NAME.fullmatch, _names(place_fd))):
            try:
                found = Temporary(place_fd, where / name)
            except OSError as exc:
                if exc.errno in _IS_NONE or exc.errno == errno.EACCES:
                    continue
                raise
            with found:
                if found.is_ours():
                    yield found


def clear() -> Sequence[tuple[Path, int]]:
    """Remove those of killed pipes in which nothing is; the others, and how many bytes they take.

    What cannot be seen, or removed, is none of the caller's trouble.
    """
    left = []
    with contextlib.suppress(OSError):
        for found in temporaries(place()):
            with contextlib.suppress(OSError):
                if not found.owner() and found.lock(wait=False) and not found.remove():
                    left.append((found.path, found.usage()[0]))
    return left


def _names(fd: int) -> list[str]:
    with os.scandir(fd) as entries:
        return [entry.name for entry in entries]


@contextlib.contextmanager
def _open(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _made(where: Path, place_fd: int) -> Temporary:
    """A new one, locked where directories can be locked: nobody removes what cannot be."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=f"/proc/self/fd/{place_fd}"))
        try:
            made = Temporary(place_fd, where / path.name)
        except FileNotFoundError:
            continue  # somebody who clears was faster
        made.lock(wait=True)
        if made.is_named():
            return made
        made.__exit__()
