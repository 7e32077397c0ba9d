"""Bugs of the kind this design invites are found by the scenarios beside this file."""

from collections.abc import Callable
from typing import Any

import pytest

from hq_core import AsyncHybridQueue, HybridQueueError
from hq_core.aio import queue as queues
from hq_core.engine.engine import Engine
from hq_core.engine.in_flight import InFlight, Run, State
from hq_core.engine.overflow import Overflow
from hq_core.engine.waiters import Line, Waiter
from tests.hq_core.interleavings import (
    test_coroutines,
    test_leases,
    test_moving,
    test_outages,
    test_waiting,
)
from tests.hq_core.interleavings.world import World
from tests.interleaving import Deadlock

pytestmark = pytest.mark.slow


def test_memory_first_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def offer(engine: Engine, item: bytes) -> float | None:
        with engine._locks.mutex:
            if not engine._memory.offer_one(item):
                return engine._clock()
            engine._accounts.enqueued += 1
            engine._consumers.wake(1)
        return None

    monkeypatch.setattr(Engine, "offer", offer)
    with pytest.raises((AssertionError, HybridQueueError)):
        test_moving.test_one_producer_and_one_consumer_keep_the_order(world, 1)


def test_a_transfer_that_stops_counting_too_early_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read ahead and is not passed on yet does not count as stored."""

    def offer(engine: Engine, item: bytes) -> float | None:
        with engine._locks.mutex:
            if engine.overflow.unread or not engine._memory.offer_one(item):
                return engine._clock()
            engine._accounts.enqueued += 1
            engine._consumers.wake(1)
        return None

    monkeypatch.setattr(Engine, "offer", offer)
    with pytest.raises((AssertionError, HybridQueueError)):
        test_moving.test_one_producer_and_one_consumer_keep_the_order(world, 1)


def test_a_lost_wake_up_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def withdraw(engine: Engine, waiter: Waiter) -> None:
        with engine._locks.mutex:
            for line in (engine._consumers, engine._lessees, engine._producers):
                line.leave(waiter)

    monkeypatch.setattr(Engine, "withdraw", withdraw)
    with pytest.raises(Deadlock):
        test_waiting.test_a_wait_given_up_while_being_woken_passes_the_wake_up_on(world)


def test_a_coroutine_that_gives_up_unheard_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "withdraw", lambda engine, waiter: None)
    with pytest.raises(Deadlock):
        test_coroutines.test_a_cancelled_coroutine_takes_nothing_with_it(world, monkeypatch, 1)


def test_an_item_taken_before_the_last_wait_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dequeue(view: AsyncHybridQueue) -> bytes:
        (item,) = await view._wait_for(1, None, None)
        await queues.turns.give()  # type: ignore[attr-defined] # the stand-in
        return item

    monkeypatch.setattr(AsyncHybridQueue, "dequeue", dequeue)
    with pytest.raises(Deadlock):
        test_coroutines.test_a_cancelled_coroutine_takes_nothing_with_it(world, monkeypatch, 1)


def test_no_wake_up_after_trimming_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Engine._trim

    def trim(engine: Engine) -> bool:
        parked, engine._producers = engine._producers, Line(engine._clock)
        try:
            return original(engine)
        finally:
            engine._producers = parked

    monkeypatch.setattr(Engine, "_trim", trim)
    with pytest.raises(Deadlock):
        test_waiting.test_a_blocked_producer_gets_in_once_the_pump_has_made_room(world)


def test_a_producer_that_gets_in_and_wakes_no_other_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of two is woken, the second never."""

    def wake_fitting(line: Line, fits: Callable[[Waiter], bool], after: int = 0) -> None:
        if sum(map(len, line.waiting.values())) == 2:
            line.wake(1)

    monkeypatch.setattr(Line, "wake_fitting", wake_fitting)
    with pytest.raises(Deadlock):
        test_waiting.test_one_gap_that_is_large_enough_serves_every_producer_that_waits(world)


def test_a_line_that_wakes_its_last_first_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Line.wake_fitting

    def wake_fitting(line: Line, fits: Callable[[Waiter], bool], after: int = 0) -> None:
        waiters = [waiter for waiters in line.waiting.values() for waiter in waiters]
        if len(waiters) > 1:
            line._wake(waiters[-1])
        else:
            original(line, fits, after)

    monkeypatch.setattr(Line, "wake_fitting", wake_fitting)
    with pytest.raises(AssertionError):
        test_waiting.test_producers_that_wait_keep_their_places(world, False)


def test_what_was_given_back_and_comes_last_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Engine._collect

    def collect(engine: Engine, *args: Any) -> None:
        in_flight = engine._in_flight
        back = in_flight.back
        if engine._memory.items() or engine.overflow.ahead:
            in_flight.back = 0
        try:
            original(engine, *args)
        finally:
            in_flight.back = in_flight.back or back

    monkeypatch.setattr(Engine, "_collect", collect)
    with pytest.raises(AssertionError):
        test_leases.test_what_is_given_back_comes_first_and_in_order(
            world, monkeypatch, False, "nack"
        )


def test_a_log_that_is_trimmed_over_a_lease_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def advance(in_flight: InFlight) -> None:
        while in_flight.runs and in_flight.runs[0].state in (State.DONE, State.LEASED):
            in_flight.done += in_flight.runs[0].count if in_flight._durable else 0
            del in_flight.runs[0]

    monkeypatch.setattr(InFlight, "advance", advance)
    with pytest.raises(AssertionError):
        test_leases.test_leased_and_acknowledged_items_are_done_once_and_in_order(
            world, monkeypatch, True
        )


def test_a_late_acknowledgement_that_is_believed_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = InFlight.ack

    def ack(in_flight: InFlight, run: Run) -> bool:
        original(in_flight, run)
        return True

    monkeypatch.setattr(InFlight, "ack", ack)
    with pytest.raises(AssertionError):
        test_leases.test_a_lease_that_lapses_at_any_moment_gives_its_items_back_once(
            world, monkeypatch, False
        )


def test_a_store_that_comes_back_unheard_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is back before the call that found it away is over."""

    def in_contact(overflow: Overflow) -> None:
        overflow.away = False

    monkeypatch.setattr(Overflow, "in_contact", in_contact)
    with pytest.raises(Deadlock):
        test_outages.test_who_finds_the_store_away_as_it_comes_back_does_not_sleep(
            world, False, "consumer"
        )
