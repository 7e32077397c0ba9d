"""One process owns a stream: what its children, and those it is sent to, are told."""

import asyncio
import copy
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hq_core import HybridQueue, StdlibQueue, StreamBusyError, ThreadPump
from hq_core.testing.forking import forked, in_child
from tests.hq_core.promises.staging import (
    ON_DISK,
    PATIENCE,
    Gate,
    around,
    balanced,
    dies,
    drain,
    items,
    opened,
    started,
)


def ends(child: int) -> int:
    """The status of a child, which is killed if it hangs."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("the child hangs")


CALLS: dict[str, Callable[[HybridQueue], object]] = {
    "enqueue": lambda q: q.enqueue(b"x"),
    "enqueue_many": lambda q: q.enqueue_many([b"x"]),
    "dequeue": lambda q: q.dequeue(),
    "try_dequeue": lambda q: q.try_dequeue(),
    "dequeue_many": lambda q: q.dequeue_many(3),
    "lease": lambda q: q.lease(),
    "iteration": lambda q: next(q),
    "stats": lambda q: q.stats(),
    "depth": lambda q: q.depth,
    "pressure": lambda q: q.pressure,
    "has_disk_data": lambda q: q.has_disk_data,
    "sync": lambda q: q.sync(),
    "shutdown": lambda q: q.shutdown(),
    "aio": lambda q: q.aio,
}


def refused(call: Callable[[], object]) -> None:
    """In a child: it is told whose the queue is."""
    with pytest.raises(StreamBusyError, match="forked"):
        call()


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("busy", ["idle", "in a call on the backend"])
def test_whatever_a_forked_child_asks_of_its_parents_queue_is_refused(
    tmp_path: Path, name: str, busy: str
) -> None:
    """At once, also if another thread of the parent was in the middle of a call."""
    gate = Gate("append")
    queue = opened(tmp_path, 1, around("file", before=gate))
    queue.enqueue_many(items(3))
    if busy != "idle":
        gate.shut()
        other = started(lambda: queue.enqueue(items(4)[3]))
        assert gate.reached.wait(PATIENCE)
    try:
        child = forked(lambda: refused(lambda: CALLS[name](queue)))
        assert ends(child) == 0
    finally:
        gate.open()
    if busy != "idle":
        other.join(PATIENCE)
    assert drain(queue) == items(3 if busy == "idle" else 4)
    queue.close()


@pytest.mark.parametrize("name", ["put", "get", "task_done", "join", "qsize", "shutdown"])
@pytest.mark.parametrize("busy", ["idle", "its mutex is held"])
def test_a_forked_child_is_refused_by_a_stdlib_queue_too(
    tmp_path: Path, name: str, busy: str
) -> None:
    """Its own mutex may have been another thread's: nothing hangs."""
    queue = StdlibQueue(opened(tmp_path, 4, when_full="block"))
    queue.put(b"x")
    calls: dict[str, Callable[[], Any]] = {
        "put": lambda: queue.put(b"y"),
        "get": queue.get,
        "task_done": queue.task_done,
        "join": queue.join,
        "qsize": queue.qsize,
        "shutdown": queue.shutdown,
    }
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with queue.mutex:
            held.set()
            go_on.wait(PATIENCE)

    holder = started(hold) if busy != "idle" else None
    if holder is not None:
        assert held.wait(PATIENCE)
    child = forked(lambda: refused(calls[name]))
    try:
        assert ends(child) == 0
    finally:
        go_on.set()
    if holder is not None:
        holder.join(PATIENCE)
    assert queue.get() == b"x"
    queue.shutdown(immediate=True)


def test_a_forked_child_is_refused_by_a_view_that_was_made_before(tmp_path: Path) -> None:
    """Coroutines too, in a loop of the child's own."""
    queue = opened(tmp_path, 1)
    view = queue.aio
    queue.enqueue_many(items(3))

    def child() -> None:
        for call in (lambda: view.enqueue(b"x"), view.dequeue, view.try_dequeue, view.sync):
            with pytest.raises(StreamBusyError):
                asyncio.run(asyncio.wait_for(call(), PATIENCE / 2))
        asyncio.run(asyncio.wait_for(view.close(), PATIENCE / 2))

    assert ends(forked(child)) == 0
    assert drain(queue) == items(3)
    queue.close()


@ON_DISK
def test_a_queue_that_was_opened_while_another_thread_forked_is_freed_with_its_owner(
    tmp_path: Path, backend: str
) -> None:
    """No child keeps a lock that it does not know of. One is forked whenever the owner asks the
    system for a file or a lock, or as soon as it lets others fork; all of them outlive it."""
    until_then, go_on = os.pipe()
    hear, tell = os.pipe()

    def child() -> None:
        os.write(tell, b".")  # it is past what it does when it is forked
        os.close(go_on)
        os.read(until_then, 1)

    def fork() -> None:
        forked(child)
        os.read(hear, 1)

    def owner() -> None:
        opener = threading.get_ident()
        forking: list[threading.Thread] = []

        def audit(event: str, args: object) -> None:
            if event in ("open", "fcntl.flock") and threading.get_ident() == opener:
                thread = started(fork)
                thread.join(0.05)
                forking.append(thread)

        sys.addaudithook(audit)
        queue = opened(tmp_path, 2, backend, durable=True)
        queue.enqueue(b"x")
        for thread in forking:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        assert len(forking) > 1
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(PATIENCE)

    try:
        dies(owner)
        with opened(tmp_path, 2, backend, durable=True) as queue:
            assert drain(queue) == [b"x"]
    finally:
        for fd in (go_on, until_then, hear, tell):
            os.close(fd)


def test_a_child_outlives_its_parent_and_the_stream_is_free(tmp_path: Path) -> None:
    """The owner is killed; a child of it that was forked while it opened goes on."""
    script = f"""
import os, signal, sys, threading, time
from hq_core import HybridQueue
children = []
def fork():
    while True:
        child = os.fork()
        if not child:
            time.sleep(30)
            os._exit(0)
        children.append(child)
        time.sleep(0.0005)
        if len(children) > 20:
            return
thread = threading.Thread(target=fork, daemon=True)
thread.start()
queues = []
while thread.is_alive():
    queue = HybridQueue("stream", 2, {os.fspath(tmp_path / "spool")!r}, durable=True)
    queue.enqueue(b"x")
    if not thread.is_alive():
        break
    queue.close()
print(*children, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = _owner(script, tmp_path)
    try:
        opened(tmp_path, durable=True).close()
    finally:
        for child in ended:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def _owner(script: str, directory: Path) -> list[int]:
    """Run it until it is killed; its children, which live on."""
    told = directory / "told"
    with told.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", script], stdout=file, cwd=Path(__file__).parents[3]
        )
        assert process.wait(60) == -signal.SIGKILL
    return list(map(int, told.read_text().split()))


@pytest.mark.parametrize("pump", [None, ThreadPump])
def test_the_parent_goes_on_after_a_fork(tmp_path: Path, pump: Callable[[], Any] | None) -> None:
    """A child that closes what it inherited changes nothing of it."""
    options = {} if pump is None else {"pump": pump()}
    queue = opened(tmp_path, 2, **options)
    queue.enqueue_many(items(9))
    assert queue.dequeue() == items(1)[0]
    in_child(queue.close)
    assert drain(queue) == items(9)[1:]
    balanced(queue)
    queue.close()


def _use(queue: Any) -> None:
    queue.enqueue(b"child")


@pytest.mark.parametrize(
    "send",
    [pickle.dumps, copy.copy, copy.deepcopy],
    ids=["pickle", "copy", "deepcopy"],
)
@pytest.mark.parametrize("view", ["queue", "aio", "stdlib"])
def test_a_queue_that_is_sent_says_that_one_process_owns_a_stream(
    tmp_path: Path, send: Callable[[Any], object], view: str
) -> None:
    """And what to do instead."""
    with opened(tmp_path, when_full="block") as queue:
        sent: Any = {"queue": queue, "aio": queue.aio, "stdlib": StdlibQueue(queue)}[view]
        with pytest.raises(TypeError, match="one process owns a stream"):
            send(sent)


@pytest.mark.slow
def test_a_queue_that_is_given_to_a_spawned_process_says_so(tmp_path: Path) -> None:
    """Before it is started."""
    with opened(tmp_path) as queue:
        process = multiprocessing.get_context("spawn").Process(target=_use, args=(queue,))
        with pytest.raises(TypeError, match="one process owns a stream"):
            process.start()
