"""Queues in a known state, operations on them, and what may be left of one that is cut short."""

import os
import shutil
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from hq_core import HybridQueue, HybridQueueError, InlinePump, QueueEmpty, Unlimited
from hq_core.engine.leases import Lease
from hq_core.protocols import Pump
from hq_core.testing import ManualPump
from tests.hq_core.promises.staging import backend_named, balanced, drain, items
from tests.hq_core.promises.tracing import Interrupter

__all__ = ["KINDS", "OPERATIONS", "Outcome", "World", "sweep"]

BATCH: Final = 3
_SOON: Final = 4.0
"""Seconds in which all has to be looked at."""
NEW: Final = items(BATCH, start=1000)
ITEM: Final = 10
FRAMING: Final = {"memory": 4, "file": 4, "lmdb": 8}
"""Bytes that a record costs besides."""

Kind = Literal["memory only", "overflowing", "durable"]
KINDS: Final[tuple[Kind, ...]] = ("memory only", "overflowing", "durable")


@dataclass
class World:
    """A queue and what is in it."""

    directory: Path
    backend: str
    kind: Kind
    pump: Pump
    queue: HybridQueue = field(init=False)
    there: list[bytes] = field(init=False)
    """What is in the queue, in order."""
    lease: Lease | None = None
    held: list[bytes] = field(default_factory=list)
    """What this thread took last, and is done with when it asks for more."""

    def open(self, filled: int, memory_items: int = 4, **options: Any) -> None:
        """Open the queue and put items in."""
        self.queue = self.opened(memory_items, **options)
        self.there = items(filled, size=ITEM)
        for item in self.there:
            self.queue.enqueue(item)

    def opened(self, memory_items: int = 4, **options: Any) -> HybridQueue:
        """The stream, opened."""
        return HybridQueue(
            "stream",
            memory_items,
            self.directory,
            limiter=Unlimited(),
            pump=self.pump,
            backend=backend_named(self.backend),
            durable=self.kind == "durable",
            **options,
        )

    def took(self, count: int) -> None:
        """`count` items leave the queue, and what was read with them is read ahead."""
        for expected in self.there[:count]:
            assert self.queue.dequeue() == expected
            self.held = [expected] if self.kind == "durable" else []
        del self.there[:count]

    @property
    def filled(self) -> int:
        """How many items make the queue of this kind."""
        return 3 if self.kind == "memory only" else 10


Prepare = Callable[[World], Callable[[], object]]
Allowed = Callable[[World], list[list[bytes]]]


@dataclass(frozen=True)
class Operation:
    """What is done, and what may be in the queue when it was cut short."""

    prepare: Prepare
    allowed: Allowed
    takes: int = 0
    """How many items it takes, and only Python could save when it does not return them."""
    kinds: tuple[Kind, ...] = KINDS
    repeat: bool = False
    """Whether it is called again, as after Ctrl-C in `close` or `ack`."""


def _same(world: World) -> list[list[bytes]]:
    return [world.there]


def _enqueue(world: World) -> Callable[[], object]:
    world.open(world.filled)
    return lambda: world.queue.enqueue(NEW[0])


def _enqueue_many(world: World) -> Callable[[], object]:
    world.open(world.filled)
    return lambda: world.queue.enqueue_many(NEW)


def _enqueue_into_an_empty_queue(world: World) -> Callable[[], object]:
    world.open(0)
    return lambda: world.queue.enqueue(NEW[0])


def _enqueue_in_vain(world: World) -> Callable[[], object]:
    """It parks, and gives up at its deadline."""
    world.open(world.filled, when_full="block", max_overflow_bytes=1)
    return lambda: world.queue.enqueue(NEW[0], 0.001)


def _in_vain(world: World) -> list[list[bytes]]:
    return [world.there]


def _wait_in_vain_for_room(world: World) -> Callable[[], object]:
    each = ITEM + FRAMING[world.backend]
    world.open(0, 2, when_full="block", max_overflow_bytes=3 * each)
    world.there = items(3 if world.kind == "durable" else 5, size=ITEM)
    for item in world.there:
        world.queue.enqueue(item)
    return lambda: world.queue.enqueue(NEW[0].ljust(ITEM, b"."), 0.001)


def _drop_the_oldest(world: World) -> Callable[[], object]:
    each = ITEM + FRAMING[world.backend]
    world.open(0, 2, when_full="drop_oldest", max_overflow_bytes=3 * each)
    world.there = items(3 if world.kind == "durable" else 5, size=ITEM)
    for item in world.there:
        world.queue.enqueue(item)
    return lambda: world.queue.enqueue(NEW[0].ljust(ITEM, b"."))


def _dropped(world: World) -> list[list[bytes]]:
    new = [NEW[0].ljust(ITEM, b".")]
    # Where memory is wanting while the backend reads, one more may be dropped than was needed.
    return [world.there[n:] + added for n in range(3) for added in ([], new)]


def _dequeue(world: World) -> Callable[[], object]:
    world.open(world.filled)
    return lambda: world.queue.dequeue()


def _dequeue_what_was_read_ahead(world: World) -> Callable[[], object]:
    world.open(20, 1)
    world.took(3)
    return lambda: world.queue.dequeue()


def _dequeue_what_is_stored(world: World) -> Callable[[], object]:
    """Memory is empty: so it refills."""
    world.open(12)
    world.took(0 if world.kind == "durable" else 4)
    return lambda: world.queue.dequeue()


def _dequeue_many(world: World) -> Callable[[], object]:
    world.open(world.filled)
    return lambda: world.queue.dequeue_many(BATCH)


def _dequeue_all(world: World) -> Callable[[], object]:
    world.open(world.filled)
    return lambda: world.queue.dequeue_many(100)


def _try_dequeue(world: World) -> Callable[[], object]:
    world.open(world.filled)
    return lambda: world.queue.try_dequeue()


def _dequeue_the_last(world: World) -> Callable[[], object]:
    """What was stored is passed on with it: so it trims."""
    world.open(6)
    world.took(5)
    return lambda: world.queue.dequeue()


def _wait_in_vain(world: World) -> Callable[[], object]:
    world.open(0)
    return lambda: world.queue.dequeue(0.001)


def _take_what_was_given_back(world: World) -> Callable[[], object]:
    world.open(world.filled)
    world.queue.lease(2).nack()
    return lambda: world.queue.dequeue_many(BATCH)


def _lease(world: World) -> Callable[[], object]:
    world.open(world.filled)

    def lease() -> None:
        world.lease = world.queue.lease(BATCH)

    return lease


def _lease_block(world: World) -> Callable[[], object]:
    """Only what comes before the block is entered, and what comes in it, gives the items back."""
    world.open(world.filled)

    def lease() -> None:
        with world.queue.lease(BATCH) as taken:
            assert taken == world.there[:BATCH]
            raise KeyError

    return lambda: _suppressing(lease)


def _suppressing(call: Callable[[], object]) -> None:
    with suppress(KeyError):
        call()


def _leased(world: World) -> Lease:
    world.open(world.filled)
    world.lease = world.queue.lease(2)
    return world.lease


def _ack(world: World) -> Callable[[], object]:
    lease = _leased(world)
    del world.there[:2]
    return lease.ack


def _nack(world: World) -> Callable[[], object]:
    return _leased(world).nack


def _refill(world: World) -> Callable[[], object]:
    """A step of the pump."""
    world.open(12)
    world.took(0 if world.kind == "durable" else 3)
    return world.queue._engine.pumping.step


def _trim(world: World) -> Callable[[], object]:
    """The 256 items that a consumer is done with, or all that was stored, are trimmed."""
    world.open(300, 100)
    world.took(256 if world.kind == "durable" else 299)
    return lambda: world.queue.dequeue()


def _close(world: World) -> Callable[[], object]:
    world.open(world.filled)
    return world.queue.close


def _one_more(world: World) -> list[list[bytes]]:
    return [world.there, world.there + NEW[:1]]


OPERATIONS: Final[dict[str, Operation]] = {
    "enqueue": Operation(_enqueue, _one_more),
    "enqueue into an empty queue": Operation(_enqueue_into_an_empty_queue, _one_more),
    "enqueue_many": Operation(_enqueue_many, lambda w: [w.there, w.there + NEW]),
    "enqueue that waits in vain": Operation(
        _wait_in_vain_for_room, _same, kinds=("overflowing", "durable")
    ),
    "enqueue that drops the oldest": Operation(
        _drop_the_oldest, _dropped, kinds=("overflowing", "durable")
    ),
    "dequeue": Operation(_dequeue, _same, 1),
    "dequeue of what was read ahead": Operation(
        _dequeue_what_was_read_ahead, _same, 1, ("overflowing", "durable")
    ),
    "dequeue that refills": Operation(
        _dequeue_what_is_stored, _same, 1, ("overflowing", "durable")
    ),
    "dequeue of the last": Operation(_dequeue_the_last, _same, 1, ("overflowing", "durable")),
    "dequeue that waits in vain": Operation(_wait_in_vain, _same),
    "dequeue_many": Operation(_dequeue_many, _same, BATCH),
    "dequeue_many of all there is": Operation(_dequeue_all, _same, 100),
    "dequeue_many of what was given back": Operation(_take_what_was_given_back, _same, BATCH),
    "try_dequeue": Operation(_try_dequeue, _same, 1),
    "lease": Operation(_lease, _same, BATCH),
    "lease in a block that raises": Operation(_lease_block, _same, BATCH),
    "ack": Operation(_ack, _same, repeat=True),
    "nack": Operation(_nack, _same, repeat=True),
    "refill": Operation(_refill, _same, kinds=("overflowing", "durable")),
    "trim": Operation(_trim, _same, 1, ("overflowing", "durable")),
    "close": Operation(_close, _same, repeat=True),
}


@dataclass
class Outcome:
    """What a sweep has come to."""

    points: int = 0
    """Points there are."""
    tried: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    """Items that were taken and given to nobody, by place."""
    wrong: list[str] = field(default_factory=list)
    lapses: dict[str, int] = field(default_factory=dict)
    """Items that come back only when their lease ends, by place."""
    swallowed: dict[str, int] = field(default_factory=dict)
    """Places at which what was raised did not come out."""


def sweep(
    name: str,
    kind: Kind,
    backend: str,
    pump: type[ManualPump] | type[InlinePump],
    exception: type[BaseException],
    directory: Path,
    *,
    every: int,
) -> Outcome:
    """Cut the operation `name` short at every point of it, or at each `every`-th."""
    operation, outcome = OPERATIONS[name], Outcome()
    first = (sum(map(ord, name + kind + backend + exception.__name__)) % every) + 1
    at = 0
    while True:
        place = directory / str(at)
        world = World(place, backend, kind, pump())
        interrupter = Interrupter(at, exception)
        came = False
        call = operation.prepare(world)
        try:
            interrupter.call(call)
        except exception:
            came = True
        except HybridQueueError:
            pass
        if at == 0:
            outcome.points = interrupter.points
            world.queue.close()
            at = first
        else:
            where = f"{interrupter.place} (point {at})"
            if interrupter.place:
                outcome.tried += 1
                if not came:
                    outcome.swallowed[where] = outcome.swallowed.get(where, 0) + 1
                _examine(world, operation, name, call, where, outcome, at, came)
            else:
                world.queue.close()
            at += every
        shutil.rmtree(place, ignore_errors=True)
        if at > outcome.points:
            return outcome


def _examine(
    world: World,
    operation: Operation,
    name: str,
    call: Callable[[], object],
    where: str,
    outcome: Outcome,
    at: int,
    came: bool,
) -> None:
    """Look at the queue from another thread."""
    found: list[str] = []

    def look() -> None:
        try:
            _look(world, operation, name, where, outcome, at, came)
        except BaseException as exc:
            frames = traceback.extract_tb(exc.__traceback__)
            lines = ", ".join(f"{Path(f.filename).name}:{f.lineno}" for f in frames[-3:])
            found.append(f"{type(exc).__name__}: {exc} ({lines})")

    if operation.repeat and came and name != "close":
        with suppress(HybridQueueError):
            call()
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(_SOON)
    if thread.is_alive():
        found.append("it hangs")
    elif found:
        with suppress(HybridQueueError):
            world.queue.close()
    outcome.wrong += [f"{where}: {what}" for what in found]


def _look(
    world: World,
    operation: Operation,
    name: str,
    where: str,
    outcome: Outcome,
    at: int,
    came: bool,
) -> None:
    queue = first = world.queue
    if name == "close":
        queue.close()
        if came:
            _is_closed(world)
        else:  # the backend's own failure, which was told: it may have left something behind
            balanced(queue)
            world.opened(1).close()
        return
    balanced(queue)
    if not came and operation.takes:
        queue.close()  # the items may have been returned: nothing to be compared
        return
    if name == "lease in a block that raises" and queue.stats().leased:
        # Python cannot save it: the block was about to be entered, or left. Its deadline does.
        outcome.lapses[where] = queue.stats().leased
        queue._engine._clock = lambda: time.monotonic() + 1000
    assert queue.stats().leased == 0 or outcome.lapses, "it is leased to nobody"
    if world.kind == "durable" and at % 2:
        queue.close()
        queue = world.queue = world.opened(100)
    got = _all(queue) if outcome.lapses else drain(queue)
    allowed = operation.allowed(world)
    if queue is not first:  # what the interrupted thread still held comes again
        allowed = [world.held[n:] + there for n in range(2) for there in allowed]
    if got not in allowed:
        lost = next((n for n in range(1, operation.takes + 1) if got == world.there[n:]), 0)
        assert lost, f"there were {_short(got)}, expected {_short(world.there)}"
        outcome.lost[where] = lost
    balanced(queue)
    _goes_on(queue)
    queue.close()


def _all(queue: HybridQueue) -> list[bytes]:
    """Also what is leased, and the lease of which has ended."""
    found: list[bytes] = []
    with suppress(QueueEmpty):
        while True:
            found.append(queue.try_dequeue())
    return found


def _is_closed(world: World) -> None:
    balanced(world.queue)
    if world.kind == "durable":
        queue = world.opened(100)
        assert drain(queue) == world.there
        queue.close()
    else:
        assert os.listdir(world.directory) == [], "something is left"  # noqa: PTH208
        world.opened(1).close()


def _goes_on(queue: HybridQueue) -> None:
    """It stores, gives and waits as before, and nobody is woken instead of who waits."""
    more = items(9, start=2000)
    for item in more[:8]:
        queue.enqueue(item, 0) if queue._engine.when_full == "raise" else _pass(queue, item)
    if queue._engine.when_full == "raise":
        assert drain(queue) == more[:8]
    got: list[bytes] = []
    waiting = threading.Thread(target=lambda: got.append(queue.dequeue(_SOON)), daemon=True)
    waiting.start()
    queue.enqueue(more[8])
    waiting.join(_SOON)
    assert got == more[8:], "who waits does not get what comes"
    balanced(queue)


def _pass(queue: HybridQueue, item: bytes) -> None:
    queue.enqueue(item)
    assert queue.dequeue() == item


def _short(found: list[bytes]) -> str:
    return ", ".join(item.decode().strip(".").removeprefix("item ") for item in found) or "nothing"
