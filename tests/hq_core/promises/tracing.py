"""Raises an exception at any point of a call at which the interpreter can deliver a signal.

CPython 3.11 looks for signals when a function is entered or a generator resumed (``RESUME``), when
a jump goes back, and when a call that was made in C has returned. That is where `KeyboardInterrupt`
comes from, and nowhere else: not, say, between the return of a Python function and what its caller
does with the result. Each such point is found by tracing, and the exception is raised so that the
same handlers see it as would see the real one.

For `MemoryError` the points before a call in C are added: it may fail for want of memory.
"""

import dis
import inspect
import logging
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

__all__ = ["Interrupter"]

_HERE: Final = str(Path(__file__).parent)
_LOGGING: Final = str(Path(logging.__file__).parent)
_WEAK_SETS: Final = str(Path(weakref.__file__).with_name("_weakrefset.py"))
_BACKWARD: Final = frozenset(code for name, code in dis.opmap.items() if "JUMP_BACKWARD" in name)
_CALL: Final = dis.opmap["CALL"]
_CALL_EX: Final = dis.opmap["CALL_FUNCTION_EX"]
_RESUME: Final = dis.opmap["RESUME"]
_GENERATOR: Final = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_MADE: Final = ("__init__", "__new__")
"""Python functions that are called from C when a class is."""
_FREE: Final = ("release", "__exit__", "_is_owned", "locked", "settrace", "setprofile")
"""Calls in C that need no memory."""


class Interrupter:
    """Makes a call, counting its points; at number `at`, counted from 1, comes `exception`.

    With `at` 0 none comes. With `handler` that is called instead, as by a signal.
    """

    def __init__(
        self,
        at: int,
        exception: type[BaseException] = KeyboardInterrupt,
        handler: Callable[[], object] | None = None,
    ) -> None:
        self.points = 0
        self.place = ""
        """Where it was raised; empty if it was not."""
        self._at = at
        self._exception = exception
        self._handler = handler
        self._codes: dict[CodeType, _Code] = {}
        self._told: set[int] = set()
        """Frames whose call under way has been heard of: it is Python's, or a built-in's."""

    def call(self, call: Callable[[], object]) -> None:
        """Make `call`."""
        sys.setprofile(self._profile)
        sys.settrace(self._enter)
        try:
            call()
        finally:
            sys.settrace(None)
            sys.setprofile(None)

    def _point(self, frame: FrameType, what: str) -> None:
        self.points += 1
        if self.points == self._at:
            file = frame.f_code.co_filename.partition("/main/")[2] or frame.f_code.co_filename
            self.place = f"{file}:{frame.f_lineno} {frame.f_code.co_qualname}, {what}"
            if self._handler is None:
                raise self._exception
            self._handler()  # traced no more, since there is a place

    def _profile(self, frame: FrameType, event: str, function: Any) -> None:
        if self.place or _is_ours(frame):
            return
        self._told.add(id(frame))
        if event == "c_return":
            self._point(frame, f"after {function.__name__}")
        elif (
            event == "c_call" and self._exception is MemoryError and function.__name__ not in _FREE
        ):
            self._point(frame, f"in {function.__name__}")

    def _enter(self, frame: FrameType, event: str, arg: object) -> Any:
        if self.place or _is_ours(frame) or frame.f_code.co_name == "__del__":
            return None
        self._told.add(id(frame.f_back))
        code = self._codes.get(frame.f_code)
        if code is None:
            code = self._codes[frame.f_code] = _Code(frame.f_code)
        if not (code.generator and frame.f_lasti > code.start):
            self._point(frame, "at its beginning")
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return _Frame(self, code).trace


class _Code:
    """What is asked of a code object again and again."""

    def __init__(self, code: CodeType) -> None:
        self.code = code.co_code
        self.start = max(0, code.co_code.find(bytes([_RESUME])))
        self.generator = bool(code.co_flags & _GENERATOR)
        parse = dis._parse_exception_table  # type: ignore[attr-defined]
        self._handlers = [(entry.start, entry.end, entry.target) for entry in parse(code)]

    def handler(self, offset: int) -> int:
        """Where an exception at `offset` goes on; -1: to the caller."""
        for start, end, target in self._handlers:
            if start <= offset < end:
                return int(target)
        return -1


class _Frame:
    """Looks at the instructions of one frame."""

    def __init__(self, interrupter: Interrupter, code: _Code) -> None:
        self._interrupter = interrupter
        self._code = code
        self._last = -1
        self._raised = False

    def trace(self, frame: FrameType, event: str, arg: object) -> Any:
        if self._interrupter.place:
            return None
        if event == "opcode":
            self._raised = False
            self._instruction(frame)
        elif event == "exception":
            self._raised = True
        elif event == "return" and not self._raised and not self._code.generator:
            self._returns(frame)
        return self.trace

    def _instruction(self, frame: FrameType) -> None:
        last, now, code = self._last, frame.f_lasti, self._code
        self._last = now
        if last < 0:
            return
        op = code.code[last]
        told = id(frame) in self._interrupter._told
        self._interrupter._told.discard(id(frame))
        if op in _BACKWARD and now <= last:
            self._interrupter._point(frame, "jumping back")
        elif code.handler(last) != code.handler(now):  # it would be another one's
            return
        elif op == _CALL and not told:
            self._interrupter._point(frame, "after making something")
        elif op == _RESUME and code.generator and code.code[last + 1] == 1:
            self._interrupter._point(frame, "resumed")

    def _returns(self, frame: FrameType) -> None:
        """A point for the caller if it made this call in C."""
        caller = frame.f_back
        if caller is None or _is_ours(caller):
            return
        op = self._interrupter._codes.get(caller.f_code)
        if op is None:
            return
        instruction = op.code[caller.f_lasti]
        name = frame.f_code.co_name
        if instruction == _CALL_EX or (instruction == _CALL and name in _MADE):
            self._interrupter._point(caller, f"after {name} returned")


def _is_ours(frame: FrameType) -> bool:
    """Whether nothing is raised there: in the tests, and in what no library can mend. The locks of
    `logging`, say, do not survive an interruption, and then whoever logs next hangs; and Python
    prints what is raised where a weak reference ends, and goes on."""
    return frame.f_code.co_filename.startswith((_HERE, _LOGGING, _WEAK_SETS))
