"""What a queue says of itself: counted once, where it is known, and true after a restart."""

import itertools
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from hq_core import (
    BytesTier,
    CorruptedData,
    DequeueTimeout,
    HybridQueue,
    InlinePump,
    QueueFull,
    Unlimited,
)
from hq_core.testing import ManualClock, ManualPump
from tests.hq_core.promises.staging import (
    BACKENDS,
    Gate,
    around,
    balanced,
    drain,
    items,
    opened,
    started,
    until,
)

BOUND = 10_000
PUMPS = pytest.mark.parametrize("pump", [ManualPump, InlinePump])
"""Without one the consumer meets what is damaged, else the pump comes before it."""


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize(("was", "now"), [*itertools.product([False, True], repeat=2)])
@pytest.mark.parametrize("size", [0, 10, 500])
def test_the_bound_and_the_counters_hold_whatever_format_was_left(
    tmp_path: Path, was: bool, now: bool, size: int, durable: bool
) -> None:
    """A checksummed leftover opened plain, and the reverse: what is live is what the backend says,
    the bound counts in the format that is written, payload is counted as payload."""
    with opened(
        tmp_path, 2, durable=True, backend_options={"checksum": was}, max_overflow_bytes=BOUND
    ) as left:
        left.enqueue_many([b"." * size] * 5)
    queue = opened(
        tmp_path,
        2,
        durable=durable,
        backend_options={"checksum": now},
        max_overflow_bytes=BOUND,
        when_full="drop_newest",
    )
    assert queue.stats().recovered == 5
    most = 0
    before = queue.stats()
    while not (stats := queue.stats()).dropped:
        queue.enqueue(b"+" * size)
        most = max(most, stats.disk_bytes)
        assert stats.disk_bytes <= BOUND
        balanced(queue)
    assert most > BOUND * 0.8
    spilled = stats.spilled - before.spilled
    assert stats.spilled_bytes - before.spilled_bytes == spilled * size
    got = drain(queue)
    assert got == [b"." * size] * 5 + [b"+" * size] * (len(got) - 5)
    after = queue.stats()
    assert after.spilled_bytes >= 0
    assert after.refilled_bytes >= 0
    balanced(queue)
    queue.close()


@pytest.mark.parametrize("durable", [False, True])
def test_the_oldest_item_is_as_old_as_its_offer_though_it_waited_for_the_disk(
    tmp_path: Path, durable: bool
) -> None:
    """Two seconds ago, though another one was offered while it waited."""

    class Counting(Unlimited):
        offers = 0

        @override
        def admit(self, tokens: int, now: float) -> bool:
            self.offers += 1
            return super().admit(tokens, now)

    gate, clock, limiter = Gate("append"), ManualClock(1000.0), Counting()
    backend = around("memory", before=gate)
    queue = opened(tmp_path, 1, backend, durable=durable, limiter=limiter)
    queue._engine._clock = clock
    if not durable:
        queue.enqueue(b"memory")
    gate.shut()
    slow = started(lambda: queue.enqueue(b"slow"))
    assert gate.reached.wait(20)
    clock.advance(2.0)
    offers = limiter.offers
    later = started(lambda: queue.enqueue(b"later"))
    until(lambda: limiter.offers > offers)
    if not durable:
        assert queue.dequeue() == b"memory"
    assert queue.depth == 0  # asked under the lock that the offer held
    gate.open()
    for thread in (slow, later):
        thread.join(20)
    clock.advance(0.1)
    assert queue.stats().oldest_age_seconds == pytest.approx(2.1, abs=0.1)
    queue.close()


@pytest.mark.parametrize("out_of_order", ["lease", "none"])
def test_the_oldest_item_is_as_old_as_its_offer_though_others_left(
    tmp_path: Path, out_of_order: str
) -> None:
    """Also if it is leased, or was given back, and younger ones are gone."""
    clock = ManualClock(1000.0)
    queue = opened(tmp_path, 100)
    queue._engine._clock = clock
    queue.enqueue(b"first")
    clock.advance(5)
    queue.enqueue(b"second")
    lease = queue.lease(1, deadline=1e6) if out_of_order == "lease" else None
    expected = 5.0
    if lease is not None:
        assert queue.dequeue() == b"second"
    clock.advance(1)
    assert queue.stats().oldest_age_seconds == pytest.approx(expected + 1, abs=0.2)
    if lease is not None:
        lease.nack()
        assert queue.stats().oldest_age_seconds == pytest.approx(expected + 1, abs=0.2)
    queue.close()


@pytest.mark.parametrize("bound", [1, 100, 1 << 20, 1 << 60, None])
@pytest.mark.parametrize("size", [0, 1, 50])
def test_pressure_is_above_one_exactly_while_something_is_stored(
    tmp_path: Path, bound: int | None, size: int
) -> None:
    """However large the bound is, and however small the items are."""
    queue = opened(
        tmp_path, None, memory=BytesTier(60, 2), max_overflow_bytes=bound, when_full="drop_newest"
    )
    for _ in range(4):
        queue.enqueue(b"." * size)
        assert (queue.pressure > 1.0) == queue.has_disk_data
    while queue.depth:
        queue.dequeue()
        assert (queue.pressure > 1.0) == queue.has_disk_data
    assert queue.pressure == 0.0
    queue.close()


def spoil(path: Path, numbers: list[int], count: int) -> None:
    """Damage those records of a checksummed data file of `count` records of one size."""
    size = path.stat().st_size
    data = bytearray(path.read_bytes())
    header = size % count
    each = (size - header) // count
    for number in numbers:
        data[header + number * each + each // 2] ^= 0xFF
    path.write_bytes(data)


@PUMPS
@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("memory_items", [1, 100])
@pytest.mark.parametrize("damaged", [[3], [3, 6], [0, 9], [1, 4, 8]])
def test_each_damaged_place_is_told_once_and_whole_records_come(
    tmp_path: Path, durable: bool, memory_items: int, damaged: list[int], pump: Callable[[], Any]
) -> None:
    """`CorruptedData` where it is met, once a place, whoever meets it; then what follows, in
    order."""
    made = items(10, size=64)
    with opened(tmp_path, 1, durable=True, backend_options={"checksum": True}) as queue:
        queue.enqueue_many(made)
    spoil(tmp_path / "spool" / "stream.overflow", damaged, 10)
    queue = opened(
        tmp_path, memory_items, durable=durable, backend_options={"checksum": True}, pump=pump()
    )
    got: list[bytes] = []
    told = 0
    ends = time.monotonic() + 20
    while True:
        assert time.monotonic() < ends
        try:
            got.append(queue.dequeue(0))
        except CorruptedData:
            told += 1
            balanced(queue)
        except DequeueTimeout:
            break
    assert got == [item for number, item in enumerate(made) if number not in damaged]
    found_at_opening = queue.recovery.quarantined_bytes // (8 + len(made[0]))
    assert told + found_at_opening == len(damaged)
    assert queue.stats().damaged + found_at_opening == len(damaged)
    balanced(queue)
    queue.close()


def _databases(env: Any) -> list[bytes]:
    """Those in the environment that have a name."""
    import lmdb

    found = []
    with env.begin() as txn:
        names = [bytes(key) for key, _ in txn.cursor()]
    for name in names:
        with suppress(lmdb.Error):
            env.open_db(name, create=False)
            found.append(name)
    return found


@PUMPS
@pytest.mark.parametrize("missing", [0, 5, 9])
@pytest.mark.parametrize("memory_items", [1, 100])
def test_what_lies_before_a_record_that_is_missing_is_there_after_a_restart(
    tmp_path: Path, missing: int, memory_items: int, pump: Callable[[], Any]
) -> None:
    """A durable queue on LMDB: one dequeue, close, open again; the holder's item comes again if it
    was not done, and none of the others is lost with the missing one, though it was met."""
    lmdb = pytest.importorskip("lmdb")
    made, missing_now = items(10), []
    with opened(tmp_path, 1, "lmdb", durable=True) as queue:
        queue.enqueue_many(made)
    (folder,) = (tmp_path / "spool").glob("*.lmdb")
    with lmdb.open(os.fspath(folder), max_dbs=4) as env:
        for name in (None, *_databases(env)):
            db = env.open_db(name)
            with env.begin(write=True, db=db) as txn:
                for key in [k for k, v in txn.cursor() if bytes(v) == made[missing]]:
                    assert txn.delete(key)
                    missing_now.append(missing)
    assert missing_now == [missing], "the record is not to be found"

    def take_one(queue: HybridQueue) -> list[bytes]:
        for _ in range(3):
            try:
                return [queue.dequeue(0)]
            except CorruptedData:
                continue
        raise AssertionError("nothing comes")

    with opened(tmp_path, memory_items, "lmdb", durable=True, pump=pump()) as queue:
        got = take_one(queue)
    with opened(tmp_path, memory_items, "lmdb", durable=True) as queue:
        while queue.depth:
            try:
                got.append(queue.dequeue(0))
            except CorruptedData:
                continue
        balanced(queue)
    before = [item for number, item in enumerate(made) if number < missing]
    assert got[: len(before)] == before
    assert got == [item for item in made if item in set(got)]


@BACKENDS
@pytest.mark.parametrize("durable", [False, True])
def test_the_accounts_balance_after_every_step(tmp_path: Path, backend: str, durable: bool) -> None:
    """Whatever is mixed: batches, leases, drops, refusals."""
    options: dict[str, Any] = {"max_overflow_bytes": 400, "when_full": "drop_oldest"}
    queue = opened(tmp_path, 3, backend, durable=durable, **options)
    leases = []
    for step in range(200):
        if step % 3:
            with suppress(QueueFull):  # a lease keeps the space of all behind it
                queue.enqueue(items(1, start=step)[0])
        if step % 5 == 0 and queue.depth:
            leases.append(queue.lease(2, deadline=1e6))
        if step % 7 == 0 and leases:
            lease = leases.pop(0)
            lease.nack() if step % 2 else lease.ack()
        if step % 4 == 0 and queue.depth:
            queue.dequeue()
        balanced(queue)
    for lease in leases:
        lease.ack()
    drain(queue)
    balanced(queue)
    queue.close()
