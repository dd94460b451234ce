"""How the emulator behaves: one key, one default, one description each."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class EmulatorSettings(BaseModel):
    """Switches of the emulator: flags of the command, and changed while it runs through `/emulator/settings`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    latency_ms: float = Field(0, ge=0, description="how long a generate call takes, in milliseconds")
    min_cached_tokens: int = Field(1024, ge=0, description="smallest content that can be cached, in tokens")
    free_tier: bool = Field(False, description="no room for caches, and the free tier's names of quotas")
    requests_per_minute: int | None = Field(
        None, ge=1, description="generate calls in any minute, per project and model"
    )
    tokens_per_minute: int | None = Field(None, ge=1, description="input tokens in any minute, per project and model")
    requests_per_day: int | None = Field(None, ge=1, description="generate calls in a day (UTC), per project and model")
    max_in_flight: int | None = Field(None, ge=1, description="generate calls at a time, per project and model")
    quota_errors: Literal["auto", "details", "text", "bare"] = Field(
        "auto",
        description="what a 429 says: `details` (QuotaFailure and RetryInfo), `text` (the delay in the text alone), "
        "`bare` (no delay); `auto`: details, and bare on Vertex AI's paths",
    )
    missing_cache: Literal["auto", "permission_denied", "expired", "not_found"] = Field(
        "auto",
        description="how a call with an expired or deleted cache fails: `permission_denied` (403), `expired` (400), "
        "`not_found` (404); `auto`: 403, and on Vertex AI's paths 400 when expired and 404 when deleted",
    )
    implicit_caching: bool = Field(
        False, description="count a prefix of 1,024 tokens or more that was sent before as cached"
    )
    keys: dict[str, str] | None = Field(
        None,
        description="the keys and tokens that are good, each with its project; without it all are good, each API key a "
        "project of its own, and Vertex AI's project is that of the path",
    )
    refused_keys: tuple[str, ...] = Field(("bad-key",), description="keys and tokens that are refused")
    models: tuple[str, ...] | None = Field(
        None, description="the models there are; without it every name that begins with `gemini-`"
    )
    max_page_size: int = Field(1000, ge=1, description="most caches on a page of a list")
    clock_skew_seconds: float = Field(0, description="how far ahead the times are that clients see; moves no expiry")
    clock_frozen: bool = Field(False, description="time stands still until it is advanced")
    keep_bodies: bool = Field(False, description="keep the requests' bodies in the log")
    log_size: int = Field(100_000, ge=1, description="requests that the log remembers; counts are of all")
