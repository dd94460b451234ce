"""The files of a SQLite journal: one sidecar at a time, and what a crash left of the last write."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import struct
from pathlib import Path
from typing import Any

from .reading import AFTER_EXPORT, WAY_ON
from .store import DamagedError, StoreError

# https://sqlite.org/walformat.html and https://sqlite.org/fileformat2.html#the_write_ahead_log
_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_MAGIC = {0x377F0682: "<6I", 0x377F0683: ">6I"}
_INDEX_FRAMES = 16

_NO_ROOM_BYTES = 2**20

_KINDS: dict[str, type] = {
    **dict.fromkeys(("opening", "result", "payload", "numbers", "indexes", "digest", "spec"), bytes),
    **dict.fromkeys(("batch_id", "state", "owner", "idempotency_key", "name"), str),
    **dict.fromkeys(("detach", "items", "results", "failed", "fence", "starts", "count", "checksum"), int),
    **dict.fromkeys(("create_time", "update_time", "lease_until", "time"), float),
}


class Lock:
    """Keeps other sidecars out, until closed or until the process ends in whatever way.

    It has a file of its own: SQLite's locks come and go with its transactions, and reading beside a running sidecar
    stays possible.

    Args:
        path: the journal's.

    Raises:
        StoreError: another has it.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(f"{path}-lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise StoreError(
                f"{path} is in use by another sidecar; give this one its own server.state_dir, or share a PostgreSQL "
                "with journal.url"
            ) from None

    @property
    def marked(self) -> bool:
        """Whether the journal was ever there."""
        return os.fstat(self._file).st_size > 0

    def mark(self) -> None:
        """Note that the journal is there."""
        if not self.marked:
            os.write(self._file, b"in use\n")
            os.fsync(self._file)

    def close(self) -> None:
        """Let others in."""
        os.close(self._file)


def check_presence(path: Path, *, marked: bool) -> None:
    """Notice a journal that was emptied: SQLite would take it for a new one, and drop its write-ahead log.

    Raises:
        DamagedError: it was.
    """
    log = Path(f"{path}-wal")
    if (not path.exists() or not path.stat().st_size) and (
        (marked and path.exists()) or (log.exists() and log.stat().st_size)
    ):
        raise DamagedError(
            f"{path} is empty, but it was not: restore it from a backup, or, to begin a new one, remove {path.name}, "
            f"{path.name}-wal and {path.name}-lock"
        )


def check_log(path: Path) -> str | None:
    """Compare the write-ahead log with what SQLite takes of it; in words, what it drops of the last write.

    SQLite drops all that follows the first frame without its checksum, and says nothing. Each commit is synced before
    the next one begins, so a crash can leave only the last one unfinished.

    Raises:
        DamagedError: more than the last commit would be dropped.
    """
    log = Path(f"{path}-wal")
    if not path.exists() or not path.stat().st_size or not log.exists() or not log.stat().st_size:
        return None
    with log.open("rb") as file:
        header = file.read(_HEADER.size)
        page_size = _HEADER.unpack(header)[2] if _is_header(header) else _page_size(path)
        salts = header[16:24] if _is_header(header) else None
        frames, rest = divmod(max(log.stat().st_size - _HEADER.size, 0), _FRAME.size + page_size)
        taken = _frames_taken(path)
        dropped = commits = 0
        for number in range(taken, frames):
            file.seek(_HEADER.size + number * (_FRAME.size + page_size))
            frame = file.read(_FRAME.size)
            if salts is None or frame[8:16] == salts:
                dropped += _FRAME.size + page_size
                commits += _FRAME.unpack(frame)[1] != 0
    if commits > (salts is not None):
        raise DamagedError(
            f"{log} is damaged: {commits} commits that were promised cannot be read; they are lost if anything writes "
            f"to the journal, so copy its files first; {WAY_ON}"
        )
    dropped += rest
    return f"{log}: dropped {dropped:,} bytes of the last write, which a crash left unfinished" if dropped else None


def _is_header(header: bytes) -> bool:
    if len(header) < _HEADER.size or (magic := _HEADER.unpack(header)[0]) not in _MAGIC:
        return False
    first = second = 0
    words = struct.unpack(_MAGIC[magic], header[:24])
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return (first, second) == _HEADER.unpack(header)[6:]


def _page_size(path: Path) -> int:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(18)[16:18], "big")
    return 65536 if size == 1 else max(size, 512)


def _frames_taken(path: Path) -> int:
    """How many frames SQLite takes; a read-only connection recovers the log without writing to it."""
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        with open(f"{path}-shm", "rb") as file:
            index = file.read(_INDEX_FRAMES + 4)
    finally:
        connection.close()
    return int(struct.unpack_from("=I", index, _INDEX_FRAMES)[0])


def typed(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A row factory: each value is of its column's kind, so that only its checksum need say whether it is damaged.

    SQLite keeps a kind with each value; one bit that is wrong there makes bytes a text, or a number bytes.
    """
    kinds = [_KINDS.get(column[0]) for column in cursor.description]
    return tuple(
        [
            value if kind is None or type(value) is kind else _as(kind, value)
            for kind, value in zip(kinds, row, strict=True)
        ]
    )


def text_of(raw: bytes) -> str:
    """A text factory: one that is damaged does not keep its row from being read."""
    return raw.decode(errors="replace")


def _as(kind: type, value: object) -> object:
    if kind is bytes and isinstance(value, str):
        return value.encode()
    if kind is str:
        return text_of(value) if isinstance(value, bytes) else str(value)
    return kind()


def explain(error: sqlite3.Error | OSError, path: Path) -> Exception:
    """The error of ours that one of SQLite's or of the system's stands for, with the way out."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if isinstance(error, sqlite3.IntegrityError):
        return ValueError(f"{path}: {error}: a record is there already")
    if code == sqlite3.SQLITE_NOTADB:
        # Neither `journal check` nor `export` can read it.
        return DamagedError(
            f"{path}: {error}: it is another file, or its beginning is damaged; name the journal's file, or "
            f"{AFTER_EXPORT}"
        )
    if code == sqlite3.SQLITE_CORRUPT:
        return DamagedError(f"{path} is damaged: {error}; {WAY_ON}")
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _no_room(path)):
        return StoreError(
            f"{path}: {error}: make room on the disk; then finished batches can be deleted too", full=True
        )
    if code == sqlite3.SQLITE_READONLY or isinstance(error, PermissionError):
        return StoreError(f"{path}: {error}: make server.state_dir writable for the sidecar")
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StoreError(f"{path}: {error}: another process holds it; end that one")
    if code == sqlite3.SQLITE_CANTOPEN:
        return StoreError(f"{path}: {error}: server.state_dir must exist and be writable for the sidecar")
    return StoreError(f"{path}: {error}: look at the disk and its mount")


def _no_room(path: Path) -> bool:
    disk = os.statvfs(path.parent)
    return disk.f_bavail * disk.f_frsize < _NO_ROOM_BYTES
