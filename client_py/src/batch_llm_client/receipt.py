"""What an item or a batch has used and what that costs."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Self

from batchllm.v1 import work_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Tokens by kind and what they cost at list prices, in nano-dollars (10^-9 USD). Receipts add up exactly.

    The first five counts add up to the input and output tokens of all attempts.
    """

    fresh_input_tokens: int = 0
    """Input that came from no cache, of attempts that gave a result."""
    cached_input_tokens: int = 0
    """Input from a cache, likewise."""
    output_tokens: int = 0
    """Output without thinking, likewise."""
    thinking_tokens: int = 0
    """Thinking, likewise."""
    failed_attempt_tokens: int = 0
    """All tokens of attempts that gave no result."""
    fresh_input_nano_usd: int = 0
    """Cost of the tokens of that name, as far as prices are known; likewise the four that follow."""
    cached_input_nano_usd: int = 0
    output_nano_usd: int = 0
    thinking_nano_usd: int = 0
    failed_attempt_nano_usd: int = 0
    cache_creation_tokens: int = 0
    """The batch's share of tokens that were read to create context caches; 0 on an item's receipt."""
    cache_creation_nano_usd: int = 0
    """Their cost."""
    cache_storage_token_seconds: int = 0
    """The batch's share of tokens times seconds in context caches; 0 on an item's receipt."""
    cache_storage_nano_usd: int = 0
    """Their cost."""
    total_nano_usd: int | None = None
    """The sum of all costs above; None when the price of any part is not known."""
    uncached_nano_usd: int | None = None
    """What the same calls would have cost without any cache; None when the price of any part is not known."""
    unpriced_tokens: int = 0
    """Tokens whose price is not known."""
    unpriced_token_seconds: int = 0
    """Storage whose price is not known, in tokens times seconds."""
    storage_until_expiry_nano_usd: int = 0
    """In no total: what the batch's context caches will still cost, unless somebody deletes them."""
    price_date: date | None = None
    """Day of the price table, the oldest of several; None when no strategy has prices."""
    advice: tuple[str, ...] = ()
    """What would be cheaper; on a batch's receipt only."""

    @property
    def total_usd(self) -> Decimal | None:
        """The cost in USD; None when the price of any part is not known."""
        return None if self.total_nano_usd is None else Decimal(self.total_nano_usd).scaleb(-9)

    @classmethod
    def from_message(cls, message: work_pb2.Receipt) -> Self:
        """Read the protobuf message."""
        return cls(
            fresh_input_tokens=message.fresh_input_tokens,
            cached_input_tokens=message.cached_input_tokens,
            output_tokens=message.output_tokens,
            thinking_tokens=message.thinking_tokens,
            failed_attempt_tokens=message.failed_attempt_tokens,
            fresh_input_nano_usd=message.fresh_input_nano_usd,
            cached_input_nano_usd=message.cached_input_nano_usd,
            output_nano_usd=message.output_nano_usd,
            thinking_nano_usd=message.thinking_nano_usd,
            failed_attempt_nano_usd=message.failed_attempt_nano_usd,
            cache_creation_tokens=message.cache_creation_tokens,
            cache_creation_nano_usd=message.cache_creation_nano_usd,
            cache_storage_token_seconds=message.cache_storage_token_seconds,
            cache_storage_nano_usd=message.cache_storage_nano_usd,
            total_nano_usd=message.total_nano_usd if message.HasField("total_nano_usd") else None,
            uncached_nano_usd=message.uncached_nano_usd if message.HasField("uncached_nano_usd") else None,
            unpriced_tokens=message.unpriced_tokens,
            unpriced_token_seconds=message.unpriced_token_seconds,
            storage_until_expiry_nano_usd=message.storage_until_expiry_nano_usd,
            price_date=date.fromisoformat(message.price_date) if message.price_date else None,
            advice=tuple(message.advice),
        )

    @classmethod
    def from_usage(cls, usage: work_pb2.TokenUsage, *, ok: bool) -> Self:
        """Give the receipt that an item's usage stands for: at most one attempt, without prices."""
        tokens = usage.input_tokens + usage.output_tokens
        total = None if tokens else 0
        if not ok:
            return cls(
                failed_attempt_tokens=tokens, unpriced_tokens=tokens, total_nano_usd=total, uncached_nano_usd=total
            )
        thinking = min(usage.thinking_tokens, usage.output_tokens)
        return cls(
            fresh_input_tokens=usage.input_tokens - usage.cached_input_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            output_tokens=usage.output_tokens - thinking,
            thinking_tokens=thinking,
            unpriced_tokens=tokens,
            total_nano_usd=total,
            uncached_nano_usd=total,
        )
