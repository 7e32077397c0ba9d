"""What the demonstration plays: a steady producer, and a consumer that stalls and catches up."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hq_cli.video import PACKETS_PER_SECOND, Tally, packet_sizes, packets
from hq_core import HybridQueue, QueueClosed, QueueStats

__all__ = ["STREAM_ID", "Outcome", "Scenario", "play"]

STREAM_ID: Final = "demo"
_CATCH_UP: Final = 3
"""How many times faster than the stream the consumer is, once it has to be."""
_WATCH_INTERVAL: Final = 0.1


@dataclass(frozen=True, slots=True)
class Scenario:
    """All of it follows from its length in `seconds`."""

    seconds: float

    @property
    def packets(self) -> int:
        """How many packets the producer sends."""
        return max(round(self.seconds * PACKETS_PER_SECOND), 1)

    @property
    def stall(self) -> tuple[float, float]:
        """From when to when the consumer takes nothing, in seconds."""
        return 0.25 * self.seconds, 0.55 * self.seconds

    @property
    def memory_items(self) -> int:
        """Room in memory: for the first third of what comes during the stall."""
        return max(self.packets // 10, 1)

    @property
    def max_overflow_bytes(self) -> int:
        """Room on disk: for a little more than what comes during the stall."""
        sizes = packet_sizes()
        return round(0.35 * self.packets * sum(sizes) / len(sizes)) + max(sizes)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was seen while a scenario was played."""

    sent: Tally
    received: Tally
    samples: list[tuple[float, QueueStats]]
    """(seconds, snapshot) after every enqueue and every dequeue."""


def play(
    scenario: Scenario, directory: Path, watch: Callable[[float, QueueStats], None]
) -> Outcome:
    """Play `scenario` in real time, its overflow in `directory`; `watch` is shown how it goes."""
    with HybridQueue(
        STREAM_ID,
        scenario.memory_items,
        directory,
        max_overflow_bytes=scenario.max_overflow_bytes,
        when_full="block",
    ) as queue:
        stage = _Stage(queue, scenario)
        with ThreadPoolExecutor(2) as pool:
            try:
                sent, received = pool.submit(stage.produce), pool.submit(stage.consume)
                while wait([received], timeout=_WATCH_INTERVAL).not_done:
                    watch(stage.now(), queue.stats())
            finally:
                stage.leave()
    return Outcome(sent.result(), received.result(), sorted(stage.samples, key=lambda s: s[0]))


class _Stage:
    """The two ends of the queue; times are seconds since the start."""

    def __init__(self, queue: HybridQueue, scenario: Scenario) -> None:
        self.samples: list[tuple[float, QueueStats]] = []
        self._queue = queue
        self._scenario = scenario
        self._over = threading.Event()
        self._start = time.monotonic()

    def now(self) -> float:
        return time.monotonic() - self._start

    def leave(self) -> None:
        """Let both ends return, wherever they are."""
        self._over.set()
        self._queue.close()

    def produce(self) -> Tally:
        """Send every packet when it is due, then shut the queue down; what was sent."""
        tally = Tally()
        try:
            for number, packet in enumerate(packets(self._scenario.packets)):
                self._pause_until(number / PACKETS_PER_SECOND)
                self._queue.enqueue(packet)
                self._take_sample()
                tally.add(packet)
        except QueueClosed:
            pass  # somebody has left
        finally:
            self._queue.shutdown()
        return tally

    def consume(self) -> Tally:
        """Take packets, faster than they come but for the stall, until none will; what came."""
        tally = Tally()
        stall_from, stall_until = self._scenario.stall
        ready = 0.0
        while True:
            try:
                packet = self._queue.dequeue()
            except QueueClosed:
                return tally
            self._take_sample()
            tally.add(packet)
            ready = max(ready, self.now()) + 1 / (_CATCH_UP * PACKETS_PER_SECOND)
            self._pause_until(ready)
            if stall_from <= self.now() < stall_until:
                self._pause_until(stall_until)

    def _pause_until(self, moment: float) -> None:
        self._over.wait(max(0.0, moment - self.now()))

    def _take_sample(self) -> None:
        self.samples.append((self.now(), self._queue.stats()))
