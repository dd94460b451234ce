"""Strategies that clients register, over one sidecar's journal; tests/integration/test_registrations.py has fleets."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from batch_llm.caching import SqliteCacheRegistry
from batch_llm.executor import Executor
from batch_llm.journal.memory import MemoryStore
from batch_llm.journal.sqlite import SqliteStore
from batch_llm.journal.store import Damaged, Registration, StoreError, Write
from batch_llm.journal.writer import JournalWriter
from batch_llm.model import BatchLLMError, ErrorReason
from batch_llm.sidecar.batch_log import Journal
from batch_llm.sidecar.batches import Batches
from batch_llm.sidecar.catalogue import Catalogue, Entry
from batch_llm.sidecar.live_batch import Engine, LiveBatch
from batch_llm.sidecar.providers import Providers
from batch_llm.sidecar.registrations import Registrations
from batch_llm.sidecar.settings import Provider, ServerSettings, SimulatedProvider
from batch_llm.sidecar.settings import StrategySpec as Spec
from batch_llm.sidecar.single_items import SingleItems
from batchllm.v1 import batch_service_pb2 as pb
from batchllm.v1.strategy_service_pb2 import RetryPolicy, StrategySpec
from batchllm.v1.work_pb2 import WorkItem, WorkItemResult

from .test_live_batch import until

SIM: dict[str, Provider] = {"sim": SimulatedProvider()}


class Store(SqliteStore):
    """Can be taken away and held up."""

    failure: StoreError | None = None
    may_write: asyncio.Event | None = None

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.asked_to_write = asyncio.Event()

    async def write(self, writes: Sequence[Write]) -> None:
        self.asked_to_write.set()
        if self.may_write is not None:
            await self.may_write.wait()
        if self.failure is not None:
            raise self.failure
        await super().write(writes)

    async def unregister(self, name: str) -> bool:
        if self.failure is not None:
            raise self.failure
        return await super().unregister(name)


class House:
    """A sidecar's strategies and its journal, which can be started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / "journal.db")

    async def start(self, *, providers: dict[str, Provider] = SIM, allowed: bool = True, file: Any = None) -> None:
        self.store = Store(self.folder / "journal.db")
        await self.store.open()
        self.writer = JournalWriter(self.store)
        self.catalogue = Catalogue(Providers(providers, SqliteCacheRegistry(), self.folder))
        self.catalogue.declare(file or {})
        journal = Journal(self.store, self.writer, "me", 30)
        self.registrations = Registrations(self.catalogue, journal, allowed=allowed)
        await self.registrations.restore()

    async def stop(self) -> None:
        await self.writer.close()
        await self.catalogue.close()
        await self.store.close()

    async def start_again(self, **settings: Any) -> None:
        await self.stop()
        await self.start(**settings)

    @property
    def names(self) -> list[str]:
        return [entry.name for entry in self.catalogue.list()]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    await house.start()
    yield house
    house.store.failure = None
    await house.stop()


def spec(name: str = "triage", **fields: Any) -> StrategySpec:
    given = {"provider": "sim", "system_instruction": "Label it.", "retry": RetryPolicy(max_attempts=2)}
    return StrategySpec(name=name, **{**given, **fields})


async def refused(call: Awaitable[object], reason: ErrorReason) -> BatchLLMError:
    with pytest.raises(BatchLLMError) as raised:
        await call
    assert raised.value.reason is reason
    return raised.value


async def test_a_registered_strategy_is_there_after_a_restart(house: House) -> None:
    entry, registered = await house.registrations.register(spec())
    assert (registered, entry.from_file, entry.shared.users) == (True, False, 1)
    assert house.catalogue.get("triage") is entry
    await house.start_again()
    again = house.catalogue.get("triage")
    assert again is not entry
    assert (again.spec, again.from_file, again.shared.users) == (entry.spec, False, 1)
    assert again.spec.retry.max_attempts == 2
    assert not again.shared.prepared
    assert await house.registrations.register(spec()) == (again, False)
    await refused(house.registrations.register(spec(system_instruction="x")), ErrorReason.STRATEGY_EXISTS)


async def test_what_a_client_left_open_is_as_the_new_program_has_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.registrations.register(spec())
    (kept,) = await house.store.strategies()
    assert StrategySpec.FromString(kept.spec) == spec()
    monkeypatch.setattr(Spec.model_fields["attempt_timeout_seconds"], "default", 77.0)
    Spec.model_rebuild(force=True)
    try:
        await house.start_again()
        assert house.catalogue.get("triage").spec.attempt_timeout_seconds == 77
    finally:
        monkeypatch.undo()
        Spec.model_rebuild(force=True)


async def test_the_same_spec_with_defaults_written_out_is_the_same(house: House) -> None:
    entry, _ = await house.registrations.register(spec())
    same = spec(retry=RetryPolicy(max_attempts=2, jitter=True))
    assert await house.registrations.register(same) == (entry, False)
    assert entry.shared.users == 1


async def test_another_spec_under_the_same_name_is_refused_with_what_differs(house: House) -> None:
    entry, _ = await house.registrations.register(spec())
    error = await refused(
        house.registrations.register(spec(system_instruction="x", max_concurrency=9)), ErrorReason.STRATEGY_EXISTS
    )
    assert error.metadata["differs"] == "system_instruction, max_concurrency"
    assert house.catalogue.get("triage") is entry


async def test_one_of_two_at_a_time_wins(house: House) -> None:
    one, other, same = await asyncio.gather(
        *(house.registrations.register(spec(system_instruction=text)) for text in ("a", "b", "a")),
        return_exceptions=True,
    )
    assert not isinstance(one, BaseException)
    assert one[1]
    assert isinstance(other, BatchLLMError)
    assert other.reason is ErrorReason.STRATEGY_EXISTS
    assert same == (one[0], False)


async def test_a_bad_spec_leaves_nothing(house: House) -> None:
    for bad in (spec("a b"), spec(max_concurrency=-1), spec(max_concurrency=1025)):
        await refused(house.registrations.register(bad), ErrorReason.INVALID_FIELD)
    await refused(house.registrations.register(spec(provider="gone")), ErrorReason.PROVIDER_NOT_FOUND)
    assert house.names == []
    assert await house.store.strategies() == []


async def test_a_journal_that_cannot_be_written_registers_nothing(house: House) -> None:
    kept, _ = await house.registrations.register(spec("kept"))
    house.store.failure = StoreError("no room", full=True)
    await refused(house.registrations.register(spec()), ErrorReason.JOURNAL_FULL)
    await refused(house.registrations.unregister("kept"), ErrorReason.JOURNAL_FULL)
    assert await house.registrations.register(spec("kept")) == (kept, False)
    assert house.names == ["kept"]
    house.store.failure = None
    await house.start_again()
    assert house.names == ["kept"]
    assert (await house.registrations.register(spec()))[1]


async def test_a_client_that_goes_away_leaves_nothing_half_done(house: House) -> None:
    house.store.may_write = asyncio.Event()
    call = asyncio.ensure_future(house.registrations.register(spec()))
    await house.store.asked_to_write.wait()
    assert house.names == [], "not before it is durable"
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    house.store.may_write.set()
    await asyncio.wait_for(house.writer.close(), 60)
    await until(lambda: house.names == ["triage"])
    assert not (await house.registrations.register(spec()))[1]


async def test_a_failure_that_a_client_does_not_wait_for_is_not_logged_as_lost(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.store.may_write = asyncio.Event()
    call = asyncio.ensure_future(house.registrations.register(spec()))
    await house.store.asked_to_write.wait()
    call.cancel()
    await asyncio.wait([call])
    house.store.failure = StoreError("no room", full=True)
    house.store.may_write.set()
    await refused(house.registrations.unregister("triage"), ErrorReason.JOURNAL_FULL)  # one change at a time
    del call
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_unregistering_lasts(house: House) -> None:
    entry, _ = await house.registrations.register(spec())
    await entry.shared.ready()
    entry.shared.lease()
    await refused(house.registrations.unregister("triage"), ErrorReason.STRATEGY_IN_USE)
    assert house.catalogue.get("triage").shared.prepared
    await entry.shared.release()
    await house.registrations.unregister("triage")
    assert not entry.shared.prepared
    await refused(house.registrations.find("triage"), ErrorReason.STRATEGY_NOT_FOUND)
    await refused(house.registrations.unregister("triage"), ErrorReason.STRATEGY_NOT_FOUND)
    await house.start_again()
    assert house.names == []
    assert (await house.registrations.register(spec(system_instruction="another")))[1]


async def test_what_cannot_be_used_any_more_stays_and_is_said(house: House, caplog: pytest.LogCaptureFixture) -> None:
    await house.registrations.register(spec("whole"))
    refused_now = spec("refused", max_concurrency=1025).SerializeToString()
    await house.store.write([Registration("refused", refused_now), Registration("broken", b"\xff")])
    caplog.set_level(logging.WARNING, "batch_llm")
    await house.start_again()
    assert house.names == ["whole"]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "strategy 'refused', which a client registered, cannot be used: max_concurrency" in said[1]
    assert "stays in the journal until it is unregistered" in said[1]
    assert "'broken'" in said[0]
    error = await refused(house.registrations.find("refused"), ErrorReason.STRATEGY_NOT_FOUND)
    assert "is registered, but cannot be used here: max_concurrency" in str(error)
    error = await refused(house.registrations.register(spec("refused")), ErrorReason.STRATEGY_EXISTS)
    assert "unregister it first" in str(error)
    await house.registrations.unregister("refused")
    assert "no strategy 'refused'" in str(
        await refused(house.registrations.find("refused"), ErrorReason.STRATEGY_NOT_FOUND)
    )
    assert (await house.registrations.register(spec("refused")))[1]
    assert [one.name for one in await house.store.strategies()] == ["broken", "refused", "whole"]


async def test_a_provider_that_is_gone_and_back(house: House, caplog: pytest.LogCaptureFixture) -> None:
    await house.registrations.register(spec())
    await house.start_again(providers={"other": SimulatedProvider()})
    assert house.names == []
    assert "strategy 'triage', which a client registered, cannot be used: provider: no provider 'sim'" in caplog.text
    await house.start_again()
    assert house.names == ["triage"]


async def test_the_operators_file_wins(house: House, caplog: pytest.LogCaptureFixture) -> None:
    await house.registrations.register(spec())
    file = {"triage": Spec(provider="sim", system_instruction="from the file")}
    await house.start_again(file=file)
    assert house.catalogue.get("triage").spec.system_instruction == "from the file"
    assert "strategy 'triage' is the one of the operator's file" in caplog.text
    await refused(house.registrations.register(spec()), ErrorReason.STRATEGY_EXISTS)
    await refused(house.registrations.unregister("triage"), ErrorReason.STRATEGY_FROM_FILE)
    same = StrategySpec(name="triage", provider="sim", system_instruction="from the file")
    entry, registered = await house.registrations.register(same)
    assert (entry.from_file, registered) == (True, False)
    await house.start_again()
    assert house.catalogue.get("triage").spec.system_instruction == "Label it."


async def test_registration_switched_off_leaves_the_journal_alone(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    await house.registrations.register(spec("b"))
    await house.registrations.register(spec("a"))
    await house.start_again(allowed=False, file={"filed": Spec(provider="sim")})
    assert house.names == ["filed"]
    assert "server.allow_registration is false" in caplog.text
    assert "not used: a, b" in caplog.text
    await refused(house.registrations.register(spec()), ErrorReason.REGISTRATION_DISABLED)
    await refused(house.registrations.unregister("a"), ErrorReason.STRATEGY_NOT_FOUND)
    await refused(house.registrations.unregister("filed"), ErrorReason.STRATEGY_FROM_FILE)
    await house.start_again()
    assert house.names == ["a", "b"]


# -- a fleet, over one store in memory ---------------------------------------------------------------------------------


class Shared(MemoryStore):
    """Takes itself for shared. Can be taken away, damaged, and held up after a read."""

    durable = shared = True

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.damaged: set[str] = set()
        self.on_written: Callable[[], Awaitable[object]] | None = None
        self.reads: list[Sequence[str] | None] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def write(self, writes: Sequence[Write]) -> None:
        await super().write(writes)
        if self.on_written is not None:
            await self.on_written()

    async def strategies(
        self, names: Sequence[str] | None = None, damaged: Damaged | None = None
    ) -> Sequence[Registration]:
        if self.away:
            raise StoreError("away")
        self.reads.append(names)
        found = await super().strategies(names, damaged)
        await self.may_answer.wait()
        for name in self.damaged & {one.name for one in found}:
            assert damaged is not None
            damaged(f"strategy {name!r} is damaged")
        return [one for one in found if one.name not in self.damaged]


class Member:
    """A sidecar of a fleet."""

    def __init__(self, store: Shared, name: str, folder: Path) -> None:
        self.catalogue = Catalogue(Providers(SIM, SqliteCacheRegistry(), folder))
        self.catalogue.declare({"filed": Spec(provider="sim")})
        journal = Journal(store, JournalWriter(store), name, 30)
        self.registrations = Registrations(self.catalogue, journal)
        engine = Engine(self.catalogue, self.registrations, Executor(), ServerSettings(state_dir=folder), journal)
        self.batches = Batches(engine, retention_seconds=60, sleep=self.rest)
        self.singles = SingleItems(engine)
        self.rounds = 0

    async def rest(self, seconds: float) -> None:
        self.rounds += 1
        await asyncio.Event().wait()

    @property
    def names(self) -> list[str]:
        return [entry.name for entry in self.catalogue.list() if not entry.from_file]

    async def open(self, **opening: Any) -> LiveBatch:
        return await self.batches.open(pb.OpenBatch(**{"batch_id": "b", **opening}))


@pytest.fixture
def shared() -> Shared:
    return Shared()


@pytest.fixture
async def fleet(shared: Shared, tmp_path: Path) -> AsyncIterator[tuple[Member, Member]]:
    members = [Member(shared, name, tmp_path) for name in ("one", "other")]
    yield members[0], members[1]
    shared.away = False
    for member in members:
        await member.batches.drain(5)
        await member.catalogue.close()


def frame(*strategies: str) -> list[pb.WorkItems]:
    items = [WorkItem(item_id=f"i{place}", prompt="a", strategy=name) for place, name in enumerate(strategies)]
    return [pb.WorkItems(items=items)]


async def results(batch: LiveBatch, count: int) -> list[bool]:
    """Whether so many results are good, by their items."""
    taken: list[WorkItemResult] = []
    while len(taken) < count:
        taken += await batch.take(100)
    return [result.HasField("output") for result in sorted(taken, key=lambda result: result.submission_index)]


async def test_items_name_strategies_of_another_sidecar(fleet: tuple[Member, Member], shared: Shared) -> None:
    one, other = fleet
    for name in ("a", "b", "c"):
        await one.registrations.register(spec(name))
    batch = await other.open(strategy="a")
    shared.reads.clear()
    await batch.accept(frame("b", "", "nowhere", "filed", "not a name"))
    assert shared.reads == [["b", "nowhere"]], "those that are not known, at once"
    assert await results(batch, 5) == [True, True, False, True, False]
    shared.reads.clear()
    await batch.accept(frame("a", "b", "filed"))
    assert shared.reads == []
    assert (await other.singles.run(WorkItem(item_id="c", prompt="c", strategy="c"), "")).HasField("output")
    batch.leave()


async def test_items_that_wait_in_the_journal_find_their_strategies(fleet: tuple[Member, Member]) -> None:
    one, other = fleet
    for name in ("a", "b"):
        await one.registrations.register(spec(name))
    batch = await one.open(strategy="a")
    batch.drain()  # nothing is begun any more
    await batch.accept(frame("", "b", "b"))
    batch.leave()
    await batch.closed.wait()
    again = await other.open()
    assert await results(again, 3) == [True, True, True]
    assert other.names == ["a", "b"]
    again.leave()


async def test_from_time_to_time_all_names_are_looked_at(fleet: tuple[Member, Member], shared: Shared) -> None:
    one, other = fleet
    await one.registrations.register(spec("a"))
    await other.registrations.refresh()
    await one.registrations.unregister("a")
    await one.registrations.register(spec("b"))
    assert other.names == ["a"]
    other.batches.start()
    await until(lambda: other.rounds == 3)
    assert other.names == ["b"]


async def test_a_name_that_was_registered_anew_is_the_new_one(fleet: tuple[Member, Member]) -> None:
    one, other = fleet
    await one.registrations.register(spec())
    old = await other.registrations.find("triage")
    old.shared.lease()
    await one.registrations.unregister("triage")
    await one.registrations.register(spec(max_concurrency=3))
    new = await other.registrations.find("triage")
    assert (new.spec.max_concurrency, new.shared.users, old.shared.users) == (3, 1, 1)
    await old.shared.release()
    await refused(other.registrations.register(spec()), ErrorReason.STRATEGY_EXISTS)


async def test_what_another_sidecar_has_done_is_seen_before_a_change(fleet: tuple[Member, Member]) -> None:
    one, other = fleet
    await one.registrations.register(spec())
    await other.registrations.find("triage")
    await one.registrations.unregister("triage")
    assert (await other.registrations.register(spec()))[1]
    await one.registrations.unregister("triage")
    await refused(other.registrations.find("triage"), ErrorReason.STRATEGY_NOT_FOUND)


async def test_a_name_that_cannot_be_used_and_is_gone_is_said_once(
    fleet: tuple[Member, Member], shared: Shared, caplog: pytest.LogCaptureFixture
) -> None:
    one, _ = fleet
    bad = spec("bad", max_concurrency=1025).SerializeToString()
    await shared.write([Registration("bad", bad), Registration("filed", spec("filed").SerializeToString())])
    for _ in range(3):
        await one.registrations.refresh()
    assert sorted(record.getMessage()[:16] for record in caplog.records) == ["strategy 'bad', ", "strategy 'filed'"]
    assert "cannot be used" in str(await refused(one.registrations.find("bad"), ErrorReason.STRATEGY_NOT_FOUND))
    await shared.unregister("bad")
    assert "no strategy 'bad'" in str(await refused(one.registrations.find("bad"), ErrorReason.STRATEGY_NOT_FOUND))


async def test_damage_takes_no_strategy_away(
    fleet: tuple[Member, Member], shared: Shared, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = fleet
    for name in ("a", "b"):
        await one.registrations.register(spec(name))
    shared.damaged.add("a")
    for _ in range(2):
        assert [entry.name for entry in await one.registrations.list()] == ["a", "b", "filed"]
        assert [entry.name for entry in await other.registrations.list()] == ["b", "filed"]
    said = "strategy 'a' is damaged; `batch-llm-sidecar journal check` says more"
    assert caplog.messages.count(said) == 2, "once each"
    await refused(other.registrations.register(spec("a")), ErrorReason.STRATEGY_EXISTS)
    await other.registrations.unregister("a")
    await refused(other.registrations.unregister("a"), ErrorReason.STRATEGY_NOT_FOUND)
    await refused(one.registrations.find("a"), ErrorReason.STRATEGY_NOT_FOUND)


async def test_a_look_that_finds_a_registration_first_makes_the_strategy(
    fleet: tuple[Member, Member], shared: Shared
) -> None:
    one, _ = fleet
    found: list[Entry] = []

    async def look() -> None:
        await one.registrations.refresh()
        found.append(one.catalogue.get("triage"))

    shared.on_written = look
    entry, registered = await one.registrations.register(spec())
    shared.on_written = None
    assert registered
    assert [one.catalogue.get("triage")] == found == [entry]
    assert entry is found[0]
    await one.registrations.unregister("triage")
    assert entry.shared.users == 0


async def test_a_journal_that_is_away_takes_no_strategy_away(fleet: tuple[Member, Member], shared: Shared) -> None:
    one, other = fleet
    entry, _ = await one.registrations.register(spec())
    shared.away = True
    assert await one.registrations.find("triage") is entry
    assert (await one.singles.run(WorkItem(item_id="c", prompt="c", strategy="triage"), "")).HasField("output")
    assert (await other.registrations.find("filed")).from_file
    with pytest.raises(StoreError):
        await other.registrations.find("triage")
    with pytest.raises(StoreError):
        await other.singles.run(WorkItem(item_id="c", prompt="c", strategy="triage"), "key")
    with pytest.raises(StoreError):
        await one.registrations.list()
    shared.away = False
    assert await shared.single("key") is None, "a call that could not begin has not begun"


async def test_a_look_that_began_before_a_change_does_not_undo_it(fleet: tuple[Member, Member], shared: Shared) -> None:
    one, _ = fleet
    await one.registrations.register(spec("a"))
    for change, expected in (
        (one.registrations.register(spec("b")), ["a", "b"]),
        (one.registrations.unregister("a"), ["b"]),
    ):
        shared.reads.clear()
        shared.may_answer.clear()
        look = asyncio.ensure_future(one.registrations.refresh())
        await until(lambda: bool(shared.reads))
        stale = shared.may_answer
        shared.may_answer = asyncio.Event()
        shared.may_answer.set()
        await change
        stale.set()
        await look
        assert one.names == expected
