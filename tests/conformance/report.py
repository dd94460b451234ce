"""Cases × adapters, as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum

from .cases import Case


class Outcome(StrEnum):
    """What came of a case on an adapter."""

    PASSED = "ok"
    FAILED = "FAILED"
    KNOWN = "known"
    """It failed, as it is known to."""
    NO_LONGER = "PASSES"
    """It passed, and is listed as a known failure."""
    NOT_RUN = "·"
    """The adapter does not have the case's set."""

    @property
    def is_fine(self) -> bool:
        return self not in (Outcome.FAILED, Outcome.NO_LONGER)


def outcome_of(failure: AssertionError | None, reason: str | None) -> Outcome:
    """What a run comes to.

    Args:
        failure: how it failed; None if it did not.
        reason: why it is known to fail; None if it is not.
    """
    if failure is None:
        return Outcome.PASSED if reason is None else Outcome.NO_LONGER
    return Outcome.FAILED if reason is None else Outcome.KNOWN


def table(cases: Sequence[Case], adapters: Sequence[str], outcomes: Mapping[tuple[str, str], Outcome]) -> Iterator[str]:
    """Lines: a row for each case, by theme, a column for each adapter; then how many there are of each outcome.

    Args:
        cases: those that were run.
        adapters: their names.
        outcomes: by adapter and case.
    """
    width = max(len(text) for text in [*(f"  {case.name}" for case in cases), *Outcome]) + 2
    columns = [max(len(name), len(Outcome.FAILED)) for name in adapters]

    def row(first: str, cells: Sequence[str]) -> str:
        filled = "  ".join(cell.ljust(column) for cell, column in zip(cells, columns, strict=True))
        return f"{first.ljust(width)}{filled}".rstrip()

    yield row("", adapters)
    theme = ""
    for case in cases:
        if case.theme != theme:
            theme = case.theme
            yield f"{theme.replace('_', ' ')}:"
        yield row(f"  {case.name}", [outcomes.get((name, case.name), Outcome.NOT_RUN) for name in adapters])
    counts = {
        name: Counter(outcome for (adapter, _), outcome in outcomes.items() if adapter == name) for name in adapters
    }
    yield ""
    for outcome in Outcome:
        if outcome is not Outcome.NOT_RUN and any(count[outcome] for count in counts.values()):
            yield row(outcome.value, [str(counts[name][outcome]) for name in adapters])
