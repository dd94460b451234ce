"""A cheap model answers; what it cannot do goes to a better one.

    python escalation.py

See two tickets answered by the cheap model, and one that moved up when its answer did not pass validation. Only that
moves an item up: network errors and rate limits are tried again where they are. Without GEMINI_API_KEY the emulator
plays both models, and the cheap one blunders as it is told.
"""

import asyncio
import json
from typing import Literal

from common import MODEL, gemini, show, tickets
from pydantic import BaseModel

from batch_llm import GeminiStrategy, LLMWorkItem, ParallelBatchProcessor

CHEAP = "gemini-3.5-flash-lite"


class Triage(BaseModel):
    label: Literal["billing", "shipping", "return", "account"]


class TriageStrategy(GeminiStrategy[Triage]):
    output_model = Triage  # checks each answer; results carry instances of it


async def main() -> None:
    async with gemini() as (client, emulator):
        if emulator is not None:
            for ticket in tickets(3):
                good = json.dumps({"label": ticket["label"]})
                cheap = "I would rather not say." if ticket["id"] == "T-002" else good
                emulator.answer({"reply": cheap}, model=CHEAP, contains=ticket["text"])
                emulator.answer({"reply": good}, model=MODEL, contains=ticket["text"])
        config = {
            "system_instruction": f"Label the support ticket, as JSON: {json.dumps(Triage.model_json_schema())}",
            "response_mime_type": "application/json",
        }
        strategy = TriageStrategy(CHEAP, client, config=config)
        strategy.escalation = [TriageStrategy(MODEL, client, config=config)]
        async with ParallelBatchProcessor(max_workers=5) as processor:
            for ticket in tickets(3):
                await processor.add_work(LLMWorkItem(ticket["id"], strategy, ticket["text"]))
            result = await processor.process_all()
        show(result)
        for item in sorted(result.results, key=lambda item: item.submission_index):
            print(f"{item.item_id}  attempt {item.attempts}, by {item.model}")


asyncio.run(main())
