"""Strategies that clients register: kept in the journal, and known to all sidecars that share it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

from google.protobuf.message import DecodeError

from batch_llm.journal.store import Registration, StoreError, StrategyExistsError
from batch_llm.model import BatchLLMError, ErrorReason
from batch_llm.sync import shielded
from batchllm.v1 import strategy_service_pb2 as pb

from . import mapping
from .batch_log import Journal
from .catalogue import Catalogue, Entry, check_spec, is_name, release
from .settings import StrategySpec

logger = logging.getLogger("batch_llm")


class Registrations:
    """Registers and unregisters strategies, and has the catalogue follow the journal.

    What is kept is the message as the client gave it, so that what it left open is as the program that reads it has it.
    Where sidecars share the journal, the catalogue holds what this one has seen of it; a batch or call that is in
    possession of a strategy goes on with it, whatever becomes of its name.

    Args:
        catalogue: the strategies that can be used here.
        journal: keeps what clients register.
        allowed: whether clients may; else what the journal has is left alone.
    """

    def __init__(self, catalogue: Catalogue, journal: Journal, *, allowed: bool = True) -> None:
        self._catalogue = catalogue
        self._store = journal.store
        self._writer = journal.writer
        self._allowed = allowed
        self._follows = allowed and journal.store.shared
        self._changing = asyncio.Lock()
        self._changes = 0
        self._said: set[str] = set()

    async def restore(self) -> None:
        """Have the catalogue hold what the journal has; once, after the operator's file and before batches go on.

        What cannot be used here is said in the log and stays in the journal.

        Raises:
            StoreError: the journal cannot be read.
        """
        if self._allowed:
            await self._read()
        elif kept := await self._store.strategies(damaged=self._say):
            logger.warning(
                "server.allow_registration is false: strategies that clients registered stay in the journal and are "
                "not used: %s",
                ", ".join(registration.name for registration in kept),
            )

    # -- changing ----------------------------------------------------------------------------------------------------

    async def register(self, spec: pb.StrategySpec) -> tuple[Entry, bool]:
        """Add a strategy, for good when this returns; False if it was there with this very spec.

        If this is cancelled, it goes on in the background.

        Raises:
            BatchLLMError: REGISTRATION_DISABLED, INVALID_FIELD, PROVIDER_NOT_FOUND or STRATEGY_EXISTS, or the journal
                cannot be written.
        """
        if not self._allowed:
            raise BatchLLMError(
                "this sidecar takes no strategies by RPC; declare it in the operator's file or set "
                "server.allow_registration = true",
                reason=ErrorReason.REGISTRATION_DISABLED,
            )
        checked = check_spec(spec.name, mapping.spec_fields(spec))
        registration = Registration(spec.name, spec.SerializeToString())
        return await shielded(self._register(registration, checked))

    async def _register(self, registration: Registration, spec: StrategySpec) -> tuple[Entry, bool]:
        name = registration.name
        async with self._changing:
            await self.catch_up(name)
            known = self._catalogue.find(name)
            if known is None:
                entry = self._catalogue.make(name, spec, registration)
                try:
                    await self._writer.offer(registration)
                except StrategyExistsError:
                    # Another sidecar was quicker, or it cannot be used here.
                    await self._read([name])
                else:
                    self._changes += 1
                    # A look into the journal may have found it before.
                    return self._catalogue.find(name) or self._catalogue.add(entry), True
                known = self._catalogue.find(name)
            if known is None:
                raise BatchLLMError(
                    f"strategy {name!r} is registered with a spec that cannot be used here"
                    f"{self._catalogue.why_unusable(name)}; unregister it first or choose another name",
                    reason=ErrorReason.STRATEGY_EXISTS,
                    metadata={"strategy": name},
                )
            known.refuse_other(spec)
            return known, False

    async def unregister(self, name: str) -> None:
        """Remove a strategy that a client registered, for good when this returns.

        If this is cancelled, it goes on in the background.

        Raises:
            BatchLLMError: STRATEGY_NOT_FOUND, STRATEGY_FROM_FILE or STRATEGY_IN_USE, or the journal cannot be written.
        """
        await shielded(self._unregister(name))

    async def _unregister(self, name: str) -> None:
        async with self._changing:
            await self.catch_up(name)
            known = self._catalogue.find(name)
            if known is not None:
                known.refuse_removal()
            # What cannot be used or read here can be erased all the same.
            erased = self._allowed and await self._store.unregister(name)
            if known is None and not erased:
                self._catalogue.get(name)  # says that there is none
            self._changes += 1
            self._catalogue.unusable.pop(name, None)
            if (gone := self._catalogue.remove(name)) is not None:
                await release(gone)

    # -- following ---------------------------------------------------------------------------------------------------

    async def find(self, name: str) -> Entry:
        """A strategy as the fleet knows it now.

        Raises:
            BatchLLMError: STRATEGY_NOT_FOUND, or the journal cannot be asked for one that is not known here.
        """
        await self.catch_up(name)
        return self._catalogue.get(name)

    async def list(self) -> list[Entry]:
        """All strategies by name.

        Raises:
            StoreError: the journal cannot be asked.
        """
        await self.refresh()
        return self._catalogue.list()

    async def catch_up(self, name: str) -> None:
        """See what has become of a name, before a new use of it. One that is known here stays if the journal is away.

        Raises:
            StoreError: the journal cannot be asked for one that is not known here.
        """
        if not self._follows or not is_name(name):
            return
        known = self._catalogue.find(name)
        if known is not None and known.from_file:
            return
        try:
            await self._read([name])
        except StoreError:
            if known is None:
                raise

    async def look_up(self, names: Iterable[str]) -> None:
        """Have those of the names that are not known here looked up.

        Raises:
            StoreError: the journal cannot be asked.
        """
        if not self._follows:
            return
        unknown = {name for name in names if self._catalogue.find(name) is None and is_name(name)}
        if unknown:
            await self._read(sorted(unknown))

    async def refresh(self) -> None:
        """See what has become of all names.

        Raises:
            StoreError: the journal cannot be asked.
        """
        if self._follows:
            await self._read()

    async def _read(self, names: Sequence[str] | None = None) -> None:
        """Have the catalogue follow what the journal has under these names (None: all)."""
        while True:
            changes, damage = self._changes, list[str]()
            kept = {found.name: found for found in await self._store.strategies(names, damage.append)}
            if changes == self._changes:  # else it may be older than what was done here
                break
        for problem in damage:
            self._say(f"{problem}; `batch-llm-sidecar journal check` says more")
        if names is None:
            names = sorted({*kept, *self._catalogue.unusable, *(entry.name for entry in self._catalogue.list())})
        # Where there is damage, what was not found may be there.
        gone = [self._follow(name, kept.get(name)) for name in names if name in kept or not damage]
        for entry in filter(None, gone):
            await release(entry)

    def _follow(self, name: str, kept: Registration | None) -> Entry | None:
        """Have the catalogue hold what is kept under a name; what it held, to be released."""
        known = self._catalogue.find(name)
        if known is not None and known.registration == kept:
            return None
        if known is not None and known.from_file:
            self._say(
                f"strategy {name!r} is the one of the operator's file; the one that a client registered under this "
                "name stays in the journal and is not used: rename one of them, or take the file's out and unregister "
                "the other"
            )
            return None
        self._catalogue.unusable.pop(name, None)
        gone = self._catalogue.remove(name)
        if kept is not None:
            self._add(kept)
        elif gone is not None:
            logger.info("strategy %r was unregistered by another sidecar", name)
        return gone

    def _add(self, kept: Registration) -> None:
        try:
            spec = check_spec(kept.name, mapping.spec_fields(pb.StrategySpec.FromString(kept.spec)))
            self._catalogue.add(self._catalogue.make(kept.name, spec, kept))
            logger.info("strategy %r is as the journal has it", kept.name)
        except (BatchLLMError, DecodeError) as error:
            self._catalogue.unusable[kept.name] = str(error)
            self._say(
                f"strategy {kept.name!r}, which a client registered, cannot be used: {error}; it stays in the journal "
                "until it is unregistered: see to that, or to what it lacks and start again"
            )

    def _say(self, problem: str) -> None:
        if problem not in self._said:
            self._said.add(problem)
            logger.warning("%s", problem)
