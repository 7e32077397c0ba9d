"""What queues have left on disk, seen from outside: finding it, checking it, repairing it.

Works through `SpoolTools`, with every installed backend that has them. Repair never touches the
old data: what is whole is written to a new store by the backend itself, in a directory of its own;
the old file gets a second name; then the new one takes the first name, in one step. Whatever the
moment of a crash, all data is there, under one name or the other, and a repair can be begun again.
"""

import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hq_core import naming, ownership, registry
from hq_core.errors import BackendError, HybridQueueError
from hq_core.protocols import OverflowBackend, SpoolTools, Stream
from hq_core.stats import Damage, Inspection

__all__ = ["Checked", "Spool", "check", "find", "inspect", "own", "repair", "salvage", "set_aside"]

MOST_DAMAGE: Final = 100
"""How many damaged places are told one by one; the others are counted."""
_BATCH_BYTES: Final = 1024 * 1024
_BATCH_RECORDS: Final = 1000
_ASIDE: Final = r"\.(?:quarantine-\d+|backup-\d{8}T\d{6}Z(?:-\d+)?)"


@dataclass(frozen=True, slots=True)
class Spool:
    """The files of one stream."""

    path: Path
    """The data file."""
    name: str
    """The stream's file name, by which its files are called."""
    backend: type[OverflowBackend]
    """The class whose files they are."""
    tools: SpoolTools
    """How to read them."""
    aside: str = ""
    """``.quarantine-N`` or ``.backup-DATE`` if this is not what a queue opens, but set aside."""

    @property
    def directory(self) -> Path:
        """The directory that a queue is given."""
        return self.path.parents[self.tools.suffix.count("/")]

    @property
    def stream_id(self) -> str:
        """The id of the stream; its file name if that cannot be turned back."""
        known = naming.stream_id(self.name)
        return self.name if known is None else known

    @property
    def lock(self) -> Path:
        """What its owner locks."""
        return self.directory / f"{self.name}.lock"

    @property
    def scratch(self) -> Path:
        """Where a repair makes the new files; it stays if the repair is killed."""
        return self.directory / f"{self.name}.repair"

    def owner(self) -> int | None:
        """Process id of a running owner; see `ownership.owner`."""
        return None if self.aside else ownership.owner(self.lock)


@dataclass(frozen=True, slots=True)
class Checked:
    """What walking all of a spool has found."""

    records: int
    """Whole records that are not done."""
    payload_bytes: int
    """Bytes in them, without framing."""
    damage: tuple[Damage, ...]
    """The first `MOST_DAMAGE` places where no record can be had, in order."""
    places: int
    """How many there are."""
    inspection: Inspection
    """What the files say of themselves."""


# ---- finding ---------------------------------------------------------------------------------


def find(path: Path) -> list[Spool]:
    """The streams in the directory `path`, by name, or the one whose data file or directory it is.

    Raises `BackendError` if `path` is neither, and `OSError`. Whether each can be read shows later.
    """
    known = _known()
    info = path.lstat()
    if stat.S_ISLNK(info.st_mode) and not path.is_dir():
        raise BackendError(f"{path} is a symbolic link: name the file itself")
    one = _spool(path, known) or _spool(path.parent, known, path.name)
    if one and (one.path != path or not path.is_dir()):
        return [one]
    if path.is_dir():
        found = [_spool(entry, known) for entry in sorted(path.iterdir())]
        return [spool for spool in found if spool and not spool.aside]
    suffixes = ", ".join(tools.suffix for _, tools in known)
    raise BackendError(f"{path} is no file of an installed backend; their names end in {suffixes}")


def set_aside(directory: Path) -> list[Path]:
    """What backends have moved aside in `directory`, and what repair has kept."""
    known = _known()
    found = [_spool(entry, known) for entry in sorted(directory.iterdir())]
    return [spool.path for spool in found if spool and spool.aside]


def _known() -> list[tuple[type[OverflowBackend], SpoolTools]]:
    backends = [found.backend for found in registry.installed() if found.backend]
    with_tools = [(backend, getattr(backend, "tools", None)) for backend in backends]
    return [(b, tools) for b, tools in with_tools if isinstance(tools, SpoolTools)]


def _spool(
    entry: Path, known: list[tuple[type[OverflowBackend], SpoolTools]], inner: str | None = None
) -> Spool | None:
    """What `entry` of a spool directory is, by its name; `inner`: a file in it was meant."""
    for backend, tools in known:
        top, slash, rest = tools.suffix.partition("/")
        match = re.fullmatch(rf"(.+){re.escape(top)}({_ASIDE})?", entry.name, re.DOTALL)
        if match and (inner is None or inner == rest):
            path = entry / rest if slash else entry
            return Spool(path, match[1], backend, tools, match[2] or "")
    return None


# ---- reading ---------------------------------------------------------------------------------


def inspect(spool: Spool) -> Inspection:
    """What its files say of themselves; raises `HybridQueueError` if they cannot be read."""
    with _told(spool, "read"):
        _check_kind(spool)
        return spool.tools.inspect(spool.path)


def salvage(spool: Spool) -> Iterator[bytes | Damage]:
    """Its whole records, oldest first, and the places between them where there is none."""
    with _told(spool, "read"):
        _check_kind(spool)
        yield from spool.tools.salvage(spool.path)


def check(spool: Spool) -> Checked:
    """Walk all of it."""
    inspection = inspect(spool)
    records = payload_bytes = places = 0
    damage = []
    for found in salvage(spool):
        if isinstance(found, Damage):
            places += 1
            if places <= MOST_DAMAGE:
                damage.append(found)
        else:
            records += 1
            payload_bytes += len(found)
    return Checked(records, payload_bytes, tuple(damage), places, inspection)


@contextmanager
def _told(spool: Spool, done: str) -> Iterator[None]:
    """Within it, what the storage raises becomes `BackendError`."""
    try:
        yield
    except HybridQueueError:
        raise
    except Exception as exc:
        told = exc.strerror if isinstance(exc, OSError) else None
        reason = told or f"{type(exc).__name__}: {exc}"
        raise BackendError(f"{spool.path} cannot be {done}: {reason}") from exc


def _check_kind(spool: Spool) -> None:
    """Refuse what is a link, a device or the like, before anything is opened."""
    inside = spool.path.relative_to(spool.directory).parts
    for count, _ in enumerate(inside, start=1):
        path = spool.directory.joinpath(*inside[:count])
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            raise BackendError(f"{path} is a symbolic link: name the file itself")
        if not (stat.S_ISREG(mode) if count == len(inside) else stat.S_ISDIR(mode)):
            raise BackendError(f"{path} is not a regular file")


# ---- repairing -------------------------------------------------------------------------------


def own(spool: Spool) -> ownership.StreamLock:
    """Take the stream, so that no queue opens it; raises `StreamBusyError` if one has."""
    return ownership.StreamLock(spool.lock, spool.stream_id)


def repair(spool: Spool) -> Path | None:
    """Put a store with its whole records in the place of a damaged one; where the old one is now.

    None: nothing was damaged. What a repair that was killed had begun is removed. Raises
    `StreamBusyError` if a queue has it open, `QueueFull` without room for the new files, and what
    `check` raises.
    """
    if spool.aside:
        raise BackendError(f"{spool.path} is set aside, and no queue opens it: read it with cat")
    _check_owner(spool)
    lock = own(spool)
    try:
        if os.path.lexists(spool.scratch):  # of a repair that a crash cut short
            shutil.rmtree(spool.scratch)
        found = check(spool)
        if not found.places:
            return None
        spool.scratch.mkdir(mode=0o700)
        try:
            with _told(spool, "repaired"):
                new = _rebuild(spool, found.inspection)
                backup = _keep(spool)
                _replace(spool, new)
        finally:
            shutil.rmtree(spool.scratch)
        return backup
    finally:
        lock.release()


def _check_owner(spool: Spool) -> None:
    info = spool.path.lstat()
    if info.st_uid != os.geteuid():
        raise BackendError(
            f"{spool.path} is another user's: run the repair as that user, so that the new file "
            "is of use to their queue"
        )


def _rebuild(spool: Spool, was: Inspection) -> Path:
    """Write its whole records to a new store, and flush it; its data file."""
    stream = Stream(spool.stream_id, "repaired", spool.scratch)
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
    """Give the files a second name, dated, that nothing else has; the data file's."""
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
    # Copies: with a second name, what belongs to the data would be refused if a crash left it so.
    for old, kept in zip(_companions(spool, spool.path), _companions(spool, place), strict=True):
        with suppress(FileNotFoundError), old.open("rb") as source, kept.open("xb") as target:
            kept.chmod(0o600)
            shutil.copyfileobj(source, target)
            target.flush()
            os.fsync(target.fileno())
    _flush(place.parent)
    _flush(spool.directory)
    return place


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
