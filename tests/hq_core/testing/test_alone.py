"""The suite in the hands of a stranger: no conftest, no configuration, warnings are errors."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hq_sqlite import SqliteBackend

from hq_backends.file import FileBackend
from hq_backends.lmdb import LmdbBackend
from hq_core.testing import MemoryBackend, run_steps
from hq_core.testing.spool import Spool

THREE_LINES = """
from hq_core.testing import BackendConformance, MemoryBackend
class TestMine(BackendConformance):
    backend = MemoryBackend
"""


def run(directory: Path, code: str) -> subprocess.CompletedProcess[str]:
    (directory / "test_mine.py").write_text(code)
    options = ["-W", "error", "--strict-markers", "-rs", "-p", "no:cacheprovider", "-q"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--rootdir", directory, "test_mine.py"],
        cwd=directory,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_three_lines_are_a_test_module(tmp_path: Path) -> None:
    done = run(tmp_path, THREE_LINES)
    assert done.returncode == 0, done.stdout
    assert re.search(r"\d\d+ passed", done.stdout)
    assert "it does not promise CRASH_SAFE" in done.stdout, "what was skipped is told, and why"
    left = {path.name for path in tmp_path.iterdir()} - {"__pycache__", ".hypothesis"}
    assert left == {"test_mine.py"}


@pytest.mark.slow
def test_a_function_serves_as_the_backend_and_options_reach_it(tmp_path: Path) -> None:
    code = THREE_LINES.replace("backend = MemoryBackend", "backend = make")
    code = code.replace("    backend", "    options = {'mark': 5}\n    backend")
    code = (
        "def make(stream, *, mark):\n    assert mark == 5\n    return MemoryBackend(stream)\n"
        + code
    )
    done = run(tmp_path, code)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("backend", [MemoryBackend, FileBackend, LmdbBackend, SqliteBackend])
def test_100_000_random_steps_behave_as_the_model(tmp_path: Path, backend: type) -> None:
    assert run_steps(Spool(backend, {}, tmp_path), steps=100_000) >= 100_000
