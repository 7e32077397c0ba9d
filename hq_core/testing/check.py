"""The suite, run on an installed backend by name: nobody has to write a test module for it.

pytest runs in this process, on three lines written to a temporary directory. Nothing of the
current directory takes part: no configuration, no conftest, no plugin that happens to be
installed.
"""

import contextlib
import io
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

import hypothesis  # noqa: F401 - the suite needs it: better missed here than amid a run
import pytest

from hq_core.capabilities import Capability
from hq_core.hookspecs import ENTRY_POINT_GROUP
from hq_core.registry import load, open_backend
from hq_core.spool.directory import Directory

__all__ = ["Outcome", "Report", "check"]

_MODULE: Final = "hq_checked_backend"
_SOURCE: Final = """\
from hq_core.registry import load
from hq_core.testing import BackendConformance


class TestBackend(BackendConformance):
    backend = load({name!r})
    options = {options!r}
"""
_ISOLATED: Final = {
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "PYTEST_ADDOPTS": "",
    "PYTEST_PLUGINS": "",
}
_LONGEST_REASON: Final = 300


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one test ended."""

    test: str
    """The sentence of the contract; where a test runs for several values, the value in brackets."""
    reason: str = ""
    """Why it failed or was skipped, in a line; empty if it passed."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the suite found out about a backend."""

    backend: str
    """The name it was loaded by."""
    distribution: str
    """The distribution it comes from; empty if it comes from none."""
    version: str
    """That distribution's version."""
    capabilities: tuple[str, ...]
    """The names of the promises it makes, opened with these options."""
    api_version: int
    """The version of the seam it was written for."""
    passed: tuple[Outcome, ...]
    """In the order they ran, as are the others."""
    failed: tuple[Outcome, ...]
    """Empty: the backend keeps the contract."""
    skipped: tuple[Outcome, ...]
    """Mostly: what it does not promise."""
    seconds: float
    """Wall time of the run."""


def check(name: str, options: Mapping[str, object] | None = None) -> Report:
    """Run `BackendConformance` on the installed backend `name`, opened with `options`.

    The options' values are texts, numbers and truth values. Raises `PluginError` if there is no
    usable backend of that name, what `open_backend` raises if it cannot be opened with `options`,
    `RuntimeError` if pytest itself failed.
    """
    backend = load(name)
    given = dict(options or {})
    outcomes = _Outcomes()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hq-check-") as folder:
        with Directory(Path(folder)) as directory:
            opened = open_backend(backend, directory.stream("check"), given)
            opened.close(delete=True)
        _run(Path(folder), _SOURCE.format(name=name, options=given), outcomes)
    (entry,) = entry_points(group=ENTRY_POINT_GROUP, name=name)
    return Report(
        backend=name,
        distribution=entry.dist.name if entry.dist else "",
        version=entry.dist.version if entry.dist else "",
        capabilities=tuple(str(c.name) for c in Capability if c in opened.capabilities),
        api_version=backend.api_version,
        passed=tuple(outcomes.passed),
        failed=tuple(outcomes.failed),
        skipped=tuple(outcomes.skipped),
        seconds=time.monotonic() - start,
    )


@dataclass
class _Outcomes:
    """A pytest plugin that notes how every test ended."""

    passed: list[Outcome] = field(default_factory=list)
    failed: list[Outcome] = field(default_factory=list)
    skipped: list[Outcome] = field(default_factory=list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test = _sentence(report.nodeid)
        if report.failed:
            where = "" if report.when == "call" else f"at {report.when}: "
            self.failed.append(Outcome(test, where + _why_failed(report)))
        elif report.skipped:
            self.skipped.append(Outcome(test, _why_skipped(report)))
        elif report.when == "call":
            self.passed.append(Outcome(test))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed.append(Outcome("the suite can be collected", report.longreprtext))


def _run(folder: Path, source: str, outcomes: _Outcomes) -> None:
    module = folder / f"{_MODULE}.py"
    module.write_text(source)
    configuration = folder / "pytest.ini"
    configuration.write_text("[pytest]\n")
    arguments = [
        *("-c", configuration, "--rootdir", folder, "--noconftest", "--import-mode=importlib"),
        *("--basetemp", folder / "work", "-p", "no:cacheprovider", "-p", "no:faulthandler"),
        *("--strict-markers", "--strict-config", "-W", "error", module),
    ]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), _isolated():
        status = pytest.main([str(argument) for argument in arguments], [outcomes])
    if status == pytest.ExitCode.INTERRUPTED and not outcomes.failed:
        raise KeyboardInterrupt
    if status != pytest.ExitCode.OK and not outcomes.failed:
        raise RuntimeError(f"pytest ended with status {status}:\n{said.getvalue()}")


@contextlib.contextmanager
def _isolated() -> Iterator[None]:
    """Hide from pytest what the environment says to it, and forget the module afterwards."""
    before = {name: os.environ.get(name) for name in _ISOLATED}
    os.environ.update(_ISOLATED)
    try:
        yield
    finally:
        sys.modules.pop(_MODULE, None)  # the next run's has the same name
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _sentence(node: str) -> str:
    name, bracket, value = node.rpartition("::")[2].partition("[")
    return name.removeprefix("test_").replace("_", " ") + bracket.replace("[", " [") + value


def _why_skipped(report: pytest.TestReport) -> str:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
    return reason.removeprefix("Skipped: ")


def _why_failed(report: pytest.TestReport) -> str:
    """The failing statement and the exception's message, in a line."""
    text = report.longreprtext
    statements = re.findall(r"^>\s+(.*)$", text, re.MULTILINE)
    messages = re.findall(r"^E\s+(.*)$", text, re.MULTILINE)
    parts = [*statements[-1:], *messages[:1]] or [text.strip().rpartition("\n")[2]]
    reason = ": ".join(dict.fromkeys(part for part in parts if part != "AssertionError"))
    return reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}..."
