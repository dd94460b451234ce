"""The life of a context cache: create or reuse, renew, delete. One place for every provider."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol, TypeVar

from batch_llm.model import BatchLLMError, ErrorReason, checks

from .registry import CacheRecord, CacheRegistry

logger = logging.getLogger("batch_llm")

T = TypeVar("T")

DEFAULT_TTL_SECONDS = 3600.0
DEFAULT_RENEWAL_BUFFER_SECONDS = 300.0


class CacheState(StrEnum):
    """How a cache is; the same names as `CacheState` in proto/batchllm/v1/cache_lifecycle_service.proto."""

    ACTIVE = "ACTIVE"
    EXPIRING = "EXPIRING"
    EXPIRED = "EXPIRED"


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """How long a cache lives and who keeps it alive.

    Args:
        ttl_seconds: life of a new cache; at least 1.
        renewal_buffer_seconds: a cache with less life than this is renewed; less than the TTL.
        auto_renew: renew and recreate a cache that is in use. Without it an expired cache is an error.

    Raises:
        ValueError: a value is out of its range; says field, value and way out.
    """

    ttl_seconds: float = DEFAULT_TTL_SECONDS
    renewal_buffer_seconds: float = DEFAULT_RENEWAL_BUFFER_SECONDS
    auto_renew: bool = True

    def __post_init__(self) -> None:
        checks.number("cache_ttl_seconds", self.ttl_seconds, "the usual is 3600", least=1)
        checks.number("cache_renewal_buffer_seconds", self.renewal_buffer_seconds, "use 0 to renew at its end")
        checks.truth("auto_renew", self.auto_renew)
        if self.renewal_buffer_seconds >= self.ttl_seconds:
            raise ValueError(
                f"cache_renewal_buffer_seconds must be at least 0 and less than cache_ttl_seconds "
                f"({self.ttl_seconds:g}), got {self.renewal_buffer_seconds:g}; lower it or raise the TTL"
            )


@dataclass(frozen=True, slots=True)
class CreatedCache:
    """What a provider says of a cache it has just created.

    Args:
        name: its name there.
        total_token_count: tokens it holds.
        expire_time: seconds since the epoch.
    """

    name: str
    total_token_count: int
    expire_time: float


class CacheBackend(Protocol):
    """A provider's side of one strategy's cache."""

    async def create_cache(self, fingerprint: str, ttl_seconds: float) -> CreatedCache:
        """Create it; called by one caller at a time for a fingerprint."""
        ...

    async def renew_cache(self, record: CacheRecord, ttl_seconds: float) -> float:
        """Move the expiry to `ttl_seconds` from now; return it as seconds since the epoch."""
        ...

    async def drop_cache(self, record: CacheRecord) -> None:
        """Delete it; already gone is success."""
        ...

    async def holds_cache(self, record: CacheRecord) -> bool:
        """Whether it is still there, as far as that can be known without cost."""
        ...

    def lost_cache(self, record: CacheRecord) -> bool:
        """Whether it is known to be gone; asked before every attempt, so at next to no cost."""
        ...


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
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.fingerprint = fingerprint
        self.policy = policy
        self._backend = backend
        self._registry = registry
        self._provider = provider
        self._model = model
        self._strategy = strategy
        self._clock = clock
        self._running: set[asyncio.Task[object]] = set()
        self._renewing = False
        self._last_seen: CacheRecord | None = None
        self._attempts_made = 0
        self._failure: Exception | None = None

    @property
    def record(self) -> CacheRecord | None:
        """The cache as it is known, expired or not; None if there is none."""
        return self._registry.get(self._provider, self.fingerprint)

    @property
    def usable(self) -> CacheRecord | None:
        """The cache if it can be used now."""
        record = self.record
        return record if record is not None and self._clock() < record.expire_time else None

    def state_of(self, record: CacheRecord) -> CacheState:
        """How a cache is, by this strategy's policy."""
        return cache_state(record, self._clock(), self.policy.renewal_buffer_seconds)

    async def ensure(self) -> None:
        """Make the cache usable; called before every attempt, outside its time limit, and free when all is well.

        Raises:
            BatchLLMError: CACHE_EXPIRED, if it has expired and `auto_renew` is off.
        """
        record = self.record
        if record is None and not self.policy.auto_renew:
            # An expired cache may have been cleared away meanwhile; it has expired all the same.
            record = self._last_seen
        self._last_seen = record
        remaining = record.expire_time - self._clock() if record is not None else 0.0
        if record is not None and remaining > 0 and not self._backend.lost_cache(record):
            if remaining < self.policy.renewal_buffer_seconds and self.policy.auto_renew and not self._renewing:
                self._renew_in_background()
            return
        if record is not None and remaining <= 0 and not self.policy.auto_renew:
            raise BatchLLMError(
                f"the context cache {record.name} of strategy {self._strategy!r} has expired and auto_renew is off; "
                "call CreateOrReuse or Renew, or set auto_renew = true",
                reason=ErrorReason.CACHE_EXPIRED,
            )
        await self.create_or_reuse()

    async def create_or_reuse(self, ttl_seconds: float | None = None) -> tuple[CacheRecord, bool]:
        """The usable cache, created if there is none; and whether it was there."""

        asked = self._attempts_made

        async def operation() -> tuple[CacheRecord, bool]:
            if self._failure is not None and self._attempts_made > asked:
                raise self._failure.with_traceback(None)  # of the creation that this caller has waited for
            record = self._registry.reload(self._provider, self.fingerprint)
            self._last_seen = record
            if record is not None and self._clock() < record.expire_time and await self._backend.holds_cache(record):
                logger.info("Reusing existing context cache %s of strategy %r", record.name, self._strategy)
                return record, True
            self._attempts_made += 1
            try:
                created = await self._create(ttl_seconds)
            except Exception as error:
                self._failure = error
                raise
            self._failure = None
            return created, False

        return await self._exclusively(operation)

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
            record = self._registry.reload(self._provider, self.fingerprint)
            if record is None:
                raise BatchLLMError(
                    f"strategy {self._strategy!r} has no context cache to renew; call CreateOrReuse",
                    reason=ErrorReason.CACHE_NOT_FOUND,
                )
            remaining = record.expire_time - self._clock()
            if only_within_buffer and remaining >= self.policy.renewal_buffer_seconds:
                return record, False
            if remaining <= 0 or not await self._backend.holds_cache(record):
                return await self._create(ttl_seconds), True
            expire_time = await self._backend.renew_cache(record, ttl_seconds or self.policy.ttl_seconds)
            renewed = replace(record, expire_time=expire_time)
            self._registry.put(renewed)
            logger.info("Renewed context cache %s of strategy %r", record.name, self._strategy)
            return renewed, False

        return await self._exclusively(operation)

    async def delete(self) -> bool:
        """Delete the cache; False if there was none."""

        async def operation() -> bool:
            record = self._registry.reload(self._provider, self.fingerprint)
            if record is None:
                return False
            await self._backend.drop_cache(record)
            self._registry.remove(self._provider, self.fingerprint)
            self._last_seen = None
            logger.info("Deleted context cache %s of strategy %r", record.name, self._strategy)
            return True

        return await self._exclusively(operation)

    async def join(self) -> None:
        """Wait for operations that are under way."""
        if self._running:
            await asyncio.wait(self._running)

    async def _create(self, ttl_seconds: float | None) -> CacheRecord:
        await self._drop_expired()
        created = await self._backend.create_cache(self.fingerprint, ttl_seconds or self.policy.ttl_seconds)
        record = CacheRecord(
            provider=self._provider,
            fingerprint=self.fingerprint,
            name=created.name,
            model=self._model,
            strategy=self._strategy,
            create_time=self._clock(),
            expire_time=created.expire_time,
            total_token_count=created.total_token_count,
        )
        self._registry.put(record)
        self._last_seen = record
        logger.info(
            "Created context cache %s of strategy %r: %d tokens", record.name, self._strategy, record.total_token_count
        )
        return record

    async def _drop_expired(self) -> None:
        """Give back what this provider's expired caches hold, e.g. files."""
        now = self._clock()
        for record in self._registry.list():
            if record.provider != self._provider or record.expire_time > now:
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
            self._registry.remove(record.provider, record.fingerprint)

    def _renew_in_background(self) -> None:
        self._renewing = True

        async def renew() -> None:
            try:
                await self.renew(only_within_buffer=True)
            except Exception:
                # The cache is still good; the next item within the buffer tries again.
                logger.warning("could not renew the context cache of strategy %r", self._strategy, exc_info=True)
            finally:
                self._renewing = False

        self._own(asyncio.create_task(renew(), name=f"renew-cache-{self._strategy}"))

    async def _exclusively(self, operation: Callable[[], Awaitable[T]]) -> T:
        async def run() -> T:
            async with self._registry.lock(self._provider, self.fingerprint):
                return await operation()

        return await asyncio.shield(self._own(asyncio.create_task(run())))

    def _own(self, task: asyncio.Task[T]) -> asyncio.Task[T]:
        """Hold on to a task, which the event loop does not."""
        self._running.add(task)
        task.add_done_callback(self._disown)
        return task

    def _disown(self, task: asyncio.Task[T]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # seen by whoever waited; a cancelled caller has left nobody to see it


def cache_state(record: CacheRecord, now: float, renewal_buffer_seconds: float) -> CacheState:
    """How a cache is at a time, in seconds since the epoch."""
    remaining = record.expire_time - now
    if remaining <= 0:
        return CacheState.EXPIRED
    return CacheState.EXPIRING if remaining < renewal_buffer_seconds else CacheState.ACTIVE
