"""Time and randomness, as both clients take them: tests bring their own."""

import asyncio
import random
import threading
import time


class Clock:
    """The sync client's."""

    def now(self) -> float:
        """Seconds; only differences count."""
        return time.monotonic()

    def random(self) -> float:
        """Draw from [0, 1)."""
        return random.random()  # noqa: S311 - jitter

    def wait(self, over: threading.Event, seconds: float) -> bool:
        """Wait so long, or until `over` is set; whether it is."""
        return over.wait(seconds)


class AsyncClock:
    """The async client's."""

    def now(self) -> float:
        """Seconds; only differences count."""
        return time.monotonic()

    def random(self) -> float:
        """Draw from [0, 1)."""
        return random.random()  # noqa: S311 - jitter

    async def wait(self, over: asyncio.Event, seconds: float) -> bool:
        """Wait so long, or until `over` is set; whether it is."""
        try:
            async with asyncio.timeout(seconds):
                return await over.wait()
        except TimeoutError:
            return False
