"""The conformance suites: what every backend, memory tier, limiter and pump has to do.

Three lines are a test module::

    from hq_core.testing import BackendConformance

    class TestMine(BackendConformance):
        backend = MyBackend

`MemoryTierConformance`, `LimiterConformance` and `PumpConformance` are used in the same way. The
suites need the extra ``[testing]`` (pytest and hypothesis); the fakes and `bench` do not.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hq_core.testing.backend import BackendConformance
    from hq_core.testing.fakes import (
        FaultyBackend,
        ManualClock,
        ManualPump,
        MemoryBackend,
        RemoteBackend,
    )
    from hq_core.testing.limiters import LimiterConformance
    from hq_core.testing.pumps import PumpConformance
    from hq_core.testing.stateful import run_steps
    from hq_core.testing.tiers import MemoryTierConformance

__all__ = [
    "BackendConformance",
    "FaultyBackend",
    "LimiterConformance",
    "ManualClock",
    "ManualPump",
    "MemoryBackend",
    "MemoryTierConformance",
    "PumpConformance",
    "RemoteBackend",
    "run_steps",
]

_HOMES: Final = {
    "BackendConformance": "backend",
    "FaultyBackend": "fakes",
    "LimiterConformance": "limiters",
    "ManualClock": "fakes",
    "ManualPump": "fakes",
    "MemoryBackend": "fakes",
    "MemoryTierConformance": "tiers",
    "PumpConformance": "pumps",
    "RemoteBackend": "fakes",
    "run_steps": "stateful",
}
_WITH_ASSERTS: Final = (
    "limiters",
    "log",
    "promises",
    "pumps",
    "spool",
    "stateful",
    "through_queue",
    "tiers",
)


def __getattr__(name: str) -> object:
    """Import `name` when it is first asked for: `bench` and the fakes must not need pytest."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name.endswith("Conformance"):
        _show_values_of_asserts()
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def _show_values_of_asserts() -> None:
    """Tell pytest that it is to rewrite the suites as it does test modules."""
    import pytest

    modules = {f"{__name__}.{part}" for part in _WITH_ASSERTS}
    pytest.register_assert_rewrite(*sorted(modules - sys.modules.keys()))
