"""What was handed out and is not done: whose it is, and what of the log may be trimmed. Pure.

An item has a holder: the thread or task that took it, or a lease. Only its holder finishes it.
Items are handed out in runs, kept here in the order of the queue::

    done | run: done | run: held | run: leased | run: given back | still in the queue
         ^ trimmed up to here

Rules:

- A log is trimmed by prefix. `done` counts the records in front of the first run that is not done.
- A thread or task finishes what it holds when it takes more, when it ends, or when it has been
  overtaken by `MAX_OVERTAKING` later items or `MAX_OVERTAKING_BYTES` of them, so that an idle one
  cannot pin the log. A lease finishes by `ack`; at its deadline its items are given back.
- What was given back is taken again before anything else, in order, and is held by its new holder.
- In a queue that is not durable nothing here is in the log: there are leases and what was given
  back; runs that are held only until what was taken back has reached its taker.
- A method that is interrupted has done nothing, or what it leaves undone is done by the next one:
  what belongs together changes in lines without a call.
"""

import enum
import itertools
import math
from bisect import insort
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Final, Protocol

__all__ = ["MAX_OVERTAKING", "MAX_OVERTAKING_BYTES", "Holder", "InFlight", "Run"]

MAX_OVERTAKING: Final = 1024
"""Later items by which what a thread or task holds may be overtaken."""
MAX_OVERTAKING_BYTES: Final = 64 * 1024 * 1024
_MIN_COMPACT: Final = 32
"""Runs from which neighbours that are done are joined, if they have doubled since the last time."""


class Ending(Protocol):
    """A thread or task, as far as it matters here."""

    def done(self) -> bool:
        """Whether it has ended."""


Holder = Callable[[], Ending | None]
"""A weak reference to a thread or task, which compares equal for the same one."""


class State(enum.Enum):
    """What has become of a run."""

    HELD = enum.auto()
    """With the thread or task that took it."""
    LEASED = enum.auto()
    BACK = enum.auto()
    """Given back, and not taken again."""
    DONE = enum.auto()


class Run:
    """Neighbouring items that were handed out together."""

    __slots__ = ("count", "holder", "items", "mark", "place", "size", "state", "until")

    def __init__(self, state: State, count: int, size: int) -> None:
        self.state = state
        self.count = count
        self.size = size
        """Bytes of their payload."""
        self.holder: Holder | None = None
        self.items: list[bytes] = []
        """The items, if they may be given back."""
        self.place = 0
        """The place of the first, if they may be given back; places are 1, 2, 3 and so on."""
        self.until = math.inf
        """When a lease ends, on the engine's clock."""
        self.mark = (0, 0)
        """Items, and their bytes, that had been handed out to threads and tasks by then."""

    def split(self, count: int) -> "tuple[Run, Run]":
        """What was given back, as two: its first `count` items, and the rest, if any."""
        parts = []
        for place, items in ((0, self.items[:count]), (count, self.items[count:])):
            part = Run(State.BACK, len(items), sum(map(len, items)))
            part.items, part.place = items, self.place + place
            parts.append(part)
        return parts[0], parts[1]


class InFlight:
    """The runs of one queue, and how many records in front of them are done."""

    __slots__ = ("_compact_at", "_durable", "_handed", "_held", "back", "done", "leases", "runs")

    def __init__(self, durable: bool) -> None:
        self._durable = durable
        self.runs: list[Run] = []
        self.done = 0
        """Records at the front of the log that may be trimmed."""
        self.back = 0
        """Items that were given back and are to be taken again."""
        self.leases: list[Run] = []
        """Runs out under a lease."""
        self._held: dict[Holder, list[Run]] = {}
        self._handed = (0, 0)
        self._compact_at = _MIN_COMPACT

    def records(self) -> int:
        """Records of the log that are done or in a run."""
        return self.done + sum(run.count for run in self.runs) if self._durable else 0

    def leased(self) -> tuple[int, int]:
        """Items out under a lease, and their bytes."""
        out = [run for run in self.leases if run.state is State.LEASED]
        return sum(run.count for run in out), sum(run.size for run in out)

    def pinned(self) -> int:
        """Bytes of records that are done, but behind one that is not."""
        return sum(run.size for run in self.runs if run.state is State.DONE)

    def first_place(self) -> int | None:
        """The place of the oldest item that is leased or was given back; None if there is none."""
        if not (self.leases or self.back):
            return None
        out = (State.LEASED, State.BACK)
        return next((run.place for run in self.runs if run.state in out), None)

    def next_lapse(self) -> float:
        """When the next lease ends; infinity if there is none."""
        return min((run.until for run in self.leases), default=math.inf)

    # ---- handing out -------------------------------------------------------------------------

    def hand(self, holder: Holder, count: int, size: int) -> None:
        """`holder` takes the next `count` records of the log."""
        run = Run(State.HELD, count, size)
        held = self._hold([run], holder)
        # No call from here on.
        self._held[holder] = held
        self.runs += (run,)
        # Until here.
        self.advance()

    def lease(self, items: list[bytes], until: float, place: int) -> Run:
        """Lease the next `items` of the queue, the first of which has `place`."""
        run = Run(State.LEASED, len(items), sum(map(len, items)))
        run.items, run.until, run.place = items, until, place
        handed = (self._handed[0] + run.count, self._handed[1] + run.size)
        # No call from here on.
        self.leases = [*self.leases, run]
        self.runs += (run,)
        self._handed = handed
        return run

    def take_back(
        self, into: list[bytes], max_items: int, holder: Holder, until: float | None
    ) -> list[Run]:
        """Hand out up to `max_items` of what was given back, which are added to `into`.

        `holder` holds them; with `until`, they are leased until then instead.
        """
        state = State.HELD if until is None else State.LEASED
        runs: list[Run] = []
        taken: list[Run] = []
        count = 0
        for run in self.runs:
            if run.state is not State.BACK or count == max_items:
                runs.append(run)
                continue
            # New ones in its place: whoever leased it can finish neither any more.
            first, rest = run.split(max_items - count)
            first.state = state
            first.until = math.inf if until is None else until
            count += first.count
            taken.append(first)
            runs.append(first)
            if rest.count:
                runs.append(rest)
        items = list(itertools.chain.from_iterable(run.items for run in taken))
        held = self._hold(taken, holder) if until is None else []
        # No call from here on.
        into += items
        self.runs = runs
        self.back -= count
        if until is None:
            self._held[holder] = held
        else:
            self.leases = [*self.leases, *taken]
        return taken

    def reached(self, holder: Holder) -> None:
        """What `holder` took back has reached it: nobody will put that back."""
        held = self._held.get(holder, [])
        if self._durable:
            for run in held:
                run.items = []
        else:
            runs = [run for run in self.runs if run not in held]
            # No call from here on.
            self.runs = runs
            del self._held[holder]

    def put_back(
        self, items: list[bytes], leased: Iterable[Run], holder: Holder, loose: int, newest: int
    ) -> None:
        """`items` were handed out, but do not reach their taker: they are to be taken again.

        In order they are those of the runs `leased`, of those that `holder` holds, and then,
        `loose` at most, of none. `newest` is the place of the last.
        """
        at = 0
        first = newest - len(items) + 1
        for run in (*leased, *self._held.get(holder, ())):
            its, place = items[at : at + run.count], run.place or first + at
            at += run.count
            if run.state in (State.HELD, State.LEASED):
                # No call from here on.
                run.items, run.place = its, place
                run.state = State.BACK
                self.back += run.count
                # Until here.
        self._forget_leases()
        self._held.pop(holder, None)
        rest = items[at : at + loose]
        if rest:
            run = Run(State.BACK, len(rest), sum(map(len, rest)))
            run.items, run.place = rest, first + at
            runs = self.runs[:]
            if self._durable:  # the next ones of the log
                runs.append(run)
            else:
                insort(runs, run, key=attrgetter("place"))
            # No call from here on.
            self.runs = runs
            self.back += run.count

    # ---- finishing ---------------------------------------------------------------------------

    def finish(self, holder: Holder) -> None:
        """`holder` is done with what it holds."""
        if holder in self._held:
            for run in self._held[holder]:
                if run.state is State.HELD:
                    run.state = State.DONE
            del self._held[holder]
            self.advance()

    def finish_oldest(self, holder: Holder) -> None:
        """`holder` is done with what it holds, if that is what keeps the log from being trimmed."""
        if self.runs and self.runs[0].holder == holder:
            self.finish(holder)

    def ack(self, run: Run) -> bool:
        """The lease of `run` is done; False: its items are with somebody else by now."""
        if run.state is State.BACK and run in self.runs:  # late, but nobody has taken them again
            self.back -= run.count
            run.state = State.DONE
        elif run.state is State.LEASED:
            run.state = State.DONE
        else:
            return False
        self._forget_leases()
        self.advance()
        return True

    def give_back(self, run: Run) -> None:
        """End the lease of `run`, its items not being done. Nothing happens if it has ended."""
        if run.state is State.LEASED:
            run.state = State.BACK
            self.back += run.count
            self._forget_leases()

    def forget_back(self) -> None:
        """What was given back is not to be taken again."""
        runs = [run for run in self.runs if run.state is not State.BACK]
        # No call from here on.
        self.runs = runs
        self.back = 0

    def lapsed(self, now: float) -> list[Run]:
        """Leases that have ended by `now`, and whose items are to be given back."""
        return [run for run in self.leases if run.until <= now]

    def advance(self) -> None:
        """Let `done` pass over what is done at the front."""
        while self.runs:
            first = self.runs[0]
            if first.state is State.HELD and self._is_over(first):
                first.state = State.DONE
                self._forget(first)
            if first.state is not State.DONE:
                break
            count = first.count if self._durable else 0
            self.done += count
            del self.runs[0]
        if len(self.runs) > self._compact_at:
            self._compact()

    # ---- inside ------------------------------------------------------------------------------

    def _hold(self, runs: list[Run], holder: Holder) -> list[Run]:
        """What `holder` holds once it has the new `runs` too."""
        held = [*self._held.get(holder, ()), *runs]
        items, size = self._handed
        for run in runs:
            run.holder = holder
            items, size = items + run.count, size + run.size
        self._handed = (items, size)
        for run in held:  # what one takes itself does not overtake what it holds
            run.mark = self._handed
        return held

    def _forget(self, run: Run) -> None:
        """Its holder does not hold `run` any more."""
        holder = run.holder
        if holder in self._held:
            left = [other for other in self._held[holder] if other is not run]
            if left:
                self._held[holder] = left
            else:
                del self._held[holder]

    def _is_over(self, run: Run) -> bool:
        """Whether its holder has ended or was overtaken."""
        items, size = self._handed
        overtaken = items - run.mark[0] >= MAX_OVERTAKING
        if overtaken or size - run.mark[1] >= MAX_OVERTAKING_BYTES:
            return True
        taker = run.holder() if run.holder else None
        return taker is None or taker.done()

    def _forget_leases(self) -> None:
        """Drop those that have ended."""
        self.leases = [run for run in self.leases if run.state is State.LEASED]

    def _compact(self) -> None:
        """Join neighbours that are done."""
        joined: list[Run] = []
        for run in self.runs:
            if joined and joined[-1].state is run.state is State.DONE:
                size = joined[-1].size + run.size
                joined[-1] = Run(State.DONE, joined[-1].count + run.count, size)
            else:
                joined.append(run)
        self.runs = joined
        self._compact_at = max(_MIN_COMPACT, 2 * len(joined))
