"""Gemini strategies' calls, with the real SDK; what is counted are the requests at the emulator."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google import genai
from google.genai import types
from google.oauth2.credentials import Credentials
from pydantic import BaseModel

from batch_llm import (
    BaseObserver,
    BatchResult,
    ErrorReason,
    GeminiStrategy,
    ProcessingEvent,
    RateLimitConfig,
    RetryConfig,
)
from batch_llm.emulator import GeminiEmulator
from batch_llm.strategies.gemini.connection import Connection

from .conftest import script
from .gemini import (
    HANDBOOK,
    HANDBOOK_TOKENS,
    INSTRUCTION,
    MODEL,
    PatientLoop,
    Watch,
    all_first_time,
    arrived,
    bodies,
    cached,
    counts,
    new_key,
    processor,
    record_of,
    run,
    run_once,
    users_client,
)

SCHEMA = {"type": "object", "properties": {"team": {"type": "string"}}, "required": ["team"]}
RATINGS = {"HARM_CATEGORY_HARASSMENT": "NEGLIGIBLE", "HARM_CATEGORY_HATE_SPEECH": "LOW"}


@pytest.fixture
def watch(gemini_emulator: GeminiEmulator) -> Watch:
    return Watch(gemini_emulator)


@pytest.fixture
async def client(gemini_emulator: GeminiEmulator) -> AsyncIterator[Any]:
    async with users_client(gemini_emulator) as client:
        yield client


@pytest.fixture
def connection(gemini_emulator: GeminiEmulator) -> Connection:
    """The client that the sidecar makes: it sends nothing twice, whatever is installed beside the SDK."""
    return Connection(api_key=new_key(), base_url=gemini_emulator.url)


# -- what goes where ---------------------------------------------------------------------------------------------------

CONFIG: dict[str, Any] = {
    "system_instruction": INSTRUCTION,
    "tools": [{"function_declarations": [{"name": "look_up"}]}],
    "tool_config": {"function_calling_config": {"mode": "ANY"}},
    "temperature": 0.25,
    "max_output_tokens": 99,
    "seed": 7,
    "safety_settings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
    "response_mime_type": "application/json",
    "response_json_schema": SCHEMA,
}
IN_CACHE = {"systemInstruction", "tools", "toolConfig"}
GENERATION = {
    "temperature": 0.25,
    "maxOutputTokens": 99,
    "seed": 7,
    "responseMimeType": "application/json",
    "responseJsonSchema": SCHEMA,
}


@pytest.mark.parametrize("config", [CONFIG, types.GenerateContentConfig.model_validate(CONFIG)], ids=["dict", "object"])
async def test_settings_go_where_the_api_wants_them(
    client: Any, gemini_emulator: GeminiEmulator, watch: Watch, config: Any
) -> None:
    all_first_time(await run_once(cached(client, watch, config=config), ["my parcel"]), 1)
    created = json.loads(bodies(gemini_emulator, "create")[0])
    asked = json.loads(bodies(gemini_emulator, "generate")[0])
    assert {name for name in IN_CACHE if name in created} == IN_CACHE
    assert created["systemInstruction"]["parts"] == [{"text": INSTRUCTION}]
    assert created["contents"] == [{"role": "user", "parts": [{"text": HANDBOOK}]}]
    assert "generationConfig" not in created
    assert not IN_CACHE & set(asked)
    assert asked["contents"] == [{"role": "user", "parts": [{"text": "my parcel"}]}]
    assert asked["generationConfig"] == GENERATION
    assert asked["safetySettings"] == [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]
    assert asked["cachedContent"] == created_name(gemini_emulator)
    all_first_time(await run_once(GeminiStrategy(MODEL, client, None, config), ["my parcel"]), 1)
    alone = json.loads(bodies(gemini_emulator, "generate")[1])
    assert {name for name in IN_CACHE if name in alone} == IN_CACHE
    assert {**asked, **{name: alone[name] for name in IN_CACHE}} == {**alone, "cachedContent": asked["cachedContent"]}


def created_name(emulator: GeminiEmulator) -> str:
    return str(emulator.requests("create")[0]["cached_content"])


async def test_contents_of_every_kind_are_cached(client: Any, gemini_emulator: GeminiEmulator, watch: Watch) -> None:
    picture = types.Part.from_bytes(data=b"\x89PNG", mime_type="image/png")
    contents = [HANDBOOK, types.Content(role="user", parts=[picture, types.Part(text="a picture")])]
    first, second = (cached(client, watch, cached_content=contents) for _ in range(2))
    assert first.context_cache.fingerprint == second.context_cache.fingerprint
    all_first_time(await run_once(first, 1), 1)
    all_first_time(await run_once(second, 1), 1)
    created = json.loads(bodies(gemini_emulator, "create")[0])
    assert [len(content["parts"]) for content in created["contents"]] == [1, 2]
    assert counts(gemini_emulator) == {"list": 2, "create": 1, "generate": 2}


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"temprature": 0.5}, "temprature: google-genai"),
        ({"temperature": "hot"}, "temperature: "),
        ({"tools": [{"google_serch": {}}]}, "google_serch: google-genai"),
    ],
)
async def test_a_setting_that_the_sdk_does_not_know_is_named_and_nobody_is_called(
    client: Any, gemini_emulator: GeminiEmulator, watch: Watch, config: dict[str, Any], says: str
) -> None:
    for strategy in (GeminiStrategy(MODEL, client, None, config), cached(client, watch, config=config)):
        (item,) = (await run_once(strategy, 1)).results
        assert (item.reason, item.retryable, item.attempts) == (ErrorReason.PREPARE_FAILED, False, 0)
        assert says in str(item.error)
    assert counts(gemini_emulator) == {}


# -- what comes back ---------------------------------------------------------------------------------------------------


async def test_the_result_has_what_gemini_says_of_its_answer(
    client: Any, gemini_emulator: GeminiEmulator, watch: Watch
) -> None:
    said = script(reply="billing", safety_ratings=RATINGS, thinking_tokens=30, tool_use_tokens=20, finish_reason="STOP")
    (result,) = (await run_once(cached(client, watch), [said])).results
    assert (result.output, result.finish_reason, result.model) == ("billing", "STOP", MODEL)
    assert result.gemini_safety_ratings == RATINGS
    prompt = -(-len(said) // 4)
    assert result.token_usage == {
        "input_tokens": HANDBOOK_TOKENS + prompt + 20,
        "output_tokens": 2 + 30,
        "total_tokens": HANDBOOK_TOKENS + prompt + 20 + 2 + 30,
        "cached_input_tokens": HANDBOOK_TOKENS,
        "thinking_tokens": 30,
    }


@pytest.mark.parametrize(
    ("said", "reason", "says", "calls"),
    [
        ({"finish_reason": "SAFETY", "safety_ratings": RATINGS}, ErrorReason.CONTENT_BLOCKED, "SAFETY", 1),
        ({"block_reason": "PROHIBITED_CONTENT"}, ErrorReason.CONTENT_BLOCKED, "PROHIBITED_CONTENT", 1),
        ({"empty": True}, ErrorReason.PROVIDER_UNAVAILABLE, "no text", 3),
        ({"no_candidates": True}, ErrorReason.PROVIDER_UNAVAILABLE, "no text", 3),
        ({"empty": True, "finish_reason": "MAX_TOKENS"}, ErrorReason.PROVIDER_REJECTED, "max_output_tokens", 1),
    ],
)
async def test_an_answer_without_text_fails_with_its_tokens(
    client: Any,
    gemini_emulator: GeminiEmulator,
    watch: Watch,
    said: dict[str, Any],
    reason: ErrorReason,
    says: str,
    calls: int,
) -> None:
    prompt = script(**said, thinking_tokens=50)
    result = await run_once(cached(client, watch), [prompt])
    (item,) = result.results
    assert (item.success, item.reason, item.attempts) == (False, reason, calls)
    assert says in str(item.error)
    assert item.token_usage["input_tokens"] == calls * (HANDBOOK_TOKENS + -(-len(prompt) // 4))
    assert item.token_usage["cached_input_tokens"] == calls * HANDBOOK_TOKENS == result.total_cached_tokens
    assert item.token_usage["thinking_tokens"] == calls * 50
    assert counts(gemini_emulator) == {"list": 1, "create": 1, "generate": calls}


async def test_tokens_of_failed_attempts_count(client: Any, gemini_emulator: GeminiEmulator, watch: Watch) -> None:
    gemini_emulator.answer({"empty": True, "thinking_tokens": 5}, times=2, kind="generate")
    (item,) = (await run_once(cached(client, watch), ["1234"])).results
    assert (item.success, item.attempts) == (True, 3)
    assert item.token_usage["cached_input_tokens"] == 3 * HANDBOOK_TOKENS
    assert item.token_usage["thinking_tokens"] == 10
    assert item.receipt.failed_attempt_tokens == 2 * (HANDBOOK_TOKENS + 1 + 5)


async def test_googles_own_cache_hits_count_like_ours(client: Any, gemini_emulator: GeminiEmulator) -> None:
    gemini_emulator.configure(implicit_caching=True)
    result = await run_once(GeminiStrategy(MODEL, client), [HANDBOOK + "1", HANDBOOK + "2"], workers=1)
    hits = [each.token_usage["cached_input_tokens"] for each in result.results]
    assert hits[0] == 0
    assert hits[1] == result.total_cached_tokens == len(HANDBOOK) // 1024 * 1024 // 4
    assert result.results[1].receipt.cached_input_tokens == hits[1]


class Label(BaseModel):
    """What an answer must be."""

    team: str


class Labelling(GeminiStrategy[Any]):
    """Answers that must be labels."""

    output_model = Label


async def test_an_answer_that_is_no_label_is_asked_for_again_one_model_higher(
    client: Any, gemini_emulator: GeminiEmulator
) -> None:
    low, high = Labelling(MODEL, client), Labelling("gemini-2.5-pro", client)
    low.escalation = [high]
    (item,) = (await run_once(low, [script(replies=["logistics", '{"team": "logistics"}'])])).results
    assert (item.output, item.attempts, item.model) == (Label(team="logistics"), 2, "gemini-2.5-pro")
    assert [request["model"] for request in gemini_emulator.requests("generate")] == [MODEL, "gemini-2.5-pro"]
    assert "Your last answer was" in bodies(gemini_emulator, "generate")[1]


async def test_a_parser_sees_the_answer_and_what_it_finds_wrong_is_told_to_the_model(
    client: Any, gemini_emulator: GeminiEmulator, watch: Watch
) -> None:
    strategy = cached(
        client, watch, response_parser=lambda response: Label.model_validate_json(response.text), config=None
    )
    (item,) = (await run_once(strategy, [script(replies=["{}", '{"team": "billing"}'])])).results
    assert (item.output, item.attempts) == (Label(team="billing"), 2)
    assert "at team: Field required" in bodies(gemini_emulator, "generate")[1]
    assert counts(gemini_emulator) == {"list": 1, "create": 1, "generate": 2}
    calling = cached(client, watch, response_parser=lambda response: response.function_calls[0].name, config=None)
    (item,) = (await run_once(calling, [script(function_calls=[{"name": "look_up"}])])).results
    assert item.output == "look_up"


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drop", ["before", "after", "middle"])
async def test_a_connection_that_is_dropped_costs_an_attempt_and_no_more(
    connection: Connection, gemini_emulator: GeminiEmulator, watch: Watch, drop: str
) -> None:
    gemini_emulator.fail(drop=drop, kind="generate")
    result = await run_once(cached(connection, watch), 10)
    assert sorted(each.attempts for each in result.results) == [1] * 9 + [2]
    assert result.succeeded == 10
    assert counts(gemini_emulator) == {"list": 1, "create": 1, "generate": 11}


async def test_a_connection_that_is_always_dropped_is_given_up(
    connection: Connection, gemini_emulator: GeminiEmulator, watch: Watch
) -> None:
    gemini_emulator.fail(drop="middle", kind="generate", times=None)
    (item,) = (await run_once(cached(connection, watch), 1)).results
    assert (item.reason, item.retryable, item.attempts) == (ErrorReason.PROVIDER_UNAVAILABLE, True, 3)
    assert counts(gemini_emulator) == {"list": 1, "create": 1, "generate": 3}


async def test_a_users_client_may_send_again_by_itself_and_nothing_else_changes(
    client: Any, gemini_emulator: GeminiEmulator
) -> None:
    # With aiohttp installed the SDK's own transport repeats a request that was cut short, and counts no attempt.
    gemini_emulator.fail(drop="before", kind="generate")
    (item,) = (await run_once(GeminiStrategy(MODEL, client), 1)).results
    assert item.success
    assert counts(gemini_emulator) == {"generate": 2}


@pytest.mark.parametrize("status", [499, 500, 503, 504])
async def test_what_passes_is_tried_again(
    client: Any, gemini_emulator: GeminiEmulator, watch: Watch, status: int
) -> None:
    gemini_emulator.fail(status, kind="generate", times=2)
    (item,) = (await run_once(cached(client, watch), 1)).results
    assert (item.success, item.attempts) == (True, 3)
    assert counts(gemini_emulator) == {"list": 1, "create": 1, "generate": 3}


@pytest.mark.parametrize(
    ("fault", "pause"),
    [
        ({"quota": "requests_per_minute", "retry_after_seconds": 57.2}, 57.2),
        ({"quota": "tokens_per_minute", "retry_after_seconds": 90}, 90),
        ({"quota": "requests_per_minute", "quota_errors": "text", "retry_after_seconds": 2728}, 2728),
        ({"status": 429, "headers": {"retry-after": "77"}}, 77),
        ({"quota": "requests_per_minute", "quota_errors": "bare"}, 42),
    ],
    ids=["RetryInfo", "tokens", "text", "header", "bare"],
)
def test_a_quota_by_minute_makes_all_wait_as_long_as_google_says(
    gemini_emulator: GeminiEmulator, fault: dict[str, Any], pause: float
) -> None:
    gemini_emulator.fail(**fault, kind="generate")
    result, pauses = _with_pauses(gemini_emulator, 10)
    all_first_time(result, 10)
    assert pauses == [pytest.approx(pause, abs=0.01)]
    assert counts(gemini_emulator) == {"list": 1, "create": 1, "generate": 11}


def test_a_real_quota_by_minute_is_kept_to(gemini_emulator: GeminiEmulator) -> None:
    gemini_emulator.configure(requests_per_minute=5)
    result, pauses = _with_pauses(gemini_emulator, 12)
    all_first_time(result, 12)
    assert pauses == [pytest.approx(60, abs=0.01)] * 2
    assert gemini_emulator.count("generate", status=200) == 12
    assert gemini_emulator.count("generate", status=429) == 2


def _with_pauses(emulator: GeminiEmulator, items: int) -> tuple[BatchResult[Any, Any], list[float]]:
    """Run items one by one; their results, and the pauses, which are over at once."""
    watch = Watch(emulator)
    pauses: list[float] = []

    class Observer(BaseObserver):
        async def on_event(self, event: ProcessingEvent, data: dict[str, Any]) -> None:
            if event is not ProcessingEvent.COOLDOWN_STARTED:
                return
            pauses.append(data["duration"])
            for _ in range(100):  # nobody calls meanwhile
                await asyncio.sleep(0)
            before = emulator.count("generate")
            for _ in range(100):
                await asyncio.sleep(0)
            assert emulator.count("generate") == before
            loop.ahead += data["duration"]
            watch.advance(data["duration"])

    async def scenario() -> BatchResult[Any, Any]:
        async with users_client(emulator) as client:
            limits = RateLimitConfig(cooldown_seconds=42, slow_start_items=0)
            return await run_once(cached(client, watch), items, workers=1, rate_limit=limits, observers=[Observer()])

    loop = PatientLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(scenario()), pauses


async def test_a_days_quota_is_an_end(client: Any, gemini_emulator: GeminiEmulator, watch: Watch) -> None:
    gemini_emulator.configure(requests_per_day=3)
    result = await run_once(cached(client, watch), 10, workers=1)
    assert result.succeeded == 3
    for item in result.results[3:]:
        assert (item.reason, item.retryable, item.attempts) == (ErrorReason.RATE_LIMITED, False, 1)
        assert "PerDay" in item.error_metadata["quota"]
    assert counts(gemini_emulator) == {"list": 1, "create": 1, "generate": 10}


async def test_a_bad_key_is_an_end(gemini_emulator: GeminiEmulator) -> None:
    async with users_client(gemini_emulator, "bad-key") as client:
        result = await run_once(GeminiStrategy(MODEL, client), 3)
    assert {(each.reason, each.retryable, each.attempts) for each in result.results} == {
        (ErrorReason.AUTHENTICATION_FAILED, False, 1)
    }
    assert counts(gemini_emulator) == {"generate": 3}


def test_a_call_that_hangs_is_cut_short_and_tried_again(
    connection: Connection, gemini_emulator: GeminiEmulator, watch: Watch
) -> None:
    gemini_emulator.hold(kind="generate", times=1)
    loop = PatientLoop()

    async def scenario() -> BatchResult[Any, Any]:
        by = processor(1, RetryConfig(max_attempts=2, initial_wait=0, max_wait=0), timeout_per_item=120)
        async with by:
            batch = asyncio.create_task(run(by, cached(connection, watch), 1))
            await arrived(gemini_emulator, "generate")
            loop.ahead += 121
            return await batch

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        (item,) = runner.run(scenario()).results
    assert (item.success, item.attempts) == (True, 2)
    assert counts(gemini_emulator) == {"list": 1, "create": 1, "generate": 2}


# -- Vertex AI ---------------------------------------------------------------------------------------------------------


@pytest.fixture
async def vertex(gemini_emulator: GeminiEmulator) -> AsyncIterator[genai.Client]:
    client = genai.Client(
        vertexai=True,
        project=new_key(),
        location="europe-west4",
        credentials=Credentials("test-token"),
        http_options=types.HttpOptions(base_url=gemini_emulator.url, api_version="v1beta1"),
    )
    yield client
    await client.aio.aclose()
    client.close()


async def test_the_cache_of_a_vertex_client_expires_is_renewed_deleted(
    vertex: genai.Client, gemini_emulator: GeminiEmulator, watch: Watch
) -> None:
    strategy = cached(vertex, watch)
    held = gemini_emulator.hold(kind="generate")
    async with processor() as by:
        batch = asyncio.create_task(run(by, strategy, 10))
        await arrived(gemini_emulator, "generate", 10)
        watch.fall_behind(3600)
        gemini_emulator.release(held)
        all_first_time(await batch, 10)
        assert {request["status"] for request in gemini_emulator.requests("generate")} == {200, 400}
        gemini_emulator.forget()
        all_first_time(await run(by, strategy, 10), 10)
        assert {request["status"] for request in gemini_emulator.requests("generate")} == {200, 400, 404}
        watch.advance(3400)
        all_first_time(await run(by, strategy, 1), 1)
        await strategy.context_cache.join()
    assert record_of(strategy).name.startswith("projects/key-")
    again = cached(vertex, watch)
    assert (await again.context_cache.create_or_reuse())[1]
    assert await again.delete_cache()
    seen = counts(gemini_emulator)
    assert (seen["list"], seen["create"], seen["update"], seen["delete"]) == (4, 3, 1, 1)
    assert {request["api"] for request in gemini_emulator.requests()} == {"vertex"}


async def test_vertex_says_too_small_in_other_words(
    vertex: genai.Client, gemini_emulator: GeminiEmulator, watch: Watch
) -> None:
    strategy = cached(vertex, watch, cached_content=["A small handbook."])
    all_first_time(await run_once(strategy, 3), 3)
    assert "has 10 tokens" in str(strategy.context_cache.refused)
    assert counts(gemini_emulator) == {"list": 1, "create": 1, "generate": 3}
    assert "A small handbook." in bodies(gemini_emulator, "generate")[0]


async def test_a_bad_token_is_an_end(gemini_emulator: GeminiEmulator, watch: Watch) -> None:
    client = genai.Client(
        vertexai=True,
        project=new_key(),
        location="europe-west4",
        credentials=Credentials("bad-key"),
        http_options=types.HttpOptions(base_url=gemini_emulator.url, api_version="v1beta1"),
    )
    (item,) = (await run_once(cached(client, watch), 1)).results
    assert (item.reason, item.retryable) == (ErrorReason.AUTHENTICATION_FAILED, False)
    assert counts(gemini_emulator) == {"list": 1}
    await client.aio.aclose()
    client.close()
