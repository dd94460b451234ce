"""Who pays for a context cache: its creation once, its storage by the time that passes, shared by open batches."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_llm.model import Pricing, Receipt
from batch_llm.sync import Lock

if TYPE_CHECKING:
    from .lifecycle import ContextCache

logger = logging.getLogger("batch_llm")

Pay = Callable[["Charge", int, int], None]
Unpaid = Callable[[], Awaitable[Sequence["Charge"]]]

_PICO_IN_NANO = 1000
_MILLISECONDS_IN_HOUR = 3_600_000


@dataclass(frozen=True, slots=True)
class Charge:
    """A stretch of a cache's life that nobody has paid for.

    Args:
        tokens: what the cache holds.
        since: seconds since the epoch, as `until`.
        until: the end.
        created: the cache's creation is part of it.
    """

    tokens: int
    since: float
    until: float
    created: bool


class CacheLedger:
    """The batches that are open on one cache in this process. Charges come lazily: without a batch none is taken."""

    def __init__(self) -> None:
        self.advised = ""
        self._open: list[Pay] = []
        # Else a batch could close, and open ones change, between the taking of a charge and its sharing out.
        self._lock = Lock()

    async def open(self, pay: Pay, unpaid: Unpaid) -> None:
        """Have a batch pay from now on, and for what passed while none was open."""
        async with self._lock:
            try:
                await self._settle(unpaid)
            finally:
                self._open.append(pay)

    async def close(self, pay: Pay, unpaid: Unpaid) -> None:
        """Have a batch pay for the last time."""
        async with self._lock:
            try:
                await self._settle(unpaid)
            finally:
                self._open.remove(pay)

    async def _settle(self, unpaid: Unpaid) -> None:
        """Share out charges among the open batches; without any they wait."""
        if not self._open:
            return
        for charge in await unpaid():
            for number, pay in enumerate(self._open):
                pay(charge, number, len(self._open))


class CacheAccount:
    """One batch's share of the context caches that it uses; kept for caches with a price table only."""

    def __init__(self) -> None:
        self.receipt = Receipt()
        self._uses: dict[CacheLedger, _Use] = {}
        self._closed = False

    async def use(self, cache: ContextCache | None) -> None:
        """Note that an item is about to use a cache; the first time opens the batch's share of it."""
        if cache is None or cache.pricing is None or cache.ledger in self._uses or self._closed:
            return
        use = self._uses[cache.ledger] = _Use(cache, cache.pricing, self.receipt)
        try:
            await cache.settle(use.open)
        except Exception:
            # Nothing is lost: whoever settles next finds it.
            logger.warning("the costs of a context cache cannot be settled now", exc_info=True)

    def add_hits(self, cache: ContextCache | None, receipt: Receipt) -> None:
        """Note what an attempt has saved by a cache."""
        use = self._uses.get(cache.ledger) if cache is not None else None
        if use is not None:
            use.add_hits(receipt)

    async def close(self) -> Receipt:
        """Settle up to now and close; the batch's share. Closing again changes nothing."""
        if not self._closed:
            self._closed = True
            for use in self._uses.values():
                try:
                    await use.cache.settle(use.close)
                    use.look_ahead()
                    use.advise()
                except Exception:
                    logger.warning("the costs of a context cache cannot be settled now", exc_info=True)
        return self.receipt


class _Use:
    """A batch's use of one cache."""

    def __init__(self, cache: ContextCache, pricing: Pricing, receipt: Receipt) -> None:
        self.cache = cache
        self._pricing = pricing
        self._receipt = receipt
        self._saved: int | None = 0

    async def open(self, unpaid: Unpaid) -> None:
        """Pay from now on."""
        await self.cache.ledger.open(self.pay, unpaid)

    async def close(self, unpaid: Unpaid) -> None:
        """Pay for the last time."""
        await self.cache.ledger.close(self.pay, unpaid)

    def pay(self, charge: Charge, number: int, of: int) -> None:
        """Take the part with this number, from 0, of `of` equal parts of a charge."""
        receipt = self._receipt
        receipt.add(Receipt(price_date=self._pricing.price_date))
        since, until = _milliseconds(charge.since), _milliseconds(charge.until)
        # A stretch of its own for each, so that parts add up to the whole, and stretches to the cache's life.
        begin, end = since + (until - since) * number // of, since + (until - since) * (number + 1) // of
        token_seconds = charge.tokens * end // 1000 - charge.tokens * begin // 1000
        rate = self._pricing.storage_rate()
        receipt.cache_storage_token_seconds += token_seconds
        if rate is None:
            receipt.unpriced_token_seconds += token_seconds
        else:
            receipt.cache_storage_nano_usd += _storage_cost(charge.tokens, rate, end)
            receipt.cache_storage_nano_usd -= _storage_cost(charge.tokens, rate, begin)
        if charge.created:
            tokens = _part(charge.tokens, number, of)
            cost = self._creation_cost(charge.tokens)
            receipt.cache_creation_tokens += tokens
            if cost is None:
                receipt.unpriced_tokens += tokens
            else:
                receipt.cache_creation_nano_usd += _part(cost, number, of)

    def add_hits(self, receipt: Receipt) -> None:
        """Add what an attempt saved."""
        total, full = receipt.total_nano_usd, receipt.uncached_nano_usd
        if total is None or full is None or self._saved is None:
            self._saved = None
        else:
            self._saved += full - total

    def look_ahead(self) -> None:
        """Note what the cache will still cost."""
        record, rate = self.cache.record, self._pricing.storage_rate()
        if record is None or rate is None:
            return
        now, expiry = _milliseconds(self.cache.now()), _milliseconds(record.expire_time)
        if expiry > now:
            ahead = _storage_cost(record.total_token_count, rate, expiry - now)
            self._receipt.storage_until_expiry_nano_usd += ahead

    def advise(self) -> None:
        """Say once of a cache that it costs more than this batch's hits have saved."""
        record, ledger = self.cache.record, self.cache.ledger
        if record is None or self._saved is None or ledger.advised == record.name:
            return
        creation, rate = self._creation_cost(record.total_token_count), self._pricing.storage_rate()
        if creation is None or rate is None:
            return
        seconds = self.cache.policy.ttl_seconds
        cost = creation + _storage_cost(record.total_token_count, rate, _milliseconds(seconds))
        if cost <= self._saved:
            return
        ledger.advised = record.name
        advice = (
            f"the context cache {record.name} of strategy {record.strategy!r} costs more than it saves: "
            f"${cost / 1e9:.6f} to create and to keep for {seconds:g} s, ${self._saved / 1e9:.6f} saved in this "
            "batch; send more items while it lives, shorten cache_ttl_seconds, or do without a cache"
        )
        logger.warning("%s", advice)
        self._receipt.advice += (advice,)

    def _creation_cost(self, tokens: int) -> int | None:
        rates = self._pricing.rates(tokens)
        return None if rates is None else tokens * rates.input // _PICO_IN_NANO


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _storage_cost(tokens: int, rate: int, milliseconds: int) -> int:
    """Nano-dollars for tokens at pico-dollars an hour; differences of two moments of one cache add up."""
    return tokens * rate * milliseconds // (_MILLISECONDS_IN_HOUR * _PICO_IN_NANO)


def _part(whole: int, number: int, of: int) -> int:
    return whole * (number + 1) // of - whole * number // of
