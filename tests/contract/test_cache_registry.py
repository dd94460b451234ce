"""What every registry of context caches must do."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from batch_llm.caching import CacheRecord, CacheRegistry, Charge, SqliteCacheRegistry
from batch_llm.caching.postgres_registry import PostgresCacheRegistry
from batch_llm.model import ProviderError

from .postgres import PostgresServer, stalled

RECORD = CacheRecord("gemini@key", "f1", "cachedContents/1", "m", "triage", 100.5, 3700.5, 2048)
OF = ("gemini@key", "f1")

Make = Callable[[], CacheRegistry]


class Clock:
    """Monotonic seconds, of the registries."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "postgres"])
async def both(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
) -> AsyncIterator[tuple[CacheRegistry, CacheRegistry]]:
    """The registries of two processes."""
    async with AsyncExitStack() as stack:
        if request.param == "sqlite":
            files = [SqliteCacheRegistry(tmp_path / "caches", clock) for _ in range(2)]
            for each in files:
                stack.callback(each.close)
            yield files[0], files[1]
            return
        server, schema = request.getfixturevalue("postgres"), f"test_{uuid.uuid4().hex}"
        shared = [PostgresCacheRegistry(server.url, schema, limit_seconds=60.0, clock=clock) for _ in range(2)]
        for registry in shared:
            stack.push_async_callback(registry.close)
        await asyncio.gather(*(registry.open() for registry in shared))
        yield shared[0], shared[1]


@pytest.fixture
def registry(both: tuple[CacheRegistry, CacheRegistry]) -> CacheRegistry:
    return both[0]


async def test_provider_and_fingerprint_together_are_the_key(registry: CacheRegistry) -> None:
    await registry.put(RECORD)
    await registry.put(replace(RECORD, provider="other", name="theirs"))
    await registry.put(replace(RECORD, name="made anew"))
    assert [(record.provider, record.name) for record in await registry.list()] == [
        ("gemini@key", "made anew"),
        ("other", "theirs"),
    ]
    assert registry.get("gemini@key", "f2") is None
    assert await registry.reload("gemini@key", "f2") is None
    ours = registry.get(*OF)
    assert ours is not None
    await registry.remove(ours)
    await registry.remove(ours)  # none is no error
    assert registry.get(*OF) is None
    assert registry.get("other", "f1") is not None


async def test_records_are_listed_by_strategy_then_fingerprint(registry: CacheRegistry) -> None:
    for strategy, fingerprint in [("b", "1"), ("a", "3"), ("a", "2"), ("B", "4")]:
        await registry.put(replace(RECORD, strategy=strategy, fingerprint=fingerprint))
    assert [(record.strategy, record.fingerprint) for record in await registry.list()] == [
        ("B", "4"),
        ("a", "2"),
        ("a", "3"),
        ("b", "1"),
    ]


async def test_what_another_process_changes_is_seen(both: tuple[CacheRegistry, CacheRegistry], clock: Clock) -> None:
    ours, theirs = both
    await theirs.put(RECORD)
    assert await ours.reload(*OF) == RECORD
    renewed = replace(RECORD, expire_time=9999.0)
    await theirs.put(renewed)
    assert await ours.look(*OF) == RECORD, "what is known costs no question"
    clock.now += 10
    assert await ours.look(*OF) == renewed
    assert ours.get(*OF) == renewed
    await theirs.remove(renewed)
    clock.now += 10
    assert await ours.look(*OF) is None
    assert ours.get(*OF) is None
    assert await ours.reload(*OF) is None
    await theirs.put(RECORD)
    assert await ours.reload(*OF) == RECORD


async def test_a_cache_that_was_made_in_anothers_place_stays(both: tuple[CacheRegistry, CacheRegistry]) -> None:
    ours, theirs = both
    await ours.put(RECORD)
    newer = replace(RECORD, name="newer")
    await theirs.put(newer)
    await ours.remove(RECORD, 1000.0)
    assert await ours.reload(*OF) == newer
    assert await ours.collect(*OF, 100.5) == [Charge(2048, 100.5, 100.5, created=True)], "of the newer one alone"


async def test_what_was_paid_is_kept_for_the_same_cache_alone(registry: CacheRegistry) -> None:
    await registry.put(RECORD)
    await registry.collect(*OF, 200.0)
    await registry.put(replace(RECORD, expire_time=5000.0))
    assert await registry.reload(*OF) == replace(RECORD, expire_time=5000.0, accounted_until=200.0)
    await registry.put(replace(RECORD, name="another", accounted_until=150.0))
    assert await registry.reload(*OF) == replace(RECORD, name="another", accounted_until=150.0)


async def test_each_charge_is_given_once(both: tuple[CacheRegistry, CacheRegistry]) -> None:
    ours, theirs = both
    assert await ours.collect(*OF, 200.0) == []
    await ours.put(RECORD)
    assert await ours.collect(*OF, 200.0) == [Charge(2048, 100.5, 200.0, created=True)]
    assert await theirs.collect(*OF, 200.0) == []
    assert await theirs.collect(*OF, 150.0) == [], "a clock that is set back"
    assert await theirs.collect(*OF, 300.0) == [Charge(2048, 200.0, 300.0, created=False)]
    await ours.remove(RECORD, 350.0)
    await theirs.remove(RECORD, 360.0)
    assert await ours.collect(*OF, 400.0) == [Charge(2048, 300.0, 350.0, created=False)]
    assert await theirs.collect(*OF, 400.0) == []


async def test_a_cache_that_nobody_pays_for_leaves_no_charge(registry: CacheRegistry) -> None:
    await registry.put(RECORD)
    await registry.remove(RECORD)
    assert await registry.collect(*OF, 400.0) == []


async def test_those_who_collect_at_once_pay_once(both: tuple[CacheRegistry, CacheRegistry]) -> None:
    await both[0].put(RECORD)
    given = await asyncio.gather(*(both[number % 2].collect(*OF, 200.0) for number in range(10)))
    assert [charge for charges in given for charge in charges] == [Charge(2048, 100.5, 200.0, created=True)]


async def test_one_process_has_a_claim_until_it_lets_go(both: tuple[CacheRegistry, CacheRegistry]) -> None:
    ours, theirs = both
    assert sum(await asyncio.gather(ours.claim(*OF, 100.0, 60.0), theirs.claim(*OF, 100.0, 60.0))) == 1
    await ours.unclaim(*OF)
    await theirs.unclaim(*OF)
    assert await ours.claim(*OF, 100.0, 60.0)
    assert await ours.claim(*OF, 100.0, 60.0), "for longer"
    assert await theirs.claim("gemini@key", "f2", 100.0, 60.0), "each cache has one of its own"
    await theirs.unclaim(*OF)
    assert not await theirs.claim(*OF, 100.0, 60.0), "only who has it lets go"
    await ours.unclaim(*OF)
    assert await theirs.claim(*OF, 100.0, 60.0)


async def test_a_claim_that_has_ended_is_anothers(both: tuple[CacheRegistry, CacheRegistry]) -> None:
    assert await both[0].claim(*OF, 100.0, -1.0)
    assert await both[1].claim(*OF, 102.0, 60.0)
    assert not await both[0].claim(*OF, 102.0, 60.0)


async def test_a_lock_belongs_to_one_cache(registry: CacheRegistry) -> None:
    assert registry.lock("p", "f") is registry.lock("p", "f")
    assert registry.lock("p", "f") is not registry.lock("p", "g")
    assert registry.lock("p", "f") is not registry.lock("q", "f")


# -- PostgreSQL --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def shared(postgres: PostgresServer, clock: Clock) -> AsyncIterator[PostgresCacheRegistry]:
    registry = PostgresCacheRegistry(postgres.url, f"test_{uuid.uuid4().hex}", limit_seconds=60.0, clock=clock)
    await registry.open()
    yield registry
    await registry.close()


async def test_claims_go_by_the_servers_clock(shared: PostgresCacheRegistry) -> None:
    assert await shared.claim(*OF, 0.0, 60.0)
    ((left,),) = await shared._line.fetch(
        "SELECT until - extract(epoch FROM clock_timestamp())::float8 FROM cache_claims"
    )
    assert 0 < left <= 60


async def test_what_is_known_is_used_while_the_server_stalls(
    postgres: PostgresServer,
    shared: PostgresCacheRegistry,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await shared.put(RECORD)
    with stalled(postgres), monkeypatch.context() as patch:
        patch.setattr(shared._line, "_limit_seconds", 2.0)  # before and after, a slow machine may take longer
        clock.now += 2
        looks = asyncio.gather(*(shared.look(*OF) for _ in range(100)))
        for _ in range(5):
            await asyncio.sleep(0)
        assert looks.done(), "those who use it all the time do not wait"
        assert set(looks.result()) == {RECORD}
        clock.now += 10
        assert await shared.look(*OF) == RECORD
        with pytest.raises(ProviderError, match=r"no answer within 2 s.*; try again") as refused:
            await shared.reload(*OF)
        assert refused.value.retryable
        clock.now += 10
        assert await shared.look(*OF) == RECORD
    assert caplog.text.count("known context caches go on being used") == 1
    assert await shared.reload(*OF) == RECORD


async def test_those_who_use_it_all_the_time_learn_in_the_background(
    shared: PostgresCacheRegistry, clock: Clock
) -> None:
    await shared.put(RECORD)
    await shared._line.fetch("UPDATE caches SET expire_time = 9999 RETURNING 1")
    clock.now += 2
    assert await shared.look(*OF) == RECORD
    assert shared._asking is not None
    await shared._asking
    assert await shared.look(*OF) == replace(RECORD, expire_time=9999.0)
