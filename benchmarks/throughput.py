"""Messages a second, through memory and through disk; everything that comes out is compared.

The number of messages follows from the time there is, so slow peers get fewer. What is received is
kept and compared when the clock has stopped.
"""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from benchmarks import messages
from benchmarks.cells import Cell, Outcome
from benchmarks.clock import Clock
from benchmarks.peers import BATCH, PEERS, OpenQueue

__all__ = [
    "append",
    "append_batch",
    "drain",
    "from_loop",
    "pair",
    "pair_batch",
    "sustained",
    "to_loop",
    "two_threads",
]

Messages = list[bytes]
Received = list[bytes | None]
Call = TypeVar("Call")
Work = Callable[[OpenQueue, Messages, Clock], Received]

_MOST_BYTES = 256 * 1024 * 1024
_MOST_ITEMS = 300_000
_FEWEST_ITEMS = BATCH
_MEMORY_ITEMS = 1000
_MEMORY_SHARE = 16
"""At most one message in so many is in memory where the disk is what is measured."""
_LAG = 500
"""How far the consumer of `sustained` stays behind, so that it never waits for one message."""
_PAUSE = 0.0005
"""Seconds for which it lets the producer go on."""


def pair(cell: Cell, directory: Path, seconds: float) -> Outcome:
    """Put one, get one; one thread."""

    def work(queue: OpenQueue, sent: Messages, clock: Clock) -> Received:
        received: Received = []
        put, get, keep = queue.put, queue.get, received.append
        with clock.running(len(sent)):
            for message in sent:
                put(message)
                keep(get())
        return received

    return _measured(cell, directory, seconds, work, _MOST_ITEMS)


def pair_batch(cell: Cell, directory: Path, seconds: float) -> Outcome:
    """Put a batch, get a batch; one thread. Without calls for batches: one by one."""

    def work(queue: OpenQueue, sent: Messages, clock: Clock) -> Received:
        received: Received = []
        batches = _batches(sent)
        put_many, get_many = queue.put_many or _one_by_one(queue.put), queue.get_many
        with clock.running(len(sent)):
            for batch in batches:
                put_many(batch)
                received += get_many(BATCH) if get_many else [queue.get() for _ in batch]
        return received

    return _measured(cell, directory, seconds, work, _MOST_ITEMS)


def two_threads(cell: Cell, directory: Path, seconds: float) -> Outcome:
    """One producer and one consumer at full speed; all fits into memory."""

    def work(queue: OpenQueue, sent: Messages, clock: Clock) -> Received:
        received: Received = []

        def consume() -> None:
            get, keep = queue.get, received.append
            for _ in sent:
                keep(get())

        consumer = threading.Thread(target=consume, daemon=True)
        put = queue.put
        with clock.running(len(sent)):
            consumer.start()
            for message in sent:
                put(message)
            consumer.join()
        return received

    return _measured(cell, directory, seconds, work, _MOST_ITEMS)


def to_loop(cell: Cell, directory: Path, seconds: float) -> Outcome:
    """One thread produces, one coroutine consumes, at full speed; all fits into memory."""

    def work(queue: OpenQueue, sent: Messages, clock: Clock) -> Received:
        received: Received = []
        get, keep = _required(queue.async_get), received.append

        async def consume() -> None:
            producer = threading.Thread(target=lambda: deque(map(queue.put, sent), 0), daemon=True)
            with clock.running(len(sent)):
                producer.start()
                for _ in sent:
                    keep(await get())
            producer.join()

        asyncio.run(consume())
        return received

    return _measured(cell, directory, seconds, work, _MOST_ITEMS)


def from_loop(cell: Cell, directory: Path, seconds: float) -> Outcome:
    """One coroutine produces, one thread consumes, at full speed; all fits into memory."""

    def work(queue: OpenQueue, sent: Messages, clock: Clock) -> Received:
        received: Received = []
        put = _required(queue.async_put)
        consumer = threading.Thread(
            target=lambda: received.extend(queue.get() for _ in sent), daemon=True
        )

        async def produce() -> None:
            for message in sent:
                await put(message)

        with clock.running(len(sent)):
            consumer.start()
            asyncio.run(produce())
            consumer.join()
        return received

    return _measured(cell, directory, seconds, work, _MOST_ITEMS)


def append(cell: Cell, directory: Path, seconds: float) -> Outcome:
    """Into the overflow, one call per message."""

    def work(queue: OpenQueue, sent: Messages, clock: Clock) -> Received:
        put = queue.put
        with clock.running(len(sent)):
            for message in sent:
                put(message)
        return [queue.get() for _ in sent]

    return _measured(cell, directory, seconds, work, 1)


def append_batch(cell: Cell, directory: Path, seconds: float) -> Outcome:
    """Into the overflow, in batches."""

    def work(queue: OpenQueue, sent: Messages, clock: Clock) -> Received:
        batches, put_many = _batches(sent), queue.put_many
        assert put_many
        with clock.running(len(sent)):
            for batch in batches:
                put_many(batch)
        return [queue.get() for _ in sent]

    return _measured(cell, directory, seconds, work, 1)


def drain(cell: Cell, directory: Path, seconds: float) -> Outcome:
    """Everything in first, then, measured, everything out."""

    def work(queue: OpenQueue, sent: Messages, clock: Clock) -> Received:
        received: Received = []
        for message in sent:
            queue.put(message)
        get, keep = queue.get, received.append
        with clock.running(len(sent)):
            for _ in sent:
                keep(get())
        return received

    return _measured_on_disk(cell, directory, seconds, work)


def sustained(cell: Cell, directory: Path, seconds: float) -> Outcome:
    """One producer and one consumer at full speed, and always something on disk.

    The consumer stays `_LAG` messages behind. With a memory tier it is twice what that holds, which
    is there before the clock starts.
    """

    def work(queue: OpenQueue, sent: Messages, clock: Clock) -> Received:
        received: Received = []
        ahead = 2 * _MEMORY_ITEMS if queue.spilled else 0
        measured = len(sent) - ahead
        lag = max(ahead, _LAG)
        for message in sent[:ahead]:
            queue.put(message)
        done = ahead

        def produce() -> None:
            nonlocal done
            put = queue.put
            for message in sent[ahead:]:
                put(message)
                done += 1

        producer = threading.Thread(target=produce, daemon=True)
        get, keep = queue.get, received.append
        with clock.running(measured):
            producer.start()
            while len(received) < measured:
                ready = done - len(received) - (lag if producer.is_alive() else 0)
                if ready <= 0:
                    time.sleep(_PAUSE)
                for _ in range(min(ready, measured - len(received))):
                    keep(get())
            producer.join()
        received += [queue.get() for _ in range(ahead)]
        return received

    return _measured_on_disk(cell, directory, seconds, work)


def _measured_on_disk(cell: Cell, directory: Path, seconds: float, work: Work) -> Outcome:
    """`_measured` with a memory tier that holds a small part of the messages."""
    memory_items = min(_MEMORY_ITEMS, _most(cell) // _MEMORY_SHARE)
    fewest = _MEMORY_SHARE * memory_items if "hybrid-queue" in cell.peer else _FEWEST_ITEMS
    return _measured(cell, directory, seconds, work, memory_items, fewest)


def _measured(
    cell: Cell,
    directory: Path,
    seconds: float,
    work: Work,
    memory_items: int,
    fewest: int = _FEWEST_ITEMS,
) -> Outcome:
    """Run `work` with more and more messages, until it takes about `seconds`."""
    size = messages.mean_size(cell.size)
    most = _most(cell)
    count = min(fewest, most)
    fastest = math.inf  # seconds a message
    attempt = 0
    while True:
        attempt += 1
        place = directory / str(attempt)
        place.mkdir()
        sent = messages.make(cell.size, count)
        queue = PEERS[cell.peer].open(place, memory_items)
        clock = Clock()
        start = time.perf_counter()
        try:
            received = work(queue, sent, clock)
            spent = time.perf_counter() - start
            metrics = clock.per_message(size)
            if queue.spilled:
                metrics["spilled"] = queue.spilled() / count
        finally:
            queue.close()
        if faults := messages.faults(sent, received):
            return Outcome(metrics, faults)
        fastest = min(fastest, spent / count)
        if count == most or (attempt > 1 and count * fastest > seconds / 2):  # not by one hiccup
            return Outcome(metrics)
        count = min(most, 8 * count, max(count, int(seconds / fastest)))


def _most(cell: Cell) -> int:
    """So many messages fit into the memory of a small machine, twice."""
    return int(min(_MOST_ITEMS, _MOST_BYTES / messages.mean_size(cell.size)))


def _required(call: Call | None) -> Call:
    assert call is not None, "this queue has nothing for coroutines"
    return call


def _batches(sent: Messages) -> list[Messages]:
    return [sent[at : at + BATCH] for at in range(0, len(sent), BATCH)]


def _one_by_one(put: Callable[[bytes], object]) -> Callable[[Sequence[bytes]], object]:
    def put_many(batch: Sequence[bytes]) -> None:
        for message in batch:
            put(message)

    return put_many
