"""Two batches on one GeminiCachedStrategy: the handbook is sent once.

    python cached.py

See one cache created, by the first of twenty items; all of them use it, so nearly all of their input is cached and
costs a tenth. The second receipt has no creation in it. The cache outlives both processors, and this program; it ends
when its ten minutes are over.
"""

import asyncio

from common import HANDBOOK, LABEL, MODEL, gemini, show, tickets, usd

from batch_llm import GeminiCachedStrategy, LLMWorkItem, ParallelBatchProcessor


async def main() -> None:
    async with gemini() as (client, emulator):
        strategy = GeminiCachedStrategy(
            MODEL, client, cached_content=HANDBOOK, cache_ttl_seconds=600, config={"system_instruction": LABEL}
        )
        for run in (1, 2):
            print(f"run {run}")
            async with ParallelBatchProcessor(max_workers=5) as processor:
                for ticket in tickets(10, start=10 * run):
                    await processor.add_work(LLMWorkItem(ticket["id"], strategy, ticket["text"]))
                result = await processor.process_all()
            show(result)
            receipt = result.receipt
            print(f"of this, creating the cache {usd(receipt.cache_creation_nano_usd)}", end="")
            print(f", storing it until now {usd(receipt.cache_storage_nano_usd)}")
        if emulator is not None:
            print("requests:", {kind: emulator.count(kind) for kind in ("list", "create", "generate", "delete")})


asyncio.run(main())
