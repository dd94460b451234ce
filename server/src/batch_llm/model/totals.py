"""The totals of a batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic

from .items import AnyResult, TContext, TOutput, WorkItemResult
from .usage import effective_input_tokens


class BatchTotals:
    """Sums that grow by a result at a time, so that a streamed batch needs no list of its results."""

    __slots__ = (
        "_cached_by_discount",
        "cached_tokens",
        "failed",
        "failures_by_reason",
        "input_tokens",
        "output_tokens",
        "succeeded",
        "total_tokens",
    )

    def __init__(self) -> None:
        self.succeeded = 0
        self.failed = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self.cached_tokens = 0
        self.total_tokens = 0
        self.failures_by_reason: dict[str, int] = {}
        self._cached_by_discount: dict[float, int] = {}

    def add(self, result: AnyResult) -> None:
        """Count a result."""
        if result.success:
            self.succeeded += 1
        else:
            self.failed += 1
            reason = result.reason or "UNSPECIFIED"
            self.failures_by_reason[reason] = self.failures_by_reason.get(reason, 0) + 1
        usage = result.token_usage
        self.input_tokens += usage.get("input_tokens", 0)
        self.output_tokens += usage.get("output_tokens", 0)
        self.total_tokens += usage.get("total_tokens", 0)
        cached = usage.get("cached_input_tokens", 0)
        if cached:
            self.cached_tokens += cached
            discounts = self._cached_by_discount
            discounts[result.cache_discount] = discounts.get(result.cache_discount, 0) + cached

    @property
    def total_items(self) -> int:
        """Items that ended."""
        return self.succeeded + self.failed

    def cache_hit_rate(self) -> float:
        """Percent of input tokens that came from a cache; 0.0 without input."""
        return 100.0 * self.cached_tokens / self.input_tokens if self.input_tokens else 0.0

    def effective_input_tokens(self) -> int:
        """Input minus cached times each model's discount."""
        return effective_input_tokens(self.input_tokens, self._cached_by_discount)


@dataclass
class BatchResult(Generic[TOutput, TContext]):
    """All results of a batch, in the order they finished, and the totals that follow from them."""

    results: list[WorkItemResult[TOutput, TContext]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._totals = BatchTotals()
        for result in self.results:
            self._totals.add(result)

    @property
    def total_items(self) -> int:
        """Number of results."""
        return self._totals.total_items

    @property
    def succeeded(self) -> int:
        """Results with an output."""
        return self._totals.succeeded

    @property
    def failed(self) -> int:
        """Results with an error."""
        return self._totals.failed

    @property
    def total_input_tokens(self) -> int:
        """Input tokens of all attempts of all items, cached ones included."""
        return self._totals.input_tokens

    @property
    def total_output_tokens(self) -> int:
        """Output tokens of all attempts of all items."""
        return self._totals.output_tokens

    @property
    def total_cached_tokens(self) -> int:
        """Input tokens that were read from a cache."""
        return self._totals.cached_tokens

    @property
    def failures_by_reason(self) -> dict[str, int]:
        """Failed items by reason."""
        return dict(self._totals.failures_by_reason)

    def cache_hit_rate(self) -> float:
        """Percent of input tokens that came from a cache, 0.0 to 100.0; 0.0 without input."""
        return self._totals.cache_hit_rate()

    def effective_input_tokens(self) -> int:
        """Input tokens weighted by price: input minus cached times each model's discount, rounded up."""
        return self._totals.effective_input_tokens()
