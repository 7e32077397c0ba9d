"""Forked children that never come back into the test runner."""

import os
import signal
import traceback
from collections.abc import Callable

__all__ = ["forked", "in_child", "killed_after"]


def forked(work: Callable[[], object]) -> int:
    """Fork a child that does `work` and exits: 0, or 1 with a traceback if it raises; its pid."""
    child = os.fork()
    if not child:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return child


def in_child(check: Callable[[], object]) -> None:
    """Run `check` in a forked child; what it raises fails the test."""
    assert os.waitstatus_to_exitcode(os.waitpid(forked(check), 0)[1]) == 0


def killed_after(work: Callable[[], object]) -> None:
    """Run `work` in a forked child that is then killed: nothing is closed, nothing cleaned up."""

    def child() -> None:
        work()
        os.kill(os.getpid(), signal.SIGKILL)

    status = os.waitstatus_to_exitcode(os.waitpid(forked(child), 0)[1])
    assert status == -signal.SIGKILL
