"""What a quota scope keeps to, and on whose behalf."""

from __future__ import annotations

from dataclasses import dataclass

from batch_llm.model import EngineEvents, checks

from .cooldown import RateLimitStrategy


@dataclass(frozen=True, slots=True)
class QuotaLimits:
    """What a quota scope keeps to.

    Args:
        max_concurrency: calls in flight at most; None to leave that to others; "adaptive" to find it out.
        requests_per_minute: calls in any 60 seconds at most; None for no limit.
        tokens_per_minute: tokens in any 60 seconds at most, reserved by estimate and corrected; None for no limit.

    Raises:
        ValueError: one is no whole number of at least 1; says field, value and way out.
    """

    max_concurrency: int | str | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_concurrency", "requests_per_minute", "tokens_per_minute"):
            value = getattr(self, name)
            if name == "max_concurrency" and isinstance(value, str):
                if value != "adaptive":
                    checks.refuse(name, "be a number or 'adaptive'", value, "leave it out for no limit")
            elif value is not None:
                checks.whole(name, value, "leave it out for no limit", least=1)

    @property
    def a_minute(self) -> bool:
        """Whether calls or tokens are limited by the minute."""
        return self.requests_per_minute is not None or self.tokens_per_minute is not None


class QuotaUser:
    """One who runs items in quota scopes that others use too, e.g. a processor.

    Args:
        requests_per_minute: what it allows a scope at most, at least 1; the least of a scope's users holds. None for no
            limit.
        strategy: how long a scope pauses, and how it starts again, after a 429 that this user has met.
        events: told of pauses, in any event loop.
    """

    __slots__ = ("__weakref__", "events", "requests_per_minute", "strategy")

    def __init__(
        self,
        requests_per_minute: float | None = None,
        strategy: RateLimitStrategy | None = None,
        events: EngineEvents | None = None,
    ) -> None:
        self.requests_per_minute = requests_per_minute
        self.strategy = strategy
        self.events = events
