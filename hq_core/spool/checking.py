"""Reading what a stream has left, without owning it, and checking all of it."""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from hq_core.errors import BackendError, HybridQueueError
from hq_core.spool.finding import Spool
from hq_core.stats import Damage, Inspection

__all__ = ["Checked", "check", "inspect", "salvage", "storage_errors"]

MOST_DAMAGE: Final = 100
"""How many damaged places are told one by one; the others are counted."""


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


def inspect(spool: Spool) -> Inspection:
    """What its files say of themselves; raises `HybridQueueError` if they cannot be read."""
    with storage_errors(spool, "read"):
        _check_kind(spool)
        return spool.tools.inspect(spool.path)


def salvage(spool: Spool) -> Iterator[bytes | Damage]:
    """Its whole records, oldest first, and the places between them where there is none."""
    with storage_errors(spool, "read"):
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
def storage_errors(spool: Spool, done: str) -> Iterator[None]:
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
