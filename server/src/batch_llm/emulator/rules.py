"""The rules that are in force, and the requests that wait at their gates."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .effects import Rule


class Gate:
    """Where requests wait until they are let through."""

    def __init__(self) -> None:
        self._open = asyncio.Event()

    async def wait(self) -> None:
        """Wait for the next `release`."""
        await self._open.wait()

    def release(self) -> None:
        """Let those through that wait now; those that come later wait again."""
        self._open.set()
        self._open = asyncio.Event()


@dataclass(slots=True)
class ActiveRule:
    """A rule and how often it was met.

    Args:
        number: its name.
        rule: what it says.
        matched: requests that it meant, those that it let pass too.
        gate: where those wait that it holds.
    """

    number: int
    rule: Rule
    matched: int = 0
    gate: Gate = field(default_factory=Gate)

    @property
    def acted(self) -> int:
        """Requests that it acted on."""
        return max(0, self.matched - self.rule.skip)

    def as_json(self) -> dict[str, Any]:
        """As the control API shows it."""
        return {"rule": self.number, "acted": self.acted, **self.rule.model_dump(mode="json", exclude_unset=True)}


class Rules:
    """Rules in the order in which they were added; the first that acts on a request is the only one that does."""

    def __init__(self) -> None:
        self._rules: list[ActiveRule] = []
        self._next = 1
        self.scripts_gate = Gate()  # of scripts in prompts

    def add(self, rule: Rule) -> ActiveRule:
        """Put a rule in force."""
        active = ActiveRule(self._next, rule)
        self._next += 1
        self._rules.append(active)
        return active

    def remove(self, number: int | None = None) -> int:
        """End one rule or all, let go what they hold, and say how many there were."""
        ended = [active for active in self._rules if number is None or active.number == number]
        self._rules = [active for active in self._rules if active not in ended]
        for active in ended:
            active.gate.release()
        return len(ended)

    def all(self) -> list[ActiveRule]:
        """Every rule in force."""
        return list(self._rules)

    def find(
        self, kind: str, method: str, path: str, model: str, cached: bool, body: Mapping[str, Any]
    ) -> ActiveRule | None:
        """The rule that acts on a request, if any."""
        for active in self._rules:
            rule = active.rule
            if rule.times is not None and active.acted >= rule.times:
                continue
            if rule.matches(kind, method, path, model, cached, body):
                active.matched += 1
                if active.acted:
                    return active
        return None

    def release(self) -> None:
        """Let go all that are held now."""
        self.scripts_gate.release()
        for active in self._rules:
            active.gate.release()
