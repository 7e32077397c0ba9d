"""Spools damaged in a thousand ways: what is whole is kept, nothing is made up."""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from hq_backends.file.checked import checked_of
from hq_backends.lmdb.pages import Node, Pages
from hq_core import HybridQueue, InlinePump, Unlimited
from hq_core.spool.checking import check, salvage
from hq_core.spool.finding import find
from hq_core.spool.repairing import repair
from tests.faults.campaign import amount, note
from tests.faults.fuzzing import damaged
from tests.faults.leftovers import (
    PAGE,
    Case,
    Noted,
    is_part,
    leave,
    make_case,
    untouched,
)

pytestmark = pytest.mark.slow


def whole_records(directory: Path) -> list[bytes]:
    (spool,) = find(directory)
    return [found for found in salvage(spool) if isinstance(found, bytes)]


def check_repair(directory: Path, backend: str) -> list[bytes]:
    """Repair the one stream there and have a queue deliver it; what it delivers."""
    (spool,) = find(directory)
    before, kept = check(spool), whole_records(directory)
    assert before.records == len(kept)
    old = spool.path.read_bytes()
    backup = repair(spool)
    assert (backup is None) == (not before.places)
    if backup:
        assert backup.read_bytes() == old
    after = check(spool)
    assert (after.places, after.records) == (0, len(kept))
    with HybridQueue(
        "s",
        4,
        directory,
        backend=backend,
        durable=True,
        leftover="resume",
        on_corruption="raise",
        limiter=Unlimited(),
        pump=InlinePump(),
    ) as queue:
        assert queue.recovery.records == len(kept)
        delivered = [queue.try_dequeue() for _ in range(queue.depth)]
    assert delivered == kept
    return delivered


# ---- the overflow file -----------------------------------------------------------------------


def check_whole(case: Case, noted: Noted, kept: Sequence[bytes]) -> None:
    """`kept` is what of `case` is whole, as readers find it that are not the library's."""
    if checked_of(case.data):
        start = noted.start(case)
        assert set(kept) <= set(case.written)
        assert is_part(untouched(case, start), kept)
        framed = {r: b"".join(case.form.encode([r])) for r in case.written}
        behind = case.data[max(start, len(case.form.preamble)) :]
        assert {r for r in case.written if framed[r] in behind} <= set(kept)


def test_of_an_overflow_file_all_that_is_whole_is_kept_and_nothing_made_up(
    directory: Path,
) -> None:
    count = amount(900, 30_000)
    for seed in range(count):
        random = Random(seed)
        case = make_case(random)
        place = directory / "spool"
        place.mkdir()
        noted = leave(case, place, random)
        try:
            check_whole(case, noted, whole_records(place))
            check_repair(place, "file")
        except BaseException as exc:
            exc.add_note(f"seed {seed}: {case}, noted: {noted}")
            raise
        shutil.rmtree(place)
    note("fuzz", "spools repaired, file", files=count)


# ---- LMDB ------------------------------------------------------------------------------------


def lmdb_records(random: Random) -> list[bytes]:
    sizes = random.choices([0, 5, 40, 300, 2500, 9000], [1, 3, 8, 8, 2, 1], k=random.randrange(90))
    return [b"%d " % number + random.randbytes(size) for number, size in enumerate(sizes)]


def damaged_pages(data: bytes, random: Random) -> bytes:
    """`data`, a whole number of pages, with one to three things wrong with it."""
    pages = len(data) // PAGE
    changed = bytearray(data)
    for _ in range(random.choice([1, 1, 2, 3])):
        page, other = (random.randrange(pages) * PAGE for _ in range(2))
        match random.randrange(4):
            case 0:
                changed[page : page + PAGE] = data[other : other + PAGE]
            case 1:
                changed[page : page + PAGE] = bytes(PAGE)
            case 2:
                changed[page + random.randrange(200)] ^= 1 << random.randrange(8)
            case 3:
                return damaged(bytes(changed), random)
    return bytes(changed)


def fill_lmdb(directory: Path, records: Sequence[bytes], random: Random) -> None:
    with HybridQueue(
        "s", 4, directory, backend="lmdb", durable=True, limiter=Unlimited(), pump=InlinePump()
    ) as queue:
        while records:
            size = random.randrange(1, 40)
            queue.enqueue_many(records[:size])
            records = records[size:]
        for _ in range(random.randrange(queue.depth)):
            queue.try_dequeue()


def nodes(path: Path) -> list[Node]:
    with path.open("rb") as file:
        return [node for node in Pages(file.fileno()).nodes() if isinstance(node, Node)]


def check_lmdb(
    path: Path, intact: bytes, before: list[Node], written: list[bytes], kept: list[bytes]
) -> None:
    """Records on pages that are as they were are kept; a payload that is not was changed there.

    Without the newer meta page, records that were done come again.
    """
    data = path.read_bytes()
    was = [intact[node.at : node.at + node.size] for node in before]
    assert len(kept) <= len(written)
    for record in Counter(kept) - Counter(written):
        assert record in data, "made up"
        assert len(record) in set(map(len, written)), "made up"
    pages = range(0, min(len(data), len(intact)), PAGE)
    changed = {at // PAGE for at in pages if data[at : at + PAGE] != intact[at : at + PAGE]}
    leaves = {node.page for node in before}
    if len(data) == len(intact) and changed <= leaves:
        untouched = [w for node, w in zip(before, was, strict=True) if node.page not in changed]
        assert is_part(untouched, kept)


def test_of_an_lmdb_environment_all_that_is_whole_is_kept_and_nothing_made_up(
    directory: Path,
) -> None:
    count = amount(200, 5_000)
    for seed in range(count):
        random = Random(seed)
        place = directory / "spool"
        written = [b"first", *lmdb_records(random), b"last"]
        fill_lmdb(place, written, random)
        path = place / "s.lmdb" / "data.mdb"
        intact, before = path.read_bytes(), nodes(path)
        path.write_bytes(random.choice([damaged_pages(intact, random)] * 5 + [intact]))
        try:
            check_lmdb(path, intact, before, written, whole_records(place))
            check_repair(place, "lmdb")
        except BaseException as exc:
            exc.add_note(f"seed {seed}")
            raise
        shutil.rmtree(place)
    note("fuzz", "spools repaired, lmdb", files=count)
