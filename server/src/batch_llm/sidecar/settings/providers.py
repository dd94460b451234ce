"""`[providers.NAME]`: endpoints, credentials and quotas, which are the operator's alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from batch_llm.quota import ExponentialBackoffStrategy, QuotaLimits
from batch_llm.strategies.factory import FACTS, check_factory
from batch_llm.strategies.keys import key_from
from batch_llm.strategies.local.files import BUNDLED_MODEL
from batch_llm.strategies.openai import DEFAULT_BASE_URL, check_base_url

from .section import LONGEST_SECONDS, Section

GEMINI_KEY_VARIABLES = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")


class CooldownSettings(Section):
    """`[providers.NAME.rate_limit]`: how long a quota scope pauses after a 429, and how it starts again."""

    cooldown_seconds: float = Field(
        5.0, ge=0, le=LONGEST_SECONDS, description="first pause; what the provider asks for is a floor"
    )
    backoff_multiplier: float = Field(1.5, ge=1, description="factor from one pause in a row to the next")
    max_cooldown_seconds: float = Field(
        300.0, ge=0, le=LONGEST_SECONDS, description="the longest pause that is not the provider's wish"
    )
    slow_start_items: int = Field(20, ge=0, description="calls that are spaced out after a pause")
    slow_start_initial_delay_seconds: float = Field(
        0.5, ge=0, le=LONGEST_SECONDS, description="between the first of them"
    )
    slow_start_final_delay_seconds: float = Field(
        0.05, ge=0, le=LONGEST_SECONDS, description="between the last of them; no longer than between the first"
    )

    @field_validator("max_cooldown_seconds")
    @classmethod
    def _not_below_the_first(cls, value: float, info: ValidationInfo) -> float:
        if value < (first := info.data.get("cooldown_seconds", 0.0)):
            raise ValueError(f"must not be less than cooldown_seconds ({first:g}); raise it or lower the first pause")
        return value

    @field_validator("slow_start_final_delay_seconds")
    @classmethod
    def _gets_faster(cls, value: float, info: ValidationInfo) -> float:
        if value > (first := info.data.get("slow_start_initial_delay_seconds", value)):
            raise ValueError(
                f"must not be more than slow_start_initial_delay_seconds ({first:g}): a slow start gets faster; "
                "lower it or raise the initial delay"
            )
        return value

    def engine_strategy(self) -> ExponentialBackoffStrategy:
        """The same for the engine."""
        return ExponentialBackoffStrategy(
            initial_cooldown=self.cooldown_seconds,
            max_cooldown=self.max_cooldown_seconds,
            backoff_multiplier=self.backoff_multiplier,
            slow_start_items=self.slow_start_items,
            slow_start_initial_delay=self.slow_start_initial_delay_seconds,
            slow_start_final_delay=self.slow_start_final_delay_seconds,
        )


class Quota(Section):
    """What every provider's quota scopes keep to, each model for itself."""

    max_concurrency: Annotated[int, Field(ge=1, le=10_000)] | Literal["adaptive"] = Field(
        "adaptive", description='calls in flight at most, for one model; "adaptive": found out from answers and 429s'
    )
    requests_per_minute: int | None = Field(None, ge=1, description="calls in any 60 seconds at most, for one model")
    tokens_per_minute: int | None = Field(
        None, ge=1, description="tokens in any 60 seconds at most, for one model; reserved by estimate, then corrected"
    )
    rate_limit: CooldownSettings = Field(default_factory=CooldownSettings, description="pauses after a 429")
    models: tuple[str, ...] = Field((), strict=False, description="models that strategies may name; empty: any")

    @field_validator("max_concurrency", mode="wrap")
    @classmethod
    def _number_or_adaptive(cls, value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        try:
            return check(value)
        except ValidationError:  # one reason for each of the two that it may be
            raise ValueError('must be a whole number from 1 to 10000, or "adaptive"') from None

    def engine_limits(self) -> QuotaLimits:
        """The limits for the engine."""
        return QuotaLimits(self.max_concurrency, self.requests_per_minute, self.tokens_per_minute)


class SimulatedProvider(Quota):
    """`kind = "simulated"`: answers as prompts say; for development and tests."""

    kind: Literal["simulated"] = "simulated"
    max_concurrency: Annotated[int, Field(ge=1, le=10_000)] | Literal["adaptive"] = Field(
        1024, description='calls in flight at most, for one model; or "adaptive"'
    )
    hidden_max_in_flight: int | None = Field(
        None, ge=1, description="answer 429 to calls beyond so many in flight, as a provider would"
    )
    hidden_requests_per_minute: int | None = Field(
        None, ge=1, description="answer 429 to calls beyond so many in 60 seconds, as a provider would"
    )


class LocalProvider(Section):
    """`kind = "local"`: a model on this machine, run by llama.cpp (extra `batch-llm[local]`)."""

    kind: Literal["local"] = "local"
    model_path: Path | None = Field(
        None, strict=False, description="a GGUF file; absent: the small model that the extra brings"
    )
    model_sha256: str | None = Field(
        None, pattern="^[0-9a-fA-F]{64}$", description="checksum that `model_path` must have; absent: not checked"
    )
    context_tokens: int = Field(4096, ge=256, description="prompt and output of one item together, in tokens")
    slots: int = Field(2, ge=1, le=64, description="items that the model works on at a time")
    threads: int | None = Field(None, ge=1, description="threads for the model; absent: one for each usable core")
    max_output_tokens: int = Field(512, ge=1, description="longest output of strategies that set no limit, in tokens")
    prompt_format: Literal["auto", "plain", "chat"] = Field(
        "auto", description="plain: text follows text; chat: the model's chat template; auto: chat if it has one"
    )

    @property
    def model_name(self) -> str:
        """What strategies call the model."""
        return self.model_path.stem if self.model_path is not None else BUNDLED_MODEL

    @field_validator("model_path")
    @classmethod
    def _is_file(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError(f"{value} is no file; a relative name is relative to the configuration file")
        return value

    @field_validator("model_sha256")
    @classmethod
    def _is_of_a_file(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("model_path", ...) is None:
            raise ValueError("there is no model_path that it could be of; give one, or leave this out")
        return value


def _key_variable(name: str | None) -> str | None:
    """Refuse an environment variable that holds no key."""
    if name is not None and not _VARIABLE.fullmatch(name):
        # Not shown: it may be the key itself.
        raise ValueError("is no name of an environment variable (A-Z, 0-9, _); the key itself never stands here")
    if name is not None and not key_from(name):
        raise ValueError(f"the environment variable {name} is not set; put the key into it")
    return name


class OpenAIProvider(Quota):
    """`kind = "openai"`: any OpenAI-compatible chat-completions endpoint (extra `batch-llm[openai]`)."""

    kind: Literal["openai"] = "openai"
    base_url: str = Field(DEFAULT_BASE_URL, description="the endpoint, up to and without `/chat/completions`")
    api_key_env: str | None = Field(
        None,
        description="environment variable with the key; absent: `OPENAI_API_KEY` for OpenAI's own endpoint, no key for "
        "another `base_url`",
    )
    output_limit_field: Literal["auto", "max_tokens", "max_completion_tokens"] = Field(
        "auto",
        description="what the endpoint calls `max_output_tokens`; auto: `max_completion_tokens` for OpenAI's and "
        "Azure's hosts, else `max_tokens`",
    )
    cache_discount: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of the input price that a cached token saves; absent: OpenAI's for the model",
    )

    @field_validator("base_url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        check_base_url(value)
        return value

    @field_validator("api_key_env")
    @classmethod
    def _is_set(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("base_url") == DEFAULT_BASE_URL:
            _key_variable("OPENAI_API_KEY")
        return _key_variable(value)

    def api_key(self) -> str | None:
        """The key from the environment; None for an endpoint without one."""
        if self.api_key_env is None and self.base_url != DEFAULT_BASE_URL:
            return None
        return key_from(self.api_key_env or "OPENAI_API_KEY")


class GeminiProvider(Quota):
    """`kind = "gemini"`: Gemini by key, or on Vertex AI with `project` and `location` (extra `batch-llm[gemini]`)."""

    kind: Literal["gemini"] = "gemini"
    project: str | None = Field(None, min_length=1, description="project on Vertex AI; absent: the Developer API")
    location: str | None = Field(
        None, min_length=1, description="region on Vertex AI, e.g. `us-central1`; together with `project`"
    )
    base_url: str | None = Field(
        None, description="another endpoint than Google's, e.g. `batch-llm-sidecar emulate-gemini`"
    )
    api_key_env: str | None = Field(
        None,
        description="environment variable with the key; absent: `GEMINI_API_KEY`, else `GOOGLE_API_KEY`; none on "
        "Vertex AI, which takes Application Default Credentials",
    )

    @field_validator("project", "location")
    @classmethod
    def _not_blank(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("is blank; name one, or leave it out with the other for the Developer API")
        return value

    @field_validator("base_url")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        if value is not None:
            check_base_url(value)
        return value

    @field_validator("api_key_env")
    @classmethod
    def _is_set(cls, value: str | None) -> str | None:
        return _key_variable(value)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.project is None) != (self.location is None):
            missing, there = ("location", "project") if self.location is None else ("project", "location")
            raise ValueError(f"{missing}: is missing; Vertex AI needs it beside {there}")
        if self.project is not None and self.api_key_env is not None:
            raise ValueError(
                "api_key_env: goes with the Developer API, project and location with Vertex AI; give one of them"
            )
        if self.project is None and not self.api_key():
            raise ValueError(
                "api_key_env: neither GEMINI_API_KEY nor GOOGLE_API_KEY is set in the environment; put the key into "
                "one, or name another variable"
            )
        return self

    def api_key(self) -> str | None:
        """The key from the environment; None on Vertex AI."""
        if self.project is not None:
            return None
        names = GEMINI_KEY_VARIABLES if self.api_key_env is None else (self.api_key_env,)
        return key_from(*names)


class PythonProvider(Quota):
    """`kind = "python"`: strategies made by a Python function of the operator's."""

    kind: Literal["python"] = "python"
    factory: str = Field(description="`package.module:function`; the function returns an `LLMCallStrategy`")
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments for the factory")

    @field_validator("factory")
    @classmethod
    def _has_form(cls, value: str) -> str:
        check_factory(value)
        return value

    @field_validator("options")
    @classmethod
    def _leave_facts(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(set(value) & set(FACTS)):
            raise ValueError(f"{', '.join(taken)} is what a strategy says of itself; choose other names")
        return value


Provider = Annotated[
    SimulatedProvider | LocalProvider | GeminiProvider | OpenAIProvider | PythonProvider, Field(discriminator="kind")
]
PROVIDER_KINDS = tuple(
    get_args(section.model_fields["kind"].annotation)[0] for section in get_args(get_args(Provider)[0])
)
