"""What opening takes, closing lets go of: steps, the last first."""

from collections.abc import Callable
from threading import RLock
from typing import cast

from hq_core.engine.locks import OwnedLock

__all__ = ["Unwinding"]


class Unwinding:
    """An exit stack that survives interruptions: a step that was one goes on at the next call.

    `steps` grows while opening; append to it before what is to be undone is done.
    """

    def __init__(self) -> None:
        self.steps: list[Callable[[], None]] = []
        self._lock = cast(OwnedLock, RLock())

    def run(self, *, wait: bool = True) -> None:
        """Take all steps. Of several callers one does, and the others return after it, if they
        `wait`; who is waited for by a step must not.

        A failing step does not keep the rest from being taken; the first failure is raised at the
        end. Called by a step, or in the middle of one, it returns at once.
        """
        if self._lock._is_owned():
            return
        try:
            if self._lock.acquire(blocking=wait):
                self._take_steps()
        finally:  # at once: an interruption may come after any call, also that which took it
            try:  # noqa: SIM105 # that is a call
                self._lock.release()
            except RuntimeError:  # it was not taken
                pass

    def _take_steps(self) -> None:
        failure: Exception | None = None
        while self.steps:
            try:
                self.steps[-1]()
            except MemoryError:  # an interruption like others: it goes on at the next call
                raise
            except Exception as exc:
                failure = failure or exc
            self.steps.pop()
        if failure is not None:
            raise failure
