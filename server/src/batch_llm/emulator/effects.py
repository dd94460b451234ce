"""What a script in a prompt, or a rule of a test, can make the emulator do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import ApiError, Quota, QuotaErrors, invalid, quota_exceeded, retry_info
from .http import Drop, Response

Kind = Literal["create", "list", "get", "update", "delete", "generate", "stream", "count_tokens", "model"]

_MOST_TOKENS = 10**12
_LONGEST_SECONDS = 7 * 86_400


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Effect(_Strict):
    """Something other than the plain answer. A delay comes first; `status`, `quota` and `body` answer instead."""

    latency_ms: float = Field(0, ge=0, le=_LONGEST_SECONDS * 1000, description="wait so long first")
    status: int | None = Field(None, ge=200, le=599, description="HTTP status of the answer")
    message: str | None = Field(None, description="text of the error; without it Google's usual one")
    details: tuple[dict[str, Any], ...] = Field((), description="details of the error")
    quota: Quota | None = Field(None, description="a 429 about this quota")
    quota_errors: QuotaErrors = Field("details", description="what that 429 says")
    retry_after_seconds: float | None = Field(
        None, ge=0, le=_LONGEST_SECONDS, description="RetryInfo of an error, delay of a quota"
    )
    body: Any = Field(None, description="the answer's body: text as it is, or JSON")
    headers: dict[str, str] = Field(default_factory=dict, description="further headers of the answer")
    drop: Drop | None = Field(
        None,
        description="hang up: `before` anything is done, `after` it is done but without an answer, in the `middle` of "
        "the answer",
    )
    hold: bool = Field(False, description="wait until released; done afterwards")

    def answer(self, model: str) -> Response | None:
        """What to answer instead; None: the plain answer."""
        if self.quota is not None:
            wait = 30.0 if self.retry_after_seconds is None else self.retry_after_seconds
            return quota_exceeded(self.quota, model, retry_after=wait, style=self.quota_errors).response()
        if self.body is not None:
            body = self.body if isinstance(self.body, str) else json.dumps(self.body)
            return Response(body.encode(), self.status or 200)
        if self.status is None:
            return None
        if self.status < 400:
            return Response(b"{}", self.status)
        wanted = [] if self.retry_after_seconds is None else [retry_info(self.retry_after_seconds)]
        return ApiError(self.status, self.message, [*self.details, *wanted]).response()


class FunctionCall(_Strict):
    """A call that the model asks for."""

    name: str
    args: dict[str, Any] = Field(default_factory=dict)


class Script(_Strict):
    """What the model answers: a prompt `{"simulate": {...}}`, or the `answer` of a rule."""

    id: str = Field("", description="tells scripts apart that are otherwise equal, for `replies` and `errors`")
    reply: str | None = Field(None, description="the answer's text; absent: a short echo")
    replies: tuple[str, ...] = Field((), description="texts of the first, second, … call; after the last, `reply`")
    errors: tuple[Effect | None, ...] = Field(
        (), description="what happens to the first, second, … call; null: nothing; after the last, `error`"
    )
    error: Effect | None = Field(None, description="what happens to every call that `errors` does not speak of")
    latency_ms: float = Field(0, ge=0, le=_LONGEST_SECONDS * 1000, description="how long the call takes")
    finish_reason: str = Field("STOP", description="e.g. SAFETY, which has no text unless `reply` gives one")
    safety_ratings: dict[str, str] = Field(default_factory=dict, description="category: probability")
    block_reason: str | None = Field(None, description="the prompt is blocked, e.g. SAFETY: no candidates")
    empty: bool = Field(False, description="a candidate without content")
    no_candidates: bool = Field(False, description="an answer without candidates")
    function_calls: tuple[FunctionCall, ...] = Field((), description="calls instead of text, unless there is a `reply`")
    thoughts: str | None = Field(None, description="a thought before the text")
    input_tokens: int | None = Field(None, ge=0, le=_MOST_TOKENS, description="promptTokenCount; absent: counted")
    output_tokens: int | None = Field(None, ge=0, le=_MOST_TOKENS, description="candidatesTokenCount; absent: counted")
    cached_input_tokens: int | None = Field(
        None, ge=0, le=_MOST_TOKENS, description="cachedContentTokenCount; absent: the cache's"
    )
    thinking_tokens: int = Field(0, ge=0, le=_MOST_TOKENS, description="thoughtsTokenCount")
    tool_use_tokens: int = Field(0, ge=0, le=_MOST_TOKENS, description="toolUsePromptTokenCount")
    usage: bool = Field(True, description="whether the answer has usageMetadata")


class Rule(Effect):
    """An effect, or an answer, for the requests that match."""

    kind: Kind | None = Field(None, description="only requests of this kind")
    method: str | None = Field(None, description="only this HTTP method")
    path: str | None = Field(None, description="only paths that contain this")
    model: str | None = Field(None, description="only this model, without `models/`")
    contains: str | None = Field(None, description="only bodies that have a text with this in it")
    cached: bool | None = Field(None, description="only generate calls with, or without, a cache")
    skip: int = Field(0, ge=0, description="let so many pass that match")
    times: int | None = Field(1, ge=1, description="then act on so many; null: on all")
    script: Script | None = Field(None, description="what the model answers")

    def matches(self, kind: str, method: str, path: str, model: str, cached: bool, body: Mapping[str, Any]) -> bool:
        """Whether a request is meant."""
        return (
            (self.kind is None or self.kind == kind)
            and (self.method is None or self.method.upper() == method)
            and (self.path is None or self.path in path)
            and (self.model is None or self.model == model)
            and (self.cached is None or self.cached == cached)
            and (self.contains is None or any(self.contains in text for text in _strings(body)))
        )


ECHO = Script.model_validate({})


def parse_script(text: str) -> tuple[Script, str] | None:
    """The script at the beginning of a text, and its own text; None if there is none.

    Raises:
        ApiError: 400, if `simulate` is there but says something unknown.
    """
    start = text.lstrip()
    return _parse(start) if start.startswith("{") else None


@lru_cache(maxsize=1024)
def _parse(text: str) -> tuple[Script, str] | None:
    try:
        # What follows the object, such as feedback on an answer, is no part of the script.
        document, end = json.JSONDecoder().raw_decode(text)
    except ValueError:
        return None
    if "simulate" not in document:
        return None
    try:
        return Script.model_validate(document["simulate"]), text[:end]
    except ValidationError as error:
        known = ", ".join(Script.model_fields)
        raise invalid(
            f"the script under `simulate` cannot be followed: {problems(error)}; it may have: {known}"
        ) from None


def problems(error: ValidationError) -> str:
    """Each problem of a document: where, and what."""
    return "; ".join(
        f"{'.'.join(str(part) for part in problem['loc']) or 'the document'}: {problem['msg']}"
        for problem in error.errors()
    )


def _strings(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for inner in value.values():
                yield from _strings(inner)
        case list():
            for inner in value:
                yield from _strings(inner)
