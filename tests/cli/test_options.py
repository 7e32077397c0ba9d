from typing import ClassVar, Literal

import pytest

from hq_cli.options import parse_options
from hq_core import PluginError, registry


class Tunable:
    """A backend's constructor is all that matters here."""

    capabilities: ClassVar[None] = None

    def __init__(
        self,
        stream: object,
        *,
        read_ahead: int = 1,
        fsync: Literal["always", "never"] = "never",
        compress: bool = False,
        ratio: float | None = None,
        label: str = "",
    ) -> None: ...


@pytest.fixture(autouse=True)
def tunable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "load", lambda name: Tunable)


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("read_ahead=128K", 131072),
        ("read_ahead=0", 0),
        ("fsync=always", "always"),
        ("compress=yes", True),
        ("compress=OFF", False),
        ("ratio=0.5", 0.5),
        ("label=a=b", "a=b"),
        ("label=", ""),
    ],
)
def test_a_value_takes_the_type_that_the_backend_declares(pair: str, value: object) -> None:
    name = pair.partition("=")[0]
    assert parse_options("tunable", [pair]) == {name: value}


def test_the_last_of_several_values_counts() -> None:
    assert parse_options("tunable", ["ratio=1", "ratio=2", "label=x"]) == {
        "ratio": 2.0,
        "label": "x",
    }


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("read_ahead=many", "a whole number such as 128K"),
        ("fsync=sometimes", "always or never"),
        ("compress=perhaps", "yes or no"),
        ("ratio=half", "a number"),
        ("colour=red", "read_ahead, fsync, compress, ratio, label"),
        ("stream=x", "has no option 'stream'"),
        ("label", "KEY=VALUE"),
    ],
)
def test_what_does_not_fit_is_refused_saying_what_would(pair: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_options("tunable", [pair])


def test_an_unknown_backend_is_the_registrys_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(PluginError, match="nowhere"):
        parse_options("nowhere", [])
