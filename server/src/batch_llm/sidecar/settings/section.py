"""What all tables of the file have in common."""

from __future__ import annotations

from pydantic import (
    BaseModel,
    ConfigDict,
)

LONGEST_SECONDS = 10 * 365 * 86_400.0


class Section(BaseModel):
    """A table of the file: strict about kinds, and about keys that it does not know."""

    # Strict: true is no 1 and "5" no 5. TOML and JSON have no tuples and no paths, so those fields are lax, their
    # entries are not.
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, strict=True)
