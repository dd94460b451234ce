"""The emulator's time, which a test can move."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime

_DURATION = re.compile(r"(-?\d+(?:\.\d+)?)s")


class Clock:
    """Seconds since the epoch, moved on by a test, and shown to clients with an offset.

    Args:
        skew_seconds: added to every time that clients see; it moves no expiry.
        frozen: whether time stands still until it is advanced.
        real: the time to start from.
    """

    def __init__(self, skew_seconds: float = 0.0, frozen: bool = False, real: Callable[[], float] = time.time) -> None:
        self.skew_seconds = skew_seconds
        self._real = real
        self._ahead = 0.0
        self._stopped_at = real() if frozen else None

    def now(self) -> float:
        """The server's own time, without the skew; whole milliseconds, so that sums are exact where they show."""
        return round((self._real() if self._stopped_at is None else self._stopped_at) + self._ahead, 3)

    def advance(self, seconds: float) -> None:
        """Move on."""
        self._ahead += seconds

    def freeze(self, frozen: bool) -> None:
        """Stop, or go on from here."""
        if frozen and self._stopped_at is None:
            self._stopped_at = self._real()
        elif not frozen and self._stopped_at is not None:
            self._ahead += self._stopped_at - self._real()
            self._stopped_at = None

    def shown(self, moment: float) -> str:
        """A moment as clients see it, in RFC 3339."""
        return datetime.fromtimestamp(moment + self.skew_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def read(self, shown: str) -> float:
        """The moment that a client names.

        Raises:
            ValueError: it is no RFC 3339 time with a zone.
        """
        moment = datetime.fromisoformat(shown)
        if moment.tzinfo is None:
            raise ValueError("no zone")
        return moment.timestamp() - self.skew_seconds


def read_duration(text: str) -> float:
    """Seconds of `"600s"` or `"57.2s"`, as protobuf's JSON has durations.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(text, str) or not (found := _DURATION.fullmatch(text)):
        raise ValueError(f"{text!r} is no duration such as '600s'")
    return float(found[1])


def as_duration(seconds: float) -> str:
    """`"57.2s"`, as protobuf's JSON has durations."""
    return f"{round(seconds, 3):g}s" if seconds < 10**6 else f"{seconds:.0f}s"


def in_words(seconds: float) -> str:
    """`45m28s`, as it stands in the text of Google's errors."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    words = f"{hours}h" if hours else ""
    words += f"{minutes}m" if minutes or hours else ""
    return f"{words}{round(rest, 3):g}s"
