"""The README's figures, as far as they hold on any machine."""

from pathlib import Path

import pytest

from benchmarks import promises

MIB = 1024 * 1024


@pytest.mark.slow
@pytest.mark.parametrize("memory_items", [1, 10, 1000])
def test_200_000_items_pass_between_two_threads_in_order(tmp_path: Path, memory_items: int) -> None:
    assert promises.side_by_side(tmp_path, memory_items, 200_000).inversions == 0


@pytest.mark.slow
@pytest.mark.parametrize("memory_items", [1, 1000])
def test_a_backlog_drains_in_order(tmp_path: Path, memory_items: int) -> None:
    run = promises.drain(tmp_path, memory_items, 20_000)
    assert run.inversions == 0
    assert run.spilled >= 19_000


@pytest.mark.slow
def test_ten_cycles_of_overflow_leave_the_file_near_zero(tmp_path: Path) -> None:
    assert max(promises.cycles(tmp_path, 10, 2000)) <= 64 * 1024


@pytest.mark.slow
def test_a_gibibyte_through_a_small_backlog_stays_under_64_mebibytes(tmp_path: Path) -> None:
    most = promises.constant_backlog(tmp_path, 2_600_000, 1024 * MIB)
    assert 2 * MIB < most < 64 * MIB
