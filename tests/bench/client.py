"""Items a second of the Python client through a running sidecar: one of the programs of `make bench-clients`.

python -m tests.bench.client [--aio] [TARGET] [ITEMS]

As the benches of all clients: one batch warms up, the next one counts; both are erased from the sidecar's journal.
Prints {"items": …, "items_per_second": …}.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence

from batch_llm_client import AsyncBatchClient, BatchClient, StrategySpec, WorkItem

from .__main__ import items

STRATEGY = StrategySpec(name="bench", provider="simulated")


def blocking(target: str, work: Sequence[WorkItem]) -> float:
    """Seconds from the call to the end of the results."""
    with BatchClient(target) as client:
        client.register_strategy(STRATEGY)
        for _ in range(2):  # the first warms up
            started = time.perf_counter()
            with client.process_batch(work, strategy=STRATEGY.name) as batch:
                seen = sum(1 for _ in batch)
            seconds = time.perf_counter() - started
            assert seen == batch.totals.succeeded == len(work)
            client.delete_batch(batch.batch_id)
    return seconds


async def asynchronous(target: str, work: Sequence[WorkItem]) -> float:
    """Seconds from the call to the end of the results."""
    async with AsyncBatchClient(target) as client:
        await client.register_strategy(STRATEGY)
        for _ in range(2):  # the first warms up
            started = time.perf_counter()
            async with client.process_batch(work, strategy=STRATEGY.name) as batch:
                seen = sum([1 async for _ in batch])
            seconds = time.perf_counter() - started
            assert seen == batch.totals.succeeded == len(work)
            await client.delete_batch(batch.batch_id)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.client", description=__doc__.partition("\n")[0])
    parser.add_argument("target", nargs="?", default="127.0.0.1:50051", help="the sidecar (default %(default)s)")
    parser.add_argument("items", nargs="?", type=int, default=50_000, help="in a batch (default %(default)s)")
    parser.add_argument("--aio", action="store_true", help="measure the client for asyncio")
    options = parser.parse_args()
    work = list(items(options.items))
    seconds = asyncio.run(asynchronous(options.target, work)) if options.aio else blocking(options.target, work)
    print(json.dumps({"items": options.items, "items_per_second": round(options.items / seconds)}))


if __name__ == "__main__":
    main()
