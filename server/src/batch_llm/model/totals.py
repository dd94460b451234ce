"""The totals of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic

from .items import AnyResult, TContext, TOutput, WorkItemResult
from .receipt import Receipt
from .usage import TokenUsage, effective_input_tokens


class BatchTotals:
    """Sums that grow by a result at a time, so that a streamed batch needs no list of its results."""

    __slots__ = (
        "_cached_by_discount",
        "_other_cached",
        "_other_input",
        "_other_output",
        "_others",
        "_thinking",
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
        # Most items of strategies without prices succeed at once: what they used follows from the sums.
        self._thinking = 0
        self._others = Receipt()
        self._other_input = 0
        self._other_cached = 0
        self._other_output = 0

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
        if result.bill is not None or not result.success:
            self._others.add(result.receipt)
            self._other_input += usage.get("input_tokens", 0)
            self._other_cached += cached
            self._other_output += usage.get("output_tokens", 0)
        elif thinking := usage.get("thinking_tokens", 0):
            self._thinking += min(thinking, usage.get("output_tokens", 0))

    @property
    def total_items(self) -> int:
        """Items that ended."""
        return self.succeeded + self.failed

    @property
    def receipt(self) -> Receipt:
        """The sum of the items' receipts."""
        receipt = Receipt()
        receipt.add_unpriced(
            TokenUsage(
                input_tokens=self.input_tokens - self._other_input,
                cached_input_tokens=self.cached_tokens - self._other_cached,
                output_tokens=self.output_tokens - self._other_output,
                thinking_tokens=self._thinking,
            ),
            succeeded=True,
        )
        return receipt + self._others

    def dump(self) -> dict[str, Any]:
        """All of it as plain data, for `load`."""
        sums = {name.lstrip("_"): getattr(self, name) for name in self.__slots__}
        sums["others"] = self._others.dump()
        sums["cached_by_discount"] = [*self._cached_by_discount.items()]  # JSON's keys are texts
        return sums

    @classmethod
    def load(cls, sums: Mapping[str, Any]) -> BatchTotals:
        """What was dumped."""
        totals = cls()
        for name in cls.__slots__:
            setattr(totals, name, sums[name.lstrip("_")])
        totals._others = Receipt.load(sums["others"])
        totals._cached_by_discount = dict(sums["cached_by_discount"])
        return totals

    def cache_hit_rate(self) -> float:
        """Percent of input tokens that came from a cache; 0.0 without input."""
        return 100.0 * self.cached_tokens / self.input_tokens if self.input_tokens else 0.0

    def effective_input_tokens(self) -> int:
        """Input minus cached times each model's discount."""
        return effective_input_tokens(self.input_tokens, self._cached_by_discount)


@dataclass
class BatchResult(Generic[TOutput, TContext]):
    """All results of a batch, in the order they finished, and the totals that follow from them.

    Args:
        results: the results.
        cache_costs: the batch's share of what its context caches cost.
    """

    results: list[WorkItemResult[TOutput, TContext]] = field(default_factory=list)
    cache_costs: Receipt = field(default_factory=Receipt)

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
    def receipt(self) -> Receipt:
        """Tokens by kind and their cost: the sum of the results' receipts and of `cache_costs`."""
        return self._totals.receipt + self.cache_costs

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
