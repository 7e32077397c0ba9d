"""Opening file backends in a fresh directory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hq_backends.file import FileBackend
from hq_backends.file.position import SLOT_SPACING
from hq_core.protocols import Stream

STREAM_FIELDS = {"max_bytes", "leftover", "on_corruption"}


@dataclass
class Spool:
    """A directory, and the files that a stream called ``s`` has in it."""

    directory: Path
    opened: list[FileBackend]

    @property
    def path(self) -> Path:
        return self.directory / "s.overflow"

    @property
    def sidecar(self) -> Path:
        return self.directory / "s.overflow.pos"

    def names(self) -> list[str]:
        """What is there, but for the sidecar."""
        names = {path.name for path in self.directory.iterdir()}
        return sorted(names - {self.sidecar.name})

    def slot(self, number: int) -> bytes:
        """The bytes of a slot of the sidecar."""
        start = number * SLOT_SPACING
        return self.sidecar.read_bytes()[start : start + SLOT_SPACING]

    def quarantined(self) -> int:
        """Bytes in quarantine."""
        return sum(path.stat().st_size for path in self.directory.glob("*.quarantine-*"))

    def stream(self) -> Stream:
        return Stream("s", "s", self.directory)

    def abandon(self, backend: FileBackend) -> None:
        """Let go of it as a killed process does."""
        self.opened.remove(backend)
        backend._close_files()

    def open(self, **given: Any) -> FileBackend:
        """Open the stream; `given` are fields of `Stream` and options of the backend."""
        stream = {name: given.pop(name) for name in STREAM_FIELDS & set(given)}
        backend = FileBackend(Stream("s", "s", self.directory, **stream), **given)
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
