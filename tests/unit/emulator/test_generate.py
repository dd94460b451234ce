"""generateContent and its like: what is answered, counted and refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import HANDBOOK, MODEL, VERTEX, Api, script, user


def test_the_plain_answer_is_a_short_echo_with_usage(api: Api) -> None:
    body = api.generate("first", "y" * 100).body
    text = "emulated: " + "y" * 60
    assert body == {
        "candidates": [
            {"content": {"parts": [{"text": text}], "role": "model"}, "finishReason": "STOP", "index": 0},
        ],
        "usageMetadata": {
            "promptTokenCount": 2 + 25,
            "candidatesTokenCount": 18,
            "totalTokenCount": 45,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 27}],
        },
        "modelVersion": MODEL,
        "responseId": "emulated-1",
    }
    assert api.generate().body["responseId"] == "emulated-2"


def test_what_a_cache_holds_is_part_of_the_prompt(api: Api) -> None:
    name = api.created()
    usage = api.usage("1234", cachedContent=name)
    assert (usage["promptTokenCount"], usage["cachedContentTokenCount"]) == (2251, 2250)
    assert usage["cacheTokensDetails"] == [{"modality": "TEXT", "tokenCount": 2250}]
    assert usage["totalTokenCount"] == 2251 + usage["candidatesTokenCount"]
    assert "cachedContentTokenCount" not in api.usage("1234")


def test_instruction_tools_and_media_count_as_input(api: Api) -> None:
    tools = [{"functionDeclarations": [{"name": "look_up"}]}]
    media = {"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": "AAAA"}}, {"text": "1234"}]}
    usage = api.usage("1234", contents=[media], systemInstruction={"parts": [{"text": "x" * 40}]}, tools=tools)
    assert usage["promptTokenCount"] == 258 + 1 + 10 + -(-len(json.dumps(tools, separators=(",", ":"))) // 4)


@pytest.mark.parametrize("field", ["systemInstruction", "tools", "toolConfig"])
def test_what_belongs_into_the_cache_is_refused_beside_it(api: Api, vertex: Api, field: str) -> None:
    value: Any = {
        "systemInstruction": user("be kind"),
        "tools": [{"googleSearch": {}}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
    }[field]
    status, _, message = api.generate(cachedContent=api.created(), **{field: value}).error
    assert status == 400
    assert message.startswith(
        "CachedContent can not be used with GenerateContent request setting system_instruction, tools or tool_config."
    )
    message = vertex.generate(cachedContent=vertex.created(), **{field: value}).error[2]
    assert message.startswith("Tool config, tools and system instruction should not be set in the request")


def test_a_cache_serves_its_own_model_alone(api: Api) -> None:
    name = api.created()
    status, _, message = api.generate(cachedContent=name, model="gemini-2.5-pro").error
    assert (status, message) == (
        400,
        "Model used by GenerateContent request (models/gemini-2.5-pro) and CachedContent (models/gemini-2.5-flash) has "
        "to be the same.",
    )


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"contents": []}, "contents is not specified"),
        ({"contents": 5}, "contents[0]"),
        ({"contents": [{"parts": ["text"]}]}, "contents[0]"),
        ({"colour": "red"}, '"colour"'),
        ({"cachedContent": "handbook"}, "handbook"),
        ({"cachedContent": "cachedContents/a/b"}, "cachedContents/a/b"),
        ({"generationConfig": 5}, "generation_config"),
        ({"generationConfig": {"maxOutputTokens": "many"}}, "generation_config"),
        ({"systemInstruction": "be kind"}, "systemInstruction"),
    ],
)
def test_a_bad_request_is_refused(api: Api, body: dict[str, Any], says: str) -> None:
    status, name, message = api.generate(**body).error
    assert (status, name) == (400, "INVALID_ARGUMENT")
    assert says in message


@pytest.mark.parametrize("body", [b"{", b"[]", b"5", b"\xff\xfe"])
def test_a_body_that_is_no_json_object_is_refused(api: Api, body: bytes) -> None:
    assert "Invalid JSON payload" in api.call("POST", f"/v1beta/models/{MODEL}:generateContent", body).error[2]


def test_credentials_are_asked_for_and_looked_at(api: Api, vertex: Api) -> None:
    path = f"/v1beta/models/{MODEL}:generateContent"
    body = {"contents": [user("hi")]}
    assert api.call("POST", path, body, headers={}).error[:2] == (403, "PERMISSION_DENIED")
    assert api.call("POST", f"{path}?key=mine", body, headers={}).status == 200
    bad = api.call("POST", path, body, headers={"x-goog-api-key": "bad-key"})
    assert bad.error == (400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.")
    assert bad.detail("ErrorInfo")["reason"] == "API_KEY_INVALID"
    path = f"{VERTEX}/publishers/google/models/{MODEL}:generateContent"
    for headers in ({}, {"authorization": "Bearer bad-key"}, {"authorization": "Basic x"}):
        assert vertex.call("POST", path, body, headers=headers).error[:2] == (401, "UNAUTHENTICATED")
    assert Api(api.emulator, key="bad-key").create().status == 400
    assert api.emulator.caches() == []


def test_an_unknown_model_is_not_found(api: Api) -> None:
    assert api.generate(model="gpt-5").error[:2] == (404, "NOT_FOUND")
    assert api.call("GET", "/v1beta/models/gpt-5").status == 404
    assert api.call("GET", f"/v1beta/models/{MODEL}").body["name"] == f"models/{MODEL}"


def test_what_there_is_not_is_not_found(api: Api) -> None:
    for method, path in (("GET", "/"), ("PUT", "/v1beta/cachedContents"), ("POST", f"/v1beta/models/{MODEL}:dance")):
        assert api.call(method, path, {}).error[:2] == (404, "NOT_FOUND")
    assert api.emulator.count("unknown") == 3


def test_tokens_are_counted_without_a_call(api: Api) -> None:
    answer = api.generate("x" * 400, verb="countTokens")
    assert answer.body["totalTokens"] == 100
    request = {"contents": [user("x" * 400)], "systemInstruction": user("x" * 40), "model": f"models/{MODEL}"}
    path = f"/v1beta/models/{MODEL}:countTokens"
    assert api.call("POST", path, {"generateContentRequest": request}).body["totalTokens"] == 110
    assert api.call("POST", path, {"generateContentRequest": 5}).status == 400


def test_a_stream_gives_the_text_in_pieces_and_usage_at_the_end(api: Api) -> None:
    answer = api.generate(script(reply="abcdefgh", thoughts="hm"), verb="streamGenerateContent?alt=sse")
    assert answer.headers["content-type"] == "text/event-stream"
    events = [json.loads(line.removeprefix("data: ")) for line in answer.body.split("\r\n\r\n") if line]
    parts = [event["candidates"][0]["content"]["parts"] for event in events]
    assert parts == [[{"text": "hm", "thought": True}, {"text": "abc"}], [{"text": "def"}], [{"text": "gh"}]]
    assert ["usageMetadata" in event for event in events] == [False, False, True]
    assert events[-1]["candidates"][0]["finishReason"] == "STOP"
    blocked = api.generate(script(block_reason="SAFETY"), verb="streamGenerateContent?alt=sse").body
    assert json.loads(blocked.removeprefix("data: "))["promptFeedback"] == {"blockReason": "SAFETY"}


# What prompts can script.


def test_a_script_says_what_is_answered_and_counted(api: Api) -> None:
    body = api.generate(
        script(
            reply='{"label":"billing"}',
            thinking_tokens=40,
            tool_use_tokens=7,
            input_tokens=1000,
            output_tokens=20,
            cached_input_tokens=900,
        )
    ).body
    assert body["candidates"][0]["content"]["parts"] == [{"text": '{"label":"billing"}'}]
    assert {name: count for name, count in body["usageMetadata"].items() if "Count" in name} == {
        "promptTokenCount": 1000,
        "candidatesTokenCount": 20,
        "cachedContentTokenCount": 900,
        "thoughtsTokenCount": 40,
        "toolUsePromptTokenCount": 7,
        "totalTokenCount": 1067,
    }
    assert "usageMetadata" not in api.generate(script(usage=False)).body


def test_a_blocked_prompt_has_no_candidates(api: Api) -> None:
    body = api.generate(script(block_reason="SAFETY", safety_ratings={"HARM_CATEGORY_HARASSMENT": "HIGH"})).body
    rating = {"category": "HARM_CATEGORY_HARASSMENT", "probability": "HIGH", "blocked": True}
    assert body["promptFeedback"] == {"blockReason": "SAFETY", "safetyRatings": [rating]}
    assert "candidates" not in body
    assert "candidatesTokenCount" not in body["usageMetadata"]


def test_an_answer_can_be_stopped_for_safety_or_be_empty(api: Api) -> None:
    ratings = {"HARM_CATEGORY_HARASSMENT": "HIGH", "HARM_CATEGORY_HATE_SPEECH": "LOW"}
    (candidate,) = api.generate(script(finish_reason="safety", safety_ratings=ratings)).body["candidates"]
    assert (candidate["finishReason"], "parts" in candidate["content"]) == ("SAFETY", False)
    assert [rating.get("blocked") for rating in candidate["safetyRatings"]] == [True, None]
    (candidate,) = api.generate(script(empty=True)).body["candidates"]
    assert (candidate["finishReason"], candidate["content"]) == ("STOP", {"role": "model"})
    assert "candidates" not in api.generate(script(no_candidates=True)).body


def test_the_output_limit_cuts_the_text(api: Api) -> None:
    answer = api.generate(script(reply="x" * 100), generationConfig={"maxOutputTokens": 10}).body
    assert answer["candidates"][0]["content"]["parts"] == [{"text": "x" * 40}]
    assert answer["candidates"][0]["finishReason"] == "MAX_TOKENS"
    assert answer["usageMetadata"]["candidatesTokenCount"] == 10
    thinking = script(reply="x" * 100, thinking_tokens=10)
    answer = api.generate(thinking, generationConfig={"maxOutputTokens": 10}).body
    assert answer["candidates"][0] == {"content": {"role": "model"}, "finishReason": "MAX_TOKENS", "index": 0}
    assert (
        api.generate(script(reply="x" * 40), generationConfig={"maxOutputTokens": 10}).body["candidates"][0][
            "finishReason"
        ]
        == "STOP"
    )


def test_an_answer_can_be_a_call_of_a_function(api: Api) -> None:
    (candidate,) = api.generate(script(function_calls=[{"name": "look_up", "args": {"id": 7}}])).body["candidates"]
    assert candidate["content"]["parts"] == [{"functionCall": {"name": "look_up", "args": {"id": 7}}}]


def test_calls_can_be_answered_differently_one_after_another(api: Api) -> None:
    prompt = script(replies=["no json", '{"ok":1}'], reply="later", errors=[None, {"status": 503}])
    assert api.text(prompt) == "no json"
    assert api.generate(prompt).error[:2] == (503, "UNAVAILABLE")
    # Feedback after the script, in its text or as a further turn, leaves it the same script.
    assert api.text(f"{prompt}\nThat was no JSON.") == "later"
    assert api.text(prompt, "That was no JSON.") == "later"
    assert api.text(script(replies=["no json"], reply="x", id="another")) == "no json"


def test_a_script_that_cannot_be_followed_is_refused_by_name(api: Api) -> None:
    status, _, message = api.generate(script(repply="x")).error
    assert status == 400
    assert "repply" in message
    assert "reply" in message
    assert api.text('{"simulate"') == 'emulated: {"simulate"'


def test_a_prefix_that_was_sent_before_is_cached_if_that_is_switched_on(api: Api) -> None:
    assert "cachedContentTokenCount" not in api.usage(HANDBOOK, "first")
    api.emulator.configure(implicit_caching=True)
    assert "cachedContentTokenCount" not in api.usage(HANDBOOK, "first")
    assert api.usage(HANDBOOK, "second")["cachedContentTokenCount"] == 2048  # whole steps of 256
    assert api.usage(HANDBOOK, "second")["promptTokenCount"] == 2252
    assert "cachedContentTokenCount" not in api.usage(f"another {HANDBOOK}")
    assert "cachedContentTokenCount" not in api.usage(HANDBOOK, model="gemini-2.5-pro")
    assert "cachedContentTokenCount" not in Api(api.emulator, key="other").usage(HANDBOOK)
    short = "x" * 4000  # 1,000 tokens
    api.usage(short)
    assert "cachedContentTokenCount" not in api.usage(short)
