"""What can go wrong with PostgreSQL; each room that uses it says in its own words what that means for it."""

from __future__ import annotations


class PostgresError(Exception):
    """PostgreSQL did not do what it was asked."""


class UnavailableError(PostgresError):
    """It cannot be asked now; trying again may succeed.

    Args:
        message: what is wrong and the way out.
        full: the server's disk or quota is full.
    """

    def __init__(self, message: str, *, full: bool = False) -> None:
        super().__init__(message)
        self.full = full


class CorruptError(PostgresError):
    """PostgreSQL itself says that its data are damaged."""


class SchemaError(PostgresError):
    """The schema is of a newer version than this program knows."""
