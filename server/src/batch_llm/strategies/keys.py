"""API keys from the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping


def key_from(*names: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """The key of the first variable that holds one, without white space around it; None if none does.

    Raises:
        ValueError: it can be no key; names the variable, never shows the key.
    """
    for name in names:
        if key := environment.get(name, "").strip():
            if not key.isascii() or not key.isprintable() or " " in key:
                raise ValueError(
                    f"the environment variable {name} holds no API key: white space or a character that is not ASCII "
                    "is in it; copy the key again"
                )
            return key
    return None
