"""The check of the built site notices what Zensical does not."""

from pathlib import Path

import pytest

from scripts import site

GOOD = (
    '<h1 id="top">x</h1><a href="sub/b.html#there">b</a><img src="a%20b.svg"><a href="#top">t</a>'
)


@pytest.fixture
def built(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a b.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    (tmp_path / "sub" / "b.html").write_text('<h2 id="there">b</h2><a href="../a.html">a</a>')
    (tmp_path / "a.html").write_text(GOOD)
    (tmp_path / "404.html").write_text('<a href="/nowhere.html">home</a>')
    return tmp_path


def test_a_site_whose_links_lead_somewhere_has_no_problems(built: Path) -> None:
    assert site.problems(built) == []


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('<a href="c.html">c</a>', "leads to c.html, which is not there"),
        ('<a href="sub/b.html#top">b</a>', "leads to sub/b.html#top, which has no such place"),
        ('<a href="#there">b</a>', "leads to #there, which has no such place"),
        ('<a href="sub/">b</a>', "leads to sub/, which is not there"),
        ('<img src="c.svg">', "leads to c.svg, which is not there"),
        ('<link rel="stylesheet" href="c.css">', "leads to c.css, which is not there"),
        ('<script src="https://example.org/c.js"></script>', "loads https://example.org/c.js"),
        ('<img src="//example.org/c.svg">', "loads //example.org/c.svg"),
    ],
)
def test_a_page_with_a_problem_is_named_with_it(built: Path, written: str, said: str) -> None:
    (built / "a.html").write_text(GOOD + written)
    assert site.problems(built) == [f"a.html: {said}"]


def test_a_link_to_another_site_is_not_followed(built: Path) -> None:
    (built / "a.html").write_text(GOOD + '<a href="https://example.org/x">x</a>')
    assert site.problems(built) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.css", '@import url("https://example.org/font.css")'),
        (
            "c.svg",
            "<svg><style>@font-face { src: url(https://example.org/font.css) }</style></svg>",
        ),
        ("d.svg", '<svg><image xlink:href="https://example.org/font.css"/></svg>'),
    ],
)
def test_a_picture_or_style_that_loads_from_elsewhere_is_a_problem(
    built: Path, name: str, text: str
) -> None:
    (built / name).write_text(text)
    assert site.problems(built) == [f"{name}: loads https://example.org/font.css"]
