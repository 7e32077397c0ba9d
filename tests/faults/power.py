"""A durable queue whose machine loses power, and what has to be there afterwards.

A forked child uses the queue and reports each fact over a pipe: before it sends or takes, and once
the call has returned. After the cut those facts are all that is known::

    0 ... first ... taken ... taking ... acknowledged ... sending
          |--- what comes back ------------------|....|

What comes back ends between the last two: everything acknowledged, nothing never sent. It starts
no later than `taking`: whatever is missing was handed out. From `first` to `taken` it comes again.
"""

import fcntl
import math
import os
import random
import select
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Final, Literal

from hq_backends.file.writer import Writer
from hq_core import CorruptedData, HybridQueue, HybridQueueError, InlinePump, Unlimited
from hq_core.testing.forking import forked
from hq_core.testing.spool import balanced
from tests.disks import LoopDisk
from tests.faults.messages import bytes_of, first_of, messages

__all__ = ["HANDED", "Subject", "Verdict", "cut"]

_FACT: Final = Struct("=cQd")
_PATIENCE: Final = 60.0
"""Seconds after which a child that reports nothing is taken to hang."""
HANDED: Final = 255 + 60
"""Messages that come again after any crash, at most: those taken since a position was last noted,
and the last batch taken."""
_PIPE_BYTES: Final = 4096
"""How far the child may run ahead of what is known of it."""


@dataclass(frozen=True)
class Subject:
    """A backend with its options."""

    name: str
    backend: str
    options: Mapping[str, object]
    safe: Literal["acknowledged", "flushed", "nothing"]
    """What has to survive: all that was acknowledged, or only that before the last flush."""

    @property
    def has_gaps(self) -> bool:
        """Whether what was never flushed may be missing in the middle: each record that proves
        itself is delivered, whatever became of those in front of it."""
        return self.safe == "nothing" and bool(self.options.get("checksum"))

    def open(self, directory: Path, memory_items: int = 16) -> HybridQueue:
        """Its queue in `directory`."""
        return HybridQueue(
            "s",
            memory_items,
            directory,
            backend=self.backend,
            backend_options=self.options,
            limiter=Unlimited(),
            pump=InlinePump(),
            durable=True,
        )


@dataclass(frozen=True)
class Facts:
    """What a child has told: ends of runs of messages that start at 0."""

    sending: int = 0
    acknowledged: int = 0
    taking: int = 0
    taken: int = 0
    flushed: int = 0
    """What had been acknowledged when a flush began that has ended."""

    def safe(self, subject: Subject) -> int:
        """What had to survive."""
        return {"acknowledged": self.acknowledged, "flushed": self.flushed}.get(subject.safe, 0)


_NAMES: Final = {
    b"s": "sending",
    b"a": "acknowledged",
    b"t": "taking",
    b"T": "taken",
    b"f": "flushed",
}


@dataclass(frozen=True)
class Verdict:
    """What a cut left."""

    facts: Facts
    survived: int
    """Messages that came back."""
    lost: int
    """Acknowledged messages that did not: allowed only where nothing is safe."""
    again: int
    """Messages that had been taken and came again."""
    beyond: int
    """Bytes of those of them that were taken before the last `HANDED`."""
    age: float
    """Seconds from when the first message that was lost was acknowledged to the cut."""


def cut(disk: LoopDisk, subject: Subject, seed: int) -> Verdict:
    """Let a child work on `disk` until its power is cut at a moment told by `seed`; judge."""
    chance = random.Random(seed)
    for leftover in disk.directory.glob("spool-*"):
        shutil.rmtree(leftover)  # what a cut before had brought back
    directory = disk.directory / f"spool-{disk.mounts}"
    child = _Child(lambda tell: _work(subject, directory, seed, tell))
    try:
        _watch(child, directory, chance, 0.0 if subject.safe == "acknowledged" else 0.003)
        at = time.monotonic()
        disk.cut_power()
    finally:
        child.end()
    _restore_power(disk)
    if chance.random() < 0.25:  # once more, while the queue is being opened
        opening = _Child(lambda _: subject.open(directory))
        time.sleep(chance.uniform(0, 0.004))
        disk.cut_power()
        opening.end()
        _restore_power(disk)
    found = _found(subject, directory, chance.randrange(1, 100))
    return _judge(subject, seed, child, at, found)


def _watch(child: "_Child", directory: Path, chance: random.Random, pace: float) -> None:
    """Until the cut is due, now and then, flush a file: the system may write any, at any time.

    `pace` is how long to let the child wait, in seconds: one that flushes nothing is too fast.
    """
    left = chance.randrange(1, chance.choice((20, 100, 400, 1500)))
    while left > 0:
        left -= child.listen()
        if chance.random() < 0.2:
            _write_back(directory, chance)
        time.sleep(pace)
    time.sleep(chance.uniform(0, 0.002))


def _write_back(directory: Path, chance: random.Random) -> None:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    if files:
        with suppress(FileNotFoundError), chance.choice(files).open("rb") as file:
            os.fdatasync(file)


def _restore_power(disk: LoopDisk) -> None:
    disk.unmount()
    disk.mount()


def _found(subject: Subject, directory: Path, batch: int) -> list[bytes]:
    """All that is there, and the queue works: it takes one more, and leaves nothing behind."""
    found: list[bytes] = []
    with subject.open(directory) as queue:
        assert queue.recovery.records == queue.depth
        while queue.depth:
            try:
                found += queue.dequeue_many(batch)
            except CorruptedData:  # a page was not written that lies before one that was
                assert subject.safe != "acknowledged"
        queue.enqueue(b"new")
        assert queue.try_dequeue() == b"new"
        balanced(queue)
    return found


def _judge(subject: Subject, seed: int, child: "_Child", at: float, found: list[bytes]) -> Verdict:
    """What was acknowledged after the cut began counts for nothing.

    ext4 reports some flushes as done, for a millisecond or two, that do not reach the disk any
    more. Without power there would have been nobody to hear it.
    """
    facts, safe = child.facts(), child.facts(at).safe(subject)
    if subject.has_gaps:
        sent = iter(messages(seed, 0, facts.sending))
        assert all(item in sent for item in found), f"never sent, or not in that order: {facts}"
        missing = max(0, facts.acknowledged - len(found))
        return Verdict(child.facts(at), len(found), missing, again=0, beyond=0, age=0.0)
    first = first_of(seed, found, range(safe, facts.sending + 1))
    end = first + len(found)
    assert end >= safe, f"{safe - end} safe messages at the end are lost: {facts}"
    assert end <= facts.sending, f"{end - facts.sending} messages were never sent: {facts}"
    assert first <= facts.taking, f"{first - facts.taking} messages were lost untaken: {facts}"
    again = range(first, min(facts.taken, end))
    lost = [when for fact, number, when in child.history if fact == b"a" and number > end]
    return Verdict(
        facts=child.facts(at),
        survived=len(found),
        lost=max(0, child.facts(at).acknowledged - end),
        again=len(again),
        beyond=bytes_of(seed, range(first, facts.taken - HANDED)),
        age=max(0.0, at - min(lost, default=at)),
    )


Tell = Callable[[bytes, int], None]


class _Child:
    """A forked process that does `work`, and what it has told."""

    def __init__(self, work: Callable[[Tell], object]) -> None:
        reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

        def tell(fact: bytes, number: int) -> None:
            os.write(writing, _FACT.pack(fact, number, time.monotonic()))

        def run() -> None:
            os.close(reading)
            with suppress(HybridQueueError, OSError):  # the power is gone
                work(tell)
            signal.pause()  # a process does not end because a disk does

        self._pid = forked(run)
        os.close(writing)
        self._pipe = reading
        self.history: list[tuple[bytes, int, float]] = []

    def listen(self) -> int:
        """Wait for facts; how many came."""
        if not select.select([self._pipe], [], [], _PATIENCE)[0]:
            raise AssertionError(f"hangs after {self.facts()}")
        data = os.read(self._pipe, 32 * _FACT.size)
        assert data, f"ended after {self.facts()}"
        return self._note(data)

    def _note(self, data: bytes) -> int:
        facts = list(_FACT.iter_unpack(data))
        self.history += facts
        return len(facts)

    def facts(self, until: float = math.inf) -> Facts:
        """What it had told by then."""
        told = {_NAMES[fact]: number for fact, number, when in self.history if when <= until}
        return Facts(**told)

    def end(self) -> None:
        """Kill it; what it has told is known from now on."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        while data := os.read(self._pipe, 4096 * _FACT.size):
            self._note(data)
        os.close(self._pipe)


def _work(subject: Subject, directory: Path, seed: int, tell: Tell) -> None:
    """Send and take for ever, one or many at a time, telling of each call before and after."""
    chance = random.Random(seed + 1)
    sent = taken = 0
    _report_flushes(lambda: sent, tell)
    queue = subject.open(directory, chance.choice((1, 5, 50, 300)))
    while True:
        if chance.random() < 0.65 or queue.depth == 0:
            count = chance.choice((1, 1, 1, 2, 5, 30))
            tell(b"s", sent + count)
            batch = messages(seed, sent, sent + count)
            if count == 1:
                queue.enqueue(batch[0])
            else:
                queue.enqueue_many(batch)
            sent += count
            tell(b"a", sent)
        else:
            count = chance.choice((1, 1, 10, 60))
            tell(b"t", taken + min(count, queue.depth))
            taken += len([queue.dequeue()] if count == 1 else queue.dequeue_many(count))
            tell(b"T", taken)


def _report_flushes(acknowledged: Callable[[], int], tell: Tell) -> None:
    """From now on, in this process, tell what had been acknowledged before a flush by the clock."""
    flush = Writer.flush_soon

    def reporting(writer: Writer) -> None:
        before = acknowledged()
        flush(writer)
        with suppress(OSError):
            os.fdatasync(writer._data.fd)  # fails if the power went meanwhile
            tell(b"f", before)

    Writer.flush_soon = reporting  # type: ignore[method-assign, assignment] # in a child that gets killed
