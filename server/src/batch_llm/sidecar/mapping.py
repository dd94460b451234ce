"""Protobuf messages to the engine's data and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from batch_llm.caching import CacheRecord, CacheState
from batch_llm.model import AnyResult, BatchTotals, ErrorReason, effective_input_tokens
from batch_llm.processor import BatchSession
from batchllm.v1 import batch_service_pb2, cache_lifecycle_service_pb2, errors_pb2, strategy_service_pb2, work_pb2

from .catalogue import Entry

_ERROR_REASONS = {reason: errors_pb2.ErrorReason.Value(f"ERROR_REASON_{reason.value}") for reason in ErrorReason}
_CACHE_STATES = {
    state: cache_lifecycle_service_pb2.CacheState.Value(f"CACHE_STATE_{state.value}") for state in CacheState
}


def duration(seconds: float) -> Duration:
    """Seconds as a Duration."""
    whole = int(seconds)
    return Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))


def seconds(value: Duration) -> float:
    """A Duration as seconds."""
    return value.seconds + value.nanos / 1e9


def timestamp(epoch_seconds: float) -> Timestamp:
    """Seconds since the epoch as a Timestamp."""
    whole = int(epoch_seconds)
    return Timestamp(seconds=whole, nanos=int((epoch_seconds - whole) * 1e9))


def result_message(result: AnyResult) -> work_pb2.WorkItemResult:
    """An item's result."""
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
        model=result.model,
        context=result.context or b"",
    )
    if result.success:
        output = message.output
        output.text = str(result.output)
        output.finish_reason = result.finish_reason
        if result.gemini_safety_ratings:
            output.safety_ratings.update(result.gemini_safety_ratings)
    else:
        error = message.error
        error.reason = _ERROR_REASONS[result.reason or ErrorReason.INTERNAL]
        error.message = result.error or ""
        error.retryable = result.retryable
        if result.retry_after is not None:
            error.retry_after.CopyFrom(duration(result.retry_after))
        error.metadata.update(result.error_metadata)
    return message


def batch_result_message(batch_id: str, totals: BatchTotals, elapsed_seconds: float) -> work_pb2.BatchResult:
    """The totals of a batch."""
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
    )


def progress_message(session: BatchSession, elapsed_seconds: float) -> batch_service_pb2.BatchProgress:
    """How far a batch is."""
    totals = session.totals
    return batch_service_pb2.BatchProgress(
        done=totals.total_items,
        failed=totals.failed,
        in_flight=session.in_flight,
        waiting=session.waiting,
        input_tokens=totals.input_tokens,
        output_tokens=totals.output_tokens,
        cached_input_tokens=totals.cached_tokens,
        elapsed=duration(elapsed_seconds),
    )


def spec_fields(spec: strategy_service_pb2.StrategySpec) -> dict[str, Any]:
    """What a spec message says, under the keys of the operator's file; what it leaves open is absent."""
    retry = _given(
        spec.retry,
        numbers=("max_attempts", "exponential_base"),
        durations={"initial_wait": "initial_wait_seconds", "max_wait": "max_wait_seconds"},
        optionals=("jitter",),
    )
    generation = _given(
        spec.generation,
        optionals=("temperature", "max_output_tokens", "top_p", "top_k", "seed"),
        numbers=("grammar",),
    )
    if spec.generation.stop_sequences:
        generation["stop_sequences"] = tuple(spec.generation.stop_sequences)
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
    given = {key: value for key, value in spec.generation if value is not None}
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
            max_concurrency=spec.max_concurrency,
            retry=strategy_service_pb2.RetryPolicy(
                max_attempts=spec.retry.max_attempts,
                initial_wait=duration(spec.retry.initial_wait_seconds),
                max_wait=duration(spec.retry.max_wait_seconds),
                exponential_base=spec.retry.exponential_base,
                jitter=spec.retry.jitter,
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


def cache_message(record: CacheRecord, strategy: str, state: CacheState) -> cache_lifecycle_service_pb2.Cache:
    """A context cache."""
    return cache_lifecycle_service_pb2.Cache(
        name=record.name,
        strategy=strategy,
        provider=record.provider,
        model=record.model,
        fingerprint=record.fingerprint,
        create_time=timestamp(record.create_time),
        expire_time=timestamp(record.expire_time),
        total_token_count=record.total_token_count,
        state=_CACHE_STATES[state],
    )
