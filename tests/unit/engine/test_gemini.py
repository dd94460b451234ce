"""Gemini's layer where no answer over HTTP is needed: exceptions by name, tokens, settings, the package's absence."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from batch_llm.model import ErrorReason, OutputValidationError, ProviderError
from batch_llm.strategies.gemini import sdk
from batch_llm.strategies.gemini.errors import GeminiErrorClassifier, as_provider_error, cache_is_gone
from batch_llm.strategies.gemini.replies import read_reply, read_usage
from batch_llm.strategies.gemini.requests import (
    as_json,
    call_config,
    config_of,
    contents_of,
    settings_of,
    ttl_text,
    without_cacheable,
)


def raised(qualified: str, *bases: type[Exception], **attributes: Any) -> Exception:
    """An exception as a library that is not imported here would raise it."""
    module, _, name = qualified.rpartition(".")
    kind = type(name, bases or (Exception,), {"__module__": module, **attributes})
    error: Exception = kind("said")
    return error


def api_error(code: int, message: str) -> Exception:
    return raised("google.genai.errors.APIError", code=code, details={"error": {"message": message}}, message=message)


HTTPX_TIMEOUT = type(raised("httpx.TimeoutException"))
CLIENT_ERROR = type(raised("aiohttp.client_exceptions.ClientError"))
AUTH_ERROR = type(raised("google.auth.exceptions.GoogleAuthError"))


# -- exceptions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (raised("httpx.ReadTimeout", HTTPX_TIMEOUT), ErrorReason.PROVIDER_TIMEOUT),
        (raised("httpx.ConnectError"), ErrorReason.PROVIDER_UNAVAILABLE),
        (raised("httpx2.RemoteProtocolError"), ErrorReason.PROVIDER_UNAVAILABLE),
        (raised("httpx.TooManyRedirects"), ErrorReason.PROVIDER_REJECTED),
        (raised("aiohttp.client_exceptions.ServerDisconnectedError", CLIENT_ERROR), ErrorReason.PROVIDER_UNAVAILABLE),
        (
            raised("aiohttp.client_exceptions.ServerTimeoutError", CLIENT_ERROR, TimeoutError),
            ErrorReason.PROVIDER_TIMEOUT,
        ),
        (raised("aiohttp.client_exceptions.TooManyRedirects", CLIENT_ERROR, code=0), ErrorReason.PROVIDER_REJECTED),
        (TimeoutError(), ErrorReason.PROVIDER_TIMEOUT),
        (raised("google.auth.exceptions.DefaultCredentialsError", AUTH_ERROR), ErrorReason.AUTHENTICATION_FAILED),
        (raised("google.auth.exceptions.RefreshError", AUTH_ERROR), ErrorReason.AUTHENTICATION_FAILED),
        (
            raised("google.auth.exceptions.RefreshError", AUTH_ERROR, retryable=True),
            ErrorReason.PROVIDER_UNAVAILABLE,
        ),
        (raised("google.auth.exceptions.TransportError", AUTH_ERROR), ErrorReason.PROVIDER_UNAVAILABLE),
        (api_error(503, "busy"), ErrorReason.PROVIDER_UNAVAILABLE),
        (api_error(400, "API key expired. Please renew the API key."), ErrorReason.AUTHENTICATION_FAILED),
        (ProviderError("ours", status=429), ErrorReason.RATE_LIMITED),
        # Not the package's: as DefaultErrorClassifier has it.
        (ValueError("a user's"), ErrorReason.INTERNAL),
        (OutputValidationError(["no"], "text"), ErrorReason.VALIDATION_FAILED),
        (raised("elsewhere.APIError", code=503), ErrorReason.PROVIDER_UNAVAILABLE),
        (raised("elsewhere.APIError", code=403), ErrorReason.AUTHENTICATION_FAILED),
    ],
)
def test_exceptions_are_known_by_name(error: Exception, reason: ErrorReason) -> None:
    assert GeminiErrorClassifier().classify(error).item_reason is reason


@pytest.mark.parametrize(
    "error",
    [
        api_error(403, "Permission denied on resource project"),
        api_error(403, "Method doesn't allow unregistered callers"),
        api_error(400, "Cached content is too small. total_token_count=1, min_total_token_count=2"),
        api_error(404, "models/gemini-9 is not found for API version v1beta"),
        api_error(500, "CachedContent not found"),
        raised("elsewhere.APIError", code=403, message="CachedContent not found"),
        ProviderError("CachedContent not found", status=403),
        ValueError("CachedContent not found"),
    ],
)
def test_no_other_error_is_a_cache_that_is_gone(error: Exception) -> None:
    assert not cache_is_gone(error)


def test_a_bug_stays_what_it_is() -> None:
    assert as_provider_error(TypeError("a bug")) is None


# -- tokens ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "tokens"),
    [
        ((100, 5, None, None, 105), (100, 5, 0)),
        ((100, 5, 7, None, 112), (100, 12, 7)),
        ((100, 5, None, None, 112), (100, 12, 7)),  # before 1.8, thoughts are in the total only
        ((100, 5, None, 10, 122), (110, 12, 7)),
        ((100, 5, 0, 10, 122), (110, 5, 0)),
        ((100, None, None, None, 100), (100, 0, 0)),
        ((100, 5, None, None, None), (100, 5, 0)),
        ((100, 5, None, None, 50), (100, 5, 0)),
        ((None, None, None, None, None), (0, 0, 0)),
    ],
)
def test_tokens_add_up(counts: tuple[int | None, ...], tokens: tuple[int, int, int]) -> None:
    names = (
        "promptTokenCount",
        "candidatesTokenCount",
        "thoughtsTokenCount",
        "toolUsePromptTokenCount",
        "totalTokenCount",
    )
    usage = read_usage({name: count for name, count in zip(names, counts, strict=True) if count is not None})
    assert (usage["input_tokens"], usage["output_tokens"], usage["thinking_tokens"]) == tokens


def test_an_answer_without_counts_has_no_tokens() -> None:
    assert read_usage(None) == {}


def test_a_pydantic_parser_names_every_mismatch() -> None:
    from google.genai import types
    from pydantic import BaseModel

    class Label(BaseModel):
        n: int

    content = {"role": "model", "parts": [{"text": '{"n": "x"}'}]}
    response = types.GenerateContentResponse.model_validate({"candidates": [{"content": content}]})
    with pytest.raises(OutputValidationError, match="at n: ") as caught:
        read_reply(response, "m", lambda whole: Label.model_validate_json(whole.text or ""))
    assert caught.value.output == '{"n": "x"}'


# -- settings ----------------------------------------------------------------------------------------------------------


def test_only_what_is_given_is_set() -> None:
    assert settings_of() == {}
    assert settings_of(temperature=0, thinking_budget=0) == {
        "temperature": 0,
        "thinking_config": {"thinking_budget": 0},
    }
    assert config_of(None).model_dump(exclude_none=True) == {}


def test_a_users_configuration_is_not_changed() -> None:
    from google.genai import types

    mine = types.GenerateContentConfig(temperature=0.5, http_options=types.HttpOptions(headers={"x": "y"}))
    made = call_config(mine, cached_content="cachedContents/x", api_version="v1beta")
    assert (mine.cached_content, mine.automatic_function_calling) == (None, None)
    assert made.http_options is not None
    assert (made.http_options.api_version, made.http_options.headers) == ("v1beta", {"x": "y"})
    assert mine.http_options is not None
    assert mine.http_options.api_version is None


def test_a_version_that_the_user_chose_stays() -> None:
    made = call_config({"http_options": {"api_version": "v1alpha"}}, api_version="v1beta")
    assert made.http_options is not None
    assert made.http_options.api_version == "v1alpha"


def test_the_package_calls_functions_of_users_and_nothing_else() -> None:
    def add(x: int) -> int:
        return x + 1

    functions, tools = call_config({"tools": [add]}), call_config({"tools": [{"google_search": {}}]})
    assert functions.automatic_function_calling is None
    assert not getattr(functions, "should_return_http_response", None)
    assert tools.automatic_function_calling is not None
    assert tools.automatic_function_calling.disable


@pytest.mark.parametrize("name", ["system_instruction", "tools", "tool_config"])
def test_what_belongs_into_the_cache_is_refused_beside_it(name: str) -> None:
    settings = {"system_instruction": "s", "tools": [{"google_search": {}}], "tool_config": {}}
    with pytest.raises(ValueError, match=f"{name} belongs into the context cache"):
        call_config({name: settings[name]}, cached_content="cachedContents/x")
    assert call_config(without_cacheable(settings), cached_content="cachedContents/x").system_instruction is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temprature": 1}, r"temprature: google-genai [\d.]+ does not know it"),
        ({"temperature": "hot"}, "temperature: Input should be a valid number.*got 'hot'"),
        ({"thinking_config": {"depth": 3}}, r"thinking_config\.depth: google-genai"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_of(settings)


def test_a_name_that_the_package_does_not_know_is_told_once_and_sent(
    caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    from google.genai import types

    levels = "thinking_level" in types.ThinkingConfig.model_fields  # from 2 on
    settings = settings_of(
        safety_settings={"HARM_CATEGORY_RUDNESS": "BLOCK_NOEN", "HARM_CATEGORY_HARASSMENT": "block_none"},
        thinking_level="DEEPEST" if levels else None,
    )
    for made in (config_of(settings), config_of(settings), config_of(config_of(settings))):
        assert made.safety_settings is not None
        assert as_json(made.safety_settings[0]) == {"category": "HARM_CATEGORY_RUDNESS", "threshold": "BLOCK_NOEN"}
    told = [record.getMessage() for record in caplog.records]
    assert [message.partition(":")[0] for message in told] == [
        *(["thinking_config.thinking_level"] if levels else []),
        "safety_settings[0].category",
        "safety_settings[0].threshold",
    ]
    assert "does not know 'DEEPEST'" in told[0] or not levels
    assert "does not know 'HARM_CATEGORY_RUDNESS'" in told[-2]
    assert not recwarn.list


def test_contents_may_be_texts_objects_and_mappings() -> None:
    from google.genai import types

    content = types.Content(role="user", parts=[types.Part(text="a")])
    as_text, as_object, as_mapping = contents_of(["a", content, {"role": "user", "parts": [{"text": "a"}]}])
    assert as_text == as_object == as_mapping
    assert as_json([as_text]) == [{"role": "user", "parts": [{"text": "a"}]}]


@pytest.mark.parametrize(
    ("given", "message"),
    [(" ", "got a blank one"), (3, "got int"), ({"role": "user", "text": "a"}, "text: google-genai")],
)
def test_contents_that_are_none_are_named(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"cached_content\[1\].*{message}"):
        contents_of(["a", given])


@pytest.mark.parametrize(("seconds", "text"), [(3600, "3600s"), (59.2, "60s"), (1e7, "10000000s")])
def test_a_life_is_in_whole_seconds(seconds: float, text: str) -> None:
    assert ttl_text(seconds) == text


# -- the package -------------------------------------------------------------------------------------------------------


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.genai", None)
    with pytest.raises(ProviderError, match=r"pip install 'batch-llm\[gemini\]'") as caught:
        sdk.require_sdk()
    assert caught.value.reason is ErrorReason.PREPARE_FAILED


def test_its_version_is_known_without_importing_it() -> None:
    code = (
        "import sys; from batch_llm.strategies.gemini import errors, replies, requests, sdk; print(sdk.sdk_version());"
        "assert not {'google.genai', 'pydantic', 'httpx', 'httpx2'} & {*sys.modules}, sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == sdk.sdk_version()
