import json
from dataclasses import replace

import pytest

from hq_cli.status import Reading, json_line, rate, status_line, summary

READING = Reading(
    name="camera",
    elapsed=83.25,
    resumed_bytes=0,
    in_bytes=3 * 1024**3,
    out_bytes=2 * 1024**3,
    in_rate=812.0 * 1024**2,
    out_rate=120.0 * 1024**2,
    memory_bytes=64 * 1024**2,
    memory_limit=64 * 1024**2,
    disk_bytes=960 * 1024**2,
    pressure=1.0825,
    depth=16384,
    dropped=0,
    away=False,
    final=False,
)


def test_the_status_line_says_how_fast_how_full_and_how_much() -> None:
    assert status_line(READING) == (
        "camera  in 812M/s out 120M/s  mem 64.0M/64.0M  disk 960M  pressure 1.09"
        "  3.00G in 2.00G out  0:01:23"
    )


@pytest.mark.parametrize("width", [1, 10, 79, 200])
def test_the_status_line_is_never_wider_than_the_terminal(width: int) -> None:
    assert status_line(READING, width) == status_line(READING)[:width]


def test_the_first_byte_on_disk_can_be_seen() -> None:
    assert "pressure 1.00 " in status_line(replace(READING, pressure=1.0))
    assert "pressure 1.01 " in status_line(replace(READING, pressure=1.0000001))


def test_eighty_columns_are_enough_for_all_but_the_totals() -> None:
    assert "pressure 1.09" in status_line(replace(READING, name="pipe-4194304"), 79)


def test_what_was_dropped_is_in_the_status_line_and_in_the_summary() -> None:
    reading = replace(READING, dropped=12)
    assert "dropped 12" in status_line(reading)
    assert "12 blocks dropped" in summary(reading, blocks=20, spilled=3)


def test_that_the_backend_is_away_comes_first_after_the_name() -> None:
    line = status_line(replace(READING, away=True, dropped=12))
    assert line.startswith("camera  backend away  in 812M/s out 120M/s  dropped 12  mem ")


@pytest.mark.parametrize("name", ["\x1b[2J", "a\nb", "\x9b", "x" * 300])
def test_a_name_can_neither_command_the_terminal_nor_fill_it(name: str) -> None:
    shown = status_line(replace(READING, name=name)).split("  in ")[0]
    assert shown.isprintable()
    assert len(shown) <= 16


def test_the_summary_gives_exact_bytes_and_what_the_disk_did() -> None:
    assert summary(READING, blocks=49152, spilled=15360) == (
        "camera: 2147483648 bytes (2.00 GiB) in 0:01:23, 120 MiB/s, "
        "15360 of 49152 blocks through the disk"
    )


def test_a_line_of_json_has_the_documented_keys_in_order() -> None:
    line = json_line(READING)
    assert line.endswith("}\n")
    assert line.count("\n") == 1
    assert list(json.loads(line)) == [
        "name",
        "elapsed",
        "resumed_bytes",
        "in_bytes",
        "out_bytes",
        "in_rate",
        "out_rate",
        "memory_bytes",
        "memory_limit",
        "disk_bytes",
        "pressure",
        "depth",
        "dropped",
        "away",
        "final",
    ]


@pytest.mark.parametrize("name", ['"', "\n", "\udcff", "\N{SNOWMAN}"])
def test_any_name_makes_valid_json(name: str) -> None:
    assert json.loads(json_line(replace(READING, name=name)).encode())["name"] == name


def test_a_rate_is_bytes_per_second_and_no_time_is_no_rate() -> None:
    assert rate(300, 100, 2.0) == 100.0
    assert rate(300, 100, 0.0) == 0.0
