"""CacheLifecycleService on a real sidecar, with the simulated provider's cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch_llm_client import BatchClient, WorkItem
from batch_llm_client.errors import FailedPreconditionError, InvalidRequestError, NotFoundError
from batchllm.v1 import cache_lifecycle_service_pb2 as pb

from .conftest import SIMULATED, Start


def test_the_life_of_a_cache(client: BatchClient) -> None:
    client.delete_cache("cached")
    with pytest.raises(NotFoundError) as failure:
        client.get_cache("cached")
    assert failure.value.reason == "CACHE_NOT_FOUND"
    with pytest.raises(NotFoundError):
        client.renew_cache("cached")
    created, reused = client.create_or_reuse_cache("cached", ttl=100)
    assert not reused
    assert created.state == pb.CACHE_STATE_EXPIRING  # less than the renewal buffer of 300 s
    assert created.expire_time.seconds - created.create_time.seconds == 100
    assert client.create_or_reuse_cache("cached") == (created, True)
    renewed, recreated = client.renew_cache("cached")
    assert (renewed.name, recreated, renewed.state) == (created.name, False, pb.CACHE_STATE_ACTIVE)
    assert renewed.expire_time.seconds - created.expire_time.seconds >= 499
    assert client.get_cache("cached") == renewed
    assert renewed in client.list_caches()
    assert client.delete_cache("cached")
    assert not client.delete_cache("cached")


def test_items_create_the_cache_and_count_what_they_read_from_it(client: BatchClient) -> None:
    client.delete_cache("cached")
    with client.process_batch([WorkItem(str(n), "x" * 40) for n in range(50)], strategy="cached") as batch:
        results = list(batch)
    cache = client.get_cache("cached")
    assert {result.usage.cached_input_tokens for result in results} == {cache.total_token_count}
    assert {result.usage.input_tokens for result in results} == {cache.total_token_count + 10}
    assert batch.totals.total_cached_tokens == 50 * cache.total_token_count


@pytest.mark.parametrize("call", ["create_or_reuse_cache", "renew_cache", "delete_cache", "get_cache"])
def test_an_unknown_or_uncached_strategy_is_refused(client: BatchClient, call: str) -> None:
    with pytest.raises(NotFoundError) as missing:
        getattr(client, call)("triag")
    assert missing.value.reason == "STRATEGY_NOT_FOUND"
    with pytest.raises(FailedPreconditionError) as uncached:
        getattr(client, call)("echo")
    assert uncached.value.reason == "CACHE_NOT_CONFIGURED"


@pytest.mark.parametrize("ttl", [0.5, 0, -1])
def test_a_ttl_below_a_second_is_refused(client: BatchClient, ttl: float) -> None:
    for call in (client.create_or_reuse_cache, client.renew_cache):
        with pytest.raises(InvalidRequestError) as failure:
            call("cached", ttl=ttl)
        assert failure.value.metadata == {"field": "ttl"}


def test_a_cache_outlives_the_sidecar(start: Start, tmp_path: Path) -> None:
    seen = []
    for _ in range(2):
        sidecar = start("--listen", "127.0.0.1:0", "--state-dir", str(tmp_path), config=SIMULATED)
        with BatchClient(sidecar.wait_for(r"serving on (\S+)")[1]) as client:
            seen.append(client.create_or_reuse_cache("cached"))
        assert sidecar.stop() == 0
    assert seen[0][0] == seen[1][0]
    assert [reused for _, reused in seen] == [False, True]
