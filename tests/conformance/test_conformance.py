"""Every case on every adapter that comes with the repository."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .adapters import ADAPTERS
from .cases import Case, known_failure, load, load_known_failures
from .report import Outcome, outcome_of
from .runner import Suite

_CASES = load()
_KNOWN = load_known_failures(_CASES)
_RUNS = [
    pytest.param(name, case, id=f"{name}-{case.theme}: {case.name}")
    for name, (_, sets) in ADAPTERS.items()
    for case in _CASES
    if case.runs_on(sets)
]


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    with Suite() as suite:
        yield suite


@pytest.mark.parametrize(("name", "case"), _RUNS)
def test_case(suite: Suite, name: str, case: Case) -> None:
    reason, failure = known_failure(_KNOWN, name, case), None
    try:
        suite.run(case, ADAPTERS[name][0])
    except AssertionError as error:
        failure = error
    match outcome_of(failure, reason):
        case Outcome.KNOWN:
            pytest.xfail(f"{reason}: {failure}")
        case Outcome.NO_LONGER:
            pytest.fail(f"passes: take it from known_failures.yaml, where it says {reason!r}")
        case Outcome.FAILED:
            raise failure  # type: ignore[misc]  # there is one


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_say_what_they_are_and_end_with_their_input(suite: Suite, name: str) -> None:
    command, sets = ADAPTERS[name]
    adapter = suite.adapter(command)
    assert (adapter.name, tuple(adapter.sets)) == (name, tuple(sets))
    suite.end(command)
