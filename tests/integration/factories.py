"""Factories for the provider `python`, as an operator would write them. The tests' sidecars import this."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from batch_llm import CallableStrategy, LLMCallStrategy, ProviderError, TokenPrices, TokenUsage
from batch_llm.strategies.prices import ListPrices
from batch_llm.strategies.simulated import SimulatedStrategy
from batch_llm.sync import Limiter


class Label(BaseModel):
    label: str
    score: float


@dataclass
class Point:
    x: int


OUTPUTS: dict[str, Any] = {
    "text": "grüezi",
    "model": Label(label="a", score=0.5),
    "table": {"label": "ü", "items": [1, Label(label="b", score=1)]},
    "list": [1, "two", None],
    "dataclass": Point(3),
    "number": 1.5,
    "truth": True,
    "nothing": None,
    "object": {"kind": Point},
}


class Recorder(LLMCallStrategy[Any]):
    """Answers with what it was made of, or with one of `OUTPUTS`. Takes no `state`."""

    cache_discount = 0.5

    def __init__(self, **made_of: Any) -> None:
        self.made_of = made_of
        self.prepared = 0
        self.seen: list[str] = []

    async def prepare(self) -> None:
        self.prepared += 1

    async def execute(self, prompt: str, attempt: int, timeout: float) -> tuple[Any, TokenUsage, Mapping[str, Any]]:  # type: ignore[override]
        if prompt == "fail once" and attempt == 1:
            raise ProviderError("not yet", status=500, token_usage={"input_tokens": 5})
        usage: TokenUsage = {"input_tokens": 10, "cached_input_tokens": 4, "output_tokens": 1}
        output = OUTPUTS.get(prompt, {**self.made_of, "prepared": self.prepared, "seen": self.seen})
        return output, usage, {"finish_reason": "stop", "model": "recorder"}

    async def on_error(self, exception: Exception, attempt: int, state: dict[str, Any] | None = None) -> None:
        if state is not None:
            self.seen.append(str(exception))


class Counter(LLMCallStrategy[str]):
    """Counts an item's attempts in its `state`; its text outputs must be labels."""

    output_model = Label

    async def execute(
        self, prompt: str, attempt: int, timeout: float, state: dict[str, Any] | None = None
    ) -> tuple[str, TokenUsage]:
        assert state is not None
        state["calls"] = state.get("calls", 0) + 1
        good = '{"label": "' + str(state["calls"]) + '", "score": 1}'
        return (good if state["calls"] == 3 else "no label"), {"input_tokens": 2}


class Ledger(LLMCallStrategy[str]):
    """Writes each call down before it answers, in a file that outlives the process.

    A prompt that begins with "hold" is answered once there is a file `open` beside the ledger; "wait" takes a moment.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    async def execute(
        self, prompt: str, attempt: int, timeout: float, state: dict[str, Any] | None = None
    ) -> tuple[str, TokenUsage]:
        with self._path.open("a") as ledger:
            ledger.write(f"{prompt}\n")
        while prompt.startswith("hold") and not self._path.with_name("open").exists():  # noqa: ASYNC110  from outside
            await asyncio.sleep(0.01)
        if prompt.startswith("wait"):
            await asyncio.sleep(0.005)
        return prompt, {"input_tokens": 10, "cached_input_tokens": 4, "output_tokens": 1}


def make(
    *,
    name: str,
    model: str,
    system_instruction: str,
    cached_content: tuple[str, ...],
    generation: dict[str, Any],
    greeting: str = "",
) -> Recorder:
    return Recorder(
        name=name,
        model=model,
        instruction=system_instruction,
        content=cached_content,
        generation=generation,
        greeting=greeting,
    )


def priced(*, model: str, cached_content: tuple[str, ...]) -> SimulatedStrategy:
    prices = TokenPrices("0.30", "2.50", date(2026, 11, 10), cached_input="0.03", cache_storage="1.00")
    return SimulatedStrategy(
        cached_content=cached_content, pricing=prices if model == "known" else ListPrices("google", model)
    )


def everything(**facts: Any) -> Recorder:
    return Recorder(**facts)


def ledger(path: str) -> Ledger:
    return Ledger(path)


def bare() -> LLMCallStrategy[Any]:
    return CallableStrategy(lambda prompt: (prompt.upper(), {"output_tokens": 1}))


def one_by_one() -> LLMCallStrategy[Any]:
    strategy = bare()
    strategy.limiter = Limiter(1)
    return strategy


def counter() -> Counter:
    return Counter()


def broken() -> Recorder:
    raise OSError("no licence file")


def wrong() -> str:
    return "a strategy"


def cached(name: str = "", cached_content: tuple[str, ...] = ()) -> SimulatedStrategy:
    return SimulatedStrategy(name=name, cached_content=cached_content)


async def late() -> Recorder:
    return Recorder()


class Later:
    async def __call__(self) -> Recorder:
        return Recorder()


later = Later()


class Holder:
    make = staticmethod(bare)


constant = 3
