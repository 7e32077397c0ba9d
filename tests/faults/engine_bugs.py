"""Bugs to plant in the engine: each is a way to write it wrong, and what finds it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import pytest

from hq_core.engine import engine as engines
from hq_core.engine import in_flight as ledgers
from hq_core.engine.accounts import Accounts
from hq_core.engine.engine import Engine
from hq_core.engine.in_flight import Holder, InFlight, Run, State
from hq_core.engine.leases import Lease
from hq_core.engine.overflow import Overflow
from hq_core.engine.pumping import Pumping
from hq_core.engine.waiters import Line, Waiter, wake_all
from hq_core.errors import HybridQueueError

__all__ = ["ENGINE_BUGS", "EngineBug"]

Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class EngineBug:
    """How to plant it, and who is to find it: a subject of the machine, or a named promise."""

    plant: Plant
    found_by: str


def _instead(owner: Any, name: str, value: object) -> Plant:
    return lambda patch: patch.setattr(owner, name, value)


def _around(owner: Any, name: str, wrap: Callable[..., Callable[..., Any]]) -> Plant:
    """`wrap` gets what was there."""
    return lambda patch: patch.setattr(owner, name, wrap(getattr(owner, name)))


# ---- what is stored, and trimmed ----------------------------------------------------------------


def _settle_forgets_depth(settle: Callable[[Engine], None]) -> Callable[[Engine], None]:
    def settling(self: Engine) -> None:
        if self.overflow.doing != "trim":
            settle(self)
            return
        self.overflow.size_bytes = self.overflow.facts()[1]
        self.overflow.doing = ""

    return settling


def _settle_leaves_passed(settle: Callable[[Engine], None]) -> Callable[[Engine], None]:
    def settling(self: Engine) -> None:
        was_trim, passed = self.overflow.doing == "trim", self.overflow.passed
        settle(self)
        if was_trim and self.overflow.passed < passed:
            self.overflow.passed = min(passed, self.overflow.depth)

    return settling


def _trim_what_is_read(trim: Callable[[Engine], bool]) -> Callable[[Engine], bool]:
    def trimming(self: Engine) -> bool:
        if self.durable or not self.overflow.ahead or not self.overflow.passed:
            return trim(self)
        with suppress(HybridQueueError):
            self.overflow.trim(self.overflow.passed + 1, self._clock())
        self._settle()
        return True

    return trimming


def _skipping(read: Callable[[Overflow], list[bytes]]) -> Callable[[Overflow], list[bytes]]:
    def reading(self: Overflow) -> list[bytes]:
        late = self.unread > 1 and not self.ahead and self.doing == "trim"
        self.passed += late
        try:
            return read(self)
        finally:
            self.passed -= late

    return reading


def _doing_is_kept(settle: Callable[[Engine], None]) -> Callable[[Engine], None]:
    def settling(self: Engine) -> None:
        doing = self.overflow.doing
        settle(self)
        self.overflow.doing = doing

    return settling


def _late_after_a_trim(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Overflow, "read", _skipping(Overflow.read))
    patch.setattr(Engine, "_settle", _doing_is_kept(Engine._settle))


def _memory_while_read_ahead(put: Callable[..., bool]) -> Callable[..., bool]:
    def putting(self: Engine, items: Sequence[bytes], offered: float, **admit: bool) -> bool:
        overflow = self.overflow
        passed = overflow.passed
        if not overflow.unread:
            overflow.passed = overflow.depth
        try:
            return put(self, items, offered, **admit)
        finally:
            overflow.passed = passed

    return putting


def _damage_twice(lose: Callable[..., None]) -> Callable[..., None]:
    def losing(self: Accounts, count: int, behind: int) -> None:
        lose(self, count, behind)
        self.damaged += count

    return losing


def _failed_trim_given_up(trim: Callable[..., bool]) -> Callable[..., bool]:
    def trimming(self: Overflow, count: int, now: float) -> bool:
        try:
            return trim(self, count, now)
        finally:
            self.retry_trim *= 2

    return trimming


# ---- holders --------------------------------------------------------------------------------


def _finish_all(self: InFlight) -> None:
    for holder in list(self._held):
        finish(self, holder)


finish = InFlight.finish


def _pump_finishes(step: Callable[[Pumping], bool]) -> Callable[[Pumping], bool]:
    def stepping(self: Pumping) -> bool:
        engine: Engine = self._has_work.__self__  # type: ignore[attr-defined] # a bound method
        with self._locks.mutex:
            _finish_all(engine._in_flight)
        return step(self)

    return stepping


def _any_consumer_finishes(self: InFlight, holder: Holder) -> None:
    _finish_all(self)


def _drop_finishes(make_room: Callable[..., bool]) -> Callable[..., bool]:
    def making(self: Engine, *args: Any, **options: Any) -> bool:
        dropped = self._accounts.dropped
        made = make_room(self, *args, **options)
        if self._accounts.dropped > dropped:
            _finish_all(self._in_flight)
        return made

    return making


def _close_finishes_all(close: Callable[..., None]) -> Callable[..., None]:
    def closing(self: Engine, **options: Any) -> None:
        if options.get("finish", True):
            _finish_all(self._in_flight)
        close(self, **options)

    return closing


def _finish_whatever(close: Callable[..., None], **forced: Any) -> Callable[..., None]:
    def closing(self: Engine, **options: Any) -> None:
        close(self, **{**options, **forced})

    return closing


def _never_over(self: InFlight, run: Run) -> bool:
    return False


def _only_the_dead(self: InFlight, run: Run) -> bool:
    taker = run.holder() if run.holder else None
    return taker is None or taker.done()


# ---- leases ---------------------------------------------------------------------------------


def _back_to_the_end(give_back: Callable[[InFlight, Run], None]) -> Callable[[InFlight, Run], None]:
    def giving(self: InFlight, run: Run) -> None:
        give_back(self, run)
        if run.state is State.BACK and run in self.runs:
            self.runs.remove(run)
            self.runs.append(run)

    return giving


def _late_ack_counts(ack: Callable[[InFlight, Run], bool]) -> Callable[[InFlight, Run], bool]:
    def acking(self: InFlight, run: Run) -> bool:
        if ack(self, run):
            return True
        other = next((r for r in self.leases if r.items[:1] == run.items[:1]), None)
        return other is not None and ack(self, other)

    return acking


def _lapse_twice(self: InFlight, now: float) -> list[Run]:
    ended = [run for run in self.leases if run.until <= now]
    self.back += sum(run.count for run in ended)
    return ended


def _wakes_nobody(end: Callable[..., int]) -> Callable[..., int]:
    def ending(self: Engine, runs: Sequence[Run], done: bool) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Line, "wake", lambda self, count: None)
            patch.setattr(Line, "wake_all", lambda self: None)
            return end(self, runs, done)

    return ending


def _never_lapses(lease: Callable[..., Run]) -> Callable[..., Run]:
    return lambda self, items, until, place: lease(self, items, float("inf"), place)


def _acked_again(patch: pytest.MonkeyPatch) -> None:
    end = Engine._end_lease

    def ending(self: Engine, runs: Sequence[Run], done: bool) -> int:
        again = sum(run.count for run in runs if done and run.state is State.DONE)
        late = end(self, runs, done)
        self._accounts.dequeued += again
        return late

    def ack(self: Lease) -> None:
        self._lessor.end_lease(self.runs, done=True)

    patch.setattr(Engine, "_end_lease", ending)
    patch.setattr(Lease, "ack", ack)


def _leased_not_counted(counts: Callable[[InFlight], tuple[int, int]]) -> Callable[..., Any]:
    return lambda self: (0, counts(self)[1])


def _age_of_what_is_not_back(oldest_age: Callable[..., float]) -> Callable[..., float]:
    def younger(self: Accounts, span: int, now: float) -> float:
        return oldest_age(self, max(0, span - 2), now)

    return younger


# ---- waking, outages, the end -------------------------------------------------------------------


def _loses_its_place(park: Callable[[Line, Waiter], None]) -> Callable[[Line, Waiter], None]:
    def parking(self: Line, waiter: Waiter) -> None:
        waiter.place = 0
        park(self, waiter)

    return parking


def _not_passed_on(self: Engine, waiter: Waiter) -> None:
    with self._locks.mutex:
        for line in self._lines:
            line.leave(waiter)


def _landing_is_forgotten(mend: Callable[..., None]) -> Callable[..., None]:
    def mending(self: Engine) -> None:
        self._landing = None
        mend(self)

    return mending


def _stays_away(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Overflow, "in_contact", lambda self: None)


def _lose_keeps_memory(self: Engine, error: HybridQueueError) -> None:
    with self._locks.mutex:
        self.state, self._failure = "lost", error
        wake_all(self._lines)


def _live_though_dropped(self: InFlight) -> int:
    return 0


_FILE = "machine: file, durable"
_MEMORY = "machine: memory"

ENGINE_BUGS: Final[Mapping[str, EngineBug]] = {
    "settle takes over the size and not the depth": EngineBug(
        _around(Engine, "_settle", _settle_forgets_depth), _MEMORY
    ),
    "a trim does not lower what was passed on": EngineBug(
        _around(Engine, "_settle", _settle_leaves_passed), _MEMORY
    ),
    "what is read ahead is trimmed": EngineBug(
        _around(Engine, "_trim", _trim_what_is_read), _MEMORY
    ),
    "reading goes on one too late after a trim": EngineBug(_late_after_a_trim, _MEMORY),
    "memory is entered while something is read ahead": EngineBug(
        _around(Engine, "_put", _memory_while_read_ahead), _MEMORY
    ),
    "damage is counted twice": EngineBug(_around(Accounts, "lose", _damage_twice), _MEMORY),
    "a failed trim is not tried again": EngineBug(
        _around(Overflow, "trim", _failed_trim_given_up),
        "a failed trim is tried again later and not at each item",
    ),
    "the pump finishes what is held": EngineBug(_around(Pumping, "step", _pump_finishes), _FILE),
    "a consumer finishes what others hold": EngineBug(
        _instead(InFlight, "finish", _any_consumer_finishes), _FILE
    ),
    "dropping finishes what is held": EngineBug(
        _around(Engine, "_make_room", _drop_finishes), "dropping does not finish what others hold"
    ),
    "closing trims what others hold": EngineBug(
        _around(Engine, "close", _close_finishes_all), "closing keeps what others hold"
    ),
    "closing trims what others hold (by chance)": EngineBug(
        _around(Engine, "close", _close_finishes_all), _FILE
    ),
    "closing does not finish what its caller holds": EngineBug(
        _around(Engine, "close", lambda close: _finish_whatever(close, finish=False)),
        "closing finishes what its caller holds and who has ended",
    ),
    "a block that failed finishes what it holds": EngineBug(
        _around(Engine, "close", lambda close: _finish_whatever(close, finish=True)),
        "a block that failed is not done with what it took",
    ),
    "a queue that is forgotten deletes what is stored": EngineBug(
        _around(Engine, "close", lambda close: _finish_whatever(close, keep=False)),
        "machine: file",
    ),
    "who has ended holds for ever": EngineBug(
        _instead(InFlight, "_is_over", _never_over), "who has ended is done with what it took"
    ),
    "who was overtaken holds for ever": EngineBug(
        _instead(InFlight, "_is_over", _only_the_dead),
        "a consumer that was overtaken does not pin the log",
    ),
    "who was overtaken loses its hold too early": EngineBug(
        _instead(ledgers, "MAX_OVERTAKING", 16),
        "a consumer that was overtaken does not pin the log",
    ),
    "what is done is trimmed at leisure": EngineBug(
        _instead(engines, "_MAX_DONE", 4096), "what comes again after a crash is bounded"
    ),
    "what is given back goes to the end": EngineBug(
        _around(InFlight, "give_back", _back_to_the_end), _MEMORY
    ),
    "a late ack finishes the items of another lease": EngineBug(
        _around(InFlight, "ack", _late_ack_counts),
        "who acknowledges too late is told and harms nobody",
    ),
    "a lapse gives back twice": EngineBug(
        _instead(InFlight, "lapsed", _lapse_twice), "a lease that lapses gives back once"
    ),
    "a lease has no end": EngineBug(_around(InFlight, "lease", _never_lapses), _MEMORY),
    "a second ack counts": EngineBug(_acked_again, _MEMORY),
    "what is leased is not counted": EngineBug(
        _around(InFlight, "leased", _leased_not_counted), _MEMORY
    ),
    "the age of what is given back is lost": EngineBug(
        _around(Accounts, "oldest_age", _age_of_what_is_not_back),
        "items do not get younger when they are given back",
    ),
    "a producer that is woken in vain loses its place": EngineBug(
        _around(Line, "park", _loses_its_place), "a producer that is woken in vain keeps its place"
    ),
    "the wake-up of a consumer that gives up is lost": EngineBug(
        _instead(Engine, "withdraw", _not_passed_on),
        "a wake up of a consumer that gives up goes to the next",
    ),
    "the wake-up of a producer that gives up is lost": EngineBug(
        _instead(Engine, "withdraw", _not_passed_on),
        "a wake up of a producer that gives up goes to the next",
    ),
    "a trim wakes no producers": EngineBug(
        _instead(Engine, "_wake_producers", lambda self, after=0: None),
        "a trim wakes the producers it makes room for",
    ),
    "what is given back wakes nobody": EngineBug(
        _around(Engine, "_end_lease", _wakes_nobody),
        "what is given back wakes consumers",
    ),
    "what had landed at an interruption is read again": EngineBug(
        _around(Engine, "_mend", _landing_is_forgotten),
        "what has landed when an interruption comes is not read again",
    ),
    "a store that was away stays so": EngineBug(_stays_away, "a store that is back is used again"),
    "a lost queue gives what memory has": EngineBug(
        _instead(Engine, "lose", _lose_keeps_memory),
        "a queue that is lost gives nothing any more",
    ),
    "what was dropped counts as live": EngineBug(
        _instead(InFlight, "pinned", _live_though_dropped),
        "dropping frees the room that is needed and no more",
    ),
}
