"""What a spool directory tells: what is stored there, and who owns it.

How much a queue has in memory stays its own secret, and so do depth and pressure.
"""

import dataclasses
import os
from pathlib import Path
from typing import ClassVar

from hq_cli import spool
from hq_cli.top.model import Kind, Reading
from hq_core.spool.checking import inspect
from hq_core.spool.finding import Spool

__all__ = ["Directory"]


class Directory:
    """The streams that have left something at `path`. Reads, and disturbs nobody."""

    kind: ClassVar[Kind] = "directory"

    def __init__(self, path: Path) -> None:
        self.name = os.fspath(path)
        self._path = path

    def read(self) -> list[Reading]:
        """Look at every stream; raises `CommandError` if there is no such place."""
        rows = spool.look(spool.found(self._path), _row)
        # A queue removes its files, at any moment: such a one is not there, which is no error.
        return [_reading(row) for row in rows if "error" not in row or os.path.lexists(row["path"])]


def _row(found: Spool) -> spool.Row:
    return dataclasses.asdict(inspect(found))


def _reading(row: spool.Row) -> Reading:
    known = Reading(row["path"], row["stream"], row["backend"], row["owner"])
    if "error" in row:
        return dataclasses.replace(known, state="error", error=row["error"])
    return dataclasses.replace(
        known,
        state="damaged" if row["damage"] else "fine",
        error=row["damage"] or None,
        stored=row["records"],
        disk_bytes=row["size_bytes"],
        to_disk=row["tail"],
        from_disk=row["head"],
    )
