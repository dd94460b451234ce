"""The paths of the Gemini Developer API and of Vertex AI, and what each of them asks for."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from .errors import ApiError, invalid
from .http import Request

_PATH = re.compile(
    r"/(?P<version>v1\w*)/"
    r"(?:projects/(?P<project>[^/]+)/locations/(?P<location>[^/]+)/)?"
    r"(?:cachedContents(?:/(?P<cache>[^/:]+))?"
    r"|(?P<publisher>publishers/google/)?models/(?P<model>[^/:]+)(?::(?P<verb>\w+))?)"
)
_CACHES = {("POST", False): "create", ("GET", False): "list", ("GET", True): "get", ("PATCH", True): "update",
           ("DELETE", True): "delete"}  # fmt: skip
_MODELS = {
    ("POST", "generateContent"): "generate",
    ("POST", "streamGenerateContent"): "stream",
    ("POST", "countTokens"): "count_tokens",
    ("GET", None): "model",
}


@dataclass(frozen=True, slots=True)
class Call:
    """What a request asks for.

    Args:
        kind: see `effects.Kind`; "unknown" for what the emulator does not have.
        vertex: whether by a path of Vertex AI.
        project: of Vertex AI, or "".
        location: likewise.
        cache: id of the cache in the path, or "".
        model: of the path, or "".
    """

    kind: str
    vertex: bool = False
    project: str = ""
    location: str = ""
    cache: str = ""
    model: str = ""

    @property
    def cache_name(self) -> str:
        """The name in full of the cache in the path, or ""."""
        if not self.cache:
            return ""
        prefix = f"projects/{self.project}/locations/{self.location}/" if self.vertex else ""
        return f"{prefix}cachedContents/{self.cache}"


def read_call(method: str, path: str) -> Call:
    """What a request asks for, by its method and path."""
    found = _PATH.fullmatch(path)
    if found is None:
        return Call("unknown")
    version, project, location, cache, publisher, model, verb = found.groups()
    vertex = project is not None or publisher is not None
    kind = _MODELS.get((method, verb)) if model else _CACHES.get((method, cache is not None))
    if kind is None or (version == "v1" and not model and not vertex):  # the Developer API caches in v1beta alone
        kind = "unknown"
    return Call(kind, vertex, project or "", location or "", cache or "", model or "")


def read_credential(request: Request) -> str:
    """The key or token of a request, or ""."""
    headers = request.headers
    if key := headers.get("x-goog-api-key") or request.query.get("key"):
        return key
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else ""


def read_body(request: Request) -> dict[str, Any]:
    """The JSON object that a request has; {} for none.

    Raises:
        ApiError: it has something else.
    """
    if not request.body:
        return {}
    try:
        body = json.loads(request.body)
    except ValueError as error:
        raise invalid(f"Invalid JSON payload received. {error}") from None
    if not isinstance(body, dict):
        raise invalid("Invalid JSON payload received. Expected an object.")
    return body


def unknown(request: Request) -> ApiError:
    """404 for a path that there is not."""
    return ApiError(404, f"The emulator has no {request.method} {request.path}.")
