"""The preloaded library `shim.c` from Python: built by the tests, armed by a child for itself."""

import ctypes
import errno
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["EXHAUSTED", "HOWS", "Fault", "Shim", "applies", "build", "compiler"]

_FAIL, _SHORT, _KILL_BEFORE, _KILL_AMID, _KILL_AFTER, _NO_DESCRIPTORS = range(1, 7)

_PLANS: Final = {
    "EIO": (_FAIL, errno.EIO, 1),
    "ENOSPC": (_FAIL, errno.ENOSPC, 1),
    "EIO twice": (_FAIL, errno.EIO, 2),  # what undoes a failed call often is the next one
    "short": (_SHORT, 0, 1),
    "short, then ENOSPC": (_SHORT, errno.ENOSPC, 2),  # how a disk gets full
    "kill before": (_KILL_BEFORE, 0, 1),
    "kill amid": (_KILL_AMID, 0, 1),
    "kill after": (_KILL_AFTER, 0, 1),
}
_EXHAUSTED: Final = {
    "EMFILE": (_FAIL, errno.EMFILE, 1),
    "ENFILE": (_FAIL, errno.ENFILE, 1),
    "EMFILE for a while": (_NO_DESCRIPTORS, errno.EMFILE, 3),  # the next three that need one
    "ENOMEM": (_FAIL, errno.ENOMEM, 1),
    "ENOMEM twice": (_FAIL, errno.ENOMEM, 2),
}
_EVERY: Final = _PLANS | _EXHAUSTED
HOWS: Final = tuple(_PLANS)
"""The ways a call can go wrong."""
EXHAUSTED: Final = tuple(_EXHAUSTED)
"""The ways it can find no descriptor, or no memory."""


@dataclass(frozen=True)
class Fault:
    """The `at`-th call, from 1 on, goes wrong in a way named in `HOWS` or `EXHAUSTED`.

    Or, with `how` ``"random kill"``: the process is killed from outside once it has told `at`
    facts; where it is by then is chance.
    """

    how: str
    at: int

    @property
    def kills(self) -> bool:
        """Whether it ends the process."""
        return "kill" in self.how


def applies(how: str, call: str) -> bool:
    """Whether the libc function `call` can go wrong that way, and not only as another way does."""
    if how == "short" and call == "pread":
        return False  # LMDB's, of one header: a page is read whole or not at all
    if how == "short":
        return "read" in call or "write" in call or "sendfile" in call
    if how in {"short, then ENOSPC", "kill amid"}:
        return "write" in call or "sendfile" in call
    if how.startswith(("EMFILE", "ENFILE")):
        return call.startswith(("open", "fcntl"))
    return True


class Shim:
    """The shim in this process, which was started with it preloaded."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.fault_trace.restype = ctypes.c_char_p
        self._library.fault_trace.argtypes = [ctypes.c_long]
        self._library.fault_calls.restype = ctypes.c_long
        self._library.fault_struck.restype = ctypes.c_long
        self._library.fault_arm.argtypes = [
            *(ctypes.c_char_p, ctypes.c_long, ctypes.c_long, ctypes.c_int, ctypes.c_int)
        ]

    def arm(self, directory: Path, fault: Fault | None) -> None:
        """Count the calls on what is below `directory`, and plan `fault` for one of them."""
        action, error, times = (0, 0, 0) if fault is None else _EVERY.get(fault.how, (0, 0, 0))
        at = 0 if fault is None else fault.at
        self._library.fault_arm(os.fsencode(directory), at, times, action, error)

    def trace(self) -> list[str]:
        """The calls counted since, by the name of the function."""
        count = self._library.fault_calls()
        return [self._library.fault_trace(n).decode() for n in range(count)]

    def struck(self) -> int:
        """How many calls went wrong since."""
        return int(self._library.fault_struck())

    def descriptors(self) -> int:
        """How many descriptors of files below the directory are open."""
        return int(self._library.fault_descriptors())


def compiler() -> str | None:
    """The C compiler, if there is one."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def build(target: Path) -> None:
    """Compile the shim."""
    command = compiler()
    assert command is not None
    source = Path(__file__).with_name("shim.c")
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC"]
    subprocess.run([command, *flags, "-o", target, source, "-ldl"], check=True)
