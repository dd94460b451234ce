"""What tokens cost: integers, so that sums are exact."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import NamedTuple, Protocol

PICO_IN_NANO = 1000
_PICO_PER_TOKEN = 10**6  # a dollar for a million tokens


class TokenRates(NamedTuple):
    """Prices of one token in pico-dollars (10^-12 USD); thinking costs what output costs."""

    input: int
    cached_input: int
    output: int
    cache_write: int
    """Of an input token that the provider says it has written to a prefix cache of its own."""


class Pricing(Protocol):
    """The prices of one model; asked for every attempt, so an answer should take about a microsecond."""

    @property
    def price_date(self) -> date | None:
        """The day of the price table; None where there is no table."""
        ...

    def rates(self, input_tokens: int) -> TokenRates | None:
        """The prices of a call with so many input tokens, cached ones included; None: not known."""
        ...

    def storage_rate(self) -> int | None:
        """Pico-dollars for keeping one token in a context cache for an hour; None: not known."""
        ...


@dataclass(frozen=True, slots=True)
class TokenPrices:
    """Prices that you state yourself, in USD for a million tokens, e.g. for a strategy of your own.

    Args:
        input: fresh input; the digits after the sixth are rounded away, as in all of these.
        output: output, thinking included.
        price_date: the day on which they were right.
        cached_input: input from a cache; None: as `input`.
        cache_storage: a million tokens in a context cache for an hour; None: not known.

    Raises:
        ValueError: a price is negative or no number.
    """

    input: Decimal | str | int
    output: Decimal | str | int
    price_date: date
    cached_input: Decimal | str | int | None = None
    cache_storage: Decimal | str | int | None = None

    _rates: TokenRates = field(init=False, repr=False, compare=False)
    _storage: int | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        fresh = pico_dollars(self.input, "input")
        cached = fresh if self.cached_input is None else pico_dollars(self.cached_input, "cached_input")
        output = pico_dollars(self.output, "output")
        storage = None if self.cache_storage is None else pico_dollars(self.cache_storage, "cache_storage")
        object.__setattr__(self, "_rates", TokenRates(fresh, cached, output, fresh))
        object.__setattr__(self, "_storage", storage)

    def rates(self, input_tokens: int) -> TokenRates:
        """See `Pricing`."""
        return self._rates

    def storage_rate(self) -> int | None:
        """See `Pricing`."""
        return self._storage


def pico_dollars(usd_per_million: Decimal | str | int, name: str = "price") -> int:
    """The price of one unit in pico-dollars.

    Raises:
        ValueError: it is negative or no number; names the field.
    """
    try:
        price = Decimal(usd_per_million)
    except (ArithmeticError, TypeError, ValueError):
        price = Decimal("NaN")
    if not price.is_finite() or price < 0:
        raise ValueError(f"{name} must be USD for a million tokens, 0 or more, e.g. '0.30'; got {usd_per_million!r}")
    return round(price * _PICO_PER_TOKEN)


def nano_dollars(count: int, rate: int) -> int:
    """What `count` units at `rate` pico-dollars cost, in nano-dollars, rounded half up."""
    return (count * rate + PICO_IN_NANO // 2) // PICO_IN_NANO
