"""The life of a context cache: create or reuse, renew, delete. One place for every provider."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, TypeVar

from batch_llm.model import BatchLLMError, CacheGoneError, ErrorReason, Pricing, ProviderError
from batch_llm.sync import Flight

from .account import Charge
from .policy import CacheBackend, CachePolicy, CacheRefusedError, CacheState, CreatedCache, cache_state
from .registry import CacheRecord, CacheRegistry

logger = logging.getLogger("batch_llm")

T = TypeVar("T")

_RENEW_AGAIN_SECONDS = 30.0
_FIRST_BACKOFF_SECONDS = 0.1
_LONGEST_BACKOFF_SECONDS = 60.0
_LONGEST_SECONDS = 600.0  # for one operation
_LOOK_AGAIN_SECONDS = 0.25
_CLAIM_SECONDS = 10.0  # after so long without a sign of life another process takes it that a creator is gone


def _monotonic() -> float:
    return asyncio.get_running_loop().time()


class ContextCache:
    """The context cache of one strategy.

    Strategies with the same provider and fingerprint share one cache, through the registry. Operations on it are
    single-flight in a process; once begun they finish, though the caller that began them is cancelled.

    Args:
        backend: the provider's side.
        registry: where caches are remembered.
        provider: name of the provider.
        fingerprint: the cache's identity.
        model: the model it is for.
        strategy: name of the strategy, for the record.
        policy: life and renewal.
        pricing: what its model's tokens cost, so that batches' receipts have their share of it; None: they have none.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        backend: CacheBackend,
        registry: CacheRegistry,
        *,
        provider: str,
        fingerprint: str,
        model: str,
        strategy: str,
        policy: CachePolicy,
        pricing: Pricing | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.fingerprint = fingerprint
        self.policy = policy
        self.pricing = pricing
        self.ledger = registry.ledger(provider, fingerprint)
        self._condition = registry.condition(provider, fingerprint)
        self._backend = backend
        self._registry = registry
        self.provider = provider
        self.model = model
        self.strategy = strategy
        self._clock = clock
        self._flights: set[Flight[Any]] = set()
        self._last_seen: CacheRecord | None = None
        self._struck = ""
        self._gone_by_delete = False
        self._told_of = ""

    def now(self) -> float:
        """Seconds since the epoch, by the cache's clock."""
        return self._clock()

    def unpaid(self) -> Iterator[Charge]:
        """What no batch has paid for until now; what is taken from it counts as paid."""
        return self._registry.collect(self.provider, self.fingerprint, self._clock())

    @property
    def refused(self) -> CacheRefusedError | None:
        """Why there is no cache and items carry the content themselves; None: there is one, or there can be."""
        return self._condition.refused

    @property
    def record(self) -> CacheRecord | None:
        """The cache as it is known, expired or not; None if there is none."""
        return self._registry.get(self.provider, self.fingerprint)

    @property
    def usable(self) -> CacheRecord | None:
        """The cache if it can be used now."""
        record = self.record
        return record if record is not None and self._clock() < record.expire_time else None

    async def in_use(self) -> CacheRecord | None:
        """The cache that a call is to name; None: the provider will not cache the content, so the call carries it.

        Raises:
            BatchLLMError: see `ensure`, which should have been called just before, and is called again if need be.
        """
        if self.refused is not None:
            return None
        record = self.usable
        if record is None:
            await self.ensure()
            record = self.usable
        return record

    def state_of(self, record: CacheRecord) -> CacheState:
        """How a cache is, by this strategy's policy."""
        return cache_state(record, self._clock(), self.policy.renewal_buffer_seconds)

    async def ensure(self) -> None:
        """Make the cache usable; called before every attempt, outside its time limit, and free when all is well.

        Raises:
            BatchLLMError: CACHE_EXPIRED, if it has expired and `auto_renew` is off.
        """
        if self.refused is not None:
            return
        record = self.record
        if record is None and not self.policy.auto_renew and not self._gone_by_delete:
            # An expired cache may have been cleared away meanwhile; it has expired all the same.
            record = self._last_seen
        self._last_seen = record
        now = self._clock()
        remaining = record.expire_time - now if record is not None else 0.0
        if record is not None and remaining > 0 and not self._backend.lost_cache(record):
            self._tell_of(record)
            if remaining < self.policy.renewal_buffer_seconds and self.policy.auto_renew:
                self._renew_in_background(now)
            return
        if record is not None and remaining <= 0 and not self.policy.auto_renew:
            raise BatchLLMError(
                f"the context cache {record.name} of strategy {self.strategy!r} has expired and auto_renew is off; "
                "call CreateOrReuse or Renew, or set auto_renew = true",
                reason=ErrorReason.CACHE_EXPIRED,
            )
        await self._back_off()
        try:
            await self.create_or_reuse()
        except CacheRefusedError:
            return  # items carry the content themselves; the log has said so

    async def _back_off(self) -> None:
        """After a creation that failed: wait, or fail at once where another try would not help."""
        condition = self._condition
        while condition.failure is not None and (wait := condition.create_again_at - _monotonic()) > 0:
            if not getattr(condition.failure, "retryable", True):
                raise condition.failure.with_traceback(None)
            await asyncio.sleep(wait)

    async def create_or_reuse(self, ttl_seconds: float | None = None) -> tuple[CacheRecord, bool]:
        """The usable cache, created if there is none; and whether it was there.

        Raises:
            CacheRefusedError: the provider will not cache this content; items carry it themselves from now on.
        """

        condition = self._condition
        seen = condition.failures

        async def operation() -> tuple[CacheRecord, bool]:
            if condition.failure is not None and condition.failures > seen:
                raise condition.failure.with_traceback(None)  # of the creation that this caller has waited for
            async with self._alone() as record:
                if record is not None:
                    self._reuses(record)
                    return record, True
                try:
                    found = await self._find()
                    if found is not None:
                        self._reuses(found)
                        return found, True
                    created = await self._create(ttl_seconds)
                except Exception as error:
                    self._note_failure(error)
                    raise
            return created, False

        return await self._exclusively(operation)

    async def lost(self, name: str) -> None:
        """Note that the provider has no cache of this name any more; the next `ensure` makes a new one."""

        async def operation() -> None:
            record = self._registry.reload(self.provider, self.fingerprint)
            if record is not None and record.name == name:
                logger.warning(
                    "the %s %s of strategy %r is gone before its time", self._backend.cache_label, name, self.strategy
                )
                self._strike(record)

        await self._exclusively(operation)

    async def renew(
        self, ttl_seconds: float | None = None, *, only_within_buffer: bool = False
    ) -> tuple[CacheRecord, bool]:
        """Move the expiry to the TTL from now; an expired cache is created anew. Second: whether it was.

        Args:
            ttl_seconds: life from now; None: the policy's.
            only_within_buffer: leave a cache alone that somebody else has renewed meanwhile.

        Raises:
            BatchLLMError: CACHE_NOT_FOUND, if there is none.
        """

        async def operation() -> tuple[CacheRecord, bool]:
            record = self._registry.reload(self.provider, self.fingerprint)
            if record is None:
                raise BatchLLMError(
                    f"strategy {self.strategy!r} has no context cache to renew; call CreateOrReuse",
                    reason=ErrorReason.CACHE_NOT_FOUND,
                )
            remaining = record.expire_time - self._clock()
            if only_within_buffer and remaining >= self.policy.renewal_buffer_seconds:
                return record, False
            if remaining <= 0 or not await self._backend.holds_cache(record):
                return await self._create_alone(ttl_seconds), True
            try:
                expire_time = await self._backend.renew_cache(record, ttl_seconds or self.policy.ttl_seconds)
            except CacheGoneError:
                self._strike(record)
                return await self._create_alone(ttl_seconds), True
            renewed = replace(record, expire_time=expire_time)
            self._registry.put(renewed)
            logger.info("Renewed %s %s of strategy %r", self._backend.cache_label, record.name, self.strategy)
            return renewed, False

        return await self._exclusively(operation)

    async def delete(self) -> CacheRecord | None:
        """Delete the cache; None if there was none."""

        condition = self._condition
        seen = condition.deletions

        async def operation() -> CacheRecord | None:
            self._gone_by_delete = True
            self._last_seen = None
            if condition.deletions > seen:
                return None  # by the one that this caller has waited for
            record = self._registry.reload(self.provider, self.fingerprint)
            doomed = [record] if record is not None else []
            if record is None:  # an earlier run's, however little life it has left; there may be several
                doomed = [self._as_record(found) for found in await self._backend.find_caches(self.fingerprint)]
            for each in doomed:
                await self._backend.drop_cache(each)
                logger.info("Deleted %s %s of strategy %r", self._backend.cache_label, each.name, self.strategy)
            if record is not None:
                self._forget(record)
            condition.deletions += 1
            return doomed[0] if doomed else None

        return await self._exclusively(operation)

    async def join(self) -> None:
        """Wait for operations that are under way."""
        for flight in list(self._flights):
            with suppress(Exception):  # whoever waited for it has been told
                await flight.wait()

    # -- inside ------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[CacheRecord | None]:
        """Be the only process that creates it; gives the cache if there is a usable one."""
        while True:
            record = self._registry.reload(self.provider, self.fingerprint)
            if record is not None and self._clock() < record.expire_time and await self._backend.holds_cache(record):
                yield record
                return
            if self._claim():
                break
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        alive = asyncio.create_task(self._keep_claim(), name=f"claim-cache-{self.strategy}")
        try:
            yield None
        finally:
            alive.cancel()
            self._registry.unclaim(self.provider, self.fingerprint)

    def _claim(self) -> bool:
        return self._registry.claim(self.provider, self.fingerprint, self._clock(), _CLAIM_SECONDS)

    async def _keep_claim(self) -> None:
        while True:
            await asyncio.sleep(_CLAIM_SECONDS / 4)
            with suppress(ProviderError):  # another process is writing; there is time for a few more
                self._claim()

    async def _find(self) -> CacheRecord | None:
        """Adopt a cache that the provider has and the registry does not know, if it has enough life left."""
        for found in await self._backend.find_caches(self.fingerprint):
            # A provider may go on listing one that it does not know any more, or does not let us use.
            enough = found.expire_time - self._clock() > self.policy.renewal_buffer_seconds
            if enough and found.name != self._struck:
                return self._record(found, accounted_until=self._clock())
        return None

    def _reuses(self, record: CacheRecord) -> None:
        self._is_usable(record)
        self._tell_of(record)

    def _is_usable(self, record: CacheRecord) -> None:
        """Forget what has gone wrong before there was one."""
        self._last_seen = record
        self._gone_by_delete = False
        condition = self._condition
        condition.refused = condition.failure = None
        condition.failed_in_row = 0

    def _note_failure(self, error: Exception) -> None:
        condition = self._condition
        condition.failures += 1
        condition.failed_in_row += 1
        condition.failure = error
        wait = min(_LONGEST_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2 ** min(condition.failed_in_row - 1, 10))
        condition.create_again_at = _monotonic() + wait

    def _tell_of(self, record: CacheRecord) -> None:
        if record.name != self._told_of:  # once, not for every item that uses it
            self._told_of = record.name
            logger.info("Reusing existing %s %s of strategy %r", self._backend.cache_label, record.name, self.strategy)

    async def _create_alone(self, ttl_seconds: float | None) -> CacheRecord:
        async with self._alone() as record:
            if record is None:
                return await self._create(ttl_seconds)
            self._reuses(record)  # another process was faster
            return record

    async def _create(self, ttl_seconds: float | None) -> CacheRecord:
        await self._drop_expired()
        try:
            created = await self._backend.create_cache(self.fingerprint, ttl_seconds or self.policy.ttl_seconds)
        except CacheRefusedError as error:
            if self.refused is None:
                logger.warning("strategy %r runs without a context cache: %s", self.strategy, error)
            self._condition.refused = error
            raise
        record = self._record(created)
        self._is_usable(record)
        self._told_of = record.name
        logger.info(
            "Created %s %s of strategy %r: %d tokens",
            self._backend.cache_label,
            record.name,
            self.strategy,
            record.total_token_count,
        )
        return record

    def _record(self, cache: CreatedCache, accounted_until: float | None = None) -> CacheRecord:
        """Put it on record, in the place of one that is no more."""
        lost = self._registry.reload(self.provider, self.fingerprint)
        if lost is not None:
            self._forget(lost)
        record = self._as_record(cache, accounted_until)
        self._registry.put(record)
        return record

    def _as_record(self, cache: CreatedCache, accounted_until: float | None = None) -> CacheRecord:
        return CacheRecord(
            provider=self.provider,
            fingerprint=self.fingerprint,
            name=cache.name,
            model=self.model,
            strategy=self.strategy,
            create_time=self._clock() if cache.create_time is None else cache.create_time,
            expire_time=cache.expire_time,
            total_token_count=cache.total_token_count,
            accounted_until=accounted_until,
        )

    async def _drop_expired(self) -> None:
        """Give back what this provider's expired caches hold, e.g. files."""
        now = self._clock()
        for record in self._registry.list():
            if record.provider != self.provider or record.expire_time > now:
                continue
            if record.fingerprint == self.fingerprint:
                await self._drop_one(record)  # under this very lock
                continue
            lock = self._registry.lock(record.provider, record.fingerprint)
            if lock.locked():
                continue  # somebody is at it
            async with lock:
                if self._registry.reload(record.provider, record.fingerprint) == record:
                    await self._drop_one(record)

    async def _drop_one(self, record: CacheRecord) -> None:
        try:
            await self._backend.drop_cache(record)
        except Exception:
            # It stays on record, so the next creation tries again.
            logger.warning("could not clear away the expired context cache %s", record.name, exc_info=True)
        else:
            self._forget(record)

    def _forget(self, record: CacheRecord) -> None:
        """Strike a cache that is no more; what batches have not paid for of it stays owed."""
        if self.pricing is not None:
            known = self._registry.reload(record.provider, record.fingerprint)
            self._registry.owe(known or record, self._clock())
        self._registry.remove(record.provider, record.fingerprint)

    def _strike(self, record: CacheRecord) -> None:
        """Forget a cache that its provider has no more."""
        self._forget(record)
        self._struck = record.name
        # Without auto_renew an expired cache is an error, and so is one that is gone.
        self._last_seen = replace(record, expire_time=self._clock())

    def _renew_in_background(self, now: float) -> None:
        condition = self._condition
        if condition.renewing or now < condition.renew_again_at:
            return
        condition.renewing = True

        async def renew() -> None:
            try:
                await self.renew(only_within_buffer=True)
            except Exception as error:
                # The cache is still good; an item tries again before long.
                known = isinstance(error, BatchLLMError)
                logger.warning(
                    "could not renew the context cache of strategy %r: %s", self.strategy, error, exc_info=not known
                )
            finally:
                condition.renewing = False
                wait = min(_RENEW_AGAIN_SECONDS, self.policy.renewal_buffer_seconds / 4)
                condition.renew_again_at = self._clock() + wait

        self._start(renew(), f"renew-cache-{self.strategy}")

    async def _exclusively(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Run it in its turn; once begun it finishes, though the caller is cancelled."""

        async def run() -> T:
            async with self._condition.lock:
                try:
                    async with asyncio.timeout(_LONGEST_SECONDS):
                        return await operation()
                except TimeoutError as error:
                    raise ProviderError(
                        f"the {self._backend.cache_label} of strategy {self.strategy!r} took longer than "
                        f"{_LONGEST_SECONDS:g} s; try again",
                        reason=ErrorReason.PROVIDER_TIMEOUT,
                    ) from error

        return await self._start(run(), f"cache-of-{self.strategy}").wait()

    def _start(self, coroutine: Coroutine[Any, Any, T], name: str) -> Flight[T]:
        flight = Flight(coroutine, name)
        self._flights.add(flight)
        flight.when_done(self._flights.discard)
        return flight
