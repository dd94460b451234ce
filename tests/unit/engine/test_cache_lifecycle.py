import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batch_llm.caching import (
    CacheBackend,
    CachePolicy,
    CacheRecord,
    CacheRegistry,
    CacheState,
    ContextCache,
    CreatedCache,
    SqliteCacheRegistry,
)
from batch_llm.model import BatchLLMError, CacheGoneError, ErrorReason, ProviderError


def now() -> float:
    return asyncio.get_running_loop().time()


class Backend(CacheBackend):
    """A provider that counts its calls; each takes `latency` seconds."""

    def __init__(self, latency: float = 1.0) -> None:
        self.latency = latency
        self.calls: list[str] = []
        self.alive: set[str] = set()
        self.lost: set[str] = set()
        self.failing: dict[str, Exception] = {}
        self._made = 0

    async def _call(self, what: str) -> None:
        self.calls.append(what)
        await asyncio.sleep(self.latency)
        if what in self.failing:
            raise self.failing[what]

    def count(self, what: str) -> int:
        return self.calls.count(what)

    async def create_cache(self, fingerprint: str, ttl_seconds: float) -> CreatedCache:
        self._made += 1
        name = f"{fingerprint}-{self._made}"
        await self._call("create")
        self.alive.add(name)
        return CreatedCache(name, 2048, now() + ttl_seconds)

    async def renew_cache(self, record: CacheRecord, ttl_seconds: float) -> float:
        await self._call("renew")
        return now() + ttl_seconds

    async def drop_cache(self, record: CacheRecord) -> None:
        await self._call("drop")
        self.alive.discard(record.name)

    async def holds_cache(self, record: CacheRecord) -> bool:
        return record.name in self.alive

    def lost_cache(self, record: CacheRecord) -> bool:
        return record.name in self.lost


@pytest.fixture
def backend() -> Backend:
    return Backend()


@pytest.fixture
def registry() -> CacheRegistry:
    return SqliteCacheRegistry()


def cache(backend: Backend, registry: CacheRegistry, fingerprint: str = "f", **policy: Any) -> ContextCache:
    values = {"ttl_seconds": 1000, "renewal_buffer_seconds": 100, **policy}
    return ContextCache(
        backend,
        registry,
        provider="gemini",
        fingerprint=fingerprint,
        model="m",
        strategy=f"strategy-{fingerprint}",
        policy=CachePolicy(**values),
        clock=asyncio.get_running_loop().time,
    )


def name_of(found: ContextCache) -> str:
    assert found.record is not None
    return found.record.name


# -- policy and state --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ttl", "buffer", "field"),
    [
        (0.5, 0, "cache_ttl_seconds"),
        (100, 100, "cache_renewal_buffer_seconds"),
        (100, -1, "cache_renewal_buffer_seconds"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(ttl: float, buffer: float, field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field} must "):
        CachePolicy(ttl, buffer)


async def test_state_follows_from_expiry_and_buffer(backend: Backend, registry: CacheRegistry) -> None:
    ours = cache(backend, registry, auto_renew=False)
    await ours.ensure()
    assert ours.record is not None
    expiry = ours.record.expire_time
    for moment, state, usable in [
        (expiry - 100, CacheState.ACTIVE, True),
        (expiry - 99, CacheState.EXPIRING, True),
        (expiry, CacheState.EXPIRED, False),
    ]:
        await asyncio.sleep(moment - now())
        assert ours.state_of(ours.record) is state
        assert (ours.usable is not None) is usable


# -- create or reuse ---------------------------------------------------------------------------------------------------


async def test_a_cache_is_created_once_though_many_need_it(backend: Backend, registry: CacheRegistry) -> None:
    start = now()
    caches = [cache(backend, registry) for _ in range(3)]
    await asyncio.gather(*(caches[number % 3].ensure() for number in range(30)))
    assert (backend.calls, now() - start) == (["create"], 1)
    record = caches[0].record
    assert record is not None
    assert (record.name, record.model, record.strategy, record.total_token_count) == ("f-1", "m", "strategy-f", 2048)
    assert (record.create_time, record.expire_time) == (start + 1, start + 1001)


async def test_a_reopened_registry_still_knows_it(backend: Backend, tmp_path: Path) -> None:
    first = SqliteCacheRegistry(tmp_path / "caches")
    made, reused = await cache(backend, first).create_or_reuse()
    assert not reused
    first.close()
    second = SqliteCacheRegistry(tmp_path / "caches")
    assert await cache(backend, second).create_or_reuse() == (made, True)
    await cache(backend, second).ensure()
    assert backend.calls == ["create"]
    second.close()


async def test_a_cache_of_an_earlier_run_is_told_of_once(
    backend: Backend, registry: CacheRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "batch_llm"):
        await cache(backend, registry).ensure()
        assert "Reusing" not in caplog.text
        ours = cache(backend, registry)
        for _ in range(3):
            await ours.ensure()
        assert caplog.text.count("Reusing existing context cache f-1") == 1


async def test_other_content_is_another_cache(backend: Backend, registry: CacheRegistry) -> None:
    ours, theirs = cache(backend, registry, "f"), cache(backend, registry, "g")
    await asyncio.gather(ours.ensure(), theirs.ensure())
    assert (name_of(ours), name_of(theirs), backend.count("create")) == ("f-1", "g-2", 2)


async def test_two_caches_are_created_side_by_side(backend: Backend, registry: CacheRegistry) -> None:
    start = now()
    await asyncio.gather(*(cache(backend, registry, name).ensure() for name in "abc"))
    assert now() - start == 1


@pytest.mark.parametrize("operation", ["create_or_reuse", "renew"])
async def test_a_cache_that_its_provider_has_lost_is_made_anew(
    backend: Backend, registry: CacheRegistry, operation: str
) -> None:
    ours = cache(backend, registry)
    await ours.ensure()
    backend.alive.clear()
    record, flag = await getattr(ours, operation)()
    assert (record.name, flag) == ("f-2", operation == "renew")
    assert name_of(ours) == "f-2"


async def test_a_cache_once_begun_is_finished_and_recorded_though_its_caller_is_gone(
    backend: Backend, registry: CacheRegistry
) -> None:
    ours = cache(backend, registry)
    caller = asyncio.create_task(ours.ensure())
    await asyncio.sleep(0.5)
    caller.cancel()
    await asyncio.wait([caller])
    await ours.join()
    assert name_of(ours) == "f-1"
    assert backend.calls == ["create"]


async def test_a_failure_to_create_reaches_the_caller_and_the_next_one_tries_again(
    backend: Backend, registry: CacheRegistry
) -> None:
    ours = cache(backend, registry)
    backend.failing["create"] = ConnectionError("no route")
    with pytest.raises(ConnectionError):
        await ours.ensure()
    backend.failing.clear()
    await ours.ensure()
    assert backend.count("create") == 2


async def test_a_life_asked_for_beats_the_policys(backend: Backend, registry: CacheRegistry) -> None:
    ours = cache(backend, registry)
    created, _ = await ours.create_or_reuse(50)
    assert created.expire_time == now() + 50
    renewed, recreated = await ours.renew(70)
    assert (renewed.expire_time, recreated) == (now() + 70, False)
    again, reused = await ours.create_or_reuse(5000)
    assert (again, reused) == (renewed, True)


# -- renewal -----------------------------------------------------------------------------------------------------------


async def test_a_cache_in_use_is_renewed_in_the_background_once(backend: Backend, registry: CacheRegistry) -> None:
    ours = cache(backend, registry)
    await ours.ensure()
    await asyncio.sleep(900)
    await ours.ensure()
    await ours.join()
    assert backend.count("renew") == 0, "a buffer of life is left"
    await asyncio.sleep(1)
    start = now()
    for _ in range(10):
        await ours.ensure()
    assert now() == start, "no caller waits for it"
    assert len(asyncio.all_tasks()) == 2, "the test's own and one that renews"
    await ours.join()
    assert backend.count("renew") == 1
    assert ours.record is not None
    assert (ours.record.name, ours.record.expire_time) == ("f-1", now() + 1000)
    await asyncio.sleep(901)
    await ours.ensure()
    await ours.join()
    assert backend.count("renew") == 2, "and again, next time"


async def test_strategies_that_share_a_cache_renew_it_once(backend: Backend, registry: CacheRegistry) -> None:
    caches = [cache(backend, registry) for _ in range(3)]
    await caches[0].ensure()
    await asyncio.sleep(950)
    for each in caches:
        await each.ensure()
    for each in caches:
        await each.join()
    assert backend.count("renew") == 1


async def test_a_renewal_that_fails_harms_nobody_and_is_tried_again(
    backend: Backend, registry: CacheRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    ours = cache(backend, registry)
    await ours.ensure()
    backend.failing["renew"] = ConnectionError("no route")
    await asyncio.sleep(950)
    with caplog.at_level(logging.WARNING, "batch_llm"):
        await ours.ensure()
        await ours.join()
    assert "could not renew the context cache of strategy 'strategy-f'" in caplog.text
    backend.failing.clear()
    await ours.ensure()
    await ours.join()
    assert backend.count("renew") == 1  # not at every item
    await asyncio.sleep(30)
    await ours.ensure()
    await ours.join()
    assert backend.count("renew") == 2
    assert ours.record is not None
    assert ours.record.expire_time == now() + 1000


async def test_an_expired_cache_is_made_anew(backend: Backend, registry: CacheRegistry) -> None:
    ours = cache(backend, registry)
    await ours.ensure()
    await asyncio.sleep(1000)
    assert ours.usable is None
    await asyncio.gather(*(ours.ensure() for _ in range(5)))
    assert backend.calls == ["create", "drop", "create"]
    assert name_of(ours) == "f-2"
    await asyncio.sleep(1000)
    record, recreated = await ours.renew()
    assert (record.name, recreated) == ("f-3", True)


async def test_without_auto_renew_a_cache_is_not_kept_alive(backend: Backend, registry: CacheRegistry) -> None:
    ours = cache(backend, registry, auto_renew=False)
    await ours.ensure()
    await asyncio.sleep(950)
    await ours.ensure()
    await ours.join()
    await asyncio.sleep(50)
    with pytest.raises(BatchLLMError, match="f-1 of strategy 'strategy-f' has expired and auto_renew is off") as raised:
        await ours.ensure()
    assert raised.value.reason is ErrorReason.CACHE_EXPIRED
    assert backend.calls == ["create"]
    await ours.create_or_reuse()
    await ours.ensure()
    assert name_of(ours) == "f-2"


async def test_without_auto_renew_an_expired_cache_stays_an_error_whatever_others_do(
    backend: Backend, registry: CacheRegistry
) -> None:
    ours = cache(backend, registry, "f", auto_renew=False)
    await ours.ensure()
    await asyncio.sleep(1000)
    await cache(backend, registry, "g").ensure()  # drops what has expired
    with pytest.raises(BatchLLMError) as raised:
        await ours.ensure()
    assert raised.value.reason is ErrorReason.CACHE_EXPIRED


async def test_there_must_be_a_cache_to_renew(backend: Backend, registry: CacheRegistry) -> None:
    with pytest.raises(BatchLLMError) as raised:
        await cache(backend, registry).renew()
    assert raised.value.reason is ErrorReason.CACHE_NOT_FOUND


# -- delete and drop ---------------------------------------------------------------------------------------------------


async def test_concurrent_deletes_make_one_call(backend: Backend, registry: CacheRegistry) -> None:
    caches = [cache(backend, registry) for _ in range(2)]
    await caches[0].ensure()
    outcomes = await asyncio.gather(*(caches[number % 2].delete() for number in range(6)))
    assert [outcome.name for outcome in outcomes if outcome is not None] == ["f-1"]
    assert backend.count("drop") == 1
    assert (caches[0].record, backend.alive) == (None, set())
    assert await caches[0].delete() is None
    await caches[1].ensure()
    assert name_of(caches[1]) == "f-2"


async def test_a_delete_that_fails_keeps_the_record(backend: Backend, registry: CacheRegistry) -> None:
    ours = cache(backend, registry)
    await ours.ensure()
    backend.failing["drop"] = ConnectionError()
    with pytest.raises(ConnectionError):
        await ours.delete()
    assert name_of(ours) == "f-1", "or it would be billed and nobody would know"


async def test_creating_drops_what_has_expired_at_the_same_provider_only(
    backend: Backend, registry: CacheRegistry
) -> None:
    await cache(backend, registry, "old").ensure()
    await cache(backend, registry, "young", ttl_seconds=5000).ensure()
    await registry.put(CacheRecord("other", "x", "x-1", "m", "s", 0, now() + 1, 1))
    await asyncio.sleep(1000)
    await cache(backend, registry, "new").ensure()
    assert {record.name for record in await registry.list()} == {"young-2", "x-1", "new-3"}
    assert backend.alive == {"young-2", "new-3"}


async def test_an_expired_cache_that_cannot_be_dropped_keeps_nobody_from_a_new_one(
    backend: Backend, registry: CacheRegistry
) -> None:
    await cache(backend, registry, "old").ensure()
    await asyncio.sleep(1000)
    backend.failing["drop"] = ConnectionError("no route")
    ours = cache(backend, registry, "new")
    await ours.ensure()
    assert ours.usable is not None


async def test_dropping_what_has_expired_never_forgets_what_has_just_been_made(
    backend: Backend, registry: CacheRegistry
) -> None:
    first, second = cache(backend, registry, "a"), cache(backend, registry, "b")
    await asyncio.gather(first.ensure(), second.ensure())
    await asyncio.sleep(1000)
    backend.latency = 2
    making = asyncio.create_task(second.ensure())  # drops a and b, then makes b
    await asyncio.sleep(3)
    backend.latency = 4
    dropping = asyncio.create_task(first.ensure())  # drops the old b, and is slower
    await asyncio.sleep(0.5)
    backend.latency = 0
    await asyncio.gather(making, dropping)
    assert backend.alive == {record.name for record in await registry.list()}, "paid for, and nobody knows of it"
    assert second.usable is not None


async def test_nothing_is_left_running(
    backend: Backend, registry: CacheRegistry, left_behind: Callable[[], set[str]]
) -> None:
    ours = cache(backend, registry)
    await ours.ensure()
    await asyncio.sleep(950)
    await ours.ensure()
    assert left_behind() == {"renew-cache-strategy-f"}
    await ours.join()
    await asyncio.sleep(0)
    assert left_behind() == set()


async def test_a_cache_that_is_known_to_be_lost_is_made_again(backend: Backend, registry: CacheRegistry) -> None:
    ours = cache(backend, registry, "f")
    await ours.ensure()
    backend.lost.add("f-1")
    backend.alive.discard("f-1")
    await ours.ensure()
    assert backend.count("create") == 2
    assert name_of(ours) == "f-2"


async def test_those_who_wait_for_a_creation_that_fails_are_told_and_the_next_tries_again(
    backend: Backend, registry: CacheRegistry
) -> None:
    ours = cache(backend, registry, "f")
    backend.failing["create"] = ConnectionError("no route")
    first = [asyncio.ensure_future(ours.ensure()) for _ in range(10)]
    await asyncio.sleep(0.5)  # and some come while it is under way
    outcomes = await asyncio.gather(*first, *(ours.ensure() for _ in range(10)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ConnectionError] * 20
    assert backend.count("create") == 1
    del backend.failing["create"]
    await ours.ensure()
    assert backend.count("create") == 2


async def test_a_time_limit_of_the_providers_is_not_taken_for_ours(backend: Backend, registry: CacheRegistry) -> None:
    backend.failing["create"] = TimeoutError("no answer within 60 s")
    with pytest.raises(TimeoutError, match="no answer within 60 s"):
        await cache(backend, registry).create_or_reuse()
    backend.latency = 601
    with pytest.raises(ProviderError, match=r"took longer than 600 s; try again") as refused:
        await cache(backend, registry, "g").create_or_reuse()
    assert refused.value.reason is ErrorReason.PROVIDER_TIMEOUT


async def test_a_registry_that_cannot_be_asked_keeps_nobody_from_a_known_cache(
    backend: Backend, registry: CacheRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unreachable:
        async def __call__(self, *_: object) -> Any:
            raise ProviderError("the registry cannot be used now")

    ours = cache(backend, registry)
    await ours.ensure()
    for method in ("reload", "put", "remove", "list", "collect", "claim", "unclaim"):
        monkeypatch.setattr(registry, method, Unreachable())
    await ours.ensure()
    assert await ours.in_use() is not None
    await ours.lost("f-1")
    assert await ours.in_use() is not None, "who uses it finds out again that it is gone"
    await asyncio.sleep(1000)
    start = now()
    outcomes = await asyncio.gather(*(ours.ensure() for _ in range(10)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {ProviderError}
    assert (now(), backend.calls) == (start, ["create"])


# -- several processes with one registry -------------------------------------------------------------------------------


@pytest.fixture
def registries(tmp_path: Path) -> Iterator[list[CacheRegistry]]:
    """The registries of two processes, on one file."""
    both = [SqliteCacheRegistry(tmp_path / "caches") for _ in range(2)]
    yield both
    for each in both:
        each.close()


@pytest.mark.parametrize("latency", [1, 500])
async def test_one_process_creates_and_the_other_waits_for_it(registries: list[CacheRegistry], latency: float) -> None:
    backend = Backend(latency)
    one, two = (cache(backend, registry) for registry in registries)
    await asyncio.gather(one.ensure(), two.ensure())
    assert (backend.calls, name_of(one), name_of(two)) == (["create"], "f-1", "f-1")


async def test_a_process_that_died_while_it_created_holds_nobody_up_for_long(
    backend: Backend, registries: list[CacheRegistry], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_time_for_that(*_: object) -> None:
        pass

    dying = asyncio.create_task(cache(Backend(500), registries[0]).ensure())
    await asyncio.sleep(100)
    monkeypatch.setattr(registries[0], "unclaim", no_time_for_that)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.wait([dying])
    start = now()
    await cache(backend, registries[1]).ensure()
    assert now() - start < 12
    assert backend.calls == ["create"]


@pytest.mark.parametrize("gone", ["expired", "deleted"])
async def test_two_processes_that_renew_what_is_gone_make_one_new_cache(
    backend: Backend, registries: list[CacheRegistry], gone: str
) -> None:
    one, two = (cache(backend, registry) for registry in registries)
    await one.ensure()
    if gone == "expired":
        await asyncio.sleep(1000)
    else:
        backend.failing["renew"] = CacheGoneError("gone", cache_name="f-1")
    renewed = await asyncio.gather(one.renew(), two.renew())
    assert [(record.name, recreated) for record, recreated in renewed] == [("f-2", True)] * 2
    assert backend.count("create") == 2


async def test_a_cache_that_both_use_is_renewed_by_one(backend: Backend, registries: list[CacheRegistry]) -> None:
    caches = [cache(backend, registry) for registry in registries]
    await asyncio.gather(*(each.ensure() for each in caches))
    await asyncio.sleep(950)
    for _ in range(2):
        await asyncio.gather(*(each.ensure() for each in caches))
        await asyncio.gather(*(each.join() for each in caches))
    assert backend.calls == ["create", "renew"]


async def test_a_cache_that_another_process_deleted_is_made_anew_though_it_would_not_be_renewed(
    backend: Backend, registries: list[CacheRegistry]
) -> None:
    one, two = (cache(backend, registry, auto_renew=False) for registry in registries)
    await one.ensure()
    await two.ensure()
    await one.delete()
    await two.look()
    assert (await two.in_use(), backend.calls) == (two.record, ["create", "drop", "create"])
    assert name_of(two) == "f-2"


async def test_what_is_made_just_before_the_claim_is_ours_is_used(
    backend: Backend, registries: list[CacheRegistry], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (cache(backend, registry) for registry in registries)
    claim = registries[0].claim

    async def late(*arguments: Any) -> bool:
        await two.ensure()
        return await claim(*arguments)

    monkeypatch.setattr(registries[0], "claim", late)
    await one.ensure()
    assert (backend.calls, name_of(one)) == (["create"], "f-1")


async def test_a_claim_ends_with_the_creation(
    backend: Backend, registries: list[CacheRegistry], left_behind: Callable[[], set[str]]
) -> None:
    backend.failing["create"] = ConnectionError("no route")
    one, two = (cache(backend, registry) for registry in registries)
    with pytest.raises(ConnectionError):
        await one.ensure()
    backend.failing.clear()
    start = now()
    await two.ensure()
    assert now() - start == backend.latency
    await asyncio.sleep(0)
    assert left_behind() == set()
