"""Strategies: how a prompt becomes an output. Providers' libraries are imported when they are first needed."""

from .base import LLMCallStrategy, Reply

__all__ = ["LLMCallStrategy", "Reply"]
