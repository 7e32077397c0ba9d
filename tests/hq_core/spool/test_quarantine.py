"""What is set aside is kept, within bounds, and nothing else is touched."""

import os
from pathlib import Path

import pytest

from hq_core import CorruptedData, HybridQueue
from hq_core.spool import quarantine
from hq_core.spool.directory import Directory
from hq_core.spool.quarantine import MOST, Quarantine

DAMAGE = b"\xff" * 100


def cap(directory: Path, file_name: str) -> list[Path]:
    """Keep what the stream has set aside there within bounds."""
    with Directory(directory) as held:
        return Quarantine(held, file_name).cap()


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_the_oldest_go_first(tmp_path: Path) -> None:
    for number in range(MOST + 3):
        path = tmp_path / f"s.overflow.quarantine-{number % 5 * 100 + number}"
        path.write_bytes(DAMAGE)
        os.utime(path, (2**31 - number, 2**31 - number))  # when it was written does not matter
    cap(tmp_path, "s")
    kept = {int(name.rpartition("-")[2]) % 100 for name in names(tmp_path)}
    assert kept == set(range(3, MOST + 3))


def test_the_newest_is_kept_however_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "MOST_BYTES", 10_000)
    for number in (1, 2):
        (tmp_path / f"s.overflow.quarantine-{number}").write_bytes(bytes(50_000))
    cap(tmp_path, "s")
    assert names(tmp_path) == ["s.overflow.quarantine-2"]


def test_what_belongs_to_it_goes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "MOST", 1)
    for number in (1, 2):
        (tmp_path / f"s.overflow.quarantine-{number}").write_bytes(DAMAGE)
        (tmp_path / f"s.overflow.quarantine-{number}.pos").write_bytes(DAMAGE)
    cap(tmp_path, "s")
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
    cap(tmp_path, "s")
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
        "s.quarantine-1",
        "s..quarantine-1",
    ],
)
def test_other_files_are_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(quarantine, "MOST", 0)
    (tmp_path / name).write_bytes(DAMAGE)
    cap(tmp_path, "s")
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("wrong", ["", ".", "a.b", "A", "a/b", "a_b", "\u00e9", "a\n", " "])
def test_a_name_has_a_suffix_and_the_suffix_has_no_dot(tmp_path: Path, wrong: str) -> None:
    with Directory(tmp_path) as directory, pytest.raises(ValueError, match="a suffix is made of"):
        directory.stream("s").quarantine_path(wrong)


def test_the_names_that_backends_get_are_those_that_are_kept_within_bounds(tmp_path: Path) -> None:
    with Directory(tmp_path) as directory:
        stream = directory.stream("A.b%/c")
        for _ in range(MOST + 3):
            stream.quarantine_path("some-2nd").write_bytes(DAMAGE)
        assert len(names(tmp_path)) == MOST + 3
        Quarantine(directory, stream.file_name).cap()
        assert len(names(tmp_path)) == MOST


def test_a_name_is_one_that_nothing_has(tmp_path: Path) -> None:
    with Directory(tmp_path) as directory:
        stream = directory.stream("s")
        for name in ("file", "directory", "dangling link"):
            path = stream.quarantine_path("x")
            if name == "file":
                path.touch()
            elif name == "directory":
                path.mkdir()
            else:
                path.symlink_to("nowhere")
        assert stream.quarantine_path("x") == tmp_path / "s.x.quarantine-4"
        assert stream.quarantine_path("y") == tmp_path / "s.y.quarantine-1"


def test_a_name_is_one_in_the_directory_that_was_opened(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    with Directory(tmp_path / "spool") as directory:
        stream = directory.stream("s")
        stream.quarantine_path("x").touch()
        (tmp_path / "spool").rename(tmp_path / "moved")
        assert stream.quarantine_path("x").name == "s.x.quarantine-2"


STREAMS = ["a", "a.b", "a.overflow", "a.b.overflow", "a-", "ab", "", "%", ".", "a%2eb", "A", "A.b"]


@pytest.mark.parametrize("suffix", ["overflow", "b", "quarantine-1", "-"])
def test_no_stream_touches_what_another_has_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(quarantine, "MOST", 0)
    with Directory(tmp_path) as directory:
        streams = [directory.stream(stream_id) for stream_id in STREAMS]
        left: dict[str, list[str]] = {}
        for stream in streams:
            path = stream.quarantine_path(suffix)
            left[stream.stream_id] = [path.name, f"{path.name}.pos"]
            for name in left[stream.stream_id]:
                (tmp_path / name).write_bytes(DAMAGE)
        for stream in streams:
            cap(tmp_path, stream.file_name)
            del left[stream.stream_id]
            assert names(tmp_path) == sorted(name for two in left.values() for name in two)


def test_a_stream_that_is_called_like_what_is_aside_keeps_its_own_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "MOST", 0)
    with Directory(tmp_path) as directory:
        stream = directory.stream("s")
        aside = stream.quarantine_path("overflow")
        aside.write_bytes(DAMAGE)
        twin = directory.stream(aside.name)
        own = [twin.file_name + suffix for suffix in (".lock", ".overflow", ".overflow.pos")]
        own += [twin.quarantine_path("overflow").name]
        for name in own:
            (tmp_path / name).write_bytes(DAMAGE)
        cap(tmp_path, stream.file_name)
        assert names(tmp_path) == sorted(own)


def test_a_directory_that_cannot_be_listed_is_no_error(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    directory.close()
    assert Quarantine(directory, "s").cap() == []


def test_what_is_in_the_directory_that_was_opened_is_kept_within_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "MOST", 1)
    (tmp_path / "spool").mkdir()
    with Directory(tmp_path / "spool") as directory:
        (tmp_path / "spool").rename(tmp_path / "moved")
        (tmp_path / "spool").mkdir()
        for place in ("spool", "moved"):
            for number in (1, 2):
                (tmp_path / place / f"s.lmdb.quarantine-{number}").mkdir()
                (tmp_path / place / f"s.lmdb.quarantine-{number}" / "data.mdb").write_bytes(DAMAGE)
        assert Quarantine(directory, "s").cap() == [tmp_path / "spool" / "s.lmdb.quarantine-1"]
    assert names(tmp_path / "moved") == ["s.lmdb.quarantine-2"]
    assert len(names(tmp_path / "spool")) == 2


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
        aside = {name.removesuffix(".pos") for name in names(tmp_path) if "quarantine" in name}
        assert len(aside) == 2


def test_opening_keeps_the_bound(tmp_path: Path) -> None:
    for number in range(MOST + 4):
        (tmp_path / "s.overflow").write_bytes(DAMAGE + bytes([number]))
        HybridQueue("s", 1, tmp_path).close()
    assert len(names(tmp_path)) == MOST
    last = [path.read_bytes()[-1] for path in tmp_path.iterdir()]
    assert sorted(last) == list(range(4, MOST + 4))
