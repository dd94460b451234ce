"""Context caches: their identity, their registry and their life."""

from .account import CacheAccount, CacheLedger, Charge
from .fingerprint import fingerprint
from .lifecycle import ContextCache
from .policy import (
    DEFAULT_RENEWAL_BUFFER_SECONDS,
    DEFAULT_TTL_SECONDS,
    CacheBackend,
    CachePolicy,
    CacheRefusedError,
    CacheState,
    CreatedCache,
    cache_state,
)
from .registry import CacheRecord, CacheRegistry
from .sqlite_registry import SqliteCacheRegistry, shared_registry

__all__ = [
    "DEFAULT_RENEWAL_BUFFER_SECONDS",
    "DEFAULT_TTL_SECONDS",
    "CacheAccount",
    "CacheBackend",
    "CacheLedger",
    "CachePolicy",
    "CacheRecord",
    "CacheRefusedError",
    "CacheRegistry",
    "CacheState",
    "Charge",
    "ContextCache",
    "CreatedCache",
    "SqliteCacheRegistry",
    "cache_state",
    "fingerprint",
    "shared_registry",
]
