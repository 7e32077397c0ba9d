"""Wall time and CPU time of a piece of work."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Clock"]


class Clock:
    """Adds up the seconds spent inside `running`, and the messages that passed there."""

    def __init__(self) -> None:
        self.messages = 0
        self.wall = self.cpu = 0.0
        """`cpu`: user and system, of all threads of this process."""

    @contextmanager
    def running(self, messages: int = 0) -> Iterator[None]:
        """Count what happens inside, to so many messages."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu
        self.messages += messages

    def per_message(self, size: float) -> dict[str, float]:
        """The figures, for messages of `size` bytes."""
        rate = self.messages / self.wall
        return {
            "items_per_second": rate,
            "mb_per_second": rate * size / 1e6,
            "wall_us": self.wall / self.messages * 1e6,
            "cpu_us": self.cpu / self.messages * 1e6,
            "items": self.messages,
        }
