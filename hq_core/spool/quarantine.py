"""What backends set aside is kept for repair, but not without end.

It has the names that `Stream.quarantine_path` gives. A suffix has no dot, so a stream whose id goes
on with one (``a.b`` beside ``a``) has other names.
"""

import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["Quarantine"]

MOST: Final = 16
"""How many are kept of a stream."""
MOST_BYTES: Final = 1024 * 1024 * 1024
"""How many bytes are kept of a stream; the newest is kept however large it is."""


class Quarantine:
    """Everything of one stream that was set aside."""

    def __init__(self, directory: Path, file_name: str) -> None:
        self._directory = directory
        self._file_name = file_name

    def cap(self) -> list[Path]:
        """Delete the oldest until few enough are left, and return them; raises no `OSError`."""
        deleted = []
        with suppress(OSError):
            size = 0
            for count, paths in enumerate(self._newest_first(), start=1):
                size += sum(map(_bytes, paths))
                if count > MOST or (count > 1 and size > MOST_BYTES):
                    _delete(paths)
                    deleted.append(paths[0])
        return deleted

    def _newest_first(self) -> list[list[Path]]:
        """What was set aside, each with what belongs to it.

        Some ids make a stream's own files look like that: those of ``s.overflow.quarantine-1``
        would belong to what ``s`` has set aside.
        """
        name = re.compile(
            rf"({re.escape(self._file_name)}\.([a-z0-9-]+)\.quarantine-[0-9]+)"
            r"(\.(?!lock$|quarantine-|\2$)[a-z0-9-]+)?"
        )
        groups: dict[str, list[Path]] = {}
        for path in sorted(self._directory.iterdir()):
            match = name.fullmatch(path.name)
            if match and (match[1] == path.name or match[1] in groups):
                groups.setdefault(match[1], []).append(path)
        return sorted(groups.values(), key=lambda paths: -paths[0].lstat().st_ctime_ns)


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return sum(file.lstat().st_blocks * 512 for file in files)


def _delete(paths: Sequence[Path]) -> None:
    for path in reversed(paths):  # while the first is there, the others are known to belong to it
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
