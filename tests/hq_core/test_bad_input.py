"""Everything a caller can get wrong: what is raised, what it says, and that nothing has changed."""

import os
import stat
import subprocess
import sys
import threading
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from hq_core import (
    MAX_MESSAGE_BYTES,
    BackendError,
    BytesTier,
    CountTier,
    DequeueTimeout,
    HybridQueue,
    InlinePump,
    MessageTooLargeError,
    PluginError,
    QueueClosed,
    QueueEmpty,
    QueueFull,
    RateLimited,
    Stream,
    StreamBusyError,
    TokenBucket,
    Unlimited,
    registry,
)
from hq_core.protocols import Leftover
from hq_core.testing import MemoryBackend
from hq_core.testing.forking import in_child

HELD = [b"first", b"second", b"third"]
"""What the queue of these tests holds: two items in memory, one in the overflow file."""

NOBODY = 65_534
LEFTOVERS: tuple[Leftover, ...] = ("resume", "discard", "refuse", "quarantine")

Call = Callable[[HybridQueue], object]
Opener = Callable[..., HybridQueue]


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def opened(spool: Path) -> Iterator[Opener]:
    """Opens queues that need no thread, and closes them."""
    queues: list[HybridQueue] = []

    def open_queue(
        memory_items: int | None = 2, stream_id: str = "s", **options: Any
    ) -> HybridQueue:
        defaults: dict[str, Any] = {"limiter": Unlimited(), "pump": InlinePump()}
        queues.append(HybridQueue(stream_id, memory_items, spool, **defaults | options))
        return queues[-1]

    yield open_queue
    for queue in queues:
        queue.close()


@pytest.fixture
def empty(opened: Opener) -> HybridQueue:
    return opened()


@pytest.fixture
def queue(opened: Opener) -> Iterator[HybridQueue]:
    """A queue that holds `HELD`, and has to deliver it after whatever happens in the test."""
    queue = filled(opened())
    yield queue
    assert queue.dequeue_many(9) == HELD


def filled(queue: HybridQueue) -> HybridQueue:
    """`queue`, holding `HELD` in both its tiers."""
    for item in HELD:
        queue.enqueue(item)
    assert (queue.stats().memory_items, queue.has_disk_data) == (2, True)
    return queue


def refused(
    queue: HybridQueue, error: type[Exception], words: tuple[str, ...], call: Callable[[], object]
) -> None:
    """`call` raises exactly `error`, its message has all `words`, and the accounts stay."""
    before = queue.stats()
    raises(error, words, call)
    assert queue.stats() == before


def raises(error: type[Exception], words: tuple[str, ...], call: Callable[[], object]) -> None:
    with pytest.raises(error) as refusal:
        call()
    assert type(refusal.value) is error
    assert [word for word in words if word not in str(refusal.value)] == []


# ---- the constructor -------------------------------------------------------------------------

WRONG_ARGUMENTS: list[tuple[str, object, type[Exception], tuple[str, ...]]] = [
    *[
        ("stream_id", wrong, TypeError, ("stream_id must be a str",))
        for wrong in (None, 5, b"s", True, Path("s"), ["s"])
    ],
    *[
        ("memory_items", wrong, ValueError, ("memory_items must be at least 1", str(wrong)))
        for wrong in (0, -1)
    ],
    *[
        ("memory_items", wrong, TypeError, ("memory_items must be an int",))
        for wrong in (None, 1.0, True, "2", b"2")
    ],
    *[("directory", wrong, TypeError, ("PathLike",)) for wrong in (None, 5, b"spool")],
    ("directory", "spool\0", ValueError, ("null",)),
    *[("backend", wrong, TypeError, ("a name or a factory", "'file'")) for wrong in (None, 5)],
    ("backend", "no-such", PluginError, ("'no-such'", "installed are", "file")),
    ("backend_options", {"weight": 1}, ValueError, ("'weight'", "read_ahead")),
    ("backend_options", {"read_ahead": "x"}, ValueError, ("read_ahead must be 65536",)),
    *[
        ("max_overflow_bytes", wrong, ValueError, ("max_overflow_bytes must be at least 1",))
        for wrong in (0, -1)
    ],
    *[
        ("max_overflow_bytes", wrong, TypeError, ("max_overflow_bytes must be an int",))
        for wrong in (1.0, True, "1")
    ],
    *[
        ("when_full", wrong, ValueError, ("when_full must be one of", "block, drop_oldest"))
        for wrong in ("wait", None, 5)
    ],
    *[
        ("leftover", wrong, ValueError, ("leftover must be one of", *LEFTOVERS))
        for wrong in ("delete", None, 5)
    ],
    *[
        ("on_corruption", wrong, ValueError, ("on_corruption must be one of", "quarantine, raise"))
        for wrong in ("ignore", None, 5)
    ],
]


@pytest.mark.parametrize(("name", "wrong", "error", "words"), WRONG_ARGUMENTS)
def test_a_wrong_argument_is_refused_and_the_message_says_what_is_right(
    spool: Path, name: str, wrong: object, error: type[Exception], words: tuple[str, ...]
) -> None:
    arguments: dict[str, Any] = {"stream_id": "s", "memory_items": 2, "directory": spool}
    raises(error, words, lambda: HybridQueue(**arguments | {name: wrong}))
    assert list(spool.rglob("*")) == []


def test_options_are_given_by_name_only(spool: Path) -> None:
    positional: Any = HybridQueue
    with pytest.raises(TypeError, match="positional"):
        positional("s", 2, spool, "file")


@pytest.mark.parametrize("tier", [CountTier(2), BytesTier(100)])
def test_memory_items_and_a_memory_tier_exclude_one_another(
    spool: Path, tier: CountTier | BytesTier
) -> None:
    words = ("memory_items must be None", "memory=")
    raises(TypeError, words, lambda: HybridQueue("s", 2, spool, memory=tier))


@pytest.mark.parametrize("part", ["memory", "limiter", "pump"])
@pytest.mark.parametrize("wrong", [5, "1000", {}])
def test_what_is_no_memory_tier_limiter_or_pump_is_refused_by_name(
    spool: Path, part: str, wrong: object
) -> None:
    items = None if part == "memory" else 2
    arguments: dict[str, Any] = {part: wrong}
    raises(TypeError, (part,), lambda: HybridQueue("s", items, spool, **arguments))


@pytest.mark.parametrize("wrong", ["no", 1, None])
def test_a_durable_that_is_no_bool_is_refused_by_name(spool: Path, wrong: Any) -> None:
    raises(TypeError, ("durable",), lambda: HybridQueue("s", 2, spool, durable=wrong))


@pytest.mark.parametrize("wrong", [5, "read_ahead=65536", "", ["read_ahead"]])
def test_backend_options_that_are_no_mapping_are_refused_by_name(spool: Path, wrong: Any) -> None:
    words = ("backend_options",)
    raises(TypeError, words, lambda: HybridQueue("s", 2, spool, backend_options=wrong))


class Falsy(TokenBucket):
    """A limiter that says it is false, as a container without tokens might."""

    def __bool__(self) -> bool:
        return False


def test_a_limiter_is_used_whatever_its_truth_value(opened: Opener) -> None:
    queue = opened(limiter=Falsy(rate=0.001, burst=1))
    queue.enqueue(b"x")
    with pytest.raises(RateLimited):
        queue.enqueue(b"x")


class BrokenTier(CountTier):
    """Fails when asked for its size, at opening."""

    def capacity(self) -> tuple[int, int]:
        raise RuntimeError("on purpose")


class BrokenPump(InlinePump):
    """Fails when started, at opening."""

    def start(self, step: Callable[[], bool], name: str) -> None:
        raise RuntimeError("on purpose")


@pytest.mark.parametrize(
    "arguments",
    [
        {"stream_id": "s", "memory_items": None, "memory": BrokenTier(2)},
        {"stream_id": "s", "memory_items": 2, "pump": BrokenPump()},
    ],
    ids=["memory", "pump"],
)
def test_a_part_that_fails_at_opening_leaves_the_stream_free(
    spool: Path, arguments: dict[str, Any]
) -> None:
    with pytest.raises(RuntimeError, match="on purpose"):
        HybridQueue(**arguments, directory=spool)
    HybridQueue("s", 2, spool).close()


def test_a_pump_that_fails_at_opening_costs_nothing_that_was_stored(spool: Path) -> None:
    spool.mkdir()
    left = spool / "s.overflow"
    left.write_bytes(b"\0\0\0\4kept")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(RuntimeError, match="on purpose"):
        HybridQueue("s", 2, spool, pump=BrokenPump())
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    with HybridQueue("s", 2, spool) as queue:
        assert queue.try_dequeue() == b"kept"


# ---- the directory ---------------------------------------------------------------------------


def test_a_directory_that_is_a_file_is_refused_and_the_file_survives(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"precious")
    words = (str(path), "is a file", "name a directory")
    raises(BackendError, words, lambda: HybridQueue("s", 2, path))
    assert path.read_bytes() == b"precious"


def test_a_directory_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "spool"
    words = ("cannot make the directory", str(path), "Not a directory")
    raises(BackendError, words, lambda: HybridQueue("s", 2, path))


def test_a_directory_with_too_long_a_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 300)
    words = ("cannot make the directory", "name too long")
    raises(BackendError, words, lambda: HybridQueue("s", 2, path))


@pytest.mark.parametrize("made", ["spool", "new/deep/spool"])
def test_directories_that_are_made_are_for_their_user_alone(tmp_path: Path, made: str) -> None:
    before = os.umask(0o022)
    try:
        HybridQueue("s", 2, tmp_path / made).close()
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == dict.fromkeys(Path(made).parts, 0o700)


def become_nobody(home: Path) -> None:
    """In a child: stand in `home`, and be a user to whom permissions apply."""
    os.chdir(home)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """A directory in which nobody, and `NOBODY`, may write."""
    registry.load("file")  # while its modules can be read
    tmp_path.chmod(0o755)
    sealed = tmp_path / "sealed"
    sealed.mkdir()
    sealed.chmod(0o555)
    return sealed


def test_a_directory_that_is_not_writable_is_refused(sealed: Path) -> None:
    def child() -> None:
        become_nobody(sealed.parent)
        words = ("cannot own 's'", "Permission denied", "sealed/s.lock")
        raises(BackendError, words, lambda: HybridQueue("s", 2, "sealed"))

    in_child(child)


def test_a_directory_that_cannot_be_made_is_refused(sealed: Path) -> None:
    def child() -> None:
        become_nobody(sealed.parent)
        words = ("cannot make the directory sealed/new", "Permission denied")
        raises(BackendError, words, lambda: HybridQueue("s", 2, "sealed/new"))

    in_child(child)


# ---- stream ids ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stream_id",
    ["", ".", "..", "../x", "/etc/x", "a/b", "a\0b", "a\nb", "\ud800", "é", "x" * 1_000, "-rf"],
)
def test_any_text_is_a_stream_id_and_its_files_stay_in_the_directory(
    opened: Opener, spool: Path, stream_id: str
) -> None:
    queue = opened(stream_id=stream_id)
    queue.enqueue_many(HELD)
    assert len(list(spool.iterdir())) == 3
    assert all(path.is_file() for path in spool.iterdir())
    assert list(spool.parent.iterdir()) == [spool]
    assert queue.stats().stream_id == stream_id
    assert queue.dequeue_many(9) == HELD


# ---- messages --------------------------------------------------------------------------------

WRONG_MESSAGES = [("text", "encode it first"), (5, "int"), (None, "NoneType"), ([b"x"], "list")]
wrong_messages = pytest.mark.parametrize(("wrong", "word"), WRONG_MESSAGES)


@wrong_messages
def test_a_message_that_is_no_buffer_is_refused(queue: HybridQueue, wrong: Any, word: str) -> None:
    words = ("a message must be bytes or another buffer", word)
    refused(queue, TypeError, words, lambda: queue.enqueue(wrong))


@wrong_messages
def test_a_message_that_is_no_buffer_is_refused_by_an_empty_queue_too(
    empty: HybridQueue, wrong: Any, word: str
) -> None:
    words = ("a message must be bytes or another buffer", word)
    refused(empty, TypeError, words, lambda: empty.enqueue(wrong))


class Marked(bytes):
    """Bytes with a subclass of their own."""


BUFFERS: Mapping[str, Any] = {
    "bytes": b"abcd",
    "subclass": Marked(b"abcd"),
    "bytearray": bytearray(b"abcd"),
    "memoryview": memoryview(b"abcd"),
    "every other byte": memoryview(b"a-b-c-d-")[::2],
    "array": array("H", b"abcd"),
}


@pytest.mark.parametrize("buffer", BUFFERS.values(), ids=BUFFERS)
def test_any_buffer_is_a_message_and_comes_back_as_bytes(empty: HybridQueue, buffer: Any) -> None:
    empty.enqueue(buffer)
    empty.enqueue_many([buffer, buffer])
    got = empty.dequeue_many(9)
    assert got == [b"abcd"] * 3
    assert {type(item) for item in got} == {bytes}


def test_a_buffer_may_be_used_again_after_the_call(empty: HybridQueue) -> None:
    buffer = bytearray(b"before")
    for _ in range(3):
        empty.enqueue(buffer)
    empty.enqueue_many([buffer])
    buffer[:] = b"after!"
    assert empty.dequeue_many(9) == [b"before"] * 4


def test_an_empty_message_is_a_message_in_either_tier(empty: HybridQueue) -> None:
    for _ in range(3):
        empty.enqueue(b"")
    assert empty.has_disk_data
    assert empty.dequeue_many(9) == [b""] * 3


KINDS: Mapping[str, Callable[[int], Any]] = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": lambda size: memoryview(bytes(size)),
}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@kinds
def test_10_mib_are_accepted_in_either_tier(opened: Opener, kind: Callable[[int], Any]) -> None:
    queue = opened(memory_items=1)
    queue.enqueue(kind(MAX_MESSAGE_BYTES))
    assert not queue.has_disk_data
    queue.enqueue_many([kind(MAX_MESSAGE_BYTES)])
    assert queue.has_disk_data
    assert [len(item) for item in queue.dequeue_many(2)] == [MAX_MESSAGE_BYTES] * 2


@kinds
def test_one_byte_more_is_refused_when_there_is_room_in_memory(
    empty: HybridQueue, kind: Callable[[int], Any]
) -> None:
    one_too_many = kind(MAX_MESSAGE_BYTES + 1)
    words = ("10485761 bytes", "up to 10485760")
    refused(empty, MessageTooLargeError, words, lambda: empty.enqueue(one_too_many))
    refused(empty, MessageTooLargeError, words, lambda: empty.enqueue_many([b"", one_too_many]))


@kinds
def test_one_byte_more_is_refused_when_memory_is_full(
    queue: HybridQueue, kind: Callable[[int], Any]
) -> None:
    one_too_many = kind(MAX_MESSAGE_BYTES + 1)
    words = ("10485761 bytes", "up to 10485760")
    refused(queue, MessageTooLargeError, words, lambda: queue.enqueue(one_too_many))
    refused(queue, MessageTooLargeError, words, lambda: queue.enqueue_many([b"", one_too_many]))


def test_the_size_of_a_buffer_is_its_bytes_and_not_its_elements(empty: HybridQueue) -> None:
    view = memoryview(bytes(MAX_MESSAGE_BYTES + 8)).cast("Q")
    refused(empty, MessageTooLargeError, ("10485768 bytes",), lambda: empty.enqueue(view))


def test_a_message_larger_than_all_memory_is_refused(opened: Opener) -> None:
    queue = opened(memory_items=None, memory=BytesTier(100))
    words = ("101 bytes", "up to 100")
    refused(queue, MessageTooLargeError, words, lambda: queue.enqueue(bytes(101)))
    queue.enqueue(bytes(100))


def test_a_refused_message_takes_no_token(opened: Opener) -> None:
    queue = opened(limiter=TokenBucket(rate=0.001, burst=1))
    wrong: Any = "text"
    refused(queue, TypeError, (), lambda: queue.enqueue(wrong))
    refused(queue, TypeError, (), lambda: queue.enqueue_many([wrong]))
    refused(queue, MessageTooLargeError, (), lambda: queue.enqueue(bytes(MAX_MESSAGE_BYTES + 1)))
    refused(queue, ValueError, (), lambda: queue.enqueue(b"x", timeout=-1))
    queue.enqueue(b"the one token")


# ---- batches ---------------------------------------------------------------------------------


@pytest.mark.parametrize("single", [b"abc", bytearray(b"abc"), memoryview(b"abc"), "abc", b"", ""])
def test_one_message_is_no_batch(queue: HybridQueue, single: Any) -> None:
    words = ("an iterable of messages", "use enqueue")
    refused(queue, TypeError, words, lambda: queue.enqueue_many(single))


@pytest.mark.parametrize("wrong", [5, None, 1.5])
def test_a_batch_that_is_no_iterable_is_refused(queue: HybridQueue, wrong: Any) -> None:
    refused(queue, TypeError, ("iterable",), lambda: queue.enqueue_many(wrong))


@pytest.mark.parametrize("place", [0, 1, 2])
@wrong_messages
def test_a_batch_with_one_wrong_item_leaves_nothing_behind(
    empty: HybridQueue, place: int, wrong: Any, word: str
) -> None:
    batch = [b"a", b"b"]
    batch.insert(place, wrong)
    refused(empty, TypeError, ("a message must be", word), lambda: empty.enqueue_many(batch))


@wrong_messages
def test_a_batch_with_one_wrong_item_leaves_nothing_behind_in_the_overflow(
    queue: HybridQueue, wrong: Any, word: str
) -> None:
    batch = [b"a", wrong, b"b"]
    refused(queue, TypeError, ("a message must be", word), lambda: queue.enqueue_many(batch))


def test_a_batch_whose_iterator_fails_leaves_nothing_behind(queue: HybridQueue) -> None:
    def messages() -> Iterator[bytes]:
        yield b"a"
        raise KeyError("source")

    refused(queue, KeyError, ("source",), lambda: queue.enqueue_many(messages()))


def test_a_batch_larger_than_the_burst_is_refused_and_says_so(
    opened: Opener,
) -> None:
    queue = opened(limiter=TokenBucket(burst=5))
    before = queue.stats()
    raises(RateLimited, ("6", "never pass", "burst is 5"), lambda: queue.enqueue_many([b""] * 6))
    assert queue.stats() == replace(before, rate_limited=6)
    queue.enqueue_many([b""] * 5)


def test_too_many_items_a_second_are_refused_and_counted(
    opened: Opener,
) -> None:
    queue = opened(limiter=TokenBucket(rate=0.001, burst=1))
    queue.enqueue(b"x")
    before = queue.stats()
    raises(RateLimited, ("slow down", "limiter="), lambda: queue.enqueue(b"x"))
    assert queue.stats() == replace(before, rate_limited=1)


@pytest.mark.parametrize("when_full", ["raise", "block", "drop_oldest", "drop_newest"])
def test_a_batch_that_neither_tier_can_ever_hold_is_refused(opened: Opener, when_full: str) -> None:
    queue = opened(max_overflow_bytes=20, when_full=when_full)
    queue.enqueue_many(HELD[:2])
    words = ("3 items", "can never be held", "20 bytes", "send fewer", "max_overflow_bytes")
    refused(queue, MessageTooLargeError, words, lambda: queue.enqueue_many([bytes(10)] * 3))


@pytest.mark.parametrize("batch", [[bytes(10)], [b"", b""]])
def test_what_does_not_fit_now_is_refused_and_the_limit_named(
    opened: Opener, batch: list[bytes]
) -> None:
    queue = opened(max_overflow_bytes=20)
    queue.enqueue_many(HELD[:2])
    queue.enqueue(bytes(10))
    words = ("memory is full", "max_overflow_bytes=20")
    refused(queue, QueueFull, words, lambda: queue.enqueue_many(batch))
    refused(queue, QueueFull, words, lambda: queue.enqueue(bytes(10)))


def test_waiting_for_room_ends_at_the_timeout(opened: Opener) -> None:
    queue = opened(max_overflow_bytes=20, when_full="block")
    queue.enqueue_many(HELD[:2])
    queue.enqueue(bytes(10))
    for timeout in (0, 0.001):
        refused(queue, QueueFull, ("memory is full",), partial(queue.enqueue, bytes(10), timeout))


# ---- timeouts and counts ---------------------------------------------------------------------

WRONG_TIMEOUTS = [
    *[
        (wrong, TypeError, ("timeout must be a number of seconds", type(wrong).__name__))
        for wrong in ("1", b"1", True, False, [1], 1j)
    ],
    *[
        (wrong, ValueError, ("timeout must be 0", "or more", str(wrong)))
        for wrong in (-1, -0.001, float("nan"), float("-inf"))
    ],
]
wrong_timeouts = pytest.mark.parametrize(("wrong", "error", "words"), WRONG_TIMEOUTS)

WAITING: Mapping[str, Callable[[HybridQueue, Any], object]] = {
    "enqueue": lambda queue, timeout: queue.enqueue(b"x", timeout),
    "enqueue_many": lambda queue, timeout: queue.enqueue_many([b"x"], timeout),
    "dequeue": lambda queue, timeout: queue.dequeue(timeout),
    "dequeue_many": lambda queue, timeout: queue.dequeue_many(1, timeout),
}
waiting = pytest.mark.parametrize("call", WAITING.values(), ids=WAITING)


@waiting
@wrong_timeouts
def test_a_wrong_timeout_is_refused_by_a_queue_that_holds_items(
    opened: Opener,
    call: Callable[[HybridQueue, Any], object],
    wrong: Any,
    error: type[Exception],
    words: tuple[str, ...],
) -> None:
    queue = filled(opened())
    refused(queue, error, words, lambda: call(queue, wrong))


@waiting
@wrong_timeouts
def test_a_wrong_timeout_is_refused_by_an_empty_queue(
    empty: HybridQueue,
    call: Callable[[HybridQueue, Any], object],
    wrong: Any,
    error: type[Exception],
    words: tuple[str, ...],
) -> None:
    refused(empty, error, words, lambda: call(empty, wrong))


@waiting
@pytest.mark.parametrize("timeout", [None, 0, 0.0, 5, 1e300, float("inf")])
def test_any_other_number_of_seconds_is_a_timeout(
    opened: Opener,
    call: Callable[[HybridQueue, Any], object],
    timeout: float | None,
) -> None:
    queue = opened()
    queue.enqueue(b"x")
    call(queue, timeout)


@pytest.mark.parametrize("timeout", [0, 0.001])
def test_nothing_to_dequeue_in_time_is_a_timeout(empty: HybridQueue, timeout: float) -> None:
    words = (f"within {timeout} s",)
    refused(empty, DequeueTimeout, words, lambda: empty.dequeue(timeout))
    refused(empty, DequeueTimeout, words, lambda: empty.dequeue_many(1, timeout))


def test_nothing_to_dequeue_without_waiting_is_an_empty_queue(empty: HybridQueue) -> None:
    refused(empty, QueueEmpty, ("empty",), empty.try_dequeue)


WRONG_COUNTS = [
    *[(wrong, ValueError, ("max_items must be at least 1", str(wrong))) for wrong in (0, -1)],
    *[
        (wrong, TypeError, ("max_items must be an int", type(wrong).__name__))
        for wrong in (None, 1.0, True, "1")
    ],
]


@pytest.mark.parametrize(("wrong", "error", "words"), WRONG_COUNTS)
def test_a_wrong_count_is_refused(
    queue: HybridQueue, wrong: Any, error: type[Exception], words: tuple[str, ...]
) -> None:
    refused(queue, error, words, lambda: queue.dequeue_many(wrong))


# ---- after the end ---------------------------------------------------------------------------

ENQUEUES: Mapping[str, Call] = {
    "enqueue": lambda queue: queue.enqueue(b"x"),
    "enqueue with a timeout": lambda queue: queue.enqueue(b"x", 5),
    "enqueue_many": lambda queue: queue.enqueue_many([b"x", b"y"]),
}
DEQUEUES: Mapping[str, Call] = {
    "dequeue": lambda queue: queue.dequeue(),
    "dequeue with a timeout": lambda queue: queue.dequeue(5),
    "dequeue_many": lambda queue: queue.dequeue_many(2),
    "try_dequeue": lambda queue: queue.try_dequeue(),
}
ANSWERS: Mapping[str, Call] = {
    "stats": lambda queue: queue.stats(),
    "depth": lambda queue: queue.depth,
    "pressure": lambda queue: queue.pressure,
    "has_disk_data": lambda queue: queue.has_disk_data,
}


def each(calls: Mapping[str, Call]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("call", calls.values(), ids=calls)


@each({**ENQUEUES, **DEQUEUES})
def test_a_closed_queue_takes_and_gives_nothing(opened: Opener, call: Call) -> None:
    queue = filled(opened())
    queue.close()
    refused(queue, QueueClosed, ("'s'", "closed"), lambda: call(queue))


@each({**ANSWERS, "close": HybridQueue.close, "shutdown": HybridQueue.shutdown})
def test_everything_else_goes_on_after_close(opened: Opener, call: Call) -> None:
    queue = filled(opened())
    queue.close()
    before = queue.stats()
    call(queue)
    assert queue.stats() == before
    assert (before.enqueued, before.discarded, before.depth) == (3, 3, 0)


def test_a_with_block_closes_its_queue(spool: Path) -> None:
    with HybridQueue("s", 2, spool) as queue:
        queue.enqueue(b"x")
    refused(queue, QueueClosed, ("closed",), queue.dequeue)


@each(ENQUEUES)
def test_a_queue_that_was_shut_down_takes_nothing(queue: HybridQueue, call: Call) -> None:
    queue.shutdown()
    refused(queue, QueueClosed, ("'s'", "shut down"), lambda: call(queue))


@each(DEQUEUES)
def test_a_queue_that_was_shut_down_gives_what_it_has(opened: Opener, call: Call) -> None:
    queue = opened()
    queue.enqueue_many(HELD)  # more than fits: all of it is stored
    queue.shutdown()
    got: list[object] = []
    while queue.depth:
        given = call(queue)
        got += given if isinstance(given, list) else [given]
    assert got == HELD


@each(DEQUEUES)
def test_a_queue_that_was_shut_down_and_drained_gives_nothing(
    empty: HybridQueue, call: Call
) -> None:
    empty.shutdown()
    refused(empty, QueueClosed, ("'s'", "shut down"), lambda: call(empty))


@pytest.mark.parametrize("closed", [False, True])
def test_shutting_down_again_changes_nothing(empty: HybridQueue, closed: bool) -> None:
    end = empty.close if closed else empty.shutdown
    end()
    empty.shutdown()
    word = "closed" if closed else "shut down"
    refused(empty, QueueClosed, (word,), lambda: empty.enqueue(b"x"))


# ---- a second owner --------------------------------------------------------------------------

BUSY = ("'s'", "open in another queue", "close that one", "another stream id or directory")


@pytest.mark.parametrize("leftover", LEFTOVERS)
def test_a_second_queue_on_the_stream_is_refused_and_harms_nothing(
    queue: HybridQueue, spool: Path, leftover: Any
) -> None:
    refused(queue, StreamBusyError, BUSY, lambda: HybridQueue("s", 2, spool, leftover=leftover))


def test_another_way_to_write_the_directory_is_the_same_stream(
    queue: HybridQueue, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(spool.parent)
    Path("link").symlink_to("spool")
    for directory in ("spool", "link", "./spool/", "link/../spool"):
        refused(queue, StreamBusyError, BUSY, partial(HybridQueue, "s", 2, directory))


def test_a_refused_second_queue_can_be_opened_after_the_first(spool: Path) -> None:
    first = HybridQueue("s", 2, spool)
    raises(StreamBusyError, BUSY, lambda: HybridQueue("s", 2, spool))
    first.close()
    HybridQueue("s", 2, spool).close()


def test_other_streams_and_other_directories_are_free(
    queue: HybridQueue, spool: Path, tmp_path: Path
) -> None:
    HybridQueue("S", 2, spool).close()
    HybridQueue("s", 2, tmp_path / "elsewhere").close()


SECOND_QUEUE = """
import sys
from hq_core import HybridQueue, StreamBusyError
for leftover in ("resume", "discard", "refuse", "quarantine"):
    try:
        HybridQueue("s", 2, sys.argv[1], leftover=leftover)
    except StreamBusyError as refusal:
        print(refusal)
"""


@pytest.mark.slow
def test_a_second_queue_in_another_process_is_refused_and_harms_nothing(
    queue: HybridQueue, spool: Path
) -> None:
    before = queue.stats()
    root = Path(registry.__file__).parents[1]
    answers = subprocess.run(
        [sys.executable, "-c", SECOND_QUEUE, spool],
        env={**os.environ, "PYTHONPATH": str(root)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    assert len(answers) == 4
    assert all(word in answer for answer in answers for word in BUSY)
    assert queue.stats() == before


# ---- forks -----------------------------------------------------------------------------------

PARENTS = ("'s'", "belongs to the process that forked this one", "open a queue of your own")


def files(spool: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in spool.iterdir()}


FROM_A_CHILD: Mapping[str, Call] = {
    **ENQUEUES,
    "dequeue": lambda queue: queue.dequeue(5),  # not for ever, should it be let in
    "dequeue_many": lambda queue: queue.dequeue_many(2, 5),
    "try_dequeue": HybridQueue.try_dequeue,
    **ANSWERS,
    "shutdown": HybridQueue.shutdown,
}


@each(FROM_A_CHILD)
def test_a_forked_child_cannot_use_its_parents_queue(
    queue: HybridQueue, spool: Path, call: Call
) -> None:
    before, stored = queue.stats(), files(spool)
    in_child(lambda: raises(StreamBusyError, PARENTS, lambda: call(queue)))
    assert queue.stats() == before
    assert files(spool) == stored


@each({"close": HybridQueue.close, "with": lambda queue: queue.__exit__(None, None, None)})
def test_close_in_a_forked_child_leaves_its_parent_everything(
    queue: HybridQueue, spool: Path, call: Call
) -> None:
    before, stored = queue.stats(), files(spool)

    def child() -> None:
        call(queue)
        call(queue)

    in_child(child)
    assert queue.stats() == before
    assert files(spool) == stored
    raises(StreamBusyError, BUSY, lambda: HybridQueue("s", 2, spool))


def test_a_forked_child_cannot_open_its_parents_stream(queue: HybridQueue, spool: Path) -> None:
    def child() -> None:
        queue.close()
        for leftover in LEFTOVERS:
            raises(StreamBusyError, BUSY, partial(HybridQueue, "s", 2, spool, leftover=leftover))

    stored = files(spool)
    in_child(child)
    assert files(spool) == stored


def test_a_forked_child_can_use_a_queue_of_its_own(queue: HybridQueue, spool: Path) -> None:
    def child() -> None:
        with HybridQueue("child", 2, spool) as own:
            own.enqueue_many(HELD)
            assert own.dequeue_many(9) == HELD

    in_child(child)


def test_the_parent_goes_on_after_a_fork(queue: HybridQueue, spool: Path) -> None:
    in_child(queue.close)
    queue.enqueue(b"fourth")
    assert queue.dequeue_many(9) == [*HELD, b"fourth"]
    queue.enqueue_many(HELD)  # for the fixture, through memory and the same file again


def test_queues_closed_before_do_not_open_the_way_to_the_one_that_is_not(
    queue: HybridQueue, opened: Opener
) -> None:
    closed = [opened(stream_id=f"closed-{number}") for number in range(8)]
    for other in closed:
        other.close()
    in_child(lambda: raises(StreamBusyError, PARENTS, queue.stats))


class HeldUp:
    """Holds up the thread that calls it, until told to go on."""

    def __init__(self) -> None:
        self.entered = Event()
        self.go_on = Event()

    def __call__(self) -> None:
        self.entered.set()
        assert self.go_on.wait(60)


class HeldUpTier(CountTier):
    """Held up under the queue's mutex."""

    def __init__(self, max_items: int, hold: HeldUp) -> None:
        super().__init__(max_items)
        self._hold = hold

    def offer_one(self, item: bytes) -> bool:
        self._hold()
        return super().offer_one(item)


class HeldUpBackend(MemoryBackend):
    """Held up under the lock of backend calls."""

    def __init__(self, stream: Stream, hold: HeldUp) -> None:
        super().__init__(stream)
        self._hold = hold

    def append(self, records: Any) -> None:
        self._hold()
        super().append(records)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("where", ["mutex", "backend"])
def test_a_child_forked_while_another_thread_is_inside_the_queue_does_not_hang(
    opened: Opener, where: str
) -> None:
    hold = HeldUp()
    if where == "mutex":
        queue = opened(memory_items=None, memory=HeldUpTier(1, hold))
    else:
        queue = opened(1, backend=lambda stream: HeldUpBackend(stream, hold))
        queue.enqueue(b"in memory")
    producer = threading.Thread(target=queue.enqueue, args=(b"x",))
    producer.start()
    assert hold.entered.wait(60)

    def child() -> None:
        raises(StreamBusyError, PARENTS, lambda: queue.enqueue(b"y"))
        raises(StreamBusyError, PARENTS, lambda: queue.stats())
        queue.close()

    try:
        in_child(child)
    finally:
        hold.go_on.set()
        producer.join()
    assert queue.dequeue_many(2)[-1] == b"x"
