"""A store beyond this machine: the pipe rests while it is away, and ends when it is lost."""

import contextlib
import os
import random
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hq_cli.sizes import format_size
from tests.cli.running import Pipe, Reading, pipe
from tests.installing import site_in

REMOTE = """
import sys
import threading

from hq_core.hookspecs import hookimpl
from hq_core.testing import MemoryBackend, RemoteBackend

class Remote(RemoteBackend):
    name = "far"

    def __init__(self, stream, *, orders: str, away: bool = False):
        super().__init__(MemoryBackend(stream), stream)
        if away:
            self.go_away()
        threading.Thread(target=self.obey, args=(orders,), daemon=True).start()

    def obey(self, orders):
        with open(orders) as lines:
            for line in lines:
                getattr(self, line.strip())()
                sys.stderr.write("obeyed " + line)

@hookimpl
def hq_register_backends():
    return [Remote]
"""
BLOCK = 64 * 1024
DATA = random.Random(1).randbytes(64 * BLOCK)
STORED = 2 * 1024 * 1024
"""Twice what is read ahead of a store, and can be had while it is away."""
SMALL = ("--memory", "256K", "--max-disk", str(STORED), "--name", "tv")


class Store:
    """Where the pipes of a test keep what overflows, and what that does."""

    def __init__(self, orders: Path) -> None:
        os.mkfifo(orders)
        self.args = ("--backend", "far", "-o", f"orders={orders}")
        self._orders = os.open(orders, os.O_RDWR)

    def does(self, order: str, running: Pipe) -> None:
        """Have it go away, or come back, or be lost; returns when it has."""
        os.write(self._orders, f"{order}\n".encode())
        running.hear(f"obeyed {order}\n")

    def close(self) -> None:
        os.close(self._orders)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """That of the backend ``far``, which is installed for the processes of the test."""
    with site_in(tmp_path) as site:
        site.install("distant", "far", REMOTE)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "distant"))
        with contextlib.closing(Store(tmp_path / "orders")) as store:
            yield store


@pytest.fixture
def source(tmp_path: Path) -> Iterator[int]:
    """A descriptor with `DATA` to read: a file, so that every block is a whole one."""
    path = tmp_path / "source"
    path.write_bytes(DATA)
    with path.open("rb") as file:
        yield file.fileno()


def is_full(reading: Reading) -> bool:
    """Whether there is room for one more block at most, and the input will wait."""
    return bool(reading["disk_bytes"] > STORED - 2 * BLOCK)


def rests(reading: Reading) -> bool:
    """Whether all that does not take the store has been done, and the reading says so."""
    left = reading["in_bytes"] - reading["out_bytes"]
    stored = (reading["depth"] + reading["dropped"]) * BLOCK
    return bool(reading["away"]) and not reading["memory_bytes"] and left == stored > 0


def test_the_pipe_rests_while_the_store_is_away_and_goes_on_when_it_is_back(
    store: Store, source: int
) -> None:
    with pipe(*SMALL, *store.args, "--force-status", stdin=source) as running:
        assert not running.reading(is_full)["away"]
        store.does("go_away", running)
        with ThreadPoolExecutor() as reader:
            got = reader.submit(running.rest)
            resting = [running.reading(rests) for _ in range(5)]
            assert {r["out_bytes"] for r in resting} == {resting[0]["out_bytes"]}
            assert {r["in_bytes"] for r in resting} == {resting[0]["in_bytes"]}
            assert resting[0]["in_bytes"] < len(DATA)
            running.hear("tv  backend away  in ")
            store.does("come_back", running)
            assert got.result() == DATA
        assert running.status() == 0
        final = running.reading(lambda r: r["final"])
        assert final["in_bytes"] == final["out_bytes"] == len(DATA)
        assert not final["away"]
        assert "hq: tv: 4194304 bytes" in running.last_words()


def test_what_is_stored_when_the_input_ends_is_delivered_after_the_outage(store: Store) -> None:
    with pipe(*SMALL, *store.args) as running:
        data = DATA[:STORED]
        running.feed(data)
        running.end_input()
        running.reading(lambda r: r["in_bytes"] == len(data))
        store.does("go_away", running)
        with ThreadPoolExecutor() as reader:
            got = reader.submit(running.rest)
            running.reading(lambda r: r["away"] and not r["memory_bytes"])
            store.does("come_back", running)
            assert got.result() == data
        assert running.status() == 0


def test_an_outage_is_no_room_so_a_pipe_that_is_not_to_wait_delivers_what_it_has(
    store: Store, source: int
) -> None:
    away = ("--when-full", "raise", "-o", "away=yes")
    with pipe(*SMALL, *store.args, *away, stdin=source) as running:
        running.hear(
            "hq: error: the store is away (--when-full block waits until it is back); "
            "delivering what was read before\n"
        )
        got = running.rest()
        assert running.status() == 1
        assert running.reading(lambda r: r["final"])["in_bytes"] == len(got)
    assert len(got) < len(DATA)
    assert DATA.startswith(got)


def test_dropping_goes_on_in_an_outage_and_what_is_kept_comes_in_order(
    store: Store, source: int
) -> None:
    with pipe(*SMALL, "--when-full", "drop-newest", *store.args, stdin=source) as running:
        running.reading(lambda r: r["in_bytes"] == len(DATA))
        store.does("go_away", running)
        with ThreadPoolExecutor() as reader:
            got = reader.submit(running.rest)
            running.reading(rests)
            store.does("come_back", running)
        final = running.reading(lambda r: r["final"])
        assert running.status() == 2
    kept = got.result()
    assert len(kept) == len(DATA) - final["dropped"] * BLOCK
    left = iter([DATA[n : n + BLOCK] for n in range(0, len(DATA), BLOCK)])
    assert all(kept[n : n + BLOCK] in left for n in range(0, len(kept), BLOCK))


@pytest.mark.slow
def test_the_second_signal_ends_it_in_an_outage_too(store: Store, source: int) -> None:
    with pipe(*SMALL, *store.args, stdin=source) as running:
        running.reading(is_full)
        store.does("go_away", running)
        with ThreadPoolExecutor() as reader:
            got = reader.submit(running.rest)
            running.reading(rests)
            running.signal(signal.SIGINT)
            running.hear("interrupt again to discard")
            asked = running.reading(lambda r: True)["elapsed"]
            running.reading(lambda r: r["elapsed"] > asked + 0.1)
            running.signal(signal.SIGINT)
            assert running.status() == 1
        assert DATA.startswith(got.result())
        final = running.reading(lambda r: r["final"])
        left = format_size(final["in_bytes"] - final["out_bytes"])
        assert f"error: interrupted twice; {left} discarded\n" in running.last_words()


LOST = "hq: error: another owner has 'tv', and with it all that was stored; {} not delivered\n"


def test_a_stream_that_is_lost_ends_the_pipe_with_what_was_written_till_then(
    store: Store, source: int
) -> None:
    with pipe(*SMALL, *store.args, stdin=source) as running:
        running.reading(is_full)
        store.does("lose", running)
        got = running.rest()
        assert running.status() == 1
        final = running.reading(lambda r: r["final"])
        said = running.last_words()
    assert DATA.startswith(got)
    assert final["out_bytes"] == len(got) < final["in_bytes"] < len(DATA)
    assert said.count("error: ") == 1
    assert LOST.format(format_size(final["in_bytes"] - final["out_bytes"])) in said
    assert "delivering" not in said


def test_a_stream_that_is_lost_while_the_pipe_waits_for_input_ends_it_at_once(
    store: Store,
) -> None:
    with pipe(*SMALL, *store.args) as running:
        running.feed(b"before")
        assert running.read(6) == b"before"
        store.does("lose", running)
        assert running.status() == 1
        assert running.rest() == b""
        assert LOST.format("0 B") in running.last_words()
