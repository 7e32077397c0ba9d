"""What is set aside is kept, within bounds, and nothing else is touched."""

import os
from pathlib import Path

import pytest

from hq_core import CorruptedData, HybridQueue
from hq_core.spool import quarantine
from hq_core.spool.quarantine import MOST, Quarantine

DAMAGE = b"\xff" * 100


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_the_oldest_go_first(tmp_path: Path) -> None:
    for number in range(MOST + 3):
        path = tmp_path / f"s.overflow.quarantine-{number % 5 * 100 + number}"
        path.write_bytes(DAMAGE)
        os.utime(path, (2**31 - number, 2**31 - number))  # when it was written does not matter
    Quarantine(tmp_path, "s").cap()
    kept = {int(name.rpartition("-")[2]) % 100 for name in names(tmp_path)}
    assert kept == set(range(3, MOST + 3))


def test_the_newest_is_kept_however_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "MOST_BYTES", 10_000)
    for number in (1, 2):
        (tmp_path / f"s.overflow.quarantine-{number}").write_bytes(bytes(50_000))
    Quarantine(tmp_path, "s").cap()
    assert names(tmp_path) == ["s.overflow.quarantine-2"]


def test_what_belongs_to_it_goes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "MOST", 1)
    for number in (1, 2):
        (tmp_path / f"s.overflow.quarantine-{number}").write_bytes(DAMAGE)
        (tmp_path / f"s.overflow.quarantine-{number}.pos").write_bytes(DAMAGE)
    Quarantine(tmp_path, "s").cap()
    assert names(tmp_path) == ["s.overflow.quarantine-2", "s.overflow.quarantine-2.pos"]


def test_directories_are_deleted_and_links_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "MOST", 1)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_bytes(DAMAGE)
    (tmp_path / "s.lmdb.quarantine-1").symlink_to(elsewhere)
    (tmp_path / "s.lmdb.quarantine-2").mkdir()
    (tmp_path / "s.lmdb.quarantine-2" / "data.mdb").write_bytes(DAMAGE)
    (tmp_path / "s.lmdb.quarantine-3").mkdir()
    Quarantine(tmp_path, "s").cap()
    assert names(tmp_path) == ["elsewhere", "s.lmdb.quarantine-3"]
    assert names(elsewhere) == ["file"]


@pytest.mark.parametrize(
    "name",
    [
        "s.overflow",
        "s.t.overflow.quarantine-1",
        "st.overflow.quarantine-1",
        "s.overflow.quarantine-x",
        "s.overflow.quarantine-1.pos.bak",
    ],
)
def test_other_files_are_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(quarantine, "MOST", 0)
    (tmp_path / name).write_bytes(DAMAGE)
    Quarantine(tmp_path, "s").cap()
    assert names(tmp_path) == [name]


def test_a_directory_that_cannot_be_listed_is_no_error(tmp_path: Path) -> None:
    Quarantine(tmp_path / "missing", "s").cap()


def test_damage_met_while_running_keeps_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "MOST", 2)
    with HybridQueue("s", 1, tmp_path) as queue:
        for number in range(5):
            queue.enqueue_many([b"%d" % number])
            queue.enqueue_many([b"stored"])
            (tmp_path / "s.overflow").write_bytes(DAMAGE)
            assert queue.dequeue() == b"%d" % number
            with pytest.raises(CorruptedData):
                queue.dequeue()
        aside = [name for name in names(tmp_path) if "quarantine" in name]
        assert len(aside) == 2


def test_opening_keeps_the_bound(tmp_path: Path) -> None:
    for number in range(MOST + 4):
        (tmp_path / "s.overflow").write_bytes(DAMAGE + bytes([number]))
        HybridQueue("s", 1, tmp_path).close()
    assert len(names(tmp_path)) == MOST
    last = [path.read_bytes()[-1] for path in tmp_path.iterdir()]
    assert sorted(last) == list(range(4, MOST + 4))
