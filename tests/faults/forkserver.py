"""A process with the shim preloaded that forks a child for every life of a scenario.

`ForkServer` starts it and talks to it, one line of JSON each way; ``python -m`` runs this module as
the server. So the interpreter and the libraries are loaded once, and a life costs a fork.
"""

import gc
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from hq_core.testing.forking import forked
from tests.faults.bugs import BUGS
from tests.faults.ledger import Ledger, Verdict
from tests.faults.shim import Fault, Shim
from tests.faults.workload import SETUPS, Fact, Life, Setup, Step, checking, resuming, working

__all__ = ["ForkServer", "Scenario"]

_ROOT: Final = Path(__file__).parents[2]
_PATIENCE: Final = 20
"""Seconds a life may take: the queue hangs if it takes longer."""
_NUMBERS_A_LIFE: Final = 10_000


@dataclass(frozen=True)
class Scenario:
    """What happens to one stream: a life for each fault, and one without, to see what is left."""

    setup: str
    seed: int
    faults: tuple[Fault | None, ...]

    def __str__(self) -> str:
        lives = ", then ".join(f"{f.how} at {f.at}" if f else "nothing" for f in self.faults)
        return f"{self.setup}, seed {self.seed}: {lives}"


class ForkServer:
    """Runs scenarios in `directory`, which has to exist; with `bug`, one of `BUGS`, planted."""

    def __init__(self, shim: Path, directory: Path, bug: str = "") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.forkserver", directory, bug],
            cwd=_ROOT,
            env={**os.environ, "LD_PRELOAD": str(shim)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is not None:
            self._process.kill()
        self._process.communicate()

    def run(self, scenario: Scenario) -> Verdict:
        """What `scenario` came to."""
        return Verdict(**self._ask(asdict(scenario))["verdict"])

    def traces(self, scenario: Scenario) -> list[list[str]]:
        """The system calls of each life of `scenario` that was not killed."""
        traces: list[list[str]] = self._ask(asdict(scenario))["traces"]
        return traces

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the fork server died of {question}"
        answer: dict[str, Any] = json.loads(line)
        return answer


# ---- in the server ----------------------------------------------------------------------------


def _serve(directory: Path, bug: str) -> None:
    logging.disable()
    shim = Shim()
    if bug:
        BUGS[bug].plant()
    warm: set[str] = set()
    for line in sys.stdin:
        question = json.loads(line)
        if question["setup"] not in warm:
            warm.add(question["setup"])
            _warm_up(SETUPS[question["setup"]], directory, shim)
        faults = [fault and Fault(**fault) for fault in question["faults"]]
        run = _Run(question["setup"], question["seed"], faults, directory / "spool", shim)
        print(json.dumps({"verdict": asdict(run.verdict), "traces": run.traces}), flush=True)


def _warm_up(setup: Setup, directory: Path, shim: Shim) -> None:
    """Load here what the children would load, each for itself."""
    with tempfile.TemporaryDirectory(dir=directory) as spool, suppress(Exception):
        for script in (working(0), resuming(0)):
            life = Life(setup, Path(spool), shim, lambda _: None, first=0, gives_up=False)
            life.run(script)
    gc.collect()
    gc.freeze()  # so that the children do not look at it, and copy it


class _Run:
    """One scenario, from an empty directory to the verdict."""

    def __init__(
        self, setup: str, seed: int, faults: list[Fault | None], directory: Path, shim: Shim
    ) -> None:
        self._setup: Setup = SETUPS[setup]
        self._directory = directory
        self._shim = shim
        self._ledger = Ledger(self._setup)
        self._lives = 0
        self._gives_up = seed % 2 == 1
        self.traces: list[list[str]] = []
        self._directory.mkdir()
        try:
            for number, fault in enumerate(faults):
                self._live(resuming(seed) if number else working(seed), fault)
            self._live(checking(self._setup.durable), None)
        finally:
            shutil.rmtree(self._directory)
        self.verdict = self._ledger.close()

    def _live(self, script: list[Step], fault: Fault | None) -> None:
        first = self._lives * _NUMBERS_A_LIFE
        self._lives += 1
        facts, tell = os.pipe()

        def life() -> None:
            signal.alarm(_PATIENCE)

            def say(fact: Fact) -> None:
                os.write(tell, json.dumps(fact).encode() + b"\n")

            self._shim.arm(self._directory, fault)
            Life(
                self._setup, self._directory, self._shim, say, first=first, gives_up=self._gives_up
            ).run(script)
            say(["trace", self._shim.trace()])

        child = forked(life)
        os.close(tell)
        with os.fdopen(facts, "rb") as lines:
            self._listen(lines, child, fault)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == -signal.SIGKILL and fault is not None and fault.kills:
            self._ledger.died()
        elif status:
            self._ledger.hear(["wrong", f"the process ended with {status}"])

    def _listen(self, lines: IO[bytes], child: int, fault: Fault | None) -> None:
        for told, line in enumerate(lines, start=1):
            kind, *rest = fact = json.loads(line)
            if kind == "trace":
                self.traces += rest
            else:
                self._ledger.hear(fact)
            if fault is not None and fault.how == "random kill" and told == fault.at:
                os.kill(child, signal.SIGKILL)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), sys.argv[2])
