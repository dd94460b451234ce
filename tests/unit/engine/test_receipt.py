from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_llm import LLMCallStrategy, LLMWorkItem, ParallelBatchProcessor, TokenPrices
from batch_llm.executor import Executor, Work
from batch_llm.model import (
    BatchResult,
    BatchTotals,
    ExecutionPolicy,
    OutputValidationError,
    ProviderError,
    Receipt,
    RetryConfig,
    TokenUsage,
    WorkItemResult,
    attempt_receipt,
)
from batch_llm.processor import BaseMiddleware
from batch_llm.shared import SharedStrategy

DAY = date(2026, 11, 10)
# A nano-dollar and a half for a cached token: rounding shows.
PRICES = TokenPrices("0.3", "2.5", DAY, cached_input="0.0015", cache_storage="1")
DEAR = TokenPrices("3", "25", date(2026, 10, 1), cached_input="0.3")
FOUR = ("fresh_input", "cached_input", "output", "thinking")
Scripted = Callable[..., Any]


def usage(fresh: int, cached: int = 0, output: int = 0, thinking: int = 0, **more: int) -> TokenUsage:
    return TokenUsage(
        input_tokens=fresh,
        cached_input_tokens=cached,
        output_tokens=output,
        thinking_tokens=thinking,
        **more,  # type: ignore[typeddict-item]
    )


def kinds(receipt: Receipt) -> list[tuple[int, int]]:
    return [
        (getattr(receipt, f"{kind}_tokens"), getattr(receipt, f"{kind}_nano_usd")) for kind in (*FOUR, "failed_attempt")
    ]


def priced(scripted: Scripted, *steps: Any, pricing: Any = PRICES) -> Any:
    strategy = scripted(*steps)
    strategy.pricing = pricing
    return strategy


async def run(strategy: Any, attempts: int = 3, check: Any = None) -> WorkItemResult[Any, Any]:
    policy = ExecutionPolicy(RetryConfig(attempts, jitter=False), 120.0, check)
    return await Executor(policy).run(Work("1", "prompt", SharedStrategy(strategy)))


# -- one attempt -----------------------------------------------------------------------------------------------------


def test_each_kind_is_priced_and_rounded_half_up() -> None:
    receipt = attempt_receipt(usage(1005, 5, 100, 30), PRICES, succeeded=True)
    assert kinds(receipt) == [(1000, 300_000), (5, 8), (70, 175_000), (30, 75_000), (0, 0)]  # 5 × 1.5 = 7.5
    assert receipt.total_nano_usd == 550_008
    assert receipt.total_usd == Decimal("0.000550008")
    assert receipt.uncached_nano_usd == 1005 * 300 + 250_000
    assert (receipt.total_tokens, receipt.price_date, receipt.unpriced_tokens) == (1105, DAY, 0)


def test_a_failed_attempt_costs_the_same_and_stands_apart() -> None:
    failed = attempt_receipt(usage(1005, 5, 100, 30), PRICES, succeeded=False)
    assert kinds(failed) == [(0, 0)] * 4 + [(1105, 550_008)]
    assert failed.uncached_nano_usd == 1005 * 300 + 250_000


def test_an_unknown_price_is_no_cost_rather_than_a_wrong_one() -> None:
    class Unknown:
        price_date = DAY

        def rates(self, input_tokens: int) -> None:
            return None

        def storage_rate(self) -> None:
            return None

    receipt = attempt_receipt(usage(100, 40, 10), Unknown(), succeeded=True)
    assert kinds(receipt) == [(60, 0), (40, 0), (10, 0), (0, 0), (0, 0)]
    assert (receipt.total_nano_usd, receipt.uncached_nano_usd, receipt.unpriced_tokens) == (None, None, 110)
    assert receipt.price_date == DAY, "a table was asked"
    assert receipt.total_usd is None


def test_without_tokens_nothing_is_unknown() -> None:
    assert attempt_receipt(None, PRICES, succeeded=False).total_nano_usd == 0
    assert attempt_receipt(None, None, succeeded=False) == Receipt()


def test_what_is_written_to_a_providers_own_cache_has_its_own_price() -> None:
    class Writes(TokenPrices):
        def rates(self, input_tokens: int) -> Any:
            return super().rates(input_tokens)._replace(cache_write=375_000)

    receipt = attempt_receipt(usage(100, 40, cache_write_tokens=20), Writes("0.3", "0", DAY), succeeded=True)
    assert receipt.fresh_input_nano_usd == 40 * 300 + 20 * 375
    assert receipt.uncached_nano_usd == 100 * 300


def test_counts_that_do_not_fit_together_are_put_right() -> None:
    receipt = attempt_receipt(usage(10, 30, 5, 9, cache_write_tokens=99) | {"input_tokens": 10}, PRICES, succeeded=True)
    assert [tokens for tokens, _ in kinds(receipt)] == [0, 10, 0, 5, 0]
    assert attempt_receipt({"input_tokens": -1}, PRICES, succeeded=True).total_tokens == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input": "-1"}, "input must be USD for a million tokens, 0 or more, e.g. '0.30'; got '-1'"),
        ({"output": "cheap"}, "output must be"),
        ({"cached_input": "nan"}, "cached_input must be"),
        ({"cache_storage": [1]}, "cache_storage must be"),
    ],
)
def test_bad_prices_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenPrices(**{"input": "1", "output": "1", "price_date": DAY, **fields})


def test_without_a_cached_price_cached_input_costs_as_much_as_fresh() -> None:
    assert TokenPrices("0.3", "2.5", DAY).rates(1) == (300_000, 300_000, 2_500_000, 300_000)
    assert TokenPrices("0.3", "2.5", DAY).storage_rate() is None
    assert PRICES.storage_rate() == 10**6


# -- items -----------------------------------------------------------------------------------------------------------


async def test_attempts_before_the_last_are_failed_ones(scripted: Scripted) -> None:
    down = ProviderError("down", status=503, token_usage=usage(100))
    result = await run(priced(scripted, down, ("no", usage(200, 0, 10)), ("yes", usage(300, 100, 20, 5))), check=picky)
    assert result.success
    assert kinds(result.receipt) == [
        *((200, 60_000), (100, 150), (15, 37_500), (5, 12_500)),
        (310, 100 * 300 + 200 * 300 + 10 * 2500),
    ]
    assert result.receipt.total_tokens == result.token_usage["total_tokens"]


def picky(output: Any) -> Any:
    if output == "no":
        raise OutputValidationError(["no"], "no")
    return output


async def test_an_item_that_fails_has_failed_attempts_only(scripted: Scripted) -> None:
    result = await run(priced(scripted, ("no", usage(200, 0, 10))), attempts=2, check=picky)
    assert not result.success
    assert kinds(result.receipt) == [(0, 0)] * 4 + [(420, 2 * (60_000 + 25_000))]


async def test_a_result_whose_attempt_reports_nothing_leaves_failed_ones_failed(scripted: Scripted) -> None:
    down = ProviderError("down", status=503, token_usage=usage(100))
    result = await run(priced(scripted, down, ("yes", TokenUsage())))
    assert result.success
    assert kinds(result.receipt) == [(0, 0)] * 4 + [(100, 30_000)]


async def test_each_attempt_has_its_own_models_price(scripted: Scripted) -> None:
    small, large = priced(scripted, ("no", usage(100))), priced(scripted, ("yes", usage(100)), pricing=DEAR)
    small.escalation = (large,)
    result = await run(small, check=picky)
    assert kinds(result.receipt) == [(100, 300_000), (0, 0), (0, 0), (0, 0), (100, 30_000)]
    assert result.receipt.price_date == date(2026, 10, 1), "the oldest"
    assert (Receipt(price_date=date(2026, 10, 1)) + Receipt(price_date=DAY)).price_date == date(2026, 10, 1)
    large.pricing = None
    result = await run(small, check=picky)
    assert (result.receipt.total_nano_usd, result.receipt.unpriced_tokens) == (None, 100)
    assert result.receipt.failed_attempt_nano_usd == 30_000


async def test_without_prices_tokens_are_told_apart_all_the_same(scripted: Scripted) -> None:
    down = ProviderError("down", status=503, token_usage=usage(100))
    result = await run(scripted(down, ("yes", usage(300, 100, 20, 5))))
    assert [tokens for tokens, _ in kinds(result.receipt)] == [200, 100, 15, 5, 100]
    assert (result.receipt.total_nano_usd, result.receipt.price_date) == (None, None)
    result = await run(scripted(("yes", usage(300, 100, 20, 5))))
    assert result.bill is None, "it follows from the usage, so nothing is built for it"
    assert [tokens for tokens, _ in kinds(result.receipt)] == [200, 100, 15, 5, 0]
    result = await run(scripted(ProviderError("bad", status=400, token_usage=usage(100))))
    assert [tokens for tokens, _ in kinds(result.receipt)] == [0, 0, 0, 0, 100]


async def test_usage_that_cannot_be_counted_does_not_cost_the_result(scripted: Scripted) -> None:
    result = await run(priced(scripted, ("yes", {"input_tokens": "many"})))
    assert not result.success
    assert result.receipt.total_nano_usd == 0


# -- batches ---------------------------------------------------------------------------------------------------------

counts = st.integers(0, 10**7)


@st.composite
def usages(draw: st.DrawFn) -> TokenUsage:
    fresh, output = draw(counts), draw(counts)
    cached, thinking = draw(st.integers(0, fresh)), draw(st.integers(0, output))
    return usage(fresh, cached, output, thinking)


attempts = st.lists(st.tuples(st.none() | usages(), st.sampled_from([None, PRICES, DEAR])), max_size=4)


@settings(deadline=None)  # of each example, in real time
@given(st.lists(st.tuples(attempts, st.booleans())))
def test_receipts_of_items_add_up_to_the_batchs_exactly(items: list[tuple[list[Any], bool]]) -> None:
    results = []
    for spent, success in items:
        result: WorkItemResult[Any, Any] = WorkItemResult("1", success)
        bill = Receipt()
        for number, (tokens, pricing) in enumerate(spent):
            bill.add(attempt_receipt(tokens, pricing, success and number == len(spent) - 1))
            for key, count in (tokens or {}).items():
                result.token_usage[key] = result.token_usage.get(key, 0) + count  # type: ignore[literal-required]
        if len(spent) > 1 or any(pricing for _, pricing in spent):
            result.bill = bill
        results.append(result)
        assert result.receipt.total_tokens == sum(
            (tokens or {}).get("input_tokens", 0) + (tokens or {}).get("output_tokens", 0) for tokens, _ in spent
        )
    totals = BatchTotals()
    for result in results:
        totals.add(result)
    shares = Receipt(cache_creation_nano_usd=7, cache_storage_nano_usd=5, cache_storage_token_seconds=3)
    batch = BatchResult(results, shares)
    assert totals.receipt == sum((result.receipt for result in results), Receipt())
    assert batch.receipt == totals.receipt + shares
    costs = [result.receipt.total_nano_usd for result in results]
    if all(cost is not None for cost in costs):
        assert batch.receipt.total_nano_usd == sum(cost or 0 for cost in costs) + 12
    else:
        assert batch.receipt.total_nano_usd is None
        assert batch.receipt.unpriced_tokens > 0


class Priced(LLMCallStrategy[str]):
    pricing = PRICES

    async def execute(self, prompt: str, attempt: int, timeout: float) -> tuple[str, TokenUsage]:  # type: ignore[override]
        if prompt == "bad":
            raise ProviderError("no", status=400, token_usage=usage(10))
        return prompt, usage(100, 40, 10)


async def test_a_processors_batch_has_a_receipt() -> None:
    strategy = Priced()
    async with ParallelBatchProcessor[str, None](max_workers=2) as processor:
        assert processor.receipt == Receipt()
        for number, prompt in enumerate(["a", "b", "bad"]):
            await processor.add_work(LLMWorkItem(str(number), strategy, prompt))
        batch = await processor.process_all()
        assert kinds(batch.receipt) == [(120, 36_000), (80, 120), (20, 50_000), (0, 0), (10, 3_000)]
        assert processor.receipt == batch.receipt
        assert batch.receipt.total_nano_usd == 89_120


async def test_a_middlewares_own_result_keeps_what_was_spent() -> None:
    class Instead(BaseMiddleware):
        async def on_error(self, item: Any, error: Any) -> Any:
            return WorkItemResult(item.item_id, True, "instead")

    async with ParallelBatchProcessor[str, None](max_workers=2, middlewares=[Instead()]) as processor:
        await processor.add_work(LLMWorkItem("1", Priced(), "bad"))
        batch = await processor.process_all()
    assert batch.succeeded == 1
    assert kinds(batch.receipt) == [(0, 0)] * 4 + [(10, 3_000)]
