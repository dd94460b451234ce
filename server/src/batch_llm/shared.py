"""A strategy that many items, streams and processors share: prepared once, cleaned up once."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from batch_llm.model import (
    BatchLLMError,
    DefaultErrorClassifier,
    ErrorReason,
    ExecutionPolicy,
    ProviderError,
    TokenUsage,
    checks,
)
from batch_llm.quota import QuotaScope, QuotaUser, scope_of
from batch_llm.strategies import LLMCallStrategy
from batch_llm.strategies.base import check_strategy
from batch_llm.strategies.schema import model_check
from batch_llm.strategies.signatures import with_state
from batch_llm.sync import Flight, FlightCancelledError, Limiter

logger = logging.getLogger("batch_llm")

AnyStrategy = LLMCallStrategy[Any]
T = TypeVar("T")

DEFAULT_PREPARE_TIMEOUT_SECONDS = 600.0
_FIRST_BACKOFF_SECONDS = 1.0
_LONGEST_BACKOFF_SECONDS = 60.0
_CLEANUP_SECONDS = 60.0
_NO_METADATA: Mapping[str, Any] = {}


class SharedStrategy:
    """One strategy instance and all who use it.

    `ready()` prepares it single-flight: those who arrive while it is being prepared wait for that same attempt, and a
    caller who is cancelled cancels nobody else. After a failure the next caller tries again, with backoff: a failure
    that may pass makes callers wait, one that will not is told to them at once until the backoff is over.

    Args:
        strategy: the instance.
        name: its name, for results and logs.
        policy: how its items are run; None leaves that to who runs them.
        max_concurrency: calls in flight at most, over all users; at least 1, None for no limit of its own.
        prepare_timeout: seconds that `prepare()` may take; at least 0.001.
        scope: its quota scope; None: that of the strategy's `quota_key`, or one of its own.
        escalation: where items move up to when outputs do not pass validation; None: what the strategy says.
        clock: monotonic seconds.

    Raises:
        TypeError: `strategy` is none.
        ValueError: a number is out of its range, or an attribute of the strategy makes no sense.
    """

    def __init__(
        self,
        strategy: AnyStrategy,
        *,
        name: str = "",
        policy: ExecutionPolicy | None = None,
        max_concurrency: int | None = None,
        prepare_timeout: float = DEFAULT_PREPARE_TIMEOUT_SECONDS,
        scope: QuotaScope | None = None,
        escalation: Sequence[SharedStrategy] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        check_strategy(strategy)
        checks.number("prepare_timeout", prepare_timeout, "the usual is 600", least=0.001)
        self.strategy = strategy
        self.name = name
        self.policy = policy
        self.scope = scope if scope is not None else scope_of(strategy.quota_key)
        if escalation is None:
            escalation = [shared_for(step) for step in strategy.escalation]
        self.escalation = tuple(escalation)
        self.check_output = model_check(strategy.output_model) if strategy.output_model is not None else None
        self._own_limiter = Limiter(max_concurrency) if max_concurrency is not None else None
        self._note_limiters()
        self.prepared = False
        self.users = 0
        self._prepare_timeout = prepare_timeout
        self._clock = clock
        self._mutex = threading.Lock()  # users may be in several threads, each with its event loop
        self._preparing: Flight[None] | None = None
        self._cleaning: Flight[None] | None = None
        self._home: asyncio.AbstractEventLoop | None = None
        self._failure: Exception | None = None
        self._failures = 0
        self._retry_at = 0.0
        self._execute = with_state(strategy.execute, 3)
        self._on_error = with_state(strategy.on_error, 2)

    def __deepcopy__(self, memo: object) -> SharedStrategy:
        # Reached through a strategy that is copied: the copy finds that this is not its own, see `shared_for`.
        return self

    # -- users -------------------------------------------------------------------------------------------------------

    def lease(self, quota_user: QuotaUser | None = None) -> None:
        """Count a user in.

        Args:
            quota_user: what the user wants of the quota scope, if anything.
        """
        with self._mutex:
            self.users += 1
        if quota_user is not None:
            self.scope.join(quota_user)
        for step in self.escalation:
            step.lease(quota_user)

    async def release(self, quota_user: QuotaUser | None = None) -> None:
        """Count a user out; the last one cleans up. A failing cleanup is logged and raised.

        Args:
            quota_user: as it was given to `lease`.

        Raises:
            Exception: what the strategy's `cleanup()` raised.
        """
        if quota_user is not None:
            self.scope.leave(quota_user)
        with self._mutex:
            self.users -= 1
            last = self.users == 0
            if last:
                # A flight of its own, so that a cancelled caller does not leave a client half closed.
                self._cleaning = cleaning = Flight(self._clean_up(), f"cleanup-{self.name}")
        failures = []
        for end in (*([cleaning.wait()] if last else []), *(step.release(quota_user) for step in self.escalation)):
            try:
                await end
            except Exception as error:  # each lets go, whatever becomes of another
                failures.append(error)
        if failures:
            raise failures[0]

    async def _clean_up(self) -> None:
        if self._preparing is not None and not self._preparing.done:
            self._preparing.cancel()
            with suppress(Exception):  # those who waited for it have been told
                await self._preparing.wait()
        if self.strategy.context_cache is not None:
            await self.strategy.context_cache.join()
        if not self.prepared or self.users:
            return
        self.prepared = False
        try:
            async with asyncio.timeout(_CLEANUP_SECONDS):
                await contained(self.strategy.cleanup())
        except Exception:
            logger.exception("cleanup of strategy %r failed", self.name or type(self.strategy).__name__)
            raise

    # -- preparing ---------------------------------------------------------------------------------------------------

    async def ready(self) -> None:
        """Prepare it if that has not been done, and make its context cache usable.

        Raises:
            Exception: what `prepare()` raised, or the cache's error.
        """
        if not self.prepared or self._home is not asyncio.get_running_loop():
            await self._come_home()
        cache = self.strategy.context_cache
        if cache is not None:
            await cache.ensure()

    async def _come_home(self) -> None:
        if self._home is not None and self._home.is_closed():
            # Its event loop ended without a cleanup, and what it had opened with it.
            self._home = None
            self.prepared = False
        await self.prepare()

    async def prepare(self) -> None:
        """Prepare it if that has not been done.

        Raises:
            Exception: what the strategy's `prepare()` raised.
        """
        if self._cleaning is not None and not self._cleaning.done:
            with suppress(Exception):  # whoever let go has been told
                await self._cleaning.wait()
        while not self.prepared:
            if self._preparing is None or self._preparing.done:
                await self._back_off()
            with self._mutex:
                if self._preparing is None or self._preparing.done:
                    self._preparing = Flight(self._prepare(), f"prepare-{self.name}")
                flight = self._preparing
            with suppress(FlightCancelledError):  # with another caller's event loop: begun again in this one
                await flight.wait()

    async def _prepare(self) -> None:
        try:
            async with asyncio.timeout(self._prepare_timeout) as limit:
                await contained(self.strategy.prepare())
        except Exception as error:
            self._failures += 1
            self._failure = _as_prepare_error(error)
            if limit.expired():
                self._failure = ProviderError(
                    f"strategy {self.name!r} was not prepared within {self._prepare_timeout:g} s",
                    reason=ErrorReason.PREPARE_FAILED,
                    retryable=True,
                )
            backoff = min(_LONGEST_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2 ** (self._failures - 1))
            self._retry_at = self._now() + backoff
            logger.warning("strategy %r: %s", self.name, self._failure)
            raise self._failure from error
        self._home = asyncio.get_running_loop()
        self._note_limiters()  # a strategy may have its limiter only now
        self.prepared = True
        self._failure = None
        self._failures = 0

    def _note_limiters(self) -> None:
        limiters = (self._own_limiter, self.strategy.limiter)
        self.limiters = tuple(limiter for limiter in limiters if limiter is not None)
        self.max_concurrency = min((limiter.limit for limiter in self.limiters), default=None)

    async def _back_off(self) -> None:
        while self._failure is not None and (wait := self._retry_at - self._now()) > 0:
            if not getattr(self._failure, "retryable", False):
                raise self._failure.with_traceback(None)  # raised many times, it would grow with each
            await asyncio.sleep(wait)

    def _now(self) -> float:
        return self._clock() if self._clock is not None else asyncio.get_running_loop().time()

    # -- running -----------------------------------------------------------------------------------------------------

    async def execute(
        self, prompt: str, attempt: int, timeout: float, state: dict[str, Any]
    ) -> tuple[Any, TokenUsage, Mapping[str, Any]]:
        """One call of the strategy, its answer in the long form."""
        match await self._execute(prompt, attempt, timeout, state):
            case (output, usage):
                return output, usage, _NO_METADATA
            case (output, usage, Mapping() | None as metadata):
                return output, usage, metadata or _NO_METADATA
            case (_, dict() as usage, metadata):
                error = TypeError(f"execute() must return a mapping as its third part, got {metadata!r:.100}")
                error.token_usage = usage  # type: ignore[attr-defined]
                raise error
            case reply:
                raise TypeError(
                    f"execute() must return (output, usage) or (output, usage, mapping), got {reply!r:.100}"
                )

    async def on_error(self, error: Exception, attempt: int, state: dict[str, Any]) -> None:
        """Show the strategy a failed attempt."""
        await self._on_error(error, attempt, state)


def _as_prepare_error(error: Exception) -> Exception:
    """Keep what the error says of itself; say PREPARE_FAILED where it says nothing better."""
    if isinstance(error, BatchLLMError):
        return error
    info = DefaultErrorClassifier().classify(error)
    return ProviderError(
        f"the strategy could not be prepared: {type(error).__name__}: {error}",
        reason=ErrorReason.PREPARE_FAILED,
        retryable=info.is_retryable,
    )


async def contained(call: Coroutine[Any, Any, T]) -> T:
    """Await a strategy's own code: a cancellation that comes from within it is its failure, not the caller's end.

    Raises:
        ProviderError: the strategy was cancelled from within.
    """
    try:
        return await call
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        spent = getattr(error, "token_usage", None)
        raise ProviderError("the strategy's call was cancelled from within", token_usage=spent) from error
    except (Exception, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # e.g. SystemExit, which would end the event loop with everything in it
        raise ProviderError(
            f"the strategy raised {type(error).__name__}: {error}", reason=ErrorReason.INTERNAL
        ) from error


_ATTRIBUTE = "_batch_llm_shared"
_sharing = threading.RLock()  # several threads may share one strategy first; its escalation is shared inside


def shared_for(strategy: AnyStrategy) -> SharedStrategy:
    """The one `SharedStrategy` of an instance, for use in-process; it lives as long as the instance.

    Raises:
        TypeError: it, or a step of its escalation, is no strategy.
        ValueError: an attribute of one of them makes no sense.
    """
    shared = _known(strategy)
    if shared is None:
        with _sharing:
            shared = _known(strategy)  # another thread may have been faster
            if shared is None:
                _check_escalation(strategy, [])
                shared = SharedStrategy(strategy)
                object.__setattr__(strategy, _ATTRIBUTE, shared)
    return shared


def _known(strategy: AnyStrategy) -> SharedStrategy | None:
    shared: SharedStrategy | None = getattr(strategy, _ATTRIBUTE, None)
    # A copied strategy brings its original's.
    return shared if shared is not None and shared.strategy is strategy else None


def _check_escalation(strategy: AnyStrategy, above: list[AnyStrategy]) -> None:
    if any(strategy is step for step in above):
        raise ValueError(f"escalation: {strategy!r} comes back to itself; each step must be another strategy")
    check_strategy(strategy)
    for step in strategy.escalation:
        _check_escalation(step, [*above, strategy])
