"""Random sequences of calls, compared with a model: a deque with a cursor."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from hq_core.capabilities import Capability
from hq_core.protocols import OverflowBackend
from hq_core.testing.spool import ANY_SIZE, Spool

__all__ = ["CountedMachine", "Model", "run_machine", "run_steps"]

_STEPS_A_RUN: Final = 50
_FEWEST_STEPS_A_RUN: Final = 40
"""Hypothesis ends some runs early; on average they are longer than this."""


class Model:
    """What a backend should hold."""

    def __init__(self, record_overhead: int) -> None:
        self._overhead = record_overhead
        self.unread: deque[bytes] = deque()
        self.read_not_trimmed: deque[bytes] = deque()

    def append(self, records: Sequence[bytes]) -> None:
        """`records` were appended."""
        self.unread.extend(records)

    def read(self, got: Sequence[bytes], max_records: int, max_bytes: int) -> None:
        """`got` was read: a run of the next records, within the limits, empty only if need be."""
        # One by one: pytest takes minutes to show how two lists of long records differ.
        for number, (record, wanted) in enumerate(zip(got, self.unread, strict=False), start=1):
            assert record == wanted, f"record {number} of {len(got)} is not the one that is next"
        assert len(got) <= min(max_records, len(self.unread))
        assert sum(map(len, got)) <= max_bytes
        assert got or not self.unread or len(self.unread[0]) > max_bytes, "there was one to give"
        for _ in got:
            self.read_not_trimmed.append(self.unread.popleft())

    def trim(self, count: int) -> None:
        """The oldest `count` records read were trimmed."""
        for _ in range(count):
            self.read_not_trimmed.popleft()

    def reopened(self) -> None:
        """A durable backend was closed and opened again: what was not trimmed comes once more."""
        self.unread.extendleft(reversed(self.read_not_trimmed))
        self.read_not_trimmed.clear()

    def check(self, backend: OverflowBackend) -> None:
        """`backend` says of itself what the model says."""
        held = [*self.read_not_trimmed, *self.unread]
        assert backend.depth() == len(self.unread)
        assert backend.size_bytes() == sum(map(len, held)) + len(held) * self._overhead

    def finish(self, backend: OverflowBackend) -> None:
        """Read and trim what is left; it is all there."""
        while self.unread:
            self.read(backend.read(1000, ANY_SIZE), 1000, ANY_SIZE)
        if self.read_not_trimmed:
            backend.trim(len(self.read_not_trimmed))
            self.trim(len(self.read_not_trimmed))
        self.check(backend)


_RECORDS = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([0, 1, 1316, 4096, 65_531, 65_532, 65_533, 140_000]).map(lambda n: b"\xa5" * n),
)
_LIMITS = st.one_of(st.just(ANY_SIZE), st.integers(0, 70_000))


class CountedMachine(RuleBasedStateMachine):
    """A state machine whose steps `run_machine` counts."""

    count: Callable[[], None]

    @invariant()
    def is_counted(self) -> None:
        self.count()


class _LogMachine(CountedMachine):
    """Every call in any order; reopening as well, if that is promised."""

    def __init__(self, spool: Spool, durable: bool) -> None:
        super().__init__()
        self.spool = spool
        self.durable = durable
        self.backend = self.spool.open()
        self.model = Model(self.backend.record_overhead)

    @rule(records=st.lists(_RECORDS, min_size=1, max_size=5))
    def append(self, records: list[bytes]) -> None:
        self.backend.append(records)
        self.model.append(records)

    @rule(max_records=st.integers(1, 8), max_bytes=_LIMITS)
    def read(self, max_records: int, max_bytes: int) -> None:
        got = self.backend.read(max_records, max_bytes)
        self.model.read(got, max_records, max_bytes)

    @precondition(lambda self: self.model.read_not_trimmed)
    @rule(data=st.data())
    def trim(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, len(self.model.read_not_trimmed)))
        self.backend.trim(count)
        self.model.trim(count)

    @rule()
    def sync(self) -> None:
        self.backend.sync()

    @precondition(lambda self: self.durable)
    @rule()
    def reopen(self) -> None:
        self.backend = self.spool.reopen(self.backend)
        self.model.reopened()
        assert self.backend.recovered.records == len(self.model.unread)

    @invariant()
    def says_what_the_model_says(self) -> None:
        self.model.check(self.backend)

    def teardown(self) -> None:
        try:
            self.model.finish(self.backend)
        finally:
            self.spool.close(self.backend, delete=True)


def run_machine(machine: Callable[[], CountedMachine], steps: int) -> int:
    """Let machines made by `machine` take at least `steps` random steps; how many they were.

    The same steps every time. A failure is shrunk to the shortest sequence that shows it.
    """
    taken = 0

    def count() -> None:
        nonlocal taken
        taken += 1

    def counted() -> CountedMachine:
        made = machine()
        made.count = count
        return made

    run_state_machine_as_test(
        counted,  # type: ignore[arg-type] # a function will do, says its documentation
        settings=settings(
            max_examples=-(-steps // _FEWEST_STEPS_A_RUN),
            stateful_step_count=_STEPS_A_RUN,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
    return taken


def run_steps(spool: Spool, steps: int) -> int:
    """Let the backend of `spool` take at least `steps` random steps; how many they were."""
    backend = spool.open()
    durable = Capability.DURABLE in backend.capabilities
    spool.close(backend, delete=True)
    return run_machine(lambda: _LogMachine(spool, durable), steps)
