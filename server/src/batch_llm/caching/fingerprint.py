"""The identity of a context cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any


def fingerprint(
    *,
    provider_kind: str,
    model: str,
    contents: Sequence[Any],
    system_instruction: Any = "",
    tools: Sequence[Any] = (),
    tags: Mapping[str, str] | None = None,
) -> str:
    """SHA-256 in hex over all that makes a cache what it is; the same input gives the same cache everywhere.

    Args:
        provider_kind: so that kinds never share.
        model: the model, as its provider calls it.
        contents: what is cached: texts, or what has a JSON form.
        system_instruction: likewise.
        tools: likewise; part of the identity if there are any.
        tags: part of the identity, to keep caches of the same content apart.
    """
    identity: dict[str, Any] = {
        "provider_kind": provider_kind,
        "model": model,
        "contents": list(contents),
        "system_instruction": system_instruction,
        "tags": dict(tags or {}),
    }
    if any(tools):
        identity["tools"] = list(tools)
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
