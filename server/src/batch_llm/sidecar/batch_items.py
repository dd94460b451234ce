"""A batch's items on their way in: recognised, into the journal, and on to be run."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing

from batch_llm.executor import Work
from batch_llm.journal.store import JournalStore, StoreError
from batch_llm.model import BatchLLMError
from batch_llm.processor import BatchSession
from batch_llm.shared import SharedStrategy
from batchllm.v1 import batch_service_pb2 as pb
from batchllm.v1 import work_pb2

from .batch_log import BatchLog
from .intake import Intake
from .item_index import ItemIndex
from .status import invalid

_GROUPS_AHEAD = 2


class BatchItems:
    """Takes the items of one batch in.

    Args:
        batch_id: the batch.
        count: how many it has accepted already.
        store: where those are.
        log: where new ones go.
        find: the shared strategy of a name; raises `BatchLLMError`.
        look_up: has strategies of other sidecars known to `find`.
        sealed: whether it takes no more.
    """

    def __init__(
        self,
        batch_id: str,
        count: int,
        store: JournalStore,
        log: BatchLog,
        find: Callable[[str], SharedStrategy],
        *,
        look_up: Callable[[Iterable[str]], Awaitable[None]],
        sealed: bool,
    ) -> None:
        self.count = count
        """Accepted so far."""
        self.sealed = sealed
        self._batch_id = batch_id
        self._store = store
        self._log = log
        self._find = find
        self._look_up = look_up
        self._index: ItemIndex | None = None
        self._intake = Intake("", find)
        self._accepted: asyncio.Queue[list[Work]] = asyncio.Queue()
        # Groups that follow those, in the journal alone: the index of the first item, and when they were accepted.
        self._left: deque[tuple[int, float]] = deque()
        self._loop = asyncio.get_running_loop()
        self._moved = asyncio.Event()
        self._stopped = False

    async def room(self) -> bool:
        """Wait until few enough of those accepted wait to be run; False: there will be no room any more."""
        while full := self._accepted.qsize() >= _GROUPS_AHEAD:
            if self._stopped:
                break
            self._moved.clear()
            await self._moved.wait()
        return not full

    def stop(self) -> None:
        """Have nobody wait for room any more: nothing is run."""
        self._stopped = True
        self._moved.set()

    async def accept(self, frames: Sequence[pb.WorkItems], default_strategy: str) -> None:
        """Take in the items that were not sent before; they are in the journal when this returns. One call at a time.

        Without `room` they are left to the journal, and read from it when it is their turn.

        Raises:
            BatchLLMError: the batch is sealed and there are new ones, or the journal cannot be written, or the file
                that recognises items.
        """
        await self._look_up(item.strategy or default_strategy for frame in frames for item in frame.items)
        works: list[Work] = []
        try:
            self._intake.index = await self._item_index()
            self._intake.default_strategy = default_strategy
            payload = [self._take_in(frame, works) for frame in frames]
            if not works:
                return
            self._check_open()
            await self._log.accept(self.count, len(works), b"".join(payload))
        except BaseException as error:
            # It knows items now that are not accepted; it is built anew from the journal.
            self.close()
            if isinstance(error, sqlite3.Error):
                raise _no_index(error) from error
            raise
        if self._left or self._accepted.qsize() >= _GROUPS_AHEAD:
            self._left.append((self.count, self._loop.time()))
        else:
            self._accepted.put_nowait(works)
        self.count += len(works)

    async def feed(self, session: BatchSession, held: int, done: bytearray, cancelled: asyncio.Event) -> None:
        """Submit what has no result of the first `held` items, from the journal, then what is accepted, for ever.

        Args:
            session: where to.
            held: how many items the journal had.
            done: for each of these 1 where it has a result; empty where all have.
            cancelled: says that items need no strategy any more.

        Raises:
            BatchLLMError: STRATEGY_NOT_FOUND: one of them cannot be run.
        """
        if 0 in done:
            async with aclosing(self._stored(done.index(0), cancelled, done)) as stored:
                async for end, works in stored:
                    await session.submit(works, numbered=True)
                    if end >= held:
                        break
        del done
        while True:
            if self._left and self._accepted.empty():
                await self._feed_left(session, cancelled)
            else:
                works = await self._accepted.get()
                self._moved.set()
                await session.submit(works, numbered=True)

    async def _feed_left(self, session: BatchSession, cancelled: asyncio.Event) -> None:
        async with aclosing(self._stored(self._left[0][0], cancelled)) as stored:
            async for _, works in stored:
                waited = self._loop.time() - self._left[0][1]
                for work in works:
                    if work.deadline is not None:
                        work.deadline -= waited
                await session.submit(works, numbered=True)
                self._left.popleft()
                if not self._left:
                    break

    async def _stored(
        self, start: int, cancelled: asyncio.Event, done: Sequence[int] = b""
    ) -> AsyncGenerator[tuple[int, list[Work]], None]:
        """Groups in the journal from the one that `start` is in: the index after each, and what of it is not done."""
        stored = self._store.items(self._batch_id, start)
        async with aclosing(stored):  # type: ignore[type-var]
            async for items in stored:
                batch = pb.WorkItems.FromString(items.payload).items
                await self._look_up(item.strategy for item in batch)
                works = [
                    self._retake(item, index, cancelled)
                    for index, item in enumerate(batch, items.first_index)
                    if index >= len(done) or not done[index]
                ]
                yield items.first_index + items.count, works

    def close(self) -> None:
        """Let go of what recognises items; it is built anew when it is needed."""
        if self._index is not None:
            self._index.close()
            self._index = None

    def _take_in(self, frame: pb.WorkItems, works: list[Work]) -> bytes:
        """Add a frame's new items to works; them as bytes."""
        fresh = []
        for item in frame.items:
            work = self._intake.take(item)
            if work is not None:
                self._intake.mark(item, work)
                work.index = self.count + len(works)
                works.append(work)
                fresh.append(item)
        # Messages of repeated items that follow each other as bytes are one message.
        return (frame if len(fresh) == len(frame.items) else pb.WorkItems(items=fresh)).SerializeToString()

    def _retake(self, item: work_pb2.WorkItem, index: int, cancelled: asyncio.Event) -> Work:
        try:
            return self._intake.retake(item, index)
        except BatchLLMError:
            if not cancelled.is_set():
                raise
            return Work(item.item_id, item.prompt, None, item.context, item.strategy, index)

    def _check_open(self) -> None:
        if self.sealed:
            raise invalid("items", f"are new, and batch {self._batch_id!r} takes no more; open another batch_id")

    async def _item_index(self) -> ItemIndex:
        """The items that were accepted."""
        if self._index is None:
            index = ItemIndex()
            recalling = Intake("", self._find, index)
            try:
                if self.count:
                    async for items in self._store.items(self._batch_id):
                        for item in pb.WorkItems.FromString(items.payload).items:
                            recalling.recall(item)
            except BaseException:
                index.close()
                raise
            self._index = index
        return self._index


def _no_index(error: sqlite3.Error) -> StoreError:
    return StoreError(
        f"items that are sent again cannot be recognised: {error}: the directory for temporary files must be writable "
        "and have room for some 100 bytes an item; make room, or name another in SQLITE_TMPDIR",
        full=getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL,
    )
