"""A strategy on a local model: a shared prefix that the model reads once, and a prompt for each item."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from batch_llm.caching import (
    CacheBackend,
    CachePolicy,
    CacheRecord,
    CacheRegistry,
    ContextCache,
    CreatedCache,
    SqliteCacheRegistry,
    fingerprint,
)
from batch_llm.model import TokenUsage
from batch_llm.strategies.base import LLMCallStrategy

from .model import Framing, LocalModel

_FINISH_REASONS = {"eos": "stop", "word": "stop", "limit": "length"}


class LocalStrategy(LLMCallStrategy[str], CacheBackend):
    """Calls a local model.

    `cached_content` follows the instruction in front of every prompt; the model reads it once and its state is saved,
    so that a later run, too, starts from there.

    Args:
        model: the model, which strategies may share.
        name: the strategy's name, for the cache's record.
        provider: the provider's name, likewise.
        system_instruction: said before anything else.
        cached_content: content that every item starts with; makes a cached strategy, with `registry`.
        cache_policy: life of the cache.
        cache_tags: part of the cache's identity.
        registry: where caches are remembered.
        temperature: 0 picks the likeliest token; None: llama.cpp's default, 0.8.
        max_output_tokens: the longest output; None: until the model ends or its context is full.
        top_p: nucleus sampling; None: llama.cpp's default.
        top_k: sample among so many; None: llama.cpp's default.
        seed: makes sampling repeatable.
        stop_sequences: output ends before any of these.
        grammar: GBNF grammar for the output.
        output_json_schema: JSON Schema for the output, as text; not together with `grammar`.
        clock: seconds since the epoch.
    """

    cache_discount = 1.0  # what is not read again costs nothing here

    def __init__(
        self,
        model: LocalModel,
        *,
        name: str = "",
        provider: str = "local",
        system_instruction: str = "",
        cached_content: Sequence[str] = (),
        cache_policy: CachePolicy | None = None,
        cache_tags: Mapping[str, str] | None = None,
        registry: CacheRegistry | None = None,
        temperature: float | None = None,
        max_output_tokens: int | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        seed: int | None = None,
        stop_sequences: Sequence[str] = (),
        grammar: str = "",
        output_json_schema: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.limiter = model.limiter
        self._model = model
        self._clock = clock
        self._parts = [part for part in (system_instruction, *cached_content) if part]
        self._framing = Framing("", "")
        given = {
            "temperature": temperature,
            "n_predict": max_output_tokens,
            "top_p": top_p,
            "top_k": top_k,
            "seed": seed,
            "stop": list(stop_sequences) or None,
            "grammar": grammar or None,
            "json_schema": json.loads(output_json_schema) if output_json_schema else None,
        }
        self._request = {key: value for key, value in given.items() if value is not None}
        if cached_content:
            self.context_cache = ContextCache(
                self,
                registry or SqliteCacheRegistry(),
                provider=provider,
                fingerprint=fingerprint(
                    provider_kind="local",
                    model=model.identity,
                    contents=cached_content,
                    system_instruction=system_instruction,
                    tags=cache_tags,
                ),
                model=model.name,
                strategy=name,
                policy=cache_policy or CachePolicy(),
                clock=clock,
            )

    async def prepare(self) -> None:
        """Start the model, if no other strategy has."""
        await self._model.acquire()
        try:
            self._framing = await self._model.frame(self._parts)
        except BaseException:
            await self._model.release()
            raise

    async def cleanup(self) -> None:
        """Stop the model, if no other strategy uses it. Saved prefixes stay."""
        await self._model.release()

    async def execute(
        self, prompt: str, attempt: int, timeout: float, state: dict[str, Any] | None = None
    ) -> tuple[str, TokenUsage, Mapping[str, Any]]:
        """One completion; tokens by the model's own count."""
        text = self._framing.before + prompt + self._framing.after
        prefix = self.context_cache.fingerprint if self.context_cache is not None else None
        answer = await self._model.complete({**self._request, "prompt": text}, prefix)
        timings = answer["timings"]
        usage: TokenUsage = {
            "input_tokens": int(answer["tokens_evaluated"]),
            "output_tokens": int(answer["tokens_predicted"]),
            "cached_input_tokens": int(timings["cache_n"]),
        }
        metadata = {
            "finish_reason": _FINISH_REASONS.get(answer["stop_type"], str(answer["stop_type"])),
            "model": self._model.name,
        }
        return str(answer["content"]), usage, metadata

    async def create_cache(self, fingerprint: str, ttl_seconds: float) -> CreatedCache:
        """See `CacheBackend`."""
        await self._model.acquire()
        try:
            framing = await self._model.frame(self._parts)
            tokens = await self._model.save_prefix(fingerprint, framing.before)
        finally:
            await self._model.release()
        return CreatedCache(self._model.prefix_file(fingerprint).name, tokens, self._clock() + ttl_seconds)

    async def renew_cache(self, record: CacheRecord, ttl_seconds: float) -> float:
        """See `CacheBackend`."""
        return self._clock() + ttl_seconds

    async def drop_cache(self, record: CacheRecord) -> None:
        """See `CacheBackend`."""
        self._model.forget_prefix(record.fingerprint)

    async def holds_cache(self, record: CacheRecord) -> bool:
        """See `CacheBackend`."""
        return not self.lost_cache(record)

    def lost_cache(self, record: CacheRecord) -> bool:
        """See `CacheBackend`."""
        return not self._model.prefix_file(record.fingerprint).is_file()
