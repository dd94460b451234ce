"""A job that runs again and again, a process each time: it finds the cache of the run before.

    python recurring.py          # and again within two hours: nothing is created

See "Created" in the first run and "Reusing" in the next ones. The cache is found at Google by a fingerprint of model,
content, system instruction, tools and tags; change one of them, and the job gets a cache of its own.

The TTL decides what that costs. It has to be longer than the time between two runs and the renewal buffer (five
minutes) together, else each run creates a cache anew. Longer than that only buys storage: with this model an hour of
it costs two thirds of a creation, so a job that runs less often than every 90 minutes had better create each time, and
delete at the end as one_off.py does. A cache that has expired is replaced; nothing else is to be done.
"""

import asyncio
import time

from common import HANDBOOK, LABEL, MODEL, gemini, show, tickets, usd

from batch_llm import GeminiCachedStrategy, LLMWorkItem, ParallelBatchProcessor

EVERY_HOUR = 3600.0


async def main() -> None:
    async with gemini() as (client, _):
        strategy = GeminiCachedStrategy(
            MODEL,
            client,
            cached_content=HANDBOOK,
            cache_ttl_seconds=2 * EVERY_HOUR,
            cache_renewal_buffer_seconds=300,
            config={"system_instruction": LABEL},
        )
        async with ParallelBatchProcessor(max_workers=5) as processor:
            for ticket in tickets(10):
                await processor.add_work(LLMWorkItem(ticket["id"], strategy, ticket["text"]))
            result = await processor.process_all()
        show(result)
        cache = strategy.context_cache.record
        if cache is not None:  # None where Google caches nothing, on the free tier
            hours = (cache.expire_time - time.time()) / 3600
            print(f"{cache.name} lives for another {hours:.1f} hours", end=", ")
            print(f"which cost {usd(result.receipt.storage_until_expiry_nano_usd)} unless you delete it")


asyncio.run(main())
