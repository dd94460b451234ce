"""The client's exceptions, and the one place where gRPC's errors become them.

    BatchLLMClientError
    ├── SidecarUnavailableError      nobody answers at the target
    │   ├── ServerDrainingError      the sidecar is shutting down; see `retry_after`
    │   └── JournalUnavailableError  its journal cannot be written now
    ├── InvalidRequestError
    ├── NotFoundError
    │   └── BatchNotFoundError
    ├── AlreadyExistsError
    │   └── IdempotencyConflictError the idempotency key was used for another item
    ├── PermissionDeniedError
    ├── FailedPreconditionError
    │   └── BatchNotFinishedError    e.g. deleting a batch that runs
    ├── AbortedError
    │   └── BatchInUseError          the batch id is open on another stream
    ├── DeadlineExceededError
    ├── ResourceExhaustedError
    │   ├── JournalFullError         its disk is full
    │   └── MessageTooLargeError     refused before it was sent
    ├── BatchLostError               the sidecar no longer holds what it had accepted
    ├── CallCancelledError           by `cancel()`, by closing the client, or by the server
    ├── ClientClosedError            the client was closed before the call
    └── UnexpectedError              anything else: a bug, or no sidecar behind the target

Branch on `reason` (a name of `batchllm.v1.ErrorReason` without its prefix), never on message text.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import grpc

from batch_llm_client._status import DETAILS_KEY, StatusDetails, parse_details


class BatchLLMClientError(Exception):
    """Something went wrong with a call or a stream.

    Attributes:
        message: for people.
        code: the gRPC status code's name, e.g. `NOT_FOUND`.
        reason: the sidecar's reason, e.g. `STRATEGY_NOT_FOUND`; None when it gave none.
        metadata: facts behind the reason; empty when there are none.
        retry_after: seconds to wait before trying again, as the sidecar asks; None when it does not.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "UNKNOWN",
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after


class SidecarUnavailableError(BatchLLMClientError):
    """Nobody answers at the target, or the connection broke."""


class ServerDrainingError(SidecarUnavailableError):
    """The sidecar is shutting down; try again after `retry_after` seconds."""


class JournalUnavailableError(SidecarUnavailableError):
    """The sidecar cannot write its journal now; what it accepted is safe. Try again after a moment."""


class InvalidRequestError(BatchLLMClientError):
    """A field of the request is out of its range; `metadata["field"]` names it."""


class NotFoundError(BatchLLMClientError):
    """There is no such strategy, cache or batch."""


class BatchNotFoundError(NotFoundError):
    """No batch of that id is known: it was deleted, its retention is over, or it never was."""


class AlreadyExistsError(BatchLLMClientError):
    """A strategy of that name exists with another spec; `metadata["differs"]` says where."""


class IdempotencyConflictError(AlreadyExistsError):
    """The idempotency key was used for another item."""


class PermissionDeniedError(BatchLLMClientError):
    """The operator does not allow it."""


class FailedPreconditionError(BatchLLMClientError):
    """It cannot be done as things are, e.g. unregistering a strategy in use."""


class BatchNotFinishedError(FailedPreconditionError):
    """The batch has not ended: wait for it, or cancel it."""


class AbortedError(BatchLLMClientError):
    """Somebody else is at it."""


class BatchInUseError(AbortedError):
    """The batch id is open on another stream."""


class DeadlineExceededError(BatchLLMClientError):
    """The call's `timeout` ran out."""


class ResourceExhaustedError(BatchLLMClientError):
    """The sidecar refuses for size or load."""


class JournalFullError(ResourceExhaustedError):
    """The disk of the sidecar's journal is full; what it accepted is safe. Make room on it."""


class MessageTooLargeError(ResourceExhaustedError):
    """An item alone exceeds the message limit and was not sent.

    Attributes:
        item_id: the item.
        size: its size in bytes.
        limit: the limit in bytes: the client's `max_message_bytes` or the server's, whichever is smaller.
    """

    def __init__(self, item_id: str, size: int, limit: int) -> None:
        super().__init__(
            f"item {item_id!r} has {size:,} bytes, more than the limit of {limit:,} bytes for a message: "
            "shorten its prompt or context, or raise max_message_bytes on both sides",
            code="RESOURCE_EXHAUSTED",
        )
        self.item_id = item_id
        self.size = size
        self.limit = limit

    def __reduce__(self) -> tuple[type["MessageTooLargeError"], tuple[str, int, int]]:
        return type(self), (self.item_id, self.size, self.limit)


class BatchLostError(BatchLLMClientError):
    """The sidecar no longer holds items that it had accepted, so the batch cannot be resumed.

    Attributes:
        batch_id: the batch.
        held: how many items the sidecar held.
        last_sequence: results up to this one were handed out.
        durable: False: its journal was in memory and ended with it. True: the batch or the journal was deleted.
    """

    def __init__(self, batch_id: str, held: int, last_sequence: int, durable: bool) -> None:
        cause = (
            "the batch was deleted, or a sidecar with another journal answers now"
            if durable
            else 'it was restarted and its journal was in memory (journal.url = "memory")'
        )
        super().__init__(
            f"the sidecar no longer holds the {held:,} items that it had accepted of batch {batch_id!r}: {cause}; "
            f"results came up to sequence {last_sequence}: send the items without one as a new batch",
            code="DATA_LOSS",
        )
        self.batch_id = batch_id
        self.held = held
        self.last_sequence = last_sequence
        self.durable = durable

    def __reduce__(self) -> tuple[type["BatchLostError"], tuple[str, int, int, bool]]:
        return type(self), (self.batch_id, self.held, self.last_sequence, self.durable)


class CallCancelledError(BatchLLMClientError):
    """The call or stream was cancelled."""


class ClientClosedError(BatchLLMClientError):
    """The client was closed before the call."""


class UnexpectedError(BatchLLMClientError):
    """What should not happen: a bug in the sidecar, or something else behind the target."""


# A reason, where it has a class of its own, goes before the code.
_ERRORS: Final[Mapping[str, type[BatchLLMClientError]]] = {
    "SERVER_DRAINING": ServerDrainingError,
    "JOURNAL_UNAVAILABLE": JournalUnavailableError,
    "JOURNAL_FULL": JournalFullError,
    "BATCH_IN_USE": BatchInUseError,
    "BATCH_NOT_FOUND": BatchNotFoundError,
    "BATCH_NOT_FINISHED": BatchNotFinishedError,
    "IDEMPOTENCY_CONFLICT": IdempotencyConflictError,
    "UNAVAILABLE": SidecarUnavailableError,
    "INVALID_ARGUMENT": InvalidRequestError,
    "OUT_OF_RANGE": InvalidRequestError,
    "NOT_FOUND": NotFoundError,
    "ALREADY_EXISTS": AlreadyExistsError,
    "PERMISSION_DENIED": PermissionDeniedError,
    "UNAUTHENTICATED": PermissionDeniedError,
    "FAILED_PRECONDITION": FailedPreconditionError,
    "ABORTED": AbortedError,
    "DEADLINE_EXCEEDED": DeadlineExceededError,
    "RESOURCE_EXHAUSTED": ResourceExhaustedError,
    "CANCELLED": CallCancelledError,
}

# Where gRPC itself speaks, not the sidecar, its words lack the way out.
_PLAIN_WORDS: Final[Mapping[str, Callable[[str, str], str]]] = {
    "UNAVAILABLE": lambda target, details: (
        f"no batch-llm sidecar answers at {target} ({details}): "
        "start one with `batch-llm-sidecar serve`, or give the target of the one that runs"
    ),
    "DEADLINE_EXCEEDED": lambda target, _: f"{target} did not finish within the timeout: allow more seconds",
    "UNIMPLEMENTED": lambda target, _: f"{target} does not know this call: it is no batch-llm sidecar, or an older one",
}


def from_rpc_error(error: grpc.RpcError, target: str) -> BatchLLMClientError:
    """Turn an error of grpc or grpc.aio into one of this module's; `target` is what the client talks to."""
    status = cast(grpc.Call, error)  # what is raised always is one as well; the stubs do not say so
    details = _details_of(status.trailing_metadata())
    code, message = status.code().name, status.details() or "no details given"
    if details.reason is None and code in _PLAIN_WORDS:
        message = _PLAIN_WORDS[code](target, message)
    error_class = _ERRORS.get(details.reason or "") or _ERRORS.get(code, UnexpectedError)
    return error_class(
        message, code=code, reason=details.reason, metadata=details.metadata, retry_after=details.retry_after
    )


def unavailable(target: str, timeout: float) -> SidecarUnavailableError:
    """Say that nobody answered at `target` for `timeout` seconds."""
    words = _PLAIN_WORDS["UNAVAILABLE"](target, f"waited {timeout:g} s")
    return SidecarUnavailableError(words, code="UNAVAILABLE")


def cancelled(target: str) -> CallCancelledError:
    """Say that a call to `target` was cancelled on this side."""
    return CallCancelledError(f"the call to {target} was cancelled", code="CANCELLED")


def closed(target: str) -> ClientClosedError:
    """Say that the client of `target` is closed."""
    return ClientClosedError(f"the client of {target} is closed: make a new one", code="CANCELLED")


def _details_of(trailing_metadata: Any) -> StatusDetails:
    for key, value in trailing_metadata or ():
        if key == DETAILS_KEY:
            return parse_details(value)
    return StatusDetails()
