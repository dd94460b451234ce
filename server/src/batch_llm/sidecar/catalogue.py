"""The named strategies of a sidecar."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from pydantic import ValidationError

from batch_llm.journal.store import Registration
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
        registration: what the journal keeps of it; None: the operator's file declares it.
    """

    name: str
    spec: StrategySpec
    shared: SharedStrategy
    provider_kind: str
    registration: Registration | None = None

    @property
    def from_file(self) -> bool:
        """Whether it is declared in the operator's file, not by RPC."""
        return self.registration is None

    def refuse_other(self, spec: StrategySpec) -> None:
        """Refuse to be registered with another spec.

        Raises:
            BatchLLMError: STRATEGY_EXISTS.
        """
        differs = ", ".join(
            field for field in StrategySpec.model_fields if getattr(self.spec, field) != getattr(spec, field)
        )
        if differs:
            raise BatchLLMError(
                f"strategy {self.name!r} exists with another spec ({differs}); choose another name or unregister it "
                "first",
                reason=ErrorReason.STRATEGY_EXISTS,
                metadata={"strategy": self.name, "differs": differs},
            )

    def refuse_removal(self) -> None:
        """Refuse to be unregistered where that cannot be.

        Raises:
            BatchLLMError: STRATEGY_FROM_FILE or STRATEGY_IN_USE.
        """
        if self.from_file:
            raise BatchLLMError(
                f"strategy {self.name!r} is declared in the operator's file; remove it there",
                reason=ErrorReason.STRATEGY_FROM_FILE,
                metadata={"strategy": self.name},
            )
        if self.shared.users > 1:
            raise BatchLLMError(
                f"strategy {self.name!r} is in use by {self.shared.users - 1} stream(s) or call(s); wait for them to "
                "end",
                reason=ErrorReason.STRATEGY_IN_USE,
                metadata={"strategy": self.name},
            )


class Catalogue:
    """The strategies that can be used, by name. It is itself a user of each, so they stay prepared while they are here.

    Args:
        providers: builds strategies.
    """

    def __init__(self, providers: Providers) -> None:
        self.unusable: dict[str, str] = {}
        """Registered names that cannot be used here, and why."""
        self._providers = providers
        self._entries: dict[str, Entry] = {}

    def declare(self, specs: Mapping[str, StrategySpec]) -> None:
        """Add the strategies of the operator's file.

        Raises:
            ConfigError: one cannot be made; names it.
        """
        for name, spec in specs.items():
            try:
                self.add(self.make(name, spec))
            except BatchLLMError as error:
                raise ConfigError(f"strategies.{name}.{error}") from None

    def make(self, name: str, spec: StrategySpec, registration: Registration | None = None) -> Entry:
        """A strategy that can be added.

        Raises:
            BatchLLMError: INVALID_FIELD or PROVIDER_NOT_FOUND.
        """
        try:
            shared = self._providers.build(name, spec)
        except ValueError as error:  # what the strategy alone can see
            field = _FIELD_ENDS.split(str(error), maxsplit=1)[0]
            raise BatchLLMError(str(error), reason=ErrorReason.INVALID_FIELD, metadata={"field": field}) from None
        return Entry(name, spec, shared, self._providers.kind(spec.provider), registration)

    def add(self, entry: Entry) -> Entry:
        """Add a strategy under a name that is free."""
        entry.shared.lease()
        self._entries[entry.name] = entry
        return entry

    def find(self, name: str) -> Entry | None:
        """A strategy; None if there is none."""
        return self._entries.get(name)

    def why_unusable(self, name: str) -> str:
        """For messages, after the statement that it cannot be used; empty where nothing is known."""
        problem = self.unusable.get(name)
        return f": {problem}" if problem else ""

    def get(self, name: str) -> Entry:
        """A strategy.

        Raises:
            BatchLLMError: STRATEGY_NOT_FOUND, with the known names.
        """
        entry = self._entries.get(name)
        if entry is None:
            known = ", ".join(sorted(self._entries)) or "none"
            problem = f"no strategy {name!r}; known: {known}; register it or declare it in the operator's file"
            if name in self.unusable:
                problem = (
                    f"strategy {name!r} is registered, but cannot be used here{self.why_unusable(name)}; unregister "
                    "it, or see to what it lacks"
                )
            raise BatchLLMError(
                problem,
                reason=ErrorReason.STRATEGY_NOT_FOUND,
                metadata={"strategy": name, "known": known},
            )
        return entry

    def list(self) -> list[Entry]:
        """All strategies by name."""
        return [self._entries[name] for name in sorted(self._entries)]

    def remove(self, name: str) -> Entry | None:
        """Take a strategy out, to be released by the caller; None if there is none."""
        return self._entries.pop(name, None)

    async def close(self) -> None:
        """Let go of all strategies. Caches stay."""
        entries, self._entries = self.list(), {}
        await asyncio.gather(*(release(entry) for entry in entries))


def is_name(text: str) -> bool:
    """Whether a strategy may be called so."""
    try:
        check_name(text)
    except ValueError:
        return False
    return True


def check_spec(name: str, fields: Mapping[str, object]) -> StrategySpec:
    """What a client asks to be registered.

    Raises:
        BatchLLMError: INVALID_FIELD, with the field.
    """
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


async def release(entry: Entry) -> None:
    """Let go of a strategy that was taken out; the last of its users cleans up."""
    # A failing cleanup is in the log already and must not keep others from theirs.
    with suppress(Exception):
        await entry.shared.release()
