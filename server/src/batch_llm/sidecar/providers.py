"""From the operator's providers and a spec to a strategy. Libraries load when a strategy is first prepared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from batch_llm.caching import CacheRegistry
from batch_llm.model import BatchLLMError, ErrorReason, ExecutionPolicy
from batch_llm.shared import AnyStrategy, SharedStrategy
from batch_llm.strategies import Limiter

from .settings import LocalProvider, Provider, SimulatedProvider, StrategySpec, check_fit

if TYPE_CHECKING:
    from batch_llm.strategies.local import LocalModel


class Providers:
    """The configured providers; what their strategies share is kept here.

    Args:
        settings: providers by name.
        registry: where context caches are remembered.
        state_dir: where local models and caches are kept.
    """

    def __init__(self, settings: Mapping[str, Provider], registry: CacheRegistry, state_dir: Path) -> None:
        self._settings = settings
        self._registry = registry
        self._state_dir = state_dir
        self._limiters: dict[str, Limiter] = {}
        self._models: dict[str, LocalModel] = {}

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
        return SharedStrategy(
            strategy,
            name=name,
            policy=_policy(spec),
            max_concurrency=spec.max_concurrency or None,
        )

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
            limiter=self._limiters.setdefault(spec.provider, Limiter(settings.max_concurrency)),
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
            max_output_tokens=generation.max_output_tokens,
            top_p=generation.top_p,
            top_k=generation.top_k,
            seed=generation.seed,
            stop_sequences=generation.stop_sequences,
            grammar=generation.grammar,
            output_json_schema=spec.output_json_schema,
        )


def _policy(spec: StrategySpec) -> ExecutionPolicy:
    check_output = None
    if spec.output_json_schema:
        from batch_llm.strategies.schema import OutputSchema

        check_output = OutputSchema(spec.output_json_schema).check
    return ExecutionPolicy(spec.retry.engine_config(), spec.attempt_timeout_seconds, check_output)
