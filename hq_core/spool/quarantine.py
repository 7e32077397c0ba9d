"""What backends set aside is kept for repair, but not without end.

It has the names that `Stream.quarantine_path` gives. A suffix has no dot, so a stream whose id goes
on with one (``a.b`` beside ``a``) has other names; and no stream is called like what is set aside
(`names`).
"""

import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from hq_core.spool.directory import Directory

__all__ = ["Quarantine"]

MOST: Final = 16
"""How many are kept of a stream."""
MOST_BYTES: Final = 1024 * 1024 * 1024
"""How many bytes are kept of a stream; the newest is kept however large it is."""


class Quarantine:
    """Everything of one stream that was set aside in `directory`, while that is open."""

    def __init__(self, directory: Directory, file_name: str) -> None:
        self._directory = directory
        self._file_name = file_name

    def cap(self) -> list[Path]:
        """Delete the oldest until few enough are left, and return them; raises no `OSError`."""
        deleted = []
        with suppress(OSError):
            size = 0
            for count, names in enumerate(self._newest_first(), start=1):
                size += sum(map(self._bytes, names))
                if count > MOST or (count > 1 and size > MOST_BYTES):
                    self._delete(names)
                    deleted.append(self._directory.path / names[0])
        return deleted

    def _newest_first(self) -> list[list[str]]:
        """What was set aside, each with what belongs to it."""
        name = re.compile(
            rf"({re.escape(self._file_name)}\.[a-z0-9-]+\.quarantine-[0-9]+)"
            r"(\.(?!quarantine-)[a-z0-9-]+)?"
        )
        groups: dict[str, list[str]] = {}
        with os.scandir(self._directory.fd) as found:
            entries = sorted([entry.name for entry in found])
        for entry in entries:
            match = name.fullmatch(entry)
            if match and (match[1] == entry or match[1] in groups):
                groups.setdefault(match[1], []).append(entry)
        return sorted(groups.values(), key=self._when, reverse=True)

    def _when(self, names: Sequence[str]) -> tuple[int, int]:
        """For the order in time: clocks tick slowly, so what comes at once goes by its number."""
        return self._info(names[0]).st_ctime_ns, int(names[0].rpartition("-")[2])

    def _info(self, name: str) -> os.stat_result:
        return os.stat(name, dir_fd=self._directory.fd, follow_symlinks=False)

    def _bytes(self, name: str) -> int:
        return 512 * sum(self._blocks(name))

    def _blocks(self, name: str) -> Iterator[int]:
        info = self._info(name)
        yield info.st_blocks
        if stat.S_ISDIR(info.st_mode):
            for _, inner, files, fd in os.fwalk(name, dir_fd=self._directory.fd):
                for one in (*inner, *files):
                    yield os.stat(one, dir_fd=fd, follow_symlinks=False).st_blocks

    def _delete(self, names: Sequence[str]) -> None:
        for name in reversed(names):  # while the first is there, the others are known as its own
            if stat.S_ISDIR(self._info(name).st_mode):
                shutil.rmtree(name, dir_fd=self._directory.fd)
            else:
                os.unlink(name, dir_fd=self._directory.fd)  # relative
