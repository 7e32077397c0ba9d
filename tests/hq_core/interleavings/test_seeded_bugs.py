"""Bugs of the kind this design invites are found by the scenarios beside this file."""

from collections.abc import Callable

import pytest

from hq_core import AsyncHybridQueue, HybridQueueError
from hq_core.engine.engine import Engine
from hq_core.engine.waiters import Line, Waiter
from tests.hq_core.interleavings.world import CoroutineWaiter, World
from tests.interleaving import Deadlock

pytestmark = pytest.mark.slow


class TestOfTheTests:
    """Bugs of the kind this design invites are found by the scenarios above."""

    def test_memory_first_is_found(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        def offer(engine: Engine, item: bytes) -> bool:
            with engine._mutex:
                if not engine._memory.offer_one(item):
                    return False
                engine._enqueued += 1
                engine._consumers.wake(1)
            return True

        monkeypatch.setattr(Engine, "offer", offer)
        with pytest.raises((AssertionError, HybridQueueError)):
            test_one_producer_and_one_consumer_keep_the_order(world, 1)

    def test_a_transfer_that_stops_counting_too_early_is_found(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = Engine._transfer

        def transfer(engine: Engine, max_records: int, max_bytes: int) -> int:
            with engine._mutex:
                engine._direct = engine._stored <= max_records
            return original(engine, max_records, max_bytes)

        monkeypatch.setattr(Engine, "_transfer", transfer)
        with pytest.raises(AssertionError):
            test_one_producer_and_one_consumer_keep_the_order(world, 2)

    def test_a_lost_wake_up_is_found(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        def leave(line: Line, waiter: Waiter) -> None:
            line.pop(waiter, None)

        monkeypatch.setattr(Line, "leave", leave)
        with pytest.raises(Deadlock):
            test_a_wait_given_up_while_being_woken_passes_the_wake_up_on(world)

    def test_a_coroutine_that_gives_up_unheard_is_found(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def sleep(
            view: AsyncHybridQueue,
            waiter: CoroutineWaiter,
            deadline: float | None,
            withdraw: Callable[[Waiter], None],
        ) -> None:
            await waiter.wait(deadline)

        monkeypatch.setattr(AsyncHybridQueue, "_sleep", sleep)
        with pytest.raises(Deadlock):
            test_a_cancelled_coroutine_takes_nothing_with_it(world, monkeypatch, 1)

    def test_an_item_taken_before_the_last_wait_is_found(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def dequeue(view: AsyncHybridQueue) -> bytes:
            (item,) = await view._wait_for(1, None, None)
            await view._next_turn()
            return item

        monkeypatch.setattr(AsyncHybridQueue, "dequeue", dequeue)
        with pytest.raises(Deadlock):
            test_a_cancelled_coroutine_takes_nothing_with_it(world, monkeypatch, 1)

    def test_no_wake_up_after_trimming_is_found(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = Engine._trim

        def trim(engine: Engine) -> bool:
            parked, engine._producers = engine._producers, Line()
            try:
                return original(engine)
            finally:
                engine._producers = parked

        monkeypatch.setattr(Engine, "_trim", trim)
        with pytest.raises(Deadlock):
            test_a_blocked_producer_gets_in_once_the_pump_has_made_room(world)

    def test_a_producer_that_gets_in_and_wakes_no_other_is_found(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def wake(engine: Engine, count: int) -> None:
            engine._consumers.wake(count)

        monkeypatch.setattr(Engine, "_wake_after_entry", wake)
        with pytest.raises(Deadlock):
            test_one_gap_that_is_large_enough_serves_every_producer_that_waits(world)
