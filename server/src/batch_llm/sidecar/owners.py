"""What the sidecars of a fleet ask of the owners of batches, through the store that they share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from batch_llm.journal.store import Ask, BatchRecord
from batch_llm.model import BatchLLMError, ErrorReason

from .batch_log import Journal

OWNER_LOOKS_SECONDS = 1.0
"""How often an owner looks what is asked of it."""
_POLL_SECONDS = 0.25
_YIELDED_SECONDS = 5.0


class HeldElsewhereError(BatchLLMError):
    """Another sidecar has a batch, by its lease."""

    retry_after = OWNER_LOOKS_SECONDS
    """Seconds, for RetryInfo: its owner may have let go of it then, or its lease be over."""

    def __init__(self, batch_id: str) -> None:
        super().__init__(
            f"batch {batch_id!r} is held by another sidecar: a client has it there, calls in flight come to their end, "
            "or that sidecar is gone and its lease is not over; try again, or choose another batch_id",
            reason=ErrorReason.BATCH_IN_USE,
            metadata={"batch_id": batch_id},
        )


class Owners:
    """Asks the owners of batches, and waits for them a little.

    Args:
        journal: the shared one.
        sleep: waits for seconds.
    """

    def __init__(self, journal: Journal, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        self._journal = journal
        self._store = journal.store
        self._sleep = sleep

    async def claim(self, batch_id: str) -> BatchRecord | None:
        """Become the owner of a batch; None: another sidecar is, or there is none of this id."""
        return await self._store.claim(batch_id, self._journal.owner, self._journal.lease_seconds)

    async def ask_for(self, batch_id: str) -> BatchRecord | None:
        """Become the owner of a batch; another sidecar is asked to let go of it if no client has it there.

        None: there is none of this id, a client has it, or its owner has not let go of it within a few seconds: it ends
        what is in flight first, or is gone and has its lease left.
        """
        record = await self.claim(batch_id)
        if record is not None or not self._store.shared:
            return record
        await self._store.ask(batch_id, Ask.YIELD)
        waited = 0.0
        while waited < _YIELDED_SECONDS:
            await self._sleep(_POLL_SECONDS)
            waited += _POLL_SECONDS
            if (record := await self.claim(batch_id)) is not None:
                return record
            if not await self._store.asked([batch_id]):
                return None
        return None

    async def cancel(self, batch_id: str, seconds: float) -> None:
        """Have the owner of a batch cancel it; over when it has ended, or after so many seconds: the wish stands."""
        await self._store.ask(batch_id, Ask.CANCEL)
        waited = 0.0
        while waited < seconds:
            record = await self._store.get(batch_id)
            if record is None or record.state.ended:
                return
            await self._sleep(_POLL_SECONDS)
            waited += _POLL_SECONDS
