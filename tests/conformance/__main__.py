"""Run the cases on any adapters and print which pass.

python -m tests.conformance [--adapter COMMAND]... [--case PATTERN] [--jobs N] [--verbose]
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatch

from .adapter import AdapterError
from .adapters import ADAPTERS
from .cases import Case, CaseError, known_failure, load, load_known_failures
from .report import Outcome, outcome_of, table
from .runner import Suite


def main(arguments: Sequence[str]) -> int:
    """0: all is well. 1: a case fails, or is listed as a failure and passes. 2: nothing could be run."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description="Which cases a client passes.")
    parser.add_argument(
        "--adapter",
        action="append",
        metavar="COMMAND",
        help="an adapter, as one would start it from the repository's root; may be given more than once "
        "(default: the Python ones)",
    )
    parser.add_argument("--case", default="*", metavar="PATTERN", help="cases whose name or theme fits (default: all)")
    parser.add_argument("--verbose", action="store_true", help="print every line to and from the adapters")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="adapters at a time (default: 2)")
    options = parser.parse_args(arguments)
    commands = [shlex.split(command) for command in options.adapter or ()] or [
        command for command, _ in ADAPTERS.values()
    ]
    try:
        cases = load()
        known = load_known_failures(cases)
    except CaseError as error:
        print(error, file=sys.stderr)
        return 2
    chosen = [case for case in cases if fnmatch(case.name, options.case) or fnmatch(case.theme, options.case)]
    if not chosen:
        print(f"no case fits {options.case!r}", file=sys.stderr)
        return 2
    with ThreadPoolExecutor(options.jobs) as pool:
        runs = list(pool.map(lambda command: _run(command, chosen, known, verbose=options.verbose), commands))
    done = [run for run in runs if run is not None]
    outcomes = {(run.name, case): outcome for run in done for case, outcome in run.outcomes.items()}
    print("\n".join(table(chosen, [run.name for run in done], outcomes)))
    if len(done) < len(runs):
        return 2
    return 0 if all(run.is_fine for run in done) else 1


@dataclass
class _Run:
    """What became of the cases with one adapter."""

    name: str
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    ended_well: bool = True

    @property
    def is_fine(self) -> bool:
        return self.ended_well and all(outcome.is_fine for outcome in self.outcomes.values())


def _run(
    command: Sequence[str], cases: Sequence[Case], known: Mapping[tuple[str, str], str], *, verbose: bool
) -> _Run | None:
    """Run the cases; None: the adapter cannot be started."""
    with Suite(verbose=verbose) as suite:
        try:
            adapter = suite.adapter(command)
        except (AdapterError, OSError) as error:
            print(f"{shlex.join(command)}: {error}", file=sys.stderr)
            return None
        run = _Run(adapter.name)
        sets = adapter.sets  # it may be started anew, but does not change its mind
        for case in cases:
            if not case.runs_on(sets):
                continue
            reason, failure = known_failure(known, run.name, case), None
            try:
                suite.run(case, command)
            except AssertionError as error:
                failure = error
            outcome = run.outcomes[case.name] = outcome_of(failure, reason)
            lines = [f"{run.name}: {case.theme}: {case.name}: {outcome}"]
            if outcome is Outcome.FAILED:
                lines.append(f"    {failure}")
            elif outcome is Outcome.NO_LONGER:
                lines.append(f"    take it from known_failures.yaml, where it says {reason!r}")
            print("\n".join(lines), file=sys.stderr, flush=True)
        try:
            suite.end(command)
        except AdapterError as error:
            print(f"{run.name}: {error}", file=sys.stderr)
            run.ended_well = False
    return run


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
