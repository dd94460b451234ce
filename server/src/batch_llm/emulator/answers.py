"""What `generateContent` answers: candidates, feedback and usage, in the real API's fields."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .contents import count_json, count_text
from .effects import Script
from .http import Response

_ECHO_CHARACTERS = 60
_STREAM_PIECES = 3


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model was asked.

    Args:
        text: the text to echo.
        tokens: all input, cached too.
        cached_tokens: of them.
        most_output_tokens: `maxOutputTokens`, or None.
    """

    text: str
    tokens: int
    cached_tokens: int
    most_output_tokens: int | None


def compose(script: Script, call: int, prompt: Prompt, model: str, response_id: str) -> dict[str, Any]:
    """The answer to a prompt.

    Args:
        script: what to answer.
        call: from 1, which of the script's calls this is.
        prompt: what was asked.
        model: for `modelVersion`.
        response_id: for `responseId`.
    """
    answer: dict[str, Any] = {}
    output_tokens = 0
    if script.block_reason is not None:
        answer["promptFeedback"] = {"blockReason": script.block_reason}
        if script.safety_ratings:
            answer["promptFeedback"]["safetyRatings"] = _ratings(script, blocked=True)
    elif not script.no_candidates:
        candidate, output_tokens = _candidate(script, call, prompt)
        answer["candidates"] = [candidate]
    if script.usage:
        answer["usageMetadata"] = _usage(script, prompt, output_tokens)
    answer["modelVersion"] = model
    answer["responseId"] = response_id
    return answer


def as_stream(answer: Mapping[str, Any]) -> Response:
    """An answer as server-sent events: its text in pieces; reason and usage come with the last."""
    events = (f"data: {json.dumps(piece, ensure_ascii=False)}\r\n\r\n".encode() for piece in _pieces(answer))
    return Response(b"".join(events), content_type="text/event-stream")


def _candidate(script: Script, call: int, prompt: Prompt) -> tuple[dict[str, Any], int]:
    finish = script.finish_reason.upper()
    text = script.replies[call - 1] if call <= len(script.replies) else script.reply
    parts: list[dict[str, Any]] = []
    if script.thoughts is not None:
        parts.append({"text": script.thoughts, "thought": True})
    if text is None and not (script.empty or script.function_calls or finish == "SAFETY"):
        text = f"emulated: {prompt.text[:_ECHO_CHARACTERS]}"
    tokens = 0
    if text is not None and not script.empty:
        tokens = count_text(text)
        most = prompt.most_output_tokens
        if most is not None and script.thinking_tokens + tokens > most:
            # Thinking is output too, and may leave nothing for the text.
            tokens = max(0, most - script.thinking_tokens)
            text, finish = text[: tokens * 4], "MAX_TOKENS"
        if text:
            parts.append({"text": text})
    for function in script.function_calls:
        called = {"name": function.name, "args": function.args}
        parts.append({"functionCall": called})
        tokens += count_json(called)
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"} if parts else {"role": "model"}}
    candidate["finishReason"] = finish
    candidate["index"] = 0
    if script.safety_ratings:
        candidate["safetyRatings"] = _ratings(script, blocked=finish == "SAFETY")
    return candidate, tokens


def _ratings(script: Script, blocked: bool) -> list[dict[str, Any]]:
    ratings: list[dict[str, Any]] = []
    for category, probability in script.safety_ratings.items():
        rating: dict[str, Any] = {"category": category, "probability": probability}
        if blocked and probability == "HIGH":
            rating["blocked"] = True
        ratings.append(rating)
    return ratings


def _usage(script: Script, prompt: Prompt, output_tokens: int) -> dict[str, Any]:
    inputs = prompt.tokens if script.input_tokens is None else script.input_tokens
    cached = prompt.cached_tokens if script.cached_input_tokens is None else script.cached_input_tokens
    outputs = output_tokens if script.output_tokens is None else script.output_tokens
    usage: dict[str, Any] = {"promptTokenCount": inputs}
    counts = (
        ("candidatesTokenCount", outputs),
        ("cachedContentTokenCount", cached),
        ("thoughtsTokenCount", script.thinking_tokens),
        ("toolUsePromptTokenCount", script.tool_use_tokens),
    )
    usage.update((name, count) for name, count in counts if count)  # a count of zero is absent
    usage["totalTokenCount"] = inputs + outputs + script.thinking_tokens + script.tool_use_tokens
    usage["promptTokensDetails"] = _details(inputs)
    if cached:
        usage["cacheTokensDetails"] = _details(cached)
    if script.tool_use_tokens:
        usage["toolUsePromptTokensDetails"] = _details(script.tool_use_tokens)
    return usage


def _details(tokens: int) -> list[dict[str, Any]]:
    return [{"modality": "TEXT", "tokenCount": tokens}]


def _pieces(answer: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    candidates = answer.get("candidates") or [{}]
    parts: Sequence[Mapping[str, Any]] = candidates[0].get("content", {}).get("parts", ())
    if not parts or "text" not in parts[-1] or parts[-1].get("thought"):
        yield answer
        return
    text = parts[-1]["text"]
    size = max(1, -(-len(text) // _STREAM_PIECES))
    starts = range(0, len(text), size)
    for start in starts:
        piece = [*(parts[:-1] if start == 0 else ()), {"text": text[start : start + size]}]
        content = {"parts": piece, "role": "model"}
        if start == starts[-1]:
            yield {**answer, "candidates": [{**candidates[0], "content": content}]}
        else:
            shown = {name: answer[name] for name in ("modelVersion", "responseId")}
            yield {"candidates": [{"content": content, "index": 0}], **shown}
