"""Waiting for what goes on whether or not anybody waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def shielded(awaitable: Awaitable[T]) -> T:
    """Await what goes on in the background if this is cancelled; asyncio's log then does not call its failure lost.

    Raises:
        Exception: what it raises.
    """
    outcome = asyncio.ensure_future(awaitable)
    outcome.add_done_callback(_take_note)
    return await asyncio.shield(outcome)


def _take_note(outcome: asyncio.Future[T]) -> None:
    if not outcome.cancelled():
        outcome.exception()
