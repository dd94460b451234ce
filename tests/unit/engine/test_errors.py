from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from batch_llm.model import (
    RETRYABLE_REASONS,
    TERMINAL_REASONS,
    BatchLLMError,
    DefaultErrorClassifier,
    ErrorInfo,
    ErrorReason,
    FrameworkTimeoutError,
    OutputValidationError,
    ProviderError,
    reason_of_status,
)

R = ErrorReason
classify = DefaultErrorClassifier().classify


class SdkError(Exception):
    """What a provider's SDK raises: a status in an attribute."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__("429 rate limit exceeded, timed out, 503")  # a message that must not decide anything
        self.__dict__.update(attributes)


class SdkValueError(SdkError, ValueError):
    pass


class Label(BaseModel):
    label: str


def pydantic_error() -> ValidationError:
    try:
        Label.model_validate({})
    except ValidationError as error:
        return error
    raise AssertionError


def test_every_reason_is_either_retryable_or_terminal() -> None:
    assert frozenset(R) == RETRYABLE_REASONS | TERMINAL_REASONS
    assert not RETRYABLE_REASONS & TERMINAL_REASONS
    assert {
        R.ATTEMPT_TIMEOUT,
        R.PROVIDER_TIMEOUT,
        R.RATE_LIMITED,
        R.PROVIDER_UNAVAILABLE,
        R.VALIDATION_FAILED,
    } == RETRYABLE_REASONS


@pytest.mark.parametrize(
    ("status", "reason", "retryable"),
    [
        (400, R.PROVIDER_REJECTED, False),
        (401, R.AUTHENTICATION_FAILED, False),
        (403, R.AUTHENTICATION_FAILED, False),
        (404, R.PROVIDER_REJECTED, False),
        (408, R.PROVIDER_TIMEOUT, True),
        (422, R.PROVIDER_REJECTED, False),
        (429, R.RATE_LIMITED, True),
        (499, R.PROVIDER_TIMEOUT, True),
        (500, R.PROVIDER_UNAVAILABLE, True),
        (503, R.PROVIDER_UNAVAILABLE, True),
        (504, R.PROVIDER_TIMEOUT, True),
        (599, R.PROVIDER_UNAVAILABLE, True),
    ],
)
def test_a_status_decides_in_whatever_form_it_comes(status: int, reason: ErrorReason, retryable: bool) -> None:
    assert reason_of_status(status) is reason
    for error in (
        ProviderError("no", status=status),
        SdkError(status_code=status),
        SdkError(code=status),
        SdkValueError(code=status),
    ):
        info = classify(error)
        assert (info.item_reason, info.is_retryable) == (reason, retryable)
        assert info.is_rate_limit is (status == 429)
        assert info.is_timeout is (reason is R.PROVIDER_TIMEOUT)


def test_the_status_of_an_http_response_decides_too() -> None:
    # httpx and requests: `HTTPStatusError.response.status_code`.
    assert classify(SdkError(response=SimpleNamespace(status_code=400))).item_reason is R.PROVIDER_REJECTED


@pytest.mark.parametrize("attributes", [{"code": "429"}, {"code": 7}, {"status": "INTERNAL"}, {"code": lambda: 400}])
def test_what_is_no_http_status_is_none(attributes: dict[str, Any]) -> None:
    assert classify(SdkError(**attributes)).item_reason is R.PROVIDER_UNAVAILABLE


@pytest.mark.parametrize(
    ("error", "reason", "retryable"),
    [
        (FrameworkTimeoutError("ours"), R.ATTEMPT_TIMEOUT, True),
        (TimeoutError("theirs"), R.PROVIDER_TIMEOUT, True),
        (ConnectionResetError(), R.PROVIDER_UNAVAILABLE, True),
        (Exception("4290 tokens"), R.PROVIDER_UNAVAILABLE, True),
        (SdkError(), R.PROVIDER_UNAVAILABLE, True),
        (pydantic_error(), R.VALIDATION_FAILED, True),
        (OutputValidationError(["at a: no"], "{}"), R.VALIDATION_FAILED, True),
        (BatchLLMError("x", reason=R.CACHE_EXPIRED), R.CACHE_EXPIRED, False),
        *(
            (kind("a bug"), R.INTERNAL, False)
            for kind in (
                ValueError,
                TypeError,
                KeyError,
                IndexError,
                AttributeError,
                AssertionError,
                NotImplementedError,
            )
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_a_type_decides_where_there_is_no_status(error: Exception, reason: ErrorReason, retryable: bool) -> None:
    info = classify(error)
    assert (info.item_reason, info.is_retryable) == (reason, retryable)
    assert info.is_timeout is isinstance(error, TimeoutError)
    assert info.error_category == reason.lower()


def test_a_validation_error_by_name_only_is_not_pydantics() -> None:
    other = type("ValidationError", (ValueError,), {"__module__": "marshmallow"})
    assert classify(other("no")).is_retryable is False


def test_a_failed_validation_says_what_and_of_which_output() -> None:
    info = classify(OutputValidationError(["at a: no", "at b: no"], '{"a": 1}'))
    assert info.metadata == {"errors": "at a: no\nat b: no", "last_output": '{"a": 1}'}


def test_a_provider_error_may_know_better_than_its_status() -> None:
    error = ProviderError(
        "used up", status=429, reason=R.PROVIDER_REJECTED, retryable=False, retry_after=9.0, metadata={"quota": "day"}
    )
    info = classify(error)
    assert (info.item_reason, info.is_retryable, info.is_rate_limit) == (R.PROVIDER_REJECTED, False, False)
    assert (info.suggested_wait, info.metadata) == (9.0, {"quota": "day"})


def test_a_provider_error_without_a_status_is_a_provider_out_of_reach() -> None:
    assert classify(ProviderError("no route")).item_reason is R.PROVIDER_UNAVAILABLE


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ((True, True, True), R.RATE_LIMITED),
        ((True, False, True), R.PROVIDER_TIMEOUT),
        ((True, False, False), R.PROVIDER_UNAVAILABLE),
        ((False, False, False), R.PROVIDER_REJECTED),
    ],
)
def test_a_classifier_that_gives_flags_only_gets_their_reason(
    flags: tuple[bool, bool, bool], reason: ErrorReason
) -> None:
    assert ErrorInfo(*flags, "some").item_reason is reason
