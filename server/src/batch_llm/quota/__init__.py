"""Quotas: how many calls, how many tokens, and when to pause. One scope for each provider, credentials and model."""

from .adaptive import AdaptiveLimit
from .cooldown import ExponentialBackoffStrategy, FixedDelayStrategy, RateLimitStrategy
from .limits import QuotaLimits, QuotaUser
from .scope import Admission, QuotaScope, scope_of
from .window import SlidingWindow

__all__ = [
    "AdaptiveLimit",
    "Admission",
    "ExponentialBackoffStrategy",
    "FixedDelayStrategy",
    "QuotaLimits",
    "QuotaScope",
    "QuotaUser",
    "RateLimitStrategy",
    "SlidingWindow",
    "scope_of",
]
