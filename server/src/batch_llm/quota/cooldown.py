"""How long to pause after the provider has throttled, and how to start again."""

from __future__ import annotations

from abc import ABC, abstractmethod

from batch_llm.model import RateLimitConfig, checks


class RateLimitStrategy(ABC):
    """Decides how a quota scope pauses after a 429 and how it starts again."""

    @abstractmethod
    async def on_rate_limit(self, worker_id: int, consecutive_limit_count: int) -> float:
        """How long to pause.

        Args:
            worker_id: kept from v0.2; always 0, the pause is the scope's.
            consecutive_limit_count: pauses in a row, this one included; 1 for the first.

        Returns:
            Seconds. What the provider asked for is a floor.
        """

    @abstractmethod
    def should_apply_slow_start(self, items_since_resume: int) -> tuple[bool, float]:
        """Whether calls are still spaced out, and by how many seconds.

        Args:
            items_since_resume: calls started since the pause.
        """


class ExponentialBackoffStrategy(RateLimitStrategy):
    """Pauses that grow, then calls that are spaced out less and less.

    Args:
        initial_cooldown: seconds of the first pause.
        max_cooldown: the longest pause in seconds; a longer `initial_cooldown` stands.
        backoff_multiplier: factor from one pause in a row to the next.
        slow_start_items: calls that are spaced out after a pause.
        slow_start_initial_delay: seconds between the first of them.
        slow_start_final_delay: seconds between the last of them.

    Raises:
        ValueError: a value is out of its range, which is as in `RateLimitConfig`; says field, value and way out.
    """

    def __init__(
        self,
        initial_cooldown: float = 300.0,
        max_cooldown: float = 600.0,
        backoff_multiplier: float = 1.5,
        slow_start_items: int = 50,
        slow_start_initial_delay: float = 2.0,
        slow_start_final_delay: float = 0.1,
    ) -> None:
        checks.number("initial_cooldown", initial_cooldown, "use 0 for no pause")
        checks.number("max_cooldown", max_cooldown, "use 600, or 0 for pauses of one length")
        RateLimitConfig(  # checks the others
            slow_start_items=slow_start_items,
            slow_start_initial_delay=slow_start_initial_delay,
            slow_start_final_delay=slow_start_final_delay,
            backoff_multiplier=backoff_multiplier,
        )
        self.initial_cooldown = initial_cooldown
        self.max_cooldown = max(max_cooldown, initial_cooldown)
        self.backoff_multiplier = backoff_multiplier
        self.slow_start_items = slow_start_items
        self.slow_start_initial_delay = slow_start_initial_delay
        self.slow_start_final_delay = slow_start_final_delay

    @classmethod
    def of(cls, config: RateLimitConfig) -> ExponentialBackoffStrategy:
        """The strategy that a configuration describes."""
        return cls(
            initial_cooldown=config.cooldown_seconds,
            backoff_multiplier=config.backoff_multiplier,
            slow_start_items=config.slow_start_items,
            slow_start_initial_delay=config.slow_start_initial_delay,
            slow_start_final_delay=config.slow_start_final_delay,
        )

    async def on_rate_limit(self, worker_id: int, consecutive_limit_count: int) -> float:
        """See `RateLimitStrategy`."""
        try:
            cooldown = self.initial_cooldown * self.backoff_multiplier ** max(0, consecutive_limit_count - 1)
        except OverflowError:
            return self.max_cooldown if self.initial_cooldown else 0.0
        return min(cooldown, self.max_cooldown)

    def should_apply_slow_start(self, items_since_resume: int) -> tuple[bool, float]:
        """See `RateLimitStrategy`."""
        if items_since_resume >= self.slow_start_items:
            return False, 0.0
        progress = items_since_resume / self.slow_start_items
        span = self.slow_start_initial_delay - self.slow_start_final_delay
        return True, self.slow_start_initial_delay - progress * span


class FixedDelayStrategy(RateLimitStrategy):
    """Pauses of one length, and no slow start.

    Args:
        cooldown: seconds; not negative.

    Raises:
        ValueError: with field, value and way out.
    """

    def __init__(self, cooldown: float = 300.0) -> None:
        checks.number("cooldown", cooldown, "use 0 for no pause")
        self.cooldown = cooldown

    async def on_rate_limit(self, worker_id: int, consecutive_limit_count: int) -> float:
        """See `RateLimitStrategy`."""
        return self.cooldown

    def should_apply_slow_start(self, items_since_resume: int) -> tuple[bool, float]:
        """See `RateLimitStrategy`."""
        return False, 0.0
