"""An observer that counts."""

from __future__ import annotations

import json
import math
from collections import deque
from typing import Any

from batch_llm.model import ProcessingEvent

from .hooks import BaseObserver

RECENT_TIMES = 100


class MetricsObserver(BaseObserver):
    """Counts what happens, over all batches of all processors that it observes, until `reset()`.

    metrics = MetricsObserver()
    async with ParallelBatchProcessor(observers=[metrics]) as processor:
        ...
    print((await metrics.get_metrics())["success_rate"])
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start from nothing."""
        self._succeeded = 0
        self._failed = 0
        self._rate_limits = 0
        self._cooldown_seconds = 0.0
        self._error_counts: dict[str, int] = {}
        self._seconds = 0.0
        self._shortest = math.inf
        self._longest = 0.0
        self._recent: deque[float] = deque(maxlen=RECENT_TIMES)

    async def on_event(self, event: ProcessingEvent, data: dict[str, Any]) -> None:
        """Count an event."""
        match event:
            case ProcessingEvent.ITEM_COMPLETED:
                self._succeeded += 1
                self._took(data.get("duration", 0.0))
            case ProcessingEvent.ITEM_FAILED:
                self._failed += 1
                kind = data.get("error_type", "UNSPECIFIED")
                self._error_counts[kind] = self._error_counts.get(kind, 0) + 1
            case ProcessingEvent.RATE_LIMIT_HIT:
                self._rate_limits += 1
            case ProcessingEvent.COOLDOWN_ENDED:
                self._cooldown_seconds += data.get("duration", 0.0)

    def _took(self, seconds: float) -> None:
        self._seconds += seconds
        self._shortest = min(self._shortest, seconds)
        self._longest = max(self._longest, seconds)
        self._recent.append(seconds)

    async def get_metrics(self) -> dict[str, Any]:
        """The figures so far. Times are seconds and those of items that succeeded; without any they are 0.0.

        Returns:
            `items_processed`, `items_succeeded`, `items_failed`, `rate_limits_hit`, `total_cooldown_time`,
            `error_counts` (failed items by the exception's class), `total_processing_time`, `avg_processing_time`,
            `min_processing_time`, `max_processing_time`, `processing_times` (the last 100), and `success_rate` from
            0.0 to 1.0.
        """
        processed = self._succeeded + self._failed
        return {
            "items_processed": processed,
            "items_succeeded": self._succeeded,
            "items_failed": self._failed,
            "rate_limits_hit": self._rate_limits,
            "total_cooldown_time": self._cooldown_seconds,
            "error_counts": dict(self._error_counts),
            "total_processing_time": self._seconds,
            "avg_processing_time": self._seconds / self._succeeded if self._succeeded else 0.0,
            "min_processing_time": self._shortest if self._succeeded else 0.0,
            "max_processing_time": self._longest,
            "processing_times": list(self._recent),
            "success_rate": self._succeeded / processed if processed else 0.0,
        }

    async def export_json(self) -> str:
        """The figures of `get_metrics()` as a JSON object."""
        return json.dumps(await self.get_metrics(), indent=2)
