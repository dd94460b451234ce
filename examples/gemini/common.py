"""What the examples share: a client, the shop's texts, and how results are shown."""

import json
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from google import genai

from batch_llm import BatchResult
from batch_llm.emulator import GeminiEmulator, running_emulator

MODEL = "gemini-3.5-flash"
LABEL = "Label the support ticket: billing, shipping, return or account. Answer with that word alone."

HERE = Path(__file__).parent
TRIAGE = HERE.parent / "triage"

# A Gemini cache has a smallest size, 4,096 tokens for this model, so the handbook alone would not do. Stripped as the
# sidecar does it: the same content has the same cache.
HANDBOOK = [path.read_text(encoding="utf-8").strip() for path in (TRIAGE / "handbook.md", HERE / "catalogue.md")]


@asynccontextmanager
async def gemini() -> AsyncIterator[tuple[genai.Client, GeminiEmulator | None]]:
    """Google with `GEMINI_API_KEY`, else the emulator at `GEMINI_EMULATOR`, else one that ends with the example."""
    # Caches that are created, reused and deleted are logged.
    logging.basicConfig(level=logging.INFO, format="[%(message)s]", stream=sys.stdout)
    with ExitStack() as stack:
        if key := os.environ.get("GEMINI_API_KEY"):
            client, emulator = genai.Client(api_key=key), None
        else:
            address = os.environ.get("GEMINI_EMULATOR")
            emulator = GeminiEmulator(address) if address else stack.enter_context(running_emulator())
            client = genai.Client(api_key="any", http_options={"base_url": emulator.url})
        try:
            yield client, emulator
        finally:
            await client.aio.aclose()
            client.close()


def tickets(count: int, start: int = 0) -> list[dict[str, str]]:
    """Some of the shop's tickets: `id`, `text` and the right `label`."""
    lines = (TRIAGE / "tickets.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[start : start + count]]


def show(result: BatchResult[Any, Any]) -> None:
    """Print the results in the order of submission, and what the batch came to."""
    for item in sorted(result.results, key=lambda item: item.submission_index):
        print(f"{item.item_id}  {item.output if item.success else f'{item.reason}: {item.error}'}")
    receipt = result.receipt
    print(
        f"{result.succeeded} of {result.total_items} succeeded; {result.total_input_tokens:,} tokens in, "
        f"{result.cache_hit_rate():.1f} % of them cached, so they count as {result.effective_input_tokens():,}; "
        f"{result.total_output_tokens:,} out"
    )
    print(f"cost {usd(receipt.total_nano_usd)}, without a cache {usd(receipt.uncached_nano_usd)}")


def usd(nano: int | None) -> str:
    """Nano-dollars for people."""
    return "unknown" if nano is None else f"${nano / 1e9:.4f}"
