"""The suite run by name: what the report says, and what the surroundings cannot change."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hq_core import API_VERSION, PluginError
from hq_core.testing.check import Report, check
from tests.installing import SOUND, UNSOUND, installed

pytestmark = pytest.mark.slow

HOSTILE = {
    "conftest.py": "raise RuntimeError('the conftest of the current directory')",
    "pytest.ini": "[pytest]\naddopts = --no-such-option\n",
    "pyproject.toml": "[tool.pytest.ini_options]\naddopts = '--no-such-option'\n",
}

MODEST = SOUND.replace(
    '    name = "mine"',
    """    name = "mine"
    def __init__(self, stream, *, keep: bool = True):
        super().__init__(stream)
        if not keep:
            self.capabilities = Capability.NONE
""",
).replace("from hq_core", "from hq_core.capabilities import Capability\nfrom hq_core", 1)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A current directory, and an environment, that would break any pytest run."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, text in HOSTILE.items():
        (folder / name).write_text(text)
    with pytest.MonkeyPatch.context() as surroundings:
        surroundings.chdir(folder)
        surroundings.setenv("PYTEST_ADDOPTS", "--no-such-option")
        surroundings.setenv("PYTEST_PLUGINS", "no_such_plugin")
        yield folder


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, hostile: Path) -> Report:
    with installed(tmp_path_factory.mktemp("site"), UNSOUND):
        return check("mine")


def test_it_says_what_was_checked(report: Report) -> None:
    assert (report.backend, report.distribution, report.version) == ("mine", "vendor", "1.5")
    assert (report.capabilities, report.api_version) == (("DURABLE",), API_VERSION)
    assert report.seconds > 0


def test_what_failed_is_named_by_its_sentence_with_the_reason(report: Report) -> None:
    assert [outcome.test for outcome in report.failed] == ["an empty backend is not falsy"]
    assert "assert" in report.failed[0].reason
    assert "\n" not in report.failed[0].reason


def test_what_is_not_promised_is_skipped_and_the_reason_says_so(report: Report) -> None:
    reasons = {outcome.reason for outcome in report.skipped}
    assert {"it does not promise CRASH_SAFE", "it does not promise POWER_SAFE"} <= reasons
    assert "it does not promise DURABLE" not in reasons


def test_what_passed_is_listed_with_the_values_it_ran_for(report: Report) -> None:
    tests = [outcome.test for outcome in report.passed]
    assert "what was kept at close is there in order" in tests
    assert "records of one size follow one another [4096]" in tests
    assert {outcome.reason for outcome in report.passed} == {""}


def test_the_surroundings_change_nothing_and_nothing_is_left_in_them(
    report: Report, hostile: Path
) -> None:
    assert len(report.passed) > 50
    assert {path.name for path in hostile.iterdir()} == set(HOSTILE)


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with installed(tmp_path, SOUND):
        assert check("mine").failed == ()
    assert capfd.readouterr() == ("", "")


def test_two_backends_in_a_row_are_two_backends(tmp_path: Path) -> None:
    with installed(tmp_path / "1", UNSOUND):
        assert len(check("mine").failed) == 1
    with installed(tmp_path / "2", SOUND):
        assert check("mine").failed == ()


def test_options_reach_the_backend_and_the_report_says_what_it_promises_with_them(
    tmp_path: Path,
) -> None:
    with installed(tmp_path, MODEST):
        report = check("mine", {"keep": False})
    assert report.capabilities == ()
    assert "it does not promise DURABLE" in {outcome.reason for outcome in report.skipped}


def test_what_cannot_be_opened_is_not_checked() -> None:
    with pytest.raises(ValueError, match="read_ahead must be 65536 to"):
        check("file", {"read_ahead": 1})


def test_what_cannot_be_checked_is_refused_as_by_the_queue() -> None:
    with pytest.raises(PluginError, match="no backend named 'nowhere'"):
        check("nowhere")
    with pytest.raises(ValueError, match="its options: read_ahead"):
        check("file", {"colour": "red"})
