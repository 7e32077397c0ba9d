"""``hq backends``: what is installed, and what it promises."""

import argparse
from collections.abc import Sequence

from hq_core import Capability
from hq_core.registry import InstalledBackend, installed

__all__ = ["configure", "run", "table"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the arguments of ``hq backends``."""
    parser.set_defaults(run=run)
    parser.description = (
        "List the overflow backends. DURABLE: what is kept survives closing and reopening. "
        "CRASH_SAFE: it survives a killed process. POWER_SAFE: it survives power loss, once synced."
    )


def run(args: argparse.Namespace) -> int:
    """Run ``hq backends``; returns the exit status."""
    print(table(installed()), flush=True)
    return 0


def table(backends: Sequence[InstalledBackend]) -> str:
    """`backends` as aligned columns; why one is not usable is on the line below it."""
    rows = [("NAME", "PROMISES", "FROM")]
    rows += [(b.name, _promises(b), b.distribution) for b in backends]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = ["  ".join([row[0].ljust(widths[0]), row[1].ljust(widths[1]), row[2]]) for row in rows]
    for position, backend in reversed(list(enumerate(backends, start=1))):
        if backend.error:
            lines.insert(position + 1, f"{'':{widths[0]}}  {backend.error}")
    return "\n".join(lines)


def _promises(backend: InstalledBackend) -> str:
    if backend.backend is None:
        return "not usable"
    promised = backend.backend.capabilities
    return ", ".join([c.name or "" for c in Capability if c in promised]) or "nothing"
