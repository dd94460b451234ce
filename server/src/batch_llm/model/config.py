"""Settings of the engine: frozen data, refused at construction where they make no sense."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class RetryConfig:
    """When and how often a failed attempt is tried again.

    Args:
        max_attempts: attempts in all; at least 1.
        initial_wait: seconds after the first failure; not negative.
        max_wait: the longest wait in seconds; not less than `initial_wait`.
        exponential_base: factor from one wait to the next; at least 1.
        jitter: draw each wait at random between zero and its length, so that many items do not come back at once.

    Raises:
        ValueError: a value is out of its range; says field, value and way out.
    """

    max_attempts: int = 3
    initial_wait: float = 1.0
    max_wait: float = 60.0
    exponential_base: float = 2.0
    jitter: bool = True

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1, got {self.max_attempts}; use 1 for no retry")
        if self.initial_wait < 0:
            raise ValueError(f"initial_wait must not be negative, got {self.initial_wait}; use 0 to retry at once")
        if self.max_wait < self.initial_wait:
            raise ValueError(
                f"max_wait must not be less than initial_wait ({self.initial_wait}), got {self.max_wait}; "
                "raise max_wait or lower initial_wait"
            )
        if self.exponential_base < 1:
            raise ValueError(
                f"exponential_base must be at least 1, got {self.exponential_base}; use 1 for waits of one length"
            )

    def wait_before(self, retry: int) -> float:
        """Seconds before the given retry (1 for the first), without jitter."""
        try:
            return min(self.max_wait, self.initial_wait * self.exponential_base ** (retry - 1))
        except OverflowError:
            return self.max_wait


@dataclass(frozen=True, slots=True)
class ExecutionPolicy:
    """How one item is run: what the executor goes by.

    Args:
        retry: when and how often to try again.
        attempt_timeout: seconds for one attempt; above zero.
        check_output: raises `OutputValidationError` for an output that will not do.
    """

    retry: RetryConfig = field(default_factory=RetryConfig)
    attempt_timeout: float = 120.0
    check_output: Callable[[Any], None] | None = None

    def __post_init__(self) -> None:
        if self.attempt_timeout <= 0:
            raise ValueError(f"attempt_timeout must be above zero seconds, got {self.attempt_timeout}; try 120")


@dataclass(frozen=True, slots=True)
class ProcessorConfig:
    """Settings of `ParallelBatchProcessor`.

    Args:
        max_workers: items in flight at most; at least 1.
        timeout_per_item: seconds for one attempt; above zero.
        retry: when and how often to try again.
        max_queue_size: items that may wait to be run before `add_work` refuses; 0 for no limit.

    Raises:
        ValueError: a value is out of its range; says field, value and way out.
    """

    max_workers: int = 5
    timeout_per_item: float = 120.0
    retry: RetryConfig = field(default_factory=RetryConfig)
    max_queue_size: int = 0

    def __post_init__(self) -> None:
        if self.max_workers < 1:
            raise ValueError(f"max_workers must be at least 1, got {self.max_workers}; use 1 to run items one by one")
        if self.timeout_per_item <= 0:
            raise ValueError(f"timeout_per_item must be above zero seconds, got {self.timeout_per_item}; try 120")
        if self.max_queue_size < 0:
            raise ValueError(f"max_queue_size must not be negative, got {self.max_queue_size}; use 0 for no limit")
