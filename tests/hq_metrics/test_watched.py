"""Which queues are told of, and by which labels."""

from pathlib import Path

import pytest

from hq_core import HybridQueue, InlinePump
from hq_core.testing.forking import in_child
from hq_metrics.watched import Watched


def watched(metrics: Watched) -> list[dict[str, str]]:
    return [labels for labels, _ in metrics.snapshots()]


def test_queues_come_and_go(tmp_path: Path) -> None:
    with HybridQueue("a", 1, tmp_path) as a, HybridQueue("b", 1, tmp_path) as b:
        metrics = Watched(a)
        metrics.add(b)
        assert watched(metrics) == [
            {"stream": "a", "backend": "file"},
            {"stream": "b", "backend": "file"},
        ]
        metrics.add(b)
        metrics.remove(a)
        metrics.remove(a)
        assert watched(metrics) == [{"stream": "b", "backend": "file"}]


def test_two_queues_that_nobody_could_tell_apart_are_refused(tmp_path: Path) -> None:
    with (
        HybridQueue("a", 1, tmp_path / "one") as one,
        HybridQueue("a", 1, tmp_path / "two") as two,
    ):
        metrics = Watched(one)
        with pytest.raises(ValueError, match="stream 'a' and backend 'file' is watched already"):
            metrics.add(two)
        metrics.remove(two)
        assert len(watched(metrics)) == 1
        metrics.remove(one)
        metrics.add(two)
        with pytest.raises(ValueError, match="remove it first"):
            Watched(one, two)


def test_a_closed_queue_keeps_its_last_numbers(tmp_path: Path) -> None:
    with HybridQueue("a", 1, tmp_path) as queue:
        metrics = Watched(queue)
        queue.enqueue(b"1")
    ((_, stats),) = metrics.snapshots()
    assert (stats.depth, stats.enqueued, stats.discarded) == (0, 1, 1)


def test_a_forked_child_leaves_it_to_its_parent_to_tell(tmp_path: Path) -> None:
    with HybridQueue("a", 1, tmp_path, pump=InlinePump()) as queue:
        metrics = Watched(queue)

        def child() -> None:
            assert watched(metrics) == []

        in_child(child)
        assert len(watched(metrics)) == 1


def test_an_id_that_utf8_cannot_spell_is_a_label_all_the_same(tmp_path: Path) -> None:
    with HybridQueue("cam\udce9", 1, tmp_path) as queue:
        assert watched(Watched(queue)) == [{"stream": "cam\\udce9", "backend": "file"}]
