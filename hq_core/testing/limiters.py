"""The suite of limiters."""

import itertools
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Final

import pytest

from hq_core.errors import RateLimited
from hq_core.protocols import Limiter
from hq_core.testing.parts import made, no_time, queue_with
from hq_core.testing.spool import balanced, drain, numbered

__all__ = ["LimiterConformance"]

_YEARS: Final = 1e9
"""A moment so late that any limiter has recovered."""
_LONGEST_BATCH: Final = 1_000_000
"""A batch of more items is not made: that would take too long."""


class LimiterConformance:
    """Inherit in a test module and set `limiter`."""

    limiter: ClassVar[Callable[[], Limiter]]
    """Makes a limiter that has admitted nothing yet."""

    def test_it_has_what_the_seam_demands(self) -> None:
        limiter = _limiter(self)
        assert isinstance(limiter, Limiter)
        assert limiter.burst is None or (isinstance(limiter.burst, int) and limiter.burst >= 1)

    def test_it_answers_true_or_false(self) -> None:
        limiter = _limiter(self)
        assert {type(limiter.admit(n, now)) for n in (1, 7, 10**9) for now in (0.0, 1.0)} == {bool}

    def test_the_burst_stays_the_same(self) -> None:
        limiter = _limiter(self)
        burst = limiter.burst
        _singles(limiter, 0.0)
        assert limiter.burst == burst

    def test_a_call_can_get_as_many_tokens_as_the_burst(self) -> None:
        limiter = _limiter(self)
        burst = 10**9 if limiter.burst is None else limiter.burst
        _singles(limiter, 0.0)
        assert limiter.admit(burst, _YEARS)
        assert limiter.admit(burst, 2 * _YEARS)

    def test_no_call_ever_gets_more_tokens_than_the_burst(self) -> None:
        limiter = _limiter(self)
        if limiter.burst is None:
            pytest.skip("it has no burst")
        for now in (0.0, 0.001, 1.0, 1000.0, _YEARS, 2 * _YEARS):
            for more in (1, 2, limiter.burst, 10**9):
                assert not limiter.admit(limiter.burst + more, now)

    def test_what_is_refused_takes_no_token(self) -> None:
        """All at one moment: the refusals in between make no difference to what is admitted."""
        asked, spared = _limiter(self), _limiter(self)
        most = asked.burst or 100
        for tokens in (1, most, most + 1, most, 1, max(1, most // 2), most, 10**9):
            if asked.admit(tokens, 0.0):
                assert spared.admit(tokens, 0.0)
        assert _singles(asked, 0.0) == _singles(spared, 0.0)

    def test_where_the_clock_starts_does_not_matter(self) -> None:
        starts = (-_YEARS, 0.0, 1.5, _YEARS)
        assert len({_singles(_limiter(self), start) for start in starts}) == 1

    def test_two_of_them_share_nothing(self) -> None:
        first, second, third = (_limiter(self) for _ in range(3))
        expected = _singles(third, 0.0)
        _singles(first, 0.0)
        assert _singles(second, 0.0) == expected

    def test_it_never_sleeps_and_reads_no_clock(self) -> None:
        limiter = _limiter(self)
        with no_time():
            _singles(limiter, 0.0)
            limiter.admit(1, 1.0)

    def test_a_queue_takes_what_is_admitted_and_counts_what_is_not(self, tmp_path: Path) -> None:
        with queue_with(tmp_path, memory_items=5, limiter=_limiter(self)) as queue:
            accepted = []
            for item in numbered(300):
                with suppress(RateLimited):
                    queue.enqueue(item)
                    accepted.append(item)
            stats = queue.stats()
            assert (stats.enqueued, stats.rate_limited) == (len(accepted), 300 - len(accepted))
            assert drain(queue) == accepted
            balanced(queue)

    def test_a_queue_refuses_a_batch_larger_than_the_burst_as_a_whole(self, tmp_path: Path) -> None:
        limiter = _limiter(self)
        if limiter.burst is None or limiter.burst >= _LONGEST_BATCH:
            pytest.skip("no batch is larger than its burst")
        with queue_with(tmp_path, memory_items=5, limiter=limiter) as queue:
            with pytest.raises(RateLimited):
                queue.enqueue_many([b""] * (limiter.burst + 1))
            assert (queue.depth, queue.stats().rate_limited) == (0, limiter.burst + 1)


def _limiter(suite: LimiterConformance) -> Limiter:
    limiter: Limiter = made(suite, "limiter")
    return limiter


def _singles(limiter: Limiter, now: float) -> int:
    """How many single tokens `limiter` gives at `now`, up to 20,000."""
    return sum(1 for _ in itertools.takewhile(lambda _: limiter.admit(1, now), range(20_000)))
