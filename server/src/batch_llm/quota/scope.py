"""One provider's quota for one model: who may call now, and who waits."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import weakref
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from batch_llm.model import EngineEvents, ProcessingEvent, RateLimitConfig, checks
from batch_llm.sync import FairQueue
from batch_llm.sync.bounded import bounded

from .adaptive import AdaptiveLimit, Limited
from .budget import Admission, Budget
from .cooldown import ExponentialBackoffStrategy, RateLimitStrategy
from .fleet import Fleet
from .limits import QuotaLimits, QuotaUser

logger = logging.getLogger("batch_llm")

LONGEST_SUGGESTED_WAIT_SECONDS = 3600.0
_SHORTEST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 10.0
_FALLBACK_PAUSE_SECONDS = 60.0
_STRATEGY_SECONDS = 30.0


class QuotaScope:
    """Admits calls: within budgets, not during a pause, in turn between tenants.

    A pause belongs to the scope, not to the item that met the 429: it ends when it ends. It is a time, so whoever
    waits looks again before every call. A scope may be used from event loops in several threads.

    Args:
        name: for events.
        limits: what it keeps to.
        strategy: how long it pauses and how it starts again; None: v0.2's defaults.
        events: told of pauses.
        fleet: others that share what `limits` allows in a minute, by the scope's name; None: it has all of it.
    """

    def __init__(
        self,
        name: str = "",
        limits: QuotaLimits | None = None,
        strategy: RateLimitStrategy | None = None,
        *,
        events: EngineEvents | None = None,
        fleet: Fleet | None = None,
    ) -> None:
        limits = limits or QuotaLimits()
        self.name = name
        self.in_flight = 0
        self.adaptive = AdaptiveLimit() if limits.max_concurrency == "adaptive" else None
        self._max_concurrency = limits.max_concurrency if isinstance(limits.max_concurrency, int) else None
        shared = fleet is not None and limits.a_minute
        self._budget = fleet.lease(name, limits, self) if fleet is not None and shared else Budget(limits)
        self._strategy = self._spacing_strategy = strategy or ExponentialBackoffStrategy.of(RateLimitConfig())
        self._events = events
        self._users: weakref.WeakSet[QuotaUser] = weakref.WeakSet()
        self._mutex = threading.RLock()
        self._queue = FairQueue()
        self._timer: tuple[asyncio.AbstractEventLoop, float] | None = None
        self._paused_until = 0.0
        self._pauses = 0
        self._pauses_in_row = 0
        self._deciding = 0  # pauses whose length is being asked for
        self._row_since = 0.0
        self._paused_since: float | None = None  # the start of a pause whose end has not been told
        self._probe: Admission | None = None  # the one call that tries whether the provider takes calls again
        self._since_resume: int | None = None  # calls since the pause while they are spaced out
        self._next_start_at = 0.0
        self._mean_tokens = 0.0
        self._agree()

    # -- users -------------------------------------------------------------------------------------------------------

    def join(self, user: QuotaUser) -> None:
        """Count a user in."""
        with self._mutex:
            self._users.add(user)
            self._agree()

    def leave(self, user: QuotaUser) -> None:
        """Count a user out; one that never came is no error."""
        with self._mutex:
            self._users.discard(user)
            self._agree()
            self._dispatch()  # its budget may have been what others waited for

    def _agree(self) -> None:
        """Keep to the least of what the scope and its users allow."""
        self._budget.agree(user.requests_per_minute for user in self._users)
        self._plain = self.adaptive is None and self._budget.unlimited

    # -- admission ---------------------------------------------------------------------------------------------------

    @property
    def limit(self) -> int | None:
        """Calls in flight at most, now; None for no limit of its own."""
        return int(self.adaptive.limit) if self.adaptive is not None else self._max_concurrency

    async def admit(self, tenant: Hashable, prompt_tokens: int = 0) -> Admission:
        """Wait for a turn.

        Args:
            tenant: who asks; tenants take turns.
            prompt_tokens: an estimate of the prompt's tokens.
        """
        now = asyncio.get_running_loop().time()
        with self._mutex:
            tokens = self._estimate(prompt_tokens)
            if not self._queue and self._wait(now, tokens) == 0.0:
                return self._start(now, tokens)
            waiter = self._queue.add(tenant, prompt_tokens)
            self._dispatch()
        try:
            await waiter.future
        except (asyncio.CancelledError, GeneratorExit):  # the latter when it is thrown away with its event loop
            with self._mutex:
                if isinstance(waiter.grant, Admission):
                    self._give_back(waiter.grant)  # admitted in the moment of the cancellation; nothing was called
                else:
                    self._dispatch()  # the next one may be in another event loop, which has no timer yet
            raise
        if not isinstance(waiter.grant, Admission):
            raise RuntimeError("woken without an admission")  # noqa: TRY004 - a bug of ours, not of a type
        return waiter.grant

    def release(self, admission: Admission, *, succeeded: bool, tokens: int | None = None) -> None:
        """Note that a call has ended.

        Args:
            admission: what `admit` gave.
            succeeded: whether the provider answered with an output.
            tokens: what it used; None where that is not known, which leaves the estimate.
        """
        now = _now()
        with self._mutex:
            self._learn(admission, succeeded=succeeded, tokens=tokens, now=now)
            self._leave(admission)

    async def throttled(
        self, admission: Admission, suggested_wait: float | None, user: QuotaUser | None = None
    ) -> None:
        """Note that the provider answered a call with 429; pauses the scope. Call `release` as well.

        Args:
            admission: what `admit` gave.
            suggested_wait: seconds that the provider asked to wait; a floor, up to an hour.
            user: who met it; its `strategy` decides how long the pause is.
        """
        now = asyncio.get_running_loop().time()
        floor = min(suggested_wait or 0.0, LONGEST_SUGGESTED_WAIT_SECONDS)
        strategy = (user.strategy if user is not None else None) or self._strategy
        self._tell((user,) if user is not None else (), ProcessingEvent.RATE_LIMIT_HIT, suggested_wait=suggested_wait)
        with self._mutex:
            fresh = admission.pause == self._pauses
            limited = self._refused(admission, now, floor, fresh=fresh)
            if not fresh:
                # It was under way when an earlier 429 paused the scope: no news, except how long the provider wants.
                self._paused_until = max(self._paused_until, now + floor) if floor else self._paused_until
                return
            self._pauses += 1
            self._pauses_in_row += 1
            if self._pauses_in_row == 1:
                self._row_since = now
            self._spacing_strategy = strategy
            self._paused_until = max(self._paused_until, now + floor)  # holds though this caller is cancelled below
            row = self._pauses_in_row
            if limited is not Limited.UNKNOWN:
                pause = min(_SHORTEST_PAUSE_SECONDS * 2 ** min(row - 1, 20), _LONGEST_PAUSE_SECONDS)
                self._pause(max(floor, pause))
                return
            if self.adaptive is not None and floor:
                self._pause(floor)
                return
            self._deciding += 1
        pause = None
        try:
            pause = await _cooldown(strategy, row)
        finally:
            with self._mutex:  # nobody is admitted between the decision and the pause
                if pause is not None:
                    if self.adaptive is not None and row > 1:
                        pause = min(pause, now - self._row_since)  # an outage that is over is noticed
                    self._pause(max(floor, pause))
                self._deciding -= 1  # the caller's `release` lets those go on who wait

    def overloaded(self) -> None:
        """Note that the provider says it is overloaded."""
        if self.adaptive is not None:
            with self._mutex:
                self.adaptive.overloaded()

    def cooldown_remaining(self, now: float) -> float:
        """Seconds until the pause ends; 0 without one."""
        return max(0.0, self._paused_until - now)

    # -- for a fleet -------------------------------------------------------------------------------------------------

    @contextmanager
    def changing(self) -> Iterator[None]:
        """See `Holder`."""
        with self._mutex:
            yield
            self._dispatch()

    def demand(self) -> tuple[int, int, int]:
        """See `Holder`."""
        first = self._queue.first()
        if first is None or self._wait_but_for_budget(_now()) != 0.0:
            return 0, 0, 0
        limit = self.limit
        calls = len(self._queue) if limit is None else min(len(self._queue), limit - self.in_flight)
        if self._budget.of_tokens and self._mean_tokens == 0:
            calls = 1  # the first call tells what calls use
        return calls, self._estimate(first.tokens), self._estimate(0)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _learn(self, admission: Admission, *, succeeded: bool, tokens: int | None, now: float) -> None:
        if tokens is not None:
            self._mean_tokens += 0.1 * (tokens - self._mean_tokens) if self._mean_tokens else tokens
            self._budget.correct(admission, tokens)
        if succeeded:
            fresh = admission.pause == self._pauses
            if fresh:
                self._pauses_in_row = 0
            if self.adaptive is not None:
                all_in_use = self.in_flight >= int(self.adaptive.limit)
                latency = now - admission.at
                self.adaptive.succeeded(
                    admission.in_flight, latency, all_in_use=all_in_use, took=admission.took, fresh=fresh
                )

    def _estimate(self, prompt_tokens: int) -> int:
        """Tokens to reserve: what calls have used of late, but no less than the prompt."""
        return max(prompt_tokens, round(self._mean_tokens), 1) if self._budget.of_tokens else 0

    def _wait(self, now: float, tokens: int) -> float | None:
        """Seconds until to look again whether a call may start; 0 for now, None until something else has happened."""
        wait = self._wait_but_for_budget(now)
        return self._budget.wait(now, tokens) if wait == 0.0 and not self._plain else wait

    def _wait_but_for_budget(self, now: float) -> float | None:
        if now < self._paused_until:
            return self._paused_until - now
        if self._deciding:
            return None
        limit = self.limit
        if self._probe is not None or (limit is not None and self.in_flight >= limit):
            return None
        if self._budget.of_tokens and self._mean_tokens == 0 and self.in_flight:
            return None  # the first call tells what calls use
        if self._plain and self._since_resume is None:
            return 0.0
        return max(
            self._next_start_at - now if self._since_resume is not None else 0.0,
            self.adaptive.wait(now) if self.adaptive is not None else 0.0,
            0.0,
        )

    def _start(self, now: float, tokens: int) -> Admission:
        if self._paused_since is not None:
            self._end_pause()  # the event loop that would have told it may be gone
        if self._since_resume is not None:
            spaced, delay = self._spacing(self._since_resume)
            self._since_resume = self._since_resume + 1 if spaced else None
            self._next_start_at = now + delay
        self.in_flight += 1
        admission = Admission(now, self.in_flight, self._pauses)
        self._budget.take(admission, tokens)
        if self.adaptive is not None:
            admission.took = self.adaptive.started(now)
            if self._pauses_in_row > 1:
                self._probe = admission
        return admission

    def _refused(self, admission: Admission, now: float, wait: float, *, fresh: bool) -> Limited:
        """Give back what a refused call does not use up; what seems to be limited."""
        limited = Limited.UNKNOWN
        if self.adaptive is not None:
            limited = self.adaptive.throttled(now, admission.in_flight, admission.took, wait, fresh=fresh)
        self._budget.give_back(admission)
        return limited

    def _spacing(self, calls: int) -> tuple[bool, float]:
        try:
            spaced, delay = self._spacing_strategy.should_apply_slow_start(calls)
            checks.truth("whether calls are spaced out", spaced)
            checks.number("the delay", delay, "give seconds")
            return spaced, float(delay)
        except (Exception, asyncio.CancelledError, SystemExit):
            logger.exception("a rate-limit strategy failed; calls are not spaced out")
            return False, 0.0

    def _give_back(self, admission: Admission) -> None:
        """Undo an admission whose call was not made."""
        self._budget.give_back(admission)
        self._leave(admission)

    def _leave(self, admission: Admission) -> None:
        self.in_flight -= 1
        if self._probe is admission:
            self._probe = None
        self._dispatch()

    def _dispatch(self) -> None:
        """Admit those whose turn it is; look again when time alone will let the next one go."""
        while (waiter := self._queue.first()) is not None:
            now = _now()
            tokens = self._estimate(waiter.tokens)  # by what is known now, not when it came
            wait = self._wait(now, tokens)
            if wait is None:
                return
            if wait > 0.0:
                self._look_again(waiter.future.get_loop(), now + wait)
                return
            admission = self._start(now, tokens)
            if not self._queue.admit_first(admission):
                self._give_back(admission)

    def _look_again(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        """Dispatch at that time, in the event loop of the one who waits: others may be gone by then."""
        if self._timer is not None and self._timer[0] is loop and self._timer[1] <= at:
            return
        self._timer = timer = loop, at
        if loop is _running_loop():
            loop.call_at(at, self._on_timer, timer)
        else:
            with suppress(RuntimeError):  # it has just been closed, and its waiters are passed over next time
                loop.call_soon_threadsafe(loop.call_at, at, self._on_timer, timer)

    def _on_timer(self, timer: tuple[asyncio.AbstractEventLoop, float]) -> None:
        with self._mutex:
            if timer is self._timer:
                self._timer = None
            self._dispatch()

    def _pause(self, seconds: float) -> None:
        self._paused_since = _now()
        self._paused_until = max(self._paused_until, self._paused_since + seconds)
        if self.adaptive is None:
            self._since_resume = 0
            self._next_start_at = 0.0
        self._tell(self._users, ProcessingEvent.COOLDOWN_STARTED, duration=seconds, consecutive=self._pauses_in_row)
        if self._events is not None or self._users:
            asyncio.get_running_loop().call_at(self._paused_until, self._resumed, self._pauses)

    def _resumed(self, count: int) -> None:
        loop = asyncio.get_running_loop()
        with self._mutex:
            if count != self._pauses or self._paused_since is None:
                return  # a later pause has taken its place, or whoever called first has told it
            if loop.time() < self._paused_until:
                loop.call_at(self._paused_until, self._resumed, count)
            else:
                self._end_pause()

    def _end_pause(self) -> None:
        since, self._paused_since = self._paused_since, None
        if since is not None:
            self._tell(self._users, ProcessingEvent.COOLDOWN_ENDED, duration=self._paused_until - since)

    def _tell(self, users: Iterable[QuotaUser], event: ProcessingEvent, **data: Any) -> None:
        for events in (self._events, *(user.events for user in users)):
            if events is not None:
                events(event, {"scope": self.name, **data})


async def _cooldown(strategy: RateLimitStrategy, pauses_in_row: int) -> float:
    try:
        pause = await bounded("a rate-limit strategy", _STRATEGY_SECONDS, strategy.on_rate_limit, 0, pauses_in_row)
        checks.number("the pause", pause, "give seconds")
        return float(pause)
    except Exception:
        logger.exception("a rate-limit strategy failed; pausing for %g s", _FALLBACK_PAUSE_SECONDS)
        return _FALLBACK_PAUSE_SECONDS


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:  # called by a coroutine that is thrown away after its event loop's end
        return None


def _now() -> float:
    loop = _running_loop()
    return loop.time() if loop is not None else time.monotonic()


_by_key: weakref.WeakValueDictionary[Hashable, QuotaScope] = weakref.WeakValueDictionary()
_by_key_mutex = threading.Lock()


def scope_of(key: Hashable) -> QuotaScope:
    """The one scope of a `quota_key` in this process, for as long as somebody holds it; None: one of its own."""
    if key is None:
        return QuotaScope()
    with _by_key_mutex:
        scope = _by_key.get(key)
        if scope is None:
            scope = _by_key[key] = QuotaScope()
        return scope
