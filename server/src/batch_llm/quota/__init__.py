"""Quotas: how many calls, how many tokens, and when to pause. One scope for each provider, credentials and model."""

from .adaptive import AdaptiveLimit
from .budget import Admission
from .cooldown import ExponentialBackoffStrategy, FixedDelayStrategy, RateLimitStrategy
from .fleet import Fleet
from .limits import QuotaLimits, QuotaUser
from .scope import QuotaScope, scope_of
from .window import SlidingWindow

__all__ = [
    "AdaptiveLimit",
    "Admission",
    "ExponentialBackoffStrategy",
    "FixedDelayStrategy",
    "Fleet",
    "QuotaLimits",
    "QuotaScope",
    "QuotaUser",
    "RateLimitStrategy",
    "SlidingWindow",
    "scope_of",
]
