"""A process that is killed around any call on the backend: what nobody is done with comes again."""

import mmap
import os
import signal
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from hq_core import HybridQueue, InlinePump, QueueEmpty, QueueFull
from hq_core.testing.forking import forked
from tests.hq_core.promises.staging import (
    FRONTS,
    ON_DISK,
    Hand,
    around,
    drain,
    hands,
    items,
    opened,
    until,
)

COUNT: Final = 12
SIZE: Final = 10
ROOM: Final = 3
"""Items for which the disk has room."""
ACCEPTED, TAKEN, DONE = 1, 2, 4


@dataclass
class Diary:
    """What has become of each item, in memory that outlives the process which writes it."""

    notes: mmap.mmap

    def note(self, number: int, what: int) -> None:
        self.notes[number] |= what

    def having(self, what: int, without: int = 0) -> set[int]:
        """The numbers of those items."""
        found = enumerate(self.notes[:COUNT])
        return {number for number, note in found if note & what and not note & without}


def killing(at: int, after: bool) -> tuple[list[int], dict[str, object]]:
    """A counter of calls, and what to put around them so that number `at` is the last."""
    calls = [0]

    def count(method: str) -> None:
        calls[0] += 1
        if calls[0] == at:
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()

    return calls, {"after" if after else "before": count}


def use(queue: HybridQueue, front: str, diary: Diary, when_full: str) -> None:
    """A slow consumer takes the first item and keeps it; a fast one goes on; a producer is ahead
    of them, and waits for room if it has to."""
    made = items(COUNT, size=SIZE)
    with hands(queue, front, 3) as (slow, fast, producer):
        holds: int | None = None
        slow_holds = True

        def take(hand: Hand) -> int:
            number = made.index(hand.do("try_dequeue"))
            diary.note(number, TAKEN)
            return number

        def fast_asks() -> None:
            nonlocal holds
            if holds is not None:
                diary.note(holds, DONE)
            holds = None
            with suppress(QueueEmpty):
                holds = take(fast)

        for number, item in enumerate(made):
            putting = producer.begin("enqueue", item)

            def settled(call: "Future[object]" = putting) -> bool:
                return call.done() or bool(queue._engine._producers.waiting)

            until(settled)
            if number == 0:
                take(slow)
            if slow_holds and number == 6 and when_full == "drop_oldest":
                diary.note(0, DONE)
                slow.end()
                slow_holds = False
            while not putting.done():
                if not queue.depth and slow_holds:
                    diary.note(0, DONE)
                    slow.end()
                    slow_holds = False
                fast_asks()
                until(settled)
            with suppress(QueueFull):  # what is dropped behind a held item gives no room
                putting.result()
                diary.note(number, ACCEPTED)


@pytest.mark.slow
@FRONTS
@ON_DISK
@pytest.mark.parametrize("when_full", ["block", "drop_oldest"])
@pytest.mark.parametrize("memory_items", [1, 4])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_what_nobody_is_done_with_comes_again_after_a_kill_around_any_call_on_the_backend(
    tmp_path: Path, backend: str, front: str, when_full: str, after: bool, memory_items: int
) -> None:
    """Neither a trim for a producer that waits, nor a drop, nor another consumer takes it; and the
    item that a call was about to return is among them. In order, nothing twice."""
    with opened(tmp_path, 1, backend, durable=True) as probe:
        probe.enqueue_many(items(ROOM + 1, size=SIZE))
        bound = probe.stats().disk_bytes
        drain(probe)
    made = items(COUNT, size=SIZE)
    at, status = 0, -signal.SIGKILL
    while status == -signal.SIGKILL:
        at += 1
        directory = tmp_path / str(at)
        directory.mkdir()
        diary = Diary(mmap.mmap(-1, mmap.PAGESIZE))
        calls, hooks = killing(at, after)

        def work() -> None:
            queue = opened(
                directory,  # noqa: B023 # it is forked at once
                memory_items,
                around(backend, **hooks),  # type: ignore[arg-type] # noqa: B023
                durable=True,
                when_full=when_full,
                max_overflow_bytes=bound,
                pump=InlinePump(),
            )
            use(queue, front, diary, when_full)  # noqa: B023
            os._exit(0)

        status = os.waitstatus_to_exitcode(os.waitpid(forked(work), 0)[1])
        with opened(directory, 20, backend, durable=True) as queue:
            found = [made.index(item) for item in drain(queue)]
        where = f"killed {'behind' if after else 'before'} call {at}"
        assert found == sorted(set(found)), where
        held = diary.having(TAKEN, without=DONE)
        assert held <= set(found), f"{where}: {held} were held, {found} come"
        if when_full == "block":
            owed = diary.having(ACCEPTED | TAKEN, without=DONE)
            assert owed <= set(found), f"{where}: {owed} are owed, {found} come"
        assert not calls[0]
    assert status == 0
    assert at > COUNT / 2
