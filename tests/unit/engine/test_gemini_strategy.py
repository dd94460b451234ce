"""What the Gemini strategies refuse, before anybody is called."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from batch_llm import ErrorReason, GeminiCachedStrategy, GeminiStrategy, ProviderError
from batch_llm.caching import SqliteCacheRegistry

pytest.importorskip("google.genai")

from google.genai import Client, types

from batch_llm.strategies.gemini.connection import Connection
from batch_llm.strategies.gemini.sdk import client_key, make_client

MODEL = "gemini-2.5-flash"
KEY = "AIza-test-0123456789"


def plain(**more: Any) -> Any:
    arguments = {"model": MODEL, "client": Connection(api_key=KEY), **more}
    return GeminiStrategy(arguments.pop("model"), arguments.pop("client"), **arguments)


def cached(**more: Any) -> Any:
    arguments = {"model": MODEL, "client": Connection(api_key=KEY), "cached_content": ["text"], **more}
    arguments["registry"] = SqliteCacheRegistry()
    return GeminiCachedStrategy(arguments.pop("model"), arguments.pop("client"), **arguments)


@pytest.mark.parametrize("make", [plain, cached])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": ""}, "^model must be a model's name, "),
        ({"model": " "}, "^model must be "),
        ({"model": None}, "^model must be "),
        ({"client": KEY}, r"^client must be a google.genai.Client, got str; "),
        ({"model": "models/"}, "^model must be "),
        ({"client": Client}, "^client must be a google.genai.Client, got the class Client; "),
        ({"client": None}, "^client must be a google.genai.Client, got NoneType; "),
        ({"response_parser": "text"}, "^response_parser must be a function, got 'text'; "),
        ({"config": "brief"}, "^config must be a GenerateContentConfig or a dict of its fields, got 'brief'; "),
        (
            {"config": {"cachedContent": "cachedContents/x", "systemInstruction": "s"}},
            "^config: system_instruction and ",
        ),
        ({"config": {"top_p": 1, "topP": 1}}, "^config: top_p is given twice, also as topP; "),
        ({"config": {"tools": ["x"]}}, r"^config: tools\[0\] must be a google.genai.types.Tool .*, got str; "),
        ({"config": {"tools": {"google_search": {}}}}, "^config: tools must be a list, got {.*}; "),
        ({"config": {"cached_content": "cachedContents/x", "tools": [{"google_search": {}}]}}, "^config: tools and "),
    ],
)
def test_an_argument_that_cannot_be_is_named(make: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make(**arguments)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cached_content": []}, "^cached_content must be a list of texts or Content, not empty, "),
        ({"cached_content": {"parts": [{"text": "a"}]}}, "^cached_content must be a list of .*; put one into a list"),
        ({"cached_content": types.Content(parts=[types.Part(text="a")])}, "^cached_content must be a list of "),
        ({"cached_content": {"a", "b"}}, "^cached_content must be a list of "),
        ({"cached_content": iter(())}, "^cached_content must be a list of "),
        ({"cached_content": 5}, "^cached_content must be a list of .*, got 5; "),
        ({"cached_content": [{}]}, r"^cached_content\[0\] has no parts; "),
        ({"cached_content": [types.Content(parts=[])]}, r"^cached_content\[0\] has no parts; "),
        ({"config": {"cachedContent": "cachedContents/x"}}, "^config: cached_content must not be set"),
        ({"config": {"tools": [len]}}, r"^config: tools\[0\] is a function, .* function_declarations"),
        ({"cached_content": "text"}, "^cached_content must be a list of texts or Content, "),
        ({"cached_content": ["text", " "]}, r"^cached_content\[1\] must be a text that is not blank "),
        ({"cached_content": [7]}, r"^cached_content\[0\] must be .* got int"),
        ({"cached_content": [{"parts": "text"}]}, r"^cached_content\[0\]: parts"),
        ({"cache_ttl_seconds": 0.5}, "^cache_ttl_seconds must be at least 1, got 0.5; "),
        ({"cache_ttl_seconds": "3600"}, "^cache_ttl_seconds must be a finite number, got '3600'; "),
        ({"cache_renewal_buffer_seconds": -1}, "^cache_renewal_buffer_seconds must be at least 0, got -1; "),
        ({"cache_ttl_seconds": 300}, r"^cache_renewal_buffer_seconds must be .* less than cache_ttl_seconds \(300\), "),
        ({"auto_renew": "no"}, "^auto_renew must be True or False, got 'no'; "),
        ({"config": {"cached_content": "cachedContents/x"}}, "^config: cached_content must not be set"),
        ({"cache_tags": ["a"]}, r"^cache_tags must be a dict of texts, got \['a'\]; "),
        ({"cache_tags": {"tenant": 7}}, r"^cache_tags must be a dict of texts, got \{'tenant': 7\}; "),
    ],
)
def test_what_cannot_be_cached_so_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cached(**arguments)


def test_a_share_of_the_life_is_an_old_way_to_say_when_to_renew() -> None:
    with pytest.warns(DeprecationWarning, match="cache_renewal_buffer_seconds"):
        strategy = cached(cache_refresh_threshold=0.1, cache_ttl_seconds=600)
    assert strategy.context_cache.policy.renewal_buffer_seconds == 60


@pytest.mark.parametrize("threshold", [0, 1, 1.5, -0.1, "a", True])
def test_a_share_that_is_none_is_refused(threshold: Any) -> None:
    with (
        pytest.warns(DeprecationWarning, match="deprecated"),
        pytest.raises(ValueError, match=f"^cache_refresh_threshold must be above 0 and below 1, got {threshold!r}; "),
    ):
        cached(cache_refresh_threshold=threshold)


async def test_no_call_without_preparation() -> None:
    with pytest.raises(ProviderError, match="prepare"):
        await plain().execute("a", 1, 10)


def fingerprint_of(**config: Any) -> str:
    fingerprint: str = cached(config=config).context_cache.fingerprint
    return fingerprint


def test_settings_by_the_names_of_the_rest_api_are_part_of_the_identity() -> None:
    assert fingerprint_of(systemInstruction="A") == fingerprint_of(system_instruction="A")
    assert fingerprint_of(systemInstruction="A") != fingerprint_of(systemInstruction="B")
    calling = {"functionCallingConfig": {"mode": "ANY"}}
    assert fingerprint_of(toolConfig=calling) != fingerprint_of()
    assert fingerprint_of(toolConfig=calling) == fingerprint_of(tool_config=types.ToolConfig.model_validate(calling))


def test_a_tool_is_the_same_however_it_is_written() -> None:
    search = [{"google_search": {}}, {"googleSearch": {}}, types.Tool(google_search=types.GoogleSearch())]
    assert len({fingerprint_of(tools=[tool]) for tool in search}) == 1
    function = types.FunctionDeclaration(name="find", description="Finds it.")
    functions = [
        {"function_declarations": [function]},
        {"functionDeclarations": [{"name": "find", "description": "Finds it."}]},
        types.Tool(function_declarations=[function]),
    ]
    assert len({fingerprint_of(tools=[tool]) for tool in functions}) == 1


def test_names_that_users_chose_are_left_alone() -> None:
    def taking(name: str) -> dict[str, Any]:
        parameters = {"type": "OBJECT", "properties": {name: {"type": "STRING"}}}
        return {"function_declarations": [{"name": "find", "parameters": parameters}]}

    assert fingerprint_of(tools=[taking("ticket_id")]) != fingerprint_of(tools=[taking("ticketId")])


def test_what_is_changed_after_construction_does_not_matter() -> None:
    config = {"tools": [{"function_declarations": [{"name": "find"}]}]}
    part = types.Part(text="handbook")
    content = types.Content(role="user", parts=[part])
    mine = types.GenerateContentConfig(system_instruction="A", tools=[len])
    ours, plainly = cached(config=config, cached_content=[content]), plain(config=mine)
    config["tools"][0]["function_declarations"][0]["name"] = "delete"
    part.text, mine.system_instruction = "another", "B"
    assert ours._settings == {"tools": [{"function_declarations": [{"name": "find"}]}]}
    assert ours._contents[0].parts[0].text == "handbook"
    assert (plainly._settings.system_instruction, plainly._settings.tools) == ("A", [len])


@pytest.mark.parametrize(
    ("given", "model"),
    [
        ("models/gemini-2.5-flash", MODEL),
        ("publishers/google/models/gemini-2.5-flash", MODEL),
        ("projects/p/locations/l/publishers/google/models/gemini-2.5-flash", MODEL),
        (" gemini-2.5-flash\n", MODEL),
        ("tunedModels/gemini-2.5-flash", "tunedModels/gemini-2.5-flash"),
        ("projects/p/locations/l/endpoints/123", "projects/p/locations/l/endpoints/123"),
        ("projects/p/locations/l/models/123", "projects/p/locations/l/models/123"),
        ("publishers/meta/models/llama-3", "publishers/meta/models/llama-3"),
        ("projects/p/locations/l/publishers/meta/models/llama-3", "publishers/meta/models/llama-3"),
    ],
)
def test_only_what_all_of_googles_models_share_is_left_out_of_a_name(given: str, model: str) -> None:
    strategy = plain(model=given)
    assert (strategy.model, strategy.quota_key[-1]) == (model, model)


@pytest.mark.parametrize(
    ("make", "config", "message"),
    [
        (plain, {"temperature": "hot"}, "config: temperature: "),
        (cached, {"tools": [types.Tool()], "tool_config": {"depth": 1}}, r"config: tool_config\.depth: "),
        (cached, {"system_instruction": 5}, "config: system_instruction"),
    ],
)
def test_a_setting_that_the_package_refuses_is_told_before_any_item(make: Any, config: Any, message: str) -> None:
    with pytest.raises(ProviderError, match=message) as caught:
        asyncio.run(make(config=config).prepare())
    assert (caught.value.reason, caught.value.retryable) == (ErrorReason.PREPARE_FAILED, False)


def test_a_users_key_is_known_so_that_messages_do_not_show_it() -> None:
    assert plain(client=Client(api_key=KEY, vertexai=False))._connection.secret == KEY


@pytest.mark.parametrize("key", ["top secret", "sécret"])
def test_a_key_of_the_environment_that_can_be_none_is_not_shown(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("GOOGLE_API_KEY", key)
    with pytest.raises(ProviderError, match="GOOGLE_API_KEY holds no API key") as caught:
        make_client()
    assert caught.value.reason is ErrorReason.PREPARE_FAILED
    assert "cret" not in str(caught.value)


def test_a_key_of_the_environment_may_end_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_API_KEY", " \n")
    monkeypatch.setenv("GEMINI_API_KEY", f"{KEY}\n")
    assert client_key(make_client()) == KEY
