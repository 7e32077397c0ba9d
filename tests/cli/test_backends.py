import pytest

from hq_cli.backends import table
from hq_cli.main import main
from hq_core import Capability
from hq_core.registry import InstalledBackend, load


def test_the_table_says_what_is_promised_and_where_it_comes_from(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["backends"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["NAME", "PROMISES", "FROM"]
    row = next(row for row in rows if row.startswith("file "))
    for capability in Capability:
        assert (str(capability.name) in row) == (capability in load("file").capabilities)
    assert "hybrid-queue " in row


def test_a_backend_that_promises_nothing_says_so_and_a_broken_one_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = load("file")
    monkeypatch.setattr(file, "capabilities", Capability.NONE)
    backends = [
        InstalledBackend("broken", "elsewhere 1.2", None, "it needs an extra: pip install 'x[y]'"),
        InstalledBackend("file", "hybrid-queue 0.1.0", file, ""),
    ]
    assert table(backends).splitlines() == [
        "NAME    PROMISES    FROM",
        "broken  not usable  elsewhere 1.2",
        "        it needs an extra: pip install 'x[y]'",
        "file    nothing     hybrid-queue 0.1.0",
    ]
