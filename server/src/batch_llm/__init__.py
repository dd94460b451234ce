"""Batch LLM calls through named, shared, cached strategies. The sidecar is in `batch_llm.sidecar`."""

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
    ProcessorConfig,
    ProviderError,
    RetryConfig,
    TokenUsage,
    WorkItemResult,
)
from .processor import ParallelBatchProcessor
from .strategies import LLMCallStrategy

__all__ = [
    "BatchResult",
    "DefaultErrorClassifier",
    "ErrorClassifier",
    "ErrorInfo",
    "ErrorReason",
    "FrameworkTimeoutError",
    "LLMCallStrategy",
    "LLMWorkItem",
    "OutputValidationError",
    "ParallelBatchProcessor",
    "ProcessorConfig",
    "ProviderError",
    "RetryConfig",
    "TokenUsage",
    "WorkItemResult",
    "__version__",
]
