"""Opening LMDB backends in a fresh directory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest

from hq_backends.lmdb import LmdbBackend
from hq_core.spool.directory import Directory

STREAM_FIELDS = {"max_bytes", "leftover", "on_corruption", "durable", "tell"}


def files(directory: Path) -> list[str]:
    """The names in `directory`."""
    return sorted(path.name for path in directory.iterdir())


class Spool:
    """A directory, and what a stream called ``s`` has in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "s.lmdb"
        self.data = self.path / "data.mdb"
        self.held = Directory(directory)
        self.told: list[str] = []
        self.opened: list[LmdbBackend] = []

    def names(self) -> list[str]:
        return files(self.directory)

    def open(self, **given: Any) -> LmdbBackend:
        """Open the stream; `given` are fields of `Stream` and options of the backend."""
        given.setdefault("tell", self.told.append)
        stream = {name: given.pop(name) for name in STREAM_FIELDS & set(given)}
        backend = LmdbBackend(self.held.stream("s", **stream), **given)
        self.opened.append(backend)
        return backend

    def close(self, backend: LmdbBackend, *, delete: bool = False) -> None:
        self.opened.remove(backend)
        backend.close(delete=delete)

    def leave(self, records: list[bytes]) -> None:
        """Be an earlier owner that leaves `records`."""
        backend = self.open()
        backend.append(records)
        self.close(backend)

    def stored(self) -> list[tuple[bytes, bytes]]:
        """Keys and values of the closed environment, as LMDB itself shows them."""
        with lmdb.open(str(self.path), readonly=True, lock=False) as env, env.begin() as txn:
            return list(txn.cursor())


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path)
    yield spool
    for backend in spool.opened:
        backend.close(delete=True)
    spool.held.close()
