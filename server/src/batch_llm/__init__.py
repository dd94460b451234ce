"""Batch LLM calls through named, shared, cached strategies. The sidecar is in `batch_llm.sidecar`."""

from typing import TYPE_CHECKING, Any

from ._version import __version__
from .model import (
    BatchResult,
    DefaultErrorClassifier,
    ErrorClassifier,
    ErrorInfo,
    ErrorReason,
    FrameworkTimeoutError,
    LLMWorkItem,
    OutputValidationError,
    ProcessingEvent,
    ProcessingStats,
    ProcessorConfig,
    ProviderError,
    RateLimitConfig,
    Receipt,
    RetryConfig,
    TokenPrices,
    TokenUsage,
    WorkItemResult,
)
from .processor import (
    BaseMiddleware,
    BaseObserver,
    MetricsObserver,
    Middleware,
    ParallelBatchProcessor,
    ProcessorObserver,
)
from .quota import ExponentialBackoffStrategy, FixedDelayStrategy, RateLimitStrategy
from .strategies import LLMCallStrategy

if TYPE_CHECKING:
    from .strategies.callable import CallableStrategy
    from .strategies.gemini.errors import GeminiErrorClassifier
    from .strategies.gemini.strategy import GeminiCachedStrategy, GeminiStrategy
    from .strategies.openai import OpenAIStrategy
    from .strategies.pydantic_ai import PydanticAIStrategy

__all__ = [
    "BaseMiddleware",
    "BaseObserver",
    "BatchResult",
    "CallableStrategy",
    "DefaultErrorClassifier",
    "ErrorClassifier",
    "ErrorInfo",
    "ErrorReason",
    "ExponentialBackoffStrategy",
    "FixedDelayStrategy",
    "FrameworkTimeoutError",
    "GeminiCachedStrategy",
    "GeminiErrorClassifier",
    "GeminiStrategy",
    "LLMCallStrategy",
    "LLMWorkItem",
    "MetricsObserver",
    "Middleware",
    "OpenAIStrategy",
    "OutputValidationError",
    "ParallelBatchProcessor",
    "ProcessingEvent",
    "ProcessingStats",
    "ProcessorConfig",
    "ProcessorObserver",
    "ProviderError",
    "PydanticAIStrategy",
    "RateLimitConfig",
    "RateLimitStrategy",
    "Receipt",
    "RetryConfig",
    "TokenPrices",
    "TokenUsage",
    "WorkItemResult",
    "__version__",
]

# Loaded when first asked for, so that importing batch_llm stays light.
_LAZY = {
    "CallableStrategy": "batch_llm.strategies.callable",
    "GeminiCachedStrategy": "batch_llm.strategies.gemini.strategy",
    "GeminiErrorClassifier": "batch_llm.strategies.gemini.errors",
    "GeminiStrategy": "batch_llm.strategies.gemini.strategy",
    "OpenAIStrategy": "batch_llm.strategies.openai",
    "PydanticAIStrategy": "batch_llm.strategies.pydantic_ai",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_LAZY[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
