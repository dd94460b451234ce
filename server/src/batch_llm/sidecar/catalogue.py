"""The named strategies of a sidecar."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from pydantic import ValidationError

from batch_llm.model import BatchLLMError, ErrorReason
from batch_llm.shared import SharedStrategy

from .providers import Providers
from .settings import ConfigError, StrategySpec, check_name, explain

_FIELD_ENDS = re.compile(r"[^\w.]")


@dataclass(frozen=True, slots=True)
class Entry:
    """A registered strategy.

    Args:
        name: its name.
        spec: how it was declared, defaults filled in.
        shared: the instance.
        provider_kind: the kind of its provider.
        from_file: declared in the operator's file, not by RPC.
    """

    name: str
    spec: StrategySpec
    shared: SharedStrategy
    provider_kind: str
    from_file: bool


class Catalogue:
    """All strategies by name. It is itself a user of each, so they stay prepared while they are registered.

    Args:
        providers: builds strategies.
        allow_registration: whether RPCs may register.
    """

    def __init__(self, providers: Providers, *, allow_registration: bool = True) -> None:
        self._providers = providers
        self._allow_registration = allow_registration
        self._entries: dict[str, Entry] = {}

    def declare(self, specs: Mapping[str, StrategySpec]) -> None:
        """Add the strategies of the operator's file.

        Raises:
            ConfigError: one cannot be made; names it.
        """
        for name, spec in specs.items():
            try:
                self._add(name, spec, from_file=True)
            except BatchLLMError as error:
                raise ConfigError(f"strategies.{name}.{error}") from None

    def register(self, name: str, fields: Mapping[str, object]) -> tuple[Entry, bool]:
        """Add a strategy; False if it was there with this very spec.

        Raises:
            BatchLLMError: REGISTRATION_DISABLED, INVALID_FIELD, PROVIDER_NOT_FOUND or STRATEGY_EXISTS.
        """
        if not self._allow_registration:
            raise BatchLLMError(
                "this sidecar takes no strategies by RPC; declare it in the operator's file or set "
                "server.allow_registration = true",
                reason=ErrorReason.REGISTRATION_DISABLED,
            )
        spec = _checked(name, fields)
        existing = self._entries.get(name)
        if existing is None:
            return self._add(name, spec, from_file=False), True
        if existing.spec == spec:
            return existing, False
        differs = ", ".join(
            field for field in StrategySpec.model_fields if getattr(existing.spec, field) != getattr(spec, field)
        )
        raise BatchLLMError(
            f"strategy {name!r} exists with another spec ({differs}); choose another name or unregister it first",
            reason=ErrorReason.STRATEGY_EXISTS,
            metadata={"strategy": name, "differs": differs},
        )

    def get(self, name: str) -> Entry:
        """A strategy.

        Raises:
            BatchLLMError: STRATEGY_NOT_FOUND, with the known names.
        """
        entry = self._entries.get(name)
        if entry is None:
            known = ", ".join(sorted(self._entries)) or "none"
            raise BatchLLMError(
                f"no strategy {name!r}; known: {known}; register it or declare it in the operator's file",
                reason=ErrorReason.STRATEGY_NOT_FOUND,
                metadata={"strategy": name, "known": known},
            )
        return entry

    def list(self) -> list[Entry]:
        """All strategies by name."""
        return [self._entries[name] for name in sorted(self._entries)]

    async def unregister(self, name: str) -> None:
        """Remove a strategy that an RPC registered.

        Raises:
            BatchLLMError: STRATEGY_NOT_FOUND, STRATEGY_FROM_FILE or STRATEGY_IN_USE.
        """
        entry = self.get(name)
        if entry.from_file:
            raise BatchLLMError(
                f"strategy {name!r} is declared in the operator's file; remove it there",
                reason=ErrorReason.STRATEGY_FROM_FILE,
                metadata={"strategy": name},
            )
        if entry.shared.users > 1:
            raise BatchLLMError(
                f"strategy {name!r} is in use by {entry.shared.users - 1} stream(s) or call(s); wait for them to end",
                reason=ErrorReason.STRATEGY_IN_USE,
                metadata={"strategy": name},
            )
        del self._entries[name]
        await _release(entry)

    async def close(self) -> None:
        """Let go of all strategies. Caches stay."""
        entries, self._entries = self.list(), {}
        await asyncio.gather(*(_release(entry) for entry in entries))

    def _add(self, name: str, spec: StrategySpec, *, from_file: bool) -> Entry:
        try:
            shared = self._providers.build(name, spec)
        except ValueError as error:  # what the strategy alone can see
            field = _FIELD_ENDS.split(str(error), maxsplit=1)[0]
            raise BatchLLMError(str(error), reason=ErrorReason.INVALID_FIELD, metadata={"field": field}) from None
        entry = Entry(name, spec, shared, self._providers.kind(spec.provider), from_file)
        entry.shared.lease()
        self._entries[name] = entry
        return entry


def _checked(name: str, fields: Mapping[str, object]) -> StrategySpec:
    try:
        check_name(name)
        return StrategySpec.model_validate(fields)
    except ValidationError as error:
        problems = explain(error)
        # Every line begins with its key; where several keys are at odds, with one of them.
        field = _FIELD_ENDS.split(problems, maxsplit=1)[0]
    except ValueError as error:
        problems, field = f"name: {error}", "name"
    raise BatchLLMError(problems, reason=ErrorReason.INVALID_FIELD, metadata={"field": field})


async def _release(entry: Entry) -> None:
    # A failing cleanup is in the log already and must not keep others from theirs.
    with suppress(Exception):
        await entry.shared.release()
