import sqlite3
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from batch_llm.caching import CacheRecord, CacheRegistry

RECORD = CacheRecord("gemini", "f1", "cachedContents/1", "m", "triage", 100.5, 3700.5, 2048)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "caches.sqlite"


def test_the_file_is_its_owners_alone(path: Path) -> None:
    CacheRegistry(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_records_outlive_the_process(path: Path) -> None:
    first = CacheRegistry(path)
    first.put(RECORD)
    first.close()
    second = CacheRegistry(path)
    assert second.get("gemini", "f1") == RECORD
    assert second.list() == [RECORD]
    second.close()


def test_provider_and_fingerprint_together_are_the_key() -> None:
    registry = CacheRegistry()
    registry.put(RECORD)
    registry.put(replace(RECORD, provider="other", name="theirs"))
    registry.put(replace(RECORD, name="renewed"))
    assert [(record.provider, record.name) for record in registry.list()] == [
        ("gemini", "renewed"),
        ("other", "theirs"),
    ]
    assert registry.get("gemini", "f2") is None
    registry.remove("gemini", "f1")
    registry.remove("gemini", "f1")  # none is no error
    assert registry.get("gemini", "f1") is None
    assert registry.get("other", "f1") is not None


def test_records_are_listed_by_strategy_then_fingerprint() -> None:
    registry = CacheRegistry()
    for strategy, fingerprint in [("b", "1"), ("a", "3"), ("a", "2")]:
        registry.put(replace(RECORD, strategy=strategy, fingerprint=fingerprint))
    assert [(record.strategy, record.fingerprint) for record in registry.list()] == [("a", "2"), ("a", "3"), ("b", "1")]


def test_another_process_is_seen_on_reload_and_a_known_record_costs_no_query(path: Path) -> None:
    now = 1000.0
    ours, theirs = CacheRegistry(path, clock=lambda: now), CacheRegistry(path)
    ours.put(RECORD)
    assert ours.get("gemini", "f1") == RECORD
    theirs.put(replace(RECORD, expire_time=9999.0))
    assert ours.get("gemini", "f1") == RECORD
    assert ours.reload("gemini", "f1") == replace(RECORD, expire_time=9999.0)
    theirs.remove("gemini", "f1")
    assert ours.reload("gemini", "f1") is None
    assert ours.get("gemini", "f1") is None
    theirs.put(RECORD)
    assert ours.get("gemini", "f1") == RECORD, "what is not known is looked up"
    theirs.remove("gemini", "f1")
    assert ours.get("gemini", "f1") == RECORD, "what is known is believed for a second"
    now += 1.5
    assert ours.get("gemini", "f1") is None
    ours.close()
    theirs.close()


def test_a_lock_belongs_to_one_cache() -> None:
    registry = CacheRegistry()
    assert registry.lock("p", "f") is registry.lock("p", "f")
    assert registry.lock("p", "f") is not registry.lock("p", "g")
    assert registry.lock("p", "f") is not registry.lock("q", "f")


def test_it_is_closed_for_good() -> None:
    registry = CacheRegistry()
    registry.close()
    with pytest.raises(sqlite3.ProgrammingError):
        registry.list()
