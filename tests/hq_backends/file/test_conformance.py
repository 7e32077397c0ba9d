"""The conformance suite, with the options as they are and with each other choice of them."""

from collections.abc import Mapping
from typing import ClassVar

import pytest

from hq_backends.file import FileBackend
from hq_core.testing import BackendConformance


class TestFile(BackendConformance):
    backend = FileBackend


@pytest.mark.slow
class TestFileWithChecksums(BackendConformance):
    backend = FileBackend
    options: ClassVar[Mapping[str, object]] = {"checksum": True}


@pytest.mark.slow
class TestFileFlushedAlways(BackendConformance):
    backend = FileBackend
    options: ClassVar[Mapping[str, object]] = {"fsync": "always"}


@pytest.mark.slow
class TestFileFlushedByTheClock(BackendConformance):
    backend = FileBackend
    options: ClassVar[Mapping[str, object]] = {"fsync": "interval", "fsync_interval": 0.001}
