"""`[journal]`."""

from __future__ import annotations

from pydantic import Field, field_validator

from .section import LONGEST_SECONDS, Section


class JournalSettings(Section):
    """`[journal]`: where batches are kept."""

    url: str = Field(
        "sqlite",
        description='where batches are kept: `"sqlite"`: `journal.db` in `server.state_dir`; `"sqlite:///path"`; '
        '`"postgresql://user@host/database"`: shared by several sidecars, with their registry of Gemini caches; '
        '`"memory"`: gone with the process',
    )
    retention_seconds: float = Field(
        7 * 86_400.0,
        ge=1,
        le=LONGEST_SECONDS,
        description="how long a batch that has ended, or an idempotency key, is kept; in memory at most 600",
    )
    lease_seconds: float = Field(
        30.0,
        ge=3,
        le=3600,
        description="PostgreSQL: how long after a sidecar's last sign of life others take over its batches",
    )

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        # To the letter: what is taken for a path below would be made.
        if value not in {"sqlite", "memory"} and not value.startswith(("sqlite:///", "postgresql://", "postgres://")):
            raise ValueError("must be sqlite, sqlite:///path, postgresql://… or memory")
        return value
