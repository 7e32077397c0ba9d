"""`BackendConformance`: one test for each sentence of the backend's contract.

The suite knows no backend. It asks the class what it promises, tests exactly that, and skips the
rest with the reason. It is assembled from three parts: the log by itself, what is promised beyond
the life of an owner, and the log as a queue's overflow.
"""

from collections.abc import Callable, Iterator, Mapping
from inspect import getattr_static
from pathlib import Path
from typing import Any, ClassVar

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
    damage: ClassVar[Callable[..., object] | None] = None
    """Damages a record: ``damage(backend, number)`` of an open backend, so that reading record
    `number` raises `CorruptedData`. Without it, what holds then is not tested."""

    @pytest.fixture
    def spool(self, tmp_path: Path) -> Iterator[Spool]:
        """A fresh directory in which the backend under test can be opened."""
        spool = Spool(
            _plain(getattr_static(type(self), "backend")),
            self.options,
            tmp_path / "spool",
            _plain(getattr_static(type(self), "damage")),
        )
        yield spool
        spool.leave()


def _plain(function: Any) -> Any:
    """What a class has as an attribute, and was not meant to be a method."""
    return function.__func__ if isinstance(function, staticmethod) else function
