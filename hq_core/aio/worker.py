"""Calls that would hold an event loop up, one after the other, in a thread of their own.

Nothing here knows queues.
"""

import asyncio
import math
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

from hq_core.aio.wakeups import LoopWaiter
from hq_core.engine.forks import disown_in_child
from hq_core.errors import BackendError

__all__ = ["Worker"]

_T = TypeVar("_T")

_LINGER: Final = 1.0
"""Seconds for which a worker's thread waits for the next call before it ends."""


class Worker:
    """Makes calls that take long, in one thread that is there while there are any."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.disown()
        disown_in_child(self)

    def disown(self) -> None:
        """In a forked child: the parent's thread is not here, and its calls are not ours."""
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._alive = False

    def begin(self, call: Callable[[], _T]) -> Future[_T]:
        """Have `call` made once those before it are through.

        Raises `BackendError`, and will not make it, if no thread can be started.
        """
        future: Future[_T] = Future()
        with self._lock:
            if not self._alive:
                self._start()
            self._jobs.put(lambda: _carry_out(call, future))
        return future

    async def result(self, future: Future[_T], until: float | None) -> _T:
        """The result of a call that was begun. `TimeoutError` at `until` (monotonic; None: no end);
        then, or cancelled, it is left to itself."""
        if not await _over(future, until):
            raise TimeoutError
        return future.result()

    async def see_through(
        self, call: Callable[[], _T], *, revocable: bool = True, until: float | None = None
    ) -> _T:
        """The result of `call`, for calls whose result must be known.

        Cancelled before the call was begun, it is not made, if it is `revocable`. Cancelled later,
        it is made, and the cancellation comes when the task waits next; unless the call fails, then
        at once. `TimeoutError` if it was not begun by `until`.
        """
        future = self.begin(call)
        requests = _requests()
        cancelled: asyncio.CancelledError | None = None
        while not future.done():
            try:
                with _shielded() if cancelled else nullcontext():
                    on_time = await _over(future, until)
                if not on_time:
                    until = None
                    if future.cancel():
                        raise TimeoutError
            except asyncio.CancelledError as exc:
                if revocable and future.cancel():
                    raise
                cancelled = exc
        if cancelled is None:
            return future.result()
        if (failure := future.exception()) is not None:
            raise cancelled from failure
        _cancel_again(cancelled, requests)
        return future.result()

    def _start(self) -> None:
        try:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        except RuntimeError as exc:
            raise BackendError(f"there is no thread to call the backend from: {exc}") from exc
        self._alive = True

    def _run(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=_LINGER)
            except Empty:
                with self._lock:
                    if self._jobs.empty():
                        self._alive = False
                        return
                continue
            job()
            del job  # and with it the messages it holds


def _carry_out(call: Callable[[], _T], future: Future[_T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as exc:
        future.set_exception(exc)
    else:
        future.set_result(result)


async def _over(future: Future[_T], until: float | None) -> bool:
    """Wait until `future` is done; False: it was not by `until` (monotonic; None: no end)."""
    waiter = LoopWaiter()
    future.add_done_callback(lambda _: waiter.wake())
    return await waiter.wait(math.inf if until is None else until)


def _shielded() -> AbstractContextManager[object]:
    """A block in which a cancellation that was caught is not delivered again and again, as that of
    an anyio scope is: thousands of times a second, until the block it covers has ended."""
    anyio = sys.modules.get("anyio")  # who has such a scope has imported it
    return anyio.CancelScope(shield=True) if anyio else nullcontext()


def _requests() -> int:
    """How often the running task was asked to be cancelled, without what was taken back."""
    task = asyncio.current_task()
    assert task is not None, "only tasks are cancelled"
    return task.cancelling()


def _cancel_again(cancelled: asyncio.CancelledError, before: int) -> None:
    """Have the running task meet `cancelled`, which it has caught, when it next waits.

    Unless by then it has left every block that was cancelled since there were `before` requests:
    `asyncio.timeout`, say, takes its own back.
    """
    task = asyncio.current_task()
    assert task is not None, "only tasks are cancelled"

    def cancel(task: asyncio.Task[object] = task) -> None:
        if task.cancelling() > before:
            task.uncancel()
            task.cancel(*cancelled.args)

    asyncio.get_running_loop().call_soon(cancel)
