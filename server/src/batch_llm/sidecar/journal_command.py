"""`batch-llm-sidecar journal`: look into a journal, also a damaged one."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path

from batch_llm.journal.check import problems
from batch_llm.journal.export import lines
from batch_llm.journal.reading import AFTER_CHECK, AFTER_EXPORT, WAY_ON
from batch_llm.journal.store import DamagedError, JournalStore, StoreError

from .journals import store_at
from .settings import ConfigError, load

_NEXT = {"check": AFTER_CHECK, "export": AFTER_EXPORT}
_INTERRUPTED = 130
_BROKEN_PIPE = 141  # as shells report a command that SIGPIPE ended


def run(options: argparse.Namespace) -> int:
    """Run it; the exit code: 0 it is whole, 1 it is damaged, 2 it cannot be read at all, or its content not written."""
    try:
        store = _store(options)
        code = asyncio.run(_check(store) if options.action == "check" else _export(store, options.batch_id))
        sys.stdout.flush()
    except (ConfigError, StoreError, DamagedError) as error:
        print(str(error).replace(WAY_ON, _NEXT[options.action]), file=sys.stderr)
        return 1 if isinstance(error, DamagedError) else 2
    except KeyboardInterrupt:
        return _INTERRUPTED
    except OSError as error:
        # Python flushes stdout once more when it ends; that must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return _BROKEN_PIPE
        print(f"cannot write to standard output: {error.strerror}", file=sys.stderr)
        return 2
    if code == 1:
        print(f"the way on: {_NEXT[options.action]}", file=sys.stderr)
    return code


def _store(options: argparse.Namespace) -> JournalStore:
    if options.journal is not None:
        given = options.journal
        return store_at(given if given.startswith("postgres") else f"sqlite://{given}", Path())
    settings = load(options.config)
    if settings.journal.url == "memory":
        raise ConfigError('journal.url is "memory": there is nothing to look into')
    return store_at(settings.journal.url, settings.server.state_dir)


async def _check(store: JournalStore) -> int:
    found = 0
    await store.open(inspect=True)
    try:
        for fault in await store.faults():
            print(fault)
            found += 1
        async for problem in problems(store):
            print(problem)
            found += 1
    finally:
        await store.close()
    print(f"{found} problems" if found else "the journal is whole")
    return 1 if found else 0


async def _export(store: JournalStore, batch_id: str | None) -> int:
    found: dict[str, None] = {}
    await store.open(inspect=True)
    try:
        if batch_id is not None and await _missing(store, batch_id):
            print(f"the journal has no batch {batch_id!r}", file=sys.stderr)
            return 2
        async for line in lines(store, batch_id, lambda problem: found.update({problem: None})):
            print(json.dumps(line, ensure_ascii=False))
    finally:
        await store.close()
        for problem in found:
            print(problem, file=sys.stderr)
    return 1 if found else 0


async def _missing(store: JournalStore, batch_id: str) -> bool:
    try:
        return await store.get(batch_id) is None
    except DamagedError:
        return False
