"""Opening file backends in a fresh directory."""

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hq_backends.file import FileBackend
from hq_backends.file.position import SLOT_SPACING, Position, whole
from hq_core.protocols import Stream
from hq_core.spool.directory import Directory

STREAM_FIELDS = {"max_bytes", "leftover", "on_corruption", "tell"}


@dataclass
class Spool:
    """A directory, and the files that a stream called ``s`` has in it."""

    held: Directory
    opened: list[FileBackend]

    @property
    def directory(self) -> Path:
        return self.held.path

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

    def noted(self) -> Position:
        """The position that was written last."""
        return whole([self.slot(0), self.slot(1)])[0][1]

    def quarantined(self) -> bytes:
        """What is in quarantine, without positions."""
        paths = sorted(self.directory.glob("*.quarantine-*"))
        return b"".join(path.read_bytes() for path in paths if path.suffix != ".pos")

    def stream(self, **fields: Any) -> Stream:
        return self.held.stream("s", **fields)

    def abandon(self, backend: FileBackend) -> None:
        """Let go of it as a killed process does."""
        self.opened.remove(backend)
        if backend._writer.flusher is not None:
            backend._writer.flusher.stop()
        backend._close_files()

    def flip(self, offset: int) -> None:
        """Flip a bit of the data file."""
        data = bytearray(self.path.read_bytes())
        data[offset] ^= 1
        with self.path.open("r+b") as file:
            file.write(data)

    def open(self, **given: Any) -> FileBackend:
        """Open the stream; `given` are fields of `Stream` and options of the backend."""
        fields = {name: given.pop(name) for name in STREAM_FIELDS & set(given)}
        backend = FileBackend(self.stream(**fields), **given)
        self.opened.append(backend)
        return backend

    def close(self, backend: FileBackend, *, delete: bool = False) -> None:
        self.opened.remove(backend)
        backend.close(delete=delete)


@pytest.fixture(autouse=True)
def collecting_later() -> Iterator[None]:
    """An interrupt that a test stages amid a call must not hit what the collector calls there."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Directory(tmp_path) as held:
        spool = Spool(held, [])
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

        def recording(*args: Any, **options: Any) -> Any:
            seen.append(args)
            return original(*args, **options)

        monkeypatch.setattr(os, name, recording)
        return seen

    return record
