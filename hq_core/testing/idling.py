"""Whether anything in this process runs while nobody asks for anything."""

import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["restless"]

_MOMENT: Final = 0.12
"""Seconds: who polls every 0.1 s is seen."""
_MOMENTS: Final = 5
"""One of them has to be quiet: work that was begun before may come to its end in the others."""
_BUSY: Final = 0.02
"""Seconds of CPU time in a moment, from which something is taken to run in it."""


def restless() -> str:
    """What runs while this thread sleeps, in words; empty: nothing.

    Knows by the CPU time of the process, and by how often its other threads have begun to wait.
    """
    for _ in range(_MOMENTS):
        waits, spent = _waits(), time.process_time()
        time.sleep(_MOMENT)
        spent = time.process_time() - spent
        woken = {n for n, count in _waits().items() if count != waits.get(n, count)}
        if not woken and spent < _BUSY:
            return ""
    names = [t.name for t in threading.enumerate() if str(t.native_id) in woken]
    return f"{len(woken)} threads wake up ({', '.join(names)}), {spent:.3f} s of CPU time"


def _waits() -> dict[str, str]:
    """How often each other thread has begun to wait, by its number."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        if task.name != str(threading.get_native_id()):
            with suppress(OSError):  # it has ended
                status = (task / "status").read_text("ascii", "replace")
                found[task.name] = status.partition("\nvoluntary_ctxt_switches:")[2].split()[0]
    return found
