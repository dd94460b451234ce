"""What Gemini answers: output and tokens, or an error, in the engine's terms."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from batch_llm.model import ErrorReason, OutputValidationError, ProviderError, TokenUsage

if TYPE_CHECKING:
    from google.genai.types import GenerateContentResponse

# Reasons to stop that another attempt meets again, ai.google.dev/api/generate-content#FinishReason.
_BLOCKED = frozenset(
    {
        "SAFETY",
        "RECITATION",
        "LANGUAGE",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "MODEL_ARMOR",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
    }
)
_READ = {"candidates", "usage_metadata", "prompt_feedback", "model_version"}


def read_reply(
    response: GenerateContentResponse,
    model: str,
    parser: Callable[[GenerateContentResponse], Any] | None = None,
) -> tuple[Any, TokenUsage, Mapping[str, Any]]:
    """Output, tokens and metadata (`finish_reason`, `safety_ratings`, `model`) of an answer.

    Args:
        response: the answer, or one that carries the HTTP body only (`should_return_http_response`).
        model: the model that was asked, for answers that do not name theirs.
        parser: makes the output of a whole answer; None: the output is the first candidate's text, without thoughts.

    Raises:
        ProviderError: it is empty or was blocked; carries the tokens that it reports.
        OutputValidationError: the parser found JSON or a pydantic model invalid; carries the tokens.
        Exception: what else the parser raises, with `token_usage` set on it.
    """
    reply = _as_json(response)
    usage = read_usage(reply.get("usageMetadata"))
    candidate = _first(reply.get("candidates"))
    feedback = _object(reply.get("promptFeedback"))
    finish = str(candidate.get("finishReason") or "")
    ratings = _ratings(candidate.get("safetyRatings") or feedback.get("safetyRatings"))
    if blocked := feedback.get("blockReason"):
        said = str(feedback.get("blockReasonMessage") or blocked)
        _fail(ErrorReason.CONTENT_BLOCKED, f"the prompt was blocked: {said}", usage, ratings, block_reason=str(blocked))
    if finish in _BLOCKED:
        said = str(candidate.get("finishMessage") or finish)
        _fail(ErrorReason.CONTENT_BLOCKED, f"the output was blocked: {said}", usage, ratings, finish_reason=finish)
    parts = [_object(part) for part in _list(_object(candidate.get("content")).get("parts"))]
    said_parts = [part for part in parts if not part.get("thought")]
    text = "".join(str(part["text"]) for part in said_parts if isinstance(part.get("text"), str))
    kinds = sorted({kind for part in said_parts for kind in part} - {"text", "thought", "thoughtSignature"})
    # An answer may have no text and still be one to a parser, e.g. a function call.
    if not text and (parser is None or not kinds):
        _fail_empty(kinds, finish, usage)
    output = text if parser is None else _parse(parser, response, text, usage)
    metadata = {"finish_reason": finish, "safety_ratings": ratings, "model": str(reply.get("modelVersion") or model)}
    return output, usage, metadata


def read_usage(usage: Any) -> TokenUsage:
    """Tokens of a `usageMetadata` object; what it does not say is 0.

    Google counts cached tokens in the prompt's, and neither those that tools put into the prompt nor thoughts in
    anything but the total (ai.google.dev/api/generate-content#UsageMetadata).
    """
    if not isinstance(usage, Mapping):
        return TokenUsage()
    prompt, tools = _count(usage, "promptTokenCount"), _count(usage, "toolUsePromptTokenCount")
    answer = _count(usage, "candidatesTokenCount")
    if usage.get("thoughtsTokenCount") is None:  # google-genai before 1.8 drops it
        thoughts = max(0, _count(usage, "totalTokenCount") - prompt - tools - answer)
    else:
        thoughts = _count(usage, "thoughtsTokenCount")
    return {
        "input_tokens": prompt + tools,
        "output_tokens": answer + thoughts,
        "cached_input_tokens": _count(usage, "cachedContentTokenCount"),
        "thinking_tokens": thoughts,
    }


def _as_json(response: GenerateContentResponse) -> Mapping[str, Any]:
    body = getattr(getattr(response, "sdk_http_response", None), "body", None)
    if body is None:
        whole: Mapping[str, Any] = response.model_dump(mode="json", by_alias=True, exclude_none=True, include=_READ)
        return whole
    try:
        reply = json.loads(body)
    except ValueError:
        reply = None
    if not isinstance(reply, dict):
        raise ProviderError(f"the endpoint's answer is no JSON object; it begins: {body[:80]}", status=502)
    return reply


def _parse(
    parser: Callable[[GenerateContentResponse], Any], response: GenerateContentResponse, text: str, usage: TokenUsage
) -> Any:
    from pydantic import ValidationError

    try:
        return parser(response)
    except (json.JSONDecodeError, ValidationError) as error:
        invalid = OutputValidationError(_problems(error), text)
        invalid.token_usage = usage
        raise invalid from error
    except Exception as error:
        with suppress(AttributeError):  # an exception with slots
            error.token_usage = usage  # type: ignore[attr-defined]
        raise


def _problems(error: Any) -> list[str]:
    if isinstance(error, json.JSONDecodeError):
        return [f"not JSON: {error}"]
    return [f"at {'/'.join(map(str, each['loc'])) or 'its root'}: {each['msg']}" for each in error.errors()]


def _fail_empty(kinds: list[str], finish: str, usage: TokenUsage) -> NoReturn:
    if finish == "MAX_TOKENS":
        thoughts = usage.get("thinking_tokens", 0)
        spent = f", {thoughts} tokens of it by thinking" if thoughts else ""
        what = f"the output limit was used up before any text{spent}; raise max_output_tokens"
        _fail(ErrorReason.PROVIDER_REJECTED, what, usage, finish_reason=finish)
    what = f"no text but {', '.join(kinds)}; a response_parser can take it" if kinds else "no text"
    ending = f" (finish reason {finish})" if finish else ""
    _fail(ErrorReason.PROVIDER_UNAVAILABLE, f"Gemini's answer has {what}{ending}", usage, finish_reason=finish)


def _fail(
    reason: ErrorReason, message: str, usage: TokenUsage, ratings: Mapping[str, str] | None = None, **metadata: str
) -> NoReturn:
    if ratings:
        metadata["safety_ratings"] = ", ".join(f"{category}={rating}" for category, rating in ratings.items())
    facts = {name: value for name, value in metadata.items() if value}
    raise ProviderError(message, reason=reason, token_usage=usage, metadata=facts)


def _ratings(ratings: Any) -> dict[str, str]:
    found = [_object(rating) for rating in _list(ratings)]
    return {str(each["category"]): str(each.get("probability", "")) for each in found if each.get("category")}


def _first(candidates: Any) -> dict[str, Any]:
    return _object(next(iter(_list(candidates)), None))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(table: Mapping[str, Any], key: str) -> int:
    value = table.get(key)
    return max(0, int(value)) if isinstance(value, int | float) and math.isfinite(value) else 0
