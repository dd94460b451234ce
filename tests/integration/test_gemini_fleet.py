"""Sidecars with one PostgreSQL and state directories of their own: each Gemini cache is made once for all of them."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import psycopg
import pytest

from batch_llm.emulator import GeminiEmulator
from batch_llm_client import BatchClient, Result, WorkItem
from batch_llm_client.errors import BatchLLMClientError
from tests.contract.postgres import PostgresServer, stalled

from .conftest import SidecarProcess, Start
from .gemini import counts, new_key
from .test_gemini_sidecar import all_first_time, config, run


class Fleet:
    """Two sidecars that are started at the same moment, with clients."""

    def __init__(self, start: Start, emulator: GeminiEmulator, database: str, stack: ExitStack) -> None:
        simulated = (
            '[providers.simulated]\nkind = "simulated"\n'
            '[strategies.here]\nprovider = "simulated"\ncached_content = ["a handbook of this machine alone"]\n'
        )
        gemini = config(emulator, triage="", other='cache_tags = { of = "another" }')
        text = f'[journal]\nurl = "{database}"\nlease_seconds = 3\n{gemini}{simulated}'
        environment = {"GEMINI_API_KEY": new_key()}
        self.sidecars: list[SidecarProcess] = [
            start("--listen", "127.0.0.1:0", config=text, environment=environment) for _ in range(2)
        ]
        for sidecar in self.sidecars:
            sidecar.target = sidecar.wait_for(r"serving on (\S+)")[1]
        self.one, self.two = (stack.enter_context(BatchClient(each.target, timeout=60)) for each in self.sidecars)

    def stop(self) -> None:
        assert [sidecar.stop() for sidecar in self.sidecars if sidecar.process.poll() is None] in ([0, 0], [0])


@pytest.fixture
def fleet(start: Start, gemini_emulator: GeminiEmulator, database: str) -> Iterator[Fleet]:
    with ExitStack() as stack:
        fleet = Fleet(start, gemini_emulator, database, stack)
        yield fleet
    fleet.stop()


def call(client: BatchClient, strategy: str = "triage", items: int = 1) -> list[Result]:
    """Run single items, of which the journal keeps nothing."""
    return [client.process_item(WorkItem(str(each), "a ticket", strategy=strategy)) for each in range(items)]


def test_a_fleet_makes_one_cache(fleet: Fleet, gemini_emulator: GeminiEmulator) -> None:
    held = gemini_emulator.hold(kind="create")
    with ThreadPoolExecutor() as pool:
        batches = [pool.submit(run, client, "triage") for client in (fleet.one, fleet.two)]
        gemini_emulator.wait_for("create", timeout=60)
        gemini_emulator.release(held)
        for batch in batches:
            all_first_time(batch.result())
    assert counts(gemini_emulator) == {"list": 1, "create": 1, "generate": 20}, "the other finds it in the registry"
    assert fleet.one.get_cache("triage") == fleet.two.get_cache("triage")


def test_a_sidecar_that_never_used_it_knows_the_fleets_cache(fleet: Fleet, gemini_emulator: GeminiEmulator) -> None:
    made, _ = fleet.one.create_or_reuse_cache("triage")
    assert fleet.two.get_cache("triage") == made
    here, _ = fleet.one.create_or_reuse_cache("here")
    assert fleet.one.list_caches() == [here, made]
    assert fleet.two.list_caches() == [made], "what is on a machine is that machine's alone"
    all_first_time(run(fleet.two, "triage"))
    assert counts(gemini_emulator) == {"list": 1, "create": 1, "generate": 10}


def test_renewals_and_deletions_are_the_fleets(fleet: Fleet, gemini_emulator: GeminiEmulator) -> None:
    for client in (fleet.one, fleet.two):
        all_first_time(run(client, "triage"))
    renewed, recreated = fleet.one.renew_cache("triage", ttl=7200)
    assert not recreated
    assert fleet.two.get_cache("triage") == renewed
    assert fleet.two.delete_cache("triage")
    assert not fleet.one.delete_cache("triage")
    for client in (fleet.one, fleet.two):
        assert client.list_caches() == []
        with pytest.raises(BatchLLMClientError, match="has no context cache at present"):
            client.get_cache("triage")
    for client in (fleet.one, fleet.two):
        all_first_time(run(client, "triage"))
    assert fleet.one.get_cache("triage") == fleet.two.get_cache("triage")
    asked = counts(gemini_emulator)
    assert (asked["create"], asked["update"], asked["delete"]) == (2, 1, 1)


def test_another_takes_over_from_a_sidecar_that_was_killed_while_it_created(
    fleet: Fleet, gemini_emulator: GeminiEmulator, database: str
) -> None:
    gemini_emulator.hold(kind="create", times=1)
    with ThreadPoolExecutor() as pool:
        lost = pool.submit(run, fleet.one, "triage")
        gemini_emulator.wait_for("create", timeout=60)
        fleet.sidecars[0].stop(signal.SIGKILL)
        with pytest.raises(BatchLLMClientError):
            lost.result()
        batch = pool.submit(run, fleet.two, "triage")
        assert gemini_emulator.count("create") == 1
        with psycopg.connect(database, autocommit=True) as connection:
            # What ten seconds without a sign of life do.
            ended = connection.execute("UPDATE batch_llm.cache_claims SET until = 0 WHERE until > 0")
            assert ended.rowcount == 1
        all_first_time(batch.result())
    assert gemini_emulator.count("create") == 2


def test_without_its_database_a_fleet_uses_the_caches_that_it_knows(
    fleet: Fleet, gemini_emulator: GeminiEmulator, postgres: PostgresServer
) -> None:
    all_first_time(call(fleet.one), 1)
    with stalled(postgres):
        all_first_time(call(fleet.one, items=10))
    postgres.stop("immediate")
    try:
        all_first_time(call(fleet.one, items=10))
        (failed,) = call(fleet.one, "other")
        assert failed.error is not None
        assert (failed.error.reason, failed.error.retryable) == ("PROVIDER_UNAVAILABLE", True)
        assert "the registry of context caches cannot be used now: PostgreSQL " in failed.error.message
        # Either a connection that was cut off has found out, or a new one.
        told = "(see that the server runs|nothing listens there: start the server).*; try again"
        assert re.search(told, failed.error.message), failed.error.message
        with pytest.raises(BatchLLMClientError, match="registry of context caches cannot be used now"):
            fleet.one.list_caches()
        assert counts(gemini_emulator) == {"list": 1, "create": 1, "generate": 21}
    finally:
        postgres.start()
    all_first_time(call(fleet.one, "other"), 1)
    assert len(fleet.two.list_caches()) == 2
