"""Virtual time, so that waits are exact and over at once, and a strategy that follows a script."""

import asyncio
import selectors
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from batch_llm.model import TokenUsage
from batch_llm.strategies import LLMCallStrategy
from batch_llm.sync import Limiter


class _JumpingSelector(selectors.DefaultSelector):
    """Jumps to the next timer instead of waiting for it."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events:
            if timeout is None:
                raise RuntimeError("every task waits and no timer is set: this would hang for ever")
            self.now += timeout
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is a number. What would hang for ever fails at once."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Callable[[], Any]]:
    return {"virtual": VirtualTimeLoop}


class ScriptedStrategy(LLMCallStrategy[Any]):
    """A step for each attempt, and for each `prepare()`; the last one repeats.

    A step is an exception to raise, an async function to call, or what to return.
    """

    def __init__(
        self,
        *steps: Any,
        prepare: tuple[Any, ...] = (None,),
        cleanup: Any = None,
        latency: float = 0.0,
        limiter: Limiter | None = None,
    ) -> None:
        self.limiter = limiter
        self.calls: list[tuple[str, int]] = []
        self.errors: list[tuple[Exception, int]] = []
        self.prepares = self.cleanups = self.running = self.peak = 0
        self._steps = steps or ("ok",)
        self._prepare = prepare
        self._cleanup = cleanup
        self._latency = latency

    async def prepare(self) -> None:
        self.prepares += 1
        await _do(self._prepare[min(self.prepares, len(self._prepare)) - 1])

    async def execute(self, prompt: str, attempt: int, timeout: float, state: dict[str, Any] | None = None) -> Any:
        self.calls.append((prompt, attempt))
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            if self._latency:
                await asyncio.sleep(self._latency)
            reply = await _do(self._steps[min(attempt, len(self._steps)) - 1])
        finally:
            self.running -= 1
        return reply if isinstance(reply, tuple) else (reply, TokenUsage())

    async def on_error(self, exception: Exception, attempt: int, state: dict[str, Any] | None = None) -> None:
        self.errors.append((exception, attempt))

    async def cleanup(self) -> None:
        self.cleanups += 1
        await _do(self._cleanup)


async def _do(step: Any) -> Any:
    if isinstance(step, BaseException):
        raise step
    return await step() if callable(step) else step


@pytest.fixture
def scripted() -> type[ScriptedStrategy]:
    return ScriptedStrategy


@pytest.fixture
def left_behind() -> Callable[[], set[str]]:
    """Names of tasks that are not the test's own."""

    def names() -> set[str]:
        return {task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task()}}

    return names
