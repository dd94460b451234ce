"""What holds for every batch, whatever a case expects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .adapter import Answer


@dataclass
class Ledger:
    """Adds up the results of one batch as its client gets them.

    Args:
        after: results up to this sequence are not this client's.
    """

    after: int = 0
    opened: bool = False
    """Whether the stream has begun with `opened`; of streams alone."""
    _results: list[dict[str, Any]] = field(default_factory=list)
    _indexes: set[int] = field(default_factory=set)
    _ended: bool = False

    def add(self, answer: Answer) -> None:
        """Note what came.

        Raises:
            AssertionError: a sequence with a gap, an item with two results, or totals that are not the results' sum.
        """
        for result in answer.get("results", ()):
            self._check(result)
        if "totals" in answer:
            assert not self._ended, "the batch had ended already"
            self._ended = True
            if self.after == 0:
                self._check_totals(answer["totals"])

    def _check(self, result: dict[str, Any]) -> None:
        assert not self._ended, f"a result after the totals: {result['item_id']}"
        following = self.after + len(self._results) + 1
        assert result["sequence"] == following, f"sequence {result['sequence']} where {following} follows"
        assert "outcome" not in result, f"{result['item_id']} has neither an output nor an error"
        assert result["submission_index"] not in self._indexes, f"{result['item_id']} has two results"
        self._indexes.add(result["submission_index"])
        self._results.append(result)

    def _check_totals(self, totals: dict[str, Any]) -> None:
        results = self._results
        failed = [result["reason"] for result in results if "reason" in result]
        input_tokens, cached = _sum(results, "input_tokens"), _sum(results, "cached_input_tokens")
        expected = {
            "total_items": len(results),
            "succeeded": len(results) - len(failed),
            "failed": len(failed),
            "total_input_tokens": input_tokens,
            "total_output_tokens": _sum(results, "output_tokens"),
            "total_cached_tokens": cached,
            "failures_by_reason": dict(Counter(failed)),
        }
        came = {key: totals[key] for key in expected}
        assert came == expected, f"the results add up to {expected}, the totals say {came}"
        rate = 100 * cached / input_tokens if input_tokens else 0.0
        assert abs(totals["cache_hit_rate"] - rate) < 1e-6, f"the cache hit rate is {rate}, not {totals}"


def _sum(results: Iterable[dict[str, Any]], name: str) -> int:
    return sum(result["usage"][name] for result in results)
