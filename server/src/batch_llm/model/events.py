"""What happens while a batch runs, for those who watch it."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any


class ProcessingEvent(Enum):
    """What an observer is told. Times are seconds; each event's data is listed beside it.

    `worker_id` counts from 0 up to `max_workers`; a worker that stopped gives its number to the next.
    """

    ITEM_STARTED = "item_started"
    """`item_id`, `worker_id`; once per item, not per attempt."""
    ITEM_COMPLETED = "item_completed"
    """`item_id`, `worker_id`, `duration`, `tokens` (total of all attempts), `attempts`."""
    ITEM_FAILED = "item_failed"
    """As ITEM_COMPLETED, and `error_type` (the exception's class, else the reason) and `reason`."""
    RATE_LIMIT_HIT = "rate_limit_hit"
    COOLDOWN_STARTED = "cooldown_started"
    """`duration`: how long it is meant to be."""
    COOLDOWN_ENDED = "cooldown_ended"
    """`duration`: how long it was."""
    WORKER_STARTED = "worker_started"
    """`worker_id`. Workers start when there is work for them, so there may be fewer than `max_workers`."""
    WORKER_STOPPED = "worker_stopped"
    """`worker_id`."""
    BATCH_STARTED = "batch_started"
    """`total`: items; `max_workers`."""
    BATCH_COMPLETED = "batch_completed"
    """`total`, `succeeded`, `failed`, `duration`; fewer than `total` ended if the batch was left early."""


EngineEvents = Callable[[ProcessingEvent, dict[str, Any]], None]
"""Takes an event and its data. Returns at once and raises nothing: it is called in the middle of the engine."""
