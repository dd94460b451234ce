"""A job that runs once: it deletes its cache at the end, however it ends.

    python one_off.py

See the cache created and deleted, and what that saves: a cache is billed by the hour until it expires, whether anybody
uses it or not. Nothing deletes a cache unless it is asked to, neither the processor nor the strategy's cleanup.
"""

import asyncio

from common import HANDBOOK, LABEL, MODEL, gemini, show, tickets, usd

from batch_llm import GeminiCachedStrategy, LLMWorkItem, ParallelBatchProcessor


async def main() -> None:
    async with gemini() as (client, emulator):
        strategy = GeminiCachedStrategy(
            MODEL,
            client,
            cached_content=HANDBOOK,
            cache_ttl_seconds=2400,  # ample; it is renewed if the job takes longer
            cache_tags={"job": "one-off"},  # a cache of its own: one with other tags is left alone
            config={"system_instruction": LABEL},
        )
        try:
            async with ParallelBatchProcessor(max_workers=5) as processor:
                for ticket in tickets(10):
                    await processor.add_work(LLMWorkItem(ticket["id"], strategy, ticket["text"]))
                result = await processor.process_all()
        finally:
            deleted = await strategy.delete_cache()
        show(result)
        print(f"deleted: {deleted}; until its expiry it would have cost", end=" ")
        print(f"another {usd(result.receipt.storage_until_expiry_nano_usd)}")
        if emulator is not None:
            print(f"caches left at the emulator: {len(emulator.caches('ACTIVE'))}")


asyncio.run(main())
