"""From the arguments of a queue to its engine: check, own the stream, open the backend.

Both front ends open this way. Whatever fails, the stream is free again and nothing is left open.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import get_args

from hq_core import registry
from hq_core.capabilities import Capability
from hq_core.checks import choice, instance, positive_int
from hq_core.engine.engine import Engine
from hq_core.engine.unwinding import Unwinding
from hq_core.errors import BackendError, HybridQueueError
from hq_core.limiters import TokenBucket
from hq_core.memory import CountTier
from hq_core.protocols import (
    BackendFactory,
    Leftover,
    Limiter,
    MemoryTier,
    OnCorruption,
    Pump,
    WhenFull,
)
from hq_core.pumps import ThreadPump
from hq_core.spool import leftovers
from hq_core.spool.directory import Directory
from hq_core.spool.lock import StreamLock
from hq_core.spool.names import file_name
from hq_core.spool.quarantine import Quarantine
from hq_core.stats import RecoveryReport

__all__ = ["open_engine"]

_log = logging.getLogger("hq_core")


def open_engine(
    stream_id: str,
    memory_items: int | None,
    directory: str | os.PathLike[str],
    *,
    backend: str | BackendFactory = "file",
    backend_options: Mapping[str, object] | None = None,
    memory: MemoryTier | None = None,
    limiter: Limiter | None = None,
    pump: Pump | None = None,
    durable: bool = False,
    leftover: Leftover = "resume",
    on_corruption: OnCorruption = "quarantine",
    max_overflow_bytes: int | None = None,
    when_full: WhenFull = "raise",
) -> Engine:
    """Open a stream; parameters and errors are those of `HybridQueue`."""
    memory = _memory_tier(memory_items, memory)
    limiter = TokenBucket() if limiter is None else limiter
    instance("limiter", limiter, Limiter, "a Limiter such as Unlimited()")
    pump = ThreadPump() if pump is None else pump
    instance("pump", pump, Pump, "a Pump such as InlinePump()")
    options = {} if backend_options is None else backend_options
    instance("backend_options", options, Mapping, "a mapping from names to values")
    instance("durable", durable, bool, "True or False")
    choice("leftover", leftover, get_args(Leftover))
    choice("on_corruption", on_corruption, get_args(OnCorruption))
    choice("when_full", when_full, get_args(WhenFull))
    if max_overflow_bytes is not None:
        positive_int("max_overflow_bytes", max_overflow_bytes)
    name = file_name(stream_id)
    path = _make_directory(directory)
    unwinding = Unwinding()
    held = _hold(path)
    try:
        quarantine = Quarantine(held, name)
        engine = Engine(
            stream_id,
            directory=held.path,
            quarantine=quarantine,
            memory=memory,
            max_overflow_bytes=max_overflow_bytes,
            limiter=limiter,
            pump=pump,
            clock=time.monotonic,
            durable=durable,
            when_full=when_full,
            unwinding=unwinding,
        )
    except BaseException:
        held.close()
        raise
    lock = StreamLock(held, name, stream_id)
    # Each step is there before what it undoes: an interruption leaves nothing behind.
    unwinding.steps.extend([held.close, lock.release, engine.let_go])
    try:
        _own(lock, stream_id)
        stream = held.stream(
            stream_id,
            max_bytes=max_overflow_bytes,
            leftover=leftover,
            on_corruption=on_corruption,
            durable=durable,
            on_ready=engine.ready,
            on_lost=engine.lose,
            tell=_telling(engine),
        )
        needed = Capability.DURABLE if durable else Capability.NONE
        leftovers.check(held, stream, registry.class_of(backend))  # a refusal changes nothing
        engine.overflow.backend = registry.open_backend(backend, stream, options, needed)
        leftovers.check(held, stream, engine.overflow.backend)  # for a factory that shows it now
        cleared = leftovers.clear(held, stream, engine.overflow.backend)
        engine.begin()
    except BaseException:
        with contextlib.suppress(HybridQueueError):  # what went wrong first is to be told
            engine.close(keep=True)
        raise
    _tell(stream_id, engine.overflow.backend.recovered, cleared, quarantine)
    engine.notices.say()
    return engine


def _memory_tier(memory_items: int | None, memory: MemoryTier | None) -> MemoryTier:
    if memory is None:
        return CountTier(positive_int("memory_items", memory_items))
    instance("memory", memory, MemoryTier, "a MemoryTier such as BytesTier(64 << 20)")
    if memory_items is not None:
        raise TypeError("memory_items must be None when memory= says how much memory there is")
    return memory


def _make_directory(directory: str | os.PathLike[str]) -> Path:
    instance("directory", directory, (str, os.PathLike), "a str or os.PathLike")
    path = Path(directory)
    try:
        for ancestor in reversed(path.parents):  # mkdir(parents=True) has no mode for these
            if not ancestor.exists():
                ancestor.mkdir(mode=0o700, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError:
        raise BackendError(f"{path} is a file: name a directory for the overflow") from None
    except OSError as exc:
        raise BackendError(f"cannot make the directory {path}: {exc.strerror}") from exc
    return path


def _hold(path: Path) -> Directory:
    try:
        return Directory(path)
    except OSError as exc:
        raise BackendError(f"cannot open the directory {path}: {exc.strerror}") from exc


def _own(lock: StreamLock, stream_id: str) -> None:
    try:
        lock.acquire()
    except OSError as exc:
        raise BackendError(f"cannot own {stream_id!r} by {lock.path}: {exc.strerror}") from exc


def _telling(engine: Engine) -> Callable[[str], None]:
    """`Stream.tell`: logged when the call ends during which it is told, or the next one."""

    def tell(message: str) -> None:
        engine.notices.add(logging.WARNING, "%r: %s", engine.stream_id, message)
        engine.errands = True

    return tell


def _tell(
    stream_id: str, found: RecoveryReport, cleared: Sequence[str], quarantine: Quarantine
) -> None:
    if found.records:
        _log.info("%r takes over %d items of an earlier owner", stream_id, found.records)
    if found.quarantine is not None:
        _log.warning("%r: %s is set aside: %s", stream_id, found.quarantine, found.reason)
    for what in cleared:
        _log.warning("%r: %s", stream_id, what)
    if found.quarantine is not None or cleared:
        for path in quarantine.cap():
            _log.warning("%s is deleted, newer ones are kept", path)
