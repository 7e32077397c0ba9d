"""What opening takes, closing lets go of: steps, the last first."""

from collections.abc import Callable
from threading import RLock
from typing import cast

from hq_core.engine.locks import OwnedLock

__all__ = ["Unwinding"]


def _nothing() -> None: ...


class Unwinding:
    """An exit stack that survives interruptions: a step that was one goes on at the next call.

    `steps` grows while opening; append to it before what is to be undone is done. `before` is what
    each caller does first: it may wait for one that waits for the steps, and so is none of them.
    """

    def __init__(self) -> None:
        self.steps: list[Callable[[], None]] = []
        self.before: Callable[[], None] = _nothing
        self._lock = cast(OwnedLock, RLock())

    def run(self, *, wait: bool = True) -> None:
        """Take all steps. Of several callers one does, and the others return after it, if they
        `wait`.

        A failing step does not keep the rest from being taken; the first failure is raised at the
        end. Called by a step, or in the middle of one, it returns at once.
        """
        if self._lock._is_owned():
            return
        failure = _failure_of(self.before)
        try:
            if self._lock.acquire(blocking=wait):
                self._take_steps(failure)
        finally:  # at once: an interruption may come after any call, also that which took it
            try:  # noqa: SIM105 # that is a call
                self._lock.release()
            except RuntimeError:  # it was not taken
                pass

    def _take_steps(self, failure: Exception | None) -> None:
        while self.steps:
            own = _failure_of(self.steps[-1])
            failure = failure or own
            self.steps.pop()
        if failure is not None:
            raise failure


def _failure_of(step: Callable[[], None]) -> Exception | None:
    try:
        step()
    except MemoryError:  # an interruption like others: it goes on at the next call
        raise
    except Exception as exc:
        return exc
    return None
