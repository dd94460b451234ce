"""The context caches that the emulator holds: how they are made, listed, changed, and how they end."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .clock import Clock, read_duration
from .contents import count_contents, count_json, read_contents
from .errors import ApiError, invalid
from .settings import EmulatorSettings

_DEFAULT_TTL_SECONDS = 3600.0
_DEFAULT_PAGE_SIZE = 50
_END_OF_TIME = 253_370_000_000.0  # in 9998: what RFC 3339 can show
_LONGEST_DISPLAY_NAME = 128
_CREATE_FIELDS = {
    "name", "model", "displayName", "systemInstruction", "contents", "tools", "toolConfig", "ttl", "expireTime",
    "encryptionSpec",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scope:
    """Where caches are seen: a project of the Developer API, or a project's location on Vertex AI.

    Args:
        project: the project.
        location: Vertex AI's location; "" for the Developer API.
    """

    project: str
    location: str = ""

    @property
    def vertex(self) -> bool:
        """Whether it is Vertex AI's."""
        return bool(self.location)

    def cache_name(self, cache_id: str) -> str:
        """A cache's name in full."""
        prefix = f"projects/{self.project}/locations/{self.location}/" if self.vertex else ""
        return f"{prefix}cachedContents/{cache_id}"

    def model_name(self, model: str) -> str:
        """A model's name in full."""
        if self.vertex:
            return f"projects/{self.project}/locations/{self.location}/publishers/google/models/{model}"
        return f"models/{model}"


@dataclass(slots=True)
class Cache:
    """A context cache. Times are the emulator's, in seconds.

    Args:
        number: its place in the order of creation.
        deleted: when, if it was.
    """

    number: int
    id: str
    scope: Scope
    model: str
    display_name: str
    tokens: int
    created: float
    updated: float
    expires: float
    deleted: float | None = None

    def alive(self, now: float) -> bool:
        """Whether it can be used."""
        return self.deleted is None and now < self.expires

    def token_hours(self, now: float) -> float:
        """Storage so far: tokens times hours, until it expired or was deleted."""
        end = min(now, self.expires if self.deleted is None else min(self.deleted, self.expires))
        return self.tokens * max(0.0, end - self.created) / 3600


class Caches:
    """All caches of all projects.

    Args:
        clock: the emulator's time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._caches: dict[tuple[Scope, str], Cache] = {}
        self._numbers = itertools.count(1)

    def create(self, scope: Scope, body: Mapping[str, Any], settings: EmulatorSettings) -> Cache:
        """Make a cache from a request.

        Raises:
            ApiError: the request is no good, its content too small, or there is no room on the free tier.
        """
        refuse_unknown(body, _CREATE_FIELDS)
        model = read_model(body.get("model"), settings)
        display_name = body.get("displayName", "")
        if not isinstance(display_name, str) or len(display_name) > _LONGEST_DISPLAY_NAME:
            raise invalid(f"CachedContent.display_name must be a text of at most {_LONGEST_DISPLAY_NAME} characters.")
        now = self._clock.now()
        expires = self._expiry(body, now)
        tokens = count_contents(read_contents(body.get("contents"), "contents"))
        tokens += count_contents(read_contents(body.get("systemInstruction"), "systemInstruction"))
        tokens += count_json(body.get("tools")) + count_json(body.get("toolConfig"))
        if tokens < settings.min_cached_tokens:
            least = settings.min_cached_tokens
            raise invalid(
                f"The cached content is of {tokens} tokens. The minimum token count to start caching is {least}."
                if scope.vertex
                else f"Cached content is too small. total_token_count={tokens}, min_total_token_count={least}"
            )
        if settings.free_tier and not scope.vertex:
            raise ApiError(
                429,
                f"TotalCachedContentStorageTokensPerModelFreeTier limit exceeded for model {model}: limit=0, "
                f"requested={tokens}",
            )
        return self._put(scope, model, display_name, tokens, now, expires)

    def seed(self, scope: Scope, model: str, display_name: str, tokens: int, ttl_seconds: float) -> Cache:
        """Put a cache there, as if someone else had made it."""
        now = self._clock.now()
        return self._put(scope, model, display_name, tokens, now, now + ttl_seconds)

    def page(
        self, scope: Scope, page_size: str, page_token: str, settings: EmulatorSettings
    ) -> tuple[list[Cache], str]:
        """A page of those alive, newest first, and the token of the next page, or "".

        Raises:
            ApiError: size or token is no good.
        """
        try:
            size = int(page_size or 0)
            before = int(base64.urlsafe_b64decode(page_token)) if page_token else None
        except ValueError:
            raise invalid("pageSize must be a number, and pageToken one that a list has given.") from None
        if size < 0:
            raise invalid("pageSize must not be negative.")
        size = min(size or _DEFAULT_PAGE_SIZE, settings.max_page_size)
        now = self._clock.now()
        found = [
            cache
            for cache in reversed(self._caches.values())
            if cache.scope == scope and cache.alive(now) and (before is None or cache.number < before)
        ]
        if len(found) <= size:
            return found, ""
        return found[:size], base64.urlsafe_b64encode(str(found[size - 1].number).encode()).decode()

    def get(self, scope: Scope, cache_id: str, settings: EmulatorSettings) -> Cache:
        """A cache that is alive.

        Raises:
            ApiError: it has expired or was deleted, or never was.
        """
        cache = self._caches.get((scope, cache_id))
        if cache is not None and cache.alive(self._clock.now()):
            return cache
        raise _missing(scope, cache_id, cache is not None and cache.deleted is None, settings)

    def update(self, cache: Cache, body: Mapping[str, Any], mask: str) -> Cache:
        """Move a cache's expiry, the only thing that can be updated.

        Raises:
            ApiError: the request wants something else.
        """
        fields = {name for name in body if name != "name"} | {name for name in mask.split(",") if name}
        if not fields or fields - {"ttl", "expireTime", "expire_time"}:
            raise invalid("Only the expiration of a CachedContent can be updated: give ttl or expireTime.")
        now = self._clock.now()
        cache.expires = self._expiry(body, now)
        cache.updated = now
        return cache

    def delete(self, cache: Cache) -> None:
        """End a cache."""
        cache.deleted = self._clock.now()

    def all(self) -> list[Cache]:
        """Every cache there ever was, oldest first."""
        return list(self._caches.values())

    def as_json(self, cache: Cache) -> dict[str, Any]:
        """A cache as the API shows it: never its contents."""
        shown = {
            "name": cache.scope.cache_name(cache.id),
            "model": cache.scope.model_name(cache.model),
            "createTime": self._clock.shown(cache.created),
            "updateTime": self._clock.shown(cache.updated),
            "expireTime": self._clock.shown(cache.expires),
            "usageMetadata": {"totalTokenCount": cache.tokens},
        }
        if cache.display_name:
            shown["displayName"] = cache.display_name
        return shown

    def report(self, cache: Cache) -> dict[str, Any]:
        """A cache as the control API shows it, with its end and its storage."""
        now = self._clock.now()
        state = "DELETED" if cache.deleted is not None else "ACTIVE" if cache.alive(now) else "EXPIRED"
        return {
            **self.as_json(cache),
            "project": cache.scope.project,
            "state": state,
            "tokenHours": cache.token_hours(now),
        }

    def _put(self, scope: Scope, model: str, display_name: str, tokens: int, now: float, expires: float) -> Cache:
        number = next(self._numbers)
        # Names as the real ones look: Vertex AI's are numbers.
        cache_id = str(4_000_000_000_000_000_000 + number) if scope.vertex else f"emulated{number:012d}"
        cache = Cache(number, cache_id, scope, model, display_name, tokens, now, now, expires)
        self._caches[scope, cache_id] = cache
        return cache

    def _expiry(self, body: Mapping[str, Any], now: float) -> float:
        ttl, moment = body.get("ttl"), body.get("expireTime")
        if ttl is not None and moment is not None:
            raise invalid("Only one of ttl and expireTime can be set.")
        try:
            if moment is not None:
                expires = self._clock.read(moment)
            else:
                expires = now + (_DEFAULT_TTL_SECONDS if ttl is None else read_duration(ttl))
        except (TypeError, ValueError) as error:
            field = "expireTime" if moment is not None else "ttl"
            raise invalid(f"Invalid value at 'cached_content.{field}': {error}") from None
        if not now < expires < _END_OF_TIME:
            raise invalid("The expiration of a CachedContent must be in the future, and before the year 9999.")
        return expires


def read_model(name: Any, settings: EmulatorSettings) -> str:
    """A model's name without what stands before it.

    Raises:
        ApiError: there is no such model.
    """
    if not isinstance(name, str) or not name:
        raise invalid("* CreateCachedContentRequest.cached_content.model: model is not specified\n")
    model = name.rpartition("/")[2]
    known = model.startswith("gemini-") if settings.models is None else model in settings.models
    if not known:
        raise ApiError(
            404,
            f"models/{model} is not found for API version v1beta, or is not supported for generateContent. Call "
            "ListModels to see the list of available models and their supported methods.",
        )
    return model


def refuse_unknown(body: Mapping[str, Any], known: set[str]) -> None:
    """Refuse a field that the API does not have.

    Raises:
        ApiError: there is one.
    """
    for name in body.keys() - known:
        raise invalid(f"Invalid JSON payload received. Unknown name {json.dumps(name)}: Cannot find field.")


def _missing(scope: Scope, cache_id: str, expired: bool, settings: EmulatorSettings) -> ApiError:
    style: Literal["permission_denied", "expired", "not_found"]
    if settings.missing_cache != "auto":
        style = settings.missing_cache
    elif not scope.vertex:
        style = "permission_denied"
    else:
        style = "expired" if expired else "not_found"
    if style == "permission_denied":
        return ApiError(403, "CachedContent not found (or permission denied)")
    if style == "expired":
        return invalid(f"Cache content {cache_id} is expired.")
    return ApiError(404, f"Not found: cached content metadata for {cache_id}.")
