"""What can go wrong, and what it means for another attempt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from .usage import TokenUsage


class ErrorReason(StrEnum):
    """Why an item or a request failed; the same names as `ErrorReason` in proto/batchllm/v1/errors.proto."""

    OPEN_FRAME_REQUIRED = "OPEN_FRAME_REQUIRED"
    OPEN_FRAME_REPEATED = "OPEN_FRAME_REPEATED"
    FRAME_EMPTY = "FRAME_EMPTY"
    INVALID_FIELD = "INVALID_FIELD"
    STRATEGY_NOT_FOUND = "STRATEGY_NOT_FOUND"
    STRATEGY_EXISTS = "STRATEGY_EXISTS"
    STRATEGY_FROM_FILE = "STRATEGY_FROM_FILE"
    STRATEGY_IN_USE = "STRATEGY_IN_USE"
    REGISTRATION_DISABLED = "REGISTRATION_DISABLED"
    PROVIDER_NOT_FOUND = "PROVIDER_NOT_FOUND"
    BATCH_IN_USE = "BATCH_IN_USE"
    CACHE_NOT_CONFIGURED = "CACHE_NOT_CONFIGURED"
    CACHE_NOT_FOUND = "CACHE_NOT_FOUND"
    SERVER_DRAINING = "SERVER_DRAINING"
    JOURNAL_FULL = "JOURNAL_FULL"
    JOURNAL_UNAVAILABLE = "JOURNAL_UNAVAILABLE"
    BATCH_NOT_FOUND = "BATCH_NOT_FOUND"
    BATCH_NOT_FINISHED = "BATCH_NOT_FINISHED"
    IDEMPOTENCY_CONFLICT = "IDEMPOTENCY_CONFLICT"
    INVALID_ITEM = "INVALID_ITEM"
    ITEM_ID_CONFLICT = "ITEM_ID_CONFLICT"
    ITEM_DEADLINE_EXCEEDED = "ITEM_DEADLINE_EXCEEDED"
    ATTEMPT_TIMEOUT = "ATTEMPT_TIMEOUT"
    PROVIDER_TIMEOUT = "PROVIDER_TIMEOUT"
    RATE_LIMITED = "RATE_LIMITED"
    PROVIDER_UNAVAILABLE = "PROVIDER_UNAVAILABLE"
    PROVIDER_REJECTED = "PROVIDER_REJECTED"
    AUTHENTICATION_FAILED = "AUTHENTICATION_FAILED"
    CONTEXT_LENGTH_EXCEEDED = "CONTEXT_LENGTH_EXCEEDED"
    VALIDATION_FAILED = "VALIDATION_FAILED"
    PREPARE_FAILED = "PREPARE_FAILED"
    CANCELLED = "CANCELLED"
    INTERNAL = "INTERNAL"
    CACHE_EXPIRED = "CACHE_EXPIRED"
    CONTENT_BLOCKED = "CONTENT_BLOCKED"


class BatchLLMError(Exception):
    """An error that knows its reason.

    Args:
        message: for people: what happened and the way out.
        reason: what to branch on.
        metadata: facts behind the reason, by the names that the reason's comment in errors.proto lists.
    """

    def __init__(self, message: str, *, reason: ErrorReason, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.metadata = dict(metadata or {})


class ProviderError(BatchLLMError):
    """A provider's answer that is no output.

    Args:
        message: what the provider said.
        status: its HTTP status, where there is one; decides reason and retry where these are not given.
        reason: overrides what the status says.
        retryable: overrides what the status says.
        retry_after: seconds that the provider asked to wait.
        token_usage: what the failed attempt cost.
        metadata: facts behind the reason.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        reason: ErrorReason | None = None,
        retryable: bool | None = None,
        retry_after: float | None = None,
        token_usage: TokenUsage | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        by_status = reason_of_status(status)
        super().__init__(message, reason=reason or by_status, metadata=metadata)
        self.status = status
        self.retryable = self.reason in RETRYABLE_REASONS if retryable is None else retryable
        self.retry_after = retry_after
        self.token_usage = token_usage


class CacheGoneError(ProviderError):
    """The context cache that a call named has expired or was deleted; nothing was spent.

    Args:
        message: what the provider said.
        cache_name: the cache's name at the provider.
    """

    def __init__(self, message: str, *, cache_name: str) -> None:
        super().__init__(message, reason=ErrorReason.CACHE_EXPIRED, retryable=True)
        self.cache_name = cache_name


class FrameworkTimeoutError(TimeoutError):
    """The engine's own limit on one attempt ran out; the provider's time-outs are other exceptions.

    Args:
        message: with the limit.
        token_usage: what the attempt had cost until then, where the strategy has put it on its `CancelledError`.
    """

    def __init__(self, message: str = "", *, token_usage: TokenUsage | None = None) -> None:
        super().__init__(message)
        self.token_usage = token_usage


class OutputValidationError(Exception):
    """An output that does not match the strategy's schema.

    Args:
        errors: one line for each mismatch, with its place in the output.
        output: the output as the model gave it.
    """

    def __init__(self, errors: list[str], output: str) -> None:
        super().__init__("the output does not match the schema: " + "; ".join(errors))
        self.errors = errors
        self.output = output
        self.token_usage: TokenUsage | None = None


# What another attempt can mend, and what it cannot.
RETRYABLE_REASONS = frozenset(
    {
        ErrorReason.ATTEMPT_TIMEOUT,
        ErrorReason.PROVIDER_TIMEOUT,
        ErrorReason.RATE_LIMITED,
        ErrorReason.PROVIDER_UNAVAILABLE,
        ErrorReason.VALIDATION_FAILED,
    }
)
TERMINAL_REASONS = frozenset(ErrorReason) - RETRYABLE_REASONS


def reason_of_status(status: int | None) -> ErrorReason:
    """The reason that an HTTP status stands for; without one, the provider counts as unreachable."""
    match status:
        case 401 | 403:
            return ErrorReason.AUTHENTICATION_FAILED
        case 408 | 499 | 504:
            return ErrorReason.PROVIDER_TIMEOUT
        case 429:
            return ErrorReason.RATE_LIMITED
        case int() if 400 <= status < 500:
            return ErrorReason.PROVIDER_REJECTED
        case _:
            return ErrorReason.PROVIDER_UNAVAILABLE


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """What an exception means for the engine.

    Args:
        is_retryable: another attempt may succeed.
        is_rate_limit: the provider throttled the call.
        is_timeout: a time limit ran out, the engine's or the provider's.
        error_category: a word for logs and counts.
        suggested_wait: seconds that the provider asked to wait.
        reason: the reason reported for the item; derived from the flags where a classifier gives none.
        metadata: facts behind the reason.
        is_overload: the provider says that it has too much to do (503, 529).
    """

    is_retryable: bool
    is_rate_limit: bool
    is_timeout: bool
    error_category: str
    suggested_wait: float | None = None
    reason: ErrorReason | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    is_overload: bool = False

    @property
    def item_reason(self) -> ErrorReason:
        """The reason to report for an item that ends with this error."""
        if self.reason is not None:
            return self.reason
        if self.is_rate_limit:
            return ErrorReason.RATE_LIMITED
        if self.is_timeout:
            return ErrorReason.PROVIDER_TIMEOUT
        return ErrorReason.PROVIDER_UNAVAILABLE if self.is_retryable else ErrorReason.PROVIDER_REJECTED


class ErrorClassifier(Protocol):
    """Says what an exception means."""

    def classify(self, exception: BaseException) -> ErrorInfo:
        """Classify by type and status first, by message only where there is nothing else."""
        ...


_OVERLOAD = frozenset({503, 529})
_BUGS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    NameError,
    AssertionError,
    NotImplementedError,
    ImportError,
)


class DefaultErrorClassifier:
    """Classifies by exception type, then by the status code that provider SDKs put on their exceptions."""

    def classify(self, exception: BaseException) -> ErrorInfo:
        """See `ErrorClassifier`. An unknown exception is retried; ValueError and its like are bugs and are not."""
        match exception:
            case FrameworkTimeoutError():
                return _info(ErrorReason.ATTEMPT_TIMEOUT)
            case ProviderError():
                return _info(
                    exception.reason,
                    retryable=exception.retryable,
                    wait=exception.retry_after,
                    metadata=exception.metadata,
                    overload=exception.status in _OVERLOAD,
                )
            case BatchLLMError():
                return _info(exception.reason, metadata=exception.metadata)
            case OutputValidationError():
                metadata = {"errors": "\n".join(exception.errors), "last_output": exception.output}
                return _info(ErrorReason.VALIDATION_FAILED, metadata=metadata)
        if _is_pydantic_validation_error(exception):
            return _info(ErrorReason.VALIDATION_FAILED, metadata={"errors": str(exception)})
        status = _status_of(exception)
        if status is not None:
            return _info(reason_of_status(status), overload=status in _OVERLOAD)
        if isinstance(exception, TimeoutError):
            return _info(ErrorReason.PROVIDER_TIMEOUT)
        if isinstance(exception, _BUGS):
            return _info(ErrorReason.INTERNAL)
        return _info(ErrorReason.PROVIDER_UNAVAILABLE)


def _info(
    reason: ErrorReason,
    *,
    retryable: bool | None = None,
    wait: float | None = None,
    metadata: Mapping[str, str] | None = None,
    overload: bool = False,
) -> ErrorInfo:
    return ErrorInfo(
        is_retryable=reason in RETRYABLE_REASONS if retryable is None else retryable,
        is_rate_limit=reason is ErrorReason.RATE_LIMITED,
        is_timeout=reason in {ErrorReason.ATTEMPT_TIMEOUT, ErrorReason.PROVIDER_TIMEOUT},
        error_category=reason.value.lower(),
        suggested_wait=wait,
        reason=reason,
        metadata=metadata or {},
        is_overload=overload,
    )


def _is_pydantic_validation_error(exception: BaseException) -> bool:
    # By name: the engine must not import pydantic to learn that an exception is not pydantic's.
    kind = type(exception)
    return kind.__name__ == "ValidationError" and kind.__module__.partition(".")[0] in {"pydantic", "pydantic_core"}


def _status_of(exception: BaseException) -> int | None:
    """The HTTP status on an SDK's exception: `status_code` (openai), `code` (google-genai), its response's (httpx)."""
    response = getattr(exception, "response", None)
    for holder, name in (
        (exception, "status_code"),
        (exception, "code"),
        (exception, "status"),
        (response, "status_code"),
    ):
        value = getattr(holder, name, None)
        if isinstance(value, int) and 400 <= value < 600:
            return value
    return None
