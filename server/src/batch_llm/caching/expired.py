"""Clearing away what expired caches hold at their provider, e.g. files."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from .policy import CacheBackend
from .registry import CacheRecord, CacheRegistry

logger = logging.getLogger("batch_llm")


async def drop_expired(
    registry: CacheRegistry,
    backend: CacheBackend,
    provider: str,
    own_fingerprint: str,
    now: float,
    forget: Callable[[CacheRecord], Awaitable[None]],
) -> None:
    """Drop a provider's caches that have expired, and strike them off the registry.

    Args:
        registry: where they are remembered.
        backend: the provider's side.
        provider: whose, see `CacheRecord`.
        own_fingerprint: of the cache whose lock the caller holds.
        now: seconds since the epoch.
        forget: strikes one.
    """

    async def drop(record: CacheRecord) -> None:
        try:
            await backend.drop_cache(record)
        except Exception:
            # It stays on record, so the next creation tries again.
            logger.warning("could not clear away the expired context cache %s", record.name, exc_info=True)
        else:
            await forget(record)

    for record in await registry.list():
        if record.provider != provider or record.expire_time > now:
            continue
        if record.fingerprint == own_fingerprint:
            await drop(record)
            continue
        lock = registry.lock(record.provider, record.fingerprint)
        if lock.locked():
            continue  # somebody is at it
        async with lock:
            if await registry.reload(record.provider, record.fingerprint) == record:
                await drop(record)
