"""A budget over the last minute."""

from __future__ import annotations

from collections import deque

WINDOW_SECONDS = 60.0
_RESOLUTION_SECONDS = 0.1
NO_LIMIT = 2**62
"""The limit of a window that only counts."""


class Entry:
    """What was taken within a tenth of a second.

    Args:
        first: monotonic seconds of the first of it.
        amount: requests or tokens.
    """

    __slots__ = ("amount", "counted", "first", "last")

    def __init__(self, first: float, amount: int) -> None:
        self.first = first
        self.last = first
        self.amount = amount
        self.counted = True


class SlidingWindow:
    """At most so much in any minute: what is taken counts for 60 seconds.

    A token bucket would let up to twice its size through in a minute, which providers that count minutes refuse.
    What is taken within a tenth of a second is one entry that counts from its end, so that a window stays small.

    Args:
        limit: requests or tokens in a minute; at least 1.
    """

    __slots__ = ("_entries", "_total", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._entries: deque[Entry] = deque()
        self._total = 0

    def wait(self, now: float, amount: int = 1) -> float:
        """Seconds until so much may be taken; 0 for now. More than the whole budget waits for an empty window."""
        self._forget(now)
        excess = self._total + min(amount, self.limit) - self.limit
        if excess <= 0:
            return 0.0
        for entry in self._entries:
            excess -= entry.amount
            if excess <= 0:
                return max(0.0, entry.last + WINDOW_SECONDS - now)
        return 0.0

    def take(self, now: float, amount: int = 1) -> Entry:
        """Take so much, whether it is there or not."""
        entries = self._entries
        if entries and now - entries[-1].first < _RESOLUTION_SECONDS:
            entry = entries[-1]
            entry.amount += amount
            entry.last = now
        else:
            self._forget(now)  # so that it stays small though nobody asks
            entry = Entry(now, amount)
            entries.append(entry)
        self._total += amount
        return entry

    def adjust(self, entry: Entry, difference: int) -> None:
        """Add to what was taken, or give back with a negative number; without effect once its minute is over."""
        if entry.counted:
            self._total += difference
            entry.amount += difference

    def total(self, now: float) -> int:
        """What has been taken in the last minute."""
        self._forget(now)
        return self._total

    def _forget(self, now: float) -> None:
        entries = self._entries
        while entries and entries[0].last + WINDOW_SECONDS <= now:
            entry = entries.popleft()
            entry.counted = False
            self._total -= entry.amount
