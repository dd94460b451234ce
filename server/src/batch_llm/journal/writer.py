"""Group commit: many writers, one transaction at a time."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from .store import (
    Begin,
    Change,
    DamagedError,
    Items,
    JournalStore,
    OutcomeUnknownError,
    RefusedError,
    Registration,
    Results,
    Single,
    Starts,
    StoreError,
    Write,
)

logger = logging.getLogger("batch_llm.journal")

_MOST_WRITES = 4096
_MOST_BYTES = 16 * 2**20
_FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
"""The most that passes between two tries."""


@dataclass(slots=True, eq=False)
class _Entry:
    write: Write
    done: asyncio.Future[None]
    keep: bool


class JournalWriter:
    """Writes to a store in the order of the calls; all that waits goes into the next transaction.

    What is recorded is kept in memory while the store cannot be written, and written when it can be again. New work is
    refused meanwhile, so what is kept is bounded by what was under way.

    What cannot be written because the store is damaged fails, and with it what follows in its batch; other batches' is
    written. New work is refused from then on, for what comes of it might meet the same damage once it is paid for.

    Args:
        store: an open store.
        sleep: waits so many seconds between tries.
    """

    def __init__(self, store: JournalStore, *, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        self._store = store
        self._sleep = sleep
        self._waiting: deque[_Entry] = deque()
        self._taken: list[_Entry] = []
        self._alone = 0
        self._task: asyncio.Task[None] | None = None
        self._failure: StoreError | None = None
        self._damage: DamagedError | None = None
        self._stopped: dict[tuple[str, int] | None, DamagedError] = {}
        self._failing = False
        self._said = False
        self._unproven = 0
        self._pause = _FIRST_PAUSE_SECONDS

    @property
    def failure(self) -> StoreError | DamagedError | None:
        """Why new work is refused now; None: it is taken."""
        return self._damage or self._failure

    @property
    def waiting(self) -> int:
        """Writes that are not durable yet."""
        return len(self._waiting) + len(self._taken)

    def record(self, write: Write) -> asyncio.Future[None]:
        """Write what must not be lost: it is kept until it is durable.

        The future ends when it is; with RefusedError (FencedError and its like) or DamagedError if it cannot be.
        """
        return self._put(write, keep=True)

    async def offer(self, write: Write) -> None:
        """Write new work, if the store can be written; durable when this returns.

        Cancelled, it may be written or not.

        Raises:
            StoreError: it was not written; try again later.
            DamagedError: it was not written, and nothing more will be until the sidecar is started anew.
            RefusedError: it cannot be: BatchExistsError, FencedError, SingleExistsError, StrategyExistsError.
        """
        if self.failure is not None:
            raise self.failure.with_traceback(None)
        await self._put(write, keep=False)

    async def close(self) -> None:
        """Wait until all is durable. Cancelled, it gives up: what is left fails with StoreError."""
        try:
            while self._task is not None:
                await asyncio.wait({self._task})
        except asyncio.CancelledError:
            self._give_up()
            raise

    def _put(self, write: Write, *, keep: bool) -> asyncio.Future[None]:
        done = asyncio.get_running_loop().create_future()
        if (damage := self._stopped.get(_batch_of(write))) is not None:
            done.set_exception(damage)
            return done
        self._waiting.append(_Entry(write, done, keep))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return done

    async def _run(self) -> None:
        try:
            while self._taken or self._take():
                await self._write()
                if self._failing:
                    await self._rest()
        finally:
            self._task = None

    async def _write(self) -> None:
        try:
            await self._store.write([entry.write for entry in self._taken])
        except RefusedError as error:
            self._answers()
            self._refuse(error)
        except OutcomeUnknownError as error:
            # These stay as they are: only the very same transaction can be asked about.
            self._fails(error)
            self._waiting = deque(self._drop_offers(self._waiting, error))
        except StoreError as error:
            self._fails(error)
            self._taken = self._drop_offers(self._taken, error)
            self._waiting = deque(self._drop_offers(self._waiting, error))
        except Exception as error:
            # One bad write must not take the others' results with it.
            self._answers()
            self._single_out(error)
        else:
            self._answers()
            self._proves(sum(_size(entry.write) for entry in self._taken))
            for entry in self._taken:
                if not entry.done.done():
                    entry.done.set_result(None)
            self._taken = []

    async def _rest(self) -> None:
        pause, self._pause = self._pause, min(self._pause * 2, LONGEST_PAUSE_SECONDS)
        await self._sleep(pause)
        if not self._taken and not self._waiting:
            # Nothing is kept that could find out, so the next offer does.
            self._failure = None

    def _take(self) -> bool:
        most, size = 1 if self._alone else _MOST_WRITES, 0
        self._alone = max(self._alone - 1, 0)
        while self._waiting and len(self._taken) < most and size < _MOST_BYTES:
            entry = self._waiting.popleft()
            size += _size(entry.write)
            self._taken.append(entry)
        return bool(self._taken)

    def _refuse(self, error: RefusedError) -> None:
        taken, self._taken = self._taken, []
        for entry in taken:
            if _falls_with(entry.write, error.write):
                _fail(entry, error)
            else:
                self._taken.append(entry)

    def _single_out(self, error: Exception) -> None:
        if len(self._taken) == 1:
            (entry,) = self._taken
            if isinstance(error, DamagedError):
                error = self._stop(entry.write, error)
            else:
                logger.error("the journal cannot take a write: %s", error)
            _fail(entry, error)
        else:
            self._alone = len(self._taken)
            self._waiting.extendleft(reversed(self._taken))
        self._taken = []

    def _stop(self, write: Write, damage: DamagedError) -> DamagedError:
        """Have nothing follow in a batch of which a write is lost: its results would have a gap."""
        if self._damage is None:
            self._damage = DamagedError(f"new work is refused until the sidecar is started anew: {damage}")
            logger.error("%s", self._damage)
        if (batch := _batch_of(write)) is None:
            return damage
        if "batch_id" not in damage.metadata:
            damage = DamagedError(f"batch {batch[0]!r}: {damage}", batch_id=batch[0])
        self._stopped[batch] = damage
        waiting, self._waiting = self._waiting, deque()
        for entry in waiting:
            if _batch_of(entry.write) == batch:
                _fail(entry, damage)
            else:
                self._waiting.append(entry)
        return damage

    def _drop_offers(self, entries: Iterable[_Entry], error: StoreError) -> list[_Entry]:
        kept = []
        for entry in entries:
            if entry.keep:
                kept.append(entry)
            else:
                _fail(entry, error)
        return kept

    def _fails(self, error: StoreError) -> None:
        self._failure = error
        self._failing = True
        if error.full:
            # Little may fit where much does not; that as much was written shows that there is room again.
            self._unproven = max(self._unproven, sum(_size(entry.write) for entry in self._taken))
        if not self._said:
            self._said = True
            logger.error("the journal cannot be written; new work is refused, results are kept: %s", error)

    def _answers(self) -> None:
        self._failure = None
        self._failing = False
        self._pause = _FIRST_PAUSE_SECONDS

    def _proves(self, size: int) -> None:
        self._unproven = max(self._unproven - size, 0)
        if self._said and not self._unproven:
            self._said = False
            logger.warning("the journal can be written again")

    def _give_up(self) -> None:
        if self._task is not None:
            self._task.cancel()
        left = [*self._taken, *self._waiting]
        self._taken, self._waiting = [], deque()
        if left:
            logger.error("the journal could not be written: %d records are lost", len(left))
        error = self._failure or StoreError("the journal was closed before this was written")
        for entry in left:
            _fail(entry, error)


def _fail(entry: _Entry, error: Exception) -> None:
    if not entry.done.done():
        entry.done.set_exception(error)


def _falls_with(write: Write, refused: Write) -> bool:
    """Whether a write cannot be because another cannot: what follows in a batch that is another's now."""
    return write is refused or ((batch := _batch_of(write)) is not None and batch == _batch_of(refused))


def _batch_of(write: Write) -> tuple[str, int] | None:
    """Whose it is: a batch, by its id and fence; None: none's."""
    return None if isinstance(write, Single | Registration) else (write.batch_id, write.fence)


def _size(write: Write) -> int:
    match write:
        case Results() | Items():
            return len(write.payload)
        case Single():
            return len(write.result)
        case Registration():
            return len(write.spec)
        case Starts():
            return 4 * len(write.indexes)
        case Begin():
            return len(write.opening)
        case Change():
            return len(write.opening or b"") + len(write.result or b"")
