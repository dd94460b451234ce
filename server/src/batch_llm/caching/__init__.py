"""Context caches: their identity, their registry and their life."""

from .fingerprint import fingerprint
from .lifecycle import (
    DEFAULT_RENEWAL_BUFFER_SECONDS,
    DEFAULT_TTL_SECONDS,
    CacheBackend,
    CachePolicy,
    CacheState,
    ContextCache,
    CreatedCache,
    cache_state,
)
from .registry import CacheRecord, CacheRegistry

__all__ = [
    "DEFAULT_RENEWAL_BUFFER_SECONDS",
    "DEFAULT_TTL_SECONDS",
    "CacheBackend",
    "CachePolicy",
    "CacheRecord",
    "CacheRegistry",
    "CacheState",
    "ContextCache",
    "CreatedCache",
    "cache_state",
    "fingerprint",
]
