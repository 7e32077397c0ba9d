"""`BackendConformance`: one test for each sentence of the backend's contract.

The suite knows no backend. It asks the class what it promises, tests exactly that, and skips the
rest with the reason. It is assembled from three parts: the log by itself, what is promised beyond
the life of an owner, and the log as a queue's overflow.
"""

from collections.abc import Iterator, Mapping
from inspect import getattr_static
from pathlib import Path
from typing import ClassVar

import pytest

from hq_core.protocols import BackendFactory
from hq_core.testing.log import LogSuite
from hq_core.testing.promises import PromiseSuite
from hq_core.testing.spool import Spool
from hq_core.testing.through_queue import QueueSuite

__all__ = ["BackendConformance"]


class BackendConformance(LogSuite, PromiseSuite, QueueSuite):
    """Inherit in a test module, as ``class TestMine(BackendConformance)``."""

    backend: ClassVar[BackendFactory]
    """The backend's class, or another factory."""
    options: ClassVar[Mapping[str, object]] = {}
    """Options it is opened with."""

    @pytest.fixture
    def spool(self, tmp_path: Path) -> Iterator[Spool]:
        """A fresh directory in which the backend under test can be opened."""
        factory = getattr_static(type(self), "backend")  # a plain function must not become a method
        if isinstance(factory, staticmethod):
            factory = factory.__func__
        spool = Spool(factory, self.options, tmp_path / "spool")
        spool.directory.mkdir(mode=0o700)
        yield spool
        spool.leave()
