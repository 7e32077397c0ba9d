"""What was written for API version 1 works, unchanged."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from hq_core import Capability, HybridQueue, PluginError, registry
from hq_core.testing import BackendConformance
from tests.compat import api_version_1
from tests.installing import Site, site_in

FROZEN = "a0cf76a1cd3e2470e3cb4317b0521d280c1485d1275d7376feae3ed8609508ee"

MODULE = api_version_1.__name__


@pytest.mark.slow
class TestShelf(BackendConformance):
    backend = api_version_1.Shelf

    @staticmethod
    def damage(shelf: api_version_1.Shelf, number: int) -> None:
        name, size = shelf._log[number]
        with open(name, "r+b", opener=shelf._open) as file:
            file.truncate(size - 1)


class ShelfOfAnotherVersion(api_version_1.Shelf):
    """Written for a version that this library does not accept."""

    api_version: ClassVar[int] = 2


def test_the_frozen_backend_is_frozen() -> None:
    source = Path(api_version_1.__file__).read_bytes()
    assert hashlib.sha256(source).hexdigest() == FROZEN


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with site_in(tmp_path / "site") as site:
        site.register("vendor", "shelf-1", MODULE, version="1.5")
        yield site


@pytest.mark.usefixtures("site")
def test_the_registry_accepts_it() -> None:
    assert registry.load("shelf-1") is api_version_1.Shelf
    found = next(found for found in registry.installed() if found.name == "shelf-1")
    assert (found.distribution, found.error) == ("vendor 1.5", "")
    assert list(registry.options(api_version_1.Shelf)) == ["first"]


@pytest.mark.usefixtures("site")
def test_a_queue_takes_it_by_name_with_its_option_and_its_promise(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    for expected in ([], [b"one", b"two"]):
        with HybridQueue(
            "s", 1, spool, backend="shelf-1", backend_options={"first": 7}, durable=True
        ) as queue:
            assert [queue.dequeue() for _ in expected] == expected
            queue.enqueue_many([b"one", b"two"])
    assert sorted(path.name for path in spool.rglob("0*")) == [f"{n:020}" for n in (9, 10)]


def test_a_class_of_another_version_is_refused_by_the_queue(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="is written for API version 2, this hybrid-queue has 1"):
        HybridQueue("s", 1, tmp_path, backend=ShelfOfAnotherVersion)


@pytest.mark.usefixtures("site")
def test_a_class_of_another_version_is_refused_by_the_registry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(api_version_1.Shelf, "api_version", 2)
    wrong = r"'shelf-1' from vendor 1\.5 is written for API version 2"
    with pytest.raises(PluginError, match=wrong):
        registry.load("shelf-1")


def test_its_promises_are_those_of_the_version() -> None:
    assert [c.name for c in Capability] == ["DURABLE", "CRASH_SAFE", "POWER_SAFE", "SHARED"]
