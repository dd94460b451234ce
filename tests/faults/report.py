"""The table of faults, as it is printed at the end of a run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import reduce
from operator import add

import pytest

ROW = "fault"
"""The property of a test's report that has a row's fields."""


@dataclass(frozen=True)
class Row:
    """What one kind of fault came to, over one or more batches."""

    fault: str
    faults: int
    items: int
    calls: int
    repeated: int
    """Items that were called more than once."""
    marked: int
    """Items whose result says `maybe_billed`."""
    lost: int
    paid_twice: int
    """Items that had a durable result when their sidecar ended, and were called again."""

    def __add__(self, other: Row) -> Row:
        sums = (getattr(self, one.name) + getattr(other, one.name) for one in fields(self)[1:])
        return Row(self.fault, *sums)


def rows_of(reports: Iterable[pytest.TestReport]) -> list[Row]:
    """What tests recorded, wherever they ran; rows of one fault added up."""
    rows: dict[str, Row] = {}
    for report in reports:
        for row in (Row(**value) for name, value in report.user_properties if name == ROW):
            rows[row.fault] = rows[row.fault] + row if row.fault in rows else row
    return [*rows.values()]


def table(rows: list[Row]) -> list[str]:
    total = reduce(add, rows)
    titles = ["fault", "faults", "items", "calls", "repeats", "marks", "lost", "completed, paid twice"]
    lines = [
        titles,
        *([str(getattr(row, one.name)) for one in fields(row)] for row in (*rows, replace(total, fault="all"))),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = [str.ljust, *[str.rjust] * (len(widths) - 1)]
    return ["  ".join(map(lambda side, cell, width: side(cell, width), sides, line, widths)) for line in lines]
