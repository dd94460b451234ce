"""The names of the in-process API, their parameters and defaults."""

import inspect
from typing import Any

import pytest

import batch_llm

# design/engine.md's table.
NAMES = [
    "ParallelBatchProcessor",
    "LLMWorkItem",
    "WorkItemResult",
    "BatchResult",
    "TokenUsage",
    "ProcessingStats",
    "ProcessorConfig",
    "RetryConfig",
    "RateLimitConfig",
    "LLMCallStrategy",
    "ErrorClassifier",
    "ErrorInfo",
    "DefaultErrorClassifier",
    "GeminiErrorClassifier",
    "FrameworkTimeoutError",
    "RateLimitStrategy",
    "ExponentialBackoffStrategy",
    "FixedDelayStrategy",
    "Middleware",
    "BaseMiddleware",
    "ProcessorObserver",
    "BaseObserver",
    "ProcessingEvent",
    "MetricsObserver",
]


@pytest.mark.parametrize("name", sorted({*NAMES, *batch_llm.__all__}))
def test_a_name_is_public_and_there(name: str) -> None:
    assert name in batch_llm.__all__
    assert getattr(batch_llm, name) is not None


REQUIRED = inspect.Parameter.empty


@pytest.mark.parametrize(
    ("call", "parameters"),
    [
        (
            batch_llm.ParallelBatchProcessor,
            dict.fromkeys(
                [
                    *("config", "post_processor", "progress_callback", "middlewares", "observers", "error_classifier"),
                    *("rate_limit_strategy", "max_workers", "timeout_per_item"),
                ]
            ),
        ),
        (batch_llm.LLMWorkItem, {"item_id": REQUIRED, "strategy": REQUIRED, "prompt": "", "context": None}),
        (batch_llm.BaseMiddleware.before_process, {"self": REQUIRED, "item": REQUIRED}),
        (batch_llm.BaseMiddleware.after_process, {"self": REQUIRED, "result": REQUIRED}),
        (batch_llm.BaseMiddleware.on_error, {"self": REQUIRED, "item": REQUIRED, "error": REQUIRED}),
        (batch_llm.BaseObserver.on_event, {"self": REQUIRED, "event": REQUIRED, "data": REQUIRED}),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_parameters_and_defaults(call: Any, parameters: dict[str, Any]) -> None:
    found = {name: parameter.default for name, parameter in inspect.signature(call).parameters.items()}
    assert found == parameters


def test_the_first_fields_of_a_result() -> None:
    first = ["item_id", "success", "output", "error", "context", "token_usage", "gemini_safety_ratings"]
    assert list(inspect.signature(batch_llm.WorkItemResult).parameters)[:7] == first


def test_what_an_observer_may_be_told() -> None:
    assert [event.name for event in batch_llm.ProcessingEvent] == [
        *("ITEM_STARTED", "ITEM_COMPLETED", "ITEM_FAILED", "RATE_LIMIT_HIT", "COOLDOWN_STARTED", "COOLDOWN_ENDED"),
        *("WORKER_STARTED", "WORKER_STOPPED", "BATCH_STARTED", "BATCH_COMPLETED"),
    ]
