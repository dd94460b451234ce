"""`CacheLifecycleService`: the door to strategies' context caches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration

from batch_llm.caching import (
    DEFAULT_RENEWAL_BUFFER_SECONDS,
    CacheRecord,
    CacheRefusedError,
    CacheState,
    ContextCache,
    cache_state,
)
from batch_llm.model import BatchLLMError, ErrorReason
from batchllm.v1 import cache_lifecycle_service_pb2 as pb
from batchllm.v1 import cache_lifecycle_service_pb2_grpc

from . import mapping
from .catalogue import Catalogue, Entry
from .registrations import Registrations
from .settings import LONGEST_SECONDS
from .status import abort

T = TypeVar("T")


class CacheServicer(cache_lifecycle_service_pb2_grpc.CacheLifecycleServiceServicer):
    """Serves `CacheLifecycleService`.

    Args:
        catalogue: the strategies that are known here.
        registrations: finds those that are not.
        list_records: gives the caches that are remembered.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        registrations: Registrations,
        list_records: Callable[[], Awaitable[Sequence[CacheRecord]]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._catalogue = catalogue
        self._registrations = registrations
        self._list_records = list_records
        self._clock = clock

    async def CreateOrReuse(self, request: pb.CreateOrReuseRequest, context: Any) -> pb.CreateOrReuseResponse:
        """See cache_lifecycle_service.proto."""

        async def call(cache: ContextCache) -> pb.CreateOrReuseResponse:
            try:
                record, reused = await cache.create_or_reuse(_ttl(request))
            except CacheRefusedError as refused:
                return pb.CreateOrReuseResponse(cache=mapping.uncached_message(cache, refused))
            return pb.CreateOrReuseResponse(cache=_message(request.strategy, cache, record), reused=reused)

        return await self._on_cache(request.strategy, context, call, prepare=True)

    async def Renew(self, request: pb.RenewRequest, context: Any) -> pb.RenewResponse:
        """See cache_lifecycle_service.proto."""

        async def call(cache: ContextCache) -> pb.RenewResponse:
            record, recreated = await cache.renew(_ttl(request))
            return pb.RenewResponse(cache=_message(request.strategy, cache, record), recreated=recreated)

        return await self._on_cache(request.strategy, context, call, prepare=True)

    async def Delete(self, request: pb.DeleteRequest, context: Any) -> pb.DeleteResponse:
        """See cache_lifecycle_service.proto."""

        async def call(cache: ContextCache) -> pb.DeleteResponse:
            record = await cache.delete()
            if record is None:
                return pb.DeleteResponse()
            gone = mapping.cache_message(record, request.strategy, CacheState.DELETED)
            return pb.DeleteResponse(deleted=True, cache=gone)

        return await self._on_cache(request.strategy, context, call)

    async def GetCache(self, request: pb.GetCacheRequest, context: Any) -> pb.GetCacheResponse:
        """See cache_lifecycle_service.proto."""

        async def call(cache: ContextCache) -> pb.GetCacheResponse:
            if cache.refused is not None:
                return pb.GetCacheResponse(cache=mapping.uncached_message(cache, cache.refused))
            record = await cache.look()
            if record is None:
                raise BatchLLMError(
                    f"strategy {request.strategy!r} has no context cache at present; call CreateOrReuse",
                    reason=ErrorReason.CACHE_NOT_FOUND,
                )
            return pb.GetCacheResponse(cache=_message(request.strategy, cache, record))

        return await self._on_cache(request.strategy, context, call)

    async def ListCaches(self, request: pb.ListCachesRequest, context: Any) -> pb.ListCachesResponse:
        """See cache_lifecycle_service.proto."""
        try:
            records = await self._list_records()
        except Exception as error:
            await abort(context, error)
        now = self._clock()
        entries = self._catalogue.list()
        buffers = {entry.name: entry.spec.cache_renewal_buffer_seconds for entry in entries}
        caches = [
            mapping.cache_message(
                record,
                record.strategy,
                cache_state(record, now, buffers.get(record.strategy, DEFAULT_RENEWAL_BUFFER_SECONDS)),
            )
            for record in records
        ]
        for cache in (entry.shared.strategy.context_cache for entry in entries):
            if cache is not None and cache.refused is not None:
                caches.append(mapping.uncached_message(cache, cache.refused))
        return pb.ListCachesResponse(caches=caches)

    async def _on_cache(
        self, strategy: str, context: Any, call: Callable[[ContextCache], Awaitable[T]], *, prepare: bool = False
    ) -> T:
        """Call with the strategy's cache; its errors end the RPC."""
        try:
            entry = await self._registrations.find(strategy)
            made_when_prepared = entry.provider_kind == "python"
            if not made_when_prepared:
                _cache(entry)
            entry.shared.lease()
            try:
                if prepare or made_when_prepared:
                    await entry.shared.prepare()
                return await call(_cache(entry))
            finally:
                await entry.shared.release()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            await abort(context, error)


def _cache(entry: Entry) -> ContextCache:
    cache = entry.shared.strategy.context_cache
    if cache is None:
        raise BatchLLMError(
            f"strategy {entry.name!r} has no cached content, so it has no context cache; give it cached_content",
            reason=ErrorReason.CACHE_NOT_CONFIGURED,
            metadata={"strategy": entry.name},
        )
    return cache


def _ttl(request: pb.CreateOrReuseRequest | pb.RenewRequest) -> float | None:
    if not request.HasField("ttl"):
        return None
    ttl: Duration = request.ttl
    if not 1 <= mapping.seconds(ttl) <= LONGEST_SECONDS:
        raise BatchLLMError(
            f"ttl must be at least 1 s and at most {LONGEST_SECONDS:g} s, got {mapping.seconds(ttl):g} s; "
            "leave it out for the strategy's own",
            reason=ErrorReason.INVALID_FIELD,
            metadata={"field": "ttl"},
        )
    return mapping.seconds(ttl)


def _message(strategy: str, cache: ContextCache, record: CacheRecord) -> pb.Cache:
    return mapping.cache_message(record, strategy, cache.state_of(record))
