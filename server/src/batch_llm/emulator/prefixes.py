"""Implicit caching: what was sent before is cheaper when it is sent again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

# A prefix counts in steps of this many characters, and from the least on that Gemini 2.5 Flash has
# (https://ai.google.dev/gemini-api/docs/caching): 256 and 1,024 tokens.
_STEP = 1024
_LEAST = 4
_MOST_REMEMBERED = 200_000


class Prefixes:
    """The beginnings of prompts that were sent, for each project and model."""

    def __init__(self) -> None:
        self._seen: dict[bytes, None] = {}

    def cached_tokens(self, owner: str, texts: Iterable[str]) -> int:
        """Tokens at the beginning of a prompt that were sent before; it is remembered.

        Args:
            owner: project and model.
            texts: the prompt, in order.
        """
        prompt = "\0".join(texts)
        digest = hashlib.sha256(owner.encode())
        known, still = 0, True
        for step in range(1, len(prompt) // _STEP + 1):
            digest.update(prompt[(step - 1) * _STEP : step * _STEP].encode())
            if step < _LEAST:
                continue
            prefix = digest.digest()
            still = still and prefix in self._seen
            if still:
                known = step
            else:
                self._seen[prefix] = None
        while len(self._seen) > _MOST_REMEMBERED:
            del self._seen[next(iter(self._seen))]
        return known * _STEP // 4
