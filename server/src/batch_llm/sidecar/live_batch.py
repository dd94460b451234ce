"""A batch that this sidecar runs, with or without a client."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from batch_llm._version import __version__
from batch_llm.executor import Executor, Work
from batch_llm.journal.store import BatchRecord, BatchState, DamagedError, RefusedError, StoreError
from batch_llm.model import AnyResult, BatchLLMError, ErrorReason
from batch_llm.processor import BatchSession
from batch_llm.shared import SharedStrategy
from batchllm.v1 import batch_service_pb2 as pb
from batchllm.v1 import work_pb2

from . import mapping
from .batch_items import BatchItems
from .batch_log import BatchLog, Ended, Journal, JournaledOutbox
from .catalogue import Catalogue
from .opening import merged
from .recovery import Recovery, checkpoint, replay
from .registrations import Registrations
from .settings import ServerSettings
from .status import draining

logger = logging.getLogger("batch_llm")


@dataclass(frozen=True, slots=True)
class Engine:
    """What batches run on."""

    catalogue: Catalogue
    registrations: Registrations
    executor: Executor
    settings: ServerSettings
    journal: Journal


class LiveBatch:
    """Runs a batch: takes items in, journals what becomes of them, hands results to the stream that is attached.

    An item's way: `accept` (journal) -> queue -> session inbox -> executor -> admission (journal: begun) -> call ->
    outbox (journal: ended) -> `take`. It ends by itself: when every item of a sealed batch has its result, or when it
    is let go of, with nothing in flight, because its client is gone or the sidecar drains.

    Args:
        record: the batch, claimed; one that has ended is only read.
        recovery: how far it had come.
        engine: what it runs on.
        on_closed: called when it has ended and no stream is attached.
    """

    def __init__(
        self, record: BatchRecord, recovery: Recovery, engine: Engine, on_closed: Callable[[LiveBatch], None]
    ) -> None:
        lease_seconds = engine.journal.lease_seconds
        self.batch_id = record.batch_id
        self.opening = pb.OpenBatch.FromString(record.opening)
        self.detach = record.detach
        self.attached = False
        self.result: work_pb2.BatchResult | None = None
        """The totals, once it has ended."""
        self.failure: BaseException | None = None
        """Why it was let go of before its end."""
        self.cancelled = asyncio.Event()
        self.closed = asyncio.Event()
        self._over = record.state.ended
        if self._over:
            self.result = work_pb2.BatchResult.FromString(record.result)
        self._reading = False
        self._accepting = 0
        self._draining = False
        self._given_up = False
        self._ending: asyncio.Task[None] | None = None
        self._engine = engine
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        # By the store's clock alone, which says when the lease of this claim ends: ours may be off by hours.
        self._opened_at = self._loop.time() - max(0.0, record.lease_until - lease_seconds - record.create_time)
        self._replay_to = 0
        self._leased: dict[str, SharedStrategy] = {}
        self._one_at_a_time = asyncio.Lock()
        ordered = self.opening.result_order == pb.RESULT_ORDER_SUBMISSION
        self._outbox = JournaledOutbox(ordered=ordered, released=recovery.released)
        self._log = BatchLog(
            engine.journal,
            record.batch_id,
            record.fence,
            on_recorded=self._on_recorded,
            on_failure=self._on_refused,
            checkpoint=self._checkpoint,
        )
        self._items = BatchItems(
            *(record.batch_id, record.items, engine.journal.store, self._log, self._find),
            look_up=engine.registrations.look_up,
            sealed=record.state is not BatchState.OPEN,
        )
        self._outbox.on_end = self._log.end
        self._outbox.maybe_billed = recovery.maybe_billed
        for message in recovery.beyond:
            self._outbox.reserve(0)
            self._outbox.swap(0, message.ByteSize())
            self._outbox.release(message.sequence, message, message.ByteSize())
        self._limit = self._limit_of(self.opening)
        self._session = BatchSession(self._run, max_concurrency=self._limit, outbox=self._outbox)
        self._session.totals = recovery.totals
        self._session.account.receipt.add(recovery.account)
        feed = self._items.feed(self._session, record.items, recovery.done, self.cancelled)
        self._feeder = self._loop.create_task(feed)
        self._feeder.add_done_callback(self._on_fed)

    # -- streams -----------------------------------------------------------------------------------------------------

    def attach(self, opening: pb.OpenBatch) -> None:
        """Have a stream feed it and take its results.

        Raises:
            BatchLLMError: what the stream asks for does not fit the batch, or its strategy is unknown.
        """
        if self.attached:
            raise batch_in_use(self.batch_id)
        in_force = merged(opening, self.opening, self.batch_id, self._outbox.sequence)
        if in_force.strategy:
            self._find(in_force.strategy)
        self.attached = self._reading = True
        self._given_up = False
        self._replay_to = self._outbox.sequence
        self._outbox.dropping = False
        for message in self._outbox.held_back:
            message.replayed = True
        if self._over:
            self.opening.strategy = in_force.strategy
            return
        if in_force != self.opening or self.detach != in_force.detach:
            self.opening, self.detach = in_force, in_force.detach
            self._log.note(opening=in_force.SerializeToString(deterministic=True), detach=in_force.detach)
        if (limit := self._limit_of(in_force)) != self._limit:
            self._limit = limit
            self._session.limit(limit)
        if not self._draining and self.failure is None:
            self._session.resume()

    def leave(self) -> None:
        """Say that the stream is gone."""
        self.attached = self._reading = False
        self._outbox.drop()
        if not self.detach and not self._over:
            self._session.pause()
        self._check()
        if self.closed.is_set():
            self._on_closed(self)

    def give_up(self) -> bool:
        """Let go of it when what is in flight has ended, for a client at another sidecar; False: it has one here."""
        if self.attached:
            return False
        if not self._given_up:
            logger.info("batch %r is let go of, for a client at another sidecar", self.batch_id)
        self._given_up = True
        self._session.pause()
        self._check()
        return True

    @property
    def items(self) -> int:
        """Accepted so far."""
        return self._items.count

    @property
    def ending(self) -> bool:
        """Whether it is about to be closed; then wait for `closed` and take it up anew."""
        return self._ending is not None

    @property
    def sequence(self) -> int:
        """Of the last result that may be sent."""
        return self._outbox.sequence

    def opened(self) -> pb.BatchOpened:
        """What is in force for the stream that is attached."""
        return pb.BatchOpened(
            batch_id=self.batch_id,
            strategy=self.opening.strategy,
            max_concurrency=self._limit,
            result_order=self.opening.result_order or pb.RESULT_ORDER_COMPLETION,
            max_message_bytes=self._engine.settings.max_message_bytes,
            server_version=__version__,
            items=self.items,
            last_sequence=self._replay_to,
            durable=self._engine.journal.store.durable,
        )

    def progress(self) -> pb.BatchProgress | None:
        """How far it is; None while there is nothing to do."""
        session = self._session
        if self._over or session.totals.total_items == self.items:
            return None
        now = self._loop.time()
        cooldown = max((shared.scope.cooldown_remaining(now) for shared in self._leased.values()), default=0.0)
        return mapping.progress_message(session, self.items, now - self._opened_at, cooldown)

    # -- items in ----------------------------------------------------------------------------------------------------

    async def accept(self, frames: Sequence[pb.WorkItems]) -> bool:
        """Take in the items of some frames that were not sent before; they are in the journal when this returns.

        It waits for room first, except where the client hands its batch over: the journal keeps that. False: the batch
        is cancelled, or about to be let go of, and takes nothing. If this is cancelled after that, it goes on in the
        background.

        Raises:
            BatchLLMError: the batch is sealed and takes no more, or the journal cannot be written.
        """
        # Not counted as accepting: a batch that runs nothing is let go of instead of waiting for room that never comes.
        handed_over = self.detach and self._engine.journal.store.durable
        if not handed_over and not await self._items.room():
            self.stop_reading()
            return False
        self._accepting += 1
        task = self._loop.create_task(self._accept(frames))
        task.add_done_callback(self._on_accepted)
        return await asyncio.shield(task)

    async def _accept(self, frames: Sequence[pb.WorkItems]) -> bool:
        async with self._one_at_a_time:
            if self.cancelled.is_set():
                return False
            if self._ending is not None:
                raise self.failure or draining()
            await self._items.accept(frames, self.opening.strategy)
            return True

    def _on_accepted(self, task: asyncio.Task[bool]) -> None:
        self._accepting -= 1
        if not task.cancelled():
            error = task.exception()
            if isinstance(error, RefusedError | DamagedError):
                self._on_refused(error)
        self._check()

    def seal(self) -> None:
        """Say that the client has sent all items."""
        self._reading = False
        if not self._items.sealed:
            self._items.sealed = True
            self._log.note(state=BatchState.SEALED)
        self._check()

    def stop_reading(self) -> None:
        """Say that the stream reads no more, though there may be more."""
        self._reading = False
        self._check()

    # -- items through -----------------------------------------------------------------------------------------------

    async def _run(self, work: Work) -> AnyResult:
        # Not before a call is admitted: what only waits for its provider's quota is not billed by a crash. Before each
        # attempt: one that comes after another sidecar has taken the batch over would be paid twice.
        work.before_call = self._log.begin
        return await self._engine.executor.run(work)

    def _find(self, name: str) -> SharedStrategy:
        """The shared strategy of a name, leased to this batch until it is closed."""
        shared = self._leased.get(name)
        if shared is None:
            shared = self._engine.catalogue.get(name).shared
            shared.lease()
            self._leased[name] = shared
        return shared

    # -- results out -------------------------------------------------------------------------------------------------

    def replay(self, after: int) -> AsyncIterator[list[work_pb2.WorkItemResult]]:
        """Results from the journal, from `after` to where the stream was attached, in the order of their sequence."""
        return replay(self._engine.journal.store, self.batch_id, after, self._replay_to)

    async def take(self, max_items: int) -> list[work_pb2.WorkItemResult]:
        """Results as they are ready; empty: there are no more, and the batch is `closed` or about to be."""
        return await self._outbox.take(max_items)

    def _on_recorded(self, group: Sequence[Ended]) -> None:
        self._outbox.recorded(group)
        self._check()

    def _checkpoint(self) -> bytes:
        return checkpoint(self._session.totals, self._session.account.receipt)

    # -- the end -----------------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """End what has not ended with results that say CANCELLED; `closed` tells when that is done."""
        if self._over or self._ending is not None:
            return
        self.cancelled.set()
        self._items.sealed = True
        self._reading = False
        self._session.cut_short("the batch was cancelled by CancelBatch")
        self._check()

    def drain(self) -> None:
        """Begin no more items; what the journal does not keep runs to its end. Reading is the stream's to stop."""
        self._draining = True
        if self._engine.journal.store.durable:
            self._session.pause()
            self._items.stop()
        self._check()

    async def cut_short(self, message: str) -> None:
        """End what is in flight, now."""
        self._reading = False
        if self._engine.journal.store.durable:
            await self._session.abort()
            self._check()
        else:
            self._session.cut_short(message)

    def renew(self) -> None:
        """Keep the lease."""
        if not self._over and self._ending is None:
            self._log.note(lease_seconds=self._engine.journal.lease_seconds)

    def _on_refused(self, error: BaseException) -> None:
        """Stop at once: the batch is another sidecar's now, or the journal is damaged."""
        logger.error("batch %r stops: %s", self.batch_id, error)
        self.failure = self.failure or error
        if self._ending is None:
            self._end(self._close())

    def _on_fed(self, feeder: asyncio.Task[None]) -> None:
        if feeder.cancelled() or self._ending is not None:
            return
        self.failure = feeder.exception()
        logger.warning("batch %r cannot go on: %s", self.batch_id, self.failure)
        self._session.pause()
        self._check()

    def _check(self) -> None:
        """See whether it has come to its end, or to where it may be let go of."""
        if self._ending is not None or self._accepting or (self._reading and self.failure is None):
            return
        complete = self._outbox.sequence == self.items
        if complete and (self._items.sealed or self.cancelled.is_set()):
            self._end(self._finish())
        elif self._unwanted(complete) and not self._session.in_flight and not self._log.unwritten:
            self._end(self._let_go())

    def _unwanted(self, complete: bool) -> bool:
        if self._draining and not self._engine.journal.store.durable:
            return complete
        wanted = self.attached or (self.detach and not self._given_up) or self.cancelled.is_set()
        return self._draining or self.failure is not None or not wanted

    def _end(self, end: Coroutine[Any, Any, None]) -> None:
        self._ending = self._loop.create_task(end)

    async def _finish(self) -> None:
        if not self._over:
            receipt = await self._session.settle()
            elapsed = self._loop.time() - self._opened_at
            result = mapping.batch_result_message(self.batch_id, self._session.totals, receipt, elapsed)
            state = BatchState.CANCELLED if self.cancelled.is_set() else BatchState.FINISHED
            if await self._write_last(state=state, result=result.SerializeToString()):
                self.result = result
        await self._close()

    async def _let_go(self) -> None:
        if self.failure is None and self._draining:
            self.failure = draining()
        await self._session.settle()
        if not self._over:
            await self._write_last(result=self._checkpoint())
        await self._close()

    async def _write_last(self, **fields: Any) -> bool:
        try:
            await self._log.change(owner="", **fields)
        except (RefusedError, StoreError, DamagedError) as error:
            logger.warning("batch %r: %s", self.batch_id, error)
            self.failure = self.failure or error
            return False
        return True

    async def _close(self) -> None:
        self._feeder.cancel()
        await self._session.abort()
        self._items.stop()
        self._items.close()
        for shared in self._leased.values():
            try:
                await shared.release()
            except Exception:
                logger.debug("told already", exc_info=True)
        self.closed.set()
        if not self.attached:
            self._on_closed(self)

    def _limit_of(self, opening: pb.OpenBatch) -> int:
        limit = self._engine.settings.max_concurrency
        return min(opening.max_concurrency or limit, limit)


def batch_in_use(batch_id: str) -> BatchLLMError:
    """The error of a batch that another stream, or another sidecar, has."""
    return BatchLLMError(
        f"batch {batch_id!r} is open on another stream; wait for it to end or choose another batch_id",
        reason=ErrorReason.BATCH_IN_USE,
        metadata={"batch_id": batch_id},
    )
