"""Opening file backends in a fresh directory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hq_backends.file import FileBackend
from hq_core.protocols import Stream


@dataclass
class Spool:
    """A directory, and the files that a stream called ``s`` has in it."""

    directory: Path
    opened: list[FileBackend]

    @property
    def path(self) -> Path:
        return self.directory / "s.overflow"

    def names(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir())

    def open(self, read_ahead: int = 65536, **stream: Any) -> FileBackend:
        backend = FileBackend(Stream("s", "s", self.directory, **stream), read_ahead=read_ahead)
        self.opened.append(backend)
        return backend

    def close(self, backend: FileBackend, *, delete: bool = False) -> None:
        self.opened.remove(backend)
        backend.close(delete=delete)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path, [])
    yield spool
    for backend in spool.opened:
        backend.close(delete=True)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[tuple[Any, ...]]]:
    """Records the calls of a function of `os`: ``calls("pread")`` is the growing list of them."""
    import os

    def record(name: str) -> list[tuple[Any, ...]]:
        seen: list[tuple[Any, ...]] = []
        original = getattr(os, name)

        def recording(*args: Any) -> Any:
            seen.append(args)
            return original(*args)

        monkeypatch.setattr(os, name, recording)
        return seen

    return record
