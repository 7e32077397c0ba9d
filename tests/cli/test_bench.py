import json
from pathlib import Path

import pytest

from hq_cli.bench import render
from hq_cli.main import main
from hq_core.testing.bench import SIZES, Figure, Measurement

Captured = pytest.CaptureFixture[str]

QUICK = ["--seconds", "0.001"]


def test_the_table_is_aligned_and_says_what_was_measured() -> None:
    figure = Figure(1316, "append", 421_783.4, 555.07, 2.44, 467_625.0, 0.902)
    slow = Figure(65_536, "read + trim", 12.0, 0.8, 80_000.0, 24.0, 0.5)
    assert render(Measurement("mine", 2, 5, (figure, slow))).splitlines() == [
        "mine: medians of 5 rounds, cores: 2",
        " bytes  phase        items/s  MB/s    CPU us    raw/s  of raw",
        " 1,316  append       421,783   555       2.4  467,625   0.902",
        "65,536  read + trim       12     1  80,000.0       24   0.500",
    ]


def test_every_size_and_phase_has_a_row(tmp_path: Path, capsys: Captured) -> None:
    assert main(["bench", "file", "--dir", str(tmp_path), *QUICK]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert len(said.out.splitlines()) == 2 + 3 * len(SIZES)
    assert list(tmp_path.iterdir()) == []


def test_the_json_has_every_figure(tmp_path: Path, capsys: Captured) -> None:
    options = ["-o", "read_ahead=128K", "--json"]
    assert main(["bench", "file", "--dir", str(tmp_path), *options, *QUICK]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {name: type(value) for name, value in found.items()} == {
        "backend": str,
        "cores": int,
        "repeats": int,
        "figures": list,
    }
    assert len(found["figures"]) == 3 * len(SIZES)
    for figure in found["figures"]:
        assert {name: type(value) for name, value in figure.items()} == {
            "size": int,
            "phase": str,
            "items_per_second": float,
            "mb_per_second": float,
            "cpu_us": float,
            "raw_items_per_second": float,
            "ratio": float,
        }


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["nowhere"], "no backend named 'nowhere'"),
        (["file", "-o", "colour=red"], "its options: read_ahead"),
        (["file", "-o", "read_ahead=1"], "read_ahead must be 65536"),
        (["file", "--seconds", "0"], "seconds above 0"),
        (["file", "--dir", "no/such/directory"], "No such file or directory"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    capsys: Captured, args: list[str], expected: str
) -> None:
    assert main(["bench", *args]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("hq: error: ")
    assert expected in said.err
