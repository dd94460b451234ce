"""One item, from admission to its one terminal result."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from batch_llm.caching import CacheAccount
from batch_llm.model import (
    AnyResult,
    BatchLLMError,
    CacheGoneError,
    DefaultErrorClassifier,
    ErrorClassifier,
    ErrorInfo,
    ErrorReason,
    ExecutionPolicy,
    FrameworkTimeoutError,
    OutputValidationError,
    Receipt,
    TokenUsage,
    WorkItemResult,
    add_usage,
    attempt_receipt,
)
from batch_llm.quota import Admission, QuotaScope, QuotaUser
from batch_llm.shared import AnyStrategy, SharedStrategy, contained

logger = logging.getLogger("batch_llm")

_CHARACTERS_PER_TOKEN = 4
_ON_ERROR_SECONDS = 30.0


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
        tenant: whose it is, where items of several wait for the same quota; a batch's are one tenant's.
        account: where its batch's share of context caches is kept.
        cut_short: says why it is to end at once when its run is cancelled; None: that is no result, but a cancellation.
        before_call: awaited with the index when a call is admitted and before it is made, further attempts included.
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
    tenant: Hashable = None
    account: CacheAccount | None = None
    cut_short: Callable[[], str | None] | None = None
    before_call: Callable[[int], Awaitable[None]] | None = None


class _Run:
    """What has happened to one item so far; outlives the time limits around it."""

    __slots__ = (
        "attempts",
        "cached_saved",
        "classified",
        "error",
        "metadata",
        "output",
        "prompt",
        "shared",
        "spent",
        "state",
        "success",
        "text",
        "usage",
    )

    def __init__(self, work: Work, shared: SharedStrategy) -> None:
        self.shared = shared
        self.prompt = work.prompt
        self.attempts = 0
        self.usage = TokenUsage()
        self.cached_saved = 0.0
        self.spent: list[tuple[AnyStrategy, TokenUsage | None]] = []
        self.state: dict[str, Any] = {}
        self.success = False
        self.output: Any = None
        self.text: str | None = None
        self.metadata: Any = {}
        self.error: BaseException | None = None
        self.classified: ErrorInfo | None = None

    def count(self, usage: TokenUsage | None) -> int | None:
        """Add an attempt's usage; its total of tokens, None where nothing is known."""
        if not usage:
            self.spent.append((self.shared.strategy, None))
            return None
        cached = self.usage.get("cached_input_tokens", 0)
        total = self.usage.get("total_tokens", 0)
        add_usage(self.usage, usage)
        self.spent.append((self.shared.strategy, usage))
        self.cached_saved += (self.usage.get("cached_input_tokens", 0) - cached) * self.shared.strategy.cache_discount
        return self.usage.get("total_tokens", 0) - total


class Executor:
    """Runs items: admission, attempts, time limits, retries, escalation, token sums.

    Args:
        policy: for strategies that bring none of their own.
        classifier: says what an exception means.
        quota_user: on whose behalf quota scopes are used.
        sleep: waits for seconds.
        uniform: draws between two numbers; the jitter of waits.
    """

    def __init__(
        self,
        policy: ExecutionPolicy | None = None,
        *,
        classifier: ErrorClassifier | None = None,
        quota_user: QuotaUser | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._policy = policy or ExecutionPolicy()
        self._classifier = classifier or DefaultErrorClassifier()
        self._quota_user = quota_user
        self._sleep = sleep
        self._uniform = uniform

    async def run(self, work: Work) -> AnyResult:
        """The item's one result. Raises nothing but `CancelledError`, if `Work.cut_short` has nothing to say."""
        if work.rejection is not None or work.shared is None:
            return _rejected(work)
        run = _Run(work, work.shared)
        try:
            try:
                if work.deadline is None:
                    await self._attempts(work, run)
                else:
                    async with asyncio.timeout_at(work.deadline):
                        await self._attempts(work, run)
            except TimeoutError as error:
                _end(run, error, _BROKEN if work.deadline is None else _OUT_OF_TIME)
            except asyncio.CancelledError:
                message = work.cut_short() if work.cut_short is not None else None
                if message is None:
                    raise
                _end(run, BatchLLMError(message, reason=ErrorReason.CANCELLED), _CUT_SHORT)  # what it has cost counts
            except Exception as error:  # a bug, of ours or in a hook: the item ends all the same, its tokens counted
                logger.exception("item %r ended by an error outside its calls", work.item_id)
                _end(run, error, _BROKEN)
            return _result(work, run)
        finally:
            _detach(run.error)

    async def _attempts(self, work: Work, run: _Run) -> None:
        tries = 0
        rate_limited = 0
        cache_gone = False
        escalations = list(run.shared.escalation)
        while True:
            _check_deadline(work)
            shared = run.shared
            policy = shared.policy or self._policy
            calls = run.attempts
            try:
                await shared.ready()
                if shared.strategy.context_cache is not None and work.account is not None:
                    await work.account.use(shared.strategy.context_cache)
                await self._attempt(work, policy, run)
            except Exception as error:
                info = self._note(run, error)
                _check_deadline(work)  # the call may have turned its cancellation into an error of its own
                called = run.attempts > calls  # else the strategy was not ready, or the call not admitted
                if isinstance(error, CacheGoneError) and shared.strategy.context_cache is not None:
                    await shared.strategy.context_cache.lost(error.cache_name)
                    if not cache_gone:  # not an attempt, once: the cache is made anew
                        cache_gone = True
                        run.attempts = calls
                        continue
                if called:
                    await _tell(shared, error, run)
                if not info.is_retryable:
                    return
                if info.is_rate_limit:
                    # Not an attempt: the scope pauses, and admission waits for that.
                    rate_limited += 1
                    if rate_limited > policy.retry.max_rate_limit_retries:
                        return
                    run.attempts = calls
                    if not called:  # e.g. its cache could not be created now
                        await self._wait(policy, info, rate_limited)
                    continue
                tries += 1
                if tries >= policy.retry.max_attempts:
                    return
                if isinstance(error, OutputValidationError):
                    run.prompt = shared.strategy.with_feedback(work.prompt, error.output, error.errors)
                if info.item_reason is ErrorReason.VALIDATION_FAILED and escalations:
                    run.shared = escalations.pop(0)
                await self._wait(policy, info, tries)
            else:
                run.success = True
                return

    async def _attempt(self, work: Work, policy: ExecutionPolicy, run: _Run) -> None:
        """One call, admitted by the strategy's limiters and its quota scope; sets the run's output."""
        shared = run.shared
        scope = shared.scope
        await _admit(shared, work.tenant)
        try:
            admission = await scope.admit(work.tenant, len(run.prompt) // _CHARACTERS_PER_TOKEN)
            if work.before_call is not None:
                await _announce(work.before_call(work.index), scope, admission)
            tokens: int | None = None
            succeeded = False
            try:
                run.attempts += 1
                output, usage, run.metadata = await self._call(shared, policy.attempt_timeout, run)
                tokens = run.count(usage)
                succeeded = True
            except asyncio.CancelledError as error:
                run.count(getattr(error, "token_usage", None))
                raise
            except Exception as error:
                tokens = run.count(getattr(error, "token_usage", None))
                info = self._note(run, error)
                if info.is_rate_limit and info.is_retryable:  # else a day's quota: a pause would not help
                    await scope.throttled(admission, info.suggested_wait, self._quota_user)
                elif info.is_overload:
                    scope.overloaded()
                raise
            finally:
                scope.release(admission, succeeded=succeeded, tokens=tokens)
        finally:
            for limiter in shared.limiters:
                limiter.release()
        run.text = output if isinstance(output, str) else None
        check = policy.check_output or shared.check_output
        run.output = check(output) if check is not None else output

    async def _call(self, shared: SharedStrategy, timeout: float, run: _Run) -> tuple[Any, TokenUsage, Any]:
        try:
            async with asyncio.timeout(timeout) as limit:
                return await contained(shared.execute(run.prompt, run.attempts, timeout, run.state))
        except TimeoutError as error:
            if limit.expired():
                raise FrameworkTimeoutError(
                    f"the attempt took longer than {timeout:g} s; raise the attempt time-out or ask for less",
                    token_usage=getattr(error.__cause__, "token_usage", None),
                ) from error
            raise

    def _note(self, run: _Run, error: Exception) -> ErrorInfo:
        """Classify an error, once, as the last thing that happened to the item."""
        if run.error is not error or run.classified is None:
            run.error, run.classified = error, self._classify(error)
        return run.classified

    def _classify(self, error: Exception) -> ErrorInfo:
        try:
            info: object = self._classifier.classify(error)
        except Exception:
            logger.exception("the error classifier failed; going by the default one")
        else:
            if isinstance(info, ErrorInfo):
                return info
            logger.error("classify() must return an ErrorInfo, got %.100r; going by the default classifier", info)
        return DefaultErrorClassifier().classify(error)

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


def _detach(error: BaseException | None) -> None:
    """Drop the tracebacks of an error and of those behind it: their frames hold the item, which holds the error."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


async def _admit(shared: SharedStrategy, tenant: Hashable) -> None:
    """Take a place at each of the strategy's limiters, or none."""
    taken = 0
    try:
        for limiter in shared.limiters:
            if not limiter.try_acquire():
                await limiter.acquire(tenant)
            taken += 1
    except BaseException:
        for limiter in shared.limiters[:taken]:
            limiter.release()
        raise


async def _announce(told: Awaitable[None], scope: QuotaScope, admission: Admission) -> None:
    """Wait until it is told that a call is about to be made; cancelled, the admission is given back."""
    try:
        await told
    except BaseException:
        scope.release(admission, succeeded=False)
        raise
    admission.at = asyncio.get_running_loop().time()  # the wait was not the provider's latency


async def _tell(shared: SharedStrategy, error: Exception, run: _Run) -> None:
    """Let the strategy see its failed attempt; its own errors and slowness must not reach the item."""
    try:
        async with asyncio.timeout(_ON_ERROR_SECONDS):
            await contained(shared.on_error(error, run.attempts, run.state))
    except Exception:
        logger.exception("on_error of strategy %r failed", shared.name)


def _check_deadline(work: Work) -> None:
    if work.deadline is not None and asyncio.get_running_loop().time() >= work.deadline:
        raise TimeoutError


def _end(run: _Run, error: Exception, info: ErrorInfo) -> None:
    """Note what ended the item from outside its attempts."""
    run.success = False
    run.error = error
    run.classified = info


_TOO_LATE = "the item's own time limit ran out, waiting included; give it more time or send less at once"
_OUT_OF_TIME = ErrorInfo(
    is_retryable=True,
    is_rate_limit=False,
    is_timeout=True,
    error_category="item_deadline_exceeded",
    reason=ErrorReason.ITEM_DEADLINE_EXCEEDED,
)
_CUT_SHORT = ErrorInfo(
    is_retryable=True,
    is_rate_limit=False,
    is_timeout=False,
    error_category="cancelled",
    reason=ErrorReason.CANCELLED,
)
_BROKEN = ErrorInfo(
    is_retryable=False,
    is_rate_limit=False,
    is_timeout=False,
    error_category="internal",
    reason=ErrorReason.INTERNAL,
)


def _result(work: Work, run: _Run) -> AnyResult:
    cached = run.usage.get("cached_input_tokens", 0)
    result: AnyResult = WorkItemResult(
        item_id=work.item_id,
        success=run.success,
        context=work.context,
        token_usage=run.usage,
        attempts=run.attempts,
        strategy=work.strategy,
        # Models of one item may have different discounts; this one saves as much as theirs together.
        cache_discount=run.cached_saved / cached if cached else run.shared.strategy.cache_discount,
        submission_index=work.index,
        elapsed_seconds=asyncio.get_running_loop().time() - work.accepted_at,
        bill=_bill(work, run),
    )
    if run.success:
        result.output = run.output
        result.text = run.text
        metadata = run.metadata
        result.finish_reason = metadata.get("finish_reason", "")
        result.gemini_safety_ratings = metadata.get("safety_ratings")
        result.model = metadata.get("model", "")
        return result
    info = run.classified
    if info is None or run.error is None:
        raise RuntimeError(f"item {work.item_id!r} ended without an output and without an error")
    result.exception = run.error
    result.reason = info.item_reason
    result.error = _message(run.error, result.reason)
    result.retryable = info.is_retryable
    result.retry_after = info.suggested_wait
    result.error_metadata = info.metadata
    return result


def _bill(work: Work, run: _Run) -> Receipt | None:
    """What all attempts came to; None where that follows from the item's usage."""
    if not run.spent or (len(run.spent) == 1 and run.spent[0][0].pricing is None):
        return None
    bill = Receipt()
    last = len(run.spent) - 1
    for number, (strategy, usage) in enumerate(run.spent):
        receipt = attempt_receipt(usage, strategy.pricing, run.success and number == last)
        if work.account is not None:
            work.account.add_hits(strategy.context_cache, receipt)
        bill.add(receipt)
    return bill


def _message(error: BaseException, reason: ErrorReason) -> str:
    if reason is ErrorReason.ITEM_DEADLINE_EXCEEDED:
        return _TOO_LATE
    text = str(error)
    return f"{type(error).__name__}: {text}" if reason is ErrorReason.INTERNAL or not text else text


def _rejected(work: Work) -> AnyResult:
    rejection = work.rejection
    if rejection is None:
        raise RuntimeError(f"item {work.item_id!r} has neither a strategy nor a rejection")
    return failure(work, rejection.reason, rejection.message, metadata=rejection.metadata)


def out_of_time(work: Work) -> AnyResult:
    """The result of an item whose deadline passed while it waited to be run."""
    return failure(work, ErrorReason.ITEM_DEADLINE_EXCEEDED, _TOO_LATE, retryable=_OUT_OF_TIME.is_retryable)


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
