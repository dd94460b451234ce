"""How many calls and tokens a minute may take."""

from __future__ import annotations

from collections.abc import Iterable

from .limits import QuotaLimits
from .window import NO_LIMIT, Entry, SlidingWindow


class Admission:
    """A call that may be made, until it is released.

    Args:
        at: monotonic seconds.
        in_flight: calls in flight then, itself included.
        pause: number of the scope's last pause then.
    """

    __slots__ = ("alone", "at", "grant", "in_flight", "pause", "request", "tokens", "took")

    request: Entry
    """Where it is counted."""

    def __init__(self, at: float, in_flight: int, pause: int) -> None:
        self.at = at
        self.in_flight = in_flight
        self.pause = pause
        self.tokens: tuple[Entry, int] | None = None
        self.took = 0
        self.grant: int | None = None
        self.alone: tuple[Entry, Entry] | None = None


class Budget:
    """At most so many calls and tokens in any 60 seconds. Whoever uses it holds its owner's lock.

    Args:
        limits: of which it keeps those of a minute.
    """

    def __init__(self, limits: QuotaLimits) -> None:
        self._users = NO_LIMIT
        self._requests = SlidingWindow(limits.requests_per_minute or NO_LIMIT)  # counts for users yet to come, too
        self._tokens = SlidingWindow(limits.tokens_per_minute) if limits.tokens_per_minute else None
        self._most_requests = self._requests.limit

    @property
    def unlimited(self) -> bool:
        """Whether it only counts, for now."""
        return self._requests.limit == NO_LIMIT and self._tokens is None

    @property
    def of_tokens(self) -> bool:
        """Whether tokens are limited."""
        return self._tokens is not None

    def agree(self, users: Iterable[float | None]) -> None:
        """Keep to the least of its own limit and what its users allow, in requests a minute."""
        self._users = int(min((limit for limit in users if limit is not None), default=NO_LIMIT))
        self._requests.limit = min(self._users, self._most_requests)

    def wait(self, now: float, tokens: int) -> float | None:
        """Seconds until it has room for a call; 0 for now, None until the owner is told to look again."""
        return max(
            self._requests.wait(now) if self._requests.limit < NO_LIMIT else 0.0,
            self._tokens.wait(now, tokens) if self._tokens is not None else 0.0,
        )

    def take(self, admission: Admission, tokens: int) -> None:
        """Count a call."""
        admission.request = self._requests.take(admission.at)
        if self._tokens is not None:
            admission.tokens = self._tokens.take(admission.at, tokens), tokens

    def correct(self, admission: Admission, tokens: int) -> int:
        """Count the tokens that a call has used instead of those reserved; by how much they differ."""
        if self._tokens is None or admission.tokens is None:
            return 0
        entry, reserved = admission.tokens
        self._tokens.adjust(entry, tokens - reserved)
        return tokens - reserved

    def give_back(self, admission: Admission) -> int:
        """Count a call no more; the tokens that were reserved for it."""
        self._requests.adjust(admission.request, -1)
        if self._tokens is None or admission.tokens is None:
            return 0
        entry, reserved = admission.tokens
        self._tokens.adjust(entry, -reserved)
        admission.tokens = None
        return reserved
