"""Memory and disk full: what each policy does, and what is said."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.running import pipe
from tests.disks import small_disk

BLOCK = 4096
DATA = random.Random(1).randbytes(256 * BLOCK)
SMALL = ("--memory", "16K", "--block-size", "4K", "--max-disk", "64K")
ROOM = (4 + 15) * BLOCK
"""What fits into them: a block on disk has a header besides."""


def in_order(got: bytes) -> bool:
    """Whether `got` is blocks of `DATA` in their order."""
    left = iter([DATA[n : n + BLOCK] for n in range(0, len(DATA), BLOCK)])
    return all(got[n : n + BLOCK] in left for n in range(0, len(got), BLOCK))


@pytest.fixture
def full_soon(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    where = tmp_path / "small"
    where.mkdir()
    with small_disk(where, 256 * 1024):
        yield where


@pytest.fixture
def source(tmp_path: Path) -> Iterator[int]:
    """A descriptor with `DATA` to read: a file, so that every block is a whole one."""
    path = tmp_path / "source"
    path.write_bytes(DATA)
    with path.open("rb") as file:
        yield file.fileno()


def test_block_makes_the_input_wait_and_loses_nothing(source: int) -> None:
    with pipe(*SMALL, stdin=source) as running:
        full = running.reading(lambda r: r["disk_bytes"] > 64 * 1024 - 2 * BLOCK)
        assert full["disk_bytes"] <= 64 * 1024
        assert running.rest() == DATA
        assert running.status() == 0
        assert running.reading(lambda r: r["final"])["dropped"] == 0


def test_raise_ends_the_input_delivers_what_was_accepted_and_fails(source: int) -> None:
    with pipe(*SMALL, "--when-full", "raise", stdin=source) as running:
        running.hear("--when-full block); delivering what was read before\n")
        got = running.rest()
        assert running.status() == 1
        assert running.last_words().count("hq: ") == 1
        assert running.reading(lambda r: r["final"])["in_bytes"] == len(got)
    assert len(got) < len(DATA)
    assert DATA.startswith(got)


def test_drop_newest_keeps_the_beginning(source: int) -> None:
    with pipe(*SMALL, "--when-full", "drop-newest", stdin=source) as running:
        running.reading(lambda r: r["in_bytes"] == len(DATA))
        got = running.rest()
        final = running.reading(lambda r: r["final"])
        assert running.status() == 2
        assert f"{final['dropped']} blocks dropped\n" in running.last_words()
    assert len(got) == len(DATA) - final["dropped"] * BLOCK
    assert in_order(got)
    assert DATA.startswith(got[:ROOM])


def test_drop_oldest_keeps_the_end(source: int) -> None:
    with pipe(*SMALL, "--quiet", "--when-full", "drop-oldest", stdin=source) as running:
        running.reading(lambda r: r["in_bytes"] == len(DATA))
        got = running.rest()
        final = running.reading(lambda r: r["final"])
        assert running.status() == 2
        assert running.last_words() == f"hq: {final['dropped']} blocks dropped\n"
    assert len(got) == len(DATA) - final["dropped"] * BLOCK
    assert in_order(got)
    assert DATA.endswith(got[-ROOM:])


def test_a_full_disk_is_told_once_while_it_lasts_and_every_byte_is_delivered(
    full_soon: Path, source: int
) -> None:
    args = ("--memory", "16K", "--block-size", "4K", "--dir", full_soon)
    with pipe(*args, stdin=source) as running:
        running.hear("the overflow disk is full")
        full = [running.reading(lambda r: True) for _ in range(5)]
        assert {r["in_bytes"] for r in full[1:]} == {full[0]["in_bytes"]}
        assert running.said_by_now().count("the overflow disk is full") == 1
        assert running.rest() == DATA
        assert running.status() == 0
        assert running.last_words().count("the overflow disk is full") == 1
    assert not list(full_soon.iterdir())
