"""Items a second of each client, side by side: `make bench-clients`.

One sidecar with the simulated provider and a journal on SQLite. The clients take turns, a batch each, and then again,
so that what else the machine does hits all alike; each turn is a process, which warms up first. Figures of one run on
one machine; compare rows of a run, not runs.

python -m tests.bench.clients [--client NAME=COMMAND]... [--items N] [--rounds N]

COMMAND is a client's bench, as one would start it from the repository's root; TARGET and ITEMS are appended. It runs
so many items twice, the second time for the figure, erases both batches and prints
{"items": …, "items_per_second": …}. Python's are always there.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from .__main__ import show, sidecar

ROOT = Path(__file__).parents[2]
BASE = "Python"
PYTHON = [sys.executable, "-m", "tests.bench.client"]


class BenchError(Exception):
    """A client's bench ended with an error, or printed no figure."""


def figure(printed: str, items: int) -> float:
    """Items a second that a bench printed for so many items.

    Raises:
        BenchError: it printed something else.
    """
    try:
        said = json.loads(printed)
        ran, rate = said["items"], said["items_per_second"]
    except (ValueError, TypeError, KeyError):
        raise BenchError(f'printed {printed!r}, not {{"items": …, "items_per_second": …}}') from None
    if ran != items:
        raise BenchError(f"ran {ran} items, not {items}")
    if not isinstance(rate, int | float) or not rate > 0:
        raise BenchError(f"printed {rate!r} as items_per_second, which must be a number above 0")
    return float(rate)


def turn(command: Sequence[str], target: str, items: int) -> float:
    """Items a second of one turn of a client.

    Raises:
        BenchError: the command cannot be started, ended with an error, or printed no figure.
    """
    try:
        done = subprocess.run([*command, target, str(items)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    except OSError as error:
        raise BenchError(f"cannot be started: {error}") from error
    if done.returncode:
        raise BenchError(f"ended with {done.returncode}")
    return figure(done.stdout, items)


def table(rates: Mapping[str, Sequence[float]]) -> list[str]:
    """Items a second of each client, best and median, and its best beside that of the Python client."""
    base = max(rates[BASE])
    lines = [f"{'items/s':<24}{'best':>12}{'median':>12}{f'best : {BASE}':>18}"]
    for name, measured in rates.items():
        best, middle = max(measured), statistics.median(measured)
        lines.append(f"{name:<24}{best:>12,.0f}{middle:>12,.0f}{best / base:>18.2f}")
    return lines


def _named(argument: str) -> tuple[str, list[str]]:
    name, _, command = argument.partition("=")
    if not (name and command):
        raise argparse.ArgumentTypeError(f"{argument!r} is not NAME=COMMAND")
    return name, shlex.split(command)


def _positive(argument: str) -> int:
    if (number := int(argument)) < 1:
        raise ValueError
    return number


_positive.__name__ = "number above 0"  # which argparse says it is not


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.clients", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--client", type=_named, action="append", default=[], metavar="NAME=COMMAND", help="a client's bench"
    )
    parser.add_argument("--items", type=_positive, default=50_000, metavar="N", help="in a batch (default %(default)s)")
    parser.add_argument("--rounds", type=_positive, default=3, metavar="N", help="turns of each (default %(default)s)")
    options = parser.parse_args(arguments)
    commands = {BASE: PYTHON, f"{BASE}, asyncio": [*PYTHON, "--aio"], **dict(options.client)}
    rates: dict[str, list[float]] = {name: [] for name in commands}
    with sidecar() as (target, _, _):
        for number in range(1, options.rounds + 1):
            for name, command in commands.items():
                try:
                    rates[name].append(turn(command, target, options.items))
                except BenchError as error:
                    sys.exit(f"{name}: {shlex.join(command)}: {error}")
                show(f"round {number}: {name}", f"{rates[name][-1]:,.0f} items/s")
    print("\n".join(["", *table(rates)]))


if __name__ == "__main__":
    main(sys.argv[1:])
