"""`[strategies.NAME]`, and RegisterStrategy: one model behind both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Self

from pydantic import (
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from batch_llm.caching import DEFAULT_RENEWAL_BUFFER_SECONDS, DEFAULT_TTL_SECONDS, CachePolicy
from batch_llm.model import RetryConfig
from batch_llm.model.config import SHORTEST_ATTEMPT_SECONDS
from batch_llm.strategies.gemini.requests import bare

from .providers import (
    GeminiProvider,
    LocalProvider,
    OpenAIProvider,
    Provider,
    PythonProvider,
    Quota,
    SimulatedProvider,
)
from .section import LONGEST_SECONDS, Section


class RetrySettings(Section):
    """`[strategies.NAME.retry]`: when and how often a failed attempt is tried again."""

    max_attempts: int = Field(3, ge=1, le=100, description="attempts in all")
    initial_wait_seconds: float = Field(1.0, ge=0, le=LONGEST_SECONDS, description="wait after the first failure")
    max_wait_seconds: float = Field(60.0, ge=0, le=LONGEST_SECONDS, description="the longest wait")
    exponential_base: float = Field(2.0, ge=1, description="factor from one wait to the next")
    jitter: bool = Field(True, description="draw waits at random between zero and their length")
    max_rate_limit_retries: int = Field(20, ge=0, description="how often a throttled call (429) is made again")

    @field_validator("max_wait_seconds")
    @classmethod
    def _not_below_the_first(cls, value: float, info: ValidationInfo) -> float:
        if value < (first := info.data.get("initial_wait_seconds", 0.0)):
            raise ValueError(
                f"must not be less than initial_wait_seconds ({first:g}); raise it or lower the initial wait"
            )
        return value

    def engine_config(self) -> RetryConfig:
        """The same for the engine."""
        return RetryConfig(
            max_attempts=self.max_attempts,
            initial_wait=self.initial_wait_seconds,
            max_wait=self.max_wait_seconds,
            exponential_base=self.exponential_base,
            jitter=self.jitter,
            max_rate_limit_retries=self.max_rate_limit_retries,
        )


class GenerationSettings(Section):
    """`[strategies.NAME.generation]`: sampling and limits; what is absent is the provider's default."""

    temperature: float | None = Field(None, ge=0, le=2, description="0 picks the likeliest token")
    max_output_tokens: int | None = Field(None, ge=1, description="the longest output, in tokens")
    top_p: float | None = Field(None, gt=0, le=1, description="nucleus sampling")
    top_k: int | None = Field(None, ge=1, description="sample among the so many likeliest tokens")
    seed: int | None = Field(None, description="makes sampling repeatable where the provider can")
    stop_sequences: tuple[str, ...] = Field(
        (), strict=False, max_length=16, description="output ends before any of these"
    )
    grammar: str = Field("", description="GBNF grammar for the output; provider `local` only")
    thinking_budget: int | None = Field(
        None, ge=-1, description="tokens for thinking: 0 for none, -1 for as many as the model likes; `gemini` only"
    )
    thinking_level: str = Field("", description="`low`, `high` and the like, for models that take it; `gemini` only")
    safety_settings: dict[str, str] = Field(
        default_factory=dict, description="harm category to threshold, as Google calls them; `gemini` only"
    )
    tools: tuple[dict[str, Any], ...] = Field(
        (), strict=False, description="tools as in Gemini's REST API, e.g. `{ googleSearch = {} }`; `gemini` only"
    )

    @field_validator("stop_sequences")
    @classmethod
    def _no_empty_sequence(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "" in value:  # white space may well be meant, e.g. a blank line
            raise ValueError("an entry is empty; leave it out or give it text")
        return value

    @field_validator("tools", mode="before")
    @classmethod
    def _tools_from_text(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        try:
            return [json.loads(tool) if isinstance(tool, str) else tool for tool in value]
        except ValueError as error:
            raise ValueError(f"a tool is no JSON object: {error}") from None

    @field_validator("tools")
    @classmethod
    def _are_tools(cls, value: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        for tool in value:
            tables = [each for part in tool.values() for each in (part if isinstance(part, list) else [part])]
            if not any(isinstance(each, dict) for each in tables):
                raise ValueError(
                    f"{json.dumps(tool, default=str)} is no tool; one is a table, `{{ googleSearch = {{}} }}`"
                )
        return value

    @model_validator(mode="after")
    def _one_way_to_think(self) -> Self:
        if self.thinking_budget is not None and self.thinking_level:
            raise ValueError(
                "thinking_budget: and thinking_level exclude each other; give the one that the model takes"
            )
        return self


class StrategySpec(Section):
    """`[strategies.NAME]`: a named, shared way of calling a model. RegisterStrategy takes the same fields."""

    provider: str = Field(min_length=1, description="name of a provider of this file")
    model: str = Field("", description="the model, as the provider calls it; empty: the provider's default")
    system_instruction: str = Field("", description="said to the model before anything else")
    cached_content: tuple[str, ...] = Field(
        (), strict=False, description="content that every item starts with; makes a cached strategy"
    )
    cache_ttl_seconds: float = Field(
        DEFAULT_TTL_SECONDS, ge=1, le=LONGEST_SECONDS, description="life of a context cache"
    )
    cache_renewal_buffer_seconds: float = Field(
        DEFAULT_RENEWAL_BUFFER_SECONDS,
        ge=0,
        description="a cache with less life is renewed; less than the TTL; absent: 300, at most half of the TTL",
    )
    auto_renew: bool = Field(True, description="renew and recreate the cache while it is in use")
    cache_tags: dict[str, str] = Field(default_factory=dict, description="part of the cache's identity")
    max_concurrency: int = Field(0, ge=0, le=10_000, description="calls in flight at most; 0: the provider's limit")
    attempt_timeout_seconds: float = Field(
        120.0, ge=SHORTEST_ATTEMPT_SECONDS, le=LONGEST_SECONDS, description="limit on one attempt"
    )
    retry: RetrySettings = Field(default_factory=RetrySettings, description="when to try again")
    output_json_schema: str = Field("", description="JSON Schema that outputs must match; a table or JSON text")
    generation: GenerationSettings = Field(default_factory=GenerationSettings, description="sampling and limits")
    escalation_models: tuple[str, ...] = Field(
        (),
        strict=False,
        max_length=8,
        description="models to move up to, one after another, when an output does not pass validation; at most "
        "`retry.max_attempts` less one",
    )

    @model_validator(mode="before")
    @classmethod
    def _fit_buffer_to_ttl(cls, values: Any) -> Any:
        ttl = values.get("cache_ttl_seconds") if isinstance(values, Mapping) else None
        if isinstance(ttl, int | float) and "cache_renewal_buffer_seconds" not in values:
            values = {**values, "cache_renewal_buffer_seconds": min(DEFAULT_RENEWAL_BUFFER_SECONDS, ttl / 2)}
        return values

    @field_validator("model")
    @classmethod
    def _no_blank_model(cls, value: str) -> str:
        if value and not value.strip():
            raise ValueError("is blank; leave it out or name a model")
        return value

    @field_validator("cached_content")
    @classmethod
    def _no_blank_content(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(not content.strip() for content in value):
            raise ValueError("an entry is blank; leave it out or give it text")
        return value

    @field_validator("escalation_models")
    @classmethod
    def _all_within_reach(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if any(not model.strip() for model in value):
            raise ValueError("an entry is blank; leave it out or name a model")
        retry: RetrySettings | None = info.data.get("retry")
        if retry is not None and len(value) >= retry.max_attempts:
            raise ValueError(
                f"with retry.max_attempts = {retry.max_attempts} no attempt is left for {value[-1]!r}; raise that to "
                f"{len(value) + 1} or name fewer models"
            )
        return value

    @field_validator("output_json_schema", mode="before")
    @classmethod
    def _schema_as_text(cls, value: Any) -> Any:
        return json.dumps(value, sort_keys=True) if isinstance(value, Mapping) else value

    @field_validator("output_json_schema")
    @classmethod
    def _check_schema(cls, value: str) -> str:
        if value:
            from batch_llm.strategies.schema import OutputSchema

            OutputSchema(value)
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.cache_policy()
        if self.generation.grammar and self.output_json_schema:
            raise ValueError("generation.grammar and output_json_schema both constrain the output; give one of them")
        return self

    def cache_policy(self) -> CachePolicy:
        """Life and renewal of the strategy's cache, for the engine."""
        return CachePolicy(self.cache_ttl_seconds, self.cache_renewal_buffer_seconds, self.auto_renew)


_GEMINI_ONLY = ("thinking_budget", "thinking_level", "safety_settings", "tools")


def _is_given(value: object) -> bool:
    return value is not None and value not in ("", (), {})


def _model(spec: StrategySpec, provider: Provider) -> str:
    if spec.model or not isinstance(provider, SimulatedProvider):
        return spec.model
    from batch_llm.strategies.simulated import MODEL

    return MODEL


def check_fit(spec: StrategySpec, provider: Provider) -> None:
    """Refuse what the provider cannot do.

    Raises:
        ValueError: begins with the field.
    """
    model = _model(spec, provider)
    called = bare if isinstance(provider, GeminiProvider) else str
    steps = [called(step) for step in (model, *spec.escalation_models)]
    twice = [step for step in spec.escalation_models if steps.count(called(step)) > 1]
    if twice:
        raise ValueError(f"escalation_models: {twice[0]!r} comes twice; each step moves to another model")
    if "" in steps[1:] or (isinstance(provider, GeminiProvider) and not steps[0]):
        field = "model" if not steps[0] else "escalation_models"
        raise ValueError(f"{field}: provider {spec.provider!r} needs one; give it as the endpoint calls it")
    if isinstance(provider, Quota) and provider.models:
        for field, step in (("model", model), *(("escalation_models", step) for step in spec.escalation_models)):
            if step not in provider.models:
                raise ValueError(
                    f"{field}: provider {spec.provider!r} has no model {step!r}; known: {', '.join(provider.models)}"
                )
    limit = provider.slots if isinstance(provider, LocalProvider) else provider.max_concurrency
    if isinstance(limit, int) and spec.max_concurrency > limit:
        key = "slots" if isinstance(provider, LocalProvider) else "max_concurrency"
        raise ValueError(
            f"max_concurrency: {spec.max_concurrency} calls are never in flight, because provider {spec.provider!r} "
            f"has {key} = {limit}; raise that, or leave this out for the provider's limit"
        )
    if not isinstance(provider, GeminiProvider | PythonProvider):
        given = next((name for name in _GEMINI_ONLY if _is_given(getattr(spec.generation, name))), None)
        if given is not None:
            raise ValueError(f"generation.{given}: only a gemini provider takes it; leave it out")
    match provider:
        case LocalProvider():
            if spec.escalation_models:
                raise ValueError(
                    f"escalation_models: provider {spec.provider!r} runs {provider.model_name!r} alone; leave it out"
                )
            if spec.model not in {"", provider.model_name}:
                raise ValueError(
                    f"model: provider {spec.provider!r} runs {provider.model_name!r}, not {spec.model!r}; "
                    "leave the model empty or declare another local provider"
                )
            if (spec.generation.max_output_tokens or 0) > provider.context_tokens:
                raise ValueError(
                    f"generation.max_output_tokens: prompt and output have {provider.context_tokens} tokens together, "
                    f"because provider {spec.provider!r} says so in context_tokens; raise that or lower this"
                )
        case OpenAIProvider() | GeminiProvider() if not spec.model:
            raise ValueError(f"model: provider {spec.provider!r} needs one; give it as the endpoint calls it")
        case OpenAIProvider() if spec.generation.top_k is not None:
            raise ValueError("generation.top_k: OpenAI's protocol has none; use top_p")
        case PythonProvider():
            pass  # its factory decides
        case _:
            if spec.generation.grammar:
                raise ValueError("generation.grammar: only a local provider can follow one; use output_json_schema")
    if spec.escalation_models and not spec.output_json_schema and not isinstance(provider, PythonProvider):
        raise ValueError(
            "escalation_models: without output_json_schema every output passes validation, so no item moves up; give "
            "a schema or leave it out (only a strategy of a `python` provider may check its outputs itself)"
        )
