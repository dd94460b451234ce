"""Exit codes, and what leads to 2."""

from typing import Final

EXIT_SOME_FAILED: Final = 1
EXIT_ERROR: Final = 2
EXIT_INTERRUPTED: Final = 130
EXIT_BROKEN_PIPE: Final = 141  # as shells report a command that SIGPIPE ended


class UsageError(Exception):
    """The command cannot do what it was asked: the message says what, where and the way out."""


def complaint(error: Exception | str) -> str:
    """Put an error into one line."""
    return f"batch-llm: {' '.join(str(error).split())}"
