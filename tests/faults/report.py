"""The table of faults, as it is printed at the end of a run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import reduce
from operator import add


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


def table(rows: Iterable[Row]) -> list[str]:
    rows = [*rows]
    total = reduce(add, rows)
    titles = ["fault", "faults", "items", "calls", "repeats", "marks", "lost", "completed, paid twice"]
    lines = [
        titles,
        *([str(getattr(row, one.name)) for one in fields(row)] for row in (*rows, replace(total, fault="all"))),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = [str.ljust, *[str.rjust] * (len(widths) - 1)]
    return ["  ".join(map(lambda side, cell, width: side(cell, width), sides, line, widths)) for line in lines]
