"""The file backend keeps the contract."""

from hq_backends.file import FileBackend
from hq_core.testing import BackendConformance


class TestFileBackend(BackendConformance):
    backend = FileBackend
