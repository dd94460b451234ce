"""Items a second of async-batch-llm with a strategy that takes no time; runs in an environment of its own."""

import asyncio
import logging
import sys
import time
import warnings

from async_batch_llm import LLMCallStrategy, LLMWorkItem, ParallelBatchProcessor, ProcessorConfig

ITEMS = 4000


class Echo(LLMCallStrategy):
    async def execute(self, prompt, attempt, timeout, state=None):
        return prompt, {"input_tokens": 10, "output_tokens": 2, "total_tokens": 12}, None


async def main(workers: int) -> None:
    strategy = Echo()
    async with ParallelBatchProcessor(config=ProcessorConfig(max_workers=workers)) as processor:
        for number in range(ITEMS):
            await processor.add_work(LLMWorkItem(item_id=str(number), strategy=strategy, prompt="x" * 50))
        started = time.perf_counter()
        result = await processor.process_all()
    assert result.succeeded == ITEMS
    print(ITEMS / (time.perf_counter() - started))


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    asyncio.run(main(int(sys.argv[1])))
