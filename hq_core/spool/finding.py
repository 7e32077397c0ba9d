"""Finding what queues have left in a directory.

Works through `SpoolTools`, with every installed backend that has them.
"""

import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hq_core import registry
from hq_core.errors import BackendError
from hq_core.protocols import OverflowBackend, SpoolTools
from hq_core.spool import lock, names

__all__ = ["Spool", "find", "set_aside"]

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
        known = names.stream_id(self.name)
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
        """Process id of a running owner; see `lock.owner`."""
        return None if self.aside else lock.owner(self.lock)


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
