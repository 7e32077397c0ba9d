"""What is found of a file that was copied, moved or restored: nothing made up, nothing destroyed.

Plain and with checksums, by positions of every kind, copied with its holes and without, with room
for a second copy and without, whatever is to be done about damage; by opening it and by the tools.
"""

import errno
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from hq_backends.file import FileBackend, space
from hq_cli.main import main
from hq_core.errors import CorruptedData
from hq_core.spool.directory import Directory
from hq_core.stats import Damage
from hq_core.testing.spool import file_size_limit, read_all, take

COUNT, TAKEN, TAKEN_BEFORE = 300, 200, 120
RECORDS = [b"%04d " % number * (20 + number % 7) for number in range(COUNT)]
OTHERS = [b"%04d-" % number * (20 + number % 7) for number in range(COUNT)]
"""As long as these, one by one, and different."""

Copying = Callable[[Path, Path], None]


def _run(*command: str | Path) -> None:
    subprocess.run(list(map(str, command)), check=True, capture_output=True)


def moved(source: Path, target: Path) -> None:
    source.rename(target)


def with_holes(source: Path, target: Path) -> None:
    _run("cp", "-a", source, target)


def without_holes(source: Path, target: Path) -> None:
    _run("cp", "-a", "--sparse=never", source, target)


def by_tar(source: Path, target: Path) -> None:
    archive = source.with_name("archive.tar")
    _run("tar", "-S", "-cf", archive, "-C", source.parent, source.name)
    shutil.rmtree(source)
    _run("tar", "-xf", archive, "-C", source.parent)
    source.rename(target)


COPYING: dict[str, Copying] = {
    "moved": moved,
    "cp -a": with_holes,
    "cp --sparse=never": without_holes,
    "tar -S": by_tar,
}
POSITIONS = ["good", "old", "old, and punched since", "missing", "unreadable", "of another file"]


@contextmanager
def room(kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With room for a copy, or without."""

    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with ExitStack() as stack:
        if kind == "full":
            patch = stack.enter_context(monkeypatch.context())
            patch.setattr(os, "sendfile", full)
        elif kind == "small files":
            stack.enter_context(file_size_limit(1000))
        yield


ROOM = ["room", "full", "small files"]


@dataclass
class Left:
    """A spool as its owner left it, and what is known of it."""

    directory: Path
    checksum: bool
    punched: bool

    @property
    def data(self) -> Path:
        return self.directory / "s.overflow"

    @property
    def sidecar(self) -> Path:
        return self.directory / "s.overflow.pos"

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.directory.iterdir())}

    def framed(self, record: bytes) -> bytes:
        """What of a record is the same in every file."""
        return len(record).to_bytes(4, "big") + record if not self.checksum else record


def leave(directory: Path, records: list[bytes], taken: list[int], **options: bool) -> list[bytes]:
    """Append `records`, take so many of them in turn, and go; the sidecar after each turn."""
    directory.mkdir()
    positions = []
    with Directory(directory) as held:
        backend = FileBackend(held.stream("s"), **options)  # type: ignore[arg-type]
        for record in records:
            backend.append([record])
        for count in taken:
            take(backend, count)
            backend._notes.write()
            positions.append((directory / "s.overflow.pos").read_bytes())
        backend.close(delete=False)
    return positions


@pytest.fixture(params=[False, True], ids=["plain", "checked"])
def checksum(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=[False, True], ids=["whole", "punched"])
def punched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(space, "_PUNCH_STEP", 4096 if request.param else 1 << 30)
    return bool(request.param)


@pytest.fixture(params=COPYING)
def copying(request: pytest.FixtureRequest) -> Copying:
    return COPYING[request.param]


@pytest.fixture(params=POSITIONS)
def position(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def left(tmp_path: Path, checksum: bool, punched: bool, position: str, copying: Copying) -> Left:
    origin, directory = tmp_path / "origin", tmp_path / "copy"
    first = TAKEN_BEFORE if position == "old, and punched since" else TAKEN - 10
    positions = leave(origin, RECORDS, [first, TAKEN - first], checksum=checksum)
    sidecar = origin / "s.overflow.pos"
    if position.startswith("old"):
        sidecar.write_bytes(positions[0])
    elif position == "missing":
        sidecar.unlink()
    elif position == "unreadable":
        sidecar.write_bytes(bytes(8192))
    elif position == "of another file":
        leave(tmp_path / "other", OTHERS, [250], checksum=checksum)
        shutil.copyfile(tmp_path / "other" / "s.overflow.pos", sidecar)
    copying(origin, directory)
    return Left(directory, checksum, punched)


def start_of(position: str, punched: bool) -> int | None:
    """The first record that is to come; None if nothing tells where it is."""
    if position == "good":
        return TAKEN
    if position == "old":
        return TAKEN - 10
    if position == "old, and punched since":
        return None if punched else TAKEN_BEFORE
    return None if punched else 0


def salvaged(path: Path) -> tuple[list[bytes], list[Damage]]:
    found = list(FileBackend.tools.salvage(path))
    return (
        [record for record in found if isinstance(record, bytes)],
        [place for place in found if isinstance(place, Damage)],
    )


def is_run(records: list[bytes]) -> bool:
    """Whether `records` were all written, follow one another, and are the last."""
    return records == RECORDS[COUNT - len(records) :]


def in_order(records: list[bytes]) -> bool:
    rest = iter(RECORDS)
    return all(record in rest for record in records)


def check_nothing_destroyed(left: Left, delivered: list[bytes]) -> None:
    """Every live record was delivered, or is in a file still."""
    there = b"".join(left.files().values())
    for record in RECORDS[TAKEN:]:
        assert record in delivered or left.framed(record) in there


def check_aside(left: Left) -> None:
    """The tools read whatever was set aside: records that were written, and else damage."""
    for path in left.directory.glob("*.quarantine-*"):
        if path.suffix == ".pos":
            continue
        records, damage = salvaged(path)
        assert in_order(records)
        assert damage
        assert FileBackend.tools.inspect(path).damage
        if left.checksum:
            assert path.read_bytes().startswith(b"HQCRC32\1")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ROOM)
@pytest.mark.parametrize("on_corruption", ["quarantine", "raise"])
def test_opening(
    left: Left,
    position: str,
    kind: str,
    on_corruption: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = start_of(position, left.punched)
    before, (promised, damage) = left.files(), salvaged(left.data)
    assert left.files() == before, "the tools have changed something"
    assert (start is None) == bool(damage)
    assert FileBackend.tools.inspect(left.data).records == len(promised)
    with Directory(left.directory) as held, room(kind, monkeypatch):
        stream = held.stream("s", on_corruption=on_corruption)
        try:
            backend = FileBackend(stream)
        except CorruptedData:
            assert on_corruption == "raise"
            assert start is None
            assert left.files() == before
            return
        assert start is None or backend.recovered.quarantine is None
        delivered = read_all(backend)
        check_nothing_destroyed(left, delivered)
        if start is not None:
            assert delivered == RECORDS[start:]
        elif left.checksum:
            assert is_run(delivered[-(COUNT - TAKEN) :])
            assert in_order(delivered)
        else:
            assert is_run(delivered)
        assert delivered == promised
        check_aside(left)
    with Directory(left.directory) as held:  # there is room again
        backend.close(delete=False)
        backend = FileBackend(held.stream("s"))
        check_nothing_destroyed(left, delivered)
        assert read_all(backend) == delivered
        backend.append([b"new"])
        assert take(backend, len(delivered) + 1) == [*delivered, b"new"]
        check_aside(left)
        backend.close(delete=True)


# ---- by the commands -------------------------------------------------------------------------

Command = Callable[..., tuple[int, bytes]]


@pytest.fixture
def hq(capfdbinary: pytest.CaptureFixture[bytes]) -> Command:
    """Runs a command in this process: its exit status, and what it wrote."""

    def run(*args: str | Path) -> tuple[int, bytes]:
        capfdbinary.readouterr()
        status = main([os.fspath(arg) for arg in args])
        out, err = capfdbinary.readouterr()
        assert b"Traceback" not in err
        assert status in {0, 1, 2}
        assert status != 1 or err or b"error" in out
        return status, out

    return run


def framed(data: bytes) -> list[bytes]:
    """The records that ``hq cat --framed`` wrote."""
    records, at = [], 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        records.append(data[at + 4 : end])
        at = end
    assert at == len(data)
    return records


def opened(directory: Path) -> list[bytes]:
    """What a queue's backend delivers there; everything stays."""
    with Directory(directory) as held:
        backend = FileBackend(held.stream("s"))
        try:
            return read_all(backend)
        finally:
            backend.close(delete=False)


def check_reading(hq: Command, path: Path) -> tuple[int, list[bytes]]:
    """All that only read agree about `path`, and change nothing: the exit status, the records."""
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    status, out = hq("cat", "--framed", path)
    records = framed(out)
    assert hq("cat", path) == (status, b"".join(records))
    for command in ("inspect", "verify", "repair"):
        told, text = hq(command, path, "--json")
        (row,) = json.loads(text)["streams"]
        assert (told, row["records"]) == (status, len(records)), command
        assert row["state"] == ("damaged" if status else "fine"), command
        assert hq(command, path)[0] == status
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before
    return status, records


def check_set_aside(hq: Command, directory: Path) -> None:
    """Of what opening has set aside, the commands tell the damage, and what is whole, in order."""
    for path in directory.glob("*.quarantine-*"):
        if path.suffix != ".pos":
            status, records = check_reading(hq, path)
            assert (status, in_order(records)) == (2, True)
            before = path.read_bytes()
            assert hq("repair", "--apply", path)[0] == 1, "no queue opens it"
            assert path.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("copying", ["cp -a", "cp --sparse=never"], indirect=True)
def test_the_commands(left: Left, position: str, hq: Command, tmp_path: Path) -> None:
    start = start_of(position, left.punched)
    status, records = check_reading(hq, left.data)
    assert status == (2 if start is None else 0)
    assert in_order(records)
    assert start is None or records == RECORDS[start:]
    with_holes(left.directory, tmp_path / "opened")
    assert opened(tmp_path / "opened") == records
    check_set_aside(hq, tmp_path / "opened")
    before = left.files()
    needs_room = start is None and bool(records or left.sidecar.exists())
    with file_size_limit(1000):
        assert hq("repair", "--apply", left.data)[0] == int(needs_room)
    assert left.files() == before or (start is None and not needs_room)
    data = before["s.overflow"]
    assert hq("repair", "--apply", left.directory)[0] == 0
    assert check_reading(hq, left.data) == (0, records)
    backups = [p for p in left.directory.glob("*.backup-*") if p.suffix != ".pos"]
    assert len(backups) == (1 if start is None else 0)
    for backup in backups:
        assert backup.read_bytes() == data
        assert check_reading(hq, backup) == (2, records)
    assert opened(left.directory) == records


@pytest.mark.parametrize("kind", ["link", "fifo", "nothing"])
def test_the_commands_exit_with_1_if_it_cannot_be_read(
    kind: str, tmp_path: Path, hq: Command
) -> None:
    path = tmp_path / "s.overflow"
    if kind == "link":
        path.symlink_to("elsewhere")
    elif kind == "fifo":
        os.mkfifo(path)
    for command in ("inspect", "verify", "cat", "repair"):
        assert hq(command, path)[0] == 1
    assert hq("repair", "--apply", path)[0] == 1
    assert [*tmp_path.iterdir()] == ([] if kind == "nothing" else [path])


def test_every_kind_of_it_differs() -> None:
    """Of the tests: the records of another file are not those of this one."""
    assert not {*RECORDS} & {*OTHERS}
    assert [*map(len, RECORDS)] == [*map(len, OTHERS)]
    assert len({*itertools.chain(RECORDS, OTHERS)}) == 2 * COUNT
