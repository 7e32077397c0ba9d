"""What the tests of promises share: queues, backends that stop or die on order, hands that hold."""

import asyncio
import contextlib
import os
import queue as stdlib_queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest
from typing_extensions import override

from hq_core import HybridQueue, QueueClosed, Unlimited
from hq_core.capabilities import Capability
from hq_core.protocols import API_VERSION, BackendFactory, OverflowBackend, Stream
from hq_core.registry import open_backend
from hq_core.testing import ManualPump, MemoryBackend
from hq_core.testing.forking import forked

__all__ = [
    "BACKENDS",
    "FRONTS",
    "ON_DISK",
    "PATIENCE",
    "Around",
    "Gate",
    "Hand",
    "around",
    "backend_named",
    "balanced",
    "dies",
    "drain",
    "hands",
    "items",
    "opened",
    "started",
    "until",
]

PATIENCE: Final = 20.0
"""Seconds after which something that should happen at once is taken not to happen."""

BACKENDS: Final = pytest.mark.parametrize("backend", ["memory", "file", "lmdb"])
ON_DISK: Final = pytest.mark.parametrize("backend", ["file", "lmdb"])
"""What outlives the process."""
FRONTS: Final = pytest.mark.parametrize("front", ["thread", "asyncio"])


def items(count: int, start: int = 0, size: int = 0) -> list[bytes]:
    """`count` different items, of at least `size` bytes."""
    return [(b"item %d" % number).ljust(size, b".") for number in range(start, start + count)]


def backend_named(name: str) -> str | BackendFactory:
    """What to give a queue as `backend`."""
    return MemoryBackend if name == "memory" else name


def opened(
    directory: Path,
    memory_items: int | None = 4,
    backend: str | BackendFactory = "file",
    **options: Any,
) -> HybridQueue:
    """A queue without a limiter, and without a pump that moves by itself, unless asked for."""
    options = {
        "limiter": Unlimited(),
        "pump": ManualPump(),
        "backend": backend_named(backend) if isinstance(backend, str) else backend,
        **options,
    }
    return HybridQueue("stream", memory_items, directory / "spool", **options)


def drain(queue: HybridQueue) -> list[bytes]:
    """Everything in `queue`, oldest first."""
    found: list[bytes] = []
    while queue.depth:
        found.append(queue.try_dequeue())
    return found


def balanced(queue: HybridQueue) -> None:
    """The accounts add up and nothing is below zero."""
    stats = queue.stats()
    assert stats.enqueued == stats.dequeued + stats.discarded + stats.leased + stats.depth, stats
    assert min(stats.depth, stats.memory_items, stats.disk_bytes, stats.discarded) >= 0, stats
    assert min(stats.enqueued, stats.dequeued, stats.leased, stats.spilled) >= 0, stats


def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait for something that others bring about; fails if they do not."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it does not come about"
        time.sleep(0.001)


def started(target: Callable[[], object]) -> threading.Thread:
    """A thread that runs `target`, and never keeps the tests from ending."""
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


def dies(work: Callable[[], object]) -> None:
    """Run `work` in a forked child, which has to be killed in the middle of it."""
    status = os.waitstatus_to_exitcode(os.waitpid(forked(work), 0)[1])
    assert status == -signal.SIGKILL, f"it was not killed: {status}"


class Gate:
    """Where a call on a backend stops until it is told to go on."""

    def __init__(self, *methods: str) -> None:
        self.methods = methods
        self.reached = threading.Event()
        """Somebody stands there."""
        self._open = threading.Event()
        self._open.set()

    def shut(self) -> None:
        """From now on whoever comes has to stop."""
        self.reached.clear()
        self._open.clear()

    def open(self) -> None:
        """Let everybody through."""
        self._open.set()

    def __call__(self, method: str) -> None:
        if method in self.methods and not self._open.is_set():
            self.reached.set()
            assert self._open.wait(3 * PATIENCE), "nobody opens the gate"


def _nothing(method: str) -> None:
    """What happens around a call if nothing is ordered."""


class Around(OverflowBackend):
    """Another backend; `before` and `after` hear of each call of its methods, by name."""

    name: ClassVar[str] = "around"
    api_version: ClassVar[int] = API_VERSION
    capabilities: ClassVar[Capability] = Capability.DURABLE

    def __init__(
        self,
        backend: OverflowBackend,
        before: Callable[[str], object],
        after: Callable[[str], object],
    ) -> None:
        self.inner = backend
        self.recovered = backend.recovered
        self._before, self._after = before, after

    @override
    def append(self, records: Sequence[bytes]) -> None:
        self._before("append")
        self.inner.append(records)
        self._after("append")

    @override
    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        self._before("read")
        found = self.inner.read(skip, max_records, max_bytes)
        self._after("read")
        return found

    @override
    def trim(self, count: int) -> None:
        self._before("trim")
        self.inner.trim(count)
        self._after("trim")

    @override
    def sync(self) -> None:
        self._before("sync")
        self.inner.sync()
        self._after("sync")

    @override
    def depth(self) -> int:
        return self.inner.depth()

    @override
    def size_bytes(self) -> int:
        return self.inner.size_bytes()

    @override
    def cost(self, records: Sequence[bytes]) -> int:
        return self.inner.cost(records)

    @override
    def close(self, *, delete: bool) -> None:
        self._before("close")
        self.inner.close(delete=delete)
        self._after("close")


def around(
    backend: str,
    before: Callable[[str], object] = _nothing,
    after: Callable[[str], object] = _nothing,
    **options: object,
) -> BackendFactory:
    """A factory of `backend`, opened with `options`, with something around its calls."""

    def make(stream: Stream) -> OverflowBackend:
        return Around(open_backend(backend_named(backend), stream, options), before, after)

    return make


class Hand:
    """A thread, or a task of an event loop, that makes the calls it is told to, one at a time.

    It lives on between them and so goes on holding what it took.
    """

    def __init__(self, queue: HybridQueue, loop: asyncio.AbstractEventLoop | None) -> None:
        self._queue = queue
        self._loop = loop
        self._ended: Future[None] = Future()
        if loop is None:
            self._calls: stdlib_queue.SimpleQueue[_Call | None] = stdlib_queue.SimpleQueue()
            started(self._run)
        else:
            self._waiting: asyncio.Queue[_Call | None] = asyncio.Queue()
            asyncio.run_coroutine_threadsafe(self._run_as_a_task(), loop)

    def begin(self, method: str, *args: Any, **options: Any) -> Future[Any]:
        """Call `method` of the queue, or `ack` and `nack` of a lease given first."""
        call = _Call(method, args, options)
        self._put(call)
        return call.result

    def do(self, method: str, *args: Any, **options: Any) -> Any:
        """The result of the call."""
        return self.begin(method, *args, **options).result(PATIENCE)

    def end(self) -> None:
        """The thread, or task, ends."""
        self._put(None)
        self._ended.result(PATIENCE)

    def _put(self, call: "_Call | None") -> None:
        if self._loop is None:
            self._calls.put(call)
        else:
            self._loop.call_soon_threadsafe(self._waiting.put_nowait, call)

    def _run(self) -> None:
        thread = started(self._make_calls)
        thread.join()
        self._ended.set_result(None)

    def _make_calls(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call.result.set_result(call.make(self._queue))
            except BaseException as exc:
                call.result.set_exception(exc)

    async def _run_as_a_task(self) -> None:
        await asyncio.create_task(self._make_calls_in_a_task())
        await asyncio.sleep(0)
        self._ended.set_result(None)

    async def _make_calls_in_a_task(self) -> None:
        while (call := await self._waiting.get()) is not None:
            try:
                result = call.make(self._queue.aio)
                call.result.set_result(await result if hasattr(result, "__await__") else result)
            except BaseException as exc:
                call.result.set_exception(exc)


class _Call:
    def __init__(self, method: str, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        self.result: Future[Any] = Future()
        self._method, self._args, self._options = method, args, options

    def make(self, queue: Any) -> Any:
        return getattr(queue, self._method)(*self._args, **self._options)


class _Loop:
    """An event loop in a thread of its own."""

    def __enter__(self) -> asyncio.AbstractEventLoop:
        self._loop = asyncio.new_event_loop()
        self._thread = started(self._loop.run_forever)
        return self._loop

    def __exit__(self, *exc_info: object) -> None:
        done = asyncio.run_coroutine_threadsafe(self._cancel_all(), self._loop)
        with contextlib.suppress(TimeoutError):
            done.result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        if not self._loop.is_running():
            self._loop.close()

    @staticmethod
    async def _cancel_all() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def hands(queue: HybridQueue, front: str, count: int) -> Iterator[list[Hand]]:
    """So many of them, threads or tasks of one loop, as `front` says."""
    with contextlib.ExitStack() as stack:
        loop = stack.enter_context(_Loop()) if front == "asyncio" else None
        made = [Hand(queue, loop) for _ in range(count)]
        try:
            yield made
        finally:
            with contextlib.suppress(QueueClosed):
                queue.shutdown()
