"""The layer on google-genai, with the real package over HTTP against scripted answers."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from batch_llm.model import ErrorReason, OutputValidationError, ProviderError
from batch_llm.strategies.gemini.errors import (
    GeminiErrorClassifier,
    cache_is_gone,
    cache_too_small,
    cache_unavailable,
    translated,
)
from batch_llm.strategies.gemini.replies import read_reply
from batch_llm.strategies.gemini.requests import (
    cache_config,
    call_config,
    contents_of,
    contents_with,
    settings_of,
    without_cacheable,
)
from batch_llm.strategies.gemini.sdk import cache_api_version, close_client, make_client

from .scripted_endpoint import Answer, Endpoint, scripted_endpoint

genai = pytest.importorskip("google.genai")
# Clients made without us, from 2 on and with aiohttp installed.
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")

KEY = "AIza-test-0123456789"
MODEL = "gemini-2.5-flash"
USAGE = {
    "promptTokenCount": 100,
    "cachedContentTokenCount": 64,
    "toolUsePromptTokenCount": 10,
    "candidatesTokenCount": 5,
    "thoughtsTokenCount": 7,
    "totalTokenCount": 122,
}
TOKENS = {"input_tokens": 110, "output_tokens": 12, "cached_input_tokens": 64, "thinking_tokens": 7}
RATINGS = [{"category": "HARM_CATEGORY_HARASSMENT", "probability": "NEGLIGIBLE"}]


def answer(*parts: dict[str, Any], finish: str | None = "STOP", **more: Any) -> Answer:
    content = {"content": {"role": "model", "parts": list(parts)}} if parts else {}
    candidate = {**content, "finishReason": finish, "index": 0, "safetyRatings": RATINGS}
    return Answer(body={"candidates": [candidate], "usageMetadata": USAGE, "modelVersion": "gemini-x", **more})


def refusal(code: int, message: str = "no", status: str = "", headers: Any = None, **more: Any) -> Answer:
    return Answer(code, {"error": {"code": code, "message": message, "status": status, **more}}, headers or {})


def violated(*quotas: str, **more: Any) -> dict[str, Any]:
    violations = [{"quotaId": quota, **more} for quota in quotas]
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": violations}


def retry_info(delay: str) -> dict[str, str]:
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with scripted_endpoint() as running:
        running.answers = [answer({"text": "hi"})]
        yield running


@pytest.fixture
async def client(endpoint: Endpoint) -> AsyncIterator[Any]:
    client = make_client(api_key=KEY, base_url=endpoint.root)
    yield client
    await close_client(client)


async def ask(client: Any, *, parser: Any = None, settings: Any = None, **more: Any) -> Any:
    config = call_config(settings, whole=parser is not None, **more)
    with translated(KEY):
        response = await client.aio.models.generate_content(model=MODEL, contents=contents_with("a"), config=config)
    return read_reply(response, MODEL, parser)


async def fails(client: Any, **more: Any) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await ask(client, **more)
    assert KEY not in str(caught.value)
    return caught.value


BOTH_WAYS = pytest.mark.parametrize("parser", [None, lambda response: response.text], ids=["body", "whole"])


# -- what is sent ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    "response_json_schema" not in genai.types.GenerateContentConfig.model_fields, reason="older packages know less"
)
async def test_settings_go_where_the_api_has_them(client: Any, endpoint: Endpoint) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "additionalProperties": False}
    settings = settings_of(
        system_instruction="Be brief.",
        temperature=0,
        max_output_tokens=9,
        top_p=0.5,
        top_k=3,
        seed=7,
        stop_sequences=["END"],
        output_json_schema=json.dumps(schema),
        thinking_budget=0,
        safety_settings={"HARM_CATEGORY_HARASSMENT": "BLOCK_NONE"},
        tools=[{"googleSearch": {}}],
    )
    config = call_config(settings)
    for prompt in ("a", "b"):  # one configuration serves all calls
        await client.aio.models.generate_content(model=MODEL, contents=contents_with(prompt), config=config)
    first, second = endpoint.requests
    # The package spells it either way, and so does the API.
    thinking = first["generationConfig"].pop("thinkingConfig")
    assert thinking in ({"thinkingBudget": 0}, {"thinking_budget": 0})
    del second["generationConfig"]["thinkingConfig"]
    assert first == {
        "contents": [{"role": "user", "parts": [{"text": "a"}]}],
        "systemInstruction": {"role": "user", "parts": [{"text": "Be brief."}]},
        "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
        "tools": [{"googleSearch": {}}],
        "generationConfig": {
            "temperature": 0,
            "maxOutputTokens": 9,
            "topP": 0.5,
            "topK": 3,
            "seed": 7,
            "stopSequences": ["END"],
            "responseMimeType": "application/json",
            "responseJsonSchema": schema,
        },
    }
    assert {**second, "contents": first["contents"]} == first
    assert set(endpoint.paths) == {f"/v1beta/models/{MODEL}:generateContent"}
    assert endpoint.headers[0]["x-goog-api-key"] == KEY


async def test_a_cache_takes_what_calls_on_it_must_not_set(client: Any, endpoint: Endpoint) -> None:
    settings = settings_of(system_instruction="Be brief.", tools=[{"googleSearch": {}}], temperature=0)
    endpoint.answers = [Answer(body={"name": "cachedContents/x"}), answer({"text": "hi"})]
    await client.aio.caches.create(
        model=MODEL,
        config=cache_config(settings, contents=contents_of(["one", "two"]), display_name="fp", ttl_seconds=59.5),
    )
    await ask(client, settings=without_cacheable(settings), cached_content="cachedContents/x")
    created, asked = endpoint.requests
    assert created == {
        "model": f"models/{MODEL}",
        "displayName": "fp",
        "ttl": "60s",
        "contents": [{"role": "user", "parts": [{"text": text}]} for text in ("one", "two")],
        "systemInstruction": {"role": "user", "parts": [{"text": "Be brief."}]},
        "tools": [{"googleSearch": {}}],
    }
    assert asked == {
        "contents": [{"role": "user", "parts": [{"text": "a"}]}],
        "cachedContent": "cachedContents/x",
        "generationConfig": {"temperature": 0},
    }
    assert endpoint.paths[0] == "/v1beta/cachedContents"


async def test_what_is_in_no_cache_comes_before_the_prompt(client: Any, endpoint: Endpoint) -> None:
    contents = contents_with("a", contents_of(["one", {"role": "model", "parts": [{"text": "two"}]}]))
    await client.aio.models.generate_content(model=MODEL, contents=contents, config=call_config(None))
    assert endpoint.requests[0]["contents"] == [
        {"role": "user", "parts": [{"text": "one"}]},
        {"role": "model", "parts": [{"text": "two"}]},
        {"role": "user", "parts": [{"text": "a"}]},
    ]


async def test_a_client_of_vertex_ai(endpoint: Endpoint) -> None:
    from google.oauth2.credentials import Credentials

    client = make_client(project="p", location="l", credentials=Credentials("token"), base_url=endpoint.root)
    assert (await ask(client))[:2] == ("hi", TOKENS)
    await close_client(client)
    assert endpoint.paths == [f"/v1beta1/projects/p/locations/l/publishers/google/models/{MODEL}:generateContent"]
    assert endpoint.headers[0]["authorization"] == "Bearer token"


async def test_the_environment_neither_changes_the_api_nor_gives_keys_to_strangers(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
    monkeypatch.setenv("GOOGLE_API_KEY", "secret-of-google")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "secret-project")
    client = make_client(base_url=endpoint.root)
    await ask(client)
    await close_client(client)
    assert "secret" not in str(endpoint.headers) + str(endpoint.paths)


async def test_a_proxy_of_the_environment_is_used(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", endpoint.root)
    client = make_client(api_key=KEY, base_url="http://gemini.invalid")
    await ask(client)
    await close_client(client)
    assert endpoint.paths == [f"http://gemini.invalid/v1beta/models/{MODEL}:generateContent"]
    monkeypatch.setenv("no_proxy", "gemini.invalid")
    client = make_client(api_key=KEY, base_url="http://gemini.invalid")
    assert (await fails(client)).reason is ErrorReason.PROVIDER_UNAVAILABLE
    await close_client(client)


async def test_a_users_client_is_asked_for_the_version_that_has_caches(endpoint: Endpoint) -> None:
    for options in ({}, {"api_version": "v1alpha"}):
        client = genai.Client(api_key=KEY, vertexai=False, http_options={"base_url": endpoint.root, **options})
        version = cache_api_version(client)
        for parser in (None, lambda response: response.text):
            assert (await ask(client, parser=parser, api_version=version))[0] == "hi"
        await close_client(client)
    assert [path.split("/")[1] for path in endpoint.paths] == ["v1beta", "v1beta", "v1alpha", "v1alpha"]


async def test_calls_are_not_logged_at_info(client: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        await ask(client, parser=lambda response: response.text)
    assert caplog.records == []


@pytest.mark.skipif(
    "async_client_args" not in genai.types.HttpOptions.model_fields, reason="before 1.11 there is a pool of 100"
)
async def test_more_than_a_hundred_calls_at_a_time(client: Any, endpoint: Endpoint) -> None:
    endpoint.answers = [answer({"text": "hi"}), Answer(silent=True)]
    calls = [asyncio.ensure_future(ask(client)) for _ in range(130)]
    while len(endpoint.requests) < 130:  # noqa: ASYNC110 # the endpoint is in a thread
        await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"project": "p"}, "location is missing"),
        ({"location": "l"}, "project is missing"),
        ({"api_key": KEY, "project": "p", "location": "l"}, "give one of them"),
        ({"api_key": KEY, "credentials": object()}, "credentials go with project"),
    ],
)
def test_arguments_that_do_not_go_together(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make_client(**arguments)
    assert KEY not in str(caught.value)


def test_a_missing_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ProviderError, match="GOOGLE_API_KEY or GEMINI_API_KEY") as caught:
        make_client()
    assert caught.value.reason is ErrorReason.PREPARE_FAILED


# -- what comes back ---------------------------------------------------------------------------------------------------


@BOTH_WAYS
async def test_text_tokens_and_what_the_result_shows(client: Any, endpoint: Endpoint, parser: Any) -> None:
    endpoint.answers = [answer({"text": "let me think", "thought": True}, {"text": "one "}, {"text": "two"})]
    text, usage, metadata = await ask(client, parser=parser)
    assert (text, usage) == ("one two", TOKENS)
    assert metadata == {
        "finish_reason": "STOP",
        "model": "gemini-x",
        "safety_ratings": {"HARM_CATEGORY_HARASSMENT": "NEGLIGIBLE"},
    }


@BOTH_WAYS
async def test_half_an_answer_says_why_it_ends(client: Any, endpoint: Endpoint, parser: Any) -> None:
    endpoint.answers = [answer({"text": "half"}, finish="MAX_TOKENS")]
    text, _, metadata = await ask(client, parser=parser)
    assert (text, metadata["finish_reason"]) == ("half", "MAX_TOKENS")


@BOTH_WAYS
@pytest.mark.parametrize(
    ("given", "reason", "message"),
    [
        (answer({"text": "half"}, finish="SAFETY"), ErrorReason.CONTENT_BLOCKED, "output was blocked: SAFETY"),
        (answer(finish="PROHIBITED_CONTENT"), ErrorReason.CONTENT_BLOCKED, "PROHIBITED_CONTENT"),
        (answer(finish="RECITATION"), ErrorReason.CONTENT_BLOCKED, "RECITATION"),
        (
            Answer(body={"promptFeedback": {"blockReason": "BLOCKLIST"}, "usageMetadata": USAGE}),
            ErrorReason.CONTENT_BLOCKED,
            "prompt was blocked: BLOCKLIST",
        ),
        (answer(finish="MAX_TOKENS"), ErrorReason.PROVIDER_REJECTED, "7 tokens of it by thinking"),
        (answer({"text": "hm", "thought": True}, finish="MAX_TOKENS"), ErrorReason.PROVIDER_REJECTED, "raise max_out"),
        (answer(), ErrorReason.PROVIDER_UNAVAILABLE, "no text"),
        (answer({"text": ""}), ErrorReason.PROVIDER_UNAVAILABLE, "no text"),
        (answer(finish="MALFORMED_FUNCTION_CALL"), ErrorReason.PROVIDER_UNAVAILABLE, "MALFORMED_FUNCTION_CALL"),
        (Answer(body={"usageMetadata": USAGE}), ErrorReason.PROVIDER_UNAVAILABLE, "no text"),
    ],
)
async def test_an_empty_or_blocked_answer_fails_with_its_tokens(
    client: Any, endpoint: Endpoint, parser: Any, given: Answer, reason: ErrorReason, message: str
) -> None:
    endpoint.answers = [given]
    error = await fails(client, parser=parser)
    assert (error.reason, error.token_usage) == (reason, TOKENS)
    assert error.retryable is (reason is ErrorReason.PROVIDER_UNAVAILABLE)
    assert message in str(error)


async def test_a_blocked_answer_says_what_blocked_it(client: Any, endpoint: Endpoint) -> None:
    endpoint.answers = [answer(finish="SAFETY")]
    assert (await fails(client)).metadata == {
        "finish_reason": "SAFETY",
        "safety_ratings": "HARM_CATEGORY_HARASSMENT=NEGLIGIBLE",
    }


async def test_a_function_call_is_for_a_parser(client: Any, endpoint: Endpoint) -> None:
    endpoint.answers = [answer({"functionCall": {"name": "f", "args": {"x": 1}}})]
    assert (await ask(client, parser=lambda response: response.function_calls[0].args))[:2] == ({"x": 1}, TOKENS)
    assert "no text but functionCall; a response_parser" in str(await fails(client))


async def test_what_a_parser_refuses_still_has_its_tokens(client: Any, endpoint: Endpoint) -> None:
    endpoint.answers = [answer({"text": "not json"})]
    with pytest.raises(OutputValidationError, match="not JSON") as invalid:
        await ask(client, parser=lambda response: json.loads(response.text))
    assert (invalid.value.token_usage, invalid.value.output) == (TOKENS, "not json")

    def refuse(response: Any) -> Any:
        raise KeyError(response.text)

    with pytest.raises(KeyError) as caught:
        await ask(client, parser=refuse)
    assert caught.value.token_usage == TOKENS  # type: ignore[attr-defined]


# -- faults ------------------------------------------------------------------------------------------------------------

PER_MINUTE = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
PER_DAY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"


@BOTH_WAYS
@pytest.mark.parametrize(
    ("given", "reason", "retryable"),
    [
        (refusal(400, "bad field", "INVALID_ARGUMENT"), ErrorReason.PROVIDER_REJECTED, False),
        (refusal(400, f"API key not valid: {KEY}"), ErrorReason.AUTHENTICATION_FAILED, False),
        (refusal(400, "no", details=[{"reason": "API_KEY_INVALID"}]), ErrorReason.AUTHENTICATION_FAILED, False),
        (refusal(401), ErrorReason.AUTHENTICATION_FAILED, False),
        (refusal(403, "Permission denied", "PERMISSION_DENIED"), ErrorReason.AUTHENTICATION_FAILED, False),
        (refusal(404, "models/x is not found for API version v1beta"), ErrorReason.PROVIDER_REJECTED, False),
        (refusal(408), ErrorReason.PROVIDER_TIMEOUT, True),
        (refusal(429, details=[violated(PER_MINUTE)]), ErrorReason.RATE_LIMITED, True),
        (refusal(429, details=[violated(PER_MINUTE, PER_DAY)]), ErrorReason.RATE_LIMITED, False),
        (refusal(429), ErrorReason.RATE_LIMITED, True),
        (refusal(499, "cancelled", "CANCELLED"), ErrorReason.PROVIDER_TIMEOUT, True),
        (refusal(500, "internal", "INTERNAL"), ErrorReason.PROVIDER_UNAVAILABLE, True),
        (Answer(500, [{"error": {"code": 500, "message": "in a list"}}]), ErrorReason.PROVIDER_UNAVAILABLE, True),
        (Answer(500, 7), ErrorReason.PROVIDER_UNAVAILABLE, True),
        (refusal(503, "overloaded", "UNAVAILABLE"), ErrorReason.PROVIDER_UNAVAILABLE, True),
        (refusal(504, "deadline", "DEADLINE_EXCEEDED"), ErrorReason.PROVIDER_TIMEOUT, True),
        (
            Answer(502, b"<html>bad gateway</html>", {"content-type": "text/html"}),
            ErrorReason.PROVIDER_UNAVAILABLE,
            True,
        ),
        (Answer(404, b""), ErrorReason.PROVIDER_REJECTED, False),
        (Answer(304), ErrorReason.PROVIDER_REJECTED, False),
        (Answer(307, headers={"location": "/round"}), ErrorReason.PROVIDER_REJECTED, False),
        (Answer(body=b'{"candidates": ['), ErrorReason.PROVIDER_UNAVAILABLE, True),
        (Answer(body=b"<html>", headers={"content-type": "text/html"}), ErrorReason.PROVIDER_UNAVAILABLE, True),
        (Answer(body=b"[1]"), ErrorReason.PROVIDER_UNAVAILABLE, True),
        (Answer(body=b""), ErrorReason.PROVIDER_UNAVAILABLE, True),
        (Answer(None), ErrorReason.PROVIDER_UNAVAILABLE, True),
        (Answer(body={"candidates": []}, cut=True), ErrorReason.PROVIDER_UNAVAILABLE, True),
    ],
)
async def test_faults_are_classified(
    client: Any, endpoint: Endpoint, parser: Any, given: Answer, reason: ErrorReason, retryable: bool
) -> None:
    endpoint.answers = [given]
    error = await fails(client, parser=parser)
    assert (error.reason, error.retryable) == (reason, retryable)
    assert not any(is_fault(error) for is_fault in (cache_is_gone, cache_too_small, cache_unavailable))
    if given.status != 307:
        assert len(endpoint.requests) == 1  # neither the package nor its transport sends anything again


async def test_a_quota_is_named(client: Any, endpoint: Endpoint) -> None:
    endpoint.answers = [refusal(429, "slow", "RESOURCE_EXHAUSTED", details=[violated(PER_MINUTE)])]
    error = await fails(client)
    assert error.metadata == {"status": "429", "code": "RESOURCE_EXHAUSTED", "quota": PER_MINUTE}


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (refusal(429, details=[violated(PER_MINUTE), retry_info("57.2s")]), 57.2),
        (refusal(429, "Please retry in 45m28s.", details=[retry_info("3s")]), 3.0),
        (refusal(429, "Please retry in 45m28s.", headers={"Retry-After": "7"}), 7.0),
        (refusal(429, "Quota exceeded.\nPlease retry in 45m28s."), 2728.0),
        (refusal(429, "Please retry in 1h0m0.5s."), 3600.5),
        (refusal(429, "Please retry in 513.2ms."), 0.5132),
        (refusal(503, "busy", headers={"Retry-After": "2"}), 2.0),
        (refusal(429, "Please try again later."), None),
        (refusal(429, details=[violated(PER_DAY), retry_info("36s")]), None),
    ],
)
async def test_the_wait_that_it_asks_for_is_passed_on(
    client: Any, endpoint: Endpoint, given: Answer, seconds: float | None
) -> None:
    endpoint.answers = [given]
    assert (await fails(client)).retry_after == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("message", "sizes"),
    [
        (
            "The input token count (1200293) exceeds the maximum number of tokens allowed (1048576).",
            {"prompt_tokens": "1200293", "context_tokens": "1048576"},
        ),
        (
            "The input token count exceeds the maximum number of tokens allowed 1048576.",
            {"context_tokens": "1048576"},
        ),
    ],
)
async def test_a_prompt_that_does_not_fit_says_so_with_its_sizes(
    client: Any, endpoint: Endpoint, message: str, sizes: dict[str, str]
) -> None:
    endpoint.answers = [refusal(400, message, "INVALID_ARGUMENT")]
    error = await fails(client)
    assert (error.reason, error.retryable) == (ErrorReason.CONTEXT_LENGTH_EXCEEDED, False)
    assert {key: value for key, value in error.metadata.items() if key.endswith("tokens")} == sizes


async def test_a_slow_answer_is_the_packages_time_out_not_the_engines(endpoint: Endpoint) -> None:
    endpoint.answers = [Answer(silent=True)]
    client = make_client(api_key=KEY, base_url=endpoint.root, timeout_seconds=0.05)
    error = await fails(client)
    assert (error.reason, error.retryable) == (ErrorReason.PROVIDER_TIMEOUT, True)
    await close_client(client)


async def test_nobody_there_is_unavailable() -> None:
    client = make_client(api_key=KEY, base_url="http://127.0.0.1:1")
    error = await fails(client)
    assert (error.reason, error.retryable) == (ErrorReason.PROVIDER_UNAVAILABLE, True)
    await close_client(client)


GONE = [
    refusal(403, "CachedContent not found (or permission denied)", "PERMISSION_DENIED"),
    refusal(400, "Cache content 8765 is expired.", "INVALID_ARGUMENT"),
    refusal(404, "Not found: projects/1/locations/l/cachedContents/8765.", "NOT_FOUND"),
    refusal(404, "Not found: cached content metadata for 8765.", "NOT_FOUND"),
]


@pytest.mark.parametrize("given", GONE)
async def test_a_cache_that_is_gone_is_known_from_the_package_and_from_ours(
    client: Any, endpoint: Endpoint, given: Answer
) -> None:
    endpoint.answers = [given]
    error = await fails(client, cached_content="cachedContents/8765")
    assert cache_is_gone(error)
    assert (error.reason, error.retryable) == (ErrorReason.CACHE_EXPIRED, False)
    with pytest.raises(genai.errors.APIError) as raw:
        await client.aio.models.generate_content(model=MODEL, contents="a")
    assert cache_is_gone(raw.value)
    assert not cache_too_small(raw.value)


@pytest.mark.parametrize(
    ("message", "sizes"),
    [
        ("Cached content is too small. total_token_count=97, min_total_token_count=1024", (97, 1024)),
        ("The cached content is of 97 tokens. The minimum token count to start caching is 4096.", (97, 4096)),
    ],
)
async def test_content_that_is_too_small_to_cache(
    client: Any, endpoint: Endpoint, message: str, sizes: tuple[int, int]
) -> None:
    endpoint.answers = [refusal(400, message, "INVALID_ARGUMENT")]
    with pytest.raises(ProviderError) as caught, translated():
        await client.aio.caches.create(model=MODEL, config={"contents": contents_of(["short"])})
    assert cache_too_small(caught.value) == sizes
    assert not cache_is_gone(caught.value)


async def test_the_free_tier_has_no_caches(client: Any, endpoint: Endpoint) -> None:
    quota = "TotalCachedContentStorageTokensPerModelFreeTier"
    for limit, unavailable in ((0, True), (1_000_000, False)):
        message = f"{quota} limit exceeded for model {MODEL}: limit={limit}, requested=4223"
        endpoint.answers = [refusal(429, message, "RESOURCE_EXHAUSTED")]
        error = await fails(client)
        assert cache_unavailable(error) is unavailable
        assert (error.reason, error.retryable) == (ErrorReason.RATE_LIMITED, not unavailable)


# -- strategies of users who call the package themselves ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "reason", "wait"),
    [
        (refusal(429, details=[retry_info("5s")]), ErrorReason.RATE_LIMITED, 5.0),
        (refusal(503), ErrorReason.PROVIDER_UNAVAILABLE, None),
        (refusal(403), ErrorReason.AUTHENTICATION_FAILED, None),
        (GONE[0], ErrorReason.CACHE_EXPIRED, None),
        (Answer(body={"candidates": []}, cut=True), ErrorReason.PROVIDER_UNAVAILABLE, None),
        (Answer(silent=True), ErrorReason.PROVIDER_TIMEOUT, None),
    ],
)
async def test_the_classifier_knows_the_packages_own_exceptions(
    endpoint: Endpoint, given: Answer, reason: ErrorReason, wait: float | None
) -> None:
    endpoint.answers = [given]
    if given.silent:  # the package's own transport may be aiohttp, with which time-outs do not work before 1.54
        client = make_client(api_key=KEY, base_url=endpoint.root, timeout_seconds=0.2)
    else:
        client = genai.Client(api_key=KEY, vertexai=False, http_options={"base_url": endpoint.root})
    with pytest.raises(Exception) as raw:  # noqa: PT011 # whatever the package raises
        await client.aio.models.generate_content(model=MODEL, contents="a")
    await close_client(client)
    info = GeminiErrorClassifier().classify(raw.value)
    assert (info.item_reason, info.suggested_wait) == (reason, wait)
    assert info.is_rate_limit is (reason is ErrorReason.RATE_LIMITED)
    assert info.is_overload is (given.status == 503)
