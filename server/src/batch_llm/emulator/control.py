"""The control API, `/emulator/...`: settings, clock, rules, caches of others, and the log."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from batch_llm._version import __version__

from .caches import Scope
from .effects import Rule, problems
from .emulator import Emulator
from .http import Request, Response, json_response
from .settings import EmulatorSettings

PREFIX = "/emulator"
_MOST_RECORDS = 1000
_FILTERS = ("kind", "api", "method", "model", "cached_content", "display_name", "key", "status")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _ClockMove(_Strict):
    advance_seconds: float = Field(ge=0, le=10**9)


class _Seed(_Strict):
    """Caches to put there."""

    model: str = Field(min_length=1)
    key: str | None = None
    project: str | None = None
    location: str = ""
    display_name: str = ""
    tokens: int = Field(4096, ge=0)
    ttl_seconds: float = Field(3600, gt=0)
    count: int = Field(1, ge=1, le=100_000)


class ControlError(Exception):
    """A request to the control API that cannot be done."""

    def __init__(self, message: str, status: int = 400) -> None:
        self.status = status
        super().__init__(message)


class Control:
    """Answers `/emulator/...`, and hands everything else to the emulator.

    Args:
        settings: of the emulator, at first and after each reset.
    """

    def __init__(self, settings: EmulatorSettings) -> None:
        self._initial = settings
        self._emulator = Emulator(settings)
        self._routes: Mapping[tuple[str, str], Callable[[Request], Any]] = {
            ("GET", ""): self._summary,
            ("GET", "/settings"): lambda _: self._emulator.settings.model_dump(mode="json"),
            ("PATCH", "/settings"): self._configure,
            ("POST", "/clock"): self._advance,
            ("GET", "/clock"): lambda _: self._clock(),
            ("GET", "/rules"): lambda _: {"rules": [rule.as_json() for rule in self._emulator.rules.all()]},
            ("POST", "/rules"): self._add_rule,
            ("DELETE", "/rules"): self._remove_rules,
            ("POST", "/release"): self._release,
            ("GET", "/requests"): self._requests,
            ("GET", "/counts"): lambda _: {"counts": self._emulator.log.counts()},
            ("GET", "/wait"): self._wait,
            ("GET", "/caches"): self._caches,
            ("POST", "/caches"): self._seed,
            ("DELETE", "/caches"): self._forget,
            ("POST", "/reset"): self._reset,
        }

    async def handle(self, request: Request) -> Response:
        """Answer a request."""
        if request.path != PREFIX and not request.path.startswith(f"{PREFIX}/"):
            return await self._emulator.handle(request)
        try:
            answer = self._route(request)(request)
            if isinstance(answer, Awaitable):
                answer = await answer
        except ValidationError as error:
            return json_response({"error": problems(error)}, 400)
        except ControlError as error:
            return json_response({"error": str(error)}, error.status)
        return json_response(answer)

    def _route(self, request: Request) -> Callable[[Request], Any]:
        route = self._routes.get((request.method, request.path.removeprefix(PREFIX).rstrip("/")))
        if route is None:
            known = ", ".join(f"{method} {PREFIX}{path}" for method, path in self._routes)
            raise ControlError(f"there is no {request.method} {request.path}; there are: {known}", 404)
        return route

    def _summary(self, _: Request) -> dict[str, Any]:
        return {
            "version": __version__,
            "clock": self._clock(),
            "counts": self._emulator.log.counts(),
            "routes": [f"{method} {PREFIX}{path}" for method, path in self._routes],
        }

    def _clock(self) -> dict[str, Any]:
        clock = self._emulator.clock
        return {"now": clock.now(), "shown": clock.shown(clock.now())}

    def _configure(self, request: Request) -> dict[str, Any]:
        changes = _read(request)
        if "log_size" in changes:
            raise ControlError("log_size can only be given when the emulator starts")
        settings = EmulatorSettings.model_validate({**self._emulator.settings.model_dump(), **changes})
        self._emulator.configure(settings)
        return settings.model_dump(mode="json")

    def _advance(self, request: Request) -> dict[str, Any]:
        self._emulator.clock.advance(_ClockMove.model_validate(_read(request)).advance_seconds)
        return self._clock()

    def _add_rule(self, request: Request) -> dict[str, Any]:
        return self._emulator.rules.add(Rule.model_validate(_read(request))).as_json()

    def _remove_rules(self, request: Request) -> dict[str, Any]:
        number = request.query.get("rule")
        return {"removed": self._emulator.rules.remove(None if number is None else _number(request, "rule", 0))}

    def _release(self, _: Request) -> dict[str, Any]:
        self._emulator.rules.release()
        return {}

    def _requests(self, request: Request) -> dict[str, Any]:
        query = request.query
        limit = _number(request, "limit", _MOST_RECORDS)
        for name in query.keys() - {*_FILTERS, "limit", "after"}:
            raise ControlError(f"{name}: unknown; there are: {', '.join(_FILTERS)}, after, limit")
        after = _number(request, "after", 0)
        wanted = {name: query[name] for name in _FILTERS if name in query}
        found = [
            record
            for record in self._emulator.log.records()
            if record.number > after and all(_shown(getattr(record, name)) == value for name, value in wanted.items())
        ]
        return {"count": len(found), "requests": [record.as_json() for record in found[:limit]]}

    async def _wait(self, request: Request) -> dict[str, Any]:
        kind = request.query.get("kind")
        count = _number(request, "count", 1)
        if not await self._emulator.log.wait(kind, count, _number(request, "timeout", 10)):
            arrived = self._emulator.log.count(kind)
            raise ControlError(f"{arrived} of {count} requests of kind {kind or 'any'} came in time", 408)
        return {"count": self._emulator.log.count(kind)}

    def _caches(self, _: Request) -> dict[str, Any]:
        caches = self._emulator.caches
        return {"caches": [caches.report(cache) for cache in caches.all()]}

    def _seed(self, request: Request) -> dict[str, Any]:
        seed = _Seed.model_validate(_read(request))
        match seed.key, seed.project:
            case str(key), None:
                project = self._emulator.project_of(key)
            case None, str(project):
                pass
            case _:
                raise ControlError("give either key, whose project it is, or project")
        caches, scope = self._emulator.caches, Scope(project, seed.location)
        made = [
            caches.seed(scope, seed.model, seed.display_name, seed.tokens, seed.ttl_seconds) for _ in range(seed.count)
        ]
        return {"names": [scope.cache_name(cache.id) for cache in made]}

    def _forget(self, request: Request) -> dict[str, Any]:
        name = request.query.get("name")
        caches, now = self._emulator.caches, self._emulator.clock.now()
        found = [
            cache
            for cache in caches.all()
            if cache.alive(now) and (name is None or cache.scope.cache_name(cache.id) == name)
        ]
        if name is not None and not found:
            raise ControlError(f"name: there is no cache {name} that is alive", 404)
        for cache in found:
            caches.delete(cache)
        return {"deleted": len(found)}

    def _reset(self, _: Request) -> dict[str, Any]:
        # What is under way ends in the old one, so that nothing of it shows in the new one.
        old, self._emulator = self._emulator, Emulator(self._initial)
        old.rules.release()
        return {}


def _shown(value: Any) -> str:
    return "" if value is None else str(value)


def _number(request: Request, name: str, default: int) -> int:
    text = request.query.get(name, str(default))
    if not text.isdecimal():
        raise ControlError(f"{name}: {text!r} is no number")
    return int(text)


def _read(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(request.body or b"{}")
    except ValueError as error:
        raise ControlError(f"the body is no JSON: {error}") from None
    if not isinstance(body, dict):
        raise ControlError("the body must be a JSON object")
    return body
