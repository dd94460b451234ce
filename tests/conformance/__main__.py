"""Run the cases on any adapters and print which pass.

python -m tests.conformance [--adapter COMMAND]... [--case PATTERN] [--verbose]
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from fnmatch import fnmatch

from .adapter import AdapterError
from .adapters import ADAPTERS
from .cases import CaseError, known_failure, load, load_known_failures
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
    outcomes: dict[tuple[str, str], Outcome] = {}
    names: list[str] = []
    fine = True
    with Suite(verbose=options.verbose) as suite:
        for command in commands:
            try:
                adapter = suite.adapter(command)
            except (AdapterError, OSError) as error:
                print(f"{shlex.join(command)}: {error}", file=sys.stderr)
                return 2
            name, sets = adapter.name, adapter.sets
            names.append(name)
            for case in chosen:
                if not case.runs_on(sets):
                    continue
                reason, failure = known_failure(known, name, case), None
                try:
                    suite.run(case, command)
                except AssertionError as error:
                    failure = error
                outcome = outcomes[name, case.name] = outcome_of(failure, reason)
                print(f"{name}: {case.theme}: {case.name}: {outcome}", file=sys.stderr, flush=True)
                if outcome is Outcome.FAILED:
                    print(f"    {failure}", file=sys.stderr, flush=True)
                elif outcome is Outcome.NO_LONGER:
                    print(f"    take it from known_failures.yaml, where it says {reason!r}", file=sys.stderr)
            try:
                suite.end(command)
            except AdapterError as error:
                print(f"{name}: {error}", file=sys.stderr)
                fine = False
    print("\n".join(table(chosen, names, outcomes)))
    return 0 if fine and all(outcome.is_fine for outcome in outcomes.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
