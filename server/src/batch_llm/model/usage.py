"""Token counts: one shape, one sum."""

from __future__ import annotations

import logging
import math
from typing import TypedDict

logger = logging.getLogger("batch_llm")

DEFAULT_CACHE_DISCOUNT = 0.90
"""Share of the input price that a cached token saves, where a strategy does not say."""


class TokenUsage(TypedDict, total=False):
    """Tokens as the provider counted them; every key may be absent.

    `cached_input_tokens` is part of `input_tokens`, `thinking_tokens` is part of `output_tokens`.
    `cache_write_tokens` is part of `input_tokens` too: what the provider charges for writing to a prefix cache of its
    own, where it does.
    """

    input_tokens: int
    output_tokens: int
    total_tokens: int
    cached_input_tokens: int
    thinking_tokens: int
    cache_write_tokens: int


_warned_of_excess = False


def counted(attempt: TokenUsage) -> TokenUsage:
    """An attempt's usage in counts that fit together.

    A provider that reports more cached than input tokens is believed up to its input; said once in the log.
    """
    # Providers' counts may be None, and a strategy's own may be anything.
    fresh = max(0, attempt.get("input_tokens") or 0)
    output = max(0, attempt.get("output_tokens") or 0)
    cached = max(0, attempt.get("cached_input_tokens") or 0)
    if cached > fresh:
        _warn_of_excess(cached, fresh)
        cached = fresh
    usage: TokenUsage = {
        "input_tokens": fresh,
        "output_tokens": output,
        "total_tokens": attempt.get("total_tokens") or fresh + output,
        "cached_input_tokens": cached,
    }
    thinking = max(0, attempt.get("thinking_tokens") or 0)
    if thinking:
        usage["thinking_tokens"] = thinking
    written = max(0, attempt.get("cache_write_tokens") or 0)
    if written:
        usage["cache_write_tokens"] = written
    return usage


def add_usage(total: TokenUsage, attempt: TokenUsage | None) -> None:
    """Add an attempt's usage to an item's, in place; see `counted`."""
    if not attempt:
        return
    counts = counted(attempt)
    if not total:
        total.update(counts)
        return
    for key, count in counts.items():
        total[key] = total.get(key, 0) + count  # type: ignore[literal-required, operator] # keys of the same table


def effective_input_tokens(input_tokens: int, cached_by_discount: dict[float, int]) -> int:
    """Input tokens weighted by price: input minus what caching saved, rounded up.

    Args:
        input_tokens: all input tokens, cached ones included.
        cached_by_discount: cached tokens by the discount of their model (0.9 saves 90 %).
    """
    saved = sum(discount * cached for discount, cached in cached_by_discount.items())
    # Six digits take the noise off sums of floats before it reaches the whole number.
    return input_tokens - math.floor(round(saved, 6))


def _warn_of_excess(cached: int, fresh: int) -> None:
    global _warned_of_excess
    if not _warned_of_excess:
        _warned_of_excess = True
        logger.warning("a provider reported %d cached of %d input tokens; counting %d as cached", cached, fresh, fresh)
