"""The conformance suite, with the options as they are and with each other choice of them."""

from collections.abc import Mapping
from typing import ClassVar

import pytest

from hq_backends.lmdb import LmdbBackend
from hq_core.testing import BackendConformance


class TestLmdb(BackendConformance):
    backend = LmdbBackend


@pytest.mark.slow
class TestLmdbSynced(BackendConformance):
    backend = LmdbBackend
    options: ClassVar[Mapping[str, object]] = {"sync": True, "map_size": 262_144}


@pytest.mark.slow
class TestLmdbWritableMap(BackendConformance):
    backend = LmdbBackend
    options: ClassVar[Mapping[str, object]] = {"writemap": True}
