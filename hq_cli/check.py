"""``hq check``: whether a backend keeps the contract."""

import argparse
import dataclasses
import json
from collections import Counter
from typing import TYPE_CHECKING

from hq_cli import subject
from hq_cli.errors import CommandError

if TYPE_CHECKING:
    from hq_core.testing.check import Report

__all__ = ["configure", "render", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the arguments of ``hq check``."""
    parser.set_defaults(run=run)
    parser.description = (
        "Run the conformance suite on an installed backend: one test for each sentence of the "
        "contract, as far as the backend promises it. Needs the extra [testing]."
    )
    parser.epilog = (
        "Exit status: 0 nothing failed, 1 something failed or the backend is not usable."
    )
    subject.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the report as a JSON object")
    parser.add_argument("-v", "--verbose", action="store_true", help="name every test that ran")


def run(args: argparse.Namespace) -> int:
    """Run ``hq check``; returns the exit status."""
    try:
        from hq_core.testing.check import check  # not needed to print --help
    except ModuleNotFoundError as exc:
        raise subject.testing_is_missing(exc) from exc
    options = subject.options(args)
    try:
        report = check(args.name, options)
    except ValueError as exc:
        raise CommandError(str(exc)) from exc
    text = json.dumps(dataclasses.asdict(report), indent=2) if args.json else None
    print(text or render(report, verbose=args.verbose), flush=True)
    return 1 if report.failed else 0


def render(report: "Report", *, verbose: bool) -> str:
    """`report` for people: what it is, how many, what failed and why, what was skipped and why."""
    promises = ", ".join(report.capabilities) or "nothing"
    lines = [
        f"{report.backend}, from {report.distribution} {report.version}, "
        f"API version {report.api_version}, promises {promises}",
        f"{len(report.passed)} passed, {len(report.failed)} failed, {len(report.skipped)} skipped "
        f"in {report.seconds:.1f} s",
    ]
    if verbose and report.passed:
        lines += ["", "passed:", *[f"  {outcome.test}" for outcome in report.passed]]
    if report.failed:
        lines += ["", "failed:"]
        for outcome in report.failed:
            lines += [f"  {outcome.test}", f"      {outcome.reason}"]
    if report.skipped:
        lines += ["", "skipped:", *_skipped(report, verbose=verbose)]
    return "\n".join(lines)


def _skipped(report: "Report", *, verbose: bool) -> list[str]:
    if verbose:
        return [f"  {outcome.test}: {outcome.reason}" for outcome in report.skipped]
    reasons = Counter(outcome.reason for outcome in report.skipped)
    return [f"  {count:3}  {reason}" for reason, count in reasons.items()]
