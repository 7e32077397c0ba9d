"""A test of the tests: bugs planted in the library, and the campaign has to find every one."""

import random
from collections.abc import Callable

import pytest

from tests.faults.bugs import BUGS
from tests.faults.campaign import note
from tests.faults.forkserver import ForkServer
from tests.faults.sweeps import sweep


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
            note("planted bugs, found after", bug, scenarios=number)
            record_property("caught by", f"{scenario}: {verdict.wrong[0]}")
            return
    pytest.fail(f"{len(scenarios)} scenarios do not find it")
