"""What a project may ask of a model in a minute, in a day and at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from .clock import Clock
from .errors import QuotaErrors, quota_exceeded
from .settings import EmulatorSettings

_MINUTE = 60.0
_DAY = 86_400.0


class _Window:
    """What was used in the last minute."""

    def __init__(self) -> None:
        self._used: deque[tuple[float, int]] = deque()
        self._total = 0

    def wait(self, now: float, amount: int, limit: int) -> float:
        """Seconds until so much may be used; 0 for now. More than the limit waits for an empty window."""
        while self._used and self._used[0][0] + _MINUTE <= now:
            self._total -= self._used.popleft()[1]
        excess = self._total + min(amount, limit) - limit
        if excess <= 0:
            return 0.0
        for moment, used in self._used:
            excess -= used
            if excess <= 0:
                return moment + _MINUTE - now
        return _MINUTE

    def use(self, now: float, amount: int) -> None:
        self._used.append((now, amount))
        self._total += amount


class _Used:
    """What one project used of one model."""

    def __init__(self) -> None:
        self.requests = _Window()
        self.tokens = _Window()
        self.day = 0
        self.today = 0
        self.in_flight = 0


class Quotas:
    """All quotas of all projects.

    Args:
        clock: the emulator's time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._owners: dict[str, _Used] = {}

    def admit(
        self, owner: str, model: str, tokens: int, settings: EmulatorSettings, vertex: bool
    ) -> AbstractContextManager[None]:
        """Count a call, which lasts as long as the context that is returned.

        Args:
            owner: whose quota it is: project, location and model.
            model: for the error.
            tokens: all input, cached too.
            settings: the limits.
            vertex: whether it came by a path of Vertex AI.

        Raises:
            ApiError: 429; the call is not counted.
        """
        used = self._owners.setdefault(owner, _Used())
        now = self._clock.now()
        style: QuotaErrors = (
            ("bare" if vertex else "details") if settings.quota_errors == "auto" else settings.quota_errors
        )
        if (most := settings.requests_per_day) is not None:
            day = int(now // _DAY)
            if used.day != day:
                used.day, used.today = day, 0
            if used.today >= most:
                raise quota_exceeded(
                    "requests_per_day",
                    model,
                    retry_after=(day + 1) * _DAY - now,
                    limit=most,
                    free_tier=settings.free_tier,
                    style=style,
                )
        minutes = (
            ("requests_per_minute", used.requests, settings.requests_per_minute, 1),
            ("tokens_per_minute", used.tokens, settings.tokens_per_minute, tokens),
        )
        for quota, window, limit, amount in minutes:
            if limit is not None and (wait := window.wait(now, amount, limit)) > 0:
                raise quota_exceeded(
                    quota,  # type: ignore[arg-type]  # mypy widens the literals of a tuple
                    model,
                    retry_after=wait,
                    limit=limit,
                    free_tier=settings.free_tier,
                    style=style,
                )
        if settings.max_in_flight is not None and used.in_flight >= settings.max_in_flight:
            raise quota_exceeded("requests_per_minute", model, retry_after=0.0, style="bare")
        if settings.requests_per_day is not None:
            used.today += 1
        for _, window, limit, amount in minutes:
            if limit is not None:
                window.use(now, amount)
        return _in_flight(used)


@contextmanager
def _in_flight(used: _Used) -> Iterator[None]:
    used.in_flight += 1
    try:
        yield
    finally:
        used.in_flight -= 1
