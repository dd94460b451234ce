"""Thin client of the batch-llm sidecar: open one stream, send work items, get results as they finish.

from batch_llm_client import BatchClient, WorkItem

with BatchClient() as client, client.process_batch([WorkItem("1", "Hello")], strategy="triage") as batch:
    for result in batch:
        print(result.item_id, result.text)
"""

from batch_llm_client._resume import ResumePolicy
from batch_llm_client._version import __version__
from batch_llm_client.batch import Batch
from batch_llm_client.batch_aio import AsyncBatch
from batch_llm_client.client import BatchClient
from batch_llm_client.client_aio import AsyncBatchClient
from batch_llm_client.errors import (
    AbortedError,
    AlreadyExistsError,
    BatchInUseError,
    BatchLLMClientError,
    BatchLostError,
    BatchNotFinishedError,
    BatchNotFoundError,
    CallCancelledError,
    ClientClosedError,
    DeadlineExceededError,
    FailedPreconditionError,
    IdempotencyConflictError,
    InvalidRequestError,
    JournalFullError,
    JournalUnavailableError,
    MessageTooLargeError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    ServerDrainingError,
    SidecarUnavailableError,
    UnexpectedError,
)
from batch_llm_client.model import (
    BatchOpened,
    ItemFailure,
    Progress,
    Result,
    ResultOrder,
    Totals,
    Usage,
    WorkItem,
)
from batch_llm_client.receipt import Receipt
from batchllm.v1.batch_service_pb2 import BatchInfo, BatchState
from batchllm.v1.cache_lifecycle_service_pb2 import Cache
from batchllm.v1.strategy_service_pb2 import Strategy, StrategySpec

__all__ = [
    "AbortedError",
    "AlreadyExistsError",
    "AsyncBatch",
    "AsyncBatchClient",
    "Batch",
    "BatchClient",
    "BatchInUseError",
    "BatchInfo",
    "BatchLLMClientError",
    "BatchLostError",
    "BatchNotFinishedError",
    "BatchNotFoundError",
    "BatchOpened",
    "BatchState",
    "Cache",
    "CallCancelledError",
    "ClientClosedError",
    "DeadlineExceededError",
    "FailedPreconditionError",
    "IdempotencyConflictError",
    "InvalidRequestError",
    "ItemFailure",
    "JournalFullError",
    "JournalUnavailableError",
    "MessageTooLargeError",
    "NotFoundError",
    "PermissionDeniedError",
    "Progress",
    "Receipt",
    "ResourceExhaustedError",
    "Result",
    "ResultOrder",
    "ResumePolicy",
    "ServerDrainingError",
    "SidecarUnavailableError",
    "Strategy",
    "StrategySpec",
    "Totals",
    "UnexpectedError",
    "Usage",
    "WorkItem",
    "__version__",
]
