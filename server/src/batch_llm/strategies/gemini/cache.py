"""Gemini's side of a context cache: `cachedContents`, asked for through google-genai."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from batch_llm.caching import CacheBackend, CacheRecord, CacheRefusedError, CacheState, CreatedCache
from batch_llm.model import CacheGoneError

from .connection import Connection
from .errors import as_provider_error, cache_is_gone, cache_too_small, cache_unavailable
from .requests import bare, cache_call, cache_config, contents_of, ttl_text

if TYPE_CHECKING:
    from google.genai.types import CachedContent

    from .requests import Settings

PAGE_SIZE = 1000


class GeminiCache(CacheBackend):
    """Creates, renews, finds and deletes one content's cache.

    Times that Google gives are by its clock; they are told by this machine's, from how long they are ahead of the
    moment at which Google wrote them.

    Args:
        connection: the client.
        model: the model, without "models/".
        settings: what goes into the cache of them are the system instruction and tools.
        contents: what is cached, see `contents_of`.
        clock: seconds since the epoch.
    """

    cache_label = "Gemini cache"

    def __init__(
        self,
        connection: Connection,
        model: str,
        settings: Settings,
        contents: Sequence[Any],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._connection = connection
        self._model = model
        self._settings = settings
        self._contents = contents
        self._clock = clock

    async def create_cache(self, fingerprint: str, ttl_seconds: float) -> CreatedCache:
        """See `CacheBackend`."""
        async with self._connection.borrowed() as client:
            config = cache_config(
                self._settings,
                contents=contents_of(self._contents),
                display_name=fingerprint,
                ttl_seconds=ttl_seconds,
                api_version=self._connection.api_version,
            )
            with self._translated():
                created = await client.aio.caches.create(model=self._model, config=config)
        return self._as_created(created, ttl_seconds=ttl_seconds)

    async def renew_cache(self, record: CacheRecord, ttl_seconds: float) -> float:
        """See `CacheBackend`."""
        async with self._connection.borrowed() as client:
            config: Any = cache_call(self._connection.api_version, ttl=ttl_text(ttl_seconds))
            with self._translated(record.name):
                updated = await client.aio.caches.update(name=record.name, config=config)
        return self._as_created(updated, ttl_seconds=ttl_seconds).expire_time

    async def drop_cache(self, record: CacheRecord) -> None:
        """See `CacheBackend`. An expired one is gone without a call."""
        if record.expire_time <= self._clock():
            return
        async with self._connection.borrowed() as client:
            config: Any = cache_call(self._connection.api_version)
            with suppress(CacheGoneError), self._translated(record.name):
                await client.aio.caches.delete(name=record.name, config=config)

    async def find_caches(self, fingerprint: str) -> list[CreatedCache]:
        """See `CacheBackend`: exactly this fingerprint and model, over all pages."""
        async with self._connection.borrowed() as client:
            config: Any = cache_call(self._connection.api_version, page_size=PAGE_SIZE)
            with self._translated():
                pages = await client.aio.caches.list(config=config)
                ahead = self._ahead(pages)
                found = [
                    self._as_created(cache, ahead=ahead)
                    async for cache in pages
                    if cache.display_name == fingerprint and bare(cache.model or "") == self._model
                ]
        return sorted(found, key=lambda cache: cache.expire_time, reverse=True)

    def _as_created(
        self, cache: CachedContent, *, ttl_seconds: float | None = None, ahead: float | None = None
    ) -> CreatedCache:
        """What Google said of a cache, by our clock.

        Args:
            cache: as it was read.
            ttl_seconds: what was asked for, if it has just been asked for.
            ahead: seconds by which Google's clock is ahead of ours; None: it wrote `update_time` just now.
        """
        now = self._clock()
        if ahead is None:
            ahead = _seconds(cache.update_time, now) - now
        usage = cache.usage_metadata
        return CreatedCache(
            name=cache.name or "",
            total_token_count=(usage.total_token_count if usage is not None else None) or 0,
            expire_time=_seconds(cache.expire_time, now + (ttl_seconds or 0.0) + ahead) - ahead,
            create_time=_seconds(cache.create_time, now + ahead) - ahead,
        )

    def _ahead(self, pages: Any) -> float:
        """Seconds by which Google's clock is ahead of ours, by the date of an answer; 0 where that is not known."""
        headers = getattr(getattr(pages, "sdk_http_response", None), "headers", None) or {}
        date = next((value for name, value in headers.items() if name.lower() == "date"), None)
        try:
            return parsedate_to_datetime(date).timestamp() - self._clock() if date else 0.0
        except ValueError:
            return 0.0

    @contextmanager
    def _translated(self, name: str = "") -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if name and cache_is_gone(error):
                raise CacheGoneError(_message(error), cache_name=name) from None
            if sizes := cache_too_small(error):
                raise CacheRefusedError(
                    f"the content has {sizes[0]} tokens and {self._model} caches {sizes[1]} or more; items carry it "
                    "themselves, at full price: give it more content, or take cached_content away",
                    CacheState.UNCACHED_TOO_SMALL,
                ) from None
            if cache_unavailable(error):
                raise CacheRefusedError(
                    "this key has no storage for context caches (Gemini's free tier); items carry the content "
                    f"themselves: use a paid key, or take cached_content away. Google says: {_message(error)}",
                    CacheState.UNCACHED_UNAVAILABLE,
                ) from None
            found = as_provider_error(error, self._connection.secret)
            if found is None or found is error:
                raise
            raise found from None


def _message(error: BaseException) -> str:
    return str(getattr(error, "message", None) or error)


def _seconds(moment: datetime | None, default: float) -> float:
    return moment.timestamp() if moment is not None else default
