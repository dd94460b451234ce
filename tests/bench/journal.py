"""Speed of the journal's stores, and how soon a large journal is up again: `make bench`.

Figures of one run on one machine; compare rows of a run, not runs. Options: --items N for the recovery,
--postgres to start a private PostgreSQL for its rows.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import tempfile
import time
from pathlib import Path

from batch_llm.journal.memory import MemoryStore
from batch_llm.journal.sqlite import SqliteStore
from batch_llm.journal.store import Begin, Items, JournalStore, Results, Starts
from batch_llm.journal.writer import JournalWriter

from .__main__ import show

FRAME = 64
RESULT = os.urandom(250)
ITEM = os.urandom(200)
WAITING = 256


async def framed(store: JournalStore, count: int) -> float:
    """Items a second whose way through a batch is written: accepted, begun and ended, in frames of 64."""
    writer = JournalWriter(store)
    begun = Begin(f"framed-{time.time_ns()}", b"opening", detach=True, owner="me", lease_seconds=60)
    await writer.offer(begun)
    batch, fence = begun.batch_id, begun.fence
    started = time.perf_counter()
    room = asyncio.Semaphore(WAITING)
    for first in range(0, count, FRAME):
        indexes = tuple(range(first, first + FRAME))
        sequences = tuple(range(first + 1, first + 1 + FRAME))
        for write in (
            Items(batch, fence, first, FRAME, ITEM * FRAME),
            Starts(batch, fence, indexes),
            Results(batch, fence, sequences, indexes, 0, RESULT * FRAME),
        ):
            await room.acquire()
            writer.record(write).add_done_callback(lambda _: room.release())
    await writer.close()
    return count / (time.perf_counter() - started)


async def single(store: JournalStore, count: int, workers: int = 256) -> float:
    """Items a second of which each is begun and ended by records of its own, its promise awaited."""
    writer = JournalWriter(store)
    begun = Begin(f"single-{time.time_ns()}", b"opening", detach=True, owner="me", lease_seconds=60)
    await writer.offer(begun)
    indexes = iter(range(count))

    async def work() -> None:
        for index in indexes:
            await writer.record(Starts(begun.batch_id, begun.fence, (index,)))
            await writer.record(Results(begun.batch_id, begun.fence, (index + 1,), (index,), 0, RESULT))

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(workers)))
    return count / (time.perf_counter() - started)


async def latency(store: JournalStore) -> float:
    """Milliseconds of a promise, with nothing else to do, the median of 200."""
    begun = Begin(f"latency-{time.time_ns()}", b"opening", detach=True, owner="me", lease_seconds=60)
    await store.write([begun])
    taken = []
    for index in range(200):
        started = time.perf_counter()
        await store.write([Results(begun.batch_id, begun.fence, (index + 1,), (index,), 0, RESULT)])
        taken.append((time.perf_counter() - started) * 1000)
    return sorted(taken)[100]


async def measure(name: str, store: JournalStore, count: int) -> None:
    await store.open()
    await framed(store, FRAME * 100)
    show(f"{name}: frames of {FRAME}", f"{max([await framed(store, count) for _ in range(3)]):,.0f} items/s")
    show(f"{name}: records of one item", f"{max([await single(store, count // 8) for _ in range(3)]):,.0f} items/s")
    show(f"{name}: one promise alone, median", f"{await latency(store):.2f} ms")
    await store.close()


async def recovery(path: Path, count: int) -> None:
    """A journal of many items, of an open batch: filled, opened again, read for its resumption, erased."""
    store = SqliteStore(path)
    await store.open()
    await framed(store, count)
    await store.close()
    show(f"sqlite: file of {count:,} items", f"{path.stat().st_size / 2**20:,.0f} MiB")
    started = time.perf_counter()
    await store.open()
    show(f"sqlite: opened and verified with {count:,} items", f"{time.perf_counter() - started:.2f} s")
    (batch_id,) = await store.resumable()
    started = time.perf_counter()
    seen = sum([record.count async for record in store.items(batch_id)])
    begun = sum([len(indexes) async for indexes in store.starts(batch_id)])
    ended = sum([len(record.sequences) async for record in store.results(batch_id)])
    assert seen == begun == ended == count
    show(f"sqlite: all records of {count:,} items read", f"{time.perf_counter() - started:.2f} s")
    show("peak memory so far", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB", "flat")
    started = time.perf_counter()
    assert await store.delete(batch_id)
    show(f"sqlite: {count:,} items erased", f"{time.perf_counter() - started:.2f} s")
    show("sqlite: file after it", f"{path.stat().st_size / 2**20:,.1f} MiB")
    await store.close()


async def postgres(count: int) -> None:
    from batch_llm.journal.postgres import PostgresStore
    from tests.contract.postgres import PostgresServer

    server = PostgresServer()
    try:
        server.start()
        await measure("postgres", PostgresStore(server.url), count)
    finally:
        server.remove()


async def run(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        await recovery(Path(folder, "large.db"), options.items)
        await measure("memory", MemoryStore(), 200_000)
        await measure("sqlite", SqliteStore(Path(folder, "journal.db")), 200_000)
    if options.postgres:
        await postgres(50_000)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.journal", description=__doc__.partition("\n")[0])
    parser.add_argument("--items", type=int, default=1_000_000, help="in the journal that is recovered")
    parser.add_argument("--postgres", action="store_true", help="measure PostgreSQL too, with a private server")
    options = parser.parse_args()
    options.items -= options.items % FRAME
    asyncio.run(run(options))


if __name__ == "__main__":
    main()
