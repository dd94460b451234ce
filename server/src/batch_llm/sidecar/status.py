"""Errors on the wire: one table, one converter."""

from __future__ import annotations

import logging
from typing import NoReturn

import grpc

from batch_llm.model import BatchLLMError, ErrorReason

from .mapping import clean

logger = logging.getLogger("batch_llm")

DOMAIN = "batchllm.v1"
# What a client is told to wait, where nothing better is known.
RETRY_SECONDS = {ErrorReason.SERVER_DRAINING: 5, ErrorReason.JOURNAL_UNAVAILABLE: 2}
# gRPC refuses trailers over 16 KiB, and the client would see that refusal in place of the error.
_MESSAGE_CHARACTERS = 1000
_VALUE_CHARACTERS = 1000

_CODES = {
    ErrorReason.OPEN_FRAME_REQUIRED: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorReason.OPEN_FRAME_REPEATED: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorReason.FRAME_EMPTY: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorReason.INVALID_FIELD: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorReason.PROVIDER_NOT_FOUND: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorReason.STRATEGY_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorReason.CACHE_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorReason.STRATEGY_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    ErrorReason.STRATEGY_FROM_FILE: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.STRATEGY_IN_USE: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.CACHE_NOT_CONFIGURED: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.REGISTRATION_DISABLED: grpc.StatusCode.PERMISSION_DENIED,
    ErrorReason.BATCH_IN_USE: grpc.StatusCode.ABORTED,
    ErrorReason.SERVER_DRAINING: grpc.StatusCode.UNAVAILABLE,
    ErrorReason.JOURNAL_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorReason.JOURNAL_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    ErrorReason.BATCH_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorReason.BATCH_NOT_FINISHED: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.IDEMPOTENCY_CONFLICT: grpc.StatusCode.ALREADY_EXISTS,
    # A cache operation reaches a provider, so a provider's answers can end an RPC too.
    ErrorReason.PREPARE_FAILED: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.AUTHENTICATION_FAILED: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.PROVIDER_REJECTED: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.CONTEXT_LENGTH_EXCEEDED: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.RATE_LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorReason.PROVIDER_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    ErrorReason.PROVIDER_TIMEOUT: grpc.StatusCode.UNAVAILABLE,
}


def draining() -> BatchLLMError:
    """The error of a sidecar that is shutting down."""
    return BatchLLMError("the sidecar is shutting down; try again in a few seconds", reason=ErrorReason.SERVER_DRAINING)


def invalid(field: str, problem: str) -> BatchLLMError:
    """The error of a request's field that is out of its range."""
    return BatchLLMError(f"{field} {problem}", reason=ErrorReason.INVALID_FIELD, metadata={"field": field})


async def abort(context: grpc.aio.ServicerContext, error: Exception) -> NoReturn:  # type: ignore[type-arg]
    """End the RPC with an error: its code, and `google.rpc.ErrorInfo` and `RetryInfo` in the details."""
    # Imported here: most sidecars never send an error, and the messages take a few megabytes.
    from google.protobuf import any_pb2, duration_pb2
    from google.rpc import error_details_pb2, status_pb2
    from grpc_status import rpc_status

    if isinstance(error, BatchLLMError):
        reason, metadata = error.reason, error.metadata
        if reason is ErrorReason.INTERNAL:
            logger.error("an RPC failed: %s", error)
    else:
        logger.error("an RPC failed", exc_info=error)
        reason, metadata = ErrorReason.INTERNAL, {"error": type(error).__name__}
    message = _shortened(clean(str(error)), _MESSAGE_CHARACTERS)
    metadata = {key: _shortened(clean(value), _VALUE_CHARACTERS) for key, value in metadata.items()}
    details = [error_details_pb2.ErrorInfo(reason=reason.value, domain=DOMAIN, metadata=metadata)]
    wait = RETRY_SECONDS.get(reason) or getattr(error, "retry_after", None)
    if wait:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(wait * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        box = any_pb2.Any()
        box.Pack(detail)
        packed.append(box)
    code = _CODES.get(reason, grpc.StatusCode.INTERNAL)
    rich = status_pb2.Status(code=code.value[0], message=message, details=packed)
    trailers = rpc_status.to_status(rich).trailing_metadata
    await context.abort(code, message, trailers)
    raise AssertionError("abort does not return")


def _shortened(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[:characters]}…"
