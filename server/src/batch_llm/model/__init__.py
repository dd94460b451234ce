"""Data that the whole engine speaks of: items, results, usage, totals, errors, settings. Imports nothing of ours."""

from .config import ExecutionPolicy, ProcessorConfig, RateLimitConfig, RetryConfig
from .errors import (
    RETRYABLE_REASONS,
    TERMINAL_REASONS,
    BatchLLMError,
    CacheGoneError,
    DefaultErrorClassifier,
    ErrorClassifier,
    ErrorInfo,
    ErrorReason,
    FrameworkTimeoutError,
    OutputValidationError,
    ProviderError,
    reason_of_status,
)
from .events import EngineEvents, ProcessingEvent
from .items import AnyResult, LLMWorkItem, TContext, TOutput, WorkItemResult
from .prices import Pricing, TokenPrices, TokenRates
from .receipt import Receipt, attempt_receipt
from .stats import ProcessingStats
from .totals import BatchResult, BatchTotals
from .usage import DEFAULT_CACHE_DISCOUNT, TokenUsage, add_usage, effective_input_tokens

__all__ = [
    "DEFAULT_CACHE_DISCOUNT",
    "RETRYABLE_REASONS",
    "TERMINAL_REASONS",
    "AnyResult",
    "BatchLLMError",
    "BatchResult",
    "BatchTotals",
    "CacheGoneError",
    "DefaultErrorClassifier",
    "EngineEvents",
    "ErrorClassifier",
    "ErrorInfo",
    "ErrorReason",
    "ExecutionPolicy",
    "FrameworkTimeoutError",
    "LLMWorkItem",
    "OutputValidationError",
    "Pricing",
    "ProcessingEvent",
    "ProcessingStats",
    "ProcessorConfig",
    "ProviderError",
    "RateLimitConfig",
    "Receipt",
    "RetryConfig",
    "TContext",
    "TOutput",
    "TokenPrices",
    "TokenRates",
    "TokenUsage",
    "WorkItemResult",
    "add_usage",
    "attempt_receipt",
    "effective_input_tokens",
    "reason_of_status",
]
