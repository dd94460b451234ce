"""The google-genai package: which one is there, and clients of it that all versions understand alike."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import logging
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from batch_llm.model import ErrorReason, ProviderError
from batch_llm.strategies.keys import key_from

if TYPE_CHECKING:
    from google.auth.credentials import Credentials
    from google.genai import Client

logger = logging.getLogger("batch_llm")

KEY_VARIABLES = ("GOOGLE_API_KEY", "GEMINI_API_KEY")
"""Where the package looks for the Developer API's key, in its order."""
DEFAULT_MAX_CONNECTIONS = 1024
DEFAULT_TIMEOUT_SECONDS = 600.0
"""Longest wait for an answer where no attempt's limit is shorter; Google is told it (`X-Server-Timeout`)."""

# Caches are in these only; google-genai 3 would take v1 for the Developer API.
_API_VERSION = "v1beta"
_VERTEX_API_VERSION = "v1beta1"
_BASE_URL = "https://generativelanguage.googleapis.com"
_NO_KEY = "no-key"  # the package wants one; endpoints of others must not get Google's from the environment
_POOL_OF_OLD_VERSIONS = 100
_CHATTY_LOGGERS = ("google_genai", "httpx", "httpx2")  # they log every call at INFO


def sdk_version() -> str | None:
    """The installed version of google-genai, without importing it; None if there is none."""
    try:
        return importlib.metadata.version("google-genai")
    except importlib.metadata.PackageNotFoundError:
        return None


def require_sdk() -> None:
    """Import google-genai and quiet it. Takes one to two seconds and 70 MB the first time; call it in a thread.

    Raises:
        ProviderError: PREPARE_FAILED: it is not installed, or cannot be imported.
    """
    try:
        from google.genai import types  # noqa: F401 # what the first call needs, imported here rather than there
    except ImportError as error:
        raise ProviderError(
            f"the gemini provider is not installed ({error}); pip install 'batch-llm[gemini]'",
            reason=ErrorReason.PREPARE_FAILED,
        ) from None
    for name in _CHATTY_LOGGERS:
        chatty = logging.getLogger(name)
        if chatty.level == logging.NOTSET:  # else somebody has decided
            chatty.setLevel(logging.WARNING)


def make_client(
    *,
    api_key: str | None = None,
    project: str | None = None,
    location: str | None = None,
    credentials: Credentials | None = None,
    base_url: str | None = None,
    max_connections: int = DEFAULT_MAX_CONNECTIONS,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
) -> Client:
    """A client of the Developer API, or of Vertex AI if there is a project. Calls nobody; call it in a thread.

    The transport is always httpx, or httpx2 from google-genai 3 on, also where aiohttp is installed: the package would
    change to aiohttp by itself, which sends a request again unasked after a dropped connection. The package's retries
    are off: the engine retries. A proxy is taken from the environment as usual.

    Args:
        api_key: for the Developer API; None for `GOOGLE_API_KEY` or `GEMINI_API_KEY` from the environment, no key where
            there is a `base_url`.
        project: the project on Vertex AI; needs `location`.
        location: the region on Vertex AI, e.g. "us-central1".
        credentials: for Vertex AI; None for Application Default Credentials.
        base_url: another endpoint than Google's.
        max_connections: connections at most; before google-genai 1.11 there are 100.
        timeout_seconds: longest wait for an answer; more than 0. The engine's limit on an attempt is the usual one.

    Raises:
        ValueError: arguments that do not go together.
        ProviderError: PREPARE_FAILED: the package, the key or the credentials are missing.
    """
    vertex = project is not None
    if vertex != (location is not None):
        missing, there = ("location", "project") if vertex else ("project", "location")
        raise ValueError(f"{missing} is missing: Vertex AI needs it beside {there}")
    if vertex and api_key is not None:
        raise ValueError("api_key goes with the Developer API, project and location with Vertex AI; give one of them")
    if credentials is not None and not vertex:
        raise ValueError("credentials go with project and location of Vertex AI; the Developer API takes api_key")
    if not vertex and api_key is None:
        api_key = _key_from_environment() if base_url is None else _NO_KEY
    require_sdk()
    from google import genai
    from google.genai import types

    options: dict[str, Any] = {
        "api_version": _VERTEX_API_VERSION if vertex else _API_VERSION,
        "timeout": max(1, round(timeout_seconds * 1000)),
    }
    if base_url is not None:
        options["base_url"] = base_url
    who: dict[str, Any] = {"vertexai": vertex}  # False, too: the environment would decide
    if vertex:
        who |= {"project": project, "location": location, "credentials": credentials}
    else:
        who["api_key"] = api_key
    try:
        if "async_client_args" in types.HttpOptions.model_fields:
            google = f"https://{location}-aiplatform.googleapis.com" if vertex else _BASE_URL
            options["async_client_args"] = {"transport": _transport(base_url or google, max_connections)}
        elif max_connections > _POOL_OF_OLD_VERSIONS:
            logger.warning(
                "google-genai %s keeps to %d connections, more calls at a time wait; install 1.11 or later",
                genai.__version__,
                _POOL_OF_OLD_VERSIONS,
            )
        return genai.Client(**who, http_options=types.HttpOptions(**options))
    except Exception as error:  # google.auth's own, ImportError of a proxy's protocol
        raise ProviderError(
            f"no client for Gemini: {type(error).__name__}: {error}", reason=ErrorReason.PREPARE_FAILED
        ) from None


async def close_client(client: Client) -> None:
    """Close a client and its connections."""
    if hasattr(client.aio, "aclose"):
        await client.aio.aclose()
        client.close()
    elif (http := getattr(getattr(client, "_api_client", None), "_async_httpx_client", None)) is not None:
        await http.aclose()  # before 1.39 there is no public way


def client_key(client: Client) -> str:
    """A client's API key; "" if it has none."""
    key = getattr(getattr(client, "_api_client", None), "api_key", None)
    return key if isinstance(key, str) else ""


def client_identity(client: Client) -> str:
    """What tells one client's quota and caches from another's: endpoint, project and key, the last as a digest."""
    # There is no public way to ask; where the private one ends, each client is taken to be of its own.
    api = getattr(client, "_api_client", None)
    key = getattr(api, "api_key", None)
    project = getattr(api, "project", None)
    if not isinstance(key, str) and not isinstance(project, str):
        return f"client {id(client)}"
    endpoint = getattr(getattr(api, "_http_options", None), "base_url", None)
    digest = hashlib.sha256(str(key or "").encode()).hexdigest()
    return f"{endpoint or ''} {project or ''} {getattr(api, 'location', None) or ''} {digest}"


def cache_api_version(client: Client) -> str | None:
    """The API version to ask for in each request of a client that was made elsewhere, None if its own has caches.

    Args:
        client: as the user made it; from google-genai 3 on, one made without `api_version` calls v1.
    """
    # There is no public way to ask; where the private one ends, a client is taken to be as it should.
    options = getattr(getattr(client, "_api_client", None), "_http_options", None)
    return _API_VERSION if getattr(options, "api_version", None) == "v1" and not client.vertexai else None


def _key_from_environment() -> str:
    # Looked up here, because a client that fails half-made complains again when it is collected.
    try:
        if key := key_from(*KEY_VARIABLES):
            return key
    except ValueError as error:
        raise ProviderError(str(error), reason=ErrorReason.PREPARE_FAILED) from None
    raise ProviderError(
        f"no API key for Gemini: set {' or '.join(KEY_VARIABLES)}, or project and location for Vertex AI",
        reason=ErrorReason.PREPARE_FAILED,
    )


def _transport(url: str, max_connections: int) -> Any:
    httpx = _http_library()
    limits = httpx.Limits(max_connections=max_connections, max_keepalive_connections=max_connections)
    return httpx.AsyncHTTPTransport(limits=limits, proxy=_proxy(url))


def _http_library() -> Any:
    """The one that the package uses: a transport of the other would not fit."""
    from google import genai

    chosen = os.environ.get("GOOGLE_GENAI_HTTP_CLIENT", "").strip().lower()  # known from 3 on
    if int(genai.__version__.partition(".")[0]) >= 3 and chosen != "httpx":
        import httpx2

        return httpx2
    return importlib.import_module("httpx")


def _proxy(url: str) -> str | None:
    # By hand: httpx does not look at the environment when it is given a transport.
    parts = urlsplit(url)
    if proxy_bypass(parts.hostname or ""):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
