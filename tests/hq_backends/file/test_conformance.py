"""The conformance suite, with the options as they are and with each other choice of them."""

import os
from collections.abc import Mapping
from typing import ClassVar

import pytest

from hq_backends.file import FileBackend
from hq_core.testing import BackendConformance


def overlong(backend: FileBackend, number: int) -> None:
    """Make the length of a record one that none has."""
    os.pwrite(backend._data.fd, b"\xff" * 4, backend._log.find(number))
    backend._reader.forget()


def flipped(backend: FileBackend, number: int) -> None:
    """Flip a bit of a record's payload."""
    at = backend._log.find(number) + backend._log.form.header_bytes
    (byte,) = os.pread(backend._data.fd, 1, at)
    os.pwrite(backend._data.fd, bytes([byte ^ 1]), at)
    backend._reader.forget()


class TestFile(BackendConformance):
    backend = FileBackend
    damage = overlong


@pytest.mark.slow
class TestFileWithChecksums(BackendConformance):
    backend = FileBackend
    options: ClassVar[Mapping[str, object]] = {"checksum": True}
    damage = flipped


@pytest.mark.slow
class TestFileFlushedAlways(BackendConformance):
    backend = FileBackend
    options: ClassVar[Mapping[str, object]] = {"fsync": "always"}
    damage = overlong


@pytest.mark.slow
class TestFileFlushedByTheClock(BackendConformance):
    backend = FileBackend
    options: ClassVar[Mapping[str, object]] = {"fsync": "interval", "fsync_interval": 0.001}
    damage = overlong
