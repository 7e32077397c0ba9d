"""What other backends have left of a stream: records that would be stranded if nobody looked.

A data file is called by its backend's name, so that one look at each name tells whether there is
any, however many streams the directory has. Only what is there is loaded: who uses `file` never
imports lmdb.
"""

import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from hq_core import registry
from hq_core.errors import BackendError, HybridQueueError, PluginError, StreamBusyError
from hq_core.protocols import OverflowBackend, SpoolTools, Stream
from hq_core.spool.checking import inspect
from hq_core.spool.directory import Directory
from hq_core.spool.finding import Spool

__all__ = ["check", "clear"]

_SPECIFIED: Final = {"file": ".overflow"}
"""Suffixes that are not the backend's name: the one that the specification gives."""


@dataclass(frozen=True, slots=True)
class _Left:
    """What one backend has left."""

    entry: str
    """Its name in the directory: of a file, or of a directory."""
    backend: str
    holds: str
    """What is in it, in words."""
    companions: tuple[str, ...]
    """Files that belong to it, by their names."""


def check(
    directory: Directory, stream: Stream, own: OverflowBackend | type[OverflowBackend] | None
) -> None:
    """Raise `StreamBusyError` if another backend than `own` has left what would be stranded.

    Raises `BackendError` if that cannot be found out. Does nothing if `Stream.leftover` says how it
    is to be cleared, or nobody knows which is `own`.
    """
    if own is None or stream.leftover in {"discard", "quarantine"}:
        return
    try:
        left = next(_find(directory, stream, own), None)
    except OSError as exc:
        raise BackendError(f"what another backend may have left cannot be seen: {exc}") from exc
    if left is not None:
        raise StreamBusyError(
            f"{stream.directory / left.entry} holds {left.holds}, of the backend "
            f"{left.backend!r}: open the stream with backend={left.backend!r}, or with "
            "leftover='discard' or 'quarantine'"
        )


def clear(
    directory: Directory, stream: Stream, own: OverflowBackend | type[OverflowBackend]
) -> list[str]:
    """Delete what other backends have left, or set it aside, if `Stream.leftover` says so.

    Returns what was done, in words. Raises `BackendError` if it cannot be done, or is not this
    user's to clear.
    """
    if stream.leftover not in {"discard", "quarantine"}:
        return []
    try:
        return [_clear(directory, stream, left) for left in _find(directory, stream, own)]
    except OSError as exc:
        raise BackendError(f"what another backend left cannot be cleared: {exc}") from exc


def _clear(directory: Directory, stream: Stream, left: _Left) -> str:
    fd, path = directory.fd, stream.directory / left.entry
    info = os.stat(left.entry, dir_fd=fd, follow_symlinks=False)
    if info.st_uid != os.geteuid():
        raise BackendError(f"{path} is another user's: move it away")
    what = f"{path}, with {left.holds}, of the backend {left.backend!r},"
    if stream.leftover == "discard":
        if stat.S_ISDIR(info.st_mode):
            shutil.rmtree(left.entry, dir_fd=fd)
        else:
            os.unlink(left.entry, dir_fd=fd)  # relative
        for name in left.companions:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=fd)  # relative
        return f"{what} is deleted: leftover='discard'"
    word = re.sub("[^a-z0-9-]", "-", left.entry.removeprefix(f"{stream.file_name}."))
    aside = stream.quarantine_path(word)
    os.rename(left.entry, aside.name, src_dir_fd=fd, dst_dir_fd=fd)  # relative
    for name in left.companions:
        with suppress(FileNotFoundError):
            kept = aside.name + name.removeprefix(left.entry)
            os.rename(name, kept, src_dir_fd=fd, dst_dir_fd=fd)  # relative
    return f"{what} is set aside as {aside}: leftover='quarantine'"


def _find(
    directory: Directory, stream: Stream, own: OverflowBackend | type[OverflowBackend]
) -> Iterator[_Left]:
    """What other backends have left, if anything is in it.

    Nothing where nobody can tell which files `own` writes: it may wrap another backend.
    """
    for name in registry.names():
        entry = stream.file_name + _suffix(name)
        if name == getattr(own, "name", "") or not _is_there(directory, entry):
            continue
        if not _is_known(own) or _writes(own, _suffix(name)):
            continue
        holds, companions = _look(directory, stream, name)
        if holds:
            yield _Left(entry, name, holds, tuple(entry + more for more in companions))


def _is_known(own: OverflowBackend | type[OverflowBackend]) -> bool:
    named = getattr(own, "name", "") in registry.names()
    return named or isinstance(getattr(own, "tools", None), SpoolTools)


def _writes(own: OverflowBackend | type[OverflowBackend], suffix: str) -> bool:
    """Whether `own`, whatever its name, has files of another's kind."""
    tools = getattr(own, "tools", None)
    return isinstance(tools, SpoolTools) and _top(tools) == suffix


def _suffix(name: str) -> str:
    return _SPECIFIED.get(name, f".{name}")


def _top(tools: SpoolTools) -> str:
    """What `tools` calls the entry of the spool directory: the data file, or where that is."""
    return tools.suffix.partition("/")[0]


def _is_there(directory: Directory, entry: str) -> bool:
    try:
        os.stat(entry, dir_fd=directory.fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _look(directory: Directory, stream: Stream, name: str) -> tuple[str, Sequence[str]]:
    """What is in the entry of the backend `name`, in words, and the suffixes of what belongs to it.

    Without words: no record and no damage, or not that backend's at all.
    """
    try:
        backend = registry.load(name)
    except PluginError as exc:
        return _uncounted(exc), ()
    tools = getattr(backend, "tools", None)
    if not isinstance(tools, SpoolTools):
        return _uncounted("it has no tools for that"), ()
    if _top(tools) != _suffix(name) or _is_bare(directory, stream.file_name + _top(tools)):
        return "", ()
    companions = () if "/" in tools.suffix else tools.companions
    path = directory.held / f"{stream.file_name}{tools.suffix}"
    try:
        found = inspect(Spool(path, stream.file_name, backend, tools))
    except HybridQueueError as exc:
        return _uncounted(str(exc).replace(str(directory.held), str(stream.directory))), companions
    told = [f"{found.records} records"] if found.records else []
    told += [f"damage ({found.damage})"] if found.damage else []
    return " and ".join(told), companions


def _uncounted(reason: object) -> str:
    return f"records that cannot be counted ({reason})"


def _is_bare(directory: Directory, entry: str) -> bool:
    """Whether it is a directory with no bytes in it, whatever they are called."""
    info = os.stat(entry, dir_fd=directory.fd, follow_symlinks=False)
    if not stat.S_ISDIR(info.st_mode):
        return False
    return not any(
        os.stat(file, dir_fd=fd, follow_symlinks=False).st_size
        for _, _, files, fd in os.fwalk(entry, dir_fd=directory.fd)
        for file in files
    )
