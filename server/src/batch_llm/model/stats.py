"""Figures of a batch while it runs."""

from __future__ import annotations

from typing import TypedDict


class ProcessingStats(TypedDict):
    """What `ParallelBatchProcessor.get_stats()` gives: the batch under way, else the last one.

    Tokens are those of items that ended, over all their attempts.
    """

    total: int
    """Items of the batch; before the first batch, those queued for it."""
    processed: int
    """Items that ended."""
    succeeded: int
    failed: int
    start_time: float | None
    """Seconds since the epoch; None before the first batch."""
    elapsed_seconds: float
    """From the start until now, or until the batch ended."""
    error_counts: dict[str, int]
    """Failed items by reason."""
    rate_limit_count: int
    """Calls that the provider throttled."""
    total_input_tokens: int
    total_output_tokens: int
    total_tokens: int
    cached_input_tokens: int
