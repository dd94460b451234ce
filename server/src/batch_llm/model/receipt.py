"""Receipts: tokens by kind and what they cost. Whole numbers, so that receipts add up exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from .prices import Pricing, nano_dollars
from .usage import TokenUsage, counted


@dataclass(slots=True)
class Receipt:
    """What an item, or a batch, has used and what that costs at list prices. Receipts can be added.

    The first five counts add up to the input and output tokens of all attempts. Costs are nano-dollars (10^-9 USD),
    rounded once for each kind of an attempt; an attempt without a known price adds to `unpriced_tokens` and to no cost.

    Args:
        fresh_input_tokens: input that came from no cache, of attempts that gave the result.
        cached_input_tokens: input from a cache, likewise.
        output_tokens: output without thinking, likewise.
        thinking_tokens: likewise.
        failed_attempt_tokens: all tokens of attempts that gave no result.
        fresh_input_nano_usd: cost of the tokens of that name, like the four that follow.
        cache_creation_tokens: a batch's share of tokens that were read to create context caches.
        cache_creation_nano_usd: their cost.
        cache_storage_token_seconds: a batch's share of tokens times seconds in context caches.
        cache_storage_nano_usd: their cost.
        storage_until_expiry_nano_usd: in no total: what the batch's caches will still cost if nobody deletes them.
        unpriced_tokens: tokens whose price is not known.
        unpriced_token_seconds: storage whose price is not known.
        full_price_nano_usd: what the priced attempts would have cost without any cache.
        price_date: the day of the price table, the oldest of several; None: none was asked.
        advice: sentences for people about what would be cheaper.
    """

    fresh_input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    thinking_tokens: int = 0
    failed_attempt_tokens: int = 0
    fresh_input_nano_usd: int = 0
    cached_input_nano_usd: int = 0
    output_nano_usd: int = 0
    thinking_nano_usd: int = 0
    failed_attempt_nano_usd: int = 0
    cache_creation_tokens: int = 0
    cache_creation_nano_usd: int = 0
    cache_storage_token_seconds: int = 0
    cache_storage_nano_usd: int = 0
    storage_until_expiry_nano_usd: int = 0
    unpriced_tokens: int = 0
    unpriced_token_seconds: int = 0
    full_price_nano_usd: int = 0
    price_date: date | None = None
    advice: tuple[str, ...] = ()

    @property
    def total_tokens(self) -> int:
        """Input and output tokens of all attempts; those that created a cache are not among them."""
        return (
            self.fresh_input_tokens
            + self.cached_input_tokens
            + self.output_tokens
            + self.thinking_tokens
            + self.failed_attempt_tokens
        )

    @property
    def total_nano_usd(self) -> int | None:
        """The cost; None if the price of any part is not known."""
        if self.unpriced_tokens or self.unpriced_token_seconds:
            return None
        return (
            self.fresh_input_nano_usd
            + self.cached_input_nano_usd
            + self.output_nano_usd
            + self.thinking_nano_usd
            + self.failed_attempt_nano_usd
            + self.cache_creation_nano_usd
            + self.cache_storage_nano_usd
        )

    @property
    def uncached_nano_usd(self) -> int | None:
        """What the same calls would have cost without any cache: all input fresh, nothing created, nothing stored.

        None if the price of any part is not known.
        """
        return None if self.unpriced_tokens or self.unpriced_token_seconds else self.full_price_nano_usd

    @property
    def total_usd(self) -> Decimal | None:
        """The cost in USD; None if the price of any part is not known."""
        total = self.total_nano_usd
        return None if total is None else Decimal(total).scaleb(-9)

    def __add__(self, other: Receipt) -> Receipt:
        both = Receipt()
        both.add(self)
        both.add(other)
        return both

    def add(self, other: Receipt) -> None:
        """Add another receipt to this one, in place."""
        for name in _COUNTS:
            more = getattr(other, name)
            if more:
                setattr(self, name, getattr(self, name) + more)
        if other.price_date is not None:
            self.price_date = min(self.price_date or other.price_date, other.price_date)
        self.advice += other.advice

    def dump(self) -> dict[str, Any]:
        """What is not at its default, as plain data, for `load`."""
        fields: dict[str, Any] = {name: count for name in _COUNTS if (count := getattr(self, name))}
        if self.price_date is not None:
            fields["price_date"] = self.price_date.isoformat()
        if self.advice:
            fields["advice"] = [*self.advice]
        return fields

    @classmethod
    def load(cls, fields: Mapping[str, Any]) -> Receipt:
        """What was dumped."""
        receipt = cls(**{name: fields[name] for name in _COUNTS if name in fields})
        receipt.advice = tuple(fields.get("advice", ()))
        if "price_date" in fields:
            receipt.price_date = date.fromisoformat(fields["price_date"])
        return receipt

    def add_unpriced(self, usage: TokenUsage, succeeded: bool) -> None:
        """Add an attempt of a strategy without prices, in place. Takes counts as `counted` gives them."""
        fresh = usage.get("input_tokens", 0)
        output = usage.get("output_tokens", 0)
        self.unpriced_tokens += fresh + output
        if not succeeded:
            self.failed_attempt_tokens += fresh + output
            return
        cached = usage.get("cached_input_tokens", 0)
        thinking = min(usage.get("thinking_tokens", 0), output)
        self.fresh_input_tokens += fresh - cached
        self.cached_input_tokens += cached
        self.output_tokens += output - thinking
        self.thinking_tokens += thinking


_COUNTS = tuple(name for name, kind in Receipt.__annotations__.items() if kind == "int")


def attempt_receipt(usage: TokenUsage | None, pricing: Pricing | None, succeeded: bool) -> Receipt:
    """The receipt of one attempt.

    Args:
        usage: its tokens, as the strategy reported them.
        pricing: its model's prices, where its strategy has any.
        succeeded: whether it gave the item's result.
    """
    receipt = Receipt(price_date=pricing.price_date if pricing is not None else None)
    if not usage:
        return receipt
    usage = counted(usage)
    rates = pricing.rates(usage["input_tokens"]) if pricing is not None else None
    if rates is None:
        receipt.add_unpriced(usage, succeeded)
        return receipt
    cached, thinking = usage["cached_input_tokens"], min(usage.get("thinking_tokens", 0), usage["output_tokens"])
    fresh, output = usage["input_tokens"] - cached, usage["output_tokens"] - thinking
    written = min(usage.get("cache_write_tokens", 0), fresh)
    fresh_cost = nano_dollars(fresh - written, rates.input) + nano_dollars(written, rates.cache_write)
    cached_cost = nano_dollars(cached, rates.cached_input)
    output_cost, thinking_cost = nano_dollars(output, rates.output), nano_dollars(thinking, rates.output)
    receipt.full_price_nano_usd = nano_dollars(fresh + cached, rates.input) + output_cost + thinking_cost
    if not succeeded:
        receipt.failed_attempt_tokens = fresh + cached + output + thinking
        receipt.failed_attempt_nano_usd = fresh_cost + cached_cost + output_cost + thinking_cost
        return receipt
    receipt.fresh_input_tokens, receipt.fresh_input_nano_usd = fresh, fresh_cost
    receipt.cached_input_tokens, receipt.cached_input_nano_usd = cached, cached_cost
    receipt.output_tokens, receipt.output_nano_usd = output, output_cost
    receipt.thinking_tokens, receipt.thinking_nano_usd = thinking, thinking_cost
    return receipt
