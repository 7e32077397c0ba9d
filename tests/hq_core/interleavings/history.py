"""Whether what calls on a queue gave, at the same time, could have come of one after the other.

`Recorded` is a queue that notes its calls. `History.check` looks for an order of them in which each
lies between its beginning and its end, and which a plain list explains (Wing and Gong, "Testing and
verifying concurrent objects", 1993): items leave in the order in which they came in, once, and what
was given back comes before everything younger.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from hq_core import HybridQueue, Lease, LeaseExpired, QueueEmpty
from hq_core.engine.handle import why_empty
from tests.hq_core.interleavings.world import FOR_EVER, World
from tests.interleaving import Scheduler

__all__ = ["History", "Leased", "Recorded"]

_END = 1 << 60

Kind = Literal["enqueue", "take", "lease", "ack", "late", "nack", "lapse", "empty"]
Places = tuple[tuple[int, bytes], ...]
"""Items with their places: 1, 2, 3 and so on, as they came in."""


@dataclass(eq=False)
class Call:
    """One that had an effect, or found nothing."""

    kind: Kind
    task: str
    items: list[bytes]
    begin: int
    end: int = _END
    lease: int = 0

    def __repr__(self) -> str:
        end = "" if self.end == _END else self.end
        return f"{self.begin}-{end} {self.task}: {self.kind} {b' '.join(self.items).decode()}"


@dataclass(frozen=True)
class State:
    """Of the list, and of what is out under which lease."""

    queue: Places = ()
    leased: frozenset[tuple[int, Places]] = frozenset()
    came: int = 0

    def after(self, call: Call) -> "State | None":
        """None: it cannot be that `call` was made in this state."""
        match call.kind:
            case "enqueue":
                places = enumerate(call.items, self.came + 1)
                return State((*self.queue, *places), self.leased, self.came + len(call.items))
            case "take" | "lease":
                first, rest = self.queue[: len(call.items)], self.queue[len(call.items) :]
                if [item for _, item in first] != call.items:
                    return None
                leased = self.leased
                if call.kind == "lease":
                    leased |= {(call.lease, first)}
                return State(rest, leased, self.came)
            case "empty":
                return None if self.queue else self
            case _:
                return self._ended(call)

    def _ended(self, call: Call) -> "State | None":
        """After the end of a lease. One that lapsed may be acknowledged if nobody has taken any of
        its items since."""
        entry = next((entry for entry in self.leased if entry[0] == call.lease), None)
        if entry is None:
            back = [place for place in self.queue if place[1] in call.items]
            if call.kind == "ack":
                rest = tuple(place for place in self.queue if place not in back)
                whole = len(back) == len(call.items)
                return State(rest, self.leased, self.came) if whole else None
            return None if call.kind == "late" and len(back) == len(call.items) else self
        queue = self.queue
        if call.kind == "late":
            return None
        if call.kind != "ack":
            queue = tuple(sorted((*entry[1], *queue)))
        return State(queue, self.leased - {entry}, self.came)


@dataclass
class History:
    """The calls of one schedule."""

    calls: list[Call] = field(default_factory=list)
    _now: int = 0

    def begin(self, kind: Kind, task: str, items: Sequence[bytes] = ()) -> Call:
        """A call that has an effect from now on."""
        self._now += 1
        return Call(kind, task, list(items), self._now)

    def end(self, call: Call) -> None:
        """It has had its effect."""
        self._now += 1
        call.end = self._now
        self.calls.append(call)

    def check(self) -> Places:
        """There is such an order; what is left in the queue at its end."""
        seen: set[tuple[frozenset[int], State]] = set()
        left = self._follow(frozenset(range(len(self.calls))), State(), seen)
        assert left is not None, f"no order explains {sorted(self.calls, key=lambda c: c.begin)}"
        return left.queue

    def _follow(
        self, rest: frozenset[int], state: State, seen: set[tuple[frozenset[int], State]]
    ) -> State | None:
        """The state at the end, of one order of the calls `rest` that works."""
        if all(self.calls[number].end == _END for number in rest):
            return state
        if (rest, state) in seen:
            return None
        seen.add((rest, state))
        first_end = min(self.calls[number].end for number in rest)
        for number in sorted(rest, key=lambda number: self.calls[number].end):
            call = self.calls[number]
            after = state.after(call) if call.begin < first_end else None
            if after is not None:
                end = self._follow(rest - {number}, after, seen)
                if end is not None:
                    return end
        return None


class Leased:
    """A lease whose end is noted."""

    def __init__(self, queue: "Recorded", lease: Lease, number: int) -> None:
        self.items = lease.items
        self._queue = queue
        self._lease = lease
        self._number = number

    def ack(self) -> bool:
        """False: too late."""
        history = self._queue.history
        call = history.begin("ack", self._queue.me, self.items)
        call.lease = self._number
        self._queue.may_be_done(self.items)
        try:
            self._lease.ack()
        except LeaseExpired:
            call.kind = "late"
        history.end(call)
        return call.kind == "ack"

    def nack(self) -> None:
        history = self._queue.history
        call = history.begin("nack", self._queue.me, self.items)
        call.lease = self._number
        self._lease.nack()
        history.end(call)


class Recorded:
    """A queue that notes its calls, for one schedule.

    With `durable`, this holds after every step: what a killed process would leave behind begins
    where the log was trimmed, goes on without a gap, and has every item that was accepted and that
    its holder may not have finished yet.
    """

    def __init__(
        self, world: World, scheduler: Scheduler, memory_items: int, **options: object
    ) -> None:
        self.history = History()
        self.queue: HybridQueue = world.queue(scheduler, memory_items, **options)
        self.accepted: list[bytes] = []
        self._world = world
        self._scheduler = scheduler
        self._done: set[bytes] = set()
        self._held: dict[str, list[bytes]] = {}
        self._leases = 0
        self._records: list[bytes] = []
        if options.get("durable"):
            world.watch(self._keeps_what_is_not_done)

    @property
    def me(self) -> str:
        return self._scheduler.me

    def enqueue(self, *items: bytes, timeout: float | None = None) -> None:
        call = self.history.begin("enqueue", self.me, items)
        self.may_be_done(self._held.pop(self.me, []))  # it is, if there is no room
        self.queue.enqueue_many(items, timeout)
        self.history.end(call)
        self.accepted += items

    def dequeue(self, timeout: float | None = None) -> bytes:
        return self._take(lambda: [self.queue.dequeue(timeout)])[0]

    def dequeue_many(self, max_items: int, timeout: float | None = None) -> list[bytes]:
        return self._take(lambda: self.queue.dequeue_many(max_items, timeout))

    def try_dequeue(self) -> bytes | None:
        """None: empty."""
        call = self.history.begin("empty", self.me)
        try:
            return self._take(lambda: [self.queue.try_dequeue()])[0]
        except QueueEmpty:
            if "busy" not in why_empty(self.queue._engine):
                self.history.end(call)
            return None

    def lease(
        self, max_items: int = 1, timeout: float | None = None, *, deadline: float = FOR_EVER
    ) -> Leased:
        self._leases += 1
        number = self._leases
        call = self.history.begin("lease", self.me)
        call.lease = number
        self.may_be_done(self._held.pop(self.me, []))
        lease = self.queue.lease(max_items, timeout, deadline=deadline)
        call.items = list(lease.items)
        self.history.end(call)
        if deadline < FOR_EVER:  # it may lapse from now on, or not at all
            lapse = Call("lapse", "clock", call.items, call.begin, lease=number)
            self.history.calls.append(lapse)
        return Leased(self, lease, number)

    def check(self, left: int = 0) -> None:
        """The calls are those of a queue, in which so many items are `left` at the end."""
        assert len(self.history.check()) == left

    def may_be_done(self, items: Sequence[bytes]) -> None:
        """Their holder says, or is about to say, that it is done with them."""
        self._done.update(items)

    def _take(self, take: Callable[[], list[bytes]]) -> list[bytes]:
        call = self.history.begin("take", self.me)
        self.may_be_done(self._held.pop(self.me, []))
        call.items = take()
        self.history.end(call)
        self._held[self.me] = call.items
        return call.items

    def _keeps_what_is_not_done(self) -> None:
        records, before = list(self._world.records), self._records
        if records == before:
            return
        counts = range(len(before) + 1)
        trimmed = next(n for n in counts if records[: len(before) - n] == before[n:])
        ended = [name for name in self._held if self._scheduler.has_ended(name)]
        for name in ended:
            self.may_be_done(self._held.pop(name))
        lost = set(before[:trimmed]) - self._done
        assert not lost, f"{sorted(lost)} are gone, and not done"
        assert not set(self.accepted) - self._done - set(records)
        self._records = records
