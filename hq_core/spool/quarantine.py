"""What backends set aside is kept for repair, but not without end.

Backends name it ``<file name>.<suffix>.quarantine-<number>``, a file or a directory; what belongs
to it has the same name and one more suffix.
"""

import logging
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["Quarantine"]

_log = logging.getLogger("hq_core")

MOST: Final = 16
"""How many are kept of a stream."""
MOST_BYTES: Final = 1024 * 1024 * 1024
"""How many bytes are kept of a stream; the newest is kept however large it is."""


class Quarantine:
    """Everything of one stream that was set aside."""

    def __init__(self, directory: Path, file_name: str) -> None:
        self._directory = directory
        self._file_name = file_name

    def cap(self) -> None:
        """Delete the oldest until few enough are left; logs each, and never raises `OSError`."""
        with suppress(OSError):
            size = 0
            for count, paths in enumerate(self._newest_first(), start=1):
                size += sum(map(_bytes, paths))
                if count > MOST or (count > 1 and size > MOST_BYTES):
                    _log.warning("%s is deleted, newer ones are kept", paths[0])
                    _delete(paths)

    def _newest_first(self) -> list[list[Path]]:
        name = rf"({re.escape(self._file_name)}\.[a-z0-9-]+\.quarantine-[0-9]+)(\.[a-z0-9-]+)?"
        groups: dict[str, list[Path]] = {}
        for path in sorted(self._directory.iterdir()):
            match = re.fullmatch(name, path.name)
            if match:
                groups.setdefault(match[1], []).append(path)
        return sorted(groups.values(), key=lambda paths: -paths[0].lstat().st_ctime_ns)


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return sum(file.lstat().st_blocks * 512 for file in files)


def _delete(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
