"""What the operator's file asks for in `journal.url`: the journal, and what a fleet shares beside it."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from batch_llm.journal.store import JournalStore
from batch_llm.journal.writer import JournalWriter
from batch_llm.quota import Fleet

from .batch_log import Journal
from .settings import JournalSettings, LocalProvider, Settings

if TYPE_CHECKING:
    from batch_llm.caching.postgres_registry import PostgresCacheRegistry


def is_shared(url: str) -> bool:
    """Whether `journal.url` names a database that a fleet of sidecars shares."""
    return url.startswith("postgres")


def fleet_registry(settings: JournalSettings) -> PostgresCacheRegistry | None:
    """The registry of context caches that a fleet shares, not open yet; None: this sidecar is by itself.

    Raises:
        UnavailableError: the url cannot be read, or its extra is not installed; the journal has said so before.
    """
    if not is_shared(settings.url):
        return None
    from batch_llm.caching.postgres_registry import PostgresCacheRegistry

    return PostgresCacheRegistry(settings.url)


def journal(settings: JournalSettings, state_dir: Path) -> Journal:
    """The journal, its store not open yet."""
    store = store_at(settings.url, state_dir)
    # A name for each process where several share a store; the only one need not wait for its own leases to end.
    return Journal(store, JournalWriter(store), f"sidecar-{uuid.uuid4().hex}", settings.lease_seconds)


def store_at(url: str, state_dir: Path) -> JournalStore:
    """The store that `journal.url` names, not open yet.

    Raises:
        StoreError: the url cannot be read, or its extra is not installed.
    """
    # Imported where needed: psycopg is an extra.
    if url == "memory":
        from batch_llm.journal.memory import MemoryStore

        return MemoryStore()
    if is_shared(url):
        from batch_llm.journal.postgres import PostgresStore

        return PostgresStore(url)
    from batch_llm.journal.sqlite import SqliteStore

    return SqliteStore(Path(url.removeprefix("sqlite://")) if url != "sqlite" else state_dir / "journal.db")


def fleet_budgets(settings: Settings) -> Fleet | None:
    """Those that share the providers' budgets: all sidecars with one database; None where nothing is to be shared."""
    providers = [each for each in settings.providers.values() if not isinstance(each, LocalProvider)]
    url = settings.journal.url
    if not is_shared(url) or not any(each.engine_limits().a_minute for each in providers):
        return None
    from batch_llm.postgres import Postgres
    from batch_llm.quota.postgres import PostgresBudgets

    return Fleet(PostgresBudgets(Postgres(url)))
