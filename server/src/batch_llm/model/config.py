"""Settings of the engine: frozen data, refused at construction where they make no sense."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import checks

SHORTEST_ATTEMPT_SECONDS = 0.01
"""The least time limit of an attempt: no provider answers sooner, so every attempt would fail."""
_LONGER_ATTEMPT = "try 120; no provider answers in less than 0.01"


@dataclass(frozen=True, slots=True)
class RetryConfig:
    """When and how often a failed attempt is tried again.

    Args:
        max_attempts: attempts in all; at least 1.
        initial_wait: seconds after the first failure; not negative.
        max_wait: the longest wait in seconds; not less than `initial_wait`.
        exponential_base: factor from one wait to the next; at least 1.
        jitter: draw each wait at random between zero and its length, so that many items do not come back at once.
        max_rate_limit_retries: how often one item is tried again after the provider throttled it, apart from
            `max_attempts`; not negative.

    Raises:
        ValueError: a value is out of its range; says field, value and way out.
    """

    max_attempts: int = 3
    initial_wait: float = 1.0
    max_wait: float = 60.0
    exponential_base: float = 2.0
    jitter: bool = True
    max_rate_limit_retries: int = 20

    def __post_init__(self) -> None:
        checks.whole("max_attempts", self.max_attempts, "use 1 for no retry", least=1)
        checks.number("initial_wait", self.initial_wait, "use 0 to retry at once")
        checks.number("max_wait", self.max_wait, "use 60, or 0 to retry at once")
        if self.max_wait < self.initial_wait:
            raise ValueError(
                f"max_wait must not be less than initial_wait ({self.initial_wait}), got {self.max_wait}; "
                "raise max_wait or lower initial_wait"
            )
        checks.number("exponential_base", self.exponential_base, "use 1 for waits of one length", least=1)
        checks.truth("jitter", self.jitter)
        checks.whole("max_rate_limit_retries", self.max_rate_limit_retries, "use 0 to fail at the first rate limit")

    def wait_before(self, retry: int) -> float:
        """Seconds before the given retry (1 for the first), without jitter."""
        try:
            return min(self.max_wait, self.initial_wait * self.exponential_base ** (retry - 1))
        except OverflowError:
            return self.max_wait if self.initial_wait else 0.0


@dataclass(frozen=True, slots=True)
class RateLimitConfig:
    """How to pause after the provider has throttled, and how to start again.

    Args:
        cooldown_seconds: the first pause, where the provider does not ask for a longer one; not negative.
        slow_start_items: items after a pause that are started one by one; 0 for none.
        slow_start_initial_delay: seconds before the first of them; not negative.
        slow_start_final_delay: seconds before the last of them; not above the first one's.
        backoff_multiplier: factor from one pause to the next while the provider goes on throttling; at least 1.

    Raises:
        ValueError: a value is out of its range; says field, value and way out.
    """

    cooldown_seconds: float = 300.0
    slow_start_items: int = 50
    slow_start_initial_delay: float = 2.0
    slow_start_final_delay: float = 0.1
    backoff_multiplier: float = 1.5

    def __post_init__(self) -> None:
        checks.number("cooldown_seconds", self.cooldown_seconds, "use 0 for no pause")
        checks.whole("slow_start_items", self.slow_start_items, "use 0 for no slow start")
        checks.number("slow_start_initial_delay", self.slow_start_initial_delay, "use 0 for no delay")
        checks.number("slow_start_final_delay", self.slow_start_final_delay, "use 0 for no delay")
        checks.number("backoff_multiplier", self.backoff_multiplier, "use 1 for pauses of one length", least=1)
        if self.slow_start_initial_delay < self.slow_start_final_delay:
            raise ValueError(
                f"slow_start_initial_delay must not be less than slow_start_final_delay "
                f"({self.slow_start_final_delay}), got {self.slow_start_initial_delay}; "
                "raise the initial delay or lower the final one: a slow start gets faster"
            )


@dataclass(frozen=True, slots=True)
class ExecutionPolicy:
    """How one item is run: what the executor goes by.

    Args:
        retry: when and how often to try again.
        attempt_timeout: seconds for one attempt; at least 0.01.
        check_output: gives the output to deliver, or raises `OutputValidationError`.

    Raises:
        ValueError: a value is out of its range; says field, value and way out.
    """

    retry: RetryConfig = field(default_factory=RetryConfig)
    attempt_timeout: float = 120.0
    check_output: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        checks.instance("retry", self.retry, RetryConfig, "leave it out for the defaults")
        checks.number("attempt_timeout", self.attempt_timeout, _LONGER_ATTEMPT, least=SHORTEST_ATTEMPT_SECONDS)
        if self.check_output is not None and not callable(self.check_output):
            checks.refuse("check_output", "be a function", self.check_output, "use None for no check")


@dataclass(frozen=True, slots=True)
class ProcessorConfig:
    """Settings of `ParallelBatchProcessor`.

    Args:
        max_workers: items in flight at most; at least 1.
        timeout_per_item: seconds for one attempt; at least 0.01.
        retry: when and how often to try again.
        rate_limit: how to pause after the provider has throttled.
        max_requests_per_minute: calls started in any 60 seconds at most; at least 1, a fraction is rounded down;
            None for no limit.
        progress_interval: items from one progress report to the next; at least 1.
        progress_callback_timeout: seconds that one progress report may take; at least 0.001, None for no limit.
        max_queue_size: items that may wait to be run before `add_work` refuses; 0 for no limit.
        dry_run: call no provider: results come from the strategies' `dry_run()`, nothing is prepared.

    Raises:
        ValueError: a value is out of its range; says field, value and way out.
    """

    max_workers: int = 5
    timeout_per_item: float = 120.0
    retry: RetryConfig = field(default_factory=RetryConfig)
    rate_limit: RateLimitConfig = field(default_factory=RateLimitConfig)
    max_requests_per_minute: float | None = None
    progress_interval: int = 10
    progress_callback_timeout: float | None = 5.0
    max_queue_size: int = 0
    dry_run: bool = False

    def __post_init__(self) -> None:
        checks.whole("max_workers", self.max_workers, "use 1 to run items one by one", least=1)
        checks.number("timeout_per_item", self.timeout_per_item, _LONGER_ATTEMPT, least=SHORTEST_ATTEMPT_SECONDS)
        checks.instance("retry", self.retry, RetryConfig, "leave it out for the defaults")
        checks.instance("rate_limit", self.rate_limit, RateLimitConfig, "leave it out for the defaults")
        if (rate := self.max_requests_per_minute) is not None:
            checks.number("max_requests_per_minute", rate, "use None for no limit", least=1)
            object.__setattr__(self, "max_requests_per_minute", int(rate))
        checks.whole("progress_interval", self.progress_interval, "use 1 to hear of every item", least=1)
        if (timeout := self.progress_callback_timeout) is not None:
            checks.number("progress_callback_timeout", timeout, "use None for no limit", least=0.001)
        checks.whole("max_queue_size", self.max_queue_size, "use 0 for no limit")
        checks.truth("dry_run", self.dry_run)
