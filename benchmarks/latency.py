"""How long a producer waits in `put`, while the consumer stalls or another thread burns CPU."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import messages
from benchmarks.cells import Cell, Outcome
from benchmarks.peers import PEERS, OpenQueue

__all__ = ["RATE", "burning", "stalling"]

RATE = 5000
"""Messages a second; a producer that fell behind catches up."""
_SECONDS_PER_SECOND = 8
"""A percentile of 99.9 needs more than a throughput does."""
_MEMORY_ITEMS = 100
"""A fifth of what a stall of 100 ms leaves behind: the rest overflows."""
_STALL, _STALL_EVERY = 0.1, 1.0


def stalling(cell: Cell, directory: Path, seconds: float) -> Outcome:
    """The consumer stops for 100 ms in every second."""
    return _measured(cell, directory, seconds, stall=True)


def burning(cell: Cell, directory: Path, seconds: float) -> Outcome:
    """The consumer keeps up, and a third thread computes without a pause."""
    with _burner():
        return _measured(cell, directory, seconds, stall=False)


def _measured(cell: Cell, directory: Path, seconds: float, *, stall: bool) -> Outcome:
    sent = messages.make(cell.size, int(RATE * max(1.5, seconds * _SECONDS_PER_SECOND)))
    queue = PEERS[cell.peer].open(directory, _MEMORY_ITEMS)
    received: list[bytes | None] = []
    waits: list[float] = []
    ended = threading.Event()
    consumer = threading.Thread(
        target=_consume, args=(queue, waits, ended, received, stall), daemon=True
    )
    consumer.start()
    _produce(queue, sent, waits)
    ended.set()
    consumer.join()
    sent = sent[: len(waits)]
    metrics = {f"{name}_us": value for name, value in _percentiles(waits).items()}
    if queue.spilled:
        metrics["spilled"] = queue.spilled() / len(sent)
    queue.close()
    return Outcome(metrics, messages.faults(sent, received))


def _produce(queue: OpenQueue, sent: list[bytes], waits: list[float]) -> None:
    """Put `sent`, at most `RATE` a second, noting how long each call takes.

    A queue that cannot keep up gets what there is time for.
    """
    put, clock = queue.put, time.perf_counter
    due = clock()
    end = due + 2 * len(sent) / RATE
    for message in sent:
        due += 1 / RATE
        if (early := due - clock()) > 0:
            time.sleep(early)
        start = clock()
        put(message)
        now = clock()
        waits.append(now - start)
        if now > end:
            break


def _consume(
    queue: OpenQueue,
    puts: list[float],
    ended: threading.Event,
    received: list[bytes | None],
    stall: bool,
) -> None:
    """Take what was put, until the producer has ended and everything is out."""
    next_stall = time.perf_counter() + _STALL_EVERY
    while True:
        if stall and time.perf_counter() > next_stall:
            time.sleep(_STALL)
            next_stall += _STALL_EVERY
        if len(received) < len(puts):
            received.append(queue.get())
        elif ended.is_set():
            if len(received) == len(puts):
                return
        else:
            time.sleep(0.0002)


@contextmanager
def _burner() -> Iterator[None]:
    stop = threading.Event()

    def burn() -> None:
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=burn, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _percentiles(waits: list[float]) -> dict[str, float]:
    """In microseconds."""
    waits = sorted(waits)
    shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
    found = {name: waits[int(share * len(waits))] * 1e6 for name, share in shares.items()}
    return {**found, "max": waits[-1] * 1e6}
