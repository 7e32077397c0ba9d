"""The reference passes the suite that it is the reference of."""

from hq_core.testing import BackendConformance, MemoryBackend


class TestMemoryBackend(BackendConformance):
    backend = MemoryBackend
