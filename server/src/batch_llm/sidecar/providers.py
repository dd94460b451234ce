"""From the operator's providers and a spec to a strategy. Libraries load when a strategy is first prepared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batch_llm.caching import CacheRecord, CacheRegistry
from batch_llm.model import BatchLLMError, ErrorReason, ExecutionPolicy
from batch_llm.quota import Fleet, QuotaLimits, QuotaScope
from batch_llm.shared import AnyStrategy, SharedStrategy

from .settings import (
    GeminiProvider,
    LocalProvider,
    OpenAIProvider,
    Provider,
    PythonProvider,
    Settings,
    SimulatedProvider,
    StrategySpec,
    check_fit,
)

if TYPE_CHECKING:
    from batch_llm.strategies.gemini.connection import Connection
    from batch_llm.strategies.local import LocalModel
    from batch_llm.strategies.simulated import HiddenLimits


class Providers:
    """The configured providers; what their strategies share is kept here.

    Args:
        settings: providers by name.
        registry: where context caches are remembered that are on this machine.
        state_dir: where local models and caches are kept.
        fleet_registry: where those are remembered that are at their provider; None: with the others.
        fleet: shares the budgets of providers; None: this sidecar has them alone.
    """

    def __init__(
        self,
        settings: Mapping[str, Provider],
        registry: CacheRegistry,
        state_dir: Path,
        fleet_registry: CacheRegistry | None = None,
        fleet: Fleet | None = None,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._fleet_registry = fleet_registry or registry
        self._state_dir = state_dir
        self._fleet = fleet
        self._scopes: dict[tuple[str, str], QuotaScope] = {}
        self._models: dict[str, LocalModel] = {}
        self._hidden: dict[str, HiddenLimits] = {}
        self._connections: dict[str, Connection] = {}

    def kind(self, name: str) -> str:
        """The kind of a provider."""
        return self._get(name).kind

    def build(self, name: str, spec: StrategySpec) -> SharedStrategy:
        """A strategy that is ready to be prepared.

        Raises:
            BatchLLMError: PROVIDER_NOT_FOUND or INVALID_FIELD, with the field.
        """
        provider = self._get(spec.provider)
        try:
            check_fit(spec, provider)
        except ValueError as error:
            field = str(error).partition(":")[0]
            raise BatchLLMError(str(error), reason=ErrorReason.INVALID_FIELD, metadata={"field": field}) from None
        match provider:
            case SimulatedProvider() as settings:
                strategy = self._simulated(name, spec, settings)
            case LocalProvider() as settings:
                strategy = self._local(name, spec, settings)
            case GeminiProvider() as settings:
                strategy = self._gemini(name, spec, settings)
            case OpenAIProvider() as settings:
                strategy = _openai(spec, settings)
            case PythonProvider() as settings:
                strategy = _python(name, spec, settings)
        # Each model that items may move up to is a strategy of its own: its own quota, its own cache.
        steps = [
            self.build(name, spec.model_copy(update={"model": model, "escalation_models": ()}))
            for model in spec.escalation_models
        ]
        return SharedStrategy(
            strategy,
            name=name,
            policy=_policy(spec),
            max_concurrency=spec.max_concurrency or None,
            scope=self._scope(spec, provider),
            escalation=steps,
        )

    async def cache_records(self) -> Sequence[CacheRecord]:
        """All context caches that are remembered, by strategy, then by fingerprint.

        Raises:
            ProviderError: a registry cannot be asked now.
        """
        records = await self._registry.list()
        if self._fleet_registry is not self._registry:
            # A file of before there was a fleet may know some of the fleet's; they are told once, as they are now.
            own = [record for record in records if not self._is_fleets(record)]
            records = sorted([*own, *await self._fleet_registry.list()], key=lambda at: (at.strategy, at.fingerprint))
        return records

    def _is_fleets(self, record: CacheRecord) -> bool:
        return isinstance(self._settings.get(record.provider_name), GeminiProvider)

    def _scope(self, spec: StrategySpec, provider: Provider) -> QuotaScope:
        """The quota scope of a provider's model; the provider stands for its credentials, in a whole fleet."""
        if isinstance(provider, LocalProvider):
            limits, pauses = QuotaLimits(), None  # bounded by its slots
        else:
            limits, pauses = provider.engine_limits(), provider.rate_limit.engine_strategy()
        model = spec.model
        if isinstance(provider, SimulatedProvider):
            from batch_llm.strategies.simulated import MODEL

            model = model or MODEL
        if isinstance(provider, GeminiProvider):
            from batch_llm.strategies.gemini.requests import bare

            model = bare(model)
        key = (spec.provider, model)
        if key not in self._scopes:
            self._scopes[key] = QuotaScope(f"{spec.provider}/{model}", limits, pauses, fleet=self._fleet)
        return self._scopes[key]

    def _hidden_limits(self, name: str, settings: SimulatedProvider) -> HiddenLimits | None:
        from batch_llm.strategies.simulated import HiddenLimits

        if settings.hidden_max_in_flight is None and settings.hidden_requests_per_minute is None:
            return None
        if name not in self._hidden:
            self._hidden[name] = HiddenLimits(settings.hidden_max_in_flight, settings.hidden_requests_per_minute)
        return self._hidden[name]

    def _get(self, name: str) -> Provider:
        settings = self._settings.get(name)
        if settings is None:
            known = ", ".join(sorted(self._settings)) or "none"
            raise BatchLLMError(
                f"provider: no provider {name!r} is configured; known: {known}",
                reason=ErrorReason.PROVIDER_NOT_FOUND,
                metadata={"provider": name, "known": known},
            )
        return settings

    def _simulated(self, name: str, spec: StrategySpec, settings: SimulatedProvider) -> AnyStrategy:
        from batch_llm.strategies.simulated import MODEL, SimulatedStrategy

        return SimulatedStrategy(
            name=name,
            model=spec.model or MODEL,
            system_instruction=spec.system_instruction,
            cached_content=spec.cached_content,
            cache_policy=spec.cache_policy(),
            cache_tags=spec.cache_tags,
            registry=self._registry,
            provider=spec.provider,
            hidden_limits=self._hidden_limits(spec.provider, settings),
        )

    def _gemini(self, name: str, spec: StrategySpec, settings: GeminiProvider) -> AnyStrategy:
        from batch_llm.strategies.gemini.connection import Connection
        from batch_llm.strategies.gemini.requests import settings_of
        from batch_llm.strategies.gemini.strategy import GeminiCachedStrategy, GeminiStrategy

        connection = self._connections.get(spec.provider)
        if connection is None:
            concurrency = settings.max_concurrency
            connection = self._connections[spec.provider] = Connection(
                api_key=settings.api_key(),
                project=settings.project,
                location=settings.location,
                base_url=settings.base_url,
                max_connections=concurrency if isinstance(concurrency, int) else None,
            )
        generation = spec.generation
        config = settings_of(
            system_instruction=spec.system_instruction,
            temperature=generation.temperature,
            max_output_tokens=generation.max_output_tokens,
            top_p=generation.top_p,
            top_k=generation.top_k,
            seed=generation.seed,
            stop_sequences=generation.stop_sequences,
            output_json_schema=spec.output_json_schema,
            thinking_budget=generation.thinking_budget,
            thinking_level=generation.thinking_level or None,
            safety_settings=generation.safety_settings,
            tools=generation.tools,
        )
        if not spec.cached_content:
            return GeminiStrategy(spec.model, connection, config=config)
        return GeminiCachedStrategy(
            spec.model,
            connection,
            None,
            spec.cached_content,
            spec.cache_ttl_seconds,
            spec.cache_renewal_buffer_seconds,
            spec.auto_renew,
            config,
            spec.cache_tags,
            registry=self._fleet_registry,
            provider=spec.provider,
            name=name,
        )

    def _local(self, name: str, spec: StrategySpec, settings: LocalProvider) -> AnyStrategy:
        from batch_llm.strategies.local import LocalModel, LocalStrategy

        model = self._models.get(spec.provider)
        if model is None:
            model = self._models[spec.provider] = LocalModel(
                state_dir=self._state_dir,
                model_path=settings.model_path,
                model_sha256=settings.model_sha256,
                context_tokens=settings.context_tokens,
                slots=settings.slots,
                threads=settings.threads,
                prompt_format=settings.prompt_format,
            )
        generation = spec.generation
        return LocalStrategy(
            model,
            name=name,
            provider=spec.provider,
            system_instruction=spec.system_instruction,
            cached_content=spec.cached_content,
            cache_policy=spec.cache_policy(),
            cache_tags=spec.cache_tags,
            registry=self._registry,
            temperature=generation.temperature,
            max_output_tokens=generation.max_output_tokens or settings.max_output_tokens,
            top_p=generation.top_p,
            top_k=generation.top_k,
            seed=generation.seed,
            stop_sequences=generation.stop_sequences,
            grammar=generation.grammar,
            output_json_schema=spec.output_json_schema,
        )


def _openai(spec: StrategySpec, settings: OpenAIProvider) -> AnyStrategy:
    from batch_llm.strategies.openai import OpenAIStrategy

    generation = spec.generation
    concurrency = settings.max_concurrency
    return OpenAIStrategy(
        spec.model,
        api_key=settings.api_key(),
        base_url=settings.base_url,
        system_instruction=spec.system_instruction,
        cached_content=spec.cached_content,
        temperature=generation.temperature,
        max_output_tokens=generation.max_output_tokens,
        top_p=generation.top_p,
        seed=generation.seed,
        stop_sequences=generation.stop_sequences,
        output_json_schema=spec.output_json_schema,
        output_limit_field=settings.output_limit_field,
        cache_discount=settings.cache_discount,
        max_connections=concurrency if isinstance(concurrency, int) else None,
    )


def _python(name: str, spec: StrategySpec, settings: PythonProvider) -> AnyStrategy:
    from batch_llm.strategies.factory import FactoryStrategy

    return FactoryStrategy(settings.factory, options=settings.options, facts=_facts(name, spec))


def _facts(name: str, spec: StrategySpec) -> dict[str, Any]:
    return {
        "name": name,
        "model": spec.model,
        "system_instruction": spec.system_instruction,
        "cached_content": spec.cached_content,
        "generation": {key: value for key, value in spec.generation if value not in (None, (), "", {})},
        "output_json_schema": spec.output_json_schema,
    }


def _policy(spec: StrategySpec) -> ExecutionPolicy:
    check_output = None
    if spec.output_json_schema:
        from batch_llm.strategies.schema import OutputSchema

        check_output = OutputSchema(spec.output_json_schema).check
    return ExecutionPolicy(spec.retry.engine_config(), spec.attempt_timeout_seconds, check_output)


def check_factories(settings: Settings) -> Iterator[str]:
    """Import what `python` providers name, without calling it; what is wrong with it, by key and reason.

    Serving imports each when it is first needed, so that a heavy library costs no time at the start and a broken one
    harms no other provider.
    """
    from batch_llm.strategies.factory import FACTS, arguments_for, ignored_facts, load_factory

    for provider_name, provider in settings.providers.items():
        if not isinstance(provider, PythonProvider):
            continue
        try:
            function = load_factory(provider.factory)
        except ValueError as error:
            yield f"providers.{provider_name}.factory: {provider.factory!r} {error}"
            continue
        try:
            arguments_for(function, provider.options, dict.fromkeys(FACTS))
        except ValueError as error:
            yield f"providers.{provider_name}.options: {provider.factory!r} {error}"
        for name, spec in settings.strategies.items():
            if spec.provider != provider_name:
                continue
            facts = _facts(name, spec)
            for fact in ignored_facts(function, facts):
                yield f"strategies.{name}.{fact}: {provider.factory!r} does not take it; leave it out or let it"
            if spec.escalation_models and not spec.model and ignored_facts(function, {"model": "any"}):
                yield f"strategies.{name}.escalation_models: {provider.factory!r} does not take a model; leave it out"
