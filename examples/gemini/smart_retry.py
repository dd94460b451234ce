"""Answers that do not fit a pydantic model are told to the model what is wrong with them, and tried again.

    python smart_retry.py

See the third ticket take three attempts. First the answer is no JSON, then its label is none of the four; each time
the model is told so, and no other item is. The failed attempts are paid for, and the receipt says how much. Without
GEMINI_API_KEY the emulator is told to blunder; Google's models hardly ever do, so there each ticket takes one.
"""

import asyncio
import json
from collections.abc import Sequence
from typing import Literal

from common import MODEL, gemini, show, tickets, usd
from pydantic import BaseModel, Field

from batch_llm import GeminiStrategy, LLMWorkItem, ParallelBatchProcessor


class Triage(BaseModel):
    label: Literal["billing", "shipping", "return", "account"]
    reason: str = Field(max_length=80)


class TriageStrategy(GeminiStrategy[Triage]):
    def with_feedback(self, prompt: str, output: str, errors: Sequence[str]) -> str:
        print(f"not accepted: {output}", *errors, sep="\n  ")
        return super().with_feedback(prompt, output, errors)  # or words of your own


async def main() -> None:
    async with gemini() as (client, emulator):
        if emulator is not None:
            blunders = ["The label is account.", '{"label": "login", "reason": "cannot sign in"}']
            for ticket in tickets(3):
                good = json.dumps({"label": ticket["label"], "reason": "the customer says so"})
                wrong = blunders if ticket["id"] == "T-003" else []
                emulator.answer({"replies": wrong, "reply": good}, contains=ticket["text"])
        strategy = TriageStrategy(
            MODEL,
            client,
            response_parser=lambda response: Triage.model_validate_json(response.text or ""),
            config={
                "system_instruction": f"Label the support ticket, as JSON: {json.dumps(Triage.model_json_schema())}",
                "response_mime_type": "application/json",
            },
        )
        async with ParallelBatchProcessor(max_workers=5) as processor:
            for ticket in tickets(3):
                await processor.add_work(LLMWorkItem(ticket["id"], strategy, ticket["text"]))
            result = await processor.process_all()
        show(result)
        print("attempts:", dict(sorted((item.item_id, item.attempts) for item in result.results)))
        cost = usd(result.receipt.failed_attempt_nano_usd)
        print(f"failed: {result.receipt.failed_attempt_tokens:,} tokens for {cost} of this")


asyncio.run(main())
