"""The layer on google-genai against the emulator, which knows both APIs by their own words."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest

from batch_llm.model import ErrorReason, ProviderError
from batch_llm.strategies.gemini.errors import cache_is_gone, cache_too_small, cache_unavailable, translated
from batch_llm.strategies.gemini.replies import read_reply
from batch_llm.strategies.gemini.requests import cache_config, call_config, contents_of, contents_with
from batch_llm.strategies.gemini.sdk import close_client, make_client

if TYPE_CHECKING:
    from batch_llm.emulator import GeminiEmulator

pytest.importorskip("batch_llm.emulator")
pytest.importorskip("google.genai")

MODEL = "gemini-2.5-flash"
HANDBOOK = "x" * 80_000  # 20,000 tokens


@pytest.fixture(params=["developer", "vertex"])
async def client(request: pytest.FixtureRequest, gemini_emulator: GeminiEmulator) -> AsyncIterator[Any]:
    from google.oauth2.credentials import Credentials

    if request.param == "vertex":
        who = {"project": "shop", "location": "europe-west4", "credentials": Credentials("test-token")}
    else:
        who = {"api_key": "test-key"}
    client = make_client(base_url=gemini_emulator.url, **who)  # type: ignore[arg-type]
    yield client
    await close_client(client)


async def create(client: Any, text: str = HANDBOOK) -> Any:
    config = cache_config(
        {"system_instruction": "Label the ticket."}, contents=contents_of([text]), display_name="fp", ttl_seconds=600
    )
    with translated():
        return await client.aio.caches.create(model=MODEL, config=config)


async def ask(client: Any, cache: str | None = None) -> Any:
    with translated():
        response = await client.aio.models.generate_content(
            model=MODEL, contents=contents_with("1234"), config=call_config(None, cached_content=cache)
        )
    return read_reply(response, MODEL)


async def fails(client: Any, cache: str | None = None) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await ask(client, cache)
    return caught.value


async def test_a_cached_call(client: Any) -> None:
    cache = await create(client)
    text, usage, metadata = await ask(client, cache.name)
    assert (text, metadata["finish_reason"]) == ("emulated: 1234", "STOP")
    assert (usage["input_tokens"], usage["cached_input_tokens"]) == (20_006, 20_005)
    assert usage["output_tokens"] > 0


@pytest.mark.parametrize("style", ["auto", "permission_denied", "expired", "not_found"])
@pytest.mark.parametrize("how", ["expired", "deleted"])
async def test_a_cache_that_is_gone(client: Any, gemini_emulator: GeminiEmulator, style: str, how: str) -> None:
    gemini_emulator.configure(missing_cache=style)
    cache = await create(client)
    if how == "expired":
        gemini_emulator.advance(601)
    else:
        await client.aio.caches.delete(name=cache.name)
    error = await fails(client, cache.name)
    assert cache_is_gone(error)
    assert error.reason is ErrorReason.CACHE_EXPIRED
    with pytest.raises(ProviderError) as renewal, translated():
        await client.aio.caches.update(name=cache.name, config={"ttl": "600s"})
    assert cache_is_gone(renewal.value)


async def test_content_that_is_too_small(client: Any) -> None:
    with pytest.raises(ProviderError) as caught:
        await create(client, "x" * 400)
    assert cache_too_small(caught.value) == (105, 1024)


async def test_the_free_tier(gemini_emulator: GeminiEmulator) -> None:
    gemini_emulator.configure(free_tier=True)
    client = make_client(api_key="test-key", base_url=gemini_emulator.url)
    with pytest.raises(ProviderError) as caught:
        await create(client)
    await close_client(client)
    assert cache_unavailable(caught.value)
    assert not caught.value.retryable


@pytest.mark.parametrize("style", ["details", "text"])
async def test_quotas(client: Any, gemini_emulator: GeminiEmulator, style: str) -> None:
    gemini_emulator.configure(quota_errors=style, requests_per_minute=1, clock_frozen=True)
    await ask(client)
    error = await fails(client)
    assert (error.reason, error.retryable) == (ErrorReason.RATE_LIMITED, True)
    assert error.retry_after is not None
    assert 50 < error.retry_after <= 61


async def test_a_days_quota(client: Any, gemini_emulator: GeminiEmulator) -> None:
    gemini_emulator.configure(quota_errors="details", requests_per_day=1)
    await ask(client)
    error = await fails(client)
    assert (error.reason, error.retryable) == (ErrorReason.RATE_LIMITED, False)
    assert "PerDay" in error.metadata["quota"]


async def test_a_bad_key_is_no_cache_that_is_gone(gemini_emulator: GeminiEmulator) -> None:
    client = make_client(api_key="bad-key", base_url=gemini_emulator.url)
    error = await fails(client, "cachedContents/x")
    await close_client(client)
    assert (error.reason, cache_is_gone(error)) == (ErrorReason.AUTHENTICATION_FAILED, False)
