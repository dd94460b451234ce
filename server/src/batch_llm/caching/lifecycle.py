"""The life of a context cache: create or reuse, renew, delete. One place for every provider."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from batch_llm.model import BatchLLMError, CacheGoneError, ErrorReason, Pricing, ProviderError

from .account import Charge, Unpaid
from .claim import Claim
from .expired import drop_expired
from .operations import Operations
from .policy import CacheBackend, CachePolicy, CacheRefusedError, CacheState, CreatedCache, cache_state
from .registry import CacheRecord, CacheRegistry

logger = logging.getLogger("batch_llm")

_RENEW_AGAIN_SECONDS = 30.0
_LOOK_AGAIN_SECONDS = 0.25


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
        self._claim = Claim(registry, provider, fingerprint, clock)
        self._backend = backend
        self._registry = registry
        self.provider = provider
        self.model = model
        self.strategy = strategy
        self._clock = clock
        self._operations = Operations(self._condition.lock, f"the {backend.cache_label} of strategy {strategy!r}")
        self._last_seen: CacheRecord | None = None
        self._struck = ""
        self._gone_by_delete = False
        self._told_of = ""

    def now(self) -> float:
        """Seconds since the epoch, by the cache's clock."""
        return self._clock()

    async def settle(self, step: Callable[[Unpaid], Coroutine[Any, Any, None]]) -> None:
        """Have batches pay, by a step that is given a way to what no batch has paid for until now.

        Once begun it finishes, though the caller is cancelled: what the step has asked for counts as paid.
        """
        now = self._clock()

        async def unpaid() -> Sequence[Charge]:
            return await self._registry.collect(self.provider, self.fingerprint, now)

        await self._operations.start(step(unpaid), f"account-of-{self.strategy}").wait()

    @property
    def refused(self) -> CacheRefusedError | None:
        """Why there is no cache and items carry the content themselves; None: there is one, or there can be."""
        return self._condition.refused

    @property
    def record(self) -> CacheRecord | None:
        """The cache as it is known, expired or not; None if there is none."""
        return self._registry.get(self.provider, self.fingerprint)

    async def look(self) -> CacheRecord | None:
        """The cache as the registry has it now."""
        return await self._registry.reload(self.provider, self.fingerprint)

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
        record = await self._registry.look(self.provider, self.fingerprint)
        now = self._clock()
        if record is None or record.expire_time <= now:
            record = await self.look()  # another process may have renewed it, or made it anew
        if record is None and not self.policy.auto_renew and not self._gone_by_delete:
            # An expired cache may have been cleared away meanwhile; it has expired all the same.
            seen = self._last_seen
            record = seen if seen is not None and seen.expire_time <= now else None
        self._last_seen = record
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
        await self._condition.back_off()
        try:
            await self.create_or_reuse()
        except CacheRefusedError:
            return  # items carry the content themselves; the log has said so

    async def create_or_reuse(self, ttl_seconds: float | None = None) -> tuple[CacheRecord, bool]:
        """The usable cache, created if there is none; and whether it was there.

        Raises:
            CacheRefusedError: the provider will not cache this content; items carry it themselves from now on.
        """

        condition = self._condition
        seen = condition.failures

        async def operation() -> tuple[CacheRecord, bool]:
            condition.failed_since(seen)
            try:
                async with self._alone() as record:
                    known = record or await self._find()
                    if known is None:
                        return await self._create(ttl_seconds), False
            except Exception as error:
                condition.note_failure(error)
                raise
            self._reuses(known)
            return known, True

        return await self._operations.alone(operation, f"cache-of-{self.strategy}")

    async def lost(self, name: str) -> None:
        """Note that the provider has no cache of this name any more; the next `ensure` makes a new one."""

        async def operation() -> None:
            record = await self.look()
            if record is not None and record.name == name:
                logger.warning(
                    "the %s %s of strategy %r is gone before its time", self._backend.cache_label, name, self.strategy
                )
                await self._strike(record)

        try:
            await self._operations.alone(operation, f"cache-of-{self.strategy}")
        except ProviderError as error:  # whoever uses it next finds out again
            logger.warning("the %s %s is gone, and stays on record: %s", self._backend.cache_label, name, error)

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
            record = await self.look()
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
            if not only_within_buffer:
                return await self._renew(record, ttl_seconds)
            if not await self._claim.take():
                return record, False  # another process is at it
            async with self._claim.kept():
                return await self._renew(record, ttl_seconds)

        return await self._operations.alone(operation, f"cache-of-{self.strategy}")

    async def delete(self) -> CacheRecord | None:
        """Delete the cache; None if there was none."""

        condition = self._condition
        seen = condition.deletions

        async def operation() -> CacheRecord | None:
            self._gone_by_delete = True
            self._last_seen = None
            if condition.deletions > seen:
                return None  # by the one that this caller has waited for
            record = await self.look()
            doomed = [record] if record is not None else []
            if record is None:  # an earlier run's, however little life it has left; there may be several
                doomed = [self._as_record(found) for found in await self._backend.find_caches(self.fingerprint)]
            for each in doomed:
                await self._backend.drop_cache(each)
                logger.info("Deleted %s %s of strategy %r", self._backend.cache_label, each.name, self.strategy)
            if record is not None:
                await self._forget(record)
            condition.deletions += 1
            return doomed[0] if doomed else None

        return await self._operations.alone(operation, f"cache-of-{self.strategy}")

    async def join(self) -> None:
        """Wait for operations that are under way."""
        await self._operations.join()

    # -- inside ------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[CacheRecord | None]:
        """Be the only process that creates it; gives the cache if there is a usable one."""
        record = await self._usable_now()
        while record is None:
            if await self._claim.take():
                async with self._claim.kept():
                    record = await self._usable_now()  # made just before the claim was ours
                    if record is None:
                        yield None
                        return
            else:
                await asyncio.sleep(_LOOK_AGAIN_SECONDS)
                record = await self._usable_now()
        yield record

    async def _usable_now(self) -> CacheRecord | None:
        record = await self._registry.reload(self.provider, self.fingerprint)
        usable = record is not None and self._clock() < record.expire_time and await self._backend.holds_cache(record)
        return record if usable else None

    async def _find(self) -> CacheRecord | None:
        """Adopt a cache that the provider has and the registry does not know, if it has enough life left."""
        for found in await self._backend.find_caches(self.fingerprint):
            # A provider may go on listing one that it does not know any more, or does not let us use.
            enough = found.expire_time - self._clock() > self.policy.renewal_buffer_seconds
            if enough and found.name != self._struck:
                return await self._record(found, accounted_until=self._clock())
        return None

    def _reuses(self, record: CacheRecord) -> None:
        self._is_usable(record)
        self._tell_of(record)

    def _is_usable(self, record: CacheRecord) -> None:
        self._last_seen = record
        self._gone_by_delete = False
        self._condition.is_usable()

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

    async def _renew(self, record: CacheRecord, ttl_seconds: float | None) -> tuple[CacheRecord, bool]:
        try:
            expire_time = await self._backend.renew_cache(record, ttl_seconds or self.policy.ttl_seconds)
        except CacheGoneError:
            await self._strike(record)
            return await self._create_alone(ttl_seconds), True
        renewed = replace(record, expire_time=expire_time)
        await self._registry.put(renewed)
        logger.info("Renewed %s %s of strategy %r", self._backend.cache_label, record.name, self.strategy)
        return renewed, False

    async def _create(self, ttl_seconds: float | None) -> CacheRecord:
        await drop_expired(self._registry, self._backend, self.provider, self.fingerprint, self._clock(), self._forget)
        try:
            created = await self._backend.create_cache(self.fingerprint, ttl_seconds or self.policy.ttl_seconds)
        except CacheRefusedError as error:
            if self.refused is None:
                logger.warning("strategy %r runs without a context cache: %s", self.strategy, error)
            self._condition.refused = error
            raise
        record = await self._record(created)
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

    async def _record(self, cache: CreatedCache, accounted_until: float | None = None) -> CacheRecord:
        """Put it on record, in the place of one that is no more."""
        lost = await self.look()
        if lost is not None:
            await self._forget(lost)
        record = self._as_record(cache, accounted_until)
        await self._registry.put(record)
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

    async def _forget(self, record: CacheRecord) -> None:
        """Strike a cache that is no more; what batches have not paid for of it stays owed."""
        await self._registry.remove(record, self._clock() if self.pricing is not None else None)

    async def _strike(self, record: CacheRecord) -> None:
        """Forget a cache that its provider has no more."""
        await self._forget(record)
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

        self._operations.start(renew(), f"renew-cache-{self.strategy}")
