"""What a chat-completions endpoint answers: text and tokens, or an error, in the engine's terms."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from batch_llm.model import ErrorReason, ProviderError, TokenUsage, reason_of_status

from .waits import retry_after

if TYPE_CHECKING:
    from openai import OpenAIError

# Codes and types of errors, as OpenAI and llama.cpp name them.
_OUT_OF_QUOTA = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
_TOO_LONG = {"context_length_exceeded", "exceed_context_size_error"}
_BLOCKED = {"content_filter", "content_policy_violation"}
# vLLM says it in words only.
_CONTEXT_IN_WORDS = re.compile(r"\bmaximum context length is (\d+) tokens\b")
_PROMPT_IN_WORDS = re.compile(r"\b(?:resulted in|requested|contains(?: at least)?) (\d+)\b")
_LONGEST_BODY = 500


def read_reply(body: bytes, model: str) -> tuple[str, TokenUsage, Mapping[str, Any]]:
    """Output, tokens and metadata of a completion.

    Args:
        body: the answer, JSON as in OpenAI's `chat.completion` object.
        model: the model that was asked, for answers that do not name theirs.

    Raises:
        ProviderError: there is no text in it; carries the tokens that it reports.
    """
    try:
        reply = json.loads(body)
    except ValueError:
        reply = None
    if not isinstance(reply, dict):
        start = body[:80].decode(errors="replace")
        raise ProviderError(f"the endpoint's answer is no JSON object; it begins: {start}", status=502)
    usage = read_usage(reply.get("usage"))
    if isinstance(error := reply.get("error"), dict):  # gateways put one into a 200
        code = error.get("code")
        status = code if isinstance(code, int) and 400 <= code < 600 else 502
        raise _failure(str(error.get("message", error)), status, error, usage=usage)
    choices = reply.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = choice.get("message")
    said: dict[str, Any] = message if isinstance(message, dict) else {}
    text, finish = said.get("content"), str(choice.get("finish_reason") or "")
    if refusal := said.get("refusal"):
        _refuse(ErrorReason.CONTENT_BLOCKED, f"the model refused: {refusal}", finish, usage)
    if finish == "content_filter":
        _refuse(ErrorReason.CONTENT_BLOCKED, "the provider's content filter stopped the output", finish, usage)
    if not isinstance(text, str):
        if finish == "length":
            what = "the output limit was used up before any text; raise max_output_tokens"
            _refuse(ErrorReason.PROVIDER_REJECTED, what, finish, usage)
        what = "no choices" if not choice else f"no text (finish_reason {finish!r})"
        _refuse(ErrorReason.PROVIDER_UNAVAILABLE, f"the endpoint's answer has {what}", finish, usage)
    return text, usage, {"finish_reason": finish, "model": str(reply.get("model") or model)}


def read_usage(usage: Any) -> TokenUsage:
    """Tokens of a `usage` object; what it does not say is 0."""
    if not isinstance(usage, dict):
        return TokenUsage()
    counts: TokenUsage = {
        "input_tokens": _count(usage, "prompt_tokens"),
        "output_tokens": _count(usage, "completion_tokens"),
        "cached_input_tokens": _count(usage.get("prompt_tokens_details"), "cached_tokens"),
        "thinking_tokens": _count(usage.get("completion_tokens_details"), "reasoning_tokens"),
    }
    if written := _count(usage.get("prompt_tokens_details"), "cache_write_tokens"):  # charged since GPT-5.6
        counts["cache_write_tokens"] = written
    return counts


def as_provider_error(error: OpenAIError, secret: str) -> ProviderError:
    """An exception of the `openai` package as ours.

    Args:
        error: the exception.
        secret: the key; some endpoints repeat it in their messages.
    """
    import openai

    match error:
        case openai.APITimeoutError():
            return ProviderError(
                f"the endpoint did not answer in time ({_kind_of_cause(error)})", reason=ErrorReason.PROVIDER_TIMEOUT
            )
        case openai.APIConnectionError():
            return ProviderError(f"the endpoint cannot be reached, or hung up ({_kind_of_cause(error)})")
        case openai.APIStatusError():
            body = error.body if isinstance(error.body, dict) else {}
            said = body.get("message") or (error.body if isinstance(error.body, str) else None) or error.message
            message = str(said).replace(secret, "***") if secret else str(said)
            wait = retry_after(error.response.headers)
            return _failure(message[:_LONGEST_BODY], error.status_code, body, wait=wait)
        case _:
            message = str(error).replace(secret, "***") if secret else str(error)
            return ProviderError(f"{type(error).__name__}: {message}")


def _failure(
    message: str,
    status: int,
    body: Mapping[str, Any],
    *,
    wait: float | None = None,
    usage: TokenUsage | None = None,
) -> ProviderError:
    names = {str(body.get(key)) for key in ("code", "type")}
    reason, retryable, metadata = reason_of_status(status), None, {"status": str(status)}
    if isinstance(body.get("code"), str):
        metadata["code"] = body["code"]
    context = _CONTEXT_IN_WORDS.search(message)
    if names & _OUT_OF_QUOTA:
        reason, retryable, wait = ErrorReason.RATE_LIMITED, False, None  # waiting does not fill an account
    elif names & _BLOCKED:
        reason = ErrorReason.CONTENT_BLOCKED
    elif names & _TOO_LONG or (status == 400 and context):
        reason = ErrorReason.CONTEXT_LENGTH_EXCEEDED
        prompt = _PROMPT_IN_WORDS.search(message)
        sizes = {
            "prompt_tokens": body.get("n_prompt_tokens") or (prompt and prompt[1]),
            "context_tokens": body.get("n_ctx") or (context and context[1]),
        }
        metadata |= {name: str(size) for name, size in sizes.items() if size}
    elif 300 <= status < 400:
        reason = ErrorReason.PROVIDER_REJECTED  # a redirection that leads nowhere; base_url is wrong
    return ProviderError(
        message,
        status=status,
        reason=reason,
        retryable=retryable,
        retry_after=wait,
        token_usage=usage,
        metadata=metadata,
    )


def _refuse(reason: ErrorReason, message: str, finish: str, usage: TokenUsage) -> NoReturn:
    raise ProviderError(message, reason=reason, token_usage=usage, metadata={"finish_reason": finish} if finish else {})


def _kind_of_cause(error: BaseException) -> str:
    return type(error.__cause__ or error).__name__


def _count(table: Any, key: str) -> int:
    value = table.get(key) if isinstance(table, dict) else None
    return max(0, int(value)) if isinstance(value, int | float) and math.isfinite(value) else 0
