"""Calls that are cut short at any line."""

import dis
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final

__all__ = ["interrupted", "interruptions"]

_MOST: Final = 300
"""Lines of a call that are tried; a call of more is tried at the first of them."""


def interruptions() -> Iterator[int]:
    """The numbers of the lines to interrupt a call at; leave the loop when it came to its end."""
    return iter(range(1, _MOST + 1))


def interrupted(call: Callable[[], object], line: int) -> bool:
    """Make `call`; a `KeyboardInterrupt` comes before the `line`-th line of Python that it runs.

    Returns whether it came: if not, the call has fewer lines. Where nobody could do anything about
    it none comes: in `threading`, and where a ``with`` block is left.
    """
    left = line

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal left
        if event == "call" and _is_out_of_reach(frame):
            return None
        if event == "line" and not _leaves_a_block(frame):
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace

    before, collects = sys.gettrace(), gc.isenabled()
    gc.disable()  # what a collection runs is not the call's, and prints what is raised in it
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        if left:
            raise  # a real one
    finally:
        sys.settrace(before)
        if collects:
            gc.enable()
    return left <= 0


def _is_out_of_reach(frame: FrameType) -> bool:
    """Whether it is one of `threading`, or what an ``__exit__`` does."""
    if frame.f_globals.get("__name__") == threading.__name__:
        return True
    caller: FrameType | None = frame
    while caller is not None and caller.f_code is not interrupted.__code__:
        if caller.f_code.co_name == "__exit__":
            return True
        caller = caller.f_back
    return False


def _leaves_a_block(frame: FrameType) -> bool:
    """Whether what comes next begins as the end of a ``with`` block does."""
    code, at = frame.f_code.co_code, frame.f_lasti
    if code[at] == dis.opmap["LOAD_CONST"]:
        return frame.f_code.co_consts[code[at + 1]] is None
    return code[at] == dis.opmap["SWAP"]  # what the block returns lies on top
