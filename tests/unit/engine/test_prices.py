import asyncio
import logging
import subprocess
import sys
from datetime import UTC, date, datetime
from typing import Any

import pytest
from genai_prices import Usage, __version__, calc_price, data_snapshot

from batch_llm.model import attempt_receipt
from batch_llm.strategies.openai import OpenAIStrategy, cache_discount_of
from batch_llm.strategies.openai_replies import read_usage
from batch_llm.strategies.prices import _RELEASES, ListPrices, gemini_cache_discount, release_date

NOVEMBER = datetime(2026, 11, 20, 10, 7, tzinfo=UTC).timestamp()


def prices(provider: Any, model: str, at: float = NOVEMBER) -> ListPrices:
    return ListPrices(provider, model, clock=lambda: at)


@pytest.mark.parametrize(
    ("provider", "model", "input_tokens"),
    [
        ("google", "gemini-2.5-flash", 20_100),
        ("google", "gemini-2.5-pro", 200_000),
        ("google", "gemini-2.5-pro", 200_001),
        ("google", "gemini-2.0-flash", 500_000),
        ("google", "gemini-3.1-pro-preview", 250_000),
        ("google", "gemini-3.8-flash", 999),
        ("openai", "gpt-4o-mini", 1000),
        ("openai", "gpt-5-mini", 300_000),
        ("openai", "gpt-6-sol", 272_000),
        ("openai", "gpt-6-sol", 272_001),
    ],
)
def test_costs_are_those_of_the_package(provider: Any, model: str, input_tokens: int) -> None:
    cached = input_tokens * 4 // 5
    receipt = attempt_receipt(
        {"input_tokens": input_tokens, "cached_input_tokens": cached, "output_tokens": 321, "thinking_tokens": 120},
        prices(provider, model),
        succeeded=True,
    )
    said = calc_price(
        Usage(input_tokens=input_tokens, cache_read_tokens=cached, output_tokens=321),
        model,
        provider_id=provider,
        genai_request_timestamp=datetime.fromtimestamp(NOVEMBER, UTC),
    )
    total = receipt.total_nano_usd
    assert total is not None
    assert abs(total - said.total_price * 10**9) <= 2, "each of four kinds is rounded to a nano-dollar"


def test_cache_writes_are_priced_where_the_list_does() -> None:
    usage = {"input_tokens": 1000, "cached_input_tokens": 200, "cache_write_tokens": 300, "output_tokens": 10}
    said = calc_price(
        Usage(input_tokens=1000, cache_read_tokens=200, cache_write_tokens=300, output_tokens=10),
        "gpt-6-sol",
        provider_id="openai",
    )
    receipt = attempt_receipt(usage, prices("openai", "gpt-6-sol"), succeeded=True)  # type: ignore[arg-type]
    assert receipt.total_nano_usd == said.total_price * 10**9
    reported = {"prompt_tokens": 1000, "prompt_tokens_details": {"cached_tokens": 200, "cache_write_tokens": 300}}
    assert read_usage(reported).get("cache_write_tokens") == 300
    assert "cache_write_tokens" not in read_usage({"prompt_tokens": 1000})


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("google", "gemini-99-ultra"),
        ("google", "claude-sonnet-4-5-at-anthropic"),
        ("google", "gemini-2.5-flash-image"),  # images cost otherwise, and token counts do not tell them
        ("google", "gemini-embedding-001"),
        ("openai", "house-model"),
        ("openai", "gemini-2.5-flash"),
    ],
)
def test_a_model_without_a_price_that_fits_has_none(provider: Any, model: str) -> None:
    unknown = prices(provider, model)
    assert unknown.rates(10) is None
    assert unknown.price_date == release_date(__version__)


@pytest.mark.parametrize("name", ["models/gemini-2.5-pro", "publishers/google/models/gemini-2.5-pro"])
def test_names_may_say_whose_model_it_is(name: str) -> None:
    assert prices("google", name).rates(1) == prices("google", "gemini-2.5-pro").rates(1)


@pytest.mark.parametrize(
    ("model", "dollars"),
    [
        ("gemini-2.5-flash", "1.00"),
        ("gemini-2.5-pro", "4.50"),
        ("gemini-3.1-pro-preview", "4.50"),
        ("gemini-pro-latest", "4.50"),
        ("gemini-3.8-flash", "0.50"),
        ("gemini-4-argon", None),
        ("gemini-99-ultra", None),
    ],
)
def test_storage_has_a_table_of_its_own(model: str, dollars: str | None) -> None:
    assert prices("google", model).storage_rate() == (None if dollars is None else float(dollars) * 10**6)


def test_prices_change_on_their_day() -> None:
    now = datetime(2026, 12, 31, 23, 59, tzinfo=UTC).timestamp()
    flash = ListPrices("google", "gemini-3.8-flash", clock=lambda: now)
    rates = flash.rates(1)
    assert (rates and rates.input, flash.storage_rate()) == (750_000, 500_000)
    now += 60
    rates = flash.rates(1)
    assert (rates and rates.input, flash.storage_rate()) == (1_500_000, 1_000_000)


def test_the_date_is_that_of_the_packages_release() -> None:
    assert __version__ == _RELEASES[-1][0], "a new release is pinned: add the day on which it came out"
    assert release_date("0.2.3") == date(2026, 11, 10)
    assert release_date("0.2.99") == date(2026, 11, 10)


def test_without_the_package_costs_are_unknown_and_the_log_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    with caplog.at_level(logging.WARNING, "batch_llm"):
        assert prices("openai", "gpt-5").rates(1) is None
        assert prices("openai", "gpt-5").price_date is None
    assert "pip install 'batch-llm[openai]'" in caplog.text


def test_the_package_is_imported_when_a_price_is_asked_for() -> None:
    code = (
        "import sys, batch_llm\nfrom batch_llm import OpenAIStrategy\ns = OpenAIStrategy('gpt-5', api_key='k')\n"
        "assert 'genai_prices' not in sys.modules\ns.pricing.rates(1)\nassert 'genai_prices' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_openais_own_endpoint_alone_has_openais_prices() -> None:
    ours = OpenAIStrategy("gpt-5-mini", api_key="k")

    async def prepared() -> None:
        await ours.prepare()  # in a thread, so not in the virtual loop
        await ours.cleanup()

    asyncio.run(prepared())
    assert ours.pricing is not None
    assert ours.pricing.rates(1) == prices("openai", "gpt-5-mini").rates(1)
    for url in ("http://127.0.0.1:1/v1", "https://eu.api.openai.com/v1", "https://x.openai.azure.com/openai/v1"):
        assert OpenAIStrategy("gpt-5-mini", api_key="k", base_url=url).pricing is None


@pytest.mark.parametrize(
    ("provider", "discount_of", "others"),
    [
        (
            "google",
            gemini_cache_discount,
            ("-8b", "gemini-flash-1.5", "gemini-pro-1.5"),
        ),  # gone, or other people's names
        ("openai", cache_discount_of, ("image", "oss")),  # no chat models, or not OpenAI's to serve
    ],
)
def test_discounts_agree_with_the_prices(provider: Any, discount_of: Any, others: tuple[str, ...]) -> None:
    (listed,) = (each for each in data_snapshot.get_snapshot().providers if each.id == provider)
    models = [model for model in listed.models if model.id.startswith(("gemini-", "gpt-", "o1", "o3", "o4"))]
    seen = 0
    for model in models:
        rates = prices(provider, model.id).rates(1)
        cached = model.get_prices(datetime.fromtimestamp(NOVEMBER, UTC)).cache_read_mtok
        if rates is not None and cached is not None and not any(part in model.id for part in others):
            seen += 1
            assert 1 - rates.cached_input / rates.input == pytest.approx(discount_of(model.id)), model.id
    assert seen > 10


@pytest.mark.parametrize(
    ("model", "discount"),
    [
        ("gemini-1.5-pro", 0.75),
        ("models/gemini-2.0-flash", 0.75),
        ("gemini-2.5-flash", 0.9),
        ("gemini-3-pro-preview", 0.9),
        ("gemini-flash-latest", 0.9),
        ("unheard-of", 0.9),
    ],
)
def test_gemini_discounts(model: str, discount: float) -> None:
    assert gemini_cache_discount(model) == discount
