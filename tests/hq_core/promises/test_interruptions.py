"""An exception between two steps, `KeyboardInterrupt` and `MemoryError` included, harms nothing."""

import os
from pathlib import Path
from typing import Final

import pytest
from _pytest.mark.structures import ParameterSet

from hq_core import InlinePump
from hq_core.testing import ManualPump
from tests.hq_core.promises.sweeping import OPERATIONS, Kind, Outcome, sweep

WHOLE: Final = os.environ.get("HQ_FAULTS") == "whole"
EVERY: Final = int(os.environ.get("HQ_EVERY", 1 if WHOLE else 7))
"""Of so many points one is tried, each time others by operation, queue, backend and exception."""
THIN: Final = 1 if WHOLE else 3
"""Of those one in so many for a backend that does real I/O."""

LAST_STEPS: Final = (
    "Locks.change, after __exit__",
    "Locks.change, after _grab returned",
    "Engine._after_taking, at its beginning",
    "Engine.take_one, after __exit__",
    "Lease.__enter__, at its beginning",
    "Lease.__exit__, at its beginning",
    "Lease.nack, at its beginning",
)
"""Where items were taken and nobody can know: Python itself drops what was just returned. In a
durable queue they come again when it is opened next; those of a lease come at its deadline."""

KNOWN: Final = {
    "ack": "Lease.ack forgets its runs first: an interrupted one cannot be called again",
    "nack": "Lease.nack forgets its runs first: an interrupted one cannot be called again",
    "close": "StreamLock: an interrupted release leaves the lock file",
    "lease": "InFlight.lease commits in two calls, _grab wakes after it has taken",
    "lease in a block that raises": "InFlight.lease commits in two calls: doubles",
    "dequeue_many": "Engine.take and _grab: interrupted behind _collect they lose what was taken",
    "dequeue_many of all there is": "as dequeue_many",
    "dequeue_many of what was given back": "Engine._collect: given back, and out of reach",
}
"""Bugs that are not mended yet, by operation."""


def _case(name: str, kind: Kind) -> ParameterSet:
    reason = KNOWN.get(name)
    marks = [pytest.mark.xfail(strict=False, reason=reason)] if reason else []
    return pytest.param(name, kind, id=f"{name}-{kind}", marks=marks)


CASES: Final = [
    _case(name, kind) for name, operation in OPERATIONS.items() for kind in operation.kinds
]


@pytest.mark.slow
@pytest.mark.parametrize("exception", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("pump", [ManualPump, InlinePump])
@pytest.mark.parametrize("backend", ["memory", "file"])
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
    durable queue that is opened again gives what is not done; nothing that was taken is lost, but
    at the last step of all."""
    every = EVERY * THIN if backend == "file" else EVERY
    outcome = sweep(name, kind, backend, pump, exception, tmp_path, every=every)
    report(outcome)
    assert outcome.points > 3
    in_the_end = {where for where in outcome.lost if _is_last_step(where)}
    outcome.lost = {w: n for w, n in outcome.lost.items() if w not in in_the_end}
    outcome.wrong = [w for w in outcome.wrong if not _is_a_lease_nobody_got(w)]
    assert not outcome.wrong, told(outcome)
    assert not outcome.lost, told(outcome)


def _is_last_step(where: str) -> bool:
    return any(f" {step} (point" in where for step in LAST_STEPS)


def _is_a_lease_nobody_got(wrong: str) -> bool:
    """Its deadline gives it back."""
    return _is_last_step(wrong) and "leased to nobody" in wrong


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
