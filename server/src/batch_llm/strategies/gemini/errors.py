"""What Google's errors mean, by type and status. Works on exceptions of all versions, without importing the package."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from batch_llm.model import DefaultErrorClassifier, ErrorInfo, ErrorReason, ProviderError, reason_of_status
from batch_llm.strategies.waits import retry_after

_LONGEST_MESSAGE = 500
_HTTP_LIBRARIES = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", "aiohttp"})
# Their exceptions that another attempt meets again: a redirection without end, an address that is none.
_WRONG_ADDRESS = frozenset({"TooManyRedirects", "InvalidURL", "UnsupportedProtocol"})

_BAD_KEY = re.compile(r"\bAPI key (?:not valid|not found|expired)\b", re.IGNORECASE)
_TOO_LONG = re.compile(r"\binput token count(?: \((\d+)\))? exceeds the maximum number of tokens allowed(?: \(?(\d+))?")
_RETRY_IN = re.compile(r"\bretry in ((?:\d+(?:\.\d+)?(?:h|ms|m|s))+)", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s)", re.IGNORECASE)
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}

_GONE = {
    400: re.compile(r"\bcache content \S+ is expired", re.IGNORECASE),
    403: re.compile(r"\bCachedContent not found", re.IGNORECASE),
    404: re.compile(r"\bcachedContents/|\bcached ?content\b", re.IGNORECASE),
}
_TOO_SMALL = (
    re.compile(r"\bCached content is too small\. total_token_count=(\d+), min_total_token_count=(\d+)"),
    re.compile(r"\bcached content is of (\d+) tokens\. The minimum token count to start caching is (\d+)"),  # Vertex AI
)
_NO_STORAGE = re.compile(r"CachedContentStorageTokens\w*FreeTier\b.*\blimit=0\b", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as Google sends it (google.rpc.Status).

    Args:
        code: HTTP status.
        status: its name, e.g. "RESOURCE_EXHAUSTED"; the HTTP reason where the body is not Google's.
        message: for people.
        details: typed facts, as JSON objects.
        retry_after: seconds that it asks to wait, wherever it says so.
    """

    code: int
    status: str = ""
    message: str = ""
    details: tuple[Mapping[str, Any], ...] = ()
    retry_after: float | None = None


class GeminiError(ProviderError):
    """Google refused or failed.

    Args:
        failure: what it sent.
        secret: the key, to be hidden should the message repeat it.
    """

    def __init__(self, failure: Failure, secret: str = "") -> None:
        reason, retryable, metadata = _verdict(failure)
        message = failure.message.replace(secret, "***") if secret else failure.message
        super().__init__(
            message[:_LONGEST_MESSAGE] or f"HTTP status {failure.code} {failure.status}".rstrip(),
            status=failure.code,
            reason=reason,
            retryable=retryable,
            retry_after=None if retryable is False else failure.retry_after,  # waiting does not help
            metadata={"status": str(failure.code)} | ({"code": failure.status} if failure.status else {}) | metadata,
        )
        self.failure = failure


class GeminiErrorClassifier:
    """Classifies exceptions of google-genai and of the HTTP libraries below it; others as `DefaultErrorClassifier`."""

    def classify(self, exception: BaseException) -> ErrorInfo:
        """See `ErrorClassifier`."""
        return DefaultErrorClassifier().classify(_of_library(exception) or exception)


@contextmanager
def translated(secret: str = "") -> Iterator[None]:
    """Around calls of the package: its exceptions, and those of the libraries below it, become `ProviderError`.

    Args:
        secret: the key, to be hidden in messages.
    """
    try:
        yield
    except Exception as error:
        found = as_provider_error(error, secret)
        if found is None or found is error:
            raise
        # The cause would bring request headers into tracebacks that show variables.
        raise found from None


def as_provider_error(error: Exception, secret: str = "") -> ProviderError | None:
    """An exception from a call of the package as ours; None for one that is a bug.

    Args:
        error: the exception.
        secret: the key, to be hidden in messages.
    """
    if isinstance(error, ProviderError):
        return error
    if (found := _of_library(error, secret)) is not None:
        return found
    match error:
        case TimeoutError():
            return _timeout(error)
        case OSError():
            return _unreachable(error)
        case json.JSONDecodeError():
            return ProviderError(f"the endpoint's answer is no JSON: {error}", status=502)
        case AttributeError() if _raised_in(error) == "google.genai.errors":  # before 2: the body is no JSON object
            return ProviderError("the endpoint's error is no JSON object", status=502)
    if _is_named(error, "ValidationError", "pydantic", "pydantic_core"):
        return ProviderError(f"google-genai cannot read the endpoint's answer: {error}"[:_LONGEST_MESSAGE], status=502)
    return None


def cache_is_gone(error: BaseException) -> bool:
    """Whether the context cache that a call named has expired or was deleted. A 403 for another reason is a bad key."""
    failure = _failure(error)
    return failure is not None and _says_gone(failure)


def cache_too_small(error: BaseException) -> tuple[int, int] | None:
    """Tokens of a content that is too small to be cached, and the fewest that can be; None for other errors."""
    failure = _failure(error)
    if failure is None or failure.code != 400:
        return None
    found = next(filter(None, (pattern.search(failure.message) for pattern in _TOO_SMALL)), None)
    return (int(found[1]), int(found[2])) if found else None


def cache_unavailable(error: BaseException) -> bool:
    """Whether caching is not for this key at all: the free tier has no storage for caches."""
    failure = _failure(error)
    return failure is not None and failure.code == 429 and _NO_STORAGE.search(failure.message) is not None


def _verdict(failure: Failure) -> tuple[ErrorReason, bool | None, dict[str, str]]:
    """Reason, whether to try again where the reason does not say, and metadata."""
    reasons = {detail.get("reason") for detail in failure.details}
    if _says_gone(failure):
        return ErrorReason.CACHE_EXPIRED, None, {}
    if failure.code == 400 and ("API_KEY_INVALID" in reasons or _BAD_KEY.search(failure.message)):
        return ErrorReason.AUTHENTICATION_FAILED, None, {}
    if failure.code == 400 and (found := _TOO_LONG.search(failure.message)):
        sizes = {"prompt_tokens": found[1], "context_tokens": found[2]}
        return ErrorReason.CONTEXT_LENGTH_EXCEEDED, None, {name: size for name, size in sizes.items() if size}
    if failure.code == 429:
        violations = _violations(failure)
        quotas = [str(violation.get("quotaId", "")) for violation in violations]
        for_good = any("PerDay" in quota for quota in quotas) or _NO_STORAGE.search(failure.message) is not None
        names = {"quota": ", ".join(quotas)} if any(quotas) else {}
        return ErrorReason.RATE_LIMITED, False if for_good else None, names
    if 300 <= failure.code < 400:
        return ErrorReason.PROVIDER_REJECTED, None, {}  # a redirection that leads nowhere; base_url is wrong
    return reason_of_status(failure.code), None, {}


def _says_gone(failure: Failure) -> bool:
    words = _GONE.get(failure.code)
    return words is not None and words.search(failure.message) is not None


def _violations(failure: Failure) -> list[Mapping[str, Any]]:
    listed = [detail.get("violations") for detail in failure.details]
    return [each for part in listed if isinstance(part, list) for each in part if isinstance(each, Mapping)]


def _of_library(error: BaseException, secret: str = "") -> ProviderError | None:
    if isinstance(error, ProviderError):
        return error
    if (failure := _failure(error)) is not None:
        return GeminiError(failure, secret)
    if _module(type(error)).split(".")[0] in _HTTP_LIBRARIES:
        names = {kind.__name__ for kind in type(error).__mro__}
        if names & _WRONG_ADDRESS:
            message = f"the endpoint's address leads nowhere ({type(error).__name__}); check base_url"
            return ProviderError(message, reason=ErrorReason.PROVIDER_REJECTED)
        return _timeout(error) if names & {"TimeoutException", "TimeoutError"} else _unreachable(error)
    if _module(type(error)).startswith("google.auth."):
        if _is_named(error, "TransportError", "google") or getattr(error, "retryable", False):
            return _unreachable(error)
        message = f"no access token: {error}; check the credentials"[:_LONGEST_MESSAGE]
        return ProviderError(message, reason=ErrorReason.AUTHENTICATION_FAILED)
    return None


def _failure(error: BaseException) -> Failure | None:
    """What Google sent; None if this is no such error."""
    if isinstance(error, GeminiError):
        return error.failure
    code = getattr(error, "code", None)
    if not isinstance(code, int) or not _is_named(error, "APIError", "google"):
        return None
    body = getattr(error, "details", None)
    if isinstance(body, Mapping) and isinstance(body.get("error"), Mapping):
        body = body["error"]
    facts: Mapping[str, Any] = body if isinstance(body, Mapping) else {}
    listed = facts.get("details")
    details = tuple(each for each in listed if isinstance(each, Mapping)) if isinstance(listed, list) else ()
    message = str(facts.get("message") or getattr(error, "message", None) or "")
    status = str(facts.get("status") or getattr(error, "status", None) or "")
    return Failure(code, status, message, details, _wait(details, getattr(error, "response", None), message))


def _wait(details: tuple[Mapping[str, Any], ...], response: Any, message: str) -> float | None:
    for detail in details:
        if isinstance(delay := detail.get("retryDelay"), str) and (seconds := _seconds(delay)) is not None:
            return seconds
    headers = getattr(response, "headers", None)
    if headers is not None and (seconds := retry_after(headers)) is not None:
        return seconds
    said = _RETRY_IN.search(message)
    return _seconds(said[1]) if said else None


def _seconds(duration: str) -> float | None:
    """Seconds of "57.2s" or "1h45m28s"."""
    parts = _DURATION.findall(duration)
    return sum(float(number) * _UNITS[unit.lower()] for number, unit in parts) if parts else None


def _timeout(error: BaseException) -> ProviderError:
    return ProviderError(
        f"the endpoint did not answer in time ({type(error).__name__})", reason=ErrorReason.PROVIDER_TIMEOUT
    )


def _unreachable(error: BaseException) -> ProviderError:
    return ProviderError(f"the endpoint cannot be reached, or hung up ({type(error).__name__})")


def _is_named(error: BaseException, name: str, *packages: str) -> bool:
    # By name, so that a user's exceptions are known without importing what raised them.
    return any(kind.__name__ == name and _module(kind).split(".")[0] in packages for kind in type(error).__mro__)


def _raised_in(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))


def _module(kind: type[BaseException]) -> str:
    return kind.__module__ or ""
