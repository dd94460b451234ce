"""When a try is made again: counting alone, without any connection."""

from collections.abc import Iterator

import grpc
import pytest

from batch_llm_client import DeadlineExceededError, ResumePolicy
from batch_llm_client._resume import (
    BROKEN_TRANSPORT_CODES,
    RESUMABLE_CODES,
    TERMINAL_CODES,
    Retries,
    is_resumable,
)
from batch_llm_client.errors import BatchLLMClientError

GONE = BatchLLMClientError("gone", code="UNAVAILABLE")


class Time:
    """A clock that goes when it is told to."""

    def __init__(self, drawn: float = 1.0) -> None:
        self.seconds = 0.0
        self.drawn = drawn

    def retries(self, policy: ResumePolicy | None, deadline: float | None = None) -> Retries:
        return Retries(policy, deadline=deadline, now=lambda: self.seconds, random=lambda: self.drawn)

    def delays(self, retries: Retries, error: BatchLLMClientError = GONE) -> Iterator[float]:
        """The delays until it gives up, each waited for."""
        while True:
            try:
                delay = retries.delay(error)
            except BatchLLMClientError:
                return
            self.seconds += delay
            yield delay


def test_every_code_is_resumable_or_terminal() -> None:
    sets = [RESUMABLE_CODES, BROKEN_TRANSPORT_CODES, TERMINAL_CODES]
    assert sorted(code for codes in sets for code in codes) == sorted(code.name for code in grpc.StatusCode)


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        ("UNAVAILABLE", None, True),
        ("UNAVAILABLE", "SERVER_DRAINING", True),
        ("UNAVAILABLE", "JOURNAL_UNAVAILABLE", True),
        ("ABORTED", "BATCH_IN_USE", True),
        ("ABORTED", None, False),
        ("RESOURCE_EXHAUSTED", "JOURNAL_FULL", True),
        ("RESOURCE_EXHAUSTED", None, False),
        ("INTERNAL", None, True),
        ("INTERNAL", "INTERNAL", False),
        ("UNKNOWN", None, True),
        ("CANCELLED", None, True),
        ("INVALID_ARGUMENT", "INVALID_FIELD", False),
        ("NOT_FOUND", "STRATEGY_NOT_FOUND", False),
        ("DEADLINE_EXCEEDED", None, False),
        ("DATA_LOSS", None, False),
    ],
)
def test_what_is_resumable(code: str, reason: str | None, expected: bool) -> None:
    assert is_resumable(BatchLLMClientError("m", code=code, reason=reason)) is expected


def test_waits_double_up_to_the_bound_and_tries_are_counted() -> None:
    time = Time(drawn=1.0)
    retries = time.retries(ResumePolicy(max_tries=6, initial_backoff_seconds=1, max_backoff_seconds=8))
    assert list(time.delays(retries)) == [1, 2, 4, 8, 8, 8]


def test_full_jitter() -> None:
    time = Time(drawn=0.25)
    retries = time.retries(ResumePolicy(max_tries=3, initial_backoff_seconds=1, max_backoff_seconds=8))
    assert list(time.delays(retries)) == [0.25, 0.5, 1.0]


def test_progress_counts_anew() -> None:
    time = Time()
    retries = time.retries(ResumePolicy(max_tries=2, initial_backoff_seconds=1))
    assert list(time.delays(retries)) == [1, 2]
    retries.connected()
    assert list(time.delays(retries)) == []
    retries.progress()
    assert list(time.delays(retries)) == [1, 2]


def test_time_away_is_bounded_and_time_on_a_stream_does_not_count() -> None:
    time = Time()
    retries = time.retries(ResumePolicy(max_tries=100, max_away_seconds=10, initial_backoff_seconds=4))
    assert retries.delay(GONE) == 4
    time.seconds += 4
    retries.connected()
    time.seconds += 3600  # a long call to a model, with nothing to show meanwhile
    assert retries.delay(GONE) == 8
    time.seconds += 8
    with pytest.raises(BatchLLMClientError, match="gone"):
        retries.delay(GONE)


def test_the_delay_that_the_server_asks_for_is_a_floor_and_counted_apart() -> None:
    time = Time(drawn=0.5)
    policy = ResumePolicy(max_tries=1, max_away_seconds=10, max_asked_seconds=100, initial_backoff_seconds=1)
    retries = time.retries(policy)
    draining = BatchLLMClientError("draining", code="UNAVAILABLE", retry_after=40)
    assert list(time.delays(retries, draining)) == [40.5, 40.5]
    assert list(time.delays(retries)) == [0.5]


def test_a_server_that_asks_for_next_to_nothing_is_bounded_too() -> None:
    time = Time(drawn=0.0)
    hasty = BatchLLMClientError("m", code="UNAVAILABLE", retry_after=1e-9)
    assert len(list(time.delays(time.retries(ResumePolicy(max_asked_seconds=30)), hasty))) <= 30


def test_the_deadline_bounds_it() -> None:
    time = Time()
    retries = time.retries(ResumePolicy(initial_backoff_seconds=4), deadline=10)
    assert retries.timeout() == 10
    assert retries.delay(GONE) == 4
    time.seconds += 4
    assert retries.timeout() == 6
    with pytest.raises(DeadlineExceededError, match=r"in 8\.0 s; the last one: gone") as caught:
        retries.delay(GONE)
    assert caught.value.__cause__ is GONE


def test_no_policy_no_try() -> None:
    with pytest.raises(BatchLLMClientError, match="gone"):
        Time().retries(None).delay(GONE)


def test_a_terminal_error_is_raised_as_it_is() -> None:
    error = BatchLLMClientError("no", code="NOT_FOUND")
    with pytest.raises(BatchLLMClientError) as caught:
        Time().retries(ResumePolicy()).delay(error)
    assert caught.value is error


@pytest.mark.parametrize("value", [-1, float("nan")])
def test_a_bad_policy(value: float) -> None:
    with pytest.raises(ValueError, match="max_away_seconds must be at least 0"):
        ResumePolicy(max_away_seconds=value)
