"""The pictures in the documentation can be made again."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from scripts import pictures


def test_every_picture_is_one_that_the_documentation_has() -> None:
    assert [name for name in pictures.PICTURES if not (pictures.IMAGES / name).is_file()] == []


@pytest.mark.slow
def test_the_plot_of_the_depth_is_drawn(tmp_path: Path) -> None:
    pictures.depth(tmp_path / "depth.svg", seconds=1)
    drawn = ET.parse(tmp_path / "depth.svg").getroot()
    assert drawn.tag == "{http://www.w3.org/2000/svg}svg"
    assert "consumer stalled" in "".join(drawn.itertext())


def test_the_screen_of_hq_top_is_drawn_and_loads_nothing(tmp_path: Path) -> None:
    pictures.top(tmp_path / "top.svg")
    drawn = "".join(ET.parse(tmp_path / "top.svg").getroot().itertext())
    assert "camera-2" in drawn
    assert "url(http" not in drawn
