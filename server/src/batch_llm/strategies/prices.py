"""List prices of providers' models, from the `genai-prices` package; it is imported when first needed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from functools import cache
from typing import TYPE_CHECKING, Literal

from batch_llm.model import DEFAULT_CACHE_DISCOUNT, TokenRates
from batch_llm.model.prices import pico_dollars

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice

logger = logging.getLogger("batch_llm")

PriceProvider = Literal["google", "openai"]
"""Whose prices: `google` for the Gemini Developer API and for Vertex AI's global endpoint, `openai`."""

_LOOK_AGAIN_SECONDS = 900  # prices change at full hours, quarters at the finest

# The package's data has no date of its own: these are the days on which its releases came out (pypi.org).
_RELEASES = (("0.2.3", date(2026, 11, 10)),)

# Prices that do not bear on plain text in and out, or on what this engine asks for.
_OTHER_PRICES = frozenset(
    {
        "input_audio_mtok",
        "input_image_mtok",
        "input_video_mtok",
        "cache_audio_read_mtok",
        "cache_image_read_mtok",
        "web_searches_kcount",
        "storage_searches_kcount",
    }
)
_TEXT_PRICES = frozenset({"input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok"})

# USD for keeping a million tokens in a context cache for an hour, by the beginning of the model's name in the price
# table, the first that fits decides; from a day on. Which models: ai.google.dev/gemini-api/docs/pricing, rows "Context
# caching price", as read in October 2026. Models that have implicit caching only are not listed.
STORAGE_TABLE_DATE = date(2026, 10, 1)
_STORAGE_PRICES = (
    ("gemini-2.0-flash-lite", ()),
    ("gemini-2.0-flash", ((date.min, "1.00"),)),
    ("gemini-2.5-flash", ((date.min, "1.00"),)),
    ("gemini-2.5-pro", ((date.min, "4.50"),)),
    ("gemini-3-flash", ((date.min, "1.00"),)),
    ("gemini-3-pro", ((date.min, "4.50"),)),
    ("gemini-3.1-flash-lite", ((date.min, "1.00"),)),
    ("gemini-3.1-pro", ((date.min, "4.50"),)),
    ("gemini-3.5-flash-lite", ()),
    ("gemini-3.5-flash", ((date.min, "1.00"),)),
    ("gemini-3.6-flash", ((date.min, "0.50"), (date(2027, 1, 1), "1.00"))),
    ("gemini-3.7-flash", ((date.min, "0.50"), (date(2027, 1, 1), "1.00"))),
    ("gemini-3.8-flash", ((date.min, "0.50"), (date(2027, 1, 1), "1.00"))),
)

# Shares of the input price that a cached token saves, by the beginning of the model's name: a quarter was left to pay
# until Gemini 2.0, a tenth is since 2.5 (ai.google.dev/gemini-api/docs/pricing; the same in genai-prices 0.2.3).
_GEMINI_DISCOUNTS = (("gemini-1.5", 0.75), ("gemini-2.0", 0.75), ("gemini-4-argon", 0.95))


class ListPrices:
    """The list prices of one model, see `Pricing`: of text, in the standard tier, without fees for tools.

    Prices that hold from a day on change by themselves. A model that the table does not have, or prices in a way that
    token counts do not tell, has no price.

    Args:
        provider: whose price list.
        model: the model, as its provider calls it.
        clock: seconds since the epoch.
    """

    def __init__(self, provider: PriceProvider, model: str, *, clock: Callable[[], float] = time.time) -> None:
        self._provider = provider
        self._model = model.rpartition("/")[2]  # "models/…", "publishers/google/models/…"
        self._clock = clock
        self._tiers: tuple[tuple[int, TokenRates], ...] = ()  # by the size of the prompt, the largest first
        self._storage: int | None = None
        self._price_date: date | None = None
        self._until = 0.0

    @property
    def price_date(self) -> date | None:
        """The day on which the installed release of genai-prices came out, or the last release that is known here.

        None: the package is not installed.
        """
        if self._until == 0.0:
            self.load()
        return self._price_date

    def rates(self, input_tokens: int) -> TokenRates | None:
        """See `Pricing`."""
        if self._clock() >= self._until:
            self.load()
        for start, rates in self._tiers:
            if input_tokens > start:
                return rates
        return None

    def storage_rate(self) -> int | None:
        """See `Pricing`."""
        if self._clock() >= self._until:
            self.load()
        return self._storage

    def load(self) -> None:
        """Look the model up. The first time in a process takes a tenth of a second: do it in a thread."""
        now = self._clock()
        self._until = now - now % _LOOK_AGAIN_SECONDS + _LOOK_AGAIN_SECONDS
        try:
            from genai_prices import __version__, data_snapshot
        except ImportError:
            _say_once("gemini" if self._provider == "google" else self._provider)
            return
        snapshot = data_snapshot.get_snapshot()
        self._price_date = snapshot.timestamp.date() if snapshot.from_auto_update else release_date(__version__)
        today = datetime.fromtimestamp(now, UTC)
        # Of this provider alone: the package would also look at others that offer the same name at other prices.
        prices = next(provider for provider in snapshot.providers if provider.id == self._provider)
        model = prices.find_model(self._model)
        if model is None:
            logger.info("the price list of %s (%s) has no model %r", self._provider, self._price_date, self._model)
            return
        self._tiers = _tiers(model.get_prices(today))
        self._storage = _storage_rate(model.id, today.date()) if self._provider == "google" else None


@cache
def _say_once(extra: str) -> None:
    logger.warning("costs are not known: genai-prices is not installed; pip install 'batch-llm[%s]'", extra)


def release_date(version: str) -> date:
    """The day on which a release of genai-prices came out; of a later one than those known here, the last known."""
    return next((day for known, day in _RELEASES if known == version), _RELEASES[-1][1])


def gemini_cache_discount(model: str) -> float:
    """The share of the input price that a cached token saves with a Gemini model; 0.9 for an unknown one.

    Source: ai.google.dev/gemini-api/docs/pricing.
    """
    name = model.rpartition("/")[2]
    return next((saved for start, saved in _GEMINI_DISCOUNTS if name.startswith(start)), DEFAULT_CACHE_DISCOUNT)


def _storage_rate(model: str, today: date) -> int | None:
    periods = next((periods for start, periods in _STORAGE_PRICES if model.startswith(start)), ())
    usd = [price for begin, price in periods if begin <= today]
    return pico_dollars(usd[-1]) if usd else None


def _tiers(price: ModelPrice) -> tuple[tuple[int, TokenRates], ...]:
    """The prices by size of the prompt: a size holds above its number, for all tokens of a call."""
    from genai_prices.types import TieredPrices

    given = {key: value for key, value in vars(price).items() if value is not None}
    if not {"input_mtok", "output_mtok"} <= given.keys() <= _TEXT_PRICES | _OTHER_PRICES:
        return ()

    def rate(key: str, start: int) -> int:
        value = given.get(key, given["input_mtok"])
        if isinstance(value, TieredPrices):
            value = next((tier.price for tier in reversed(value.tiers) if start >= tier.start), value.base)
        return pico_dollars(value)

    starts = {tier.start for value in given.values() if isinstance(value, TieredPrices) for tier in value.tiers}
    return tuple(
        (
            start,
            TokenRates(
                rate("input_mtok", start),
                rate("cache_read_mtok", start),
                rate("output_mtok", start),
                rate("cache_write_mtok", start),
            ),
        )
        for start in sorted({-1, *starts}, reverse=True)
    )
