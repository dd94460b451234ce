"""One item, from admission to its one terminal result."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from batch_llm.model import (
    AnyResult,
    DefaultErrorClassifier,
    ErrorClassifier,
    ErrorInfo,
    ErrorReason,
    ExecutionPolicy,
    FrameworkTimeoutError,
    TokenUsage,
    WorkItemResult,
    add_usage,
)
from batch_llm.shared import SharedStrategy, contained

logger = logging.getLogger("batch_llm")


@dataclass(slots=True)
class Rejection:
    """Why an item is not run at all.

    Args:
        reason: what to branch on.
        message: for people: what is wrong and the way out.
        metadata: facts behind the reason.
    """

    reason: ErrorReason
    message: str
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Work:
    """An accepted item on its way to its result.

    Args:
        item_id: the caller's name for it.
        prompt: what is asked.
        shared: the strategy that runs it; None with `rejection`.
        context: comes back with the result.
        strategy: name of the strategy, for the result.
        index: place among those submitted, from 0.
        accepted_at: the event loop's time of acceptance.
        deadline: the event loop's time by which the item must have ended; None for none.
        rejection: why it is not run.
    """

    item_id: str
    prompt: str
    shared: SharedStrategy | None
    context: Any = None
    strategy: str = ""
    index: int = 0
    accepted_at: float = 0.0
    deadline: float | None = None
    rejection: Rejection | None = None


class _Run:
    """What has happened to one item so far; outlives the time limits around it."""

    __slots__ = ("attempts", "classified", "error", "metadata", "output", "state", "success", "usage")

    def __init__(self) -> None:
        self.attempts = 0
        self.usage = TokenUsage()
        self.state: dict[str, Any] = {}
        self.success = False
        self.output: Any = None
        self.metadata: Any = {}
        self.error: BaseException | None = None
        self.classified: ErrorInfo | None = None


class Executor:
    """Runs items: attempts, time limits, retries, token sums.

    Args:
        policy: for strategies that bring none of their own.
        classifier: says what an exception means.
        sleep: waits for seconds.
        uniform: draws between two numbers; the jitter of waits.
    """

    def __init__(
        self,
        policy: ExecutionPolicy | None = None,
        *,
        classifier: ErrorClassifier | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._policy = policy or ExecutionPolicy()
        self._classifier = classifier or DefaultErrorClassifier()
        self._sleep = sleep
        self._uniform = uniform

    async def run(self, work: Work) -> AnyResult:
        """The item's one result. Raises nothing but `CancelledError`."""
        shared = work.shared
        if work.rejection is not None or shared is None:
            return _rejected(work)
        run = _Run()
        policy = shared.policy or self._policy
        if work.deadline is None:
            await self._attempts(work, shared, policy, run)
        elif asyncio.get_running_loop().time() >= work.deadline:
            _run_out(run, TimeoutError())
        else:
            try:
                async with asyncio.timeout_at(work.deadline):
                    await self._attempts(work, shared, policy, run)
            except TimeoutError as error:
                _run_out(run, error)
        return _result(work, shared, run)

    async def _attempts(self, work: Work, shared: SharedStrategy, policy: ExecutionPolicy, run: _Run) -> None:
        retry = policy.retry
        tries = 0
        while True:
            tries += 1
            try:
                await shared.ready()
                run.output, run.metadata = await self._attempt(work, shared, policy, run)
            except Exception as error:
                info = self._classifier.classify(error)
                run.error, run.classified = error, info
                await _tell(shared, error, run)
                if not info.is_retryable or tries >= retry.max_attempts:
                    return
                await self._wait(policy, info, tries)
            else:
                run.success = True
                return

    async def _attempt(self, work: Work, shared: SharedStrategy, policy: ExecutionPolicy, run: _Run) -> tuple[Any, Any]:
        await _admit(shared)
        try:
            run.attempts += 1
            output, usage, metadata = await self._call(work, shared, policy.attempt_timeout, run)
        except Exception as error:
            add_usage(run.usage, getattr(error, "token_usage", None))
            raise
        finally:
            for limiter in shared.limiters:
                limiter.release()
        add_usage(run.usage, usage)
        if policy.check_output is not None:
            policy.check_output(output)
        return output, metadata

    async def _call(self, work: Work, shared: SharedStrategy, timeout: float, run: _Run) -> tuple[Any, TokenUsage, Any]:
        try:
            async with asyncio.timeout(timeout) as limit:
                return await contained(shared.execute(work.prompt, run.attempts, timeout, run.state))
        except TimeoutError as error:
            if limit.expired():
                raise FrameworkTimeoutError(
                    f"the attempt took longer than {timeout:g} s; raise the attempt time-out or ask for less"
                ) from error
            raise

    async def _wait(self, policy: ExecutionPolicy, info: ErrorInfo, retry: int) -> None:
        wait = 0.0
        if info.item_reason is not ErrorReason.VALIDATION_FAILED:
            wait = policy.retry.wait_before(retry)
            if policy.retry.jitter:
                wait = self._uniform(0.0, wait)
        # What the provider asks for is a floor, up to the longest wait that the policy allows.
        wait = max(wait, min(info.suggested_wait or 0.0, policy.retry.max_wait))
        if wait > 0:
            await self._sleep(wait)


async def _admit(shared: SharedStrategy) -> None:
    """Take a place at each of the strategy's limiters, or none."""
    taken = 0
    try:
        for limiter in shared.limiters:
            if not limiter.try_acquire():
                await limiter.acquire()
            taken += 1
    except BaseException:
        for limiter in shared.limiters[:taken]:
            limiter.release()
        raise


async def _tell(shared: SharedStrategy, error: Exception, run: _Run) -> None:
    """Let the strategy see its failed attempt; its own errors must not reach the item."""
    if run.attempts == 0:
        return
    try:
        await shared.on_error(error, run.attempts, run.state)
    except Exception:
        logger.exception("on_error of strategy %r failed", shared.name)


def _run_out(run: _Run, error: TimeoutError) -> None:
    """Note that the item's own time limit ended it."""
    run.success = False
    run.error = error
    run.classified = _OUT_OF_TIME


_OUT_OF_TIME = ErrorInfo(
    is_retryable=True,
    is_rate_limit=False,
    is_timeout=True,
    error_category="item_deadline_exceeded",
    reason=ErrorReason.ITEM_DEADLINE_EXCEEDED,
)


def _result(work: Work, shared: SharedStrategy, run: _Run) -> AnyResult:
    strategy = shared.strategy
    result: AnyResult = WorkItemResult(
        item_id=work.item_id,
        success=run.success,
        context=work.context,
        token_usage=run.usage,
        attempts=run.attempts,
        strategy=work.strategy,
        cache_discount=strategy.cache_discount,
        submission_index=work.index,
        elapsed_seconds=asyncio.get_running_loop().time() - work.accepted_at,
    )
    if run.success:
        result.output = run.output
        metadata = run.metadata
        result.finish_reason = metadata.get("finish_reason", "")
        result.gemini_safety_ratings = metadata.get("safety_ratings")
        result.model = metadata.get("model", "")
        return result
    info = run.classified
    if info is None or run.error is None:
        raise RuntimeError(f"item {work.item_id!r} ended without an output and without an error")
    result.reason = info.item_reason
    result.error = _message(run.error, result.reason)
    result.retryable = info.is_retryable
    result.retry_after = info.suggested_wait
    result.error_metadata = info.metadata
    return result


def _message(error: BaseException, reason: ErrorReason) -> str:
    if reason is ErrorReason.ITEM_DEADLINE_EXCEEDED:
        return "the item's own time limit ran out, waiting included; give it more time or send less at once"
    text = str(error)
    return f"{type(error).__name__}: {text}" if reason is ErrorReason.INTERNAL or not text else text


def _rejected(work: Work) -> AnyResult:
    rejection = work.rejection
    if rejection is None:
        raise RuntimeError(f"item {work.item_id!r} has neither a strategy nor a rejection")
    return failure(work, rejection.reason, rejection.message, metadata=rejection.metadata)


def failure(
    work: Work,
    reason: ErrorReason,
    message: str,
    *,
    retryable: bool = False,
    metadata: dict[str, str] | None = None,
) -> AnyResult:
    """The result of an item that was not run."""
    return WorkItemResult(
        item_id=work.item_id,
        success=False,
        error=message,
        context=work.context,
        reason=reason,
        retryable=retryable,
        error_metadata=metadata or {},
        strategy=work.strategy,
        submission_index=work.index,
        elapsed_seconds=max(0.0, asyncio.get_running_loop().time() - work.accepted_at),
    )
