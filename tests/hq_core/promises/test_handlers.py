"""A signal's handler, or a finaliser, that comes at any point of its thread's own call.

`close`, `shutdown` and `stats` work there: what the interrupted call has half changed they leave
alone, and what they could not do is done when that call ends, whatever it ends by.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from hq_core import HybridQueue, HybridQueueError, InlinePump, QueueClosed
from hq_core.engine.engine import Engine
from hq_core.testing import ManualPump
from tests.hq_core.promises.staging import balanced
from tests.hq_core.promises.sweeping import NEW, OPERATIONS, Kind, World
from tests.hq_core.promises.tracing import Interrupter

WHOLE: Final = os.environ.get("HQ_FAULTS") == "whole"
EVERY: Final = 1 if WHOLE else 5
SLOWNESS: Final = {"memory": 1, "file": 3, "lmdb": 3}
CASES: Final = [
    pytest.param(name, kind, id=f"{name}-{kind}")
    for name, operation in OPERATIONS.items()
    for kind in operation.kinds
    if name not in ("close", "lease in a block that raises")
]


def sweep(
    name: str,
    kind: Kind,
    backend: str,
    pump: type[ManualPump] | type[InlinePump],
    directory: Path,
    handler: Callable[[HybridQueue], object],
    look: Callable[[World, object], None],
) -> None:
    """Have the `handler` called at one point after the other of the operation, and `look`."""
    every = EVERY * SLOWNESS[backend]
    at, points = 0, 1
    first = sum(map(ord, name + kind + backend + pump.__name__)) % every + 1
    while at <= points:
        world = World(directory / str(at), backend, kind, pump())
        call = OPERATIONS[name].prepare(world)
        results: list[object] = []
        failures: list[BaseException] = []

        def made(call: Callable[[], object] = call, results: list[object] = results) -> None:
            results.append(call())

        interrupter = Interrupter(at, handler=lambda w=world: handler(w.queue))  # type: ignore[misc]
        try:
            interrupter.call(made)
        except HybridQueueError as exc:
            results.append(exc)
        except BaseException as exc:
            failures.append(exc)
        where = f"{interrupter.place} (point {at})"
        assert not failures, f"{where}: {failures!r}"
        if at:
            try:
                look(world, results[0])
            except BaseException as exc:
                raise AssertionError(f"{where}: {type(exc).__name__}: {exc}") from exc
        else:
            points = interrupter.points
            world.queue.close()
        at += every if at else first


def taken(result: object) -> list[bytes]:
    """What a call has returned."""
    if isinstance(result, bytes):
        return [result]
    return list(result) if isinstance(result, list) else []


PUMPS = pytest.mark.parametrize("pump", [ManualPump, InlinePump])
STORES = pytest.mark.parametrize("backend", ["memory", "file", "lmdb"])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), CASES)
@PUMPS
@STORES
def test_close_is_carried_out_when_the_interrupted_call_ends(
    tmp_path: Path,
    name: str,
    kind: Kind,
    backend: str,
    pump: type[ManualPump] | type[InlinePump],
) -> None:
    """The stream is free then, the accounts balance, and a durable queue has lost nothing."""

    def look(world: World, result: object) -> None:
        queue, there = world.queue, world.there
        if world.lease is not None:
            with_lease = queue.stats().leased
            assert with_lease <= len(world.lease.items)
        balanced(queue)
        if queue._engine.state != "closed":  # the handler came when there was no call any more
            queue.close()
        if kind != "durable":
            assert os.listdir(world.directory) == []  # noqa: PTH208
            world.opened(1).close()
            return
        again = world.opened(100)
        rest = []
        while again.depth:
            rest.append(again.try_dequeue())
        again.close()
        got = taken(result)
        if name == "ack" and world.lease is not None:
            there = world.lease.items + there  # which it may have come too late for
        everything = world.held + there + [NEW[0].ljust(10, b"."), *NEW]
        assert rest == [item for item in everything if item in rest], "order"
        missing = [item for item in there if item not in got and item not in rest]
        if name == "ack":
            missing = missing[2:]
        assert not missing or name.endswith("drops the oldest"), f"lost: {missing}"

    sweep(name, kind, backend, pump, tmp_path, HybridQueue.close, look)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), CASES)
@PUMPS
def test_what_was_there_at_a_shutdown_is_drained(
    tmp_path: Path, name: str, kind: Kind, pump: type[ManualPump] | type[InlinePump]
) -> None:
    """Nothing is let in after it, and who waits hears of it."""

    def look(world: World, result: object) -> None:
        queue = world.queue
        balanced(queue)
        if queue._engine.state == "open":  # the handler came when there was no call any more
            queue.shutdown()
        if world.lease is not None and result is None and name == "lease":
            world.lease.nack()
            world.lease = None
        with pytest.raises(QueueClosed):
            queue.enqueue(b"late")
        rest: list[bytes] = []
        ended = threading.Event()

        def drain() -> None:
            rest.extend(queue)
            ended.set()

        threading.Thread(target=drain, daemon=True).start()
        assert ended.wait(10), "who waits does not hear of it"
        got = taken(result)
        everything = [*got, *rest]
        assert everything[: len(world.there)] == world.there or name.endswith("drops the oldest")
        assert everything[len(world.there) :] in ([], NEW[:1], NEW) or "drops" in name
        queue.close()

    sweep(name, kind, "memory", pump, tmp_path, HybridQueue.shutdown, look)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_stats_balance_at_every_point(tmp_path: Path, name: str, kind: Kind) -> None:
    def ask(queue: HybridQueue) -> None:
        before = vars(queue._engine._locks).copy()
        balanced(queue)
        assert vars(queue._engine._locks) == before

    def look(world: World, result: object) -> None:
        balanced(world.queue)
        world.queue.close()

    sweep(name, kind, "memory", InlinePump, tmp_path, ask, look)


def test_a_close_that_fails_when_the_interrupted_call_ends_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not the trouble of that call, whose item is accepted."""
    queue = HybridQueue("s", 1, tmp_path, durable=True, pump=ManualPump())
    backend = queue._engine.overflow.backend
    append, close = backend.append, backend.close

    def closes(records: list[bytes]) -> None:
        append(records)
        queue.close()  # as a signal's handler does

    def fails(*, delete: bool) -> None:
        close(delete=delete)
        raise OSError(5, "I/O")

    monkeypatch.setattr(backend, "append", closes)
    monkeypatch.setattr(backend, "close", fails)
    queue.enqueue(b"accepted")
    assert "closing 's' failed" in caplog.text
    with HybridQueue("s", 1, tmp_path, durable=True) as again:
        assert again.dequeue(0) == b"accepted"


def test_every_call_of_the_engine_sees_to_what_it_kept_from_being_done(tmp_path: Path) -> None:
    """Also those that end by an exception."""
    queue = HybridQueue("s", 4, tmp_path)
    engine = queue._engine
    calls: dict[str, Callable[[], object]] = {
        "offer": lambda: engine.offer(b"x"),
        "offer_all": lambda: engine.offer_all([b"x"]),
        "grab": lambda: engine.grab(1, None),
        "counts": engine.counts,
        "stats": engine.stats,
        "look_again": engine.look_again,
        "end_lease": lambda: engine.end_lease([], done=True),
    }
    queue.enqueue(b"x")
    for ends in (False, True):
        if ends:
            Engine.shut_down(engine)
            queue.dequeue_many(99)
        for name, call in calls.items():
            engine.errands = True
            try:
                call()
            except QueueClosed:
                assert ends
            assert not engine.errands, name
    queue.close()
