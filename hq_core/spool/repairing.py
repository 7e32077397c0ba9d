"""Repairing what a stream has left.

Repair never touches the old data: what is whole is written to a new store by the backend itself, in
a directory of its own; the old file gets a second name; then the new one takes the first name, in
one step. Whatever the moment of a crash, all data is there, under one name or the other, and a
repair can be begun again.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from hq_core import registry
from hq_core.errors import BackendError
from hq_core.spool.checking import check, salvage, storage_errors
from hq_core.spool.directory import Directory
from hq_core.spool.finding import Spool
from hq_core.spool.lock import StreamLock
from hq_core.stats import Damage, Inspection

__all__ = ["own", "repair"]

_BATCH_BYTES: Final = 1024 * 1024
_BATCH_RECORDS: Final = 1000


@contextmanager
def own(spool: Spool) -> Iterator[None]:
    """Within it no queue opens the stream; raises `StreamBusyError` if one has, and `OSError`.

    Whoever is killed within it leaves nothing that shuts the stream's owner out.
    """
    data = os.fspath(spool.path.relative_to(spool.directory))
    with Directory(spool.directory) as directory:
        lock = StreamLock(directory, spool.name, spool.stream_id)
        lock.acquire(os.stat(data, dir_fd=directory.fd, follow_symlinks=False))
        try:
            yield
        finally:
            lock.release()


def repair(spool: Spool) -> Path | None:
    """Put a store with its whole records in the place of a damaged one; where the old one is now.

    None: nothing was damaged. What a repair that was killed had begun is removed. Raises
    `StreamBusyError` if a queue has it open, `QueueFull` without room for the new files, and what
    `check` raises.
    """
    if spool.aside:
        raise BackendError(f"{spool.path} is set aside, and no queue opens it: read it with cat")
    _check_owner(spool)
    with own(spool):
        if os.path.lexists(spool.scratch):  # of a repair that a crash cut short
            shutil.rmtree(spool.scratch)
        found = check(spool)
        if not found.places:
            return None
        spool.scratch.mkdir(mode=0o700)
        try:
            with storage_errors(spool, "repaired"):
                new = _rebuild(spool, found.inspection)
                backup = _keep(spool)
                _replace(spool, new)
        finally:
            shutil.rmtree(spool.scratch)
        return backup


def _check_owner(spool: Spool) -> None:
    info = spool.path.lstat()
    if info.st_uid != os.geteuid():
        raise BackendError(
            f"{spool.path} is another user's: run the repair as that user, so that the new file "
            "is of use to their queue"
        )


def _rebuild(spool: Spool, was: Inspection) -> Path:
    """Write its whole records to a new store, and flush it; its data file."""
    with Directory(spool.scratch) as scratch:
        stream = replace(scratch.stream("repaired"), stream_id=spool.stream_id)
        backend = registry.open_backend(spool.backend, stream, was.options)
        try:
            for batch in _batches(salvage(spool)):
                backend.append(batch)
            backend.sync()
        finally:
            backend.close(delete=False)
    data = spool.scratch / f"repaired{spool.tools.suffix}"
    if not data.exists():  # as nothing was appended
        data.parent.mkdir(mode=0o700, exist_ok=True)
        data.touch(mode=0o600)
    for path in (data, *(path for path in _companions(spool, data) if path.exists())):
        _flush(path)
    return data


def _batches(found: Iterator[bytes | Damage]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for record in found:
        if isinstance(record, Damage):
            continue
        batch.append(record)
        size += len(record)
        if size >= _BATCH_BYTES or len(batch) == _BATCH_RECORDS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _keep(spool: Spool) -> Path:
    """Give the files a second name, dated, that nothing else has; the data file's.

    If that fails they have their first name only, or the stream's queue would refuse them.
    """
    date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    number = 1
    while True:
        tag = f".backup-{date}" + (f"-{number}" if number > 1 else "")
        top, slash, rest = spool.tools.suffix.partition("/")
        place = spool.directory / f"{spool.name}{top}{tag}"
        try:
            if slash:
                place.mkdir(mode=0o700)
                place = place / rest
            os.link(spool.path, place)
            break
        except FileExistsError:
            number += 1
    try:
        _copy_companions(spool, place)
        _flush(place.parent)
        _flush(spool.directory)
    except BaseException:
        for path in (*_companions(spool, place), place):
            path.unlink(missing_ok=True)
        if slash:
            place.parent.rmdir()
        raise
    return place


def _copy_companions(spool: Spool, place: Path) -> None:
    """Copies: with a second name, what belongs to the data would be refused after a crash."""
    for old, kept in zip(_companions(spool, spool.path), _companions(spool, place), strict=True):
        with suppress(FileNotFoundError), old.open("rb") as source, kept.open("xb") as target:
            kept.chmod(0o600)
            shutil.copyfileobj(source, target)
            target.flush()
            os.fsync(target.fileno())


def _replace(spool: Spool, new: Path) -> None:
    """Let the new files take the old ones' names: the data in one step, then what belongs to it.

    In between, an old companion is beside the new data; it belongs to another file, and backends
    are to see that it does.
    """
    new.rename(spool.path)
    companions = zip(_companions(spool, new), _companions(spool, spool.path), strict=True)
    for source, target in companions:
        if source.exists():
            source.rename(target)
        else:
            target.unlink(missing_ok=True)
    _flush(spool.path.parent)


def _companions(spool: Spool, data: Path) -> list[Path]:
    """What may belong to the data file `data`, which need not be the spool's own."""
    return [data.with_name(data.name + suffix) for suffix in spool.tools.companions]


def _flush(path: Path) -> None:
    """Make a file, or the names in a directory, survive power loss."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
