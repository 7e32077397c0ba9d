"""Wake-ups into an event loop."""

import asyncio
import threading
from collections.abc import Coroutine
from time import monotonic
from typing import Any

from hq_core.aio.wakeups import LoopWaiter


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run `main`, which does not wait for long unless something is broken."""
    asyncio.run(asyncio.wait_for(main, 5))


def test_another_thread_ends_the_wait() -> None:
    async def main() -> None:
        waiter = LoopWaiter()
        thread = threading.Thread(target=waiter.wake)
        thread.start()
        assert await waiter.wait() is True
        thread.join()

    run(main())


def test_a_wake_up_that_comes_before_the_wait_counts() -> None:
    """The worker parks a waiter; its coroutine waits only when the loop has heard of that."""

    async def main() -> None:
        waiter = LoopWaiter()
        waiter.wake()
        for _ in range(3):
            await asyncio.sleep(0)
        assert await waiter.wait(monotonic() + 60) is True

    run(main())


def test_a_wake_up_serves_one_wait_only() -> None:
    async def main() -> None:
        waiter = LoopWaiter()
        waiter.wake()
        assert await waiter.wait() is True
        assert await waiter.wait(monotonic()) is False
        waiter.wake()
        assert await waiter.wait() is True

    run(main())


def test_a_wait_ends_at_its_deadline_and_can_be_repeated() -> None:
    async def main() -> None:
        waiter = LoopWaiter((2, 30))
        assert await waiter.wait(monotonic() - 1) is False
        assert await waiter.wait(monotonic() + 0.001) is False
        assert (waiter.needs, waiter.place) == ((2, 30), 0)
        assert waiter.loop is asyncio.get_running_loop()

    run(main())


def test_to_wake_again_is_harmless() -> None:
    async def main() -> None:
        waiter = LoopWaiter()
        assert waiter.wake()
        assert waiter.wake()
        assert await waiter.wait()
        assert not await waiter.wait(monotonic() + 0.001)

    run(main())


def test_a_closed_loop_is_gone() -> None:
    made: list[LoopWaiter] = []

    async def main() -> None:
        made.append(LoopWaiter())

    run(main())
    assert made[0].wake() is False
