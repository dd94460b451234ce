"""What a process has found out about one cache; strategies of equal content share it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batch_llm.sync import Lock

if TYPE_CHECKING:
    from .policy import CacheRefusedError


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
