"""The client of one provider, which its strategies share."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from batch_llm.sync import Lock

from .sdk import cache_api_version, client_identity, client_key, close_client, make_client, require_sdk

if TYPE_CHECKING:
    from google.genai import Client


class Connection:
    """A client that is made when the first one needs it and closed when the last one has gone.

    Args:
        api_key: for the Developer API; None with `project`, or to take it from the environment.
        project: the project on Vertex AI.
        location: the region on Vertex AI.
        base_url: another endpoint than Google's.
        max_connections: connections at most.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        project: str | None = None,
        location: str | None = None,
        base_url: str | None = None,
        max_connections: int | None = None,
    ) -> None:
        self.secret = api_key or ""
        digest = hashlib.sha256(self.secret.encode()).hexdigest()
        self.identity = f"{base_url or ''} {project or ''} {location or ''} {digest}"
        self._arguments: dict[str, Any] = {
            "api_key": api_key,
            "project": project,
            "location": location,
            "base_url": base_url,
        }
        if max_connections is not None:
            self._arguments["max_connections"] = max_connections
        self._users = 0
        self._client: Client | None = None
        self._lock = Lock()

    async def acquire(self) -> Client:
        """The client; `release` it.

        Raises:
            ProviderError: PREPARE_FAILED: the package, the key or the credentials are missing.
        """
        async with self._lock:
            if self._client is None:
                # In a thread: the import takes one to two seconds, which other items need not wait for.
                self._client = await asyncio.to_thread(make_client, **self._arguments)
            self._users += 1
            return self._client

    async def release(self) -> None:
        """Let go of the client."""
        async with self._lock:
            self._users -= 1
            if self._users or self._client is None:
                return
            client, self._client = self._client, None
            await close_client(client)

    @property
    def digest(self) -> str:
        """The identity in 12 digits, for names that others may see."""
        return hashlib.sha256(self.identity.encode()).hexdigest()[:12]

    @asynccontextmanager
    async def borrowed(self) -> AsyncIterator[Client]:
        """The client, for a call."""
        client = await self.acquire()
        try:
            yield client
        finally:
            await self.release()

    @property
    def api_version(self) -> str | None:
        """The API version to ask for in each request; None: the client's own."""
        return None


class UsersConnection(Connection):
    """The client that a user made; it is the user's to close.

    Args:
        client: the client.
    """

    def __init__(self, client: Client) -> None:
        super().__init__()
        self.secret = client_key(client)
        require_sdk()  # it is imported; this quiets it
        self.identity = client_identity(client)
        self._client = client
        self._version = cache_api_version(client)

    async def acquire(self) -> Client:
        """The client."""
        if self._client is None:
            raise RuntimeError("a user's client is never closed here")
        return self._client

    async def release(self) -> None:
        """Leave it open."""

    @property
    def api_version(self) -> str | None:
        """See `Connection`."""
        return self._version
