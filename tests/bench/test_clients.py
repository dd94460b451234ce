"""The runner of `make bench-clients`, with the Python clients and with programs that are wrong."""

from __future__ import annotations

import re
import shlex
import sys

import pytest

from batch_llm_client import BatchClient

from .__main__ import sidecar
from .clients import PYTHON, BenchError, figure, main, table, turn

COMMON = ["--items", "130", "--rounds", "2"]


def python(program: str) -> str:
    return shlex.join([sys.executable, "-c", program])


def test_clients_take_turns_and_each_has_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    odd = python('print(\'{"items": 130, "items_per_second": 0.5}\')')
    main([*COMMON, "--client", f"Odd={odd}"])
    turns, rows = capsys.readouterr().out.split("\n\n")
    assert re.findall(r"round (\d): (.+?)  ", turns) == [
        (number, name) for number in "12" for name in ("Python", "Python, asyncio", "Odd")
    ]
    head, *lines = rows.splitlines()
    assert head.split() == ["items/s", "best", "median", "best", ":", "Python"]
    assert [re.split(r"  +", line)[0] for line in lines] == ["Python", "Python, asyncio", "Odd"]
    measured = [float(said.replace(",", "")) for said in re.findall(r"round \d: Python  +(\S+) items/s", turns)]
    assert lines[0].split() == ["Python", f"{max(measured):,.0f}", lines[0].split()[2], "1.00"]


@pytest.mark.parametrize("command", [PYTHON, [*PYTHON, "--aio"]], ids=["sync", "asyncio"])
def test_a_turn_leaves_nothing_in_the_journal(command: list[str]) -> None:
    with sidecar() as (target, _, _), BatchClient(target) as client:
        assert turn(command, target, 130) > 0
        assert list(client.list_batches()) == []
        assert [strategy.spec.name for strategy in client.list_strategies()] == ["bench", "echo"]


def test_a_row_has_the_best_the_median_and_the_best_beside_pythons() -> None:
    rows = table({"Python": [9000, 10_000, 8000], "Go": [15_000, 11_000, 12_345]})
    assert [row.split() for row in rows[1:]] == [
        ["Python", "10,000", "9,000", "1.00"],
        ["Go", "15,000", "12,345", "1.50"],
    ]


@pytest.mark.parametrize(
    ("printed", "words"),
    [
        ("", "printed ''"),
        ("15000 items/s\n", "printed '15000 items/s"),
        ("[50]", r"printed '\[50\]'"),
        ('{"items": 50}', "printed '{\"items\": 50}'"),
        ('{"items": 40, "items_per_second": 1}', "ran 40 items, not 50"),
        ('{"items": 50, "items_per_second": 0}', "printed 0 as items_per_second"),
        ('{"items": 50, "items_per_second": NaN}', "printed nan as items_per_second"),
        ('{"items": 50, "items_per_second": "1"}', "printed '1' as items_per_second"),
    ],
)
def test_what_is_no_figure_is_refused(printed: str, words: str) -> None:
    with pytest.raises(BenchError, match=words):
        figure(printed, 50)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("there/is/no/such/bench", "cannot be started: .*No such file"),
        (python("raise SystemExit(3)"), "ended with 3"),
        (python("print('fast')"), "printed 'fast"),
    ],
)
def test_a_bench_that_fails_says_how(command: str, words: str) -> None:
    with pytest.raises(BenchError, match=words):
        turn(shlex.split(command), "nowhere", 130)


def test_a_bench_that_fails_ends_the_run_by_name() -> None:
    with pytest.raises(SystemExit, match="Odd: there/is/no/such bench: cannot be started"):
        main([*COMMON, "--client", "Odd=there/is/no/such bench"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--client", "Go"], "argument --client: 'Go' is not NAME=COMMAND"),
        (["--rounds", "0"], "argument --rounds: invalid number above 0 value: '0'"),
        (["--items", "x"], "argument --items: invalid number above 0 value: 'x'"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert words in capsys.readouterr().err
