"""Random sequences of calls, compared with a model: a deque."""

from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
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

__all__ = ["CountedMachine", "Model", "append_to_both", "run_machine", "run_steps"]

_STEPS_A_RUN: Final = 50
_FEWEST_STEPS_A_RUN: Final = 40
"""Hypothesis ends some runs early; on average they are longer than this."""


class Model:
    """What a backend should hold."""

    def __init__(self) -> None:
        self.records: deque[bytes] = deque()
        self._costs: deque[int] = deque()

    def append(self, records: Sequence[bytes], costs: Sequence[int]) -> None:
        """`records` were appended, of which the backend has said that they cost `costs`."""
        self.records.extend(records)
        self._costs.extend(costs)

    def read(self, got: Sequence[bytes], skip: int, max_records: int, max_bytes: int) -> None:
        """`got` was read: a run of records, within the limits, empty only if need be."""
        there = list(islice(self.records, skip, skip + max_records))
        # One by one: pytest takes minutes to show how two lists of long records differ.
        for number, (record, wanted) in enumerate(zip(got, there, strict=False), start=1):
            assert record == wanted, f"record {number} of {len(got)} is not the one that is there"
        assert len(got) <= len(there)
        assert sum(map(len, got)) <= max_bytes
        assert got or not there or len(there[0]) > max_bytes, "there was one to give"

    def trim(self, count: int) -> None:
        """The oldest `count` records were trimmed."""
        for _ in range(count):
            self.records.popleft()
            self._costs.popleft()

    def check(self, backend: OverflowBackend) -> None:
        """`backend` says of itself what the model says."""
        assert backend.depth() == len(self.records)
        assert backend.size_bytes() == sum(self._costs)

    def finish(self, backend: OverflowBackend) -> None:
        """Read and trim what is left; it is all there."""
        while self.records:
            got = backend.read(0, 1000, ANY_SIZE)
            self.read(got, 0, 1000, ANY_SIZE)
            backend.trim(len(got))
            self.trim(len(got))
        self.check(backend)


def append_to_both(backend: OverflowBackend, model: Model, records: Sequence[bytes]) -> None:
    """Append `records`, which cost what the backend has said."""
    costs = [backend.cost([record]) for record in records]
    assert backend.cost(records) == sum(costs), "together they cost what they cost one by one"
    backend.append(records)
    model.append(records, costs)


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
        self.model = Model()
        self.next = 0  # where the last call of `read` ended

    @rule(records=st.lists(_RECORDS, min_size=1, max_size=5))
    def append(self, records: list[bytes]) -> None:
        append_to_both(self.backend, self.model, records)

    @rule(data=st.data(), max_records=st.integers(1, 8), max_bytes=_LIMITS)
    def read_anywhere(self, data: st.DataObject, max_records: int, max_bytes: int) -> None:
        self._read(data.draw(st.integers(0, len(self.model.records) + 2)), max_records, max_bytes)

    @rule(max_records=st.integers(1, 8), max_bytes=_LIMITS)
    def read_on(self, max_records: int, max_bytes: int) -> None:
        self._read(self.next, max_records, max_bytes)

    def _read(self, skip: int, max_records: int, max_bytes: int) -> None:
        got = self.backend.read(skip, max_records, max_bytes)
        self.model.read(got, skip, max_records, max_bytes)
        self.next = skip + len(got)

    @precondition(lambda self: self.model.records)
    @rule(data=st.data())
    def trim(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, len(self.model.records)))
        self.backend.trim(count)
        self.model.trim(count)
        self.next = max(0, self.next - count)

    @rule()
    def sync(self) -> None:
        self.backend.sync()

    @precondition(lambda self: self.durable)
    @rule()
    def reopen(self) -> None:
        self.backend = self.spool.reopen(self.backend)
        assert self.backend.recovered.records == len(self.model.records)

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
