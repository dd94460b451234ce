"""Single items: run, and with an idempotency key run once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from batch_llm.executor import Work
from batch_llm.journal.store import DamagedError, Single, SingleExistsError, SingleRecord, StoreError
from batch_llm.model import BatchLLMError, ErrorReason
from batch_llm.processor import engine_failure
from batch_llm.shared import SharedStrategy
from batchllm.v1 import work_pb2

from . import mapping
from .intake import Intake
from .item_index import content_digest
from .live_batch import Engine
from .status import invalid

_MAX_KEY_BYTES = 512
_POLL_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """A call with a key."""

    digest: bytes
    task: asyncio.Task[work_pb2.WorkItemResult]


class SingleItems:
    """Runs items of `ProcessItem`.

    Args:
        engine: what they run on.
        sleep: waits for seconds.
    """

    def __init__(self, engine: Engine, *, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        self._engine = engine
        self._journal = engine.journal
        self._store = engine.journal.store
        # Whoever else had a store that is not shared is dead.
        self._lease_seconds = engine.journal.lease_seconds if engine.journal.store.shared else 0.0
        self._sleep = sleep
        self._under_way: dict[str, _UnderWay] = {}

    async def run(self, item: work_pb2.WorkItem, key: str) -> work_pb2.WorkItemResult:
        """The item's result. A call with a key goes on when its caller is gone.

        Raises:
            BatchLLMError: the key is too long or was used for another item, or the journal cannot be written.
        """
        await self._engine.registrations.look_up([item.strategy])
        if not key:
            return await self._run(item)
        if len(key.encode()) > _MAX_KEY_BYTES or "\0" in key:
            raise invalid("idempotency_key", f"is longer than {_MAX_KEY_BYTES} bytes or has a zero byte; use another")
        digest = content_digest(item.item_id, content_digest(item.strategy, item.prompt, item.context).hex(), b"")
        first = self._under_way.get(key)
        if first is None:
            task = asyncio.create_task(self._run_once(item, key, digest))
            self._under_way[key] = _UnderWay(digest, task)
            task.add_done_callback(lambda ended: self._on_ended(key, ended))
            return await asyncio.shield(task)
        if first.digest != digest:
            raise _conflict(key)
        return _again(await asyncio.shield(first.task))

    @property
    def under_way(self) -> set[asyncio.Task[work_pb2.WorkItemResult]]:
        """Calls with a key, with or without a caller."""
        return {call.task for call in self._under_way.values()}

    def _on_ended(self, key: str, task: asyncio.Task[work_pb2.WorkItemResult]) -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # its caller, if there still is one, has it too

    async def _run_once(self, item: work_pb2.WorkItem, key: str, digest: bytes) -> work_pb2.WorkItemResult:
        if self._engine.catalogue.find(item.strategy) is None:
            known = await self._store.single(key)
            if known is None or not known.result:
                return await self._run(item)  # not recorded: the strategy may be there when it is called again
        begun = Single(key, digest, b"", self._journal.owner, self._lease_seconds)
        while True:
            known = await self._begin(begun)
            if known is not None and known.result:
                return _again(work_pb2.WorkItemResult.FromString(known.result))
            result = await self._run_leased(item, begun)
            result.maybe_billed = known is not None
            try:
                await self._journal.writer.record(replace(begun, result=result.SerializeToString()))
            except SingleExistsError:
                continue  # another sidecar took it over; its result is the one that counts
            return result

    async def _begin(self, begun: Single) -> SingleRecord | None:
        """Become the one that runs a call, once nobody else does; what was known of it before. It may have a result."""
        while True:
            known = await self._store.single(begun.key)
            if known is not None and known.digest != begun.digest:
                raise _conflict(begun.key)
            if known is not None and known.result:
                return known
            if known is None or not await self._is_held(known):
                try:
                    await self._journal.writer.offer(begun)
                except SingleExistsError:
                    continue  # another sidecar was quicker
                return known
            await self._sleep(_POLL_SECONDS)

    async def _is_held(self, known: SingleRecord) -> bool:
        """Whether another sidecar runs it."""
        if not self._store.shared or known.owner in {"", self._journal.owner}:
            return False
        # While the store was away nobody could renew, nor record a result.
        return not self._journal.settled.is_set() or known.lease_until > await self._store.now()

    async def _run_leased(self, item: work_pb2.WorkItem, begun: Single) -> work_pb2.WorkItemResult:
        renewing = asyncio.create_task(self._renew(begun)) if self._store.shared else None
        try:
            return await self._run(item)
        except BaseException:
            # Others need not wait for the lease.
            self._journal.writer.record(replace(begun, lease_seconds=0.0)).add_done_callback(_retrieve)
            raise
        finally:
            if renewing is not None:
                renewing.cancel()

    async def _renew(self, begun: Single) -> None:
        while True:
            await self._sleep(self._lease_seconds / 3)
            with suppress(StoreError, DamagedError, SingleExistsError):  # what became of it is seen when it ends
                await self._journal.writer.offer(begun)

    async def _run(self, item: work_pb2.WorkItem) -> work_pb2.WorkItemResult:
        leased: list[SharedStrategy] = []

        def find(name: str) -> SharedStrategy:
            shared = self._engine.catalogue.get(name).shared
            shared.lease()
            leased.append(shared)
            return shared

        try:
            work = Intake("", find).take(item)
            if work is None:
                raise RuntimeError("an item without an index cannot be a duplicate")
            work.accepted_at = asyncio.get_running_loop().time()
            result = await self._execute(work)
        finally:
            for shared in leased:
                await shared.release()
        result.sequence = 1
        return result

    async def _execute(self, work: Work) -> work_pb2.WorkItemResult:
        try:
            return mapping.result_message(await self._engine.executor.run(work))
        except Exception as error:
            return mapping.result_message(engine_failure(work, error))


def _retrieve(written: asyncio.Future[None]) -> None:
    if not written.cancelled():
        written.exception()


def _again(recorded: work_pb2.WorkItemResult) -> work_pb2.WorkItemResult:
    """A result that is given once more."""
    again = work_pb2.WorkItemResult()
    again.CopyFrom(recorded)
    again.replayed = True
    return again


def _conflict(key: str) -> BatchLLMError:
    return BatchLLMError(
        f"idempotency_key {key!r} was used for another item; use a key of its own for each",
        reason=ErrorReason.IDEMPOTENCY_CONFLICT,
        metadata={"idempotency_key": key},
    )
