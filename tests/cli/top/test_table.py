import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from hq_cli.top import screen
from hq_cli.top.model import History, Kind, Reading, View
from hq_cli.top.table import COLUMNS, GAP, fitting

kinds = st.sampled_from(sorted(COLUMNS))


@given(kinds, st.integers(1, 300), st.integers(0, 300))
def test_columns_fit_or_there_is_only_the_first(kind: Kind, width: int, longest: int) -> None:
    chosen = fitting(kind, width, longest)
    assert [column for column, _ in chosen] == list(COLUMNS[kind])[: len(chosen)]
    assert sum(has + GAP for _, has in chosen) - GAP <= width or len(chosen) == 1
    assert all(has >= column.width for column, has in chosen)


def test_eighty_columns_show_pressure_rates_trend_and_drops() -> None:
    titles = [column.title for column, _ in fitting("endpoint", 80, 10)]
    assert titles[:7] == ["STREAM", "PRESSURE", "DEPTH", "IN/s", "OUT/s", "TREND", "DROPPED"]


def view(*names: str, failure: str = "") -> View:
    rows = [Reading(name, name, "[b]x", pressure=1.5, dropped=2**62, depth=2**62) for name in names]
    return View("\x1b[2J", "endpoint", 0.0, History().add(rows, 1.0), failure)


def drawn(seen: View, width: int, height: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(screen.picture(seen, width, height))
    return capture.get().replace("\x1b[0m", "").splitlines()


@given(
    st.lists(st.text(max_size=30), max_size=12, unique=True),
    st.integers(1, 120),
    st.integers(1, 20),
)
def test_a_picture_stays_within_the_terminal_and_commands_nothing(
    names: list[str], width: int, height: int
) -> None:
    lines = drawn(view(*names, failure="a\nb"), width, height)
    assert len(lines) <= max(height, 3)
    assert all(line.isprintable() and cell_len(line) <= width for line in lines)


def test_names_are_text_and_no_markup() -> None:
    text = screen.plain(view("[red]a[/red]", ":smile:", "x\x1b[2Jy"))
    for shown in ("[red]a[/red]", ":smile:", r"x\x1b[2Jy", "[b]x", r"\x1b[2J"):
        assert shown in text


def test_streams_without_room_are_counted() -> None:
    lines = drawn(view(*"abcdef"), 80, 5)
    assert [line[0] for line in lines[2:4]] == ["a", "b"]
    assert lines[4].strip() == "and 4 more"


def test_plain_text_has_every_stream_and_no_escape_sequence() -> None:
    text = screen.plain(view(*(f"camera-{number}" for number in range(50))))
    assert text.count("camera-") == 50
    assert "\x1b" not in text


@pytest.mark.parametrize("failure", ["", "no answer"])
def test_a_failure_stands_where_it_is_seen(failure: str) -> None:
    assert (failure or "1 stream ") in drawn(view("a", failure=failure), 80, 10)[0]
