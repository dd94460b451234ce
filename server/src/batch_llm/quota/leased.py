"""A budget that a fleet shares, as one sidecar sees it."""

from __future__ import annotations

import math
from typing import Protocol

from .budget import Admission, Budget
from .ledger import GRANT_SECONDS, NOTHING, Amount, Answer, Ask
from .limits import QuotaLimits
from .store import BEAT_SECONDS, Place
from .window import NO_LIMIT, WINDOW_SECONDS, SlidingWindow

_REFRESH_SECONDS = 0.5
_FRESH_SECONDS = 2 * BEAT_SECONDS


class Lessor(Protocol):
    """Fetches grants."""

    alone: bool
    """Whether there are none for now: the budgets' store cannot be reached."""

    def wake(self) -> None:
        """Look at `LeasedBudget.next_at`."""


class LeasedBudget(Budget):
    """Lets a call go when there is a grant for it; alone, within its slice.

    It has one grant at a time. What is left of it after its time, and what calls have used more or less than was
    reserved, is said with the next ask.

    Args:
        limits: of the whole fleet.
        lessor: fetches grants, by `ask` and then `answered` or `failed`.
    """

    def __init__(self, limits: QuotaLimits, lessor: Lessor) -> None:
        super().__init__(limits)
        self._limit = Amount(limits.requests_per_minute or NO_LIMIT, limits.tokens_per_minute or NO_LIMIT)
        self._lessor = lessor
        self.next_at = math.inf
        """When to ask; monotonic seconds. What there is only to say can wait."""
        self._asking = False
        self._asked_at = -math.inf
        self._in_line = False
        self._key = 0
        self._granted = NOTHING  # what is left of the grant
        self._until = 0.0
        self._corrections: dict[int, Amount] = {}
        self._slice: Amount | None = None
        self._slice_at_first: Amount | None = None
        self._unspent = NOTHING
        self._answered_at = -math.inf
        self._forget_alone()
        self._second = 0.0
        self._calls = self._calls_before = 0  # in this second, and in the one before
        self._lift()

    @property
    def unlimited(self) -> bool:
        """See `Budget`."""
        return False

    # -- for the scope -----------------------------------------------------------------------------------------------

    def wait(self, now: float, tokens: int) -> float | None:
        """See `Budget`."""
        own = super().wait(now, tokens)
        if own:
            return own
        if now < self._until and self._granted.requests > 0 and self._granted.tokens >= tokens:
            return 0.0
        if self._lessor.alone:
            within = self._slice is not None and self._slice.requests > 0 and tokens <= self._slice.tokens
            return 0.0 if within else None
        if not self._asking and self.next_at == math.inf:
            self._ask_at(now)
        return None

    def take(self, admission: Admission, tokens: int) -> None:
        """See `Budget`."""
        super().take(admission, tokens)
        now = admission.at
        if now < self._until and self._granted.requests > 0 and self._granted.tokens >= tokens:
            admission.grant = self._key
            self._granted = self._granted.less(Amount(1, tokens))
        else:
            admission.alone = self._alone_requests.take(now), self._alone_tokens.take(now, tokens)
        if now >= self._second + 1.0:
            self._calls_before = self._calls if now < self._second + 2.0 else 0
            self._calls, self._second = 0, now
        self._calls += 1

    def correct(self, admission: Admission, tokens: int) -> int:
        """See `Budget`."""
        difference = super().correct(admission, tokens)
        self._settle(admission, Amount(0, difference))
        return difference

    def give_back(self, admission: Admission) -> int:
        """See `Budget`."""
        reserved = super().give_back(admission)
        self._settle(admission, Amount(-1, -reserved))
        return reserved

    # -- for the lessor ----------------------------------------------------------------------------------------------

    def ask(self, now: float, calls: int, first_tokens: int, tokens: int) -> Ask | None:
        """What to ask for; None for nothing.

        Args:
            now: monotonic seconds.
            calls: that wait for nothing else.
            first_tokens: for the first of them.
            tokens: for each other.
        """
        if self._granted.requests > 0:
            self._correct(self._key, NOTHING.less(self._granted))
            self._granted = NOTHING
        self.next_at = math.inf
        if self._lessor.alone:
            calls = 0
        used = Amount(self._alone_requests.total(now), self._alone_tokens.total(now))
        if not (calls or self._corrections or any(used) or self._in_line):
            return None
        calls = max(0, min(calls, self._requests.limit - self._requests.total(now)))
        a_second = min(self._limit.requests, self._limit.tokens // max(1, tokens)) // int(WINDOW_SECONDS)
        ahead = min(self._calls_before, a_second)
        ask = Ask(self._limit, calls, first_tokens, tokens, ahead, used, self._corrections)
        self._corrections = {}
        self._forget_alone()
        self._asking, self._asked_at = True, now
        return ask

    def answered(self, now: float, answer: Answer) -> None:
        """Take what was asked for."""
        self._asking = False
        self._key, self._granted, self._until = answer.key, answer.granted, self._asked_at + GRANT_SECONDS
        self._in_line = answer.wait > 0
        if self._in_line:
            self.next_at = now + answer.wait
        self._unspent, self._answered_at = answer.unspent, now

    def failed(self, now: float, ask: Ask) -> None:
        """Keep what was to be said, for the next time."""
        self._asking = self._in_line = False
        again = ask.again()
        for key, amount in again.corrections.items():
            self._correct(key, amount)
        if any(ask.used):
            self._alone_requests.take(now, ask.used.requests)
            self._alone_tokens.take(now, ask.used.tokens)

    def fall_back(self, now: float, since: float, place: Place) -> None:
        """Keep to the slice.

        In the first minute others may have used what this sidecar had not: it goes on with what it used itself in the
        minute before and its part of what was unspent, if it knows that.

        Args:
            now: monotonic seconds.
            since: when the store was lost.
            place: the last one known.
        """
        self._slice = Amount(*map(place.slice, self._limit))
        if self._slice_at_first is None:
            tokens = self._tokens.total(now) if self._tokens is not None else 0
            known = now - self._answered_at < _FRESH_SECONDS
            part = Amount(*map(place.slice, self._unspent)) if known else NOTHING
            first = Amount(self._requests.total(now), tokens) + part
            unlimited = [NO_LIMIT if limit == NO_LIMIT else 0 for limit in self._limit]
            self._slice_at_first = Amount(*map(max, zip(first, unlimited, strict=True)))
        if now < since + WINDOW_SECONDS + GRANT_SECONDS:
            self._slice = Amount(*map(min, zip(self._slice, self._slice_at_first, strict=True)))
        self._most_requests = max(1, self._slice.requests)
        if self._tokens is not None:
            self._tokens.limit = max(1, self._slice.tokens)
        self._requests.limit = min(self._users, self._most_requests)

    def restore(self) -> None:
        """Go by grants again."""
        self._slice = self._slice_at_first = None
        self._lift()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _lift(self) -> None:
        self._most_requests = NO_LIMIT
        self._requests.limit = self._users
        if self._tokens is not None:
            self._tokens.limit = NO_LIMIT

    def _ask_at(self, when: float) -> None:
        self.next_at = when
        self._lessor.wake()

    def _settle(self, admission: Admission, difference: Amount) -> None:
        if admission.grant is not None:
            if any(difference):
                self._correct(admission.grant, difference)
            if self._in_line and min(difference) < 0 and self._asked_at + _REFRESH_SECONDS < self.next_at:
                self._ask_at(self._asked_at + _REFRESH_SECONDS)  # it may be what it waits for
        elif admission.alone is not None:
            for window, entry, amount in zip(
                (self._alone_requests, self._alone_tokens), admission.alone, difference, strict=True
            ):
                window.adjust(entry, amount)

    def _correct(self, key: int, difference: Amount) -> None:
        self._corrections[key] = self._corrections.get(key, NOTHING) + difference

    def _forget_alone(self) -> None:
        self._alone_requests = SlidingWindow(NO_LIMIT)  # what calls used without a grant, and the store has not heard
        self._alone_tokens = SlidingWindow(NO_LIMIT)
