"""Overhead of the engine per item, in-process, beside a peer in the same run; and its memory: `make bench`.

python -m tests.bench.engine --peer PYTHON   (PYTHON: an interpreter with async-batch-llm installed)
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from batch_llm import LLMCallStrategy, LLMWorkItem, ParallelBatchProcessor, TokenUsage
from batch_llm.executor import Executor, Work
from batch_llm.processor import BatchSession
from batch_llm.shared import shared_for

from .__main__ import show

WORKERS = (1, 16, 256)
ITEMS = 50_000


class Echo(LLMCallStrategy[str]):
    async def execute(self, prompt: str, attempt: int, timeout: float) -> tuple[str, TokenUsage]:
        return prompt, {"input_tokens": 10, "output_tokens": 2, "total_tokens": 12}


async def ours(workers: int) -> float:
    """Items a second of `ParallelBatchProcessor`."""
    strategy = Echo()
    async with ParallelBatchProcessor[str, None](max_workers=workers) as processor:
        for number in range(ITEMS):
            await processor.add_work(LLMWorkItem(str(number), strategy, "x" * 50))
        started = time.perf_counter()
        result = await processor.process_all()
    assert result.succeeded == ITEMS
    return ITEMS / (time.perf_counter() - started)


def peers(python: Path, workers: int) -> float:
    script = Path(__file__).with_name("peer.py")
    done = subprocess.run([python, script, str(workers)], capture_output=True, text=True, check=True)
    return float(done.stdout)


async def memory(items: int) -> tuple[float, float]:
    """Peak megabytes after a tenth of a stream whose results are not kept, and after all of it."""
    session = BatchSession(Executor().run, max_concurrency=256)
    shared = shared_for(Echo())

    def works() -> Iterator[Work]:
        return (Work(str(number), "x" * 50, shared) for number in range(items))

    async def feed() -> None:
        await session.submit(works())
        session.close()

    feeding = asyncio.create_task(feed())
    done, early = 0, 0.0
    while taken := await session.take(1000):
        done += len(taken)
        if not early and done >= items / 10:
            early = peak_megabytes()
    await feeding
    assert session.totals.succeeded == items
    return early, peak_megabytes()


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.engine", description=__doc__.partition("\n")[0])
    parser.add_argument("--peer", type=Path, help="an interpreter with async-batch-llm installed")
    parser.add_argument("--items", type=int, default=1_000_000, help="length of the long stream (default 1,000,000)")
    options = parser.parse_args()
    early, late = asyncio.run(memory(options.items))
    show(f"peak memory after 1/10 and 10/10 of {options.items:,} items", f"{early:.0f} / {late:.0f} MiB", "flat")
    for workers in WORKERS:
        own = max(asyncio.run(ours(workers)) for _ in range(3))
        show(f"engine in-process, {workers} workers, best of 3", f"{own:,.0f} items/s")
        if options.peer is not None:
            other = max(peers(options.peer, workers) for _ in range(3))
            show(f"async-batch-llm, {workers} workers, best of 3", f"{other:,.0f} items/s")
            show("ratio", f"{own / other:.1f}", "goal 8")


if __name__ == "__main__":
    main()
