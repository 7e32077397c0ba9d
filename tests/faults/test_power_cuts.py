"""Power cuts: what a queue has promised to keep is there when the power is back."""

import collections
from collections.abc import Iterator

import pytest

from tests.disks import LoopDisk, loop_disk
from tests.faults.campaign import amount, note
from tests.faults.power import Subject, cut

SUBJECTS = [
    Subject("lmdb sync", "lmdb", {"sync": True}, "acknowledged"),
]


@pytest.fixture(scope="module", params=["ext4", "xfs"])
def disk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LoopDisk]:
    """A disk in memory if possible, so that only what the file system does takes time."""
    with loop_disk(request.param, tmp_path_factory.mktemp("disk")) as disk:
        yield disk


@pytest.mark.slow
@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_a_power_cut_loses_nothing_that_was_safe(disk: LoopDisk, subject: Subject) -> None:
    verdicts = [cut(disk, subject, seed) for seed in range(amount(5, 70))]
    note(
        f"power cuts, {disk.kind}",
        subject.name,
        cuts=len(verdicts),
        acknowledged=sum(v.facts.acknowledged for v in verdicts),
        survived=sum(v.survived for v in verdicts),
        lost=sum(v.lost for v in verdicts),
        most_again=max(v.again for v in verdicts),
        most_again_bytes=max(v.again_bytes for v in verdicts),
    )


def test_what_was_never_flushed_is_found_to_be_lost(disk: LoopDisk) -> None:
    """Of the tests: the campaign would notice."""
    unsafe = Subject("unsafe", "lmdb", {"sync": False}, "acknowledged")
    with pytest.raises(AssertionError, match=r"lost|not what was sent"):
        collections.deque((cut(disk, unsafe, seed) for seed in range(1000, 1020)), maxlen=0)
