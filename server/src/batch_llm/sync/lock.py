"""One at a time."""

from __future__ import annotations

from .limiter import Limiter


class Lock:
    """An `asyncio.Lock` for event loops in several threads; those who wait come in the order they came."""

    __slots__ = ("_limiter",)

    def __init__(self) -> None:
        self._limiter = Limiter(1)

    def locked(self) -> bool:
        """Whether somebody has it."""
        return self._limiter.in_use > 0

    async def __aenter__(self) -> None:
        await self._limiter.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._limiter.release()
