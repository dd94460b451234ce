"""`[server]`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from .section import LONGEST_SECONDS, Section

_ADDRESS = re.compile(r"unix:/*[^/].*|.*:[0-9]{1,5}")


def _default_state_dir() -> Path:
    state_home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state_home) / "batch-llm"


def _port(address: str) -> int | None:
    """None for a socket."""
    return None if address.startswith("unix:") else int(address.rpartition(":")[2])


class ServerSettings(Section):
    """`[server]`: where it listens and what it allows."""

    listen: tuple[str, ...] = Field(
        ("127.0.0.1:50051",),
        strict=False,
        min_length=1,
        description="addresses: `unix:/path/to.sock` or `host:port` (port 0: any)",
    )
    health_listen: str | None = Field(
        None, description="one more address that serves only the health service, e.g. `0.0.0.0:50052` for probes"
    )
    state_dir: Path = Field(
        default_factory=_default_state_dir,
        strict=False,
        description="the journal, local models and context caches; created with mode 0700",
    )
    max_concurrency: int = Field(1024, ge=1, le=100_000, description="items in flight at most, for one batch")
    max_message_bytes: int = Field(
        16 * 1024 * 1024, ge=64 * 1024, le=512 * 1024 * 1024, description="largest message taken, in bytes"
    )
    drain_timeout_seconds: float = Field(
        30.0, ge=0, le=LONGEST_SECONDS, description="how long SIGTERM waits for items that are in flight"
    )
    allow_registration: bool = Field(
        True,
        description="whether applications may register strategies by RPC; `false` also leaves those in the journal "
        "unused",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="least severity that is logged")

    @field_validator("listen", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("listen", "health_listen")
    @classmethod
    def _check_addresses(cls, value: tuple[str, ...] | str | None) -> tuple[str, ...] | str | None:
        addresses = (value,) if isinstance(value, str) else value or ()
        for address in addresses:
            if not _ADDRESS.fullmatch(address) or (_port(address) or 0) > 65_535:
                raise ValueError(f"{address!r} is neither unix:/path/to.sock nor host:port with a port up to 65535")
            if addresses.count(address) > 1 and _port(address) != 0:  # 0 is another one each time
                raise ValueError(f"{address!r} comes twice; name it once")
        return value

    @field_validator("health_listen")
    @classmethod
    def _is_another(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and value in info.data.get("listen", ()) and _port(value) != 0:
            raise ValueError("is an address of `listen`, which serves health too; choose another or leave this out")
        return value
