"""Power cuts: what a queue has promised to keep is there when the power is back."""

import collections
from collections.abc import Iterator

import pytest

from hq_backends.file import recovery
from tests.disks import LoopDisk, loop_disk
from tests.faults.campaign import amount, note
from tests.faults.power import Subject, cut

SUBJECTS = [
    Subject("lmdb sync", "lmdb", {"sync": True}, "acknowledged"),
    Subject("file always", "file", {"fsync": "always"}, "acknowledged"),
    Subject("file always checksum", "file", {"fsync": "always", "checksum": True}, "acknowledged"),
    Subject("file interval", "file", {"fsync": "interval", "fsync_interval": 0.01}, "flushed"),
    Subject("file never", "file", {}, "nothing"),
    Subject("file never checksum", "file", {"checksum": True}, "nothing"),
]
STALE = 1_100_000
"""Bytes that come again, at most, since the position that was noted is not flushed each time."""


@pytest.fixture(scope="module", params=["ext4", "xfs"])
def mounted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LoopDisk]:
    with loop_disk(request.param, tmp_path_factory.mktemp("disk")) as disk:
        yield disk


@pytest.fixture
def disk(mounted: LoopDisk, monkeypatch: pytest.MonkeyPatch) -> LoopDisk:
    """A disk of its own; the machine is taken to have been started whenever that was mounted."""
    monkeypatch.setattr(recovery, "boot_id", lambda: mounted.mounts.to_bytes(16, "big"))
    return mounted


@pytest.mark.slow
@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_a_power_cut_loses_nothing_that_was_safe(disk: LoopDisk, subject: Subject) -> None:
    check_cuts(f"power cuts, {disk.kind}", disk, subject, range(amount(5, 60)))


@pytest.mark.slow
@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_a_disk_that_goes_away_and_comes_back_in_the_same_boot(
    mounted: LoopDisk, subject: Subject
) -> None:
    """What was never written is as gone as by a power cut, and no run of the system tells it."""
    campaign = f"disks away in the same boot, {mounted.kind}"
    check_cuts(campaign, mounted, subject, range(amount(5, 60)))


def check_cuts(campaign: str, disk: LoopDisk, subject: Subject, seeds: range) -> None:
    verdicts = [cut(disk, subject, seed) for seed in seeds]
    note(
        campaign,
        subject.name,
        cuts=len(verdicts),
        acknowledged=sum(v.facts.acknowledged for v in verdicts),
        safe=sum(v.facts.safe(subject) for v in verdicts),
        survived=sum(v.survived for v in verdicts),
        lost=sum(v.lost for v in verdicts),
        most_ms_lost=round(1000 * max(v.age for v in verdicts)),
        most_again=max(v.again for v in verdicts),
        most_stale_bytes=max(v.beyond for v in verdicts),
    )
    if subject.safe == "acknowledged":
        assert max(v.beyond for v in verdicts) <= STALE
    if subject.safe != "nothing":
        assert max(v.age for v in verdicts) < 2.0
        assert any(v.facts.safe(subject) for v in verdicts)


@pytest.mark.parametrize(
    "backend_and_options", [("lmdb", {"sync": False}), ("file", {"fsync": "never"})]
)
def test_what_was_never_flushed_is_found_to_be_lost(
    disk: LoopDisk, backend_and_options: tuple[str, dict[str, object]]
) -> None:
    """Of the tests: the campaign would notice."""
    unsafe = Subject("unsafe", *backend_and_options, "acknowledged")
    with pytest.raises(AssertionError, match=r"lost|was not sent so"):
        collections.deque((cut(disk, unsafe, seed) for seed in range(1000, 1020)), maxlen=0)
