"""The fakes do on order what no backend does of itself."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hq_core.errors import BackendUnavailable, HybridQueueError, StreamLostError
from hq_core.protocols import OverflowBackend
from hq_core.spool.directory import Directory
from hq_core.stats import Damage
from hq_core.testing import FaultyBackend, MemoryBackend, RemoteBackend
from hq_core.testing.spool import ANY_SIZE, read_all

CALLS: list[Callable[[OverflowBackend], object]] = [
    lambda backend: backend.append([b"x"]),
    lambda backend: backend.read(0, 1, ANY_SIZE),
    lambda backend: backend.trim(1),
    lambda backend: backend.sync(),
]


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    with Directory(tmp_path) as directory:
        yield directory


def test_a_store_that_is_away_refuses_every_call_until_it_comes_back(directory: Directory) -> None:
    ready: list[str] = []
    stream = directory.stream("s", on_ready=lambda: ready.append("ready"))
    backend = RemoteBackend(MemoryBackend(stream), stream)
    backend.append([b"one", b"two"])
    backend.go_away()
    for call in CALLS:
        with pytest.raises(BackendUnavailable):
            call(backend)
    assert (backend.depth(), backend.size_bytes(), backend.cost([b""])) == (2, 14, 4)
    assert ready == []
    backend.come_back()
    assert ready == ["ready"]
    assert read_all(backend) == [b"one", b"two"]


def test_a_lost_stream_refuses_every_call_and_its_records_stay(directory: Directory) -> None:
    lost: list[HybridQueueError] = []
    stream = directory.stream("s", on_lost=lost.append)
    backend = RemoteBackend(MemoryBackend(stream), stream)
    backend.append([b"one"])
    backend.lose()
    for call in CALLS:
        with pytest.raises(StreamLostError):
            call(backend)
    assert [type(exc) for exc in lost] == [StreamLostError]
    backend.close(delete=True)
    assert read_all(MemoryBackend(stream)) == [b"one"], "the other owner's, untouched"


def test_a_faulty_backend_asks_before_each_call_and_does_nothing_if_it_is_to_fail(
    directory: Directory,
) -> None:
    asked: list[tuple[str, int]] = []

    def fault(method: str, number: int) -> Exception | None:
        asked.append((method, number))
        return OSError(5, "on purpose") if number == 2 else None

    backend = FaultyBackend(MemoryBackend(directory.stream("s")), fault)
    backend.append([b"one"])
    with pytest.raises(OSError, match="on purpose"):
        backend.append([b"two"])
    assert backend.read(0, 9, ANY_SIZE) == [b"one"]
    backend.trim(1)
    assert asked == [("append", 1), ("append", 2), ("read", 3), ("trim", 4)]


def test_what_the_reference_sets_aside_is_read_back_as_far_as_it_is_whole(
    directory: Directory,
) -> None:
    kept = MemoryBackend(directory.stream("s"))
    kept.append([b"one", b"two"])
    kept.close(delete=False)
    aside = MemoryBackend(directory.stream("s", leftover="quarantine")).recovered.quarantine
    assert isinstance(aside, Path)
    aside.write_bytes(aside.read_bytes()[:-1])
    assert list(MemoryBackend.tools.salvage(aside)) == [b"one", Damage(7, 6, "cut short")]
