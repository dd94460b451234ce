"""A plain function as a strategy."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from batch_llm.model import DEFAULT_CACHE_DISCOUNT, TokenUsage, checks
from batch_llm.sync import Limiter

from .base import LLMCallStrategy, check_cache_discount

DEFAULT_MAX_THREADS = 32
_USAGE_KEYS = frozenset(TokenUsage.__annotations__)


class CallableStrategy(LLMCallStrategy[Any]):
    """Calls a function with the prompt.

    The function returns the output, or a pair `(output, usage)`: a pair whose second part is a mapping with keys of
    `TokenUsage` and no others. It may be async; a plain one runs in a thread, and at most `max_threads` of them run at
    a time. A thread cannot be stopped: when an attempt runs out of time its result is dropped, and its thread is busy
    until the function returns.

    Args:
        function: from a prompt to an output.
        max_threads: for a plain function; at least 1.
        cache_discount: share of the input price that a cached token saves.

    Raises:
        TypeError: `function` cannot be called.
        ValueError: `max_threads` is no whole number of at least 1, or `cache_discount` not between 0 and 1.
    """

    def __init__(
        self,
        function: Callable[[str], Any],
        *,
        max_threads: int = DEFAULT_MAX_THREADS,
        cache_discount: float = DEFAULT_CACHE_DISCOUNT,
    ) -> None:
        if not callable(function):
            raise TypeError(f"function must be a function from a prompt to an output, got {type(function).__name__}")
        checks.whole("max_threads", max_threads, f"the usual is {DEFAULT_MAX_THREADS}", least=1)
        check_cache_discount(cache_discount)
        self.cache_discount = cache_discount
        self._function = function
        self._max_threads = max_threads
        self._threads: ThreadPoolExecutor | None = None
        self._in_threads = not _is_async(function)
        if self._in_threads:
            # So that items wait for a thread before their attempt's time starts.
            self.limiter = Limiter(max_threads)

    async def prepare(self) -> None:
        """Have threads ready for a plain function."""
        if self._in_threads:
            self._threads = ThreadPoolExecutor(self._max_threads, thread_name_prefix="batch-llm-call")

    async def cleanup(self) -> None:
        """Let the threads end; those that are still busy end when their function returns."""
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)

    async def execute(
        self, prompt: str, attempt: int, timeout: float, state: dict[str, Any] | None = None
    ) -> tuple[Any, TokenUsage]:
        """Call the function."""
        if self._in_threads:
            context = contextvars.copy_context()
            returned = await asyncio.get_running_loop().run_in_executor(
                self._threads, context.run, self._function, prompt
            )
        else:
            returned = self._function(prompt)
        if isinstance(returned, Awaitable):
            returned = await returned
        match returned:
            case (output, Mapping() as usage) if isinstance(returned, tuple) and usage.keys() <= _USAGE_KEYS:
                return output, TokenUsage(**usage)  # type: ignore[typeddict-item] # the keys are checked above
            case _:
                return returned, TokenUsage()


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
