"""The contents of a request: read, and counted in tokens.

Four characters are a token, part by part and rounded up, so that anyone can tell a count beforehand.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .errors import invalid

# What an image costs, https://ai.google.dev/gemini-api/docs/tokens; here any file or inline data.
_MEDIA_TOKENS = 258

Content = Mapping[str, Any]


def read_contents(value: Any, field: str) -> list[Content]:
    """Contents as a list.

    Args:
        value: a content or a list of them; None for none.
        field: for the error.

    Raises:
        ApiError: it is something else.
    """
    if not value:
        return []
    contents = value if isinstance(value, list) else [value]
    for number, content in enumerate(contents):
        parts = content.get("parts") if isinstance(content, dict) else ...
        if not isinstance(parts, list | None) or not all(isinstance(part, dict) for part in parts or ()):
            raise invalid(f"Invalid value at '{field}[{number}]': expected an object with a list of parts.")
    return contents


def texts_of(contents: Iterable[Content]) -> Iterator[str]:
    """The texts of all parts, in order."""
    for content in contents:
        for part in content.get("parts") or ():
            if isinstance(text := part.get("text"), str):
                yield text


def count_contents(contents: Iterable[Content]) -> int:
    """Tokens of contents."""
    return sum(_count_part(part) for content in contents for part in content.get("parts") or ())


def count_json(value: Any) -> int:
    """Tokens of tools and the like, by the length of their JSON; 0 of nothing."""
    return count_text(json.dumps(value, ensure_ascii=False, separators=(",", ":"))) if value else 0


def count_text(text: str) -> int:
    """Tokens of a text."""
    return -(-len(text) // 4)


def _count_part(part: Mapping[str, Any]) -> int:
    if isinstance(text := part.get("text"), str):
        return count_text(text)
    if "inlineData" in part or "fileData" in part:
        return _MEDIA_TOKENS
    return count_json(part)
