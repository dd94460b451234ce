"""Which items a batch has seen, so that one that is sent again is recognised."""

from __future__ import annotations

import hashlib
import sqlite3
from enum import Enum, auto

_PAGE_CACHE_KIB = 4096


class Seen(Enum):
    """What the index knows of an item."""

    NEW = auto()
    SAME = auto()
    OTHER_CONTENT = auto()


class ItemIndex:
    """Ids and content digests of a batch's items.

    They are kept in SQLite's private temporary file, not in a dictionary: a batch of a million items costs the
    sidecar a few megabytes of page cache.
    """

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute(f"PRAGMA cache_size = -{_PAGE_CACHE_KIB}")
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute("CREATE TABLE items (id TEXT PRIMARY KEY, digest BLOB NOT NULL) WITHOUT ROWID")
        self._db.execute("CREATE TABLE refused (digest BLOB PRIMARY KEY) WITHOUT ROWID")
        self._db.execute("BEGIN")

    def add(self, item_id: str, strategy: str, prompt: str, context: bytes) -> Seen:
        """Note an item; say whether it was there."""
        digest = content_digest(strategy, prompt, context)
        added = self._db.execute("INSERT OR IGNORE INTO items VALUES (?, ?)", (item_id, digest)).rowcount
        if added:
            return Seen.NEW
        (known,) = self._db.execute("SELECT digest FROM items WHERE id = ?", (item_id,)).fetchone()
        return Seen.SAME if known == digest else Seen.OTHER_CONTENT

    def refuse(self, item_id: str, strategy: str, prompt: str, context: bytes) -> Seen:
        """Note an item that is not run, so that its id is still free; SAME: it was refused before."""
        digest = content_digest(item_id, content_digest(strategy, prompt, context).hex(), b"")
        added = self._db.execute("INSERT OR IGNORE INTO refused VALUES (?)", (digest,)).rowcount
        return Seen.NEW if added else Seen.SAME

    def close(self) -> None:
        """Give the file back."""
        self._db.close()


def content_digest(strategy: str, prompt: str, context: bytes) -> bytes:
    """16 bytes that stand for what an item asks; lengths keep fields apart."""
    text = prompt.encode()
    head = f"{len(strategy)}:{len(text)}:{strategy}".encode()
    return hashlib.blake2b(head + text + context, digest_size=16).digest()
