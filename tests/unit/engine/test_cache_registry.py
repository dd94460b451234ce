"""What is particular about the registry in a SQLite file; what every registry does is in tests/contract."""

import sqlite3
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from batch_llm.caching import CacheRecord, SqliteCacheRegistry

RECORD = CacheRecord("gemini", "f1", "cachedContents/1", "m", "triage", 100.5, 3700.5, 2048)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "caches.sqlite"


def test_the_file_is_its_owners_alone(path: Path) -> None:
    SqliteCacheRegistry(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_known_record_costs_no_query(path: Path) -> None:
    now = 1000.0
    ours, theirs = SqliteCacheRegistry(path, clock=lambda: now), SqliteCacheRegistry(path)
    await ours.put(RECORD)
    await theirs.put(replace(RECORD, expire_time=9999.0))
    assert ours.get("gemini", "f1") == RECORD, "what is known is believed for a second"
    await theirs.remove(RECORD)
    assert await ours.reload("gemini", "f1") is None
    await theirs.put(RECORD)
    assert ours.get("gemini", "f1") == RECORD, "what is not known is looked up"
    await theirs.remove(RECORD)
    assert ours.get("gemini", "f1") == RECORD
    now += 1.5
    assert ours.get("gemini", "f1") is None
    ours.close()
    theirs.close()


async def test_it_is_closed_for_good() -> None:
    registry = SqliteCacheRegistry()
    registry.close()
    with pytest.raises(sqlite3.ProgrammingError):
        await registry.list()
