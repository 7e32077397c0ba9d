"""Damage goes aside with what follows it; the whole records before it stay."""

import itertools
import os
import shutil
from contextlib import suppress
from pathlib import Path

import lmdb
import pytest

from hq_backends.lmdb import LmdbBackend
from hq_backends.lmdb.tools import LmdbTools
from hq_core.errors import CorruptedData
from hq_core.stats import Damage
from hq_core.testing.forking import killed_after
from hq_core.testing.interrupting import interrupted
from hq_core.testing.spool import ANY_SIZE, file_size_limit, numbered, read_all
from tests.hq_backends.lmdb.conftest import Spool, files

RECORDS = numbered(10)
FIELDS = ["length", "length by much", "flags", "length of key", "key", "key by much", "pointer"]
MIB = 1024 * 1024


def leave_without(spool: Spool, number: int, records: list[bytes]) -> None:
    """Leave `records`, and then delete the one with that number as another program would."""
    spool.leave(records)
    keys = [key for key, _ in spool.stored()]
    with lmdb.open(str(spool.path), lock=False) as env, env.begin(write=True) as txn:
        txn.delete(keys[number])


def meet_damage(backend: LmdbBackend, number: int) -> str:
    with pytest.raises(CorruptedData) as caught:
        backend.read(number, 10, ANY_SIZE)
    return str(caught.value)


class TestReading:
    def test_the_records_before_a_missing_one_survive_closing_and_reopening(
        self, spool: Spool
    ) -> None:
        leave_without(spool, 5, RECORDS)
        backend = spool.open(durable=True)
        assert backend.read(0, 10, ANY_SIZE) == RECORDS[:5]
        assert "4 records" in meet_damage(backend, 5)
        for _ in range(2):
            assert read_all(backend) == RECORDS[:5]
            assert (backend.depth(), backend.size_bytes()) == (5, backend.cost(RECORDS[:5]))
            spool.close(backend)
            backend = spool.open(durable=True)
            assert backend.recovered.quarantine is None

    def test_reading_up_to_it_alone_changes_nothing(self, spool: Spool) -> None:
        leave_without(spool, 5, RECORDS)
        backend = spool.open()
        assert backend.read(0, 10, ANY_SIZE) == RECORDS[:5]
        spool.close(backend)
        assert spool.open().read(0, 10, ANY_SIZE) == RECORDS[:5]

    @pytest.mark.parametrize("before", [True, False])
    def test_what_was_trimmed_does_not_come_again(self, spool: Spool, before: bool) -> None:
        leave_without(spool, 5, RECORDS)
        backend = spool.open()
        backend.trim(3 if before else 0)
        meet_damage(backend, 2 if before else 5)
        backend.trim(0 if before else 3)
        spool.close(backend)
        assert read_all(spool.open()) == RECORDS[3:5]

    def test_all_that_was_in_the_file_is_aside(self, spool: Spool) -> None:
        leave_without(spool, 5, RECORDS)
        before = spool.data.read_bytes()
        meet_damage(spool.open(), 5)
        assert (spool.directory / "s.lmdb.quarantine-1" / "data.mdb").read_bytes() == before
        assert files(spool.path) == ["data.mdb"]

    @pytest.mark.parametrize("trimmed", [0, 3, 5])
    def test_what_the_log_goes_on_with_does_not_count_as_set_aside(
        self, spool: Spool, trimmed: int
    ) -> None:
        leave_without(spool, 5, RECORDS)
        backend = spool.open()
        backend.trim(trimmed)
        meet_damage(backend, 5 - trimmed)
        aside = spool.directory / "s.lmdb.quarantine-1"
        assert [one for one in salvaged(aside) if isinstance(one, bytes)] == RECORDS[6:]
        assert LmdbTools().inspect(aside / "data.mdb").records == 4
        assert all(path.stat().st_mode & 0o077 == 0 for path in aside.rglob("*"))

    @pytest.mark.parametrize("kind", ["of another file", "damaged", "cut", "empty", "a link"])
    def test_a_note_of_what_was_kept_that_does_not_prove_itself_is_not_believed(
        self, spool: Spool, kind: str
    ) -> None:
        """All that is whole in the file is shown then."""
        leave_without(spool, 5, RECORDS)
        meet_damage(spool.open(), 5)
        aside = spool.directory / "s.lmdb.quarantine-1"
        note = aside / "data.mdb.kept"
        data = bytearray(note.read_bytes())
        match kind:
            case "of another file":
                with (aside / "data.mdb").open("ab") as file:
                    file.write(bytes(4096))
            case "damaged":
                data[15] ^= 1
                note.write_bytes(data)
            case "cut":
                note.write_bytes(data[:-1])
            case "empty":
                note.write_bytes(b"")
            case "a link":
                note.rename(aside / "elsewhere")
                note.symlink_to("elsewhere")
        whole = [one for one in salvaged(aside) if isinstance(one, bytes)]
        assert whole in (RECORDS[:5] + RECORDS[6:], RECORDS[:4] + RECORDS[6:])

    def test_trimming_up_to_it_does_not_hide_it(self, spool: Spool) -> None:
        leave_without(spool, 5, RECORDS)
        backend = spool.open(on_corruption="raise")
        backend.trim(5)
        for _ in range(2):
            meet_damage(backend, 0)
        assert backend.depth() == 4

    def test_a_record_after_it_can_be_read_where_it_stays(self, spool: Spool) -> None:
        leave_without(spool, 5, RECORDS)
        backend = spool.open(on_corruption="raise")
        assert backend.read(6, 10, ANY_SIZE) == RECORDS[7:]
        meet_damage(backend, 5)

    def test_a_large_log_is_copied_in_parts(self, spool: Spool) -> None:
        records = numbered(40, size=100_000) + numbered(1500, start=40)
        leave_without(spool, 1500, records)
        backend = spool.open()
        meet_damage(backend, 1500)
        assert read_all(backend) == records[:1500]

    def test_without_room_for_the_copy_all_stays_as_it_is(self, spool: Spool) -> None:
        records = numbered(40, size=100_000)
        leave_without(spool, 30, records)
        backend = spool.open()
        with file_size_limit(MIB):
            for _ in range(2):
                assert "cannot be moved aside" in meet_damage(backend, 30)
                assert backend.depth() == 39
                assert backend.read(0, 1, ANY_SIZE) == records[:1]
        assert spool.names() == ["s.lmdb"]
        assert files(spool.path) == ["data.mdb"]
        meet_damage(backend, 30)
        assert read_all(backend) == records[:30]

    def test_a_damaged_page_costs_what_is_on_it_and_after_it(self, spool: Spool) -> None:
        """Somebody overwrites a page of an open environment."""
        records = numbered(1000)
        backend = spool.open()
        backend.append(records)
        overwrite_page_with(spool, records[600])
        got: list[bytes] = []
        with suppress(CorruptedData):
            while True:
                got += backend.read(len(got), 10, ANY_SIZE)
        assert 0 < len(got) < 600
        assert read_all(backend) == got == records[: len(got)]
        spool.close(backend)
        assert read_all(spool.open()) == got

    def test_damage_among_the_records_before_it_ends_what_stays(self, spool: Spool) -> None:
        """They were whole when they were read; nothing else can be kept."""
        records = numbered(1000)
        backend = spool.open()
        backend.append(records)
        assert backend.read(0, 900, ANY_SIZE) == records[:900]
        overwrite_page_with(spool, records[600])
        overwrite_page_with(spool, records[910])
        with pytest.raises(CorruptedData):
            backend.read(910, 100, ANY_SIZE)
        assert 0 < backend.depth() < 600
        assert read_all(backend) == records[: backend.depth()]


class TestOpening:
    def test_the_whole_records_before_a_damaged_page_are_taken_over(self, spool: Spool) -> None:
        records = numbered(1000)
        spool.leave(records)
        overwrite_page_with(spool, records[600])
        backend = spool.open()
        count = backend.recovered.records
        assert 0 < count < 600
        assert backend.recovered.size_bytes == backend.size_bytes() == backend.cost(records[:count])
        assert read_all(backend) == records[:count]
        assert backend.recovered.quarantine == spool.directory / "s.lmdb.quarantine-1"

    @pytest.mark.parametrize("number", [0, 1, 500, 998])
    @pytest.mark.parametrize("field", FIELDS)
    def test_a_byte_that_is_wrong_costs_its_record_and_what_follows(
        self, spool: Spool, field: str, number: int
    ) -> None:
        """Those before it on the same page stay. Those after it are aside, and only they."""
        records = numbered(1000)
        spool.leave(records)
        flip(spool, field, records[number])
        backend = spool.open(durable=True)
        got: list[bytes] = []
        with suppress(CorruptedData):
            while found := backend.read(len(got), 10, ANY_SIZE):
                got += found
        assert got == read_all(backend)
        if "key" in field and not number:  # where the log begins nothing else can tell
            number = len(got)
        assert got == records[:number]
        aside = spool.directory / "s.lmdb.quarantine-1"
        left = [one for one in salvaged(aside) if isinstance(one, bytes)]
        assert len(salvaged(aside)) > len(left), "the damage is told"
        assert left == records[1000 - len(left) :]
        assert 1000 - number - 2 <= len(left) <= 1000 - number

    def test_without_room_for_a_copy_of_them_the_file_is_renamed(self, spool: Spool) -> None:
        records = numbered(40, size=100_000)
        spool.leave(records)
        overwrite_page_with(spool, records[30])
        before = spool.data.read_bytes()
        with file_size_limit(MIB):
            backend = spool.open()
            assert (backend.recovered.records, backend.depth()) == (0, 0)
            assert "no room" in backend.recovered.reason
            backend.append([b"new"])
        aside = spool.directory / "s.lmdb.quarantine-1" / "data.mdb"
        assert aside.read_bytes() == before
        found = LmdbTools().salvage(aside)
        assert [record for record in found if isinstance(record, bytes)][:30] == records[:30]
        assert read_all(backend) == [b"new"]

    def test_a_death_between_the_two_renames_loses_nothing(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        leave_without(spool, 5, RECORDS)

        def work() -> None:
            backend = spool.open()
            renamed: list[str] = []
            real = os.rename

            def rename(source: str, target: str, **directories: int) -> None:
                if renamed:
                    os.kill(os.getpid(), 9)
                renamed.append(source)
                real(source, target, **directories)

            monkeypatch.setattr(os, "rename", rename)
            meet_damage(backend, 5)

        killed_after(work)
        assert files(spool.path) == ["new"]
        assert read_all(spool.open()) == RECORDS[:5]
        assert files(spool.path) == ["data.mdb"]


@pytest.mark.slow
@pytest.mark.filterwarnings(  # one that comes while a generator is let go of, nobody can raise
    "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_setting_aside_can_be_interrupted_at_any_line(spool: Spool) -> None:
    """The records before the damage stay, and reading again says the same of it."""
    for line in itertools.count(1):
        leave_without(spool, 5, RECORDS)
        backend = spool.open()

        def meet(backend: LmdbBackend = backend) -> None:
            with suppress(CorruptedData):
                backend.read(5, 10, ANY_SIZE)

        came = interrupted(meet, line)
        assert backend.depth() in (5, 9)
        size = backend.cost(RECORDS[:5] if backend.depth() == 5 else RECORDS)
        assert backend.size_bytes() == size
        if backend.depth() == 9:
            meet_damage(backend, 5)
        assert read_all(backend) == RECORDS[:5]
        backend.append([b"next"])
        spool.close(backend)
        backend = spool.open()
        assert read_all(backend) == [*RECORDS[:5], b"next"]
        spool.close(backend, delete=True)
        for aside in spool.directory.iterdir():
            shutil.rmtree(aside)
        if not came:
            break


def salvaged(aside: Path) -> list[bytes | Damage]:
    return list(LmdbTools().salvage(aside / "data.mdb"))


def flip(spool: Spool, field: str, record: bytes) -> None:
    """Change a byte of the leaf's node that holds `record`."""
    data = bytearray(spool.data.read_bytes())
    node = data.index(record) - 16
    page = node // 4096 * 4096
    at = {
        "length": node,
        "length by much": node + 2,
        "flags": node + 4,
        "length of key": node + 6,
        "key": node + 15,
        "key by much": node + 8,
        "pointer": data.index((node - page).to_bytes(2, "little"), page + 16),
    }[field]
    data[at] ^= 4
    spool.data.write_bytes(data)


def overwrite_page_with(spool: Spool, record: bytes) -> None:
    """Overwrite the page of the data file that `record` begins on."""
    data = spool.data.read_bytes()
    page = data.index(record) // 4096
    with spool.data.open("r+b") as file:
        file.seek(page * 4096)
        file.write(b"\xff" * 4096)
