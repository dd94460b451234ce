"""Five tickets and one GeminiStrategy: every call by itself.

    python direct.py

See five answers, their tokens and what they cost. All items share one strategy, so one client and one quota. Without
GEMINI_API_KEY an emulator answers; it has no model and repeats the ticket.
"""

import asyncio

from common import LABEL, MODEL, gemini, show, tickets

from batch_llm import GeminiStrategy, LLMWorkItem, ParallelBatchProcessor, ProcessorConfig


async def main() -> None:
    async with gemini() as (client, _):
        strategy = GeminiStrategy(MODEL, client, config={"system_instruction": LABEL})
        config = ProcessorConfig(max_workers=5, timeout_per_item=60)
        async with ParallelBatchProcessor(config=config) as processor:
            for ticket in tickets(5):
                await processor.add_work(LLMWorkItem(ticket["id"], strategy, ticket["text"]))
            show(await processor.process_all())


asyncio.run(main())
