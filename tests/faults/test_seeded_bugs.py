"""A test of the tests: bugs planted in the library, and the campaign has to find every one."""

import logging
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.faults.bugs import BUGS
from tests.faults.campaign import note
from tests.faults.engine_bugs import ENGINE_BUGS
from tests.faults.forkserver import ForkServer
from tests.faults.sweeps import sweep
from tests.faults.test_engine import PROMISES
from tests.faults.test_queue_machine import SUBJECTS, QueueMachine

OF_THE_PLANT = ("AttributeError", "NameError", "TypeError")
"""What says that the bug itself does not fit the library any more."""
MACHINES = 600
"""How many machines may run before one has to have found a bug."""


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(
    bug: str,
    server: ForkServer,
    planted: Callable[[str], ForkServer],
    record_property: Callable[[str, str], None],
) -> None:
    setup, how = BUGS[bug].setup, BUGS[bug].how
    scenarios = [*sweep(server, setup, 0), *sweep(server, setup, 1)]
    random.Random(0).shuffle(scenarios)
    scenarios.sort(key=lambda scenario: not any(f and f.how == how for f in scenario.faults))
    faulty = planted(bug)
    for number, scenario in enumerate(scenarios, start=1):
        verdict = faulty.run(scenario)
        if verdict.wrong:
            assert not any(error in verdict.wrong[0] for error in OF_THE_PLANT)
            note("planted bugs, found after", bug, scenarios=number)
            record_property("caught by", f"{scenario}: {verdict.wrong[0]}")
            return
    pytest.fail(f"{len(scenarios)} scenarios do not find it")


@pytest.mark.slow
@pytest.mark.parametrize("bug", ENGINE_BUGS)
def test_a_bug_planted_in_the_engine_is_found(
    bug: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, str], None],
) -> None:
    found_by = ENGINE_BUGS[bug].found_by
    name = found_by.removeprefix("machine: ")
    look = promise_is_broken if name in PROMISES else machine_stops
    with monkeypatch.context() as patch:
        ENGINE_BUGS[bug].plant(patch)
        found = look(name, tmp_path)
    assert found, f"{found_by} does not find it"
    record_property("caught by", f"{found_by}: {found}")


def what_went_wrong(call: Callable[[], object]) -> str:
    """What `call` raised; nothing if it did not. Errors of the plant itself are raised."""
    try:
        call()
    except (AttributeError, NameError, TypeError):
        raise
    except (Exception, pytest.fail.Exception) as exc:
        return repr(exc)
    return ""


def promise_is_broken(name: str, directory: Path) -> str:
    """What the test of a promise says; nothing if it passes."""
    return what_went_wrong(lambda: PROMISES[name](directory))


def machine_stops(name: str, directory: Path) -> str:
    """What the machine meets, without looking for the shortest way to show it; "" if nothing."""
    subject = next(subject for subject in SUBJECTS if str(subject) == name)
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    def machine() -> QueueMachine:
        made = QueueMachine(subject, directory)
        made.count = count
        return made

    logging.disable()
    try:
        wrong = what_went_wrong(
            lambda: run_state_machine_as_test(
                machine,  # type: ignore[arg-type] # a function will do
                settings=settings(
                    max_examples=MACHINES,
                    stateful_step_count=50,
                    deadline=None,
                    database=None,
                    derandomize=True,
                    report_multiple_bugs=False,
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                ),
            )
        )
    finally:
        logging.disable(logging.NOTSET)
    return wrong and f"{steps} steps: {wrong}"
