"""A strategy on any OpenAI-compatible chat-completions endpoint. Importing this imports no provider's library."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from batch_llm.model import DEFAULT_CACHE_DISCOUNT, ErrorReason, ProviderError, TokenUsage, checks

from .base import LLMCallStrategy, check_cache_discount
from .openai_replies import as_provider_error, read_reply
from .prices import ListPrices

if TYPE_CHECKING:
    from openai import AsyncOpenAI

DEFAULT_BASE_URL = "https://api.openai.com/v1"
CONNECT_TIMEOUT_SECONDS = 10.0
_NO_KEY = "no-key"  # the library wants one; endpoints without authentication ignore it

OutputLimitField = Literal["auto", "max_tokens", "max_completion_tokens"]

# Beginnings of model names, the first that fits decides; what fits none has the discount of the models since GPT-5.
# From the prices at developers.openai.com/api/docs/pricing, cross-checked with PyPI genai-prices 0.2.3: cached input
# costs half for GPT-4o, o1 and o3-mini (openai.com/index/api-prompt-caching), a quarter for GPT-4.1, o3 and o4-mini,
# a tenth from GPT-5 on, a twentieth for GPT-6.1.
_CACHE_DISCOUNTS = (
    ("gpt-4o", 0.5),
    ("gpt-4.5", 0.5),
    ("o1", 0.5),
    ("o3-mini", 0.5),
    ("gpt-4.1", 0.75),
    ("o3", 0.75),
    ("o4-mini", 0.75),
    ("gpt-6.1", 0.95),
)


class OpenAIStrategy(LLMCallStrategy[str]):
    """Calls `POST /chat/completions` through the official `openai` package (extra `batch-llm[openai]`).

    The package's own retries are off: the engine retries. `cached_content` follows the instruction in the system
    message, the same for every item, so that an endpoint with a prefix cache of its own finds it; there is no cache
    object to create, and tokens from the endpoint's cache are counted as the endpoint reports them
    (`prompt_tokens_details.cached_tokens`).

    Args:
        model: the model, as the endpoint calls it.
        api_key: the key; None for `OPENAI_API_KEY` from the environment at OpenAI's own endpoint, no key at others.
        base_url: the endpoint, up to and without `/chat/completions`.
        system_instruction: said before anything else.
        cached_content: content that every item starts with.
        temperature: 0 picks the likeliest token; None: the endpoint's default, as for what follows.
        max_output_tokens: the longest output, thinking included.
        top_p: nucleus sampling.
        seed: makes sampling repeatable where the endpoint can.
        stop_sequences: output ends before any of these; OpenAI takes four.
        output_json_schema: JSON Schema for the output, as text.
        output_limit_field: what `max_output_tokens` is called in the request. OpenAI's reasoning models refuse
            `max_tokens`, and older servers ignore `max_completion_tokens`, which would leave outputs unlimited; "auto"
            takes the new name for hosts under openai.com and openai.azure.com, the old one for others.
        cache_discount: share of the input price that a cached token saves; None: OpenAI's for the model.
        max_connections: connections at most; None for as many as there are calls in flight.

    Raises:
        ValueError: no model, `base_url` is no URL, or a number is out of its range.
    """

    def __init__(
        self,
        model: str,
        *,
        api_key: str | None = None,
        base_url: str = DEFAULT_BASE_URL,
        system_instruction: str = "",
        cached_content: Sequence[str] = (),
        temperature: float | None = None,
        max_output_tokens: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop_sequences: Sequence[str] = (),
        output_json_schema: str = "",
        output_limit_field: OutputLimitField = "auto",
        cache_discount: float | None = None,
        max_connections: int | None = None,
    ) -> None:
        if not model:
            raise ValueError('model must not be empty; give it as the endpoint calls it, e.g. "gpt-5-mini"')
        if cache_discount is not None:
            check_cache_discount(cache_discount)
        if max_connections is not None:
            checks.whole("max_connections", max_connections, "use None for no limit", least=1)
        host = check_base_url(base_url)
        self._at_openai = host.endswith((".openai.com", ".openai.azure.com"))
        if output_limit_field == "auto":
            output_limit_field = "max_completion_tokens" if self._at_openai else "max_tokens"
        self.cache_discount = cache_discount_of(model) if cache_discount is None else cache_discount
        # Others have prices of their own, and OpenAI's regional endpoints surcharges.
        self._prices = ListPrices("openai", model) if host == ".api.openai.com" else None
        self.pricing = self._prices
        digest = hashlib.sha256((api_key or "").encode()).hexdigest()
        self.quota_key = ("openai", base_url, digest, model)
        self._model = model
        self._api_key = api_key
        self._base_url = base_url
        self._max_connections = max_connections
        self._client: AsyncOpenAI | None = None
        shared = "\n\n".join(part for part in (system_instruction, *cached_content) if part)
        self._before: list[dict[str, str]] = [{"role": "system", "content": shared}] if shared else []
        given = {
            "model": model,
            "temperature": temperature,
            output_limit_field: max_output_tokens,
            "top_p": top_p,
            "seed": seed,
            "stop": list(stop_sequences) or None,
            "response_format": _response_format(output_json_schema) if output_json_schema else None,
        }
        self._request: dict[str, Any] = {key: value for key, value in given.items() if value is not None}

    def __repr__(self) -> str:
        return f"OpenAIStrategy({self._model!r}, base_url={self._base_url!r})"

    async def prepare(self) -> None:
        """Make the client. Calls nobody.

        Raises:
            ProviderError: PREPARE_FAILED: the package or the key is missing.
        """
        # In a thread: the import and the certificates take half a second, which other items need not wait for.
        self._client = await asyncio.to_thread(self._open)

    async def cleanup(self) -> None:
        """Close the client and its connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def execute(
        self, prompt: str, attempt: int, timeout: float, state: dict[str, Any] | None = None
    ) -> tuple[str, TokenUsage, Mapping[str, Any]]:
        """One completion.

        Raises:
            ProviderError: the endpoint refused, failed or did not answer; or answered without text, with
                `token_usage` then.
        """
        import httpx2
        from openai import OpenAIError

        client = self._client
        if client is None:
            raise ProviderError("prepare() has not been called", reason=ErrorReason.PREPARE_FAILED)
        limits = httpx2.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT_SECONDS))
        messages: Any = [*self._before, {"role": "user", "content": prompt}]
        try:
            # Raw, because compatible endpoints leave out what the package's types promise.
            response = await client.chat.completions.with_raw_response.create(
                messages=messages, timeout=limits, **self._request
            )
        except OpenAIError as error:
            # The cause would bring request headers into tracebacks that show variables.
            raise as_provider_error(error, client.api_key) from None
        return read_reply(response.content, self._model)

    def _open(self) -> AsyncOpenAI:
        try:
            import httpx2
            import openai
        except ImportError as error:
            raise ProviderError(
                f"the openai provider is not installed ({error}); pip install 'batch-llm[openai]'",
                reason=ErrorReason.PREPARE_FAILED,
            ) from None
        logging.getLogger("httpx2").setLevel(logging.WARNING)  # it would log every call at INFO
        key = self._api_key
        if key is None and not self._at_openai:
            key = _NO_KEY  # the package would send OPENAI_API_KEY to whoever is there
        limits = httpx2.Limits(max_connections=self._max_connections, max_keepalive_connections=self._max_connections)
        try:
            client = openai.AsyncOpenAI(
                api_key=key,
                base_url=self._base_url,
                max_retries=0,
                http_client=openai.DefaultAsyncHttpxClient(limits=limits),
            )
        except openai.OpenAIError as error:
            raise ProviderError(str(error), reason=ErrorReason.PREPARE_FAILED) from None
        if not self._at_openai:
            # From the environment, for OpenAI; nobody else's business.
            client.organization = client.project = client.admin_api_key = None
        if self._prices is not None:
            self._prices.load()
        _ = client.chat.completions.with_raw_response  # imports what the first call needs
        return client


def cache_discount_of(model: str) -> float:
    """The share of the input price that a cached token saves with a model of OpenAI's; 0.9 for an unknown one.

    Source: developers.openai.com/api/docs/pricing and openai.com/index/api-prompt-caching.
    """
    name = model.rpartition("/")[2]  # gateways put the vendor's name in front
    return next((discount for start, discount in _CACHE_DISCOUNTS if name.startswith(start)), DEFAULT_CACHE_DISCOUNT)


def check_base_url(base_url: str) -> str:
    """The host of an endpoint's URL, with a dot in front.

    Raises:
        ValueError: it is no http URL, or carries credentials.
    """
    parts = urlsplit(base_url)
    if parts.username is not None or parts.password is not None:
        raise ValueError("base_url must not carry a name or password; name a key's environment variable instead")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("base_url must be a URL that starts with http:// or https://, e.g. http://127.0.0.1:8000/v1")
    return f".{parts.hostname}"


def _response_format(schema: str) -> dict[str, Any]:
    # Not strict: OpenAI's strict mode takes a part of JSON Schema only, and the engine checks outputs itself.
    return {
        "type": "json_schema",
        "json_schema": {"name": "output", "schema": json.loads(schema), "strict": False},
    }
