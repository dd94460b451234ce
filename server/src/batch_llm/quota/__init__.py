"""Quotas: how many calls, how many tokens, and when to pause. One scope for each provider, credentials and model."""

from .adaptive import AdaptiveLimit
from .cooldown import ExponentialBackoffStrategy, FixedDelayStrategy, RateLimitStrategy
from .fair_queue import FairQueue
from .limiter import Limiter
from .limits import QuotaLimits, QuotaUser
from .scope import Admission, QuotaScope, scope_of
from .window import SlidingWindow

__all__ = [
    "AdaptiveLimit",
    "Admission",
    "ExponentialBackoffStrategy",
    "FairQueue",
    "FixedDelayStrategy",
    "Limiter",
    "QuotaLimits",
    "QuotaScope",
    "QuotaUser",
    "RateLimitStrategy",
    "SlidingWindow",
    "scope_of",
]
