"""The reference passes the suite that it is the reference of, and so do the fakes made of it."""

import pytest

from hq_core.protocols import Stream
from hq_core.testing import BackendConformance, FaultyBackend, MemoryBackend, RemoteBackend
from tests.hq_core.testing.references import Damageable, Shared


class TestMemoryBackend(BackendConformance):
    backend = MemoryBackend


@pytest.mark.slow
class TestDamageable(BackendConformance):
    backend = Damageable
    damage = Damageable.damage


@pytest.mark.slow
class TestShared(BackendConformance):
    backend = Shared


@pytest.mark.slow
class TestFaultyBackend(BackendConformance):
    backend = lambda stream: FaultyBackend(MemoryBackend(stream), lambda *_: None)  # noqa: E731


@pytest.mark.slow
class TestRemoteBackend(BackendConformance):
    @staticmethod
    def backend(stream: Stream) -> RemoteBackend:
        return RemoteBackend(MemoryBackend(stream), stream)
