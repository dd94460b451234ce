"""What goes in and what comes out: work items, results, totals."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from batch_llm_client._durations import to_duration, to_seconds
from batch_llm_client.receipt import Receipt
from batchllm.v1 import batch_service_pb2, work_pb2
from batchllm.v1.errors_pb2 import ErrorReason

_REASON_PREFIX = "ERROR_REASON_"


class ResultOrder(StrEnum):
    """The order in which results come; the plain strings do as well."""

    COMPLETION = "completion"
    """As items finish."""
    SUBMISSION = "submission"
    """As items were sent; results wait for those before them."""

    @property
    def number(self) -> batch_service_pb2.ResultOrder.ValueType:
        """The value on the wire."""
        return batch_service_pb2.ResultOrder.Value(f"RESULT_ORDER_{self.name}")

    @classmethod
    def from_number(cls, number: batch_service_pb2.ResultOrder.ValueType) -> "ResultOrder":
        """The order of a value on the wire."""
        submission = number == batch_service_pb2.RESULT_ORDER_SUBMISSION
        return cls.SUBMISSION if submission else cls.COMPLETION


@dataclass(slots=True)
class WorkItem:
    """One piece of work.

    Attributes:
        item_id: your name for it, unique in its batch; 1 to 512 bytes, not blank.
        prompt: what the model is asked, not empty.
        strategy: name of the strategy that runs it; empty: the batch's.
        context: opaque bytes that come back with the result.
        timeout: limit in seconds on its whole time in the sidecar, waiting and retries included; None: no limit.

    The sidecar checks them: a bad item ends in a result with reason `INVALID_ITEM`, and others go on.
    """

    item_id: str
    prompt: str
    strategy: str = ""
    context: bytes = b""
    timeout: float | None = None

    def to_message(self) -> work_pb2.WorkItem:
        """Build the protobuf message. TypeError or ValueError: a value that protobuf cannot hold."""
        try:
            message = work_pb2.WorkItem(
                item_id=self.item_id, prompt=self.prompt, strategy=self.strategy, context=self.context
            )
        except UnicodeEncodeError as error:
            texts = {"item_id": self.item_id, "prompt": self.prompt, "strategy": self.strategy}
            field = next(name for name, text in texts.items() if text == error.object)
            raise ValueError(
                f"an item's {field} must be valid Unicode: it has a lone surrogate at {error.start} "
                f"(item {self.item_id!r})"
            ) from None
        if self.timeout is not None:
            message.timeout.CopyFrom(to_duration(self.timeout))
        return message


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider counted them, summed over an item's attempts."""

    input_tokens: int
    """Prompt tokens, cached ones included."""
    output_tokens: int
    """Generated tokens, thinking included."""
    total_tokens: int
    """Total as the provider reports it."""
    cached_input_tokens: int
    """Prompt tokens read from a context cache; part of `input_tokens`."""
    thinking_tokens: int
    """Tokens spent on thinking; part of `output_tokens`."""
    effective_input_tokens: int
    """Input tokens weighted by price: input minus cached times the model's discount, rounded up."""


@dataclass(frozen=True, slots=True)
class ItemFailure:
    """Why an item has no output."""

    reason: str
    """A name of `batchllm.v1.ErrorReason` without its prefix, e.g. `RATE_LIMITED`; `UNSPECIFIED` if unknown here."""
    message: str
    """For people: what happened and the way out."""
    retryable: bool
    """Whether sending the item again later may succeed."""
    retry_after: float | None
    """Seconds that the provider asked to wait; None when it did not say."""
    metadata: Mapping[str, str]
    """Facts behind the reason."""


class Result:
    """The one terminal result of an item: a view of the protobuf message, which is `message`."""

    __slots__ = ("message",)

    def __init__(self, message: work_pb2.WorkItemResult) -> None:
        self.message = message

    def __repr__(self) -> str:
        outcome = f"text={self.text!r}" if self.ok else f"error={self.error!r}"
        return f"Result(item_id={self.item_id!r}, {outcome})"

    @property
    def item_id(self) -> str:
        """The item's id, as it was sent."""
        return self.message.item_id

    @property
    def ok(self) -> bool:
        """Whether there is an output."""
        return self.message.HasField("output")

    @property
    def text(self) -> str | None:
        """The model's answer; None when the item failed."""
        return self.message.output.text if self.ok else None

    @property
    def finish_reason(self) -> str | None:
        """Why the model stopped, in the provider's word; None when the item failed."""
        return self.message.output.finish_reason if self.ok else None

    @property
    def safety_ratings(self) -> dict[str, str]:
        """Safety category to rating, where the provider rates."""
        return dict(self.message.output.safety_ratings)

    @property
    def error(self) -> ItemFailure | None:
        """Why there is no output; None when there is one."""
        if self.ok:
            return None
        error = self.message.error
        return ItemFailure(
            reason=_reason_name(error.reason),
            message=error.message,
            retryable=error.retryable,
            retry_after=to_seconds(error.retry_after) if error.HasField("retry_after") else None,
            metadata=dict(error.metadata),
        )

    @property
    def usage(self) -> Usage:
        """Tokens of all attempts, failed ones included."""
        usage = self.message.usage
        return Usage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            total_tokens=usage.total_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            thinking_tokens=usage.thinking_tokens,
            effective_input_tokens=usage.effective_input_tokens,
        )

    @property
    def receipt(self) -> Receipt:
        """Tokens of all attempts by kind, and what they cost."""
        if self.message.HasField("receipt"):
            return Receipt.from_message(self.message.receipt)
        return Receipt.from_usage(self.message.usage, ok=self.ok)

    @property
    def attempts(self) -> int:
        """How many calls were made; 0 when the item never reached its provider."""
        return self.message.attempts

    @property
    def elapsed(self) -> float:
        """Seconds from acceptance to result."""
        return to_seconds(self.message.elapsed)

    @property
    def strategy(self) -> str:
        """Name of the strategy that ran it."""
        return self.message.strategy

    @property
    def model(self) -> str:
        """The model that answered; empty when none did."""
        return self.message.model

    @property
    def context(self) -> bytes:
        """The item's context, untouched."""
        return self.message.context

    @property
    def submission_index(self) -> int:
        """The item's place in the stream, from 0."""
        return self.message.submission_index

    @property
    def sequence(self) -> int:
        """The result's place in the batch, from 1, without gaps."""
        return self.message.sequence

    @property
    def replayed(self) -> bool:
        """Whether it was recorded before, and is sent again: by a batch resumed, or for an idempotency key."""
        return self.message.replayed

    @property
    def maybe_billed(self) -> bool:
        """Whether the item may have been with its provider when a sidecar died, so that it may be billed twice."""
        return self.message.maybe_billed


@dataclass(frozen=True, slots=True)
class BatchOpened:
    """What is in force for a batch."""

    batch_id: str
    """Yours, or the one that the server made."""
    strategy: str
    """Strategy of the items that name none; may be empty."""
    max_concurrency: int
    """At most so many of the batch's items in flight, after clamping."""
    result_order: ResultOrder
    """The order of results."""
    max_message_bytes: int
    """The largest message that the server takes, in bytes."""
    server_version: str
    """E.g. `0.3.0`."""
    items: int
    """Items that the sidecar held already; 0 for a new batch."""
    last_sequence: int
    """Sequence of the last result recorded; 0 for a new batch."""
    durable: bool
    """Whether what is accepted outlives the sidecar."""

    @classmethod
    def from_message(cls, message: batch_service_pb2.BatchOpened) -> Self:
        """Read the protobuf message."""
        return cls(
            batch_id=message.batch_id,
            strategy=message.strategy,
            max_concurrency=message.max_concurrency,
            result_order=ResultOrder.from_number(message.result_order),
            max_message_bytes=message.max_message_bytes,
            server_version=message.server_version,
            items=message.items,
            last_sequence=message.last_sequence,
            durable=message.durable,
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch is. The server sends it at most once a second."""

    done: int
    """Items that ended, failed ones included."""
    failed: int
    """Items that failed."""
    in_flight: int
    """Items that are being run."""
    waiting: int
    """Items that wait to be run."""
    input_tokens: int
    """Input tokens so far."""
    output_tokens: int
    """Output tokens so far."""
    cached_input_tokens: int
    """Cached input tokens so far."""
    elapsed: float
    """Seconds since the batch was opened."""

    @classmethod
    def from_message(cls, message: batch_service_pb2.BatchProgress) -> Self:
        """Read the protobuf message."""
        return cls(
            done=message.done,
            failed=message.failed,
            in_flight=message.in_flight,
            waiting=message.waiting,
            input_tokens=message.input_tokens,
            output_tokens=message.output_tokens,
            cached_input_tokens=message.cached_input_tokens,
            elapsed=to_seconds(message.elapsed),
        )


@dataclass(frozen=True, slots=True)
class Totals:
    """The totals of a batch."""

    batch_id: str
    """The batch's id."""
    total_items: int
    """Items that ended."""
    succeeded: int
    """Of these, with an output."""
    failed: int
    """Of these, without."""
    total_input_tokens: int
    """Sum of the items' input tokens."""
    total_output_tokens: int
    """Sum of the items' output tokens."""
    total_cached_tokens: int
    """Sum of the items' cached input tokens."""
    cache_hit_rate: float
    """Percent of input tokens that came from a cache, 0.0 to 100.0."""
    effective_input_tokens: int
    """Input minus cached times each model's discount, rounded up once."""
    elapsed: float
    """Seconds from opening to the last result."""
    failures_by_reason: Mapping[str, int]
    """Failed items by reason, e.g. `{"RATE_LIMITED": 2}`."""
    receipt: Receipt | None = None
    """Tokens by kind and their cost, context caches included; None from a server that has no receipts yet."""

    @classmethod
    def from_message(cls, message: work_pb2.BatchResult) -> Self:
        """Read the protobuf message."""
        return cls(
            batch_id=message.batch_id,
            total_items=message.total_items,
            succeeded=message.succeeded,
            failed=message.failed,
            total_input_tokens=message.total_input_tokens,
            total_output_tokens=message.total_output_tokens,
            total_cached_tokens=message.total_cached_tokens,
            cache_hit_rate=message.cache_hit_rate,
            effective_input_tokens=message.effective_input_tokens,
            elapsed=to_seconds(message.elapsed),
            failures_by_reason=dict(message.failures_by_reason),
            receipt=Receipt.from_message(message.receipt) if message.HasField("receipt") else None,
        )


def _reason_name(reason: ErrorReason.ValueType) -> str:
    # Enums are open: a newer server may send a number that has no name here.
    known = reason in ErrorReason.values()
    return ErrorReason.Name(reason if known else ErrorReason.ERROR_REASON_UNSPECIFIED).removeprefix(_REASON_PREFIX)
