"""The identity of a context cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence


def fingerprint(
    *,
    provider_kind: str,
    model: str,
    contents: Sequence[str],
    system_instruction: str = "",
    tags: Mapping[str, str] | None = None,
) -> str:
    """SHA-256 in hex over all that makes a cache what it is; the same input gives the same cache everywhere."""
    identity = {
        "provider_kind": provider_kind,
        "model": model,
        "contents": list(contents),
        "system_instruction": system_instruction,
        "tags": dict(tags or {}),
    }
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
