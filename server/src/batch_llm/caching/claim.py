"""The right to be the only process that creates or renews a cache."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from batch_llm.model import ProviderError

from .registry import CacheRegistry

_CLAIM_SECONDS = 10.0  # after so long without a sign of life another process takes it that the owner is gone


class Claim:
    """A process's claim to one cache; the registry knows whose it is.

    Args:
        registry: where it is kept.
        provider: see `CacheRecord`.
        fingerprint: the cache's identity.
        clock: seconds since the epoch.
    """

    def __init__(self, registry: CacheRegistry, provider: str, fingerprint: str, clock: Callable[[], float]) -> None:
        self._registry = registry
        self._provider = provider
        self._fingerprint = fingerprint
        self._clock = clock

    async def take(self) -> bool:
        """Have it, or have it for longer; False: another process has it."""
        return await self._registry.claim(self._provider, self._fingerprint, self._clock(), _CLAIM_SECONDS)

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Keep what was taken until the end of the block, then let go of it."""
        alive = asyncio.create_task(self._keep(), name=f"claim-cache-{self._fingerprint[:8]}")
        try:
            yield
        finally:
            alive.cancel()
            with suppress(ProviderError):  # it ends by itself; what was done under it is done
                await self._registry.unclaim(self._provider, self._fingerprint)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_CLAIM_SECONDS / 4)
            with suppress(ProviderError):  # another process is writing; there is time for a few more
                await self.take()
