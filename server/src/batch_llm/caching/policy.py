"""What the life of a context cache goes by: its policy, its states, and its provider's side."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from batch_llm.model import ErrorReason, ProviderError, checks

from .registry import CacheRecord

DEFAULT_TTL_SECONDS = 3600.0
DEFAULT_RENEWAL_BUFFER_SECONDS = 300.0


class CacheState(StrEnum):
    """How a cache is; the same names as `CacheState` in proto/batchllm/v1/cache_lifecycle_service.proto."""

    ACTIVE = "ACTIVE"
    EXPIRING = "EXPIRING"
    EXPIRED = "EXPIRED"
    UNCACHED_TOO_SMALL = "UNCACHED_TOO_SMALL"
    """The content is less than the provider caches; items carry it themselves."""
    UNCACHED_UNAVAILABLE = "UNCACHED_UNAVAILABLE"
    """The provider caches nothing for these credentials; items carry the content themselves."""
    DELETED = "DELETED"


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
    """What a provider says of a cache.

    Args:
        name: its name there.
        total_token_count: tokens it holds.
        expire_time: seconds since the epoch, by this machine's clock.
        create_time: likewise; None: now.
    """

    name: str
    total_token_count: int
    expire_time: float
    create_time: float | None = None


class CacheRefusedError(ProviderError):
    """The provider will not cache this content; items are to carry it themselves.

    Args:
        message: why, and the way out.
        state: UNCACHED_TOO_SMALL or UNCACHED_UNAVAILABLE.
    """

    def __init__(self, message: str, state: CacheState) -> None:
        super().__init__(message, reason=ErrorReason.PROVIDER_REJECTED)
        self.state = state


class CacheBackend(ABC):
    """A provider's side of one strategy's cache.

    Attributes:
        cache_label: what a cache is called in the log.
    """

    cache_label: str = "context cache"

    @abstractmethod
    async def create_cache(self, fingerprint: str, ttl_seconds: float) -> CreatedCache:
        """Create it; called by one caller at a time for a fingerprint.

        Raises:
            CacheRefusedError: the provider will not.
        """

    @abstractmethod
    async def renew_cache(self, record: CacheRecord, ttl_seconds: float) -> float:
        """Move the expiry to `ttl_seconds` from now; return it as seconds since the epoch.

        Raises:
            CacheGoneError: the provider has it no more.
        """

    @abstractmethod
    async def drop_cache(self, record: CacheRecord) -> None:
        """Delete it; already gone is success."""

    async def find_caches(self, fingerprint: str) -> Sequence[CreatedCache]:
        """The caches of this fingerprint and model that the provider has, those with the most life first.

        Asked when the registry knows none; for providers that nobody else can have created one at: none.
        """
        return ()

    async def holds_cache(self, record: CacheRecord) -> bool:
        """Whether it is still there, as far as that can be known without cost."""
        return True

    def lost_cache(self, record: CacheRecord) -> bool:
        """Whether it is known to be gone; asked before every attempt, so at next to no cost."""
        return False


def cache_state(record: CacheRecord, now: float, renewal_buffer_seconds: float) -> CacheState:
    """How a cache is at a time, in seconds since the epoch."""
    remaining = record.expire_time - now
    if remaining <= 0:
        return CacheState.EXPIRED
    return CacheState.EXPIRING if remaining < renewal_buffer_seconds else CacheState.ACTIVE
