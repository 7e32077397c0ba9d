"""The conformance suites: what every backend, memory tier, limiter and pump has to do.

Three lines are a test module::

    from hq_core.testing import BackendConformance

    class TestMine(BackendConformance):
        backend = MyBackend

Needs the extra ``[testing]`` (pytest and hypothesis).
"""

from hq_core.testing.backend import BackendConformance
from hq_core.testing.fakes import FaultyBackend, ManualClock, ManualPump, MemoryBackend
from hq_core.testing.stateful import run_steps

__all__ = [
    "BackendConformance",
    "FaultyBackend",
    "ManualClock",
    "ManualPump",
    "MemoryBackend",
    "run_steps",
]
