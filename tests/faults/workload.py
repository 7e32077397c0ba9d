"""What a queue goes through while its system calls fail, and the facts it tells on the way.

A life is one process: it opens the stream, works off a script, and closes, unless it is killed.
Every step is told before it begins and after it has ended, so that whoever listens knows what was
acknowledged, what was refused, and what was on its way at the end.

A message tells its number and its size; the number is unique within a scenario.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from hq_core import HybridQueue, HybridQueueError, InlinePump, QueueEmpty, Unlimited
from tests.faults.shim import Shim

__all__ = [
    "DAMAGED",
    "EMPTY",
    "MEMORY_ITEMS",
    "SETUPS",
    "Fact",
    "Life",
    "Setup",
    "Step",
    "checking",
    "resuming",
    "working",
]

Fact = list[Any]
"""A fact as it is sent: its kind and what belongs to it."""
Step = tuple[str, Any]
"""A step of a script: ``open``, ``put`` sizes one by one, ``put many`` sizes in a batch, ``take``
so many at most, ``drain`` so many at a time, ``close``."""

EMPTY: Final = -1
"""Stands for an empty message, which has no number."""
DAMAGED: Final = -2
"""Stands for bytes that nobody sent."""
MEMORY_ITEMS: Final = 8

_KIB: Final = 1024
_HEADER: Final = 8
_PATTERN: Final = random.Random(0).randbytes((1 << 20) + 1000)
_TRIES: Final = 4


@dataclass(frozen=True)
class Setup:
    """A backend, its options, and what the judge has to know about it."""

    backend: str
    options: Mapping[str, object] = field(default_factory=dict)
    queue: Mapping[str, Any] = field(default_factory=dict)
    durable: bool = True
    again: int = 255
    """How many items, besides the last batch, may come again that were taken before a crash."""
    constants: Mapping[str, object] = field(default_factory=dict)
    """What to set in the library, by ``module:name``, to get to see rare work with little data."""

    @property
    def drops_oldest(self) -> bool:
        """Whether it makes room by dropping what is oldest."""
        return self.queue.get("when_full") == "drop_oldest"


SETUPS: Final[Mapping[str, Setup]] = {
    "file": Setup("file"),
    "file, interval": Setup("file", {"fsync": "interval", "fsync_interval": 0.001}),
    "file, always": Setup("file", {"fsync": "always"}),
    "file, checksum": Setup("file", {"checksum": True}),
    "file, always, checksum": Setup("file", {"fsync": "always", "checksum": True}),
    "file, without holes": Setup(
        "file",
        constants={
            "hq_backends.file.space:punch": lambda *_: False,
            "hq_backends.file.backend:_REWRITE_FROM": 64 * _KIB,
        },
    ),
    "file, not durable": Setup("file", durable=False),
    "lmdb": Setup("lmdb"),
    "lmdb, sync": Setup("lmdb", {"sync": True}),
    "lmdb, writemap": Setup("lmdb", {"writemap": True}),
    "lmdb, compacting": Setup(
        "lmdb",
        {"map_size": 256 * _KIB},
        constants={"hq_backends.lmdb.backend:_COMPACT_FROM": 64 * _KIB},
    ),
    "lmdb, drop_oldest": Setup(
        "lmdb", queue={"when_full": "drop_oldest", "max_overflow_bytes": 180 * _KIB}
    ),
    "file, drop_newest": Setup(
        "file",
        queue={"when_full": "drop_newest", "max_overflow_bytes": 180 * _KIB},
        durable=False,
    ),
}
"""What the campaign attacks."""


def working(seed: int) -> list[Step]:
    """Every kind of step: small, empty and large messages, punched holes, drains, a reopening."""
    random_ = random.Random(seed)

    def small(count: int) -> list[int]:
        return [random_.choice((0, 8, 17, 400, 1316)) for _ in range(count)]

    def large(count: int) -> list[int]:
        return [random_.randrange(64 * _KIB, 150 * _KIB) for _ in range(count)]

    return [
        ("open", None),
        ("put", [0, *small(4)]),
        ("put many", small(7)),
        ("take", 1),
        ("take", 5),
        ("put", large(2)),
        ("put many", [*large(2), 0, *small(3), random_.randrange(700 * _KIB, 1024 * _KIB)]),
        ("take", 8),
        ("take", random_.randrange(2, 9)),
        ("take", 1),
        ("put many", small(20)),
        ("drain", random_.randrange(3, 9)),
        ("put", large(1)),
        ("put many", small(12)),
        ("take", 3),
        ("close", None),
        ("open", None),
        ("put", small(2)),
        ("take", 4),
        ("put many", [random_.randrange(8, 40) for _ in range(320)]),
        ("take", 1),
        ("take", 16),
        ("drain", 32),
        ("take", 1),
        ("put", [*large(1), *small(2)]),
        ("take", 2),
        ("put", [0]),
        ("close", None),
    ]


def resuming(seed: int) -> list[Step]:
    """What the next owner does with what it finds: take some, add some, and go."""
    random_ = random.Random(seed)
    return [
        ("open", None),
        ("take", random_.randrange(1, 7)),
        ("put", [17, 0, random_.randrange(64 * _KIB, 200 * _KIB)]),
        ("take", 1),
        ("put many", [8] * random_.randrange(2, 9)),
        ("close", None),
    ]


def checking(durable: bool) -> list[Step]:
    """The last life, without faults: everything comes, also after one more reopening."""
    reopening: list[Step] = [("close", None), ("open", None)] if durable else []
    return [
        ("open", None),
        ("put", [8, 900]),
        *reopening,
        ("drain", 64),
        ("put many", [30, 0, 31]),
        ("drain", 1),
        ("close", None),
    ]


class Life:
    """Works off a script in this process and tells every fact.

    Messages are numbered from `first` on. One that `gives_up` closes the queue whenever a message
    was refused, and opens it again.
    """

    def __init__(
        self,
        setup: Setup,
        directory: Path,
        shim: Shim,
        tell: Callable[[Fact], None],
        *,
        first: int,
        gives_up: bool,
    ) -> None:
        self._setup = setup
        self._directory = directory
        self._shim = shim
        self._number = first
        self._tell = tell
        self._gives_up = gives_up
        self._queue: HybridQueue | None = None
        for name, value in setup.constants.items():
            module, attribute = name.split(":")
            setattr(import_module(module), attribute, value)

    def run(self, script: list[Step]) -> None:
        """Do every step, whatever becomes of the others."""
        for kind, what in script:
            if kind == "open":
                self._open()
            elif self._queue is not None:
                self._do(self._queue, kind, what)
        left = sorted(path.name for path in self._directory.iterdir())
        self._tell(["end", self._shim.descriptors(), left])

    def _open(self) -> None:
        any(self._try_to_open() for _ in range(_TRIES))

    def _try_to_open(self) -> bool:
        self._tell(["open"])
        try:
            self._queue = HybridQueue(
                "s",
                MEMORY_ITEMS,
                self._directory,
                backend=self._setup.backend,
                backend_options=self._setup.options,
                durable=self._setup.durable,
                limiter=Unlimited(),
                pump=InlinePump(),
                **self._setup.queue,
            )
        except Exception as exc:
            self._refused(exc)
            return False
        found = self._queue.recovery
        self._tell(["opened", found.reason, *self._state()])
        return True

    def _do(self, queue: HybridQueue, kind: str, what: Any) -> None:
        if kind == "put":
            for size in what:
                if self._queue is not None:
                    self._put(self._queue, [size])
        elif kind == "put many":
            self._put(queue, what)
        elif kind == "take":
            self._take(queue, what)
        elif kind == "drain":
            for _ in range(queue.depth + _TRIES):
                if queue.depth:
                    self._take(queue, what)
        else:
            self._close(queue)

    def _put(self, queue: HybridQueue, sizes: list[int]) -> None:
        numbers = list(range(self._number, self._number + len(sizes)))
        self._number += len(sizes)
        self._tell(["put", _tokens(numbers, sizes)])
        items = [_message(*message) for message in zip(numbers, sizes, strict=True)]
        try:
            if len(items) == 1:
                queue.enqueue(items[0])
            else:
                queue.enqueue_many(items)
        except Exception as exc:
            self._refused(exc)
            if self._gives_up:
                self._close(queue)
                self._open()
        else:
            self._tell(["accepted", *self._state()])

    def _take(self, queue: HybridQueue, most: int) -> None:
        self._tell(["take", most])
        items: list[bytes] = []
        try:
            with suppress(QueueEmpty):
                items = [queue.try_dequeue()] if most == 1 else queue.dequeue_many(most, timeout=0)
        except Exception as exc:
            self._refused(exc)
        else:
            self._tell(["taken", list(map(_token, items)), *self._state()])

    def _close(self, queue: HybridQueue) -> None:
        self._tell(["close"])
        self._queue = None
        try:
            queue.close()
        except Exception as exc:
            self._refused(exc)
        else:
            self._tell(["closed", *self._state()])

    def _refused(self, exc: Exception) -> None:
        declared = isinstance(exc, HybridQueueError)
        self._tell(["refused", type(exc).__name__, declared, str(exc), *self._state()])

    def _state(self) -> Iterator[object]:
        """Calls gone wrong; items held, of these stored; items dropped."""
        yield self._shim.struck()
        if self._queue is None:
            yield from (0, 0, 0)
            return
        stats = self._queue.stats()
        if stats.enqueued != stats.dequeued + stats.discarded + stats.depth:
            self._tell(["wrong", f"the accounts do not balance: {stats}"])
        yield from (stats.depth, stats.depth - stats.memory_items, stats.dropped)


def _message(number: int, size: int) -> bytes:
    if not size:
        return b""
    start = number % 1000
    body = _PATTERN[start : start + size - _HEADER]
    return number.to_bytes(4, "big") + size.to_bytes(4, "big") + body


def _tokens(numbers: list[int], sizes: list[int]) -> list[int]:
    return [number if size else EMPTY for number, size in zip(numbers, sizes, strict=True)]


def _token(item: bytes) -> int:
    if not item:
        return EMPTY
    number, size = int.from_bytes(item[:4], "big"), int.from_bytes(item[4:8], "big")
    return number if size == len(item) and item == _message(number, size) else DAMAGED
