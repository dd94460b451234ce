"""What the Gemini tests share: the emulator's clock as ours, counts of its requests, strategies on the real SDK."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from google import genai
from google.genai import types

from batch_llm import (
    BatchResult,
    GeminiCachedStrategy,
    LLMCallStrategy,
    LLMWorkItem,
    ParallelBatchProcessor,
    ProcessorConfig,
    RateLimitConfig,
    RetryConfig,
)
from batch_llm.caching import CacheRecord, CacheRegistry, SqliteCacheRegistry
from batch_llm.emulator import GeminiEmulator

MODEL = "gemini-2.5-flash"
INSTRUCTION = "Label the ticket."
HANDBOOK = "Refunds go to the billing team, lost parcels to logistics. " * 100
HANDBOOK_TOKENS = len(HANDBOOK) // 4 + len(INSTRUCTION) // 4 + 1  # as the emulator counts
PATIENT = RetryConfig(initial_wait=0, max_wait=0)  # tries again at once


class Watch:
    """Our clock, which stands still until it is moved, like the emulator's."""

    def __init__(self, emulator: GeminiEmulator) -> None:
        emulator.configure(clock_frozen=True)
        self._emulator = emulator
        self._now = emulator.now()

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass here and there."""
        self._emulator.advance(seconds)
        self._now += seconds

    def fall_behind(self, seconds: float) -> None:
        """Let time pass at the emulator alone."""
        self._emulator.advance(seconds)


def counts(emulator: GeminiEmulator, **filters: Any) -> dict[str, int]:
    """Requests that came, by kind."""
    return dict(Counter(request["kind"] for request in emulator.requests(**filters)))


def bodies(emulator: GeminiEmulator, kind: str) -> list[str]:
    """The bodies of the requests of a kind, oldest first."""
    return [request["body"] for request in emulator.requests(kind)]


def new_key() -> str:
    """A key that no other test has: quota scopes go by it."""
    return f"key-{uuid.uuid4().hex}"


@asynccontextmanager
async def users_client(emulator: GeminiEmulator, key: str | None = None, **options: Any) -> AsyncIterator[genai.Client]:
    """A client as a user would make it."""
    http = types.HttpOptions(base_url=emulator.url, **{"api_version": "v1beta", **options})
    client = genai.Client(api_key=key or new_key(), vertexai=False, http_options=http)
    try:
        yield client
    finally:
        await client.aio.aclose()
        client.close()


def cached(client: Any, watch: Callable[[], float], registry: CacheRegistry | None = None, **more: Any) -> Any:
    """A cached strategy, with memories of its own unless a registry is given."""
    arguments: dict[str, Any] = {
        "cached_content": [HANDBOOK],
        "config": {"system_instruction": INSTRUCTION},
        "clock": watch,
        "registry": registry if registry is not None else SqliteCacheRegistry(),
        **more,
    }
    return GeminiCachedStrategy(arguments.pop("model", MODEL), client, **arguments)


def processor(workers: int = 10, retry: RetryConfig = PATIENT, **more: Any) -> ParallelBatchProcessor[Any, Any]:
    """A processor that does not wait before it tries again."""
    pauses = more.pop("rate_limit", RateLimitConfig(cooldown_seconds=0, slow_start_items=0))
    dry_run = more.pop("dry_run", False)
    limit = more.pop("timeout_per_item", 120)
    config = ProcessorConfig(workers, limit, retry, pauses, dry_run=dry_run)
    return ParallelBatchProcessor(config, **more)


async def run(
    by: ParallelBatchProcessor[Any, Any], strategy: LLMCallStrategy[Any], prompts: int | Sequence[str]
) -> BatchResult[Any, Any]:
    """Run a batch of prompts, or of so many."""
    if isinstance(prompts, int):
        prompts = [f"ticket {number}" for number in range(prompts)]
    for number, prompt in enumerate(prompts):
        await by.add_work(LLMWorkItem(str(number), strategy, prompt))
    return await by.process_all()


async def run_once(strategy: LLMCallStrategy[Any], prompts: int | Sequence[str], **more: Any) -> BatchResult[Any, Any]:
    """Run a batch with a processor of its own."""
    async with processor(**more) as by:
        return await run(by, strategy, prompts)


def all_first_time(result: BatchResult[Any, Any], items: int) -> None:
    """All succeeded, and no attempt was spent on anything else."""
    assert [(each.success, each.error, each.attempts) for each in result.results] == [(True, None, 1)] * items


async def arrived(emulator: GeminiEmulator, kind: str, count: int = 1) -> None:
    """Wait until so many requests of a kind have come."""
    await asyncio.to_thread(emulator.wait_for, kind, count, 60)


def record_of(strategy: GeminiCachedStrategy[Any]) -> CacheRecord:
    """The strategy's cache."""
    record = strategy.context_cache.record
    assert record is not None
    return record


class PatientLoop(asyncio.SelectorEventLoop):
    """An event loop whose time a test can move on, so that pauses end at once while the network stays real."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead
