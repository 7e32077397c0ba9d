"""The benchmark measures what it says, on whatever it is given; how fast is nobody's assertion."""

from pathlib import Path

import pytest
from typing_extensions import override

from hq_core import CorruptedData, Stream
from hq_core.testing import MemoryBackend
from hq_core.testing.bench import Measurement, measure


class Swapping(MemoryBackend):
    """Gives the records of a batch in the wrong order."""

    @override
    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        """Backwards."""
        return super().read(skip, max_records, max_bytes)[::-1]


def quickly(directory: Path) -> Measurement:
    return measure(MemoryBackend, directory=directory, sizes=(8, 1316), repeats=3, seconds=0.001)


def test_there_is_a_figure_for_every_size_and_phase(tmp_path: Path) -> None:
    found = quickly(tmp_path)
    assert [(figure.size, figure.phase) for figure in found.figures] == [
        (size, phase) for size in (8, 1316) for phase in ("append", "append batch", "read + trim")
    ]
    assert (found.backend, found.repeats) == ("memory", 3)


def test_the_figures_of_a_row_agree(tmp_path: Path) -> None:
    for figure in quickly(tmp_path).figures:
        rate = figure.items_per_second
        assert figure.mb_per_second == pytest.approx(rate * figure.size / 1e6)
        assert figure.ratio == pytest.approx(rate / figure.raw_items_per_second)
        assert figure.cpu_us >= 0


def test_what_comes_back_in_another_order_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(CorruptedData, match="not in that order"):
        measure(Swapping, directory=tmp_path, seconds=0.001)


def test_a_function_with_options_will_do_as_well(tmp_path: Path) -> None:
    given: list[int] = []

    def factory(stream: Stream, *, size: int = 1) -> MemoryBackend:
        given.append(size)
        return MemoryBackend(stream)

    measure(factory, options={"size": 7}, directory=tmp_path, sizes=(8,), seconds=0.001)
    assert given == [7]


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    quickly(tmp_path)
    assert list(tmp_path.iterdir()) == []
