"""What a process has found out about one cache; strategies of equal content share it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batch_llm.sync import Lock

if TYPE_CHECKING:
    from .policy import CacheRefusedError

_FIRST_BACKOFF_SECONDS = 0.1
_LONGEST_BACKOFF_SECONDS = 60.0


@dataclass(slots=True)
class CacheCondition:
    """How operations on one cache have gone.

    Args:
        lock: under which it is created, renewed or deleted.
        refused: why its provider will not make it; None: it does, or has not been asked.
        failure: what the last creation failed with; None: it did not.
        failures: creations that failed, in all.
        failed_in_row: creations that failed since the last one that did not.
        create_again_at: monotonic seconds; before that nobody but CreateOrReuse tries again.
        renewing: whether a renewal in the background is under way.
        renew_again_at: seconds since the epoch; before that none is begun.
        deletions: how often it was deleted.
    """

    lock: Lock = field(default_factory=Lock)
    refused: CacheRefusedError | None = None
    failure: Exception | None = None
    failures: int = 0
    failed_in_row: int = 0
    create_again_at: float = 0.0
    renewing: bool = False
    renew_again_at: float = 0.0
    deletions: int = 0

    def is_usable(self) -> None:
        """Forget what has gone wrong before there was a cache."""
        self.refused = self.failure = None
        self.failed_in_row = 0

    def note_failure(self, error: Exception) -> None:
        """Note that a creation failed; the next one waits."""
        self.failures += 1
        self.failed_in_row += 1
        self.failure = error
        wait = min(_LONGEST_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2 ** min(self.failed_in_row - 1, 10))
        self.create_again_at = _monotonic() + wait

    def failed_since(self, failures: int) -> None:
        """Raise the failure of a creation that the caller has waited for.

        Args:
            failures: as it was when the caller came.
        """
        if self.failure is not None and self.failures > failures:
            raise self.failure.with_traceback(None)

    async def back_off(self) -> None:
        """After a creation that failed: wait, or fail at once where another try would not help."""
        while self.failure is not None and (wait := self.create_again_at - _monotonic()) > 0:
            if not getattr(self.failure, "retryable", True):
                raise self.failure.with_traceback(None)
            await asyncio.sleep(wait)


def _monotonic() -> float:
    return asyncio.get_running_loop().time()
