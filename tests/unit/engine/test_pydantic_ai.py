"""pydantic-ai agents as strategies, with pydantic-ai's own models for tests. On real event loops: it uses threads."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, RunContext, exceptions
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.usage import RequestUsage, UsageLimits

from batch_llm import (
    ErrorReason,
    LLMWorkItem,
    ParallelBatchProcessor,
    ProcessorConfig,
    PydanticAIStrategy,
    RetryConfig,
    WorkItemResult,
)

USAGE = RequestUsage(
    input_tokens=10, output_tokens=5, cache_read_tokens=4, output_reasoning_tokens=2, details={"reasoning_tokens": 2}
)
ONCE = {"input_tokens": 10, "output_tokens": 5, "cached_input_tokens": 4, "thinking_tokens": 2, "total_tokens": 15}


class Label(BaseModel):
    label: str
    score: int


def say(*texts: str) -> tuple[FunctionModel, list[list[ModelMessage]]]:
    """A model that says one text after another, then the last again, and what it was asked."""
    asked: list[list[ModelMessage]] = []

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        asked.append(list(messages))
        text = texts[min(len(asked), len(texts)) - 1]
        return ModelResponse(parts=[TextPart(text)], usage=USAGE, finish_reason="stop")

    return FunctionModel(answer, model_name="scripted"), asked


def fail(error: Exception) -> FunctionModel:
    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        raise error

    return FunctionModel(answer)


def run(strategy: PydanticAIStrategy[Any], prompt: str = "hello", *, attempts: int = 1) -> WorkItemResult[Any, Any]:
    retry = RetryConfig(max_attempts=attempts, initial_wait=0, max_rate_limit_retries=0)

    async def main() -> WorkItemResult[Any, Any]:
        async with ParallelBatchProcessor(config=ProcessorConfig(max_workers=2, retry=retry)) as processor:
            await processor.add_work(LLMWorkItem(item_id="1", strategy=strategy, prompt=prompt))
            (result,) = (await processor.process_all()).results
        return result

    return asyncio.run(main())


def test_the_output_is_the_agents_own() -> None:
    agent = Agent(TestModel(custom_output_args={"label": "a", "score": 3}), output_type=Label)
    result = run(PydanticAIStrategy(agent))
    assert (result.success, result.output, result.model) == (True, Label(label="a", score=3), "test")
    assert result.token_usage["input_tokens"] > 0
    assert result.token_usage["output_tokens"] > 0


def test_all_tokens_are_reported() -> None:
    model, asked = say("hi")
    result = run(PydanticAIStrategy(Agent(model)), "the prompt")
    assert (result.output, result.finish_reason, result.model) == ("hi", "stop", "scripted")
    assert result.token_usage == ONCE
    assert "the prompt" in str(asked[0])


def test_dependencies_reach_tools_and_requests_add_up() -> None:
    agent = Agent(TestModel(), deps_type=str)

    @agent.tool
    def whoami(context: RunContext[str]) -> str:
        return context.deps

    result = run(PydanticAIStrategy(agent, deps="acme"))
    assert "acme" in result.output


def test_an_output_that_the_agent_does_not_accept_is_tried_again_with_what_was_wrong() -> None:
    model, asked = say("no label", '{"label": "a"}', '{"label": "a", "score": 1}')
    strategy = PydanticAIStrategy(Agent(model, output_type=Label, retries=0))
    result = run(strategy, attempts=3)
    assert (result.output, result.attempts) == (Label(label="a", score=1), 3)
    assert result.token_usage["input_tokens"] == 30
    assert "no label" in str(asked[1])
    assert "score" in str(asked[2])


def test_the_agents_own_retries_are_paid_also_when_they_do_not_help() -> None:
    model, asked = say("no label")
    result = run(PydanticAIStrategy(Agent(model, output_type=Label, retries=2)), attempts=2)
    assert (result.reason, result.attempts, len(asked)) == (ErrorReason.VALIDATION_FAILED, 2, 6)
    assert result.error_metadata["last_output"] == "no label"
    assert result.token_usage["input_tokens"] == 60
    assert result.token_usage["cached_input_tokens"] == 24


@pytest.mark.parametrize(
    ("error", "reason", "attempts"),
    [
        (exceptions.ModelHTTPError(503, "m"), ErrorReason.PROVIDER_UNAVAILABLE, 2),
        (exceptions.ModelHTTPError(400, "m"), ErrorReason.PROVIDER_REJECTED, 1),
        (exceptions.ModelHTTPError(401, "m"), ErrorReason.AUTHENTICATION_FAILED, 1),
        (exceptions.ModelAPIError("m", "gone"), ErrorReason.PROVIDER_UNAVAILABLE, 2),
        (exceptions.ModelRequestTimeout("m", 5), ErrorReason.PROVIDER_TIMEOUT, 2),
        (exceptions.ModelTimeoutError("m", "slow"), ErrorReason.PROVIDER_TIMEOUT, 2),
        (exceptions.ModelQuotaExceededError("m", "pay"), ErrorReason.RATE_LIMITED, 1),
        (exceptions.ModelContextWindowExceededError("m", "long"), ErrorReason.CONTEXT_LENGTH_EXCEEDED, 1),
        (exceptions.UserError("set a model"), ErrorReason.INTERNAL, 1),
        (ConnectionResetError("gone"), ErrorReason.PROVIDER_UNAVAILABLE, 2),
        (KeyError("bug in a tool"), ErrorReason.INTERNAL, 1),
    ],
)
def test_failures_are_classified(error: Exception, reason: ErrorReason, attempts: int) -> None:
    result = run(PydanticAIStrategy(Agent(fail(error))), attempts=2)
    assert (result.reason, result.attempts) == (reason, attempts)


def test_the_wait_that_a_provider_asks_for_is_kept() -> None:
    error = exceptions.ModelHTTPError(429, "m", headers={"Retry-After": "7"})
    result = run(PydanticAIStrategy(Agent(fail(error))))
    assert (result.reason, result.retry_after) == (ErrorReason.RATE_LIMITED, 7.0)


def test_a_content_filter_costs_its_tokens_and_does_not_repeat_the_output() -> None:
    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return ModelResponse(parts=[], usage=USAGE, finish_reason="content_filter")

    result = run(PydanticAIStrategy(Agent(FunctionModel(answer))), attempts=2)
    assert (result.reason, result.attempts) == (ErrorReason.CONTENT_BLOCKED, 1)
    assert result.token_usage == ONCE
    assert "parts" not in (result.error or "")


def test_limits_on_a_run_end_it_with_its_tokens() -> None:
    model, _ = say("no label")
    strategy = PydanticAIStrategy(Agent(model, output_type=Label, retries=5), usage_limits=UsageLimits(request_limit=2))
    result = run(strategy, attempts=2)
    assert (result.reason, result.attempts) == (ErrorReason.PROVIDER_REJECTED, 1)
    assert result.token_usage["input_tokens"] == 20


async def test_a_cancelled_run_is_a_cancellation() -> None:
    entered = asyncio.Event()

    async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        entered.set()
        await asyncio.Event().wait()
        raise AssertionError

    task = asyncio.create_task(PydanticAIStrategy(Agent(FunctionModel(answer))).execute("a", 1, 60))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_discount_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="cache_discount must be at most 1, got 90"):
        PydanticAIStrategy(Agent(TestModel()), cache_discount=90)


@pytest.mark.parametrize("name", ["PydanticAIStrategy", "OpenAIStrategy", "CallableStrategy"])
def test_importing_it_imports_no_providers_library(name: str) -> None:
    program = (
        f"import sys, batch_llm; batch_llm.{name}; "
        "print([module for module in ('openai', 'pydantic_ai', 'httpx2', 'jsonschema') if module in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
