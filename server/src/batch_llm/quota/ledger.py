"""Who may take how much of a budget that many sidecars share: the rules, wherever it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, replace
from typing import Any, NamedTuple

from .window import WINDOW_SECONDS

GRANT_SECONDS = 1.0
"""How long a grant may be used, from the moment it was asked for. It counts for as much longer than a minute."""

_BUCKET_SECONDS = 0.5
_LATEST_BUCKETS = 20  # one that waited for the store's lock comes with the time of a moment ago
_SHORTEST_WAIT_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 5.0  # others may give back what they have not used
_LATE_SECONDS = 2.0  # who waits in line and comes later than that has lost its place


class Amount(NamedTuple):
    """Of calls and of their tokens."""

    requests: int
    tokens: int

    def __add__(self, other: tuple[int, ...]) -> Amount:  # type: ignore[override]  # a sum, not a longer tuple
        return Amount(self.requests + other[0], self.tokens + other[1])

    def less(self, other: Amount) -> Amount:
        """The difference."""
        return Amount(self.requests - other.requests, self.tokens - other.tokens)


NOTHING = Amount(0, 0)


@dataclass(frozen=True, slots=True)
class Ask:
    """What a sidecar wants of a budget, and what it has to say.

    Args:
        limit: of the budget in a minute, as this sidecar's operator says.
        calls: that wait for nothing else.
        first_tokens: for the first of them.
        tokens: for each other.
        ahead: calls that may soon follow; granted from plenty only.
        used: without a grant, in the last minute, while the budget's store could not be reached.
        corrections: by grant, what was used more (or, negative, less) than granted.
    """

    limit: Amount
    calls: int = 0
    first_tokens: int = 0
    tokens: int = 0
    ahead: int = 0
    used: Amount = NOTHING
    corrections: Mapping[int, Amount] = field(default_factory=dict)

    def amount(self, calls: int, *, first: bool = True) -> Amount:
        """So many calls, with the first of those that wait or without it."""
        return Amount(calls, calls * self.tokens + (self.first_tokens - self.tokens if first and calls else 0))

    def again(self) -> Ask:
        """The same if the first try may have come through: nothing is given back twice."""
        kept = {key: Amount(max(0, requests), max(0, tokens)) for key, (requests, tokens) in self.corrections.items()}
        return replace(self, corrections=kept)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a sidecar gets of a budget.

    Args:
        key: names the grant in corrections.
        granted: to be used within `GRANT_SECONDS` of asking.
        wait: seconds after which to ask again, keeping the place in line; 0: it is in no line.
        unspent: what is left of the minute.
    """

    key: int
    granted: Amount
    wait: float
    unspent: Amount


@dataclass(frozen=True, slots=True)
class _Waiting:
    member: str
    requests: int
    tokens: int
    until: float
    turn: int

    @property
    def wants(self) -> Amount:
        return Amount(self.requests, self.tokens)


class Ledger:
    """A budget's grants of the last minute, and the line of sidecars that wait for more.

    A grant counts from when it was made until a minute after it was last of use: what all sidecars together call in
    any 60 seconds stays within the limit. Who finds too little free waits in line, for a slice: about a second's worth
    of the budget over all in line, but at least one call. What those before it wait for is kept for them.

    Args:
        state: what `state` gave; None for a new one.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        state = state or {"grants": (), "line": ()}
        self._grants = {int(key): Amount(requests, tokens) for key, requests, tokens in state["grants"]}  # oldest first
        self._total = NOTHING  # of the grants; true after `_forget`
        self._line = [_Waiting(*waiting) for waiting in state["line"]]

    @property
    def state(self) -> dict[str, Any]:
        """All of it, in JSON's types."""
        return {
            "grants": [[key, *amount] for key, amount in self._grants.items()],
            "line": [[*astuple(each)] for each in self._line],
        }

    def draw(self, now: float, member: str, ask: Ask) -> Answer:
        """Take note of what a sidecar says, and give it what is free now.

        Args:
            now: seconds, by one clock for all.
            member: the sidecar.
            ask: what it wants.
        """
        key = int(now / _BUCKET_SECONDS)
        self._forget(now, key)
        for corrected, difference in ask.corrections.items():
            if corrected in self._grants:
                self._count(corrected, difference)
        self._count(key, ask.used)
        others = [each for each in self._line if each.member != member]
        mine = next((each.turn for each in self._line if each.member == member), None)
        turn = self._line[-1].turn + 1 if mine is None and self._line else mine or 0
        slice_calls = _slice(ask, len(others) + 1)
        free = self._free(ask.limit)
        due = sum((each.wants for each in others if each.turn < turn), NOTHING)
        calls = _fitting(ask, free.less(due), min(ask.calls, slice_calls) if others else ask.calls)
        granted = ask.amount(calls)
        if calls and calls == ask.calls and not others:
            granted += ask.amount(_fitting(ask, free.less(granted), 2 * ask.ahead) // 2, first=False)
        self._count(key, granted)
        self._line = others
        wait = 0.0
        if rest := ask.calls - calls:
            if calls:  # it has had its turn; the next one is as far off as if all had come in the line's order
                turn += len(others) + 1
                due = sum((each.wants for each in others if each.turn < turn), NOTHING)
            wants = ask.amount(min(rest, slice_calls), first=not calls)
            wait = self._wait(now, ask.limit, due + wants)
            self._line = sorted([*others, _Waiting(member, *wants, now + wait + _LATE_SECONDS, turn)], key=_turn)
        return Answer(key, granted, wait, self._free(ask.limit))

    def _forget(self, now: float, key: int) -> None:
        grants, self._grants, self._total = self._grants, {}, NOTHING
        for granted, amount in sorted(grants.items()):
            if _end(granted) > now:
                # Far in the future only when the clock was set back: as if new, else it would count for too long.
                self._count(granted if granted <= key + _LATEST_BUCKETS else key, amount)
        latest = now + _LONGEST_WAIT_SECONDS + _LATE_SECONDS
        self._line = [each for each in self._line if now < each.until <= latest]

    def _count(self, key: int, amount: Amount) -> None:
        if any(amount):
            self._grants[key] = self._grants.get(key, NOTHING) + amount
            self._total += amount

    def _free(self, limit: Amount) -> Amount:
        free = limit.less(self._total)
        return Amount(max(0, free.requests), max(0, free.tokens))

    def _wait(self, now: float, limit: Amount, wants: Amount) -> float:
        """Seconds until so much is free; more than the whole budget waits for an empty window."""
        requests = self._total.requests + min(0, wants.requests - limit.requests)
        tokens = self._total.tokens + min(0, wants.tokens - limit.tokens)
        wait = _SHORTEST_WAIT_SECONDS
        for key, amount in self._grants.items():
            if requests <= 0 and tokens <= 0:
                break
            requests -= amount.requests
            tokens -= amount.tokens
            wait = _end(key) - now
        return min(max(wait, _SHORTEST_WAIT_SECONDS), _LONGEST_WAIT_SECONDS)


def _turn(waiting: _Waiting) -> int:
    return waiting.turn


def _end(key: int) -> float:
    return (key + 1) * _BUCKET_SECONDS + WINDOW_SECONDS + GRANT_SECONDS


def _slice(ask: Ask, sidecars: int) -> int:
    seconds = WINDOW_SECONDS * sidecars
    calls = ask.limit.requests // seconds
    if ask.tokens:
        calls = min(calls, ask.limit.tokens // seconds // ask.tokens)
    return max(1, int(calls))


def _fitting(ask: Ask, free: Amount, most: int) -> int:
    """How many of the calls that wait there is room for."""
    if free.requests < 1 or free.tokens < min(ask.first_tokens, ask.limit.tokens):
        return 0
    calls = min(most, free.requests)
    if ask.tokens:
        calls = min(calls, 1 + max(0, free.tokens - ask.first_tokens) // ask.tokens)
    return calls
