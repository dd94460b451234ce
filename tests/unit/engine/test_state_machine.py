"""Whatever the order of failures, cancellations, 429s and deadlines: each item ends once and nothing leaks."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as draw
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from batch_llm.executor import Executor, Work
from batch_llm.model import AnyResult, ErrorReason, ExecutionPolicy, ProviderError, RetryConfig, TokenUsage
from batch_llm.quota import FixedDelayStrategy, QuotaLimits, QuotaScope
from batch_llm.shared import SharedStrategy
from batch_llm.strategies import LLMCallStrategy

from .conftest import VirtualTimeLoop

REQUESTS_PER_MINUTE = 4
TOKENS_PER_MINUTE = 250
MAX_CONCURRENCY = 3
ATTEMPT_TIMEOUT = 10.0
TOKENS = 40

# What a call may come to: seconds that it takes, and its end.
STEPS = draw.tuples(
    draw.sampled_from([0.0, 0.5, 3.0, 30.0]),
    draw.sampled_from(["ok", "ok", "ok", "503", "429", "429 later", "400", "provider time-out", "bug"]),
)


class Provider(LLMCallStrategy[str]):
    """Follows each item's script, and keeps a log of what it was asked."""

    def __init__(self) -> None:
        self.scripts: dict[str, list[tuple[float, str]]] = {}
        self.starts: list[float] = []
        self.running = self.peak = 0
        self.spent: dict[str, int] = {}

    async def execute(self, prompt: str, attempt: int, timeout: float) -> tuple[str, TokenUsage]:
        self.running += 1
        self.peak = max(self.peak, self.running)
        seconds, end = self.scripts[prompt].pop(0) if self.scripts[prompt] else (0.0, "ok")
        if not end.startswith("429"):  # a refused call does not count at a provider
            self.starts.append(asyncio.get_running_loop().time())
        try:
            if seconds:
                await asyncio.sleep(seconds)
        finally:
            self.running -= 1
        paid = TokenUsage(input_tokens=TOKENS)
        if end in {"ok", "503", "400"}:
            self.spent[prompt] = self.spent.get(prompt, 0) + TOKENS
        match end:
            case "503" | "400":
                raise ProviderError(end, status=int(end), token_usage=paid)
            case "429":
                raise ProviderError(end, status=429)
            case "429 later":
                raise ProviderError(end, status=429, retry_after=7.0)
            case "provider time-out":
                raise TimeoutError(end)
            case "bug":
                raise KeyError(end)
        return "done", paid


class Engine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.provider = Provider()
        self.scope = QuotaScope(
            limits=QuotaLimits(MAX_CONCURRENCY, REQUESTS_PER_MINUTE, TOKENS_PER_MINUTE),
            strategy=FixedDelayStrategy(5.0),
        )
        self.shared = SharedStrategy(self.provider, scope=self.scope, max_concurrency=MAX_CONCURRENCY + 1)
        retry = RetryConfig(max_attempts=3, initial_wait=1.0, jitter=False, max_rate_limit_retries=3)
        self.executor = Executor(ExecutionPolicy(retry, ATTEMPT_TIMEOUT))
        self.items: dict[str, asyncio.Task[AnyResult]] = {}
        self.cancelled: set[str] = set()

    def do(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    @rule(
        script=draw.lists(STEPS, max_size=6),
        limit=draw.sampled_from([None, None, 2.0, 20.0, 100.0]),
        tenant=draw.sampled_from(["a", "b", "c"]),
    )
    def submit(self, script: list[tuple[float, str]], limit: float | None, tenant: str) -> None:
        name = str(len(self.items))
        self.provider.scripts[name] = list(script)
        now = self.loop.time()
        work = Work(
            name,
            name,
            self.shared,
            accepted_at=now,
            deadline=None if limit is None else now + limit,
            tenant=tenant,
        )
        self.items[name] = self.loop.create_task(self.executor.run(work))
        self.do(0)

    @rule(seconds=draw.sampled_from([0.0, 0.5, 3.0, 5.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.do(seconds)

    @precondition(lambda self: any(not task.done() for task in self.items.values()))
    @rule(data=draw.data())
    def cancel(self, data: Any) -> None:
        name = data.draw(draw.sampled_from(sorted(name for name, task in self.items.items() if not task.done())))
        self.cancelled.add(name)
        self.items[name].cancel()
        self.do(0)

    @invariant()
    def budgets_hold(self) -> None:
        starts = self.provider.starts
        for index, start in enumerate(starts):
            assert len([time for time in starts[index:] if time < start + 60.0]) <= REQUESTS_PER_MINUTE
        assert self.provider.peak <= MAX_CONCURRENCY

    def teardown(self) -> None:
        try:
            self.loop.run_until_complete(self._finish())
        finally:
            self.loop.close()

    async def _finish(self) -> None:
        outcomes = await asyncio.gather(*self.items.values(), return_exceptions=True)
        for name, outcome in zip(self.items, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                assert isinstance(outcome, asyncio.CancelledError)
                assert name in self.cancelled
                continue
            assert outcome.success == (outcome.reason is None) == (outcome.output == "done")
            assert outcome.reason is not ErrorReason.INTERNAL or "bug" in (outcome.error or "")
            assert outcome.token_usage.get("input_tokens", 0) == self.provider.spent.get(name, 0)
            assert 0 <= outcome.attempts <= 3
        assert self.scope.in_flight == 0
        assert all(limiter.in_use == 0 for limiter in self.shared.limiters)
        assert not self.scope._queue
        assert asyncio.all_tasks() == {asyncio.current_task()}


Engine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
TestEngine = Engine.TestCase
