"""Protobuf messages to the engine's data and back."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import is_dataclass
from datetime import date
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import BaseModel
from pydantic_core import to_json

from batch_llm.caching import CacheRecord, CacheRefusedError, CacheState, ContextCache
from batch_llm.journal.store import BatchRecord, BatchState
from batch_llm.model import (
    DEFAULT_CACHE_DISCOUNT,
    AnyResult,
    BatchTotals,
    ErrorReason,
    Receipt,
    TokenUsage,
    WorkItemResult,
    effective_input_tokens,
)
from batch_llm.processor import BatchSession
from batchllm.v1 import batch_service_pb2 as pb_batch
from batchllm.v1 import cache_lifecycle_service_pb2, errors_pb2, strategy_service_pb2, work_pb2

from .catalogue import Entry

logger = logging.getLogger("batch_llm")

_ERROR_REASONS = {reason: errors_pb2.ErrorReason.Value(f"ERROR_REASON_{reason.value}") for reason in ErrorReason}
_REASONS = {number: reason for reason, number in _ERROR_REASONS.items()}
_RECEIPT_COUNTS = tuple(
    name
    for name in work_pb2.Receipt.DESCRIPTOR.fields_by_name
    if name not in {"total_nano_usd", "uncached_nano_usd", "price_date", "advice"}
)
_LONGEST_SECONDS = 10_000 * 365 * 86_400.0  # about what a Duration can carry
_BATCH_STATES = {state: pb_batch.BatchState.Value(f"BATCH_STATE_{state.value}") for state in BatchState}
_CACHE_STATES = {
    state: cache_lifecycle_service_pb2.CacheState.Value(f"CACHE_STATE_{state.value}") for state in CacheState
}


def duration(seconds: float) -> Duration:
    """Seconds as a Duration."""
    whole, nanos = divmod(round(seconds * 1e9), 10**9)
    return Duration(seconds=whole, nanos=nanos)


def seconds(value: Duration) -> float:
    """A Duration as seconds."""
    return value.seconds + value.nanos / 1e9


def timestamp(epoch_seconds: float) -> Timestamp:
    """Seconds since the epoch as a Timestamp."""
    whole, nanos = divmod(round(epoch_seconds * 1e9), 10**9)
    return Timestamp(seconds=whole, nanos=nanos)


def result_message(result: AnyResult) -> work_pb2.WorkItemResult:
    """An item's result. One that no message can carry, e.g. with absurd counts, becomes an INTERNAL error."""
    try:
        return _result_message(result)
    except (ValueError, TypeError, OverflowError) as error:
        logger.exception("the result of item %r cannot be sent", result.item_id)
        message = work_pb2.WorkItemResult(
            item_id=result.item_id,
            submission_index=result.submission_index,
            sequence=result.sequence,
            strategy=result.strategy,
            context=result.context or b"",
        )
        message.error.reason = _ERROR_REASONS[ErrorReason.INTERNAL]
        message.error.message = f"the strategy's result cannot be sent: {type(error).__name__}: {clean(str(error))}"
        return message


def _result_message(result: AnyResult) -> work_pb2.WorkItemResult:
    usage = result.token_usage
    fresh = usage.get("input_tokens", 0)
    cached = usage.get("cached_input_tokens", 0)
    message = work_pb2.WorkItemResult(
        item_id=result.item_id,
        submission_index=result.submission_index,
        sequence=result.sequence,
        usage=work_pb2.TokenUsage(
            input_tokens=fresh,
            output_tokens=usage.get("output_tokens", 0),
            total_tokens=usage.get("total_tokens", 0),
            cached_input_tokens=cached,
            thinking_tokens=usage.get("thinking_tokens", 0),
            effective_input_tokens=effective_input_tokens(fresh, {result.cache_discount: cached}) if cached else fresh,
        ),
        attempts=result.attempts,
        elapsed=duration(result.elapsed_seconds),
        strategy=result.strategy,
        model=clean(result.model),
        context=result.context or b"",
    )
    if result.bill is not None:
        message.receipt.CopyFrom(receipt_message(result.bill))
    if result.success:
        output = message.output
        output.text = clean(output_text(result.output))
        output.finish_reason = clean(result.finish_reason)
        if result.gemini_safety_ratings:
            output.safety_ratings.update(_clean_all(result.gemini_safety_ratings))
    else:
        error = message.error
        error.reason = _ERROR_REASONS[result.reason or ErrorReason.INTERNAL]
        error.message = clean(result.error or "")
        error.retryable = result.retryable
        if result.retry_after is not None:
            error.retry_after.CopyFrom(duration(min(result.retry_after, _LONGEST_SECONDS)))
        error.metadata.update(_clean_all(result.error_metadata))
    return message


def clean(text: str) -> str:
    """The text with `?` for what UTF-8 cannot carry: half of a surrogate pair, which JSON can bring in."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _clean_all(texts: Mapping[str, str]) -> dict[str, str]:
    return {clean(key): clean(value) for key, value in texts.items()}


def output_text(output: Any) -> str:
    """An output as text: pydantic models, dataclasses, tables, lists and truth values as JSON, None as nothing."""
    if isinstance(output, str):
        return output
    if output is None:
        return ""
    if isinstance(output, BaseModel | Mapping | list | tuple | bool) or is_dataclass(output):
        return to_json(output, fallback=str).decode()
    return str(output)


def receipt_message(receipt: Receipt) -> work_pb2.Receipt:
    """A receipt."""
    return work_pb2.Receipt(
        fresh_input_tokens=receipt.fresh_input_tokens,
        cached_input_tokens=receipt.cached_input_tokens,
        output_tokens=receipt.output_tokens,
        thinking_tokens=receipt.thinking_tokens,
        failed_attempt_tokens=receipt.failed_attempt_tokens,
        fresh_input_nano_usd=receipt.fresh_input_nano_usd,
        cached_input_nano_usd=receipt.cached_input_nano_usd,
        output_nano_usd=receipt.output_nano_usd,
        thinking_nano_usd=receipt.thinking_nano_usd,
        failed_attempt_nano_usd=receipt.failed_attempt_nano_usd,
        cache_creation_tokens=receipt.cache_creation_tokens,
        cache_creation_nano_usd=receipt.cache_creation_nano_usd,
        cache_storage_token_seconds=receipt.cache_storage_token_seconds,
        cache_storage_nano_usd=receipt.cache_storage_nano_usd,
        total_nano_usd=receipt.total_nano_usd,
        uncached_nano_usd=receipt.uncached_nano_usd,
        unpriced_tokens=receipt.unpriced_tokens,
        unpriced_token_seconds=receipt.unpriced_token_seconds,
        storage_until_expiry_nano_usd=receipt.storage_until_expiry_nano_usd,
        price_date=receipt.price_date.isoformat() if receipt.price_date is not None else "",
        advice=[clean(advice) for advice in receipt.advice],
    )


def counted_result(message: work_pb2.WorkItemResult) -> AnyResult:
    """Of a result that was sent, what `BatchTotals` counts."""
    usage = message.usage
    saved = usage.input_tokens - usage.effective_input_tokens
    result: AnyResult = WorkItemResult(
        item_id=message.item_id,
        success=message.WhichOneof("outcome") == "output",
        token_usage=TokenUsage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            total_tokens=usage.total_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            thinking_tokens=usage.thinking_tokens,
        ),
        # Rounded to a token when it was sent: exact for the items, up to a token each for the batch.
        cache_discount=saved / usage.cached_input_tokens if usage.cached_input_tokens else DEFAULT_CACHE_DISCOUNT,
    )
    if not result.success:
        result.reason = _REASONS.get(message.error.reason)
    if message.HasField("receipt"):
        result.bill = receipt_of(message.receipt)
    return result


def receipt_of(message: work_pb2.Receipt) -> Receipt:
    """A receipt that was sent."""
    fields = {name: getattr(message, name) for name in _RECEIPT_COUNTS}
    return Receipt(
        **fields,
        full_price_nano_usd=message.uncached_nano_usd,
        price_date=date.fromisoformat(message.price_date) if message.price_date else None,
        advice=tuple(message.advice),
    )


def batch_result_message(
    batch_id: str, totals: BatchTotals, receipt: Receipt, elapsed_seconds: float
) -> work_pb2.BatchResult:
    """The totals of a batch and its receipt, context caches included."""
    return work_pb2.BatchResult(
        batch_id=batch_id,
        total_items=totals.total_items,
        succeeded=totals.succeeded,
        failed=totals.failed,
        total_input_tokens=totals.input_tokens,
        total_output_tokens=totals.output_tokens,
        total_cached_tokens=totals.cached_tokens,
        cache_hit_rate=totals.cache_hit_rate(),
        effective_input_tokens=totals.effective_input_tokens(),
        elapsed=duration(elapsed_seconds),
        failures_by_reason=totals.failures_by_reason,
        receipt=receipt_message(receipt),
    )


def progress_message(
    session: BatchSession, items: int, elapsed_seconds: float, cooldown_seconds: float
) -> pb_batch.BatchProgress:
    """How far a batch of so many items is."""
    totals = session.totals
    message = pb_batch.BatchProgress(
        done=totals.total_items,
        failed=totals.failed,
        in_flight=session.in_flight,
        waiting=items - totals.total_items - session.in_flight,
        input_tokens=totals.input_tokens,
        output_tokens=totals.output_tokens,
        cached_input_tokens=totals.cached_tokens,
        elapsed=duration(elapsed_seconds),
    )
    if cooldown_seconds > 0:
        message.cooldown.CopyFrom(duration(cooldown_seconds))
    return message


def batch_info_message(record: BatchRecord, *, running: bool, last_sequence: int | None = None) -> pb_batch.BatchInfo:
    """A batch; its id alone where its record is damaged, for then the rest may be anything.

    Args:
        record: as the journal knows it.
        running: whether a sidecar runs it.
        last_sequence: where that is not the count of its results.
    """
    if not record.whole:
        return pb_batch.BatchInfo(batch_id=record.batch_id)
    message = pb_batch.BatchInfo(
        batch_id=record.batch_id,
        state=_BATCH_STATES[record.state],
        running=running,
        detach=record.detach,
        create_time=timestamp(record.create_time),
        update_time=timestamp(record.update_time),
        items=record.items,
        done=record.results,
        failed=record.failed,
        last_sequence=record.results if last_sequence is None else last_sequence,
        labels=pb_batch.OpenBatch.FromString(record.opening).labels,
    )
    if record.state.ended:
        message.batch_result.ParseFromString(record.result)
    return message


def spec_fields(spec: strategy_service_pb2.StrategySpec) -> dict[str, Any]:
    """What a spec message says, under the keys of the operator's file; what it leaves open is absent."""
    retry = _given(
        spec.retry,
        numbers=("max_attempts", "exponential_base"),
        durations={"initial_wait": "initial_wait_seconds", "max_wait": "max_wait_seconds"},
        optionals=("jitter", "max_rate_limit_retries"),
    )
    generation = _given(
        spec.generation,
        optionals=("temperature", "max_output_tokens", "top_p", "top_k", "seed", "thinking_budget"),
        numbers=("grammar", "thinking_level"),
    )
    for name in ("stop_sequences", "tools"):
        if given := tuple(getattr(spec.generation, name)):
            generation[name] = given
    if spec.generation.safety_settings:
        generation["safety_settings"] = dict(spec.generation.safety_settings)
    fields = _given(
        spec,
        numbers=("model", "system_instruction", "max_concurrency", "output_json_schema"),
        durations={
            "cache_ttl": "cache_ttl_seconds",
            "cache_renewal_buffer": "cache_renewal_buffer_seconds",
            "attempt_timeout": "attempt_timeout_seconds",
        },
        optionals=("auto_renew",),
    )
    return {
        **fields,
        "provider": spec.provider,
        "cached_content": tuple(spec.cached_content),
        "escalation_models": tuple(spec.escalation_models),
        "cache_tags": dict(spec.cache_tags),
        "retry": retry,
        "generation": generation,
    }


def _given(
    message: Any,
    *,
    numbers: tuple[str, ...] = (),
    durations: Mapping[str, str] | None = None,
    optionals: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Fields that are set: plain ones that are not at their zero, durations and optional ones that are present."""
    fields = {name: value for name in numbers if (value := getattr(message, name))}
    fields.update(
        {key: seconds(getattr(message, name)) for name, key in (durations or {}).items() if message.HasField(name)}
    )
    fields.update({name: getattr(message, name) for name in optionals if message.HasField(name)})
    return fields


def strategy_message(entry: Entry) -> strategy_service_pb2.Strategy:
    """A registered strategy, its defaults filled in."""
    spec = entry.spec
    policy = spec.cache_policy()
    given = {key: value for key, value in spec.generation if value is not None and key != "tools"}
    given["tools"] = [json.dumps(tool, sort_keys=True) for tool in spec.generation.tools]
    return strategy_service_pb2.Strategy(
        spec=strategy_service_pb2.StrategySpec(
            name=entry.name,
            provider=spec.provider,
            model=spec.model,
            system_instruction=spec.system_instruction,
            cached_content=spec.cached_content,
            cache_ttl=duration(policy.ttl_seconds),
            cache_renewal_buffer=duration(policy.renewal_buffer_seconds),
            auto_renew=policy.auto_renew,
            cache_tags=spec.cache_tags,
            escalation_models=spec.escalation_models,
            max_concurrency=spec.max_concurrency,
            retry=strategy_service_pb2.RetryPolicy(
                max_attempts=spec.retry.max_attempts,
                initial_wait=duration(spec.retry.initial_wait_seconds),
                max_wait=duration(spec.retry.max_wait_seconds),
                exponential_base=spec.retry.exponential_base,
                jitter=spec.retry.jitter,
                max_rate_limit_retries=spec.retry.max_rate_limit_retries,
            ),
            output_json_schema=spec.output_json_schema,
            generation=strategy_service_pb2.GenerationConfig(**given),
            attempt_timeout=duration(spec.attempt_timeout_seconds),
        ),
        provider_kind=entry.provider_kind,
        source=strategy_service_pb2.STRATEGY_SOURCE_FILE
        if entry.from_file
        else strategy_service_pb2.STRATEGY_SOURCE_RPC,
        prepared=entry.shared.prepared,
        users=entry.shared.users - 1,
    )


def uncached_message(cache: ContextCache, refused: CacheRefusedError) -> cache_lifecycle_service_pb2.Cache:
    """A context cache that its provider will not make."""
    return cache_lifecycle_service_pb2.Cache(
        strategy=cache.strategy,
        provider=cache.provider.partition("@")[0],
        model=cache.model,
        fingerprint=cache.fingerprint,
        state=_CACHE_STATES[refused.state],
        message=str(refused),
    )


def cache_message(record: CacheRecord, strategy: str, state: CacheState) -> cache_lifecycle_service_pb2.Cache:
    """A context cache."""
    return cache_lifecycle_service_pb2.Cache(
        name=record.name,
        strategy=strategy,
        provider=record.provider_name,
        model=record.model,
        fingerprint=record.fingerprint,
        create_time=timestamp(record.create_time),
        expire_time=timestamp(record.expire_time),
        total_token_count=record.total_token_count,
        state=_CACHE_STATES[state],
    )
