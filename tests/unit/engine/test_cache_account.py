"""Who pays for a context cache: creation once, storage by the time that passes, shared by open batches."""

import asyncio
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import RootModel

from batch_llm import LLMWorkItem, ParallelBatchProcessor, ProcessorConfig, Receipt, TokenPrices
from batch_llm.caching import (
    CacheAccount,
    CacheLedger,
    CachePolicy,
    CacheRecord,
    CacheRegistry,
    Charge,
    ContextCache,
    SqliteCacheRegistry,
)
from batch_llm.executor import Executor, Work
from batch_llm.model import Pricing
from batch_llm.processor import BatchSession
from batch_llm.shared import SharedStrategy
from batch_llm.strategies.simulated import SimulatedStrategy

# At 0.36 a token costs a tenth of a nano-dollar a second; at 1.00, no whole part of one.
PRICES = TokenPrices("0.30", "2.50", date(2026, 11, 10), cached_input="0.03", cache_storage="0.36")
ROUGH = TokenPrices("0.30", "2.50", date(2026, 11, 10), cached_input="0.03", cache_storage="1.00")
START = 1_800_000_000.0
TOKENS = 20_000
HOUR = 3600.0
HANDBOOK = "x" * TOKENS * 4


class Clock:
    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[CacheRegistry]:
    registry = SqliteCacheRegistry(tmp_path / "caches.db")
    yield registry
    registry.close()


def strategy(
    registry: CacheRegistry,
    clock: Clock,
    pricing: Pricing | None = PRICES,
    content: str = HANDBOOK,
    kind: type[SimulatedStrategy] = SimulatedStrategy,
    **policy: Any,
) -> SimulatedStrategy:
    return kind(
        name="triage",
        cached_content=[content],
        cache_policy=CachePolicy(**{"ttl_seconds": HOUR, **policy}),
        registry=registry,
        pricing=pricing,
        clock=clock,
    )


def cache_of(strategy: SimulatedStrategy) -> ContextCache:
    assert strategy.context_cache is not None
    return strategy.context_cache


async def opened(strategy: SimulatedStrategy) -> CacheAccount:
    """The account of a batch whose first item is about to use the strategy's cache."""
    account = CacheAccount()
    cache = cache_of(strategy)
    await cache.ensure()
    await account.use(cache)
    await account.use(cache)  # for every item
    return account


def share(receipt: Receipt) -> tuple[int, int, int, int]:
    return (
        receipt.cache_creation_tokens,
        receipt.cache_creation_nano_usd,
        receipt.cache_storage_token_seconds,
        receipt.cache_storage_nano_usd,
    )


CREATION = (TOKENS, TOKENS * 300)


def storage(seconds: float) -> tuple[int, int]:
    """Token-seconds and nano-dollars at `PRICES`."""
    return int(TOKENS * seconds), int(TOKENS * seconds) // 10


async def test_a_batch_pays_for_creation_and_for_the_time_it_is_open(registry: CacheRegistry, clock: Clock) -> None:
    account = await opened(strategy(registry, clock))
    clock.now += 900
    receipt = await account.close()
    assert share(receipt) == (*CREATION, *storage(900))
    assert receipt.total_nano_usd == TOKENS * 300 + storage(900)[1]
    assert receipt.uncached_nano_usd == 0
    assert receipt.storage_until_expiry_nano_usd == storage(2700)[1], "to come, in no total"
    assert receipt.price_date == PRICES.price_date
    assert await account.close() is receipt
    assert share(receipt) == (*CREATION, *storage(900)), "closing again changes nothing"


async def test_open_batches_share_and_what_passes_between_is_the_nexts(registry: CacheRegistry, clock: Clock) -> None:
    shared = strategy(registry, clock)
    first = await opened(shared)
    clock.now += 100
    second = await opened(shared)
    clock.now += 60
    a = await first.close()
    clock.now += 40
    b = await second.close()
    clock.now += 300  # nobody
    third = await opened(shared)
    clock.now += 10
    c = await third.close()
    assert share(a) == (*CREATION, *storage(130))
    assert share(b) == (0, 0, *storage(70))
    assert share(c) == (0, 0, *storage(310))


async def test_strategies_with_the_same_content_share_one_account(registry: CacheRegistry, clock: Clock) -> None:
    first = await opened(strategy(registry, clock))
    second = await opened(strategy(registry, clock))
    clock.now += 10
    assert share(await first.close()) == (*CREATION, *storage(5))
    assert share(await second.close()) == (0, 0, *storage(5))


async def test_what_is_paid_is_remembered_over_restarts(tmp_path: Path, clock: Clock) -> None:
    before = SqliteCacheRegistry(tmp_path / "caches.db")
    account = await opened(strategy(before, clock))
    clock.now += 100
    await account.close()
    before.close()
    clock.now += 50
    after = SqliteCacheRegistry(tmp_path / "caches.db")
    account = await opened(strategy(after, clock))
    clock.now += 25
    assert share(await account.close()) == (0, 0, *storage(75))
    after.close()


async def test_two_processes_pay_each_second_once(tmp_path: Path, clock: Clock) -> None:
    ours, theirs = SqliteCacheRegistry(tmp_path / "caches.db"), SqliteCacheRegistry(tmp_path / "caches.db")
    first = await opened(strategy(ours, clock))
    second = await opened(strategy(theirs, clock))
    clock.now += 100
    total = await first.close() + await second.close()
    assert share(total) == (*CREATION, *storage(100))


async def test_what_another_process_takes_at_the_same_moment_is_its_own(tmp_path: Path, clock: Clock) -> None:
    theirs = SqliteCacheRegistry(tmp_path / "caches.db")

    class Slow(SqliteCacheRegistry):
        """Another process settles between our look at the file and our own settling."""

        interrupt = False

        async def reload(self, provider: str, fingerprint: str) -> CacheRecord | None:
            record = await super().reload(provider, fingerprint)
            if self.interrupt:
                self.interrupt = False
                taken.extend(await theirs.collect(provider, fingerprint, clock.now))
            return record

    taken: list[Charge] = []
    ours = Slow(tmp_path / "caches.db")
    account = await opened(strategy(ours, clock))
    clock.now += 10
    ours.interrupt = True
    assert share(await account.close()) == (0, 0, 0, 0)
    assert [(charge.until - charge.since, charge.created) for charge in taken] == [(10, True)]


async def test_a_renewal_loses_nothing_that_was_paid(registry: CacheRegistry, clock: Clock) -> None:
    shared = strategy(registry, clock)
    first = await opened(shared)
    clock.now += 100
    cache = cache_of(shared)
    stale = cache.record
    assert stale is not None
    await first.close()
    await registry.put(stale)  # as a renewal does that began before
    await cache.renew(7200)
    clock.now += 7000
    second = await opened(shared)
    receipt = await second.close()
    assert share(receipt) == (0, 0, *storage(7000)), "it lives beyond its first hour"


async def test_a_cache_that_expires_and_is_made_anew_is_paid_twice_and_no_second_in_between(
    registry: CacheRegistry, clock: Clock
) -> None:
    shared = strategy(registry, clock)
    first = await opened(shared)
    clock.now += 600
    a = await first.close()
    clock.now += 2 * HOUR  # expired after 3000 s of it
    second = await opened(shared)
    clock.now += 60
    b = await second.close()
    assert share(a) == (*CREATION, *storage(600))
    assert share(b) == (*CREATION, *storage(3000 + 60))


async def test_a_cache_that_expires_while_a_batch_is_open(registry: CacheRegistry, clock: Clock) -> None:
    shared = strategy(registry, clock)
    account = await opened(shared)
    clock.now += HOUR + 100
    await cache_of(shared).ensure()
    clock.now += 10
    receipt = await account.close()
    assert share(receipt) == (2 * CREATION[0], 2 * CREATION[1], *storage(HOUR + 10))


async def test_a_deleted_cache_costs_until_then(registry: CacheRegistry, clock: Clock) -> None:
    shared = strategy(registry, clock)
    account = await opened(shared)
    clock.now += 100
    assert await cache_of(shared).delete()
    clock.now += 100
    receipt = await account.close()
    assert share(receipt) == (*CREATION, *storage(100))
    assert receipt.storage_until_expiry_nano_usd == 0
    clock.now += 100
    account = await opened(shared)
    assert share(await account.close()) == (*CREATION, 0, 0)


async def test_a_cache_that_its_provider_has_lost_costs_until_that_is_known(
    registry: CacheRegistry, clock: Clock
) -> None:
    class Lossy(SimulatedStrategy):
        async def holds_cache(self, record: CacheRecord) -> bool:
            return False

    shared = strategy(registry, clock, kind=Lossy)
    account = await opened(shared)
    clock.now += 100
    _, reused = await cache_of(shared).create_or_reuse()
    assert not reused
    clock.now += 10
    assert share(await account.close()) == (2 * CREATION[0], 2 * CREATION[1], *storage(110))


async def test_what_nobody_has_used_is_the_next_batchs_though_others_cleared_it_away(
    registry: CacheRegistry, clock: Clock
) -> None:
    shared = strategy(registry, clock)
    await cache_of(shared).create_or_reuse()  # by RPC, say
    clock.now += 2 * HOUR
    other = strategy(registry, clock, content="another handbook")
    await cache_of(other).ensure()  # clears away what has expired
    assert registry.get("simulated", cache_of(shared).fingerprint) is None
    account = await opened(shared)
    assert share(await account.close()) == (2 * CREATION[0], 2 * CREATION[1], *storage(HOUR))


async def test_a_cache_that_was_found_costs_from_first_sight(registry: CacheRegistry, clock: Clock) -> None:
    shared = strategy(registry, clock)
    record, _ = await cache_of(shared).create_or_reuse()
    await registry.remove(record)
    clock.now += 500
    found = CacheRecord(
        record.provider,
        record.fingerprint,
        record.name,
        record.model,
        record.strategy,
        record.create_time,
        record.expire_time,
        record.total_token_count,
        accounted_until=clock.now,
    )
    await registry.put(found)
    clock.now += 20
    account = await opened(shared)
    clock.now += 20
    assert share(await account.close()) == (0, 0, *storage(40))


async def test_a_file_of_a_version_without_accounts_moves_forward(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "caches.db"
    shared = strategy(SqliteCacheRegistry(), clock)
    old = sqlite3.connect(path)
    old.execute(
        "CREATE TABLE caches (provider TEXT, fingerprint TEXT, name TEXT NOT NULL, model TEXT NOT NULL,"
        " strategy TEXT NOT NULL, create_time REAL NOT NULL, expire_time REAL NOT NULL,"
        " total_token_count INTEGER NOT NULL, PRIMARY KEY (provider, fingerprint))"
    )
    values = ("simulated", cache_of(shared).fingerprint, "n", "simulated", "triage", START - 100, START + HOUR, TOKENS)
    old.execute("INSERT INTO caches VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
    old.commit()
    old.close()
    for _ in range(2):
        registry = SqliteCacheRegistry(path)
        assert await registry.list() == [CacheRecord(*values)]
        registry.close()
    registry = SqliteCacheRegistry(path)
    account = await opened(strategy(registry, clock))
    assert share(await account.close()) == (*CREATION, *storage(100))
    registry.close()


async def test_a_clock_that_is_set_back_costs_nothing(registry: CacheRegistry, clock: Clock) -> None:
    shared = strategy(registry, clock)
    account = await opened(shared)
    clock.now -= 500
    assert share(await account.close()) == (*CREATION, 0, 0)
    clock.now += 510
    account = await opened(shared)
    assert share(await account.close()) == (0, 0, *storage(10))


async def test_caches_without_prices_are_in_no_receipt(registry: CacheRegistry, clock: Clock) -> None:
    account = await opened(strategy(registry, clock, pricing=None))
    clock.now += 100
    assert await account.close() == Receipt()


@pytest.mark.parametrize("known", [True, False], ids=["no storage price", "no price at all"])
async def test_an_unknown_price_is_no_cost(registry: CacheRegistry, clock: Clock, known: bool) -> None:
    class Unknown:
        price_date = date(2026, 11, 10)

        def rates(self, input_tokens: int) -> Any:
            return PRICES.rates(input_tokens) if known else None

        def storage_rate(self) -> None:
            return None

    account = await opened(strategy(registry, clock, pricing=Unknown()))
    clock.now += 100
    receipt = await account.close()
    assert receipt.total_nano_usd is None
    assert receipt.unpriced_token_seconds == receipt.cache_storage_token_seconds == TOKENS * 100
    assert receipt.unpriced_tokens == (0 if known else TOKENS)
    assert receipt.cache_creation_nano_usd == (CREATION[1] if known else 0)
    assert (receipt.storage_until_expiry_nano_usd, receipt.advice) == (0, ())


async def test_a_registry_that_cannot_be_written_costs_no_item(
    registry: CacheRegistry, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    shared = strategy(registry, clock)
    await cache_of(shared).ensure()
    registry.close()
    account = CacheAccount()
    with caplog.at_level(logging.WARNING, "batch_llm"):
        await account.use(cache_of(shared))
        assert share(await account.close()) == (0, 0, 0, 0)
    assert "the costs of a context cache cannot be settled now" in caplog.text


async def test_what_is_being_asked_for_is_shared_by_those_who_were_open() -> None:
    ledger, charge, paid = CacheLedger(), Charge(1, 0.0, 10.0, created=False), []
    asked, answer = asyncio.Event(), asyncio.Event()

    async def nothing() -> list[Charge]:
        return []

    async def slow() -> list[Charge]:
        asked.set()
        await answer.wait()
        return [charge]

    def first(*given: Any) -> None:
        paid.append(("first", *given))

    def second(*given: Any) -> None:
        paid.append(("second", *given))

    await ledger.open(first, nothing)
    opening = asyncio.create_task(ledger.open(second, slow))
    await asked.wait()
    closing = asyncio.create_task(ledger.close(first, nothing))
    await asyncio.sleep(0)
    answer.set()
    await asyncio.gather(opening, closing)
    assert paid == [("first", charge, 0, 1)]


async def test_what_was_asked_for_is_paid_though_who_asked_was_cancelled(tmp_path: Path, clock: Clock) -> None:
    class Slow(SqliteCacheRegistry):
        async def collect(self, provider: str, fingerprint: str, now: float) -> Sequence[Charge]:
            charges = await super().collect(provider, fingerprint, now)
            await asyncio.sleep(1)
            return charges

    registry = Slow(tmp_path / "caches.db")
    shared = strategy(registry, clock)
    first, second = await opened(shared), CacheAccount()
    clock.now += 10
    item = asyncio.create_task(second.use(cache_of(shared)))
    await asyncio.sleep(0.5)
    item.cancel()
    await asyncio.wait([item])
    clock.now += 10
    assert share(await first.close() + await second.close()) == (*CREATION, *storage(20))
    registry.close()


# -- every order of events -------------------------------------------------------------------------------------------

steps = st.lists(
    st.tuples(st.sampled_from(["open", "close", "delete", "ensure"]), st.integers(0, 3), st.integers(0, 2_000_000)),
    max_size=30,
)


@settings(deadline=None)  # of each example, in real time
@given(steps)
async def test_all_batches_together_pay_the_bill(steps: list[tuple[str, int, int]]) -> None:
    clock, registry = Clock(), SqliteCacheRegistry()
    shared = strategy(registry, clock, ROUGH)
    batches: dict[int, CacheAccount] = {}
    closed = Receipt()
    created, living_ms = 0, 0
    alive_since: float | None = None
    bill = 0

    def end_life(until: float) -> None:
        """Add a cache's life, or the part of it that is behind, to the bill."""
        nonlocal alive_since, living_ms, bill
        assert alive_since is not None
        begin, end = round(alive_since * 1000), round(until * 1000)
        living_ms += end - begin
        bill += TOKENS * end * 10**6 // (3_600_000 * 1000) - TOKENS * begin * 10**6 // (3_600_000 * 1000)
        alive_since = until

    for what, number, milliseconds in steps:
        clock.now += milliseconds / 1000
        record = cache_of(shared).record
        if what in {"open", "ensure"}:
            if record is None or record.expire_time <= clock.now:
                if record is not None:
                    end_life(record.expire_time)
                created, alive_since = created + 1, clock.now
            if what == "open" and number not in batches:
                batches[number] = await opened(shared)
            else:
                await cache_of(shared).ensure()
        elif what == "delete" and record is not None:
            end_life(min(clock.now, record.expire_time))
            await cache_of(shared).delete()
        elif what == "close" and number in batches:
            closed.add(await batches.pop(number).close())
    final = await opened(shared) if cache_of(shared).usable is not None else None
    record = cache_of(shared).record
    if record is not None:
        end_life(min(clock.now, record.expire_time))
    for account in [*batches.values(), *([final] if final is not None else [])]:
        closed.add(await account.close())
    if final is None and not batches:
        return  # something may be owed still; nobody has come who pays it
    assert share(closed)[:2] == (created * CREATION[0], created * CREATION[1])
    assert abs(closed.cache_storage_token_seconds - TOKENS * living_ms // 1000) <= created
    assert closed.cache_storage_nano_usd == bill
    registry.close()


# -- with the engine -------------------------------------------------------------------------------------------------


async def batch(strategy: SimulatedStrategy, items: int, **config: Any) -> Any:
    async with ParallelBatchProcessor[str, None](config=ProcessorConfig(max_workers=4, **config)) as processor:
        for number in range(items):
            await processor.add_work(LLMWorkItem(str(number), strategy, "y" * 400))
        return await processor.process_all()


async def test_a_batchs_receipt_has_items_creation_and_storage(registry: CacheRegistry, clock: Clock) -> None:
    result = await batch(strategy(registry, clock), 100)
    receipt = result.receipt
    assert share(receipt) == (*CREATION, 0, 0)
    items = sum(item.receipt.total_nano_usd for item in result.results)
    assert receipt.total_nano_usd == items + receipt.cache_creation_nano_usd + receipt.cache_storage_nano_usd
    assert receipt.cached_input_nano_usd == 100 * TOKENS * 30
    assert receipt.uncached_nano_usd == 100 * ((TOKENS + 100) * 300) + receipt.output_nano_usd
    assert receipt.advice == ()


async def test_a_dry_run_pays_for_no_cache(registry: CacheRegistry, clock: Clock) -> None:
    shared = strategy(registry, clock)
    await cache_of(shared).create_or_reuse()
    clock.now += 100
    assert share((await batch(shared, 3, dry_run=True)).receipt) == (0, 0, 0, 0)
    assert share((await batch(shared, 3)).receipt) == (*CREATION, *storage(100))


async def test_a_batch_that_is_left_pays_until_then(registry: CacheRegistry, clock: Clock) -> None:
    shared = strategy(registry, clock)
    session = BatchSession(Executor().run, max_concurrency=1)
    await session.submit([Work("1", "a", SharedStrategy(shared)), Work("2", "b", SharedStrategy(shared))])
    await session.take(1)
    clock.now += 10
    await session.abort()
    clock.now += 100
    assert share(session.receipt) == (*CREATION, *storage(10))
    assert share((await batch(shared, 1)).receipt) == (0, 0, *storage(100))


async def test_items_that_move_up_use_the_other_models_cache_too(registry: CacheRegistry, clock: Clock) -> None:
    small, large = strategy(registry, clock), strategy(registry, clock, content="z" * 400)
    small.escalation = (large,)
    small.output_model = RootModel[int]
    result = await batch(small, 1)
    assert result.succeeded == 1
    assert result.receipt.cache_creation_tokens == TOKENS + 100


# -- advice ----------------------------------------------------------------------------------------------------------


async def test_a_cache_that_costs_more_than_it_saves_is_said_so_once(
    registry: CacheRegistry, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    shared = strategy(registry, clock, ROUGH)
    with caplog.at_level(logging.WARNING, "batch_llm"):
        (advice,) = (await batch(shared, 3)).receipt.advice
    # 20,000 tokens: 0.006 to create, 0.02 for an hour; each hit saves 20,000 × 0.27 / 10^6.
    assert "costs more than it saves: $0.026000 to create and to keep for 3600 s, $0.016200 saved" in advice
    assert "of strategy 'triage'" in advice
    assert [record.getMessage() for record in caplog.records] == [advice]
    assert (await batch(shared, 3)).receipt.advice == ()


@pytest.mark.parametrize(("items", "said"), [(4, 1), (5, 0)])
async def test_advice_depends_on_what_hits_have_saved(
    registry: CacheRegistry, clock: Clock, items: int, said: int
) -> None:
    assert len((await batch(strategy(registry, clock, ROUGH), items)).receipt.advice) == said


async def test_advice_is_for_the_life_that_was_asked_for(registry: CacheRegistry, clock: Clock) -> None:
    shared = strategy(registry, clock, ROUGH, ttl_seconds=800)
    assert (await batch(shared, 2)).receipt.advice == ()


@pytest.mark.parametrize("most", [0, TOKENS], ids=["creation", "hits"])
async def test_there_is_no_advice_where_a_price_is_unknown(registry: CacheRegistry, clock: Clock, most: int) -> None:
    class Partial:
        price_date = date(2026, 11, 10)

        def rates(self, input_tokens: int) -> Any:
            return ROUGH.rates(input_tokens) if input_tokens <= most else None

        def storage_rate(self) -> int:
            return 10**6

    receipt = (await batch(strategy(registry, clock, Partial()), 1)).receipt
    assert receipt.total_nano_usd is None
    assert receipt.advice == ()
