import re
from xml.etree import ElementTree

import pytest

from hq_cli.axes import Panel, ceiling, ticks
from hq_cli.plot import Point, picture

SVG = "{http://www.w3.org/2000/svg}"


def draw(points: list[Point], stall: tuple[float, float] = (2.0, 5.0)) -> ElementTree.Element:
    return ElementTree.fromstring(picture(points, stall, seconds=10.0, title="How it went"))


def hill(count: int = 1000) -> list[Point]:
    """Up to a depth of 100 and down again in ten seconds; ten fit into memory."""
    depths = [min(n, count - 1 - n) * 200 // count for n in range(count)]
    return [
        Point(10.0 * n / count, min(depth, 10), max(0, depth - 10), depth / 80)
        for n, depth in enumerate(depths)
    ]


def texts(svg: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in svg.iter(f"{SVG}text")]


def test_the_picture_says_what_it_shows() -> None:
    shown = texts(draw(hill()))
    for text in (
        "How it went",
        "in memory",
        "on disk",
        "consumer stalled",
        "packets in the queue",
        "pressure",
        "pressure 1.0 = memory full",
        "time in seconds",
        "99 packets",
    ):
        assert text in shown


def test_the_axes_reach_round_numbers() -> None:
    shown = texts(draw(hill()))
    assert {"0", "2", "4", "6", "8", "10"} <= set(shown)
    assert "100" in shown


def test_the_stall_is_shaded_in_both_panels_where_it_was() -> None:
    bands = [
        rect
        for rect in draw(hill()).iter(f"{SVG}rect")
        if rect.get("class") == "stall" and float(rect.get("height", "0")) > 100
    ]
    assert len(bands) == 2
    for band in bands:
        start, width = float(band.get("x", "")), float(band.get("width", ""))
        assert start == pytest.approx(64 + 0.2 * 772, abs=0.1)
        assert width == pytest.approx(0.3 * 772, abs=0.1)


@pytest.mark.parametrize("count", [1, 2, 3, 100_000])
def test_any_number_of_points_makes_a_small_picture(count: int) -> None:
    points = hill(count) if count > 3 else [Point(0.0, 0, 0, 0.0)] * count
    text = picture(points, (2.0, 5.0), seconds=10.0, title="How it went")
    ElementTree.fromstring(text)
    assert len(text) < 40_000


def test_thinning_keeps_the_peak() -> None:
    points = hill(100_000)
    points[51_234] = Point(points[51_234].seconds, 10, 190, 2.5)
    assert "200 packets" in texts(draw(points))


def test_every_coordinate_is_inside_the_picture() -> None:
    text = picture(hill(), (2.0, 5.0), seconds=10.0, title="How it went")
    for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", text):
        assert 64 <= float(x) <= 836
        assert 100 <= float(y) <= 490


def test_dark_and_light_are_both_provided_for() -> None:
    text = picture(hill(), (2.0, 5.0), seconds=10.0, title="How it went")
    assert "prefers-color-scheme: dark" in text
    for name in set(re.findall(r'class="(\w+)"', text)):
        assert f".{name}" in text


@pytest.mark.parametrize(
    ("highest", "expected"),
    [
        (10, [0, 2, 4, 6, 8, 10]),
        (1.2, [0, 0.5, 1.0]),
        (0.3, [0, 0.1, 0.2, 0.3]),
        (100, [0, 20, 40, 60, 80, 100]),
        (7, [0, 2, 4, 6]),
        (12345, [0, 5000, 10000]),
    ],
)
def test_ticks_are_round(highest: float, expected: list[float]) -> None:
    assert ticks(highest) == expected


@pytest.mark.parametrize("highest", [1, 1.2, 9, 99, 215, 1000, 0.01])
def test_a_ceiling_is_above_and_not_far_above(highest: float) -> None:
    assert highest < ceiling(highest) <= 2.5 * highest


def test_a_panel_maps_its_corners() -> None:
    panel = Panel(left=10, right=110, top=20, bottom=70, seconds=5.0, highest=2.0)
    assert (panel.x(0.0), panel.x(5.0), panel.x(6.0)) == (10, 110, 110)
    assert (panel.y(0.0), panel.y(2.0)) == (70, 20)
