"""The batches of a sidecar: those that it runs, and those that its journal knows."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from weakref import WeakValueDictionary

from batch_llm.journal.store import (
    Ask,
    BatchExistsError,
    BatchRecord,
    BatchState,
    Begin,
    Change,
    DamagedError,
    StoreError,
)
from batch_llm.journal.writer import LONGEST_PAUSE_SECONDS
from batch_llm.model import BatchLLMError, ErrorReason
from batchllm.v1 import batch_service_pb2 as pb

from . import mapping
from .live_batch import Engine, LiveBatch, batch_in_use
from .owners import OWNER_LOOKS_SECONDS, HeldElsewhereError, Owners
from .recovery import Recovery, recover
from .status import invalid

logger = logging.getLogger("batch_llm")

_DEFAULT_PAGE = 100
_LARGEST_PAGE = 1000
_CANCEL_SECONDS = 10.0
_LAST_WRITES_SECONDS = 5.0
_RETENTION_ROUND_SECONDS = 3600.0
_PICK_UP_SECONDS = 10.0
_MEMORY_RETENTION_SECONDS = 600.0


class Batches:
    """Opens, takes up, lists, cancels and erases batches.

    Args:
        engine: what they run on.
        retention_seconds: how long a batch that has ended is kept.
        sleep: waits for seconds.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        retention_seconds: float,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._engine = engine
        self._journal = engine.journal
        self._store = engine.journal.store
        self._retention_seconds = retention_seconds
        self._sleep = sleep
        self._live: dict[str, LiveBatch] = {}
        self._doors: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._owners = Owners(engine.journal, sleep)
        self._rounds: list[asyncio.Task[None]] = []
        self._owners_rounds: list[asyncio.Task[None]] = []
        self._draining = False
        self._waits: set[str] = set()
        self._damage_said: set[str] = set()
        # Batches that stopped here for want of a strategy, and its name; another sidecar may have it.
        self._unable: dict[str, str] = {}

    def start(self) -> None:
        """Go on with detached batches, and begin what is done from time to time."""
        self._rounds = [asyncio.create_task(round_()) for round_ in (self._pick_up, self._erase_old)]
        if self._store.shared:
            self._owners_rounds = [asyncio.create_task(round_()) for round_ in (self._renew_leases, self._do_as_asked)]

    # -- running -----------------------------------------------------------------------------------------------------

    async def open(self, opening: pb.OpenBatch) -> LiveBatch:
        """The batch of an `open` frame, new or not, with its stream attached; `leave` it in the end.

        Raises:
            BatchLLMError: another stream or sidecar has it, the frame does not fit it, or the journal fails.
        """
        batch_id = opening.batch_id or f"batch-{uuid.uuid4().hex}"
        async with self._door(batch_id):
            await self._engine.registrations.catch_up(opening.strategy)
            batch = await self._take_up(batch_id, opening)
            if batch is None:
                batch = await self._begin(batch_id, opening)
            try:
                batch.attach(opening)
            except BaseException:
                if not batch.attached:
                    batch.leave()
                raise
        return batch

    async def _begin(self, batch_id: str, opening: pb.OpenBatch) -> LiveBatch:
        if opening.strategy:
            self._engine.catalogue.get(opening.strategy)
        if opening.resume_after_sequence:
            raise invalid(
                "resume_after_sequence",
                f"is {opening.resume_after_sequence}, but there is no batch {batch_id!r}: it was never opened here, "
                "or was erased; to run it anew leave this out, and begin a new file of results",
            )
        recorded = pb.OpenBatch()
        recorded.CopyFrom(opening)
        recorded.batch_id = batch_id
        recorded.result_order = opening.result_order or pb.RESULT_ORDER_COMPLETION
        begin = Begin(
            batch_id,
            recorded.SerializeToString(deterministic=True),
            opening.detach,
            self._journal.owner,
            self._journal.lease_seconds,
        )
        try:
            await self._journal.writer.offer(begin)
        except BatchExistsError:
            raise batch_in_use(batch_id) from None
        record = await self._store.get(batch_id)
        if record is None:
            raise batch_in_use(batch_id)  # erased in between, by another sidecar
        return self._add(record, Recovery())

    async def _take_up(self, batch_id: str, reopening: pb.OpenBatch | None = None) -> LiveBatch | None:
        """A batch that this sidecar runs, or from the journal; None: there is none of this id.

        Args:
            batch_id: the batch.
            reopening: what a client opens it with; another sidecar that has it is asked for it then.
        """
        batch = self._live.get(batch_id)
        if batch is not None:
            if batch.attached:
                raise batch_in_use(batch_id)
            if not batch.ending:
                return batch
            await batch.closed.wait()
        record = await self._store.get(batch_id)
        if record is None:
            return None
        strategy = pb.OpenBatch.FromString(record.opening).strategy
        await self._engine.registrations.catch_up(strategy)
        if not record.state.ended:
            if isinstance(damage := self._journal.writer.failure, DamagedError):
                raise damage.with_traceback(None)  # what came of its calls might be lost, again and again
            if reopening is None:
                record = await self._owners.claim(batch_id)
            else:
                if in_force := reopening.strategy or strategy:
                    self._engine.catalogue.get(in_force)  # else it stays with one that can go on with it
                record = await self._owners.ask_for(batch_id)
            if record is None:
                raise HeldElsewhereError(batch_id) if self._store.shared else batch_in_use(batch_id)
        if record.state.ended:  # perhaps while it was waited for
            return self._add(record, Recovery(released=record.results))
        opening = pb.OpenBatch.FromString(record.opening)
        try:
            recovery = await recover(self._store, record, ordered=opening.result_order == pb.RESULT_ORDER_SUBMISSION)
            asked = await self._store.asked([batch_id])
        except BaseException:
            self._journal.writer.record(Change(batch_id, record.fence, owner="")).add_done_callback(_retrieve)
            raise
        logger.info(
            "batch %r taken up: %d items, %d results, %d may be billed twice",
            *(batch_id, record.items, record.results, len(recovery.maybe_billed)),
        )
        batch = self._add(record, recovery)
        if asked.get(batch_id) is Ask.CANCEL:
            batch.cancel()
        return batch

    def _add(self, record: BatchRecord, recovery: Recovery) -> LiveBatch:
        batch = LiveBatch(record, recovery, self._engine, self._on_closed)
        self._live[batch.batch_id] = batch
        if self._draining:
            batch.drain()
        return batch

    def _on_closed(self, batch: LiveBatch) -> None:
        if self._live.get(batch.batch_id) is batch:
            del self._live[batch.batch_id]
            self._unable.pop(batch.batch_id, None)
            if isinstance(failure := batch.failure, BatchLLMError) and "strategy" in failure.metadata:
                self._unable[batch.batch_id] = failure.metadata["strategy"]

    def _door(self, batch_id: str) -> asyncio.Lock:
        """Whoever takes a batch up goes through here, one at a time."""
        door = self._doors.get(batch_id)
        if door is None:
            door = self._doors[batch_id] = asyncio.Lock()
        return door

    # -- looking and acting ------------------------------------------------------------------------------------------

    async def get(self, batch_id: str) -> pb.BatchInfo:
        """A batch.

        Raises:
            BatchLLMError: BATCH_NOT_FOUND, or its record is damaged.
        """
        record = await self._store.get(batch_id)
        if record is None:
            raise _not_found(batch_id)
        return self._info(record, await self._store.now())

    async def page(self, page_size: int, page_token: str) -> tuple[Sequence[pb.BatchInfo], str]:
        """A page of batches, and the token of the next; empty: this is the last.

        One whose record is damaged has its id alone.

        Raises:
            BatchLLMError: INVALID_FIELD.
        """
        if page_size < 0:
            raise invalid("page_size", f"is {page_size}; use 0 for {_DEFAULT_PAGE}")
        size = min(page_size or _DEFAULT_PAGE, _LARGEST_PAGE)
        after = _after(page_token)
        records = await self._store.list(size + 1, after, damaged=self._say_damaged)
        page = records[:size]
        now = await self._store.now()
        # A damaged id does not sort as it reads.
        more = len(records) > size and page[-1].batch_id != after
        return [self._info(record, now) for record in page], _token(page[-1].batch_id) if more else ""

    def _say_damaged(self, problem: str) -> None:
        if problem not in self._damage_said:
            self._damage_said.add(problem)
            logger.warning("%s; `batch-llm-sidecar journal check` says more", problem)

    async def cancel(self, batch_id: str) -> pb.BatchInfo:
        """End a batch, whichever sidecar has it; how it is then, or after a while.

        Raises:
            BatchLLMError: BATCH_NOT_FOUND, or the journal fails.
        """
        try:
            await self._cancel_here(batch_id)
        except HeldElsewhereError:
            await self._owners.cancel(batch_id, _CANCEL_SECONDS)
        return await self.get(batch_id)

    async def _cancel_here(self, batch_id: str) -> None:
        batch = self._live.get(batch_id)
        if batch is None or (batch.ending and not batch.attached):
            async with self._door(batch_id):
                batch = self._live[batch_id] if self._is_attached(batch_id) else await self._take_up(batch_id)
                if batch is None:
                    raise _not_found(batch_id)
                batch.cancel()
                if not batch.attached:
                    batch.leave()
        else:
            batch.cancel()
        closed = asyncio.ensure_future(batch.closed.wait())
        await asyncio.wait({closed}, timeout=_CANCEL_SECONDS)
        closed.cancel()

    async def delete(self, batch_id: str) -> None:
        """Erase a batch that has ended, or whose record is damaged: nothing more can come of that one.

        Raises:
            BatchLLMError: BATCH_NOT_FOUND, BATCH_NOT_FINISHED, BATCH_IN_USE while a stream reads it, or the journal
                fails.
        """
        async with self._door(batch_id):
            batch = self._live.get(batch_id)
            if batch is not None and batch.ending and not batch.attached:
                await batch.closed.wait()
            if not await self._may_be_erased(batch_id):
                raise BatchLLMError(
                    f"batch {batch_id!r} has not ended; cancel it first, or wait",
                    reason=ErrorReason.BATCH_NOT_FINISHED,
                    metadata={"batch_id": batch_id},
                )
            if batch_id in self._live:
                raise batch_in_use(batch_id)
            await self._store.delete(batch_id)
        logger.info("batch %r erased", batch_id)

    async def _may_be_erased(self, batch_id: str) -> bool:
        try:
            record = await self._store.get(batch_id)
        except DamagedError as error:
            if "batch_id" not in error.metadata:
                raise  # not its record alone
            return True
        if record is None:
            raise _not_found(batch_id)
        return record.state.ended

    def _is_attached(self, batch_id: str) -> bool:
        batch = self._live.get(batch_id)
        return batch is not None and batch.attached

    def _info(self, record: BatchRecord, now: float) -> pb.BatchInfo:
        live = self._live.get(record.batch_id)
        running = live is not None or (self._store.shared and bool(record.owner) and record.lease_until > now)
        return mapping.batch_info_message(
            record, running=running and not record.state.ended, last_sequence=live.sequence if live else None
        )

    # -- the end -----------------------------------------------------------------------------------------------------

    async def drain(self, timeout: float) -> None:
        """Begin nothing; wait until what is in flight has ended, or `timeout` seconds, then cut it short."""
        self._draining = True
        for round_ in self._rounds:
            round_.cancel()
        for batch in self._all():
            batch.drain()
        left = await self._closed(timeout)
        if left:
            message = f"the sidecar stopped {timeout:g} s after it was told to; send the item again"
            logger.warning("%d batch(es) left: %s", len(left), message)
            await asyncio.gather(*(batch.cut_short(message) for batch in left))
            await self._closed(_LAST_WRITES_SECONDS)
        # Only now: what ends meanwhile may take longer than a lease.
        for round_ in self._owners_rounds:
            round_.cancel()

    async def _closed(self, timeout: float) -> list[LiveBatch]:
        """Those that are not closed within so many seconds."""
        waits = {asyncio.ensure_future(batch.closed.wait()): batch for batch in self._all()}
        if not waits:
            return []
        _, pending = await asyncio.wait(waits, timeout=timeout)
        for wait in pending:
            wait.cancel()
        return [waits[wait] for wait in pending]

    def _all(self) -> Sequence[LiveBatch]:
        return [*self._live.values()]

    # -- from time to time -------------------------------------------------------------------------------------------

    async def _pick_up(self) -> None:
        """Go on with batches that nobody runs, on strategies as they are now."""
        seconds = self._journal.lease_seconds / 3 if self._store.shared else _PICK_UP_SECONDS
        settled = self._journal.settled
        loop = asyncio.get_running_loop()
        while True:
            try:
                asked_at = loop.time()
                await self._engine.registrations.refresh()
                found = await self._store.resumable()
                if loop.time() - asked_at > seconds:
                    settled.clear()  # it stood still, for owners as well
                await self._look_again()
                if not settled.is_set() and self._store.shared:
                    # Those that live could not renew their leases either; now they do.
                    await self._sleep(self._journal.lease_seconds + LONGEST_PAUSE_SECONDS)
                    found = await self._store.resumable()
                settled.set()
                for batch_id in random.sample(found, len(found)):  # not all sidecars the same at a time
                    await self._resume(batch_id)
            except (StoreError, DamagedError) as error:
                level = logging.WARNING if settled.is_set() else logging.DEBUG  # once each time
                logger.log(level, "the journal cannot be asked for batches to go on with: %s", error)
                settled.clear()
            await self._sleep(seconds)

    async def _resume(self, batch_id: str) -> None:
        async with self._door(batch_id):
            if batch_id in self._live or batch_id in self._unable:
                return
            try:
                await self._take_up(batch_id)
            except BatchLLMError as error:
                if error.reason is ErrorReason.BATCH_IN_USE:
                    return  # another sidecar was quicker
                # Said once: nothing changes from round to round.
                if batch_id not in self._waits:
                    logger.warning("batch %r cannot go on: %s", batch_id, error)
                self._waits.add(batch_id)

    async def _look_again(self) -> None:
        """Forget that batches could not go on here where they now can, be it to be cancelled."""
        if self._unable:
            asked = await self._store.asked([*self._unable])
            self._unable = {
                batch_id: missing
                for batch_id, missing in self._unable.items()
                if self._engine.catalogue.find(missing) is None and asked.get(batch_id) is not Ask.CANCEL
            }

    async def _erase_old(self) -> None:
        seconds = self._retention_seconds
        if not self._store.durable:
            seconds = min(seconds, _MEMORY_RETENTION_SECONDS)
        while True:
            try:
                if erased := await self._store.expire(seconds):
                    logger.info("%d batch(es) that ended over %g s ago erased", erased, seconds)
                if not self._store.durable:
                    await self._forget(time.time() - seconds)
            except (StoreError, DamagedError) as error:
                logger.warning("old batches cannot be erased now: %s", error)
            await self._sleep(min(_RETENTION_ROUND_SECONDS, max(seconds / 2, 1.0)))

    async def _forget(self, before: float) -> None:
        """Erase batches in memory that nobody came back for: no disk has them, and memory is dear."""
        for record in await self._store.list(_LARGEST_PAGE, states=[BatchState.OPEN, BatchState.SEALED]):
            if record.batch_id not in self._live and record.update_time < before:
                await self._store.delete(record.batch_id)

    async def _renew_leases(self) -> None:
        while True:
            await self._sleep(self._journal.lease_seconds / 3)
            for batch in self._all():
                batch.renew()

    async def _do_as_asked(self) -> None:
        """What other sidecars ask for."""
        while True:
            await self._sleep(OWNER_LOOKS_SECONDS)
            try:
                asked = await self._store.asked([*self._live]) if self._live else {}
                for batch_id, ask in asked.items():
                    if (batch := self._live.get(batch_id)) is None:
                        continue
                    if ask is Ask.CANCEL:
                        batch.cancel()
                    elif not batch.give_up():
                        await self._store.refuse(batch_id)
            except StoreError as error:
                logger.debug("the journal cannot be asked what is wanted: %s", error)


def _not_found(batch_id: str) -> BatchLLMError:
    return BatchLLMError(
        f"no batch {batch_id!r}; it was never opened here, or its retention is over",
        reason=ErrorReason.BATCH_NOT_FOUND,
        metadata={"batch_id": batch_id},
    )


def _token(batch_id: str) -> str:
    return base64.urlsafe_b64encode(batch_id.encode()).decode()


def _after(page_token: str) -> str:
    try:
        return base64.b64decode(page_token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise invalid("page_token", "is none that ListBatches gave; leave it out for the first page") from None


def _retrieve(written: asyncio.Future[None]) -> None:
    if not written.cancelled():
        written.exception()
