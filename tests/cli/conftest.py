import tempfile
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def temporary_place(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Where pipes make their temporary directories: not where other tests have theirs."""
    place = tmp_path_factory.mktemp("temporary")
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", None)  # what it remembers
    return place
