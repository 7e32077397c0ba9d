"""Series of scenarios: each call with each fault, in a first life or in recovery, and chance."""

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

from tests.faults.forkserver import ForkServer, Scenario
from tests.faults.shim import HOWS, Fault, applies

__all__ = ["random_kills", "recovery_sweep", "spread", "sweep"]

_T = TypeVar("_T")

_FACTS: int = 130
"""About as many facts as the first life tells."""


def spread(items: Sequence[_T], count: int) -> list[_T]:
    """At most `count` of `items`, evenly spread."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def sweep(server: ForkServer, setup: str, seed: int, hows: Sequence[str] = HOWS) -> list[Scenario]:
    """One for every call that the first life makes and every way, of `hows`, it can go wrong."""
    calls = server.traces(Scenario(setup, seed, (None,)))[0]
    return [Scenario(setup, seed, (fault,)) for fault in _faults(calls, hows)]


def recovery_sweep(
    server: ForkServer, setup: str, kills: int, hows: Sequence[str] = HOWS
) -> list[Scenario]:
    """The same for a second life, after the first was killed in one of so many ways."""
    killing = [how for how in HOWS if Fault(how, 0).kills]
    scenarios = []
    for seed in range(kills):
        calls = server.traces(Scenario(setup, seed, (None,)))[0]
        candidates = _faults(calls, [killing[seed % len(killing)]])
        kill = random.Random(seed).choice(candidates)
        trace = server.traces(Scenario(setup, seed, (kill, None)))[0]
        scenarios += [Scenario(setup, seed, (kill, fault)) for fault in _faults(trace, hows)]
    return scenarios


def random_kills(setup: str, count: int) -> Iterator[Scenario]:
    """Kills from outside, each followed by another while recovering."""
    for seed in range(count):
        random_ = random.Random(seed)
        kills = (
            Fault("random kill", random_.randrange(1, _FACTS)),
            Fault("random kill", random_.randrange(1, 20)),
        )
        yield Scenario(setup, seed, kills)


def _faults(calls: list[str], hows: Sequence[str]) -> list[Fault]:
    return [
        Fault(how, number)
        for number, call in enumerate(calls, start=1)
        for how in hows
        if applies(how, call)
    ]
