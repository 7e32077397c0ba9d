"""The queues that are compared, each with the calls that are timed and nothing around them.

To add one, write a function that opens it and put it into `PEERS`.
"""

import importlib
import os
import queue
import struct
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from hq_core import HybridQueue, TokenBucket, Unlimited

__all__ = ["BATCH", "PEERS", "OpenQueue", "Peer"]

BATCH = 64
"""Messages in a batch."""

_LENGTH = struct.Struct(">I")
_RAW_CALL_BYTES = 1024 * 1024
"""Most bytes in one call of the raw file: longer ones are at times several times slower."""
_MAP_SIZE = 1 << 36


@dataclass(frozen=True, slots=True)
class OpenQueue:
    """A queue under test."""

    put: Callable[[bytes], object]
    get: Callable[[], bytes | None]
    """The oldest message; called only when there is one, or where it may wait for one."""
    close: Callable[[], object]
    put_many: Callable[[list[bytes]], object] | None = None
    get_many: Callable[[int], list[bytes]] | None = None
    async_put: Callable[[bytes], Awaitable[object]] | None = None
    async_get: Callable[[], Awaitable[bytes]] | None = None
    """The same queue's, for coroutines."""
    spilled: Callable[[], int] | None = None
    """How many messages went through the disk so far; None: all, or none."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A kind of queue, and the workloads it is measured with."""

    name: str
    open: Callable[[Path, int], OpenQueue]
    """Opens an empty one in a directory, with so many messages in memory if it has the choice."""
    workloads: frozenset[str]
    package: str | None = None
    """The distribution that it comes from; None: Python's own."""


def _hybrid(
    directory: Path, memory_items: int, *, backend: str = "file", limited: bool = False
) -> OpenQueue:
    # A limiter that works and never refuses: refused calls would be cheaper than accepted ones.
    limiter = TokenBucket(1e9, 1_000_000_000) if limited else Unlimited()
    opened = HybridQueue("bench", memory_items, directory, backend=backend, limiter=limiter)
    return OpenQueue(
        opened.enqueue,
        opened.dequeue,
        opened.close,
        opened.enqueue_many,
        opened.dequeue_many,
        opened.aio.enqueue,
        opened.aio.dequeue,
        lambda: opened.stats().spilled,
    )


def _queue(directory: Path, memory_items: int) -> OpenQueue:
    opened: queue.Queue[bytes] = queue.Queue()
    return OpenQueue(opened.put, opened.get, _nothing)


def _simple_queue(directory: Path, memory_items: int) -> OpenQueue:
    opened: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    return OpenQueue(opened.put, opened.get, _nothing)


def _two_sided(module: str) -> Callable[[Path, int], OpenQueue]:
    """janus and culsans, whose queues have a side for threads and one for coroutines."""

    def opening(directory: Path, memory_items: int) -> OpenQueue:
        opened = importlib.import_module(module).Queue()
        threads, coroutines = opened.sync_q, opened.async_q
        return OpenQueue(
            threads.put,
            threads.get,
            opened.close,
            async_put=coroutines.put,
            async_get=coroutines.get,
        )

    return opening


def _persist_file(directory: Path, memory_items: int) -> OpenQueue:
    import persistqueue

    opened = persistqueue.Queue(str(directory / "queue"))

    def get() -> bytes:
        message: bytes = opened.get()
        opened.task_done()  # without it the file still has them all
        return message

    return OpenQueue(opened.put, get, _nothing)


def _persist_sqlite(directory: Path, memory_items: int) -> OpenQueue:
    import persistqueue

    opened = persistqueue.SQLiteQueue(str(directory / "queue"), multithreading=True)
    return OpenQueue(opened.put, opened.get, opened.close)


def _queuelib(directory: Path, memory_items: int) -> OpenQueue:
    import queuelib

    opened = queuelib.FifoDiskQueue(str(directory / "queue"))
    return OpenQueue(opened.push, opened.pop, opened.close)


def _diskcache(directory: Path, memory_items: int) -> OpenQueue:
    import diskcache

    opened = diskcache.Deque(directory=str(directory / "queue"))

    def put_many(batch: list[bytes]) -> None:
        with opened.transact():
            opened.extend(batch)

    return OpenQueue(opened.append, opened.popleft, opened.cache.close, put_many)


def _litequeue(directory: Path, memory_items: int) -> OpenQueue:
    import litequeue

    opened = litequeue.LiteQueue(str(directory / "queue.db"))

    def get() -> bytes:
        message = opened.pop()
        opened.done(message.message_id)  # likewise
        data: bytes = message.data
        return data

    return OpenQueue(opened.put, get, opened.close)


def _lmdb(directory: Path, memory_items: int) -> OpenQueue:
    import lmdb

    environment = lmdb.open(str(directory / "lmdb"), map_size=_MAP_SIZE, sync=False, metasync=False)
    first = last = 0

    def put_many(batch: list[bytes]) -> None:
        nonlocal last
        with environment.begin(write=True) as transaction:
            for message in batch:
                transaction.put(last.to_bytes(8), message, append=True)
                last += 1

    def get() -> bytes | None:
        nonlocal first
        with environment.begin(write=True) as transaction:
            message: bytes | None = transaction.pop(first.to_bytes(8))
        first += 1
        return message

    return OpenQueue(lambda message: put_many([message]), get, environment.close, put_many)


def _raw(directory: Path, memory_items: int) -> OpenQueue:
    """A bare file of the same records, their length in front: no bookkeeping but where it is."""
    fd = os.open(directory / "raw", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    sizes: deque[int] = deque()
    head = tail = 0

    def put(message: bytes) -> None:
        nonlocal tail
        tail += os.pwritev(fd, (_LENGTH.pack(len(message)), message), tail)
        sizes.append(len(message))

    def put_many(batch: list[bytes]) -> None:
        nonlocal tail
        buffers: list[bytes] = []
        for message in batch:
            buffers += _LENGTH.pack(len(message)), message
        step = max(1, _RAW_CALL_BYTES * len(batch) // sum(map(len, batch))) * 2
        for first in range(0, len(buffers), step):
            tail += os.pwritev(fd, buffers[first : first + step], tail)
        sizes.extend(map(len, batch))

    def get() -> bytes:
        nonlocal head
        message = os.pread(fd, sizes.popleft(), head + _LENGTH.size)
        head += _LENGTH.size + len(message)
        return message

    return OpenQueue(put, get, lambda: os.close(fd), put_many)


def _locked(unlocked: Callable[[Path, int], OpenQueue]) -> Callable[[Path, int], OpenQueue]:
    """For peers that leave locking to their user."""

    def opening(directory: Path, memory_items: int) -> OpenQueue:
        opened = unlocked(directory, memory_items)
        lock = threading.Lock()

        def put(message: bytes) -> None:
            with lock:
                opened.put(message)

        def get() -> bytes | None:
            with lock:
                return opened.get()

        return OpenQueue(put, get, opened.close)

    return opening


def _nothing() -> None:
    pass


_PAIR = {"pair", "pair batch"}
_MEMORY = frozenset({*_PAIR, "two threads", "latency stall", "latency burn"})
_LOOP = {"thread to loop", "loop to thread"}
_ONE_THREAD = frozenset({"append", "drain"})
_TWO_THREADS = frozenset({"sustained", "latency stall", "latency burn"})
_DISK = _ONE_THREAD | _TWO_THREADS

PEERS = {
    peer.name: peer
    for peer in (
        Peer("hybrid-queue", _hybrid, _MEMORY | _DISK | _LOOP | {"append batch"}, "hybrid-queue"),
        Peer(
            "hybrid-queue, limiter on",
            lambda directory, items: _hybrid(directory, items, limited=True),
            frozenset(_PAIR),
            "hybrid-queue",
        ),
        Peer(
            "hybrid-queue, memory 1",
            lambda directory, items: _hybrid(directory, 1),
            frozenset({"drain"}),
            "hybrid-queue",
        ),
        Peer(
            "hybrid-queue, LMDB",
            lambda directory, items: _hybrid(directory, items, backend="lmdb"),
            _ONE_THREAD | {"append batch"},
            "lmdb",
        ),
        Peer("queue.Queue", _queue, _MEMORY),
        Peer("queue.SimpleQueue", _simple_queue, _MEMORY),
        Peer("janus", _two_sided("janus"), _MEMORY | _LOOP, "janus"),
        Peer("culsans", _two_sided("culsans"), _MEMORY | _LOOP, "culsans"),
        Peer("persist-queue, file", _persist_file, _DISK, "persist-queue"),
        Peer("persist-queue, SQLite", _persist_sqlite, _DISK, "persist-queue"),
        Peer("queuelib", _queuelib, _ONE_THREAD | {"sustained"}, "queuelib"),
        Peer("queuelib + lock", _locked(_queuelib), _TWO_THREADS, "queuelib"),
        Peer("diskcache", _diskcache, _DISK | {"append batch"}, "diskcache"),
        Peer("litequeue", _litequeue, _DISK, "litequeue"),
        Peer("py-lmdb", _lmdb, _ONE_THREAD | {"append batch"}, "lmdb"),
        Peer("raw file", _raw, _ONE_THREAD | {"append batch"}),
        Peer("raw file + lock", _locked(_raw), frozenset({"sustained"})),
    )
}
