"""The table of all settings, from the one place that defines them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from .settings import (
    CooldownSettings,
    GeminiProvider,
    GenerationSettings,
    JournalSettings,
    LocalProvider,
    OpenAIProvider,
    PythonProvider,
    RetrySettings,
    ServerSettings,
    SimulatedProvider,
    StrategySpec,
)

_SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("[server]", ServerSettings),
    ("[journal]", JournalSettings),
    ('[providers.NAME] with kind = "simulated"', SimulatedProvider),
    ('[providers.NAME] with kind = "local"', LocalProvider),
    ('[providers.NAME] with kind = "gemini"', GeminiProvider),
    ('[providers.NAME] with kind = "openai"', OpenAIProvider),
    ('[providers.NAME] with kind = "python"', PythonProvider),
    ("[providers.NAME.rate_limit]", CooldownSettings),
    ("[strategies.NAME]", StrategySpec),
    ("[strategies.NAME.retry]", RetrySettings),
    ("[strategies.NAME.generation]", GenerationSettings),
)
_CONTENT_FILES = ("cached_content_files", "`[]`", "files whose text follows `cached_content`; relative to this file")


def settings_table() -> str:
    """Every key with its default and what it does, in Markdown."""
    lines = []
    for title, section in _SECTIONS:
        lines += [f"## {title}", "", "| key | default | what it does |", "| --- | --- | --- |"]
        lines += [f"| `{key}` | {default} | {description} |" for key, default, description in _rows(section)]
        lines.append("")
    return "\n".join(lines)


def _rows(section: type[BaseModel]) -> Iterator[tuple[str, str, str]]:
    for key, field in section.model_fields.items():
        if key == "kind" or (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            continue  # named in the title, or a table of its own
        yield key, _default(key, field), field.description or ""
        if key == "cached_content":
            yield _CONTENT_FILES


def _default(key: str, field: FieldInfo) -> str:
    if key == "state_dir":
        return "`~/.local/state/batch-llm`, or under `$XDG_STATE_HOME`"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return "required"
    return "none" if value is None else f"`{_toml(value)}`"


def _toml(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str() | Path():
            return f'"{value}"'
        case tuple():
            return f"[{', '.join(_toml(part) for part in value)}]"
        case dict():
            return "{}"
        case _:
            return f"{value:g}" if isinstance(value, float) else str(value)
