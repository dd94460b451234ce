from typing import Any

import pytest

from batch_llm.model import BatchResult, BatchTotals, ErrorReason, TokenUsage, WorkItemResult


def result(
    success: bool = True, *, tokens: tuple[int, int, int] = (0, 0, 0), **fields: Any
) -> WorkItemResult[Any, Any]:
    fresh, cached, output = tokens
    usage = TokenUsage(input_tokens=fresh, cached_input_tokens=cached, output_tokens=output)
    return WorkItemResult("1", success, token_usage=usage, **fields)


def test_totals_follow_from_results_failed_ones_included() -> None:
    batch = BatchResult(
        [
            result(tokens=(100, 80, 10)),
            result(False, tokens=(50, 0, 5), reason=ErrorReason.RATE_LIMITED),
            result(False, reason=ErrorReason.RATE_LIMITED),
            result(False),
        ]
    )
    assert (batch.total_items, batch.succeeded, batch.failed) == (4, 1, 3)
    assert (batch.total_input_tokens, batch.total_cached_tokens, batch.total_output_tokens) == (150, 80, 15)
    assert batch.failures_by_reason == {"RATE_LIMITED": 2, "UNSPECIFIED": 1}


def test_an_item_without_usage_counts_as_zero() -> None:
    batch = BatchResult([WorkItemResult("1", True)])
    assert (batch.total_items, batch.total_input_tokens, batch.effective_input_tokens()) == (1, 0, 0)


@pytest.mark.parametrize(
    ("tokens", "rate"), [((0, 0, 9), 0.0), ((8, 2, 0), 25.0), ((8, 8, 0), 100.0), ((8, 0, 0), 0.0)]
)
def test_hit_rate_is_percent_of_input(tokens: tuple[int, int, int], rate: float) -> None:
    assert BatchResult([result(tokens=tokens)]).cache_hit_rate() == rate


def test_no_results_have_no_hit_rate() -> None:
    assert BatchTotals().cache_hit_rate() == 0.0


def test_each_model_has_its_own_discount() -> None:
    batch = BatchResult(
        [
            result(tokens=(100, 100, 0), cache_discount=0.9),
            result(tokens=(100, 100, 0), cache_discount=0.75),
            result(tokens=(100, 0, 0), cache_discount=1.0),
        ]
    )
    assert batch.effective_input_tokens() == 10 + 25 + 100


def test_effective_tokens_are_rounded_once_for_the_batch() -> None:
    batch = BatchResult([result(tokens=(1, 1, 0), cache_discount=0.9)] * 10)
    assert batch.effective_input_tokens() == 1  # ten times 0.1; rounded item by item it would be 10
