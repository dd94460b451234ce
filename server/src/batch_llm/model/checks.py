"""Checks of settings: each refuses with field, what it must be, what it is, and the way out."""

from __future__ import annotations

import reprlib
import sys
from typing import Any


def whole(field: str, value: Any, way_out: str, *, least: int = 0) -> None:
    """Refuse what is no `int` or below `least`; a `bool` is none, and neither is 5.0.

    Raises:
        ValueError: with field, value and way out.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        refuse(field, "be a whole number", value, way_out)
    if value < least:
        refuse(field, f"be at least {least}", value, way_out)


def number(field: str, value: Any, way_out: str, *, least: float = 0, most: float = sys.float_info.max) -> None:
    """Refuse what is no finite `int` or `float`, below `least` or above `most`; a `bool` is none.

    Raises:
        ValueError: with field, value and way out.
    """
    # Compared rather than asked for its finiteness: an int may be too large to be a float.
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not -sys.float_info.max <= value <= sys.float_info.max
    ):
        refuse(field, "be a finite number", value, way_out)
    if value < least:
        refuse(field, f"be at least {least:g}", value, way_out)
    if value > most:
        refuse(field, f"be at most {most:g}", value, way_out)


def truth(field: str, value: Any) -> None:
    """Refuse what is neither True nor False: a text such as "false" would count as true.

    Raises:
        ValueError: with field, value and way out.
    """
    if not isinstance(value, bool):
        refuse(field, "be True or False", value, "give one of them")


def instance(field: str, value: Any, kind: type[Any], way_out: str) -> None:
    """Refuse what is no instance of `kind`.

    Raises:
        ValueError: with field, value and way out.
    """
    if not isinstance(value, kind):
        refuse(field, f"be a {kind.__name__}", value, way_out)


def refuse(field: str, must: str, value: Any, way_out: str) -> None:
    """Say that a value cannot stand; a long one in short.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{field} must {must}, got {reprlib.repr(value)}; {way_out}")
