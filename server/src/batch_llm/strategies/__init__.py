"""Strategies: how a prompt becomes an output. Providers' libraries are imported when they are first needed."""

from .base import LLMCallStrategy, Reply
from .limiter import Limiter

__all__ = ["LLMCallStrategy", "Limiter", "Reply"]
