"""A strategy that the operator's own Python function makes, when it is first needed."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from batch_llm.caching import ContextCache
from batch_llm.model import (
    DEFAULT_CACHE_DISCOUNT,
    ErrorReason,
    OutputValidationError,
    Pricing,
    ProviderError,
    TokenUsage,
)
from batch_llm.sync import Limiter

from .base import LLMCallStrategy, Reply, check_strategy
from .schema import model_check
from .signatures import with_state

_FORM = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")

_ASYNC = "is async; let it be a plain function and do what takes time in the strategy's prepare()"

FACTS = ("name", "model", "system_instruction", "cached_content", "generation", "output_json_schema")
"""What a factory is told of its strategy, as keyword arguments, if it takes them."""
# The engine looks after these itself, so a factory may leave them out though the strategy sets them.
_OPTIONAL_FACTS = {"name", "output_json_schema"}


class FactoryStrategy(LLMCallStrategy[Any]):
    """Stands in for the strategy that a factory makes, and forwards to it.

    The factory's module is imported, and the factory called, by `prepare()`; again by the next `prepare()` if that
    fails, and after `cleanup()`. Quotas, retries and escalation are those of the configuration; a `limiter`,
    `output_model` and `context_cache` of the strategy count.

    Args:
        factory: `package.module:function`; the function returns an `LLMCallStrategy`.
        options: keyword arguments for it.
        facts: what else it may take, by the names in `FACTS`; those that are empty it need not take.

    Raises:
        ValueError: `factory` has not that form.
    """

    def __init__(
        self, factory: str, *, options: Mapping[str, Any] | None = None, facts: Mapping[str, Any] | None = None
    ) -> None:
        check_factory(factory)
        self._factory = factory
        self._options = dict(options or {})
        self._facts = dict(facts or {})
        self._made: LLMCallStrategy[Any] | None = None
        self._check: Callable[[Any], Any] | None = None
        self._execute: Callable[..., Any] = self.execute
        self._on_error: Callable[..., Any] = self.on_error

    # Properties, because they are known only when the strategy has been made.

    @property
    def context_cache(self) -> ContextCache | None:  # type: ignore[override]
        """The strategy's."""
        return self._made.context_cache if self._made is not None else None

    @property
    def cache_discount(self) -> float:  # type: ignore[override]
        """The strategy's."""
        return self._made.cache_discount if self._made is not None else DEFAULT_CACHE_DISCOUNT

    @property
    def pricing(self) -> Pricing | None:  # type: ignore[override]
        """The strategy's."""
        return self._made.pricing if self._made is not None else None

    @property
    def limiter(self) -> Limiter | None:  # type: ignore[override]
        """The strategy's."""
        return self._made.limiter if self._made is not None else None

    async def prepare(self) -> None:
        """Make the strategy and prepare it.

        Raises:
            ProviderError: PREPARE_FAILED: the factory cannot be imported or called, or returned something else.
        """
        made = await self._make()
        await made.prepare()
        self._check = model_check(made.output_model) if made.output_model is not None else None
        self._execute = with_state(made.execute, 3)
        self._on_error = with_state(made.on_error, 2)
        self._made = made

    async def cleanup(self) -> None:
        """Clean the strategy up and forget it."""
        made, self._made = self._made, None
        if made is not None:
            await made.cleanup()

    async def execute(
        self, prompt: str, attempt: int, timeout: float, state: dict[str, Any] | None = None
    ) -> tuple[Any, TokenUsage] | tuple[Any, TokenUsage, Mapping[str, Any]]:
        """The strategy's."""
        self._ready()
        reply: Reply = await self._execute(prompt, attempt, timeout, state)
        if self._check is None:
            return reply
        try:
            output = self._check(reply[0])
        except OutputValidationError as error:
            error.token_usage = reply[1]
            raise
        return (output, *reply[1:])

    async def on_error(self, exception: Exception, attempt: int, state: dict[str, Any] | None = None) -> None:
        """The strategy's."""
        self._ready()
        await self._on_error(exception, attempt, state)

    def with_feedback(self, prompt: str, output: str, errors: Any) -> str:
        """The strategy's."""
        return self._ready().with_feedback(prompt, output, errors)

    async def dry_run(self, prompt: str) -> tuple[Any, TokenUsage]:
        """The strategy's; makes it, but does not prepare it."""
        made = self._made or await self._make()
        return await made.dry_run(prompt)

    def _ready(self) -> LLMCallStrategy[Any]:
        if self._made is None:
            raise ProviderError("prepare() has not been called", reason=ErrorReason.PREPARE_FAILED)
        return self._made

    async def _make(self) -> LLMCallStrategy[Any]:
        try:
            # In a thread, because imports take their time; the call is here, where a strategy finds its event loop.
            function = await asyncio.to_thread(load_factory, self._factory)
            arguments = arguments_for(function, self._options, self._facts)
        except ValueError as error:
            raise self._failure(str(error)) from error.__cause__
        if ignored := ignored_facts(function, self._facts):
            raise self._failure(f"does not take {', '.join(ignored)}, which the strategy sets")
        try:
            made = function(**arguments)
        except Exception as error:
            raise self._failure(f"raised {type(error).__name__}: {error}") from error
        if inspect.iscoroutine(made):
            made.close()
            raise self._failure(_ASYNC)
        if not isinstance(made, LLMCallStrategy):
            raise self._failure(f"returned {type(made).__name__}, not an LLMCallStrategy")
        try:
            check_strategy(made)
        except ValueError as error:
            raise self._failure(f"returned a strategy that cannot be used: {error}") from None
        return made

    def _failure(self, what: str) -> ProviderError:
        return ProviderError(
            f"factory {self._factory!r} {what}", reason=ErrorReason.PREPARE_FAILED, metadata={"factory": self._factory}
        )


def check_factory(factory: str) -> None:
    """Refuse what has not the form `package.module:function`.

    Raises:
        ValueError: with what it must look like.
    """
    if not _FORM.fullmatch(factory):
        raise ValueError(f'must have the form "package.module:function", e.g. "mycompany.llm:make", not {factory!r}')


def load_factory(factory: str) -> Callable[..., Any]:
    """Import a factory's module and find the function in it; it is not called.

    Raises:
        ValueError: why it cannot be used.
    """
    module_name, _, path = factory.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise ValueError(
                f"cannot be imported: there is no module {error.name!r}; install it beside batch-llm or put its "
                "directory on PYTHONPATH"
            ) from None
        raise ValueError(f"cannot be imported: {error}") from error
    except (Exception, SystemExit) as error:
        raise ValueError(f"cannot be imported: {type(error).__name__}: {error}") from error
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ValueError(f"cannot be found: {module_name!r} has no {part!r}") from None
    if not callable(found):
        raise ValueError(f"is {type(found).__name__}, which cannot be called")  # noqa: TRY004 - a setting's value
    if any(map(inspect.iscoroutinefunction, (found, type(found).__call__))):  # of an object, only the latter says so
        raise ValueError(_ASYNC)
    function: Callable[..., Any] = found
    return function


def ignored_facts(function: Callable[..., Any], facts: Mapping[str, Any]) -> list[str]:
    """The facts that a strategy sets and the function does not take."""
    parameters = _parameters(function)
    if parameters is None or any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return []
    return [name for name, fact in facts.items() if fact and name not in parameters and name not in _OPTIONAL_FACTS]


def arguments_for(function: Callable[..., Any], options: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the function is called with: the options, and the facts that it takes.

    Raises:
        ValueError: it cannot be called with that.
    """
    parameters = _parameters(function)
    if parameters is None:
        return dict(options)
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        facts = {name: fact for name, fact in facts.items() if name in parameters}
    arguments = {**options, **facts}
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise ValueError(f"cannot be called with the options given: {error}; they are its keyword arguments") from None
    return arguments


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    try:
        return inspect.signature(function).parameters
    except ValueError:  # some classes written in C have none
        return None
