"""From the arguments of a queue to its engine: check, own the stream, open the backend.

Both front ends open this way. Whatever fails, the stream is free again and nothing is left open.
"""

import contextlib
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from hq_core import registry
from hq_core.capabilities import Capability
from hq_core.checks import choice, instance, positive_int
from hq_core.engine.engine import Engine
from hq_core.errors import BackendError
from hq_core.limiters import TokenBucket
from hq_core.memory import CountTier
from hq_core.protocols import (
    BackendFactory,
    Leftover,
    Limiter,
    MemoryTier,
    OnCorruption,
    Pump,
    Stream,
    WhenFull,
)
from hq_core.pumps import ThreadPump
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
    backend: str | BackendFactory,
    backend_options: Mapping[str, object] | None,
    memory: MemoryTier | None,
    limiter: Limiter | None,
    pump: Pump | None,
    durable: bool,
    leftover: Leftover,
    on_corruption: OnCorruption,
    max_overflow_bytes: int | None,
    when_full: WhenFull,
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
    stream = Stream(
        stream_id=stream_id,
        file_name=file_name(stream_id),
        directory=_make_directory(directory),
        max_bytes=max_overflow_bytes,
        leftover=leftover,
        on_corruption=on_corruption,
    )
    quarantine = Quarantine(stream.directory, stream.file_name)
    needed = Capability.DURABLE if durable else Capability.NONE
    with contextlib.ExitStack() as undo:
        ownership = _own(stream)
        undo.callback(ownership.release)
        opened = registry.open_backend(backend, stream, options, needed)
        undo.callback(opened.close, delete=False)
        engine = Engine(
            stream_id,
            directory=stream.directory,
            ownership=ownership,
            quarantine=quarantine,
            memory=memory,
            backend=opened,
            limiter=limiter,
            pump=pump,
            clock=time.monotonic,
            durable=durable,
            max_overflow_bytes=max_overflow_bytes,
            when_full=when_full,
        )
        undo.pop_all()
    _tell(stream_id, opened.recovered)
    if opened.recovered.quarantine is not None:
        quarantine.cap()
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


def _own(stream: Stream) -> StreamLock:
    path = stream.directory / f"{stream.file_name}.lock"
    try:
        return StreamLock(path, stream.stream_id)
    except OSError as exc:
        raise BackendError(f"cannot own {stream.stream_id!r} by {path}: {exc.strerror}") from exc


def _tell(stream_id: str, found: RecoveryReport) -> None:
    if found.records:
        _log.info("%r takes over %d items of an earlier owner", stream_id, found.records)
    if found.quarantine is not None:
        _log.warning("%r: %s is set aside: %s", stream_id, found.quarantine, found.reason)
