"""What two samples tell, without a source and without a screen."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hq_cli.top.model import MOST_SAMPLES, History, Reading, View, document, per_second, sparkline

CAMERA = Reading("k", "camera-1", "file", enqueued=100, dequeued=40, pressure=0.5)


def test_rates_come_with_the_second_sample() -> None:
    history = History()
    (first,) = history.add([CAMERA], 10.0)
    assert (first.in_rate, first.out_rate, first.trend) == (None, None, (0.5,))
    (second,) = history.add([replace(CAMERA, enqueued=150, dequeued=41, pressure=1.5)], 12.0)
    assert (second.in_rate, second.out_rate, second.trend) == (25.0, 0.5, (0.5, 1.5))


@pytest.mark.parametrize(
    ("now", "before", "seconds", "rate"),
    [
        (7, 3, 2.0, 2.0),
        (3, 7, 1.0, None),
        (None, 3, 1.0, None),
        (7, None, 1.0, None),
        (7, 3, 0.0, None),
    ],
)
def test_a_rate_is_told_only_where_it_is_known(
    now: int | None, before: int | None, seconds: float, rate: float | None
) -> None:
    assert per_second(now, before, seconds) == rate


def test_a_stream_that_has_gone_is_forgotten() -> None:
    history = History()
    history.add([CAMERA], 1.0)
    assert history.add([], 2.0) == ()
    (row,) = history.add([CAMERA], 3.0)
    assert (row.in_rate, row.trend) == (None, (0.5,))


def test_the_fullest_comes_first_and_then_the_names() -> None:
    readings = [
        Reading(name, name, "file", pressure=pressure)
        for name, pressure in (("b", 0.0), ("a", 0.0), ("c", 1.2), ("d", None))
    ]
    rows = History().add(readings, 1.0)
    assert [row.reading.stream for row in rows] == ["c", "a", "b", "d"]


def test_only_so_many_samples_are_kept() -> None:
    history = History()
    for second in range(MOST_SAMPLES + 5):
        (row,) = history.add([replace(CAMERA, pressure=float(second))], float(second))
    assert row.trend == tuple(float(second) for second in range(5, MOST_SAMPLES + 5))


@settings(derandomize=True, deadline=None)
@given(
    st.lists(st.none() | st.sampled_from([0.0, 0.001, 0.3, 1.0, 7.0, 1e12]), max_size=80),
    st.integers(0, 70),
)
def test_a_sparkline_has_a_character_for_each_of_the_last_values(
    values: list[float | None], width: int
) -> None:
    line = sparkline(values, width)
    shown = values[-width:] if width else []
    assert len(line) == len(shown)
    for value, mark in zip(shown, line, strict=True):
        assert (mark == " ") == (value is None)
        assert (mark == "▁") == (value == 0)


def test_a_sparkline_shows_what_is_empty_full_and_unknown() -> None:
    assert sparkline([0.0, None, 0.5, 1.0], 10) == "▁ ▅█"
    assert sparkline([0.0, 100.0], 10) == "▁█"
    assert sparkline([1.0, 0.0], 1) == "▁"


def test_the_document_has_no_rows_that_are_not_new() -> None:
    rows = History().add([CAMERA], 1.0)
    view = View("spool", "directory", 1.23456, rows)
    shown = document(view)
    assert (shown["source"], shown["time"], shown["error"]) == ("spool", 1.235, None)
    (stream,) = shown["streams"]
    assert (stream["stream"], stream["pressure"], stream["in_rate"]) == ("camera-1", 0.5, None)
    failed = document(replace(view, failure="gone"))
    assert (failed["error"], failed["streams"]) == ("gone", [])
