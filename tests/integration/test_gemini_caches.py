"""The context cache's life at Gemini, with the real SDK; what is counted are the requests at the emulator."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from batch_llm import ErrorReason
from batch_llm.caching import CacheRefusedError, CacheState, SqliteCacheRegistry
from batch_llm.emulator import GeminiEmulator
from batch_llm.model import BatchLLMError
from batch_llm.strategies.gemini.connection import Connection

from .gemini import (
    HANDBOOK,
    HANDBOOK_TOKENS,
    INSTRUCTION,
    MODEL,
    Watch,
    all_first_time,
    arrived,
    bodies,
    cached,
    counts,
    new_key,
    processor,
    record_of,
    run,
    run_once,
    users_client,
)

BAD_KEY = "API key not valid. Please pass a valid API key."


@pytest.fixture
def watch(gemini_emulator: GeminiEmulator) -> Watch:
    return Watch(gemini_emulator)


@pytest.fixture
async def client(gemini_emulator: GeminiEmulator) -> AsyncIterator[Any]:
    async with users_client(gemini_emulator) as client:
        yield client


@pytest.fixture
def connection(gemini_emulator: GeminiEmulator) -> Connection:
    """The client that the sidecar makes: it sends nothing twice, whatever is installed beside the SDK."""
    return Connection(api_key=new_key(), base_url=gemini_emulator.url)


# -- expiry ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["permission_denied", "expired", "not_found"])
async def test_a_cache_that_expires_under_ten_calls_is_made_anew_once(
    client: Any, gemini_emulator: GeminiEmulator, watch: Watch, style: str
) -> None:
    gemini_emulator.configure(missing_cache=style)
    held = gemini_emulator.hold(kind="generate")
    async with processor(workers=10) as by:
        batch = asyncio.create_task(run(by, cached(client, watch), 10))
        await arrived(gemini_emulator, "generate", 10)
        watch.fall_behind(3600)  # it ends at Google, and we do not know
        gemini_emulator.release(held)
        all_first_time(await batch, 10)
    assert counts(gemini_emulator) == {"list": 2, "create": 2, "generate": 20}
    assert gemini_emulator.count("generate", status=200) == 10
    assert [cache["state"] for cache in gemini_emulator.caches()] == ["EXPIRED", "ACTIVE"]


async def test_a_cache_that_is_known_to_have_expired_is_not_called_with(
    client: Any, gemini_emulator: GeminiEmulator, watch: Watch
) -> None:
    strategy = cached(client, watch)
    all_first_time(await run_once(strategy, 10), 10)
    watch.advance(3600)
    assert strategy.context_cache.state_of(record_of(strategy)) is CacheState.EXPIRED
    all_first_time(await run_once(strategy, 10), 10)
    assert counts(gemini_emulator) == {"list": 2, "create": 2, "generate": 20}
    assert gemini_emulator.count("generate", status=200) == 20


async def test_a_cache_that_is_deleted_behind_our_back_is_made_anew_once(
    client: Any, gemini_emulator: GeminiEmulator, watch: Watch
) -> None:
    strategy = cached(client, watch)
    all_first_time(await run_once(strategy, 10), 10)
    gemini_emulator.forget()
    all_first_time(await run_once(strategy, 30, workers=10), 30)
    assert counts(gemini_emulator, status=200) == {"list": 2, "create": 2, "generate": 40}
    assert 1 <= gemini_emulator.count("generate", status=403) <= 10  # those that were under way before the first told


async def test_a_cache_that_is_listed_but_cannot_be_used_is_not_taken_again(
    client: Any, gemini_emulator: GeminiEmulator, watch: Watch
) -> None:
    strategy = cached(client, watch)
    record, _ = await strategy.context_cache.create_or_reuse()
    gone = "CachedContent not found (or permission denied)"
    gemini_emulator.fail(403, message=gone, kind="generate", contains=record.name, times=None)
    all_first_time(await run_once(strategy, 10), 10)
    assert counts(gemini_emulator, status=200) == {"list": 2, "create": 2, "generate": 10}
    assert [cache["state"] for cache in gemini_emulator.caches()] == ["ACTIVE"] * 2


async def test_an_item_whose_caches_all_vanish_fails_in_the_end(
    client: Any, gemini_emulator: GeminiEmulator, watch: Watch
) -> None:
    gemini_emulator.fail(403, message="CachedContent not found (or permission denied)", kind="generate", times=None)
    (result,) = (await run_once(cached(client, watch), 1)).results
    assert (result.reason, result.attempts) == (ErrorReason.CACHE_EXPIRED, 3)
    assert gemini_emulator.count("generate") == 4  # the first was no attempt


@pytest.mark.parametrize("seen_by_us", [True, False])
async def test_without_auto_renew_an_expired_cache_is_an_error_that_says_so(
    client: Any, gemini_emulator: GeminiEmulator, watch: Watch, seen_by_us: bool
) -> None:
    strategy = cached(client, watch, auto_renew=False)
    all_first_time(await run_once(strategy, 2), 2)
    watch.advance(3400)
    all_first_time(await run_once(strategy, 2), 2)
    (watch.advance if seen_by_us else watch.fall_behind)(200)
    for result in (await run_once(strategy, 2)).results:
        assert (result.reason, result.retryable) == (ErrorReason.CACHE_EXPIRED, False)
        assert "auto_renew" in str(result.error)
    seen = counts(gemini_emulator)
    assert (seen["list"], seen["create"], "update" in seen) == (1, 1, False)
    assert seen["generate"] - gemini_emulator.count("generate", status=200) == (0 if seen_by_us else 2)
    _, recreated = await strategy.context_cache.create_or_reuse()
    assert not recreated
    all_first_time(await run_once(strategy, 2), 2)


# -- renewal -----------------------------------------------------------------------------------------------------------


async def test_no_call_waits_for_a_renewal(client: Any, gemini_emulator: GeminiEmulator, watch: Watch) -> None:
    strategy = cached(client, watch)
    async with processor(workers=10) as by:
        all_first_time(await run(by, strategy, 10), 10)
        watch.advance(3299)
        all_first_time(await run(by, strategy, 10), 10)
        assert gemini_emulator.count("update") == 0  # 301 s are left
        watch.advance(2)
        gemini_emulator.hold(kind="update")
        all_first_time(await run(by, strategy, 50), 50)
        await arrived(gemini_emulator, "update")
        all_first_time(await run(by, strategy, 50), 50)  # and the update is still under way
        assert gemini_emulator.count("update", status=200) == 0
        gemini_emulator.release()
        await strategy.context_cache.join()
        all_first_time(await run(by, strategy, 10), 10)
    assert counts(gemini_emulator) == {"list": 1, "create": 1, "update": 1, "generate": 130}
    assert record_of(strategy).expire_time == pytest.approx(watch() + 3600, abs=0.01)
    assert [cache["state"] for cache in gemini_emulator.caches()] == ["ACTIVE"]


@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 403, "message": "denied"}, {"drop": "before"}])
async def test_a_renewal_that_fails_harms_nobody_and_is_tried_again(
    connection: Connection,
    gemini_emulator: GeminiEmulator,
    watch: Watch,
    caplog: pytest.LogCaptureFixture,
    fault: dict[str, Any],
) -> None:
    strategy = cached(connection, watch)
    async with processor() as by:
        all_first_time(await run(by, strategy, 10), 10)
        watch.advance(3400)
        rule = gemini_emulator.fail(**fault, kind="update", times=None)
        for updates in (1, 2):
            all_first_time(await run(by, strategy, 10), 10)
            await strategy.context_cache.join()
            all_first_time(await run(by, strategy, 10), 10)  # too soon to try again
            await strategy.context_cache.join()
            assert gemini_emulator.count("update") == updates
            watch.advance(31)
        assert "could not renew" in caplog.text
        gemini_emulator.remove(rule)
        all_first_time(await run(by, strategy, 10), 10)
        await strategy.context_cache.join()
    assert counts(gemini_emulator) == {"list": 1, "create": 1, "update": 3, "generate": 60}
    assert record_of(strategy).expire_time == pytest.approx(watch() + 3600, abs=0.01)


async def test_a_renewal_that_finds_the_cache_gone_makes_a_new_one(
    client: Any, gemini_emulator: GeminiEmulator, watch: Watch
) -> None:
    strategy = cached(client, watch)
    async with processor() as by:
        all_first_time(await run(by, strategy, 10), 10)
        watch.advance(3400)
        gemini_emulator.hold(kind="update")
        all_first_time(await run(by, strategy, 10), 10)
        await arrived(gemini_emulator, "update")
        gemini_emulator.forget()
        gemini_emulator.release()
        await strategy.context_cache.join()
        all_first_time(await run(by, strategy, 10), 10)
    assert counts(gemini_emulator) == {"list": 1, "create": 2, "update": 1, "generate": 30}
    assert gemini_emulator.count("generate", status=200) == 30


@pytest.mark.parametrize("skew", [600, -600])
async def test_googles_clock_may_differ_from_ours(
    client: Any, gemini_emulator: GeminiEmulator, watch: Watch, skew: float
) -> None:
    gemini_emulator.configure(clock_skew_seconds=skew)
    strategy = cached(client, watch)
    async with processor() as by:
        all_first_time(await run(by, strategy, 10), 10)
        record = record_of(strategy)
        assert (record.create_time, record.expire_time) == pytest.approx((watch(), watch() + 3600), abs=0.01)
        watch.advance(3299)
        all_first_time(await run(by, strategy, 10), 10)
        await strategy.context_cache.join()
        assert gemini_emulator.count("update") == 0
        watch.advance(2)
        all_first_time(await run(by, strategy, 10), 10)
        await strategy.context_cache.join()
    assert counts(gemini_emulator) == {"list": 1, "create": 1, "update": 1, "generate": 30}
    assert record_of(strategy).expire_time == pytest.approx(watch() + 3600, abs=0.01)


@pytest.mark.parametrize("skew", [600, -600])
async def test_a_cache_that_is_found_lives_as_long_as_google_says_by_its_own_clock(
    client: Any, gemini_emulator: GeminiEmulator, watch: Watch, skew: float
) -> None:
    gemini_emulator.configure(clock_skew_seconds=skew)
    first = cached(client, watch)
    all_first_time(await run_once(first, 1), 1)
    watch.advance(3000)
    second = cached(client, watch)
    all_first_time(await run_once(second, 1), 1)
    # A date in a header has whole seconds.
    assert record_of(second).expire_time == pytest.approx(watch() + 600, abs=1.1)
    watch.advance(350)
    third = cached(client, watch)
    all_first_time(await run_once(third, 1), 1)
    assert record_of(third).name != record_of(first).name  # 250 s are too few to begin with
    assert counts(gemini_emulator) == {"list": 3, "create": 2, "generate": 3}


# -- one cache for all -------------------------------------------------------------------------------------------------


async def test_two_processors_share_one_cache(gemini_emulator: GeminiEmulator, watch: Watch) -> None:
    key = new_key()
    registry = SqliteCacheRegistry()
    async with users_client(gemini_emulator, key) as one, users_client(gemini_emulator, key) as two:
        batches = (run_once(cached(client, watch, registry), 20) for client in (one, two))
        for result in await asyncio.gather(*batches):
            all_first_time(result, 20)
    assert counts(gemini_emulator) == {"list": 1, "create": 1, "generate": 40}


@pytest.mark.parametrize(
    ("more", "creations"),
    [
        ({}, 1),
        ({"config": {"system_instruction": INSTRUCTION, "temperature": 0.5}}, 1),  # no part of what is cached
        ({"model": f"models/{MODEL}"}, 1),
        ({"model": "gemini-2.5-pro"}, 2),
        ({"cached_content": [HANDBOOK + "."]}, 2),
        ({"config": {"system_instruction": "Be brief."}}, 2),
        ({"config": {"system_instruction": INSTRUCTION, "tools": [{"google_search": {}}]}}, 2),
        ({"cache_tags": {"tenant": "b"}}, 2),
    ],
)
async def test_what_makes_a_cache_another(
    client: Any, gemini_emulator: GeminiEmulator, watch: Watch, more: dict[str, Any], creations: int
) -> None:
    for strategy in (cached(client, watch), cached(client, watch, **more)):  # each with memories of its own
        all_first_time(await run_once(strategy, 1), 1)
    assert counts(gemini_emulator) == {"list": 2, "create": creations, "generate": 2}


async def test_the_next_run_finds_the_cache_by_listing(
    gemini_emulator: GeminiEmulator, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    key, results = new_key(), []
    for _ in range(2):
        async with users_client(gemini_emulator, key) as client:
            with caplog.at_level(logging.INFO, "batch_llm"):
                results.append(await run_once(cached(client, watch), 10))
    for result in results:
        all_first_time(result, 10)
        assert result.total_cached_tokens == 10 * HANDBOOK_TOKENS
    assert counts(gemini_emulator) == {"list": 2, "create": 1, "generate": 20}
    assert caplog.text.count("Reusing existing Gemini cache") == 1
    assert caplog.text.count("Created Gemini cache") == 1


async def test_the_next_run_with_the_same_state_does_not_even_list(
    gemini_emulator: GeminiEmulator, watch: Watch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = new_key()
    for created in (True, False):
        registry = SqliteCacheRegistry(tmp_path / "caches")
        caplog.clear()
        async with users_client(gemini_emulator, key) as client:
            with caplog.at_level(logging.INFO, "batch_llm"):
                all_first_time(await run_once(cached(client, watch, registry), 10), 10)
        registry.close()
        assert caplog.text.count("Created Gemini cache") == (1 if created else 0)
        assert caplog.text.count("Reusing existing Gemini cache") == (0 if created else 1)
    assert counts(gemini_emulator) == {"list": 1, "create": 1, "generate": 20}


async def test_other_peoples_caches_are_never_taken(gemini_emulator: GeminiEmulator, watch: Watch) -> None:
    key, other = new_key(), new_key()
    gemini_emulator.configure(max_page_size=100)
    async with users_client(gemini_emulator, key) as client:
        strategy = cached(client, watch)
        mine = strategy.context_cache.fingerprint
        gemini_emulator.seed(MODEL, key=key, count=350)
        gemini_emulator.seed(MODEL, key=key, display_name=mine[:-1])
        gemini_emulator.seed(MODEL, key=key, display_name=f"{mine}0")
        gemini_emulator.seed(MODEL, key=key, display_name=f"x{mine}")
        gemini_emulator.seed(MODEL, key=key, display_name=mine.upper())
        gemini_emulator.seed("gemini-2.5-pro", key=key, display_name=mine)
        gemini_emulator.seed(MODEL, key=key, display_name=mine, ttl_seconds=299)  # too little life left
        gemini_emulator.seed(MODEL, key=other, display_name=mine)
        all_first_time(await run_once(strategy, 10), 10)
        assert counts(gemini_emulator) == {"list": 4, "create": 1, "generate": 10}
        gemini_emulator.seed(MODEL, key=key, count=350)
        again = cached(client, watch)  # its own is now on the last page but three
        all_first_time(await run_once(again, 10), 10)
    assert counts(gemini_emulator) == {"list": 4 + 8, "create": 1, "generate": 20}
    assert record_of(again).name == record_of(strategy).name
    assert {request["cached_content"] for request in gemini_emulator.requests("generate")} == {record_of(again).name}


async def test_of_several_caches_the_one_with_the_most_life_is_taken(
    gemini_emulator: GeminiEmulator, watch: Watch
) -> None:
    key = new_key()
    async with users_client(gemini_emulator, key) as client:
        strategy = cached(client, watch)
        mine = strategy.context_cache.fingerprint
        names = [
            gemini_emulator.seed(MODEL, key=key, display_name=mine, ttl_seconds=life)[0] for life in (900, 3000, 600)
        ]
        all_first_time(await run_once(strategy, 1), 1)
    assert record_of(strategy).name == names[1]
    assert record_of(strategy).expire_time == pytest.approx(watch() + 3000, abs=1.1)
    assert counts(gemini_emulator) == {"list": 1, "generate": 1}


async def test_closing_leaves_the_cache_alive(client: Any, gemini_emulator: GeminiEmulator, watch: Watch) -> None:
    async with processor() as by:
        await run(by, cached(client, watch), 3)
        await by.cleanup()
    assert counts(gemini_emulator) == {"list": 1, "create": 1, "generate": 3}
    assert len(gemini_emulator.caches("ACTIVE")) == 1


async def test_a_dry_run_creates_nothing(client: Any, gemini_emulator: GeminiEmulator, watch: Watch) -> None:
    result = await run_once(cached(client, watch), 3, dry_run=True)
    assert [(each.success, each.attempts) for each in result.results] == [(True, 0)] * 3
    assert counts(gemini_emulator) == {}


# -- creation ----------------------------------------------------------------------------------------------------------


async def test_a_caller_that_is_cancelled_while_it_is_created_leaves_no_orphan(
    client: Any, gemini_emulator: GeminiEmulator, watch: Watch
) -> None:
    strategy = cached(client, watch)
    gemini_emulator.hold(kind="create")
    async with processor() as by:
        batch = asyncio.create_task(run(by, strategy, 10))
        await arrived(gemini_emulator, "create")
        batch.cancel()
        await asyncio.wait([batch])
        closing = asyncio.create_task(by.cleanup())
        gemini_emulator.release()
        await closing
    all_first_time(await run_once(strategy, 10), 10)
    assert counts(gemini_emulator) == {"list": 1, "create": 1, "generate": 10}
    assert [cache["name"] for cache in gemini_emulator.caches()] == [record_of(strategy).name]


@pytest.mark.parametrize("drop", ["after", "middle"])
async def test_a_cache_whose_creation_was_answered_into_the_void_is_adopted(
    connection: Connection, gemini_emulator: GeminiEmulator, watch: Watch, drop: str
) -> None:
    gemini_emulator.fail(drop=drop, kind="create")
    strategy = cached(connection, watch)
    all_first_time(await run_once(strategy, 10), 10)
    assert counts(gemini_emulator) == {"list": 2, "create": 1, "generate": 10}
    assert [cache["name"] for cache in gemini_emulator.caches()] == [record_of(strategy).name]


async def test_a_creation_that_fails_for_now_is_tried_again_without_spending_attempts(
    connection: Connection, gemini_emulator: GeminiEmulator, watch: Watch
) -> None:
    gemini_emulator.fail(503, kind="create")
    gemini_emulator.fail(quota="requests_per_minute", kind="create", retry_after_seconds=30)
    gemini_emulator.fail(drop="before", kind="list", skip=2)
    all_first_time(await run_once(cached(connection, watch), 10), 10)
    seen = counts(gemini_emulator)
    assert seen == {"list": 4, "create": 3, "generate": 10}
    assert len(gemini_emulator.caches()) == 1


async def test_a_bad_key_is_known_before_anything_is_created(gemini_emulator: GeminiEmulator, watch: Watch) -> None:
    async with users_client(gemini_emulator, "bad-key") as client:
        (result,) = (await run_once(cached(client, watch), 1)).results
    assert (result.reason, result.retryable, result.attempts) == (ErrorReason.AUTHENTICATION_FAILED, False, 0)
    assert "API key not valid" in str(result.error)
    assert counts(gemini_emulator) == {"list": 1}


@pytest.mark.parametrize(("status", "message"), [(400, BAD_KEY), (403, "Caller does not have permission")])
async def test_a_key_that_may_not_create_is_no_reason_to_go_on(
    client: Any, gemini_emulator: GeminiEmulator, watch: Watch, status: int, message: str
) -> None:
    gemini_emulator.fail(status, message=message, kind="create", times=None)
    result = await run_once(cached(client, watch), 10)
    assert {(each.reason, each.retryable, each.attempts) for each in result.results} == {
        (ErrorReason.AUTHENTICATION_FAILED, False, 0)
    }
    assert counts(gemini_emulator) == {"list": 1, "create": 1}


@pytest.mark.parametrize(("status", "message"), [(400, BAD_KEY), (403, "Caller does not have permission")])
async def test_a_key_that_may_not_generate_is_no_reason_for_a_new_cache(
    client: Any, gemini_emulator: GeminiEmulator, watch: Watch, status: int, message: str
) -> None:
    gemini_emulator.fail(status, message=message, kind="generate", times=None)
    result = await run_once(cached(client, watch), 10)
    assert {(each.reason, each.retryable, each.attempts) for each in result.results} == {
        (ErrorReason.AUTHENTICATION_FAILED, False, 1)
    }
    assert counts(gemini_emulator) == {"list": 1, "create": 1, "generate": 10}


@pytest.mark.parametrize(
    ("settings", "more", "state", "says"),
    [
        ({"free_tier": True}, {}, CacheState.UNCACHED_UNAVAILABLE, "free tier"),
        ({}, {"cached_content": ["A small handbook."]}, CacheState.UNCACHED_TOO_SMALL, "has 10 tokens"),
    ],
)
async def test_where_google_does_not_cache_items_carry_the_content(
    client: Any,
    gemini_emulator: GeminiEmulator,
    watch: Watch,
    caplog: pytest.LogCaptureFixture,
    settings: dict[str, Any],
    more: dict[str, Any],
    state: CacheState,
    says: str,
) -> None:
    gemini_emulator.configure(**settings)
    strategy = cached(client, watch, **more)
    all_first_time(await run_once(strategy, 10), 10)
    all_first_time(await run_once(strategy, 10), 10)
    assert counts(gemini_emulator) == {"list": 1, "create": 1, "generate": 20}
    assert caplog.text.count("runs without a context cache") == 1
    refused = strategy.context_cache.refused
    assert refused.state is state
    assert says in str(refused)
    content = more.get("cached_content", [HANDBOOK])[0]
    for body in bodies(gemini_emulator, "generate"):
        assert content in body
        assert INSTRUCTION in body
        assert "cachedContent" not in body
    with pytest.raises(CacheRefusedError):
        await strategy.context_cache.create_or_reuse()  # asks again, once
    assert counts(gemini_emulator) == {"list": 2, "create": 2, "generate": 20}
    gemini_emulator.configure(free_tier=False, min_cached_tokens=1)
    await strategy.context_cache.create_or_reuse()
    all_first_time(await run_once(strategy, 1), 1)
    assert '"cachedContent"' in bodies(gemini_emulator, "generate")[-1]


# -- asked for by name -------------------------------------------------------------------------------------------------


async def test_ten_deletes_at_a_time_make_one_call(
    client: Any, gemini_emulator: GeminiEmulator, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    registry = SqliteCacheRegistry()
    one, two = cached(client, watch, registry), cached(client, watch, registry)
    await run_once(one, 1)
    deleted = await asyncio.gather(*((one, two)[number % 2].delete_cache() for number in range(10)))
    assert sorted(deleted) == [False] * 9 + [True]
    assert gemini_emulator.count("delete") == 1
    assert gemini_emulator.caches("ACTIVE") == []
    all_first_time(await run_once(one, 1), 1)
    assert gemini_emulator.count("create") == 2


async def test_a_delete_finds_the_cache_of_an_earlier_run(
    client: Any, gemini_emulator: GeminiEmulator, watch: Watch
) -> None:
    await run_once(cached(client, watch), 1)
    strategy = cached(client, watch)
    assert await strategy.delete_cache()
    assert not await strategy.delete_cache()
    assert counts(gemini_emulator) == {"list": 3, "create": 1, "generate": 1, "delete": 1}
    assert gemini_emulator.caches("ACTIVE") == []


async def test_a_delete_takes_all_that_are_there_however_little_life_they_have_left(
    client: Any, gemini_emulator: GeminiEmulator, watch: Watch
) -> None:
    strategies = [cached(client, watch, cache_ttl_seconds=3600, cache_renewal_buffer_seconds=3000) for _ in range(2)]
    rule = gemini_emulator.hold(kind="create")
    runs = [asyncio.create_task(run_once(strategy, 1)) for strategy in strategies]  # as two processes that meet
    await arrived(gemini_emulator, "create", 2)
    gemini_emulator.release(rule)
    await asyncio.gather(*runs)
    assert len(gemini_emulator.caches("ACTIVE")) == 2
    watch.advance(700)
    assert await cached(client, watch).delete_cache()
    assert gemini_emulator.caches("ACTIVE") == []


async def test_another_key_has_a_cache_of_its_own_in_the_same_registry(
    gemini_emulator: GeminiEmulator, watch: Watch
) -> None:
    registry = SqliteCacheRegistry()
    gemini_emulator.configure(keys={"key-a": "project-a", "key-b": "project-b"})
    async with users_client(gemini_emulator, "key-a") as a, users_client(gemini_emulator, "key-b") as b:
        first, second = cached(a, watch, registry), cached(b, watch, registry)
        await run_once(first, 1)
        assert not await second.delete_cache()
        await run_once(second, 1)
        await run_once(first, 1)
    assert {record.provider_name for record in await registry.list()} == {"gemini"}
    assert gemini_emulator.count("create") == 2


async def test_strategies_of_equal_content_share_what_has_gone_wrong(
    client: Any, gemini_emulator: GeminiEmulator, watch: Watch
) -> None:
    registry = SqliteCacheRegistry()
    strategies = [cached(client, watch, registry=registry) for _ in range(20)]
    gemini_emulator.fail(401, kind="create", times=None)
    results = [result for strategy in strategies for result in (await run_once(strategy, 1)).results]
    assert {result.reason for result in results} == {ErrorReason.AUTHENTICATION_FAILED}
    assert gemini_emulator.count("create") <= 5  # one, then ever more rarely


async def test_a_cache_that_is_gone_already_is_deleted(
    client: Any, gemini_emulator: GeminiEmulator, watch: Watch
) -> None:
    strategy = cached(client, watch)
    for forget, calls in ((gemini_emulator.forget, 1), (lambda: watch.advance(3600), 1)):
        await run_once(strategy, 1)
        forget()
        assert await strategy.delete_cache()
        assert gemini_emulator.count("delete") == calls


async def test_a_delete_that_fails_can_be_asked_for_again(
    connection: Connection, gemini_emulator: GeminiEmulator, watch: Watch
) -> None:
    strategy = cached(connection, watch)
    await run_once(strategy, 1)
    gemini_emulator.fail(500, kind="delete")
    with pytest.raises(BatchLLMError):
        await strategy.delete_cache()
    assert await strategy.delete_cache()
    assert gemini_emulator.count("delete") == 2
    assert gemini_emulator.caches("ACTIVE") == []


async def test_a_life_that_is_asked_for(client: Any, gemini_emulator: GeminiEmulator, watch: Watch) -> None:
    cache = cached(client, watch).context_cache
    record, reused = await cache.create_or_reuse(7200)
    assert (record.expire_time, reused) == (pytest.approx(watch() + 7200, abs=0.01), False)
    assert await cache.create_or_reuse(100) == (record, True)
    renewed, recreated = await cache.renew(600.2)  # Google takes whole seconds, and gets no less than asked for
    assert (renewed.expire_time, recreated) == (pytest.approx(watch() + 601, abs=0.01), False)
    watch.advance(601)
    again, recreated = await cache.renew(500)
    assert (again.expire_time, recreated) == (pytest.approx(watch() + 500, abs=0.01), True)
    assert again.name != record.name
    gemini_emulator.forget()
    third, recreated = await cache.renew()
    assert (third.expire_time, recreated) == (pytest.approx(watch() + 3600, abs=0.01), True)
    assert counts(gemini_emulator) == {"list": 1, "create": 3, "update": 2}
