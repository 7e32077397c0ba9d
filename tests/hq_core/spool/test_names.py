"""Stream ids as file names."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hq_core.spool.names import MAX_NAME, file_name, stream_id

reproducible = settings(derandomize=True, deadline=None)

any_character = st.characters(exclude_categories=())
"""Lone surrogates, NUL and newlines included."""
any_text = st.text(any_character, max_size=300)

HOSTILE = [
    "",
    ".",
    "..",
    "...",
    "../x",
    "/etc/x",
    "a/b",
    "a\\b",
    ".hidden",
    "x" * 1_000,
    "../" * 400,
    "é" * 1_000,
    "caméra-1",
    "カメラ",
    "\N{GRINNING FACE}",
    "\ud83d\ude00",
    "\ud800",
    "\udfff.",
    "a\0b",
    "a\nb",
    "\r\n",
    " ",
    "Camera",
    "camera",
    "CAMERA",
    "%",
    "%%",
    "%2e",
    "%2E",
    "a%%b",
    "~",
    "-rf",
    "con",
    "e\u0301",
    "\u00e9",
]


def twins() -> st.SearchStrategy[tuple[str, str]]:
    """Pairs that are likely to collide: an id beside its own name, its other case, its like."""
    like = any_text.flatmap(
        lambda text: st.tuples(
            st.just(text),
            st.sampled_from(
                [file_name(text), text.upper(), text.lower(), text + ".", "." + text, text * 2]
            ),
        )
    )
    return st.one_of(st.tuples(any_text, any_text), like)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_id_stays_in_its_directory(hostile: str) -> None:
    directory = Path("/spool/video")
    path = directory / f"{file_name(hostile)}.overflow"
    assert path.parent == directory
    assert path.name not in {"", ".", ".."}


@reproducible
@given(any_text)
def test_a_name_is_made_of_safe_characters_only(text: str) -> None:
    assert re.fullmatch(r"[a-z0-9._%-]+", file_name(text))


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_id_gets_a_name_of_safe_characters(hostile: str) -> None:
    assert re.fullmatch(r"[a-z0-9._%-]+", file_name(hostile))


@reproducible
@given(any_text.map(lambda text: "." + text))
def test_a_name_never_starts_with_a_dot(text: str) -> None:
    assert not file_name(text).startswith(".")


@reproducible
@given(st.text(any_character, min_size=50, max_size=1_000))
@example("x" * 200)
@example("x" * 201)
@example("X" * 66 + "xx")
@example("X" * 67)
@example("." + "x" * 198)
@example("\N{GRINNING FACE}" * 1_000)
def test_a_name_has_at_most_200_characters(text: str) -> None:
    assert 1 <= len(file_name(text)) <= MAX_NAME == 200


@reproducible
@given(twins())
@example(("x" * 1_000, "x" * 1_001))
@example(("", "%"))
@example(("", "%25"))
@example((".", "%2e"))
@example(("\ud83d\ude00", "\N{GRINNING FACE}"))
@example(("e\u0301", "\u00e9"))
@example(("camera", "Camera"))
@example(("x" * 1_000, file_name("x" * 1_000)))
def test_two_ids_never_share_a_name(pair: tuple[str, str]) -> None:
    first, second = pair
    assert (file_name(first) == file_name(second)) == (first == second)


def test_no_two_hostile_ids_share_a_name_even_where_case_does_not_count() -> None:
    assert len({file_name(hostile).casefold() for hostile in HOSTILE}) == len(HOSTILE)


@reproducible
@given(st.text(any_character, max_size=16))
@example("")
@example("..")
@example("\ud800")
@example("\ud83d\ude00")
@example("a\0\n%")
@example("x" * 200)
def test_a_name_can_be_turned_back_into_its_id(text: str) -> None:
    assert stream_id(file_name(text)) == text


@pytest.mark.parametrize("long", ["x" * 201, "x" * 1_000, "É" * 100, "." + "y" * 198])
def test_a_cut_name_is_recognised_as_one(long: str) -> None:
    assert stream_id(file_name(long)) is None


@reproducible
@given(st.one_of(st.text(any_character, max_size=30), st.text("abc%2eE0.", max_size=30)))
@example("%2E")
@example("%61")
@example(".x")
@example("A")
@example("%%")
@example("%ff")
@example("")
@example("\ud800")
def test_what_is_no_name_of_ours_is_not_read_as_one(name: str) -> None:
    found = stream_id(name)
    assert found is None or file_name(found) == name


@reproducible
@given(st.text("abcdefghijklmnopqrstuvwxyz0123456789_-.", min_size=1, max_size=199))
def test_readable_ids_stay_as_they_are(text: str) -> None:
    assert file_name(text).replace("%2e", ".") == text
    is_plain = text[0] != "." and ".quarantine-" not in text and ".backup-" not in text
    assert (file_name(text) == text) == is_plain


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("camera-1", "camera-1"),
        ("a.b_c", "a.b_c"),
        ("v1.", "v1."),
        ("..", "%2e."),
        ("", "%"),
        ("a/b", "a%2fb"),
        ("Cam", "%43am"),
        ("é", "%c3%a9"),
        ("%", "%25"),
        ("a.overflow.quarantine-1", "a.overflow%2equarantine-1"),
        ("a.quarantine-.backup-x", "a%2equarantine-%2ebackup-x"),
        ("quarantine-1", "quarantine-1"),
        ("a.quarantine", "a.quarantine"),
    ],
)
def test_names_are_the_ones_documented(text: str, name: str) -> None:
    assert file_name(text) == name


def test_the_name_of_an_over_long_id_starts_readably() -> None:
    name = file_name("camera-1-" + "x" * 1_000)
    assert len(name) == MAX_NAME
    assert re.fullmatch(r"camera-1-x+%%[0-9a-f]{64}", name)


DATA = [".overflow", ".lmdb"]
"""What the backends call their data, a file or a directory."""
WORDS = ["lock", "repair", "new", "pos", "overflow", "lmdb", "quarantine-1", "backup-2"]
SET_ASIDE = re.compile(
    r"(.+)\.[a-z0-9-]+\.(?:quarantine-[0-9]+|backup-[0-9T]+Z(?:-[0-9]+)?)(\.[a-z0-9-]+)?", re.DOTALL
)


def own_files(name: str) -> list[str]:
    """What a stream with that file name may call its own in its directory."""
    inner = [".pos", ".new"]
    aside = [".quarantine-1", ".quarantine-12", ".backup-20260101T000000Z", ".backup-2T1Z-3"]
    aside += [f"{tag}.pos" for tag in aside]
    suffixes = [data + more for data in DATA for more in ["", *inner, *aside]]
    return [name + suffix for suffix in [".lock", ".repair", *suffixes]]


def ids_like_files() -> st.SearchStrategy[str]:
    """Ids that are made of what files are called, each part of it anywhere."""
    parts = st.sampled_from(["a", "A", "", "%2e", "20260101T000000Z", *WORDS])
    return st.lists(parts, min_size=1, max_size=6).map(".".join)


@reproducible
@given(ids_like_files(), ids_like_files())
@example("s", "s.overflow.quarantine-1")
@example("s", "s.overflow.quarantine-1.overflow")
@example("s", "s.overflow")
@example("s", "s.lmdb")
@example("s", "s.overflow.backup-20260101T000000Z")
@example("x" * 300 + ".quarantine-1", "x" * 300 + ".quarantine-2")
def test_no_file_of_a_stream_is_called_like_one_of_another(first: str, second: str) -> None:
    if first != second:
        assert not set(own_files(file_name(first))) & set(own_files(file_name(second)))


@reproducible
@given(st.one_of(ids_like_files(), any_text), st.sampled_from(DATA))
@example("s.overflow.quarantine-1", ".overflow")
@example("s.overflow.backup-20260101T000000Z", ".overflow")
@example("x.quarantine-1" * 30, ".lmdb")
def test_no_file_in_use_is_called_like_what_is_set_aside(text: str, data: str) -> None:
    name = file_name(text)
    for suffix in (".lock", ".repair", data, f"{data}.pos", f"{data}.new"):
        assert not SET_ASIDE.fullmatch(name + suffix)
    for tag in (".quarantine-7", ".backup-20260101T000000Z-2"):
        for companion in ("", ".pos"):
            found = SET_ASIDE.fullmatch(f"{name}{data}{tag}{companion}")
            assert found
            assert found[1] == name


@pytest.mark.parametrize("wrong", [None, 5, b"camera", Path("camera"), ["camera"]])
def test_an_id_that_is_no_text_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^stream_id must be a str, not"):
        file_name(wrong)
