"""An exception between two steps, `KeyboardInterrupt` and `MemoryError` included, harms nothing."""

import os
from pathlib import Path
from typing import Final

import pytest

from hq_core import InlinePump
from hq_core.testing import ManualPump
from tests.hq_core.promises.sweeping import OPERATIONS, Kind, Outcome, sweep

WHOLE: Final = os.environ.get("HQ_FAULTS") == "whole"
EVERY: Final = int(os.environ.get("HQ_EVERY", 1 if WHOLE else 7))
"""Of so many points one is tried, each time others by operation, queue, backend and exception."""
THIN: Final = 1 if WHOLE else 3
"""Of those one in so many for a backend that does real I/O."""

LOST: Final[dict[str, int]] = {}
"""Points at which items are taken and given to nobody, by operation. CPython 3.11 looks for signals
when a function is entered and when one in C returns, and not between the return of ours and what
its caller does with the result. So there is no such point in the library."""
UNTIL_THEIR_DEADLINE: Final = {"lease in a block that raises": 20}
"""Points at which a lease is left to its deadline: its block is about to be entered, or left, when
nobody has it any more. By operation, at most."""

CASES: Final = [
    pytest.param(name, kind, id=f"{name}-{kind}")
    for name, operation in OPERATIONS.items()
    for kind in operation.kinds
]


@pytest.mark.slow
@pytest.mark.parametrize("exception", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("pump", [ManualPump, InlinePump])
@pytest.mark.parametrize("backend", ["memory", "file", "lmdb"])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_an_operation_that_is_cut_short_anywhere_harms_nothing(
    tmp_path: Path,
    name: str,
    kind: Kind,
    backend: str,
    pump: type[ManualPump] | type[InlinePump],
    exception: type[BaseException],
) -> None:
    """No ghost, no item out of reach, order kept, accounts balanced, no lock held, no hang; a
    durable queue that is opened again gives what is not done; nothing that was taken is lost."""
    every = EVERY if backend == "memory" else EVERY * THIN
    outcome = sweep(name, kind, backend, pump, exception, tmp_path, every=every)
    report(outcome)
    assert outcome.points > 3
    assert not outcome.wrong, told(outcome)
    assert len(outcome.lost) <= LOST.get(name, 0), told(outcome)
    assert len(outcome.lapses) <= UNTIL_THEIR_DEADLINE.get(name, 0), sorted(outcome.lapses)
    if exception is KeyboardInterrupt:
        assert not outcome.swallowed, sorted(outcome.swallowed)


def report(outcome: Outcome) -> None:
    """For whoever counts them."""
    path = os.environ.get("HQ_SWEPT")
    if path:
        with Path(path).open("a") as file:
            test = os.environ.get("PYTEST_CURRENT_TEST", "")
            print(
                test,
                outcome.points,
                outcome.tried,
                sum(outcome.lost.values()),
                len(outcome.wrong),
                len(outcome.swallowed),
                sep="\t",
                file=file,
            )
            print(told(outcome), file=file)


def told(outcome: Outcome) -> str:
    """What went wrong, a place a line."""
    lost = [f"{where}: {count} taken and given to nobody" for where, count in outcome.lost.items()]
    lines = outcome.wrong[:12] + lost[:12]
    return f"at {len(outcome.wrong) + len(lost)} of {outcome.points} points:\n" + "\n".join(lines)
