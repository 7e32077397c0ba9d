"""Wall time and CPU time of a piece of work."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Clock"]


class Clock:
    """Adds up the seconds spent inside `running`."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0
        """`cpu`: user and system, of all threads of this process."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count what happens inside."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu

    def per_item(self, count: int, size: float) -> dict[str, float]:
        """The figures of `count` messages of `size` bytes."""
        return {
            "items_per_second": count / self.wall,
            "mb_per_second": count * size / self.wall / 1e6,
            "wall_us": self.wall / count * 1e6,
            "cpu_us": self.cpu / count * 1e6,
            "items": count,
        }
