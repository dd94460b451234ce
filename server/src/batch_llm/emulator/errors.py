"""Google's errors: status, text and details as the real APIs send them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from .clock import as_duration, in_words
from .http import Response, json_response

_STATUS_NAMES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_MESSAGES = {
    429: "Resource has been exhausted (e.g. check quota).",
    499: "The operation was cancelled.",
    500: "An internal error has occurred. Please retry or report in "
    "https://developers.generativeai.google/guide/troubleshooting",
    503: "The model is overloaded. Please try again later.",
    504: "Deadline expired before operation could complete.",
}
_TYPES = "type.googleapis.com/google.rpc."

Quota = Literal["requests_per_minute", "tokens_per_minute", "requests_per_day"]
QuotaErrors = Literal["details", "text", "bare"]

# Metric, id on the paid tier, and what the free tier's are called.
_QUOTAS: Mapping[Quota, tuple[str, str, str, str]] = {
    "requests_per_minute": (
        "generate_requests_per_model",
        "GenerateRequestsPerMinutePerProjectPerModel",
        "generate_content_free_tier_requests",
        "GenerateRequestsPerMinutePerProjectPerModel-FreeTier",
    ),
    "tokens_per_minute": (
        "generate_content_paid_tier_input_token_count",
        "GenerateContentPaidTierInputTokensPerModelPerMinute",
        "generate_content_free_tier_input_token_count",
        "GenerateContentInputTokensPerModelPerMinute-FreeTier",
    ),
    "requests_per_day": (
        "generate_requests_per_model_per_day",
        "GenerateRequestsPerDayPerProjectPerModel",
        "generate_content_free_tier_requests",
        "GenerateRequestsPerDayPerProjectPerModel-FreeTier",
    ),
}


class ApiError(Exception):
    """An error that the API answers with.

    Args:
        status: HTTP status.
        message: its text; None: the usual one for the status.
        details: `google.rpc` messages.
    """

    def __init__(self, status: int, message: str | None = None, details: Sequence[Mapping[str, Any]] = ()) -> None:
        self.status = status
        self.message = _MESSAGES.get(status, f"emulated error {status}") if message is None else message
        self.details = details
        super().__init__(self.message)

    def response(self) -> Response:
        """The answer."""
        error: dict[str, Any] = {
            "code": self.status,
            "message": self.message,
            "status": _STATUS_NAMES.get(self.status, "UNKNOWN"),
        }
        if self.details:
            error["details"] = self.details
        return json_response({"error": error}, self.status)


def invalid(message: str) -> ApiError:
    """400 INVALID_ARGUMENT."""
    return ApiError(400, message)


def retry_info(seconds: float) -> Mapping[str, Any]:
    """`RetryInfo`."""
    return {"@type": f"{_TYPES}RetryInfo", "retryDelay": as_duration(seconds)}


def no_credentials(vertex: bool) -> ApiError:
    """No key, no token."""
    if vertex:
        return ApiError(
            401,
            "Request is missing required authentication credential. Expected OAuth 2 access token, login cookie or "
            "other valid authentication credential. See "
            "https://developers.google.com/identity/sign-in/web/devconsole-project.",
        )
    return ApiError(
        403,
        "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or "
        "other form of API consumer identity to call this API.",
    )


def refused_credentials(vertex: bool) -> ApiError:
    """A key or token that is not good."""
    if vertex:
        return ApiError(
            401,
            "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other "
            "valid authentication credential. See "
            "https://developers.google.com/identity/sign-in/web/devconsole-project.",
            [
                {
                    "@type": f"{_TYPES}ErrorInfo",
                    "reason": "ACCESS_TOKEN_TYPE_UNSUPPORTED",
                    "metadata": {"service": "aiplatform.googleapis.com"},
                }
            ],
        )
    text = "API key not valid. Please pass a valid API key."
    return ApiError(
        400,
        text,
        [
            {
                "@type": f"{_TYPES}ErrorInfo",
                "reason": "API_KEY_INVALID",
                "domain": "googleapis.com",
                "metadata": {"service": "generativelanguage.googleapis.com"},
            },
            {"@type": f"{_TYPES}LocalizedMessage", "locale": "en-US", "message": text},
        ],
    )


def quota_exceeded(
    quota: Quota,
    model: str,
    *,
    retry_after: float,
    limit: int | None = None,
    free_tier: bool = False,
    style: QuotaErrors = "details",
) -> ApiError:
    """429 RESOURCE_EXHAUSTED.

    Args:
        quota: which one.
        model: whose.
        retry_after: seconds to wait.
        limit: the quota's value.
        free_tier: whether it is the free tier's.
        style: "details" with QuotaFailure and RetryInfo; "text" with the delay in the text alone; "bare" with
            neither, as Vertex AI's shared quota.
    """
    if style == "bare":
        return ApiError(
            429,
            "Resource exhausted. Please try again later. Please refer to "
            "https://cloud.google.com/vertex-ai/generative-ai/docs/error-code-429 for more details.",
        )
    paid_metric, paid_id, free_metric, free_id = _QUOTAS[quota]
    metric = f"generativelanguage.googleapis.com/{free_metric if free_tier else paid_metric}"
    limit_text = "" if limit is None else f", limit: {limit}"
    message = (
        "You exceeded your current quota, please check your plan and billing details. For more information on this "
        "error, head to: https://ai.google.dev/gemini-api/docs/rate-limits. To monitor your current usage, head to: "
        f"https://ai.dev/rate-limit.\n* Quota exceeded for metric: {metric}{limit_text}, model: {model}\n"
        f"Please retry in {in_words(retry_after)}."
    )
    if style == "text":
        return ApiError(429, message)
    violation: dict[str, Any] = {
        "quotaMetric": metric,
        "quotaId": free_id if free_tier else paid_id,
        "quotaDimensions": {"location": "global", "model": model},
    }
    if limit is not None:
        violation["quotaValue"] = str(limit)
    link = {
        "description": "Learn more about Gemini API quotas",
        "url": "https://ai.google.dev/gemini-api/docs/rate-limits",
    }
    return ApiError(
        429,
        message,
        [
            {"@type": f"{_TYPES}Help", "links": [link]},
            {"@type": f"{_TYPES}QuotaFailure", "violations": [violation]},
            retry_info(retry_after),
        ],
    )
