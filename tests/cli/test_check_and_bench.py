"""``hq check`` and ``hq bench``: a backend judged and measured without a line of code."""

import json
from pathlib import Path

import pytest

from hq_core.errors import CorruptedData
from hq_core.protocols import Stream
from hq_core.testing import MemoryBackend
from hq_core.testing.bench import measure
from tests.cli.running import hq


@pytest.mark.slow
def test_a_backend_that_keeps_the_contract_is_told_so() -> None:
    done = hq("check", "file")
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    assert "file, from hybrid-queue" in text
    assert " 0 failed" in text
    assert "it does not promise DURABLE" in text


@pytest.mark.slow
def test_the_report_is_json_if_wanted(tmp_path: Path) -> None:
    done = hq("check", "file", "--json", "-o", "read_ahead=128K")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["backend"], report["failed"]) == ("file", [])
    assert len(report["passed"]) > 50
    assert {"test", "reason"} == set(report["skipped"][0])


@pytest.mark.parametrize("command", ["check", "bench"])
def test_an_unknown_backend_or_option_is_an_error_that_says_what_there_is(command: str) -> None:
    unknown = hq(command, "nope")
    assert unknown.returncode == 1
    assert b"no backend named 'nope'" in unknown.stderr
    wrong = hq(command, "file", "-o", "fsnc=1")
    assert wrong.returncode == 1
    assert b"has no option 'fsnc'; its options: read_ahead" in wrong.stderr


@pytest.mark.slow
def test_bench_gives_every_figure_with_its_share_of_raw_calls() -> None:
    done = hq("bench", "file", "--json", "--seconds", "0.5")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["figures"]
    assert {figure["size"] for figure in figures} == {128, 1316, 65_536}
    assert {figure["phase"] for figure in figures} == {"append", "append batch", "read + trim"}
    assert all(figure["items_per_second"] > 0 and figure["ratio"] > 0 for figure in figures)


@pytest.mark.slow
def test_bench_refuses_to_measure_a_backend_that_returns_something_else() -> None:
    class Wrong(MemoryBackend):
        def read(self, max_records: int, max_bytes: int) -> list[bytes]:
            return [b"x" * len(record) for record in super().read(max_records, max_bytes)]

    def wrong(stream: Stream) -> MemoryBackend:
        return Wrong(stream)

    with pytest.raises(CorruptedData):
        measure(wrong, seconds=0.2)
