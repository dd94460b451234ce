"""A pydantic-ai agent as a strategy. Importing this does not import pydantic-ai."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from batch_llm.model import (
    DEFAULT_CACHE_DISCOUNT,
    ErrorReason,
    OutputValidationError,
    ProviderError,
    TokenUsage,
    TOutput,
)

from .base import LLMCallStrategy, check_cache_discount

if TYPE_CHECKING:
    from pydantic_ai import Agent, RunUsage, UsageLimits
    from pydantic_ai.messages import ModelMessage

# What pydantic-ai's exceptions mean, the first that fits decides. By name: most of them are younger than 2.0.
_REASONS = (
    ("UserError", ErrorReason.INTERNAL),
    ("UsageLimitExceeded", ErrorReason.PROVIDER_REJECTED),
    ("ContentFilterError", ErrorReason.CONTENT_BLOCKED),
    ("ModelQuotaExceededError", ErrorReason.RATE_LIMITED),
    ("ModelRateLimitError", ErrorReason.RATE_LIMITED),
    ("ModelContextWindowExceededError", ErrorReason.CONTEXT_LENGTH_EXCEEDED),
    ("ModelAuthenticationError", ErrorReason.AUTHENTICATION_FAILED),
    ("ModelTimeoutError", ErrorReason.PROVIDER_TIMEOUT),
    ("ModelRequestTimeout", ErrorReason.PROVIDER_TIMEOUT),
    ("RunTimedOut", ErrorReason.PROVIDER_TIMEOUT),
)


class PydanticAIStrategy(LLMCallStrategy[TOutput]):
    """Runs a pydantic-ai agent (2.x; extra `batch-llm[pydantic-ai]`) once for each attempt; outputs are the agent's.

    The agent's own retries stay inside an attempt. Tokens are those of all its requests, also when the run fails.
    Outputs that the agent does not accept are the engine's validation failures: tried again with what was wrong.

    Args:
        agent: the agent, which items share.
        deps: the agent's dependencies, the same for every run.
        usage_limits: bounds on one run, e.g. its requests; None: pydantic-ai's.
        cache_discount: share of the input price that a cached token saves; depends on the agent's model.

    Raises:
        ValueError: `cache_discount` is not between 0 and 1.
    """

    def __init__(
        self,
        agent: Agent[Any, TOutput],
        *,
        deps: Any = None,
        usage_limits: UsageLimits | None = None,
        cache_discount: float = DEFAULT_CACHE_DISCOUNT,
    ) -> None:
        check_cache_discount(cache_discount)
        self.agent = agent
        self.cache_discount = cache_discount
        self._deps = deps
        self._usage_limits = usage_limits

    async def execute(
        self, prompt: str, attempt: int, timeout: float, state: dict[str, Any] | None = None
    ) -> tuple[TOutput, TokenUsage, Mapping[str, Any]]:
        """One run of the agent."""
        from pydantic_ai import RunUsage, capture_run_messages

        # Ours rather than the result's, because a run that fails has no result.
        usage = RunUsage()
        with capture_run_messages() as messages:
            try:
                result = await self.agent.run(prompt, deps=self._deps, usage=usage, usage_limits=self._usage_limits)
            except asyncio.CancelledError as error:
                error.token_usage = read_usage(usage)  # type: ignore[attr-defined] # steps that were made are paid
                raise
            except Exception as error:
                failure = _translate(error, messages)
                with suppress(AttributeError):  # an exception with slots
                    failure.token_usage = read_usage(usage)  # type: ignore[attr-defined]
                if failure is error:
                    raise
                raise failure from error
        response = result.response
        metadata = {"finish_reason": response.finish_reason or "", "model": response.model_name or ""}
        return result.output, read_usage(usage), metadata


def read_usage(usage: RunUsage) -> TokenUsage:
    """Tokens of a run."""
    thinking = getattr(usage, "output_reasoning_tokens", 0) or usage.details.get("reasoning_tokens", 0)
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cached_input_tokens": usage.cache_read_tokens,
        "thinking_tokens": thinking,
    }


def _translate(error: Exception, messages: list[ModelMessage]) -> Exception:
    """A failed run's exception in the engine's terms; one that is not pydantic-ai's stays as it is."""
    names = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.startswith("pydantic_ai.")}
    message = str(getattr(error, "message", None) or error)
    reason = next((reason for name, reason in _REASONS if name in names), None)
    if reason is not None or "ModelAPIError" in names:
        return ProviderError(
            message,
            status=getattr(error, "status_code", None),
            reason=reason,
            retryable=False if "ModelQuotaExceededError" in names else None,  # waiting does not fill an account
            retry_after=getattr(error, "retry_after", None),
        )
    if "UnexpectedModelBehavior" in names:
        problem = f"{message}: {error.__cause__}" if error.__cause__ is not None else message
        return OutputValidationError([problem], _last_output(messages))
    return error


def _last_output(messages: list[ModelMessage]) -> str:
    """What the model said last: its text, or the arguments of its call of an output tool."""
    from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart

    for message in reversed(messages):
        if isinstance(message, ModelResponse):
            said = [
                part.content if isinstance(part, TextPart) else part.args_as_json_str()
                for part in message.parts
                if isinstance(part, TextPart | ToolCallPart)
            ]
            return "\n".join(said)
    return ""
