"""What the suites of the smaller parts share: making the part, a queue around it, no clock."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import getattr_static
from pathlib import Path
from typing import Any

import pytest

from hq_core.limiters import Unlimited
from hq_core.queue import HybridQueue
from hq_core.testing.fakes import ManualPump, MemoryBackend

__all__ = ["made", "no_time", "queue_with"]


def made(suite: object, attribute: str) -> Any:
    factory = getattr_static(type(suite), attribute)  # a plain function must not become a method
    return (factory.__func__ if isinstance(factory, staticmethod) else factory)()


def queue_with(directory: Path, memory_items: int | None = None, **options: Any) -> HybridQueue:
    options = {"limiter": Unlimited(), "pump": ManualPump(), "backend": MemoryBackend, **options}
    return HybridQueue("stream", memory_items, directory / "spool", **options)


@contextmanager
def no_time() -> Iterator[None]:
    """Within it, `time` fails whoever asks it."""

    def refuse(*_: object) -> None:
        raise AssertionError("it must not sleep, or read a clock")

    clocks = ("sleep", "time", "monotonic", "perf_counter", "process_time")
    with pytest.MonkeyPatch.context() as patch:
        for name in (*clocks, *(f"{clock}_ns" for clock in clocks[1:])):
            patch.setattr(time, name, refuse)
        yield
