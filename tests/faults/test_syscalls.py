"""Whatever system call fails, falls short or is the last: what was accepted comes, in order."""

from collections.abc import Iterable

import pytest

from tests.faults.campaign import amount, note
from tests.faults.forkserver import ForkServer, Scenario
from tests.faults.shim import EXHAUSTED
from tests.faults.sweeps import random_kills, recovery_sweep, spread, sweep
from tests.faults.workload import SETUPS


def run(name: str, setup: str, server: ForkServer, scenarios: Iterable[Scenario]) -> None:
    """Run `scenarios`, note the figures, and fail with the first of those that went wrong."""
    wrong: list[str] = []
    verdicts = []
    for scenario in scenarios:
        verdict = server.run(scenario)
        verdicts.append(verdict)
        if verdict.wrong:
            wrong.append(f"{scenario}: " + "; ".join(verdict.wrong))
    note(
        name,
        setup,
        scenarios=len(verdicts),
        faults=sum(verdict.struck + verdict.kills for verdict in verdicts),
        kills=sum(verdict.kills for verdict in verdicts),
        lost=sum(verdict.lost for verdict in verdicts),
        ghosts=sum(verdict.ghosts for verdict in verdicts),
        reordered=sum(verdict.reordered for verdict in verdicts),
        again=max(verdict.again for verdict in verdicts),
    )
    assert not wrong, f"{len(wrong)} of {len(verdicts)} scenarios:\n" + "\n".join(wrong[:10])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("setup", SETUPS)
def test_any_call_may_go_wrong(setup: str, seed: int, server: ForkServer) -> None:
    scenarios = sweep(server, setup, seed)
    chosen = spread(scenarios, amount(16, len(scenarios)))
    run(f"system calls, seed {seed}", setup, server, chosen)


@pytest.mark.slow
@pytest.mark.parametrize("setup", SETUPS)
def test_any_call_may_go_wrong_while_recovering_from_a_kill(setup: str, server: ForkServer) -> None:
    scenarios = recovery_sweep(server, setup, kills=amount(2, 8))
    run("system calls in recovery", setup, server, spread(scenarios, amount(8, 400)))


@pytest.mark.slow
@pytest.mark.parametrize("setup", SETUPS)
def test_descriptors_or_memory_may_run_out_at_any_call(setup: str, server: ForkServer) -> None:
    """In a first life, and in one that finds what a killed one has left."""
    scenarios = sweep(server, setup, 2, EXHAUSTED)
    chosen = spread(scenarios, amount(8, len(scenarios)))
    scenarios = recovery_sweep(server, setup, amount(1, 8), EXHAUSTED)
    chosen += spread(scenarios, amount(4, 400))
    run("no descriptor, no memory", setup, server, chosen)


@pytest.mark.slow
@pytest.mark.parametrize("setup", SETUPS)
def test_the_process_may_be_killed_at_any_time(setup: str, server: ForkServer) -> None:
    run("random kills", setup, server, random_kills(setup, amount(6, 250)))
