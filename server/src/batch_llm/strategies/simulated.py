"""A provider that is scripted by its prompts: any situation, in any language, without a model."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from batch_llm.caching import (
    CacheBackend,
    CachePolicy,
    CacheRecord,
    CacheRegistry,
    ContextCache,
    CreatedCache,
    SqliteCacheRegistry,
    fingerprint,
)
from batch_llm.model import ErrorReason, Pricing, ProviderError, TokenUsage
from batch_llm.quota import SlidingWindow

from .base import LLMCallStrategy

MODEL = "simulated"
_ECHO_CHARACTERS = 60
_MOST_TOKENS = 10**12
_LONGEST_SECONDS = 7 * 86_400


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SimulatedUsage(_Strict):
    """Tokens to report. What is not given is estimated from lengths, four characters to a token."""

    input_tokens: int | None = Field(None, ge=0, le=_MOST_TOKENS)
    output_tokens: int | None = Field(None, ge=0, le=_MOST_TOKENS)
    cached_input_tokens: int | None = Field(None, ge=0, le=_MOST_TOKENS)
    thinking_tokens: int = Field(0, ge=0, le=_MOST_TOKENS)


class SimulatedError(SimulatedUsage):
    """How an attempt fails."""

    status: int | None = Field(None, ge=400, le=599, description="HTTP status of the provider's answer")
    kind: Literal["timeout", "connection", "bug"] | None = Field(
        None, description="instead of a status: the client's time-out, a lost connection, or a bug in a strategy"
    )
    message: str = "simulated error"
    retry_after_seconds: float | None = Field(None, ge=0, le=_LONGEST_SECONDS)
    latency_ms: float = Field(0, ge=0, le=_LONGEST_SECONDS * 1000)


class SimulatedScript(SimulatedUsage):
    """What a prompt `{"simulate": {...}}` may say."""

    reply: str | None = Field(None, description="the output; absent: a short echo")
    replies: tuple[str, ...] = Field((), description="outputs of the first, second, … call; after the last, `reply`")
    latency_ms: float = Field(0, ge=0, le=_LONGEST_SECONDS * 1000, description="how long the call takes")
    finish_reason: str = "stop"
    safety_ratings: dict[str, str] = Field(default_factory=dict)
    errors: tuple[SimulatedError | None, ...] = Field(
        (), description="how the first, second, … attempt fails; null: it succeeds; after the last, attempts succeed"
    )
    error: SimulatedError | None = Field(None, description="how every attempt fails that `errors` does not speak of")


_ECHO = SimulatedScript.model_validate({})


class HiddenLimits:
    """What a simulated provider takes before it answers 429, which callers have to find out.

    Args:
        max_in_flight: calls at a time; None for no limit.
        requests_per_minute: calls in any 60 seconds; None for no limit.
        clock: monotonic seconds; None: the event loop's.
    """

    def __init__(
        self,
        max_in_flight: int | None = None,
        requests_per_minute: int | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.throttled = 0
        self.served = 0
        self._max_in_flight = max_in_flight
        self._window = SlidingWindow(requests_per_minute) if requests_per_minute is not None else None
        self._in_flight = 0
        self._clock = clock

    def enter(self) -> None:
        """Begin a call.

        Raises:
            ProviderError: 429, as a provider would: RATE_LIMITED, without a `retry_after`.
        """
        now = self._clock() if self._clock is not None else asyncio.get_running_loop().time()
        if self._max_in_flight is not None and self._in_flight >= self._max_in_flight:
            self.throttled += 1
            raise ProviderError("simulated: too many calls in flight", status=429)
        if self._window is not None:
            if self._window.wait(now) > 0:
                self.throttled += 1
                raise ProviderError("simulated: too many calls in a minute", status=429)
            self._window.take(now)
        self.served += 1
        self._in_flight += 1

    def leave(self) -> None:
        """End a call."""
        self._in_flight -= 1


class SimulatedStrategy(LLMCallStrategy[str], CacheBackend):
    """Answers as its prompts say; any other prompt with a short echo, at once.

    Its context cache is as simulated as the rest: created, expired and counted, but kept nowhere.

    Args:
        name: the strategy's name, for the cache's record.
        model: any name; the default says what it is.
        system_instruction: counted as input.
        cached_content: shared content; makes it a cached strategy, with `registry`.
        cache_policy: life of the cache.
        cache_tags: part of the cache's identity.
        registry: where caches are remembered.
        provider: the provider's name.
        hidden_limits: what the provider takes, shared by its strategies; None: everything.
        pricing: what its tokens are said to cost.
        clock: seconds since the epoch.
        sleep: waits for seconds.
    """

    def __init__(
        self,
        *,
        name: str = "",
        model: str = MODEL,
        system_instruction: str = "",
        cached_content: Sequence[str] = (),
        cache_policy: CachePolicy | None = None,
        cache_tags: Mapping[str, str] | None = None,
        registry: CacheRegistry | None = None,
        provider: str = "simulated",
        hidden_limits: HiddenLimits | None = None,
        pricing: Pricing | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.pricing = pricing
        self._hidden_limits = hidden_limits
        self._model = model
        self._clock = clock
        self._sleep = sleep
        self._shared_tokens = estimate_tokens(system_instruction) if system_instruction else 0
        self._shared_tokens += sum(estimate_tokens(content) for content in cached_content)
        self._metadata: Mapping[str, Any] = {"finish_reason": "stop", "model": model}
        if cached_content:
            self.context_cache = ContextCache(
                self,
                registry or SqliteCacheRegistry(),
                provider=provider,
                fingerprint=fingerprint(
                    provider_kind="simulated",
                    model=model,
                    contents=cached_content,
                    system_instruction=system_instruction,
                    tags=cache_tags,
                ),
                model=model,
                strategy=name,
                policy=cache_policy or CachePolicy(),
                pricing=pricing,
                clock=clock,
            )

    async def execute(
        self, prompt: str, attempt: int, timeout: float, state: dict[str, Any] | None = None
    ) -> tuple[str, TokenUsage, Mapping[str, Any]]:
        """Do as the prompt says."""
        hidden = self._hidden_limits
        if hidden is None:
            return await self._answer(prompt, attempt, state)
        hidden.enter()
        try:
            return await self._answer(prompt, attempt, state)
        finally:
            hidden.leave()

    async def _answer(
        self, prompt: str, attempt: int, state: dict[str, Any] | None
    ) -> tuple[str, TokenUsage, Mapping[str, Any]]:
        script = parse_script(prompt)
        calls = attempt
        if state is not None:  # a throttled call is no attempt, but it is a call
            calls = state["simulated_calls"] = state.get("simulated_calls", 0) + 1
        failure = script.errors[calls - 1] if calls <= len(script.errors) else script.error
        if failure is not None:
            await self._fail(failure, prompt)
        if script.latency_ms:
            await self._sleep(script.latency_ms / 1000)
        reply = script.replies[calls - 1] if calls <= len(script.replies) else script.reply
        if reply is None:
            reply = f"simulated: {prompt[:_ECHO_CHARACTERS]}"
        metadata = self._metadata
        if script is not _ECHO:
            metadata = {
                "finish_reason": script.finish_reason,
                "model": self._model,
                "safety_ratings": script.safety_ratings,
            }
        return reply, self._usage(script, prompt, reply), metadata

    async def _fail(self, failure: SimulatedError, prompt: str) -> None:
        if failure.latency_ms:
            await self._sleep(failure.latency_ms / 1000)
        match failure.kind:
            case "timeout":
                raise TimeoutError(failure.message)
            case "connection":
                raise ConnectionError(failure.message)
            case "bug":
                raise ValueError(failure.message)
        reported = failure.input_tokens is not None or failure.output_tokens is not None
        raise ProviderError(
            failure.message,
            status=failure.status or 500,
            retry_after=failure.retry_after_seconds,
            token_usage=self._usage(failure, prompt, "") if reported else None,
        )

    def _usage(self, said: SimulatedUsage, prompt: str, reply: str) -> TokenUsage:
        cached = 0
        if self.context_cache is not None and self.context_cache.usable is not None:
            cached = self._shared_tokens
        return {
            "input_tokens": self._shared_tokens + estimate_tokens(prompt)
            if said.input_tokens is None
            else said.input_tokens,
            "output_tokens": estimate_tokens(reply) if said.output_tokens is None else said.output_tokens,
            "cached_input_tokens": cached if said.cached_input_tokens is None else said.cached_input_tokens,
            "thinking_tokens": said.thinking_tokens,
        }

    async def create_cache(self, fingerprint: str, ttl_seconds: float) -> CreatedCache:
        """See `CacheBackend`."""
        return CreatedCache(f"simulated-{fingerprint[:16]}", self._shared_tokens, self._clock() + ttl_seconds)

    async def renew_cache(self, record: CacheRecord, ttl_seconds: float) -> float:
        """See `CacheBackend`."""
        return self._clock() + ttl_seconds

    async def drop_cache(self, record: CacheRecord) -> None:
        """See `CacheBackend`."""


def estimate_tokens(text: str) -> int:
    """Four characters to a token, rounded up; at least 0."""
    return math.ceil(len(text) / 4)


def parse_script(prompt: str) -> SimulatedScript:
    """The script in a prompt, or that of a plain echo.

    Raises:
        ProviderError: INVALID_ITEM, if `simulate` is there but says something unknown.
    """
    if not prompt.lstrip().startswith("{"):
        return _ECHO
    try:
        # What follows the object, such as feedback on an answer, is no part of the script.
        document, _ = json.JSONDecoder().raw_decode(prompt.lstrip())
    except ValueError:
        return _ECHO
    if "simulate" not in document:
        return _ECHO
    try:
        return SimulatedScript.model_validate(document["simulate"])
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'simulate'}: {problem['msg']}"
            for problem in error.errors()
        )
        known = ", ".join(SimulatedScript.model_fields)
        raise ProviderError(
            f"the script under `simulate` cannot be followed: {problems}; it may have: {known}",
            reason=ErrorReason.INVALID_ITEM,
            metadata={"field": "prompt"},
        ) from None
