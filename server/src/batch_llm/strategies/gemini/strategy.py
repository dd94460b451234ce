"""Gemini models as strategies: each call by itself, or on a shared context cache."""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

from batch_llm.caching import (
    DEFAULT_RENEWAL_BUFFER_SECONDS,
    DEFAULT_TTL_SECONDS,
    CachePolicy,
    CacheRegistry,
    ContextCache,
    fingerprint,
    shared_registry,
)
from batch_llm.model import CacheGoneError, ErrorReason, ProviderError, TokenUsage, TOutput, checks
from batch_llm.strategies.base import LLMCallStrategy
from batch_llm.strategies.prices import ListPrices, gemini_cache_discount

from .cache import GeminiCache
from .connection import Connection, UsersConnection
from .errors import cache_is_gone, translated
from .replies import read_reply
from .requests import (
    CACHEABLE,
    as_json,
    bare,
    cache_config,
    call_config,
    canonical_contents,
    check_tools,
    contents_of,
    contents_with,
    copied,
    own,
    setting,
    without_cacheable,
)

if TYPE_CHECKING:
    from google.genai import Client
    from google.genai.types import Content, GenerateContentConfig, GenerateContentResponse

    from .requests import Settings

    Parser = Callable[[GenerateContentResponse], Any]


class GeminiStrategy(LLMCallStrategy[TOutput]):
    """Calls a Gemini model.

    Args:
        model: e.g. "gemini-2.5-flash".
        client: a `google.genai.Client` that you made and close, for the Developer API or Vertex AI.
        response_parser: makes the output of Google's answer; None: its text. JSON or a pydantic model that it finds
            invalid is told to the model, and tried again.
        config: a `GenerateContentConfig` or its fields: system instruction, tools, generation settings.

    Raises:
        ValueError: an argument is of the wrong kind, or settings that the API does not take together.
    """

    def __init__(
        self,
        model: str,
        client: Client | Connection,
        response_parser: Parser | None = None,
        config: Settings = None,
    ) -> None:
        if not isinstance(model, str) or not bare(model):
            raise ValueError(f'model must be a model\'s name, e.g. "gemini-2.5-flash", got {model!r}')
        if not isinstance(client, Connection) and (isinstance(client, type) or not hasattr(client, "aio")):
            # Its kind alone: it may be the key.
            raise ValueError(
                f"client must be a google.genai.Client, got {_kind(client)}; make one: google.genai.Client(api_key=…)"
            )
        if response_parser is not None and not callable(response_parser):
            checks.refuse("response_parser", "be a function", response_parser, "use None for the answer's text")
        if config is not None and not isinstance(config, Mapping) and not hasattr(config, "model_copy"):
            must = "be a GenerateContentConfig or a dict of its fields"
            checks.refuse("config", must, config, "leave it out for the model's defaults")
        config = own(config)
        check_tools(config)
        if setting(config, "cached_content") and (there := [name for name in CACHEABLE if setting(config, name)]):
            raise ValueError(
                f"config: {there[0]} and cached_content exclude each other: it belongs into the cache; "
                "GeminiCachedStrategy puts it there"
            )
        self.model = bare(model)
        self.cache_discount = gemini_cache_discount(self.model)
        self._prices = ListPrices("google", self.model)
        self.pricing = self._prices
        self._connection = client if isinstance(client, Connection) else UsersConnection(client)
        self.quota_key = ("gemini", self._connection.identity, self.model)
        self._parser = response_parser
        self._settings = config
        self._config: GenerateContentConfig | None = None
        self._client: Client | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r})"

    async def prepare(self) -> None:
        """Make the client, unless it is yours. Calls nobody.

        Raises:
            ProviderError: PREPARE_FAILED: the package, the key or the credentials are missing, or a setting is wrong.
        """
        client = await self._connection.acquire()
        try:
            await asyncio.to_thread(self._prices.load)
            self._configure()
        except ValueError as error:
            await self._connection.release()
            raise ProviderError(f"config: {error}", reason=ErrorReason.PREPARE_FAILED, retryable=False) from None
        except BaseException:
            await self._connection.release()
            raise
        self._client = client

    async def cleanup(self) -> None:
        """Close the client, unless it is yours or others use it."""
        if self._client is not None:
            self._client = None
            await self._connection.release()

    async def execute(
        self, prompt: str, attempt: int, timeout: float, state: dict[str, Any] | None = None
    ) -> tuple[TOutput, TokenUsage, Mapping[str, Any]]:
        """One `generateContent`.

        Raises:
            ProviderError: Google refused, failed or did not answer; or its answer is empty or blocked, with
                `token_usage` then.
        """
        return await self._generate(contents_with(prompt), self._config)

    async def _generate(
        self, contents: Any, config: GenerateContentConfig | None
    ) -> tuple[TOutput, TokenUsage, Mapping[str, Any]]:
        if self._client is None or config is None:
            raise ProviderError("prepare() has not been called", reason=ErrorReason.PREPARE_FAILED)
        with translated(self._connection.secret):
            response = await self._client.aio.models.generate_content(
                model=self.model, contents=contents, config=config
            )
        return read_reply(response, self.model, self._parser)

    def _configure(self) -> None:
        self._config = self._call_config(self._settings)

    def _call_config(self, settings: Settings, cached_content: str | None = None) -> GenerateContentConfig:
        return call_config(
            settings,
            cached_content=cached_content,
            api_version=self._connection.api_version,
            whole=self._parser is not None,
        )


class GeminiCachedStrategy(GeminiStrategy[TOutput]):
    """Calls a Gemini model on a context cache that all its items share.

    The cache is made when the first item needs it, found again by later runs while it lives, renewed in the background
    while it is in use, and left alive by `cleanup()`; `delete_cache()` deletes it. Strategies with the same model,
    content, system instruction, tools and tags share one cache. Where Google will not cache the content, items carry
    it themselves, and the log says why.

    Args:
        model: e.g. "gemini-2.5-flash".
        client: a `google.genai.Client` that you made and close.
        response_parser: makes the output of Google's answer; None: its text.
        cached_content: what every item starts with: texts, or `google.genai.types.Content`.
        cache_ttl_seconds: life of a new cache, from creation or renewal.
        cache_renewal_buffer_seconds: a cache with less life than this is renewed; less than the TTL.
        auto_renew: renew and recreate the cache while it is in use; without it an expired cache is an error.
        config: a `GenerateContentConfig` or its fields; system instruction and tools go into the cache.
        cache_tags: part of the cache's identity, to keep caches of the same content apart.
        cache_refresh_threshold: deprecated: the renewal buffer as a share of the TTL, above 0 and below 1.
        registry: where caches are remembered; None: in this process.
        provider: name under which they are.
        name: the strategy's name, for the record.
        clock: seconds since the epoch.

    Raises:
        ValueError: a value is out of its range, or settings exclude each other.
    """

    context_cache: ContextCache

    def __init__(
        self,
        model: str,
        client: Client | Connection,
        response_parser: Parser | None = None,
        cached_content: Sequence[Content | str] = (),
        cache_ttl_seconds: float = DEFAULT_TTL_SECONDS,
        cache_renewal_buffer_seconds: float = DEFAULT_RENEWAL_BUFFER_SECONDS,
        auto_renew: bool = True,
        config: Settings = None,
        cache_tags: Mapping[str, str] | None = None,
        *,
        cache_refresh_threshold: float | None = None,
        registry: CacheRegistry | None = None,
        provider: str = "gemini",
        name: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(model, client, response_parser, config)
        settings = self._settings
        if setting(settings, "cached_content"):
            raise ValueError("config: cached_content must not be set: the strategy makes the cache itself")
        check_tools(settings, cached=True)
        contents = _listed(cached_content)
        if cache_tags is not None and not _are_texts(cache_tags):
            checks.refuse("cache_tags", "be a dict of texts", cache_tags, 'e.g. {"tenant": "a"}')
        if cache_refresh_threshold is not None:
            cache_renewal_buffer_seconds = _buffer_of(cache_refresh_threshold, cache_ttl_seconds)
        canonical = canonical_contents(contents)  # refuses what is no content
        self._contents = tuple(copied(contents))
        self.context_cache = ContextCache(
            GeminiCache(self._connection, self.model, settings, self._contents, clock),
            registry if registry is not None else shared_registry(),
            provider=f"{provider}@{self._connection.digest}",
            fingerprint=fingerprint(
                provider_kind="gemini",
                model=self.model,
                contents=canonical,
                system_instruction=as_json(setting(settings, "system_instruction")) or "",
                tools=[as_json(setting(settings, name)) for name in ("tools", "tool_config")],
                tags=cache_tags,
            ),
            model=self.model,
            strategy=name or f"{type(self).__name__}({self.model})",
            policy=CachePolicy(cache_ttl_seconds, cache_renewal_buffer_seconds, auto_renew),
            pricing=self._prices,
            clock=clock,
        )
        self._cached_config: tuple[str, GenerateContentConfig] | None = None

    async def execute(
        self, prompt: str, attempt: int, timeout: float, state: dict[str, Any] | None = None
    ) -> tuple[TOutput, TokenUsage, Mapping[str, Any]]:
        """One `generateContent` on the cache; on the whole content, where Google will not cache it.

        Raises:
            CacheGoneError: the cache has expired or was deleted.
            ProviderError: see `GeminiStrategy.execute`.
        """
        record = await self.context_cache.in_use()
        if record is None:
            return await self._generate(contents_with(prompt, contents_of(self._contents)), self._config)
        if self._cached_config is None or self._cached_config[0] != record.name:
            config = self._call_config(without_cacheable(self._settings), record.name)
            self._cached_config = record.name, config
        try:
            return await self._generate(contents_with(prompt), self._cached_config[1])
        except ProviderError as error:
            if cache_is_gone(error):
                raise CacheGoneError(str(error), cache_name=record.name) from None
            raise

    def _configure(self) -> None:
        super()._configure()
        # Made for its check alone, so that nobody's item finds it wrong.
        cache_config(self._settings, contents=(), display_name="", ttl_seconds=1)

    async def delete_cache(self) -> bool:
        """Delete the cache, which costs money as long as it lives; False if there was none.

        Raises:
            ProviderError: Google refused, failed or did not answer.
        """
        return await self.context_cache.delete() is not None


def _kind(client: Any) -> str:
    return f"the class {client.__name__}" if isinstance(client, type) else type(client).__name__


def _listed(cached_content: Any) -> list[Any]:
    """What was given as contents, if it is several in an order."""
    one = isinstance(cached_content, str | bytes | Mapping | AbstractSet) or hasattr(cached_content, "model_dump")
    contents = list(cached_content) if isinstance(cached_content, Iterable) and not one else []
    if not contents:
        must = "be a list of texts or Content, not empty"
        checks.refuse("cached_content", must, cached_content, "put one into a list; GeminiStrategy does without")
    return contents


def _are_texts(tags: Any) -> bool:
    return isinstance(tags, Mapping) and all(isinstance(text, str) for pair in tags.items() for text in pair)


def _buffer_of(threshold: float, ttl_seconds: float) -> float:
    warnings.warn(
        "cache_refresh_threshold is deprecated; use cache_renewal_buffer_seconds, which says seconds",
        DeprecationWarning,
        stacklevel=3,
    )
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 < threshold < 1:
        raise ValueError(
            f"cache_refresh_threshold must be above 0 and below 1, got {threshold!r}; "
            "better give cache_renewal_buffer_seconds"
        )
    return threshold * ttl_seconds
