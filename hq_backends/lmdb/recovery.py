"""What an earlier owner left: is it whole."""

from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Final

import lmdb
from lmdb.verify import VerifyError, verify

from hq_backends.lmdb.datafile import DataFile
from hq_backends.lmdb.records import Span, span
from hq_core.errors import CorruptedData

__all__ = ["Survey", "problem", "survey"]

_META: Final = Struct("=40xIH")
"""The beginning of a meta page up to the size of a page and the flags of the free list."""
_INTEGER_KEYS: Final = 0x08
"""LMDB's ``MDB_INTEGERKEY``."""
_NO_DIRECTORY: Final = 0x4000
"""LMDB's ``MDB_NOSUBDIR``: it keeps there how it was opened when the file was new."""


@dataclass(frozen=True, slots=True)
class Survey:
    """The log in a data file, or why there is none to be had."""

    span: Span
    """The log; empty if there is damage."""
    damage: str
    """Why the file cannot be read; empty if it can."""


def survey(file: DataFile) -> Survey:
    """Look at the environment in `file`, without changing it.

    Every page is checked before LMDB gets to see the file: on a damaged one LMDB ends the process
    rather than the call. Takes about a second for a million records.
    """
    nothing = Span(0, 0, 0)
    try:
        damage = problem(Path(file.path))
        if damage:
            return Survey(nothing, damage)
        with lmdb.open(file.path, subdir=False, readonly=True, lock=False) as env:
            if any(env.open_db().flags().values()):
                return Survey(nothing, "its keys are in an order of their own")
            with env.begin(buffers=True) as txn:
                return Survey(span(txn), "")
    except (CorruptedData, lmdb.Error) as exc:
        if getattr(exc, "code", 0) > 0:  # an errno: the system failed, the file may be good
            raise
        return Survey(nothing, str(exc))


def problem(data: Path) -> str:
    """What makes the data file `data` one that LMDB must not open; empty if nothing does."""
    try:
        problems: list[str] = verify(data)  # type: ignore[no-untyped-call] # lmdb has no types for it
    except VerifyError as exc:
        return str(exc)
    if not problems and _free_list_flags(data) != {_INTEGER_KEYS}:
        return "the flags of its free list are wrong"
    return "; ".join(problems[:3])


def _free_list_flags(data: Path) -> set[int]:
    """The flags of the list of free pages, as the two meta pages have them.

    `verify` does not look at them, and LMDB aborts on such as it does not expect.
    """
    with data.open("rb") as file:
        page_size, flags = _META.unpack_from(file.read(_META.size))
        file.seek(page_size)
        others = _META.unpack_from(file.read(_META.size))[1]
        return {flags & ~_NO_DIRECTORY, others & ~_NO_DIRECTORY}
