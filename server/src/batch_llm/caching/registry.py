"""Which context caches exist: what is remembered of them, by whom it is asked for, and how."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from batch_llm.model import ProviderError
from batch_llm.sync import Lock

from .account import CacheLedger, Charge
from .condition import CacheCondition


@dataclass(frozen=True, slots=True)
class CacheRecord:
    """A context cache as the registry knows it.

    Args:
        provider: the provider that holds it: its name, and "@" and what tells its credentials from others', if caches
            depend on that.
        fingerprint: its identity, see `fingerprint()`.
        name: what the provider calls it.
        model: the model it was made for.
        strategy: name of the strategy that created it.
        create_time: seconds since the epoch.
        expire_time: seconds since the epoch, by the provider's word.
        total_token_count: tokens it holds.
        accounted_until: seconds since the epoch up to which batches have paid for its storage; None: nothing has been
            paid, its creation neither. A cache that was found at its provider starts with the time of first sight.
    """

    provider: str
    fingerprint: str
    name: str
    model: str
    strategy: str
    create_time: float
    expire_time: float
    total_token_count: int
    accounted_until: float | None = None

    @property
    def provider_name(self) -> str:
        """The provider's name."""
        return self.provider.partition("@")[0]

    def unpaid(self, until: float) -> Charge | None:
        """The part of its life until then that nobody has paid for; None: all is paid."""
        created = self.accounted_until is None
        since = self.create_time if self.accounted_until is None else self.accounted_until
        end = max(since, min(until, self.expire_time))
        return Charge(self.total_token_count, since, end, created) if created or end > since else None


class CacheRegistry(ABC):
    """Records of context caches, which several processes may share; every one passes the tests in tests/contract.

    What asks the store is awaited, and raises a `ProviderError` that may be tried again when it cannot be asked now.
    """

    def __init__(self) -> None:
        self._owner = uuid.uuid4().hex
        self._conditions: dict[tuple[str, str], CacheCondition] = {}
        self._ledgers: dict[tuple[str, str], CacheLedger] = {}

    @abstractmethod
    def get(self, provider: str, fingerprint: str) -> CacheRecord | None:
        """The record as it is known here, expired or not. Costs a dictionary look-up once it is known."""

    @abstractmethod
    async def look(self, provider: str, fingerprint: str) -> CacheRecord | None:
        """As `get`, but with what other processes have changed until a second or so ago; asked before every attempt.

        Those who use caches all the time do not wait for a store that others share, and it never raises: while the
        store cannot be asked, what is known goes on being used.
        """

    @abstractmethod
    async def reload(self, provider: str, fingerprint: str) -> CacheRecord | None:
        """The record as the store has it now."""

    @abstractmethod
    async def put(self, record: CacheRecord) -> None:
        """Add or replace a record. One of the same cache keeps what batches have paid for meanwhile."""

    @abstractmethod
    async def remove(self, record: CacheRecord, until: float | None = None) -> None:
        """Forget a cache; one that was made in its place stays, and none is no error.

        Args:
            record: the cache.
            until: seconds since the epoch up to which its life is kept that nobody has paid for; the next batch on its
                fingerprint does. None: nobody pays.
        """

    @abstractmethod
    async def list(self) -> Sequence[CacheRecord]:
        """All records by strategy, then by fingerprint."""

    @abstractmethod
    async def collect(self, provider: str, fingerprint: str, now: float) -> Sequence[Charge]:
        """What nobody has paid for until now; each is given once, to whichever process asks first."""

    @abstractmethod
    async def claim(self, provider: str, fingerprint: str, now: float, seconds: float) -> bool:
        """Be the only process that creates or renews a cache, for so long at most; False: another one is at it.

        Args:
            provider: name of the provider.
            fingerprint: the cache's identity.
            now: seconds since the epoch; a store with a clock of its own, which all share, goes by that.
            seconds: after which others take over.
        """

    @abstractmethod
    async def unclaim(self, provider: str, fingerprint: str) -> None:
        """Let others create it."""

    # -- in this process ---------------------------------------------------------------------------------------------

    def ledger(self, provider: str, fingerprint: str) -> CacheLedger:
        """The batches that are open on a cache in this process."""
        return self._ledgers.setdefault((provider, fingerprint), CacheLedger())

    def lock(self, provider: str, fingerprint: str) -> Lock:
        """The lock under which a cache is created, renewed or deleted in this process."""
        return self.condition(provider, fingerprint).lock

    def condition(self, provider: str, fingerprint: str) -> CacheCondition:
        """What this process has found out about a cache."""
        key = (provider, fingerprint)
        condition = self._conditions.get(key)
        return condition if condition is not None else self._conditions.setdefault(key, CacheCondition())


def unusable(error: Exception) -> ProviderError:
    """The error of a store that cannot be asked now."""
    return ProviderError(f"the registry of context caches cannot be used now: {error}; try again")
