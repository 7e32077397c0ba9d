import json
import sys
from pathlib import Path

import pytest

from hq_cli.check import render
from hq_cli.main import main
from hq_core.testing.check import Outcome, Report
from tests.installing import SOUND, UNSOUND, installed

Captured = pytest.CaptureFixture[str]

FAILING = Report(
    backend="mine",
    distribution="vendor",
    version="1.5",
    capabilities=("DURABLE", "CRASH_SAFE"),
    api_version=1,
    passed=(Outcome("a new one is empty"), Outcome("the largest record passes")),
    failed=(Outcome("an empty backend is not falsy", "assert spool.open()"),),
    skipped=(
        Outcome("sync returns only with everything on the disk", "it does not promise POWER_SAFE"),
        Outcome("sync does something", "it does not promise POWER_SAFE"),
    ),
    seconds=1.25,
)


def test_the_report_counts_and_tells_what_failed_and_what_was_skipped() -> None:
    assert render(FAILING, verbose=False).splitlines() == [
        "mine, from vendor 1.5, API version 1, promises DURABLE, CRASH_SAFE",
        "2 passed, 1 failed, 2 skipped in 1.2 s",
        "",
        "failed:",
        "  an empty backend is not falsy",
        "      assert spool.open()",
        "",
        "skipped:",
        "    2  it does not promise POWER_SAFE",
    ]


def test_the_long_report_names_every_test() -> None:
    lines = render(FAILING, verbose=True).splitlines()
    assert "  the largest record passes" in lines
    assert "  sync does something: it does not promise POWER_SAFE" in lines


@pytest.mark.slow
def test_a_backend_that_keeps_the_contract_is_fine(tmp_path: Path, capsys: Captured) -> None:
    with installed(tmp_path, SOUND):
        assert main(["check", "mine"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.startswith("mine, from vendor 1.5, API version 1, promises DURABLE\n")
    assert " 0 failed, " in said.out


@pytest.mark.slow
def test_a_backend_that_does_not_is_an_error_and_the_json_names_the_test(
    tmp_path: Path, capsys: Captured
) -> None:
    with installed(tmp_path, UNSOUND):
        assert main(["check", "mine", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    kinds = {name: type(value) for name, value in report.items()}
    assert kinds == {
        "backend": str,
        "distribution": str,
        "version": str,
        "capabilities": list,
        "api_version": int,
        "passed": list,
        "failed": list,
        "skipped": list,
        "seconds": float,
    }
    for outcome in [*report["passed"], *report["failed"], *report["skipped"]]:
        assert {name: type(value) for name, value in outcome.items()} == {
            "test": str,
            "reason": str,
        }
    assert [outcome["test"] for outcome in report["failed"]] == ["an empty backend is not falsy"]


def refusal(capsys: Captured, *args: str) -> str:
    """What `hq check` says when it cannot even begin."""
    assert main(["check", *args]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("hq: error: ")
    return said.err


def test_an_unknown_backend_is_refused_with_a_list_of_those_there_are(capsys: Captured) -> None:
    said = refusal(capsys, "nowhere")
    assert "no backend named 'nowhere'" in said
    assert "file" in said


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise KeyError('home')\n", "KeyError: 'home'"),
        ("import not_installed_anywhere\n", "No module named 'not_installed_anywhere'"),
        (SOUND.replace("    name", "    api_version = 2\n    name"), "for API version 2"),
    ],
)
def test_a_broken_plugin_is_refused_with_the_reason(
    tmp_path: Path, capsys: Captured, source: str, reason: str
) -> None:
    with installed(tmp_path, source):
        said = refusal(capsys, "mine")
    assert "backend 'mine' from vendor 1.5" in said
    assert reason in said


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ("colour=red", "its options: read_ahead"),
        ("colour", "KEY=VALUE"),
        ("read_ahead=1", "read_ahead must be 65536"),
    ],
)
def test_a_wrong_option_is_refused(capsys: Captured, pair: str, expected: str) -> None:
    assert expected in refusal(capsys, "file", "-o", pair)


@pytest.mark.parametrize("module", ["pytest", "hypothesis"])
def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, module: str
) -> None:
    for name in [name for name in sys.modules if name.startswith("hq_core.testing")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    said = refusal(capsys, "file")
    assert f"needs {module}: pip install 'hybrid-queue[testing]'" in said
