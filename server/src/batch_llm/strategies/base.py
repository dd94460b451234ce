"""What a strategy is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Generic

from batch_llm.caching import ContextCache
from batch_llm.model import DEFAULT_CACHE_DISCOUNT, Pricing, TokenUsage, TOutput, checks
from batch_llm.sync import Limiter

Reply = tuple[Any, TokenUsage] | tuple[Any, TokenUsage, Mapping[str, Any]]
"""What `execute` returns: the output, its tokens and, if there is more to say, a mapping with any of
`finish_reason` (str), `safety_ratings` (mapping of str to str) and `model` (str)."""


class LLMCallStrategy(ABC, Generic[TOutput]):
    """Turns a prompt into an output: one provider, one model, one way of asking.

    An instance is shared by all items that name it. Only `execute` is required; it may leave `state` out of its
    signature.

    Attributes:
        cache_discount: share of the input price that a cached token saves; 0 to 1.
        pricing: what its model's tokens cost, for receipts; None: nothing is known of that.
        context_cache: the strategy's context cache, if it has one; made usable before every attempt.
        limiter: bounds the calls in flight at its provider; strategies on one provider share it. Set before or by
            `prepare`.
        quota_key: strategies with the same key share a quota scope: same provider, credentials and model. None: this
            instance has its own.
        output_model: a pydantic model that text outputs must match as JSON; results then carry its instances.
        escalation: strategies to move up to, one after another, when outputs do not pass validation.
            Whoever runs an item allows it `max_attempts`, so it reaches that many less one.
    """

    cache_discount: float = DEFAULT_CACHE_DISCOUNT
    pricing: Pricing | None = None
    context_cache: ContextCache | None = None
    limiter: Limiter | None = None
    quota_key: Hashable | None = None
    escalation: Sequence[LLMCallStrategy[Any]] = ()
    output_model: type[Any] | None = None

    async def prepare(self) -> None:
        """Get ready, e.g. open a client. Called once for a shared instance, before its first `execute`."""

    @abstractmethod
    async def execute(
        self, prompt: str, attempt: int, timeout: float, state: dict[str, Any] | None = None
    ) -> tuple[TOutput, TokenUsage] | tuple[TOutput, TokenUsage, Mapping[str, Any]]:
        """Make one call.

        Args:
            prompt: the item's prompt.
            attempt: 1 for the first.
            timeout: seconds until the engine cancels the attempt.
            state: the item's own scratch space, kept over its attempts.

        Returns:
            The output and its tokens, and optionally a mapping, see `Reply`.

        Raises:
            Exception: whatever went wrong; `token_usage` on it counts what the attempt cost. That holds for the
                `CancelledError` of an attempt that is cut short, too.
        """

    async def on_error(self, exception: Exception, attempt: int, state: dict[str, Any] | None = None) -> None:
        """See a failed attempt, e.g. to change the next one through `state`."""

    async def cleanup(self) -> None:
        """Release what `prepare` took. Called once, when the last user has gone. Leaves caches alive."""

    def with_feedback(self, prompt: str, output: str, errors: Sequence[str]) -> str:
        """The prompt of the attempt that follows an output that did not pass validation.

        Args:
            prompt: the item's prompt.
            output: the output, as the model gave it.
            errors: what is wrong with it.
        """
        problems = "\n".join(f"- {error}" for error in errors)
        return (
            f"{prompt}\n\nYour last answer was:\n{output}\n\nIt was not accepted:\n{problems}\n\n"
            "Answer again and mend this."
        )

    async def dry_run(self, prompt: str) -> tuple[Any, TokenUsage]:
        """Answer without a provider and without cost."""
        return f"[dry run] {prompt[:80]}", TokenUsage()


def check_cache_discount(value: Any) -> None:
    """Refuse what is no number from 0 to 1.

    Raises:
        ValueError: with field, value and way out.
    """
    checks.number("cache_discount", value, "0.9 for nine tenths off, 0 for none", most=1)


def check_strategy(strategy: Any) -> None:
    """Refuse what is no strategy, or one whose attributes make no sense. They are set by whoever wrote its class.

    Raises:
        TypeError: it is none.
        ValueError: by attribute, with value and way out.
    """
    if not isinstance(strategy, LLMCallStrategy):
        raise TypeError(f"a strategy must be an LLMCallStrategy, got {strategy!r}; wrap a function in CallableStrategy")
    check_cache_discount(strategy.cache_discount)
    if strategy.limiter is not None:
        checks.instance("limiter", strategy.limiter, Limiter, "use Limiter(8) for 8 calls at a time, None for no limit")
    try:
        hash(strategy.quota_key)
    except TypeError:
        checks.refuse("quota_key", "be hashable", strategy.quota_key, "use a string or a tuple of strings")
    if strategy.output_model is not None and not hasattr(strategy.output_model, "model_validate_json"):
        checks.refuse("output_model", "be a pydantic model", strategy.output_model, "use None for no check")
    if not isinstance(strategy.escalation, Sequence) or isinstance(strategy.escalation, str):
        checks.refuse("escalation", "be a list of strategies", strategy.escalation, "use [] for none")
