"""A queue that nobody closes: its stream is freed, and it is told."""

import asyncio
import gc
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hq_core import AsyncHybridQueue, HybridQueue, Unlimited
from hq_core.testing import ManualPump
from hq_core.testing.forking import in_child
from hq_core.testing.spool import numbered

Collect = Callable[[], list[str]]


@pytest.fixture
def collect() -> Iterator[Collect]:
    """Collects garbage; what was warned of until then."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)

        def collect() -> list[str]:
            gc.collect()
            told = [str(w.message) for w in caught if issubclass(w.category, ResourceWarning)]
            caught.clear()
            return told

        yield collect


def opened(directory: Path, memory_items: int = 2, **options: Any) -> HybridQueue:
    return HybridQueue("cam", memory_items, directory, limiter=Unlimited(), **options)


@pytest.mark.parametrize("durable", [False, True])
def test_a_queue_that_is_collected_says_so_and_keeps_what_is_stored(
    tmp_path: Path, collect: Collect, durable: bool
) -> None:
    queue = opened(tmp_path, durable=durable, pump=ManualPump())
    queue.enqueue_many(numbered(2))
    queue.enqueue_many(numbered(3, 2))
    del queue
    in_memory = 0 if durable else 2
    (told,) = collect()
    for word in ("'cam'", "close it, or use `with`", "5 items", f"{in_memory} of them in memory"):
        assert word in told
    with opened(tmp_path, durable=durable) as queue:
        assert queue.dequeue_many(9) == numbered(5)[in_memory:]
    assert list(tmp_path.iterdir()) == []


def test_what_its_consumer_may_not_be_done_with_is_kept(tmp_path: Path, collect: Collect) -> None:
    queue = opened(tmp_path, durable=True)
    queue.enqueue_many(numbered(3))
    queue.dequeue_many(2)
    del queue
    assert len(collect()) == 1
    with opened(tmp_path, durable=True) as queue:
        assert queue.dequeue_many(9) == numbered(3)


def test_its_pump_does_not_keep_it(tmp_path: Path, collect: Collect) -> None:
    def pumps() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "hq-pump-cam"]

    queue = opened(tmp_path, memory_items=100)
    queue.enqueue_many(numbered(100))
    queue.enqueue_many(numbered(300, 100))
    for _ in range(100):
        queue.dequeue()
    assert pumps() == ["hq-pump-cam"]
    del queue
    assert len(collect()) == 1
    assert pumps() == []


def test_a_view_keeps_it(tmp_path: Path, collect: Collect) -> None:
    queue = opened(tmp_path)
    view = queue.aio
    del queue
    assert collect() == []

    async def use(view: AsyncHybridQueue) -> bytes:
        await view.enqueue(b"x")
        return await view.dequeue()

    assert asyncio.run(use(view)) == b"x"
    del view
    assert len(collect()) == 1


def test_a_closed_queue_has_nothing_to_say(tmp_path: Path, collect: Collect) -> None:
    queue = opened(tmp_path)
    gone = weakref.ref(queue)
    queue.close()
    del queue
    assert collect() == []
    assert gone() is None


def test_one_that_was_never_opened_has_nothing_to_say(tmp_path: Path, collect: Collect) -> None:
    AsyncHybridQueue("cam", 2, tmp_path)
    with pytest.raises(ValueError, match="memory_items"):
        HybridQueue("cam", 0, tmp_path)
    assert collect() == []


def test_a_forked_child_has_nothing_to_say_of_its_parents_queues(
    tmp_path: Path, collect: Collect
) -> None:
    with opened(tmp_path) as queue:
        queue.enqueue_many(numbered(5))
        kept = {"queue": queue}
        del queue

        def child() -> None:
            kept.clear()
            assert collect() == []

        in_child(child)
        assert kept["queue"].dequeue_many(9) == numbered(5)
