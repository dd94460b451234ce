"""The stores that the contract holds for."""

import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from batch_llm.journal.memory import MemoryStore
from batch_llm.journal.postgres import PostgresStore
from batch_llm.journal.sqlite import SqliteStore
from batch_llm.journal.store import JournalStore


@pytest.fixture
def sqlite_path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def make_store(request: pytest.FixtureRequest, sqlite_path: Path) -> Callable[[], JournalStore]:
    """Makes stores that are not open, each over the same batches (but for memory)."""
    match request.param:
        case "memory":
            return MemoryStore
        case "sqlite":
            return lambda: SqliteStore(sqlite_path)
    url, schema = request.getfixturevalue("postgres").url, f"test_{uuid.uuid4().hex}"
    return lambda: PostgresStore(url, schema)


@pytest.fixture
async def store(make_store: Callable[[], JournalStore]) -> AsyncIterator[JournalStore]:
    store = make_store()
    await store.open()
    yield store
    await store.close()
