"""One PostgreSQL for a fleet of sidecars: reaching it, and the versions of what is kept there."""

from .errors import CorruptError, PostgresError, SchemaError, UnavailableError
from .line import Line, Postgres, Row, fetch, one_line
from .tables import Tables

__all__ = [
    "CorruptError",
    "Line",
    "Postgres",
    "PostgresError",
    "Row",
    "SchemaError",
    "Tables",
    "UnavailableError",
    "fetch",
    "one_line",
]
