"""Three sidecars with one PostgreSQL keep to one budget, and to its slices when PostgreSQL is killed."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import psycopg
import pytest

from batch_llm.emulator import GeminiEmulator
from batch_llm_client import AsyncBatchClient, Result, WorkItem
from tests.contract.postgres import PostgresServer

from .processes import Process, until

_LIMIT = 30
_SIDECARS = 3
_ITEMS = _LIMIT + 1  # at each sidecar: whoever is first and gets the whole budget waits for more, too
_CONFIG = """
[server]
state_dir = "{folder}/state{number}"
listen = ["unix:{sockets}/{number}.sock"]
drain_timeout_seconds = 0
[journal]
url = "{journal}"
[providers.gemini]
kind = "gemini"
base_url = "{emulator}"
requests_per_minute = {limit}
[providers.gemini.rate_limit]
cooldown_seconds = 0
[strategies.label]
provider = "gemini"
model = "gemini-2.5-flash"
max_concurrency = 64
"""


class Fleet:
    """Sidecars with one database, each with a key of its own by which the provider tells their calls apart."""

    def __init__(self, folder: Path, emulator: GeminiEmulator, database: str) -> None:
        self.emulator = emulator
        self.database = database
        self._sockets = tempfile.mkdtemp(prefix="faults-")  # a socket's path must be short; pytest's folders are not
        self.sidecars: list[Process] = []
        self.targets: list[str] = []
        for number in range(_SIDECARS):
            config = folder / f"{number}.toml"
            config.write_text(
                _CONFIG.format(
                    folder=folder,
                    sockets=self._sockets,
                    number=number,
                    journal=database,
                    emulator=emulator.url,
                    limit=_LIMIT,
                )
            )
            arguments = ("-m", "batch_llm.sidecar.cli", "serve", "--config", config)
            key = {"GEMINI_API_KEY": f"key-{number}"}
            self.sidecars.append(Process(arguments, folder / f"{number}.log", key))
        self.targets = [sidecar.until_said(r"serving on (\S+)")[1] for sidecar in self.sidecars]

    def close(self) -> None:
        for sidecar in self.sidecars:
            sidecar.kill()
        shutil.rmtree(self._sockets)

    def calls(self) -> dict[str, int]:
        """By sidecar."""
        numbers = {hashlib.sha256(f"key-{each}".encode()).hexdigest()[:12]: f"{each}" for each in range(_SIDECARS)}
        return Counter(numbers[call["key"]] for call in self.emulator.requests("generate"))

    def waiting(self) -> int:
        """How many sidecars wait in line."""
        with psycopg.connect(self.database) as connection:
            ask = "SELECT json_array_length(state::json -> 'line') FROM batch_llm.budgets WHERE state <> ''"
            rows = connection.execute(ask).fetchall()
            return int(rows[0][0]) if rows else 0

    def wait_until_all_know_all(self) -> None:
        with psycopg.connect(self.database, autocommit=True) as connection:
            (latest,) = connection.execute("SELECT max(seen) FROM batch_llm.members").fetchone() or (0,)
            ask = "SELECT count(*) FROM batch_llm.members WHERE seen > %s"
            until("a beat of each", lambda: connection.execute(ask, (latest,)).fetchone() == (_SIDECARS,))


@pytest.fixture
def fleet(tmp_path: Path, gemini_emulator: GeminiEmulator, postgres: PostgresServer, database: str) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, gemini_emulator, database)
    yield fleet
    fleet.close()


async def test_a_budget_is_one_for_all_and_slices_without_postgres(fleet: Fleet, postgres: PostgresServer) -> None:
    await asyncio.to_thread(fleet.wait_until_all_know_all)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(AsyncBatchClient(target)) for target in fleet.targets]

        def items(count: int) -> list[asyncio.Task[Result]]:
            return [
                asyncio.create_task(client.process_item(WorkItem(f"{number}", "x", "label")))
                for client in clients
                for number in range(count)
            ]

        await asyncio.gather(*items(1))
        await asyncio.to_thread(postgres.kill)
        try:
            tasks = items(_ITEMS)
            await asyncio.to_thread(until, "all slices", lambda: sum(fleet.calls().values()) >= _LIMIT)
            await asyncio.to_thread(until, "answers", lambda: sum(task.done() for task in tasks) >= _LIMIT - _SIDECARS)
            for sidecar in fleet.sidecars:
                said = "the store of shared budgets cannot be reached: each falls back to this sidecar's slice, 1 of 3"
                assert sidecar.until_said(said)
        finally:
            postgres.start()
        for sidecar in fleet.sidecars:
            sidecar.until_said("the store of shared budgets is back")
        assert fleet.calls() == {f"{number}": _LIMIT // _SIDECARS for number in range(_SIDECARS)}
        await asyncio.to_thread(until, "all wait in line", lambda: fleet.waiting() == _SIDECARS)
        assert sum(fleet.calls().values()) == _LIMIT, "what was used without the store counts in the fleet"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert all(sidecar.said.count("the store of shared budgets") == 2 for sidecar in fleet.sidecars)


async def test_a_batch_on_each_sidecar_waits_for_the_one_budget(fleet: Fleet) -> None:
    async with AsyncExitStack() as stack:
        for target in fleet.targets:
            client = await stack.enter_async_context(AsyncBatchClient(target))
            work = (WorkItem(f"{number}", "x") for number in range(_ITEMS))
            batch = await stack.enter_async_context(client.process_batch(work, strategy="label"))
            results = asyncio.create_task(_read(batch))
            stack.callback(results.cancel)
        await asyncio.to_thread(until, "all wait in line", lambda: fleet.waiting() == _SIDECARS)
        await asyncio.to_thread(until, "calls", lambda: sum(fleet.calls().values()) >= _LIMIT)
        assert sum(fleet.calls().values()) == _LIMIT
        assert all("429" not in sidecar.said for sidecar in fleet.sidecars)


async def _read(batch: object) -> None:
    async for _ in batch:  # type: ignore[attr-defined]
        pass
