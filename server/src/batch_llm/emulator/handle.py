"""Handles on a running emulator: they speak to its control API over HTTP, whatever process it is in."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit


class EmulatorError(Exception):
    """The emulator could not do what it was asked, and says why."""


class GeminiEmulator:
    """A running emulator, from a thread that may wait. Each call is one short HTTP request.

    Args:
        url: as the command prints it; for the SDK's `base_url` too.
        timeout: seconds for a call to be answered.
    """

    def __init__(self, url: str, timeout: float = 30.0) -> None:
        self.url = url.rstrip("/")
        self._timeout = timeout

    def requests(self, kind: str | None = None, **filters: Any) -> list[dict[str, Any]]:
        """The newest requests that came, oldest first; see `log.Record` for the fields.

        Args:
            kind: create, list, get, update, delete, generate, stream, count_tokens or model; None for all.
            filters: fields and the values that they must have, e.g. `status=429`.
        """
        query = {"kind": kind, "limit": 10**9, **filters}
        found: list[dict[str, Any]] = self._call("GET", "/requests", query=query)["requests"]
        return found

    def count(self, kind: str | None = None, **filters: Any) -> int:
        """How many requests came; those that are being answered count too."""
        if filters:
            return int(self._call("GET", "/requests", query={"kind": kind, "limit": 0, **filters})["count"])
        counts: dict[str, int] = self._call("GET", "/counts")["counts"]
        return sum(counts.values()) if kind is None else counts.get(kind, 0)

    def wait_for(self, kind: str | None = None, count: int = 1, timeout: int = 10) -> int:
        """Wait until so many requests have come; how many there are.

        Raises:
            EmulatorError: fewer came within the seconds of `timeout`.
        """
        query = {"kind": kind, "count": count, "timeout": timeout}
        return int(self._call("GET", "/wait", query=query, timeout=timeout + self._timeout)["count"])

    def fail(self, status: int | None = None, **rule: Any) -> int:
        """Make requests go wrong; the rule's number.

        Args:
            status: HTTP status to answer with.
            rule: the fields of `effects.Rule`: which requests (`kind`, `model`, `contains`, `cached`, `method`,
                `path`), how many (`times`, 1 by default and None for all, after `skip`), and what (`quota`, `drop`,
                `body`, `latency_ms`, `message`, `retry_after_seconds`, …).
        """
        return int(self._call("POST", "/rules", {**({} if status is None else {"status": status}), **rule})["rule"])

    def answer(self, script: Mapping[str, Any], *, times: int | None = None, **rule: Any) -> int:
        """Make the model answer as a script says; the rule's number.

        Args:
            script: the fields of `effects.Script`.
            times: how often; None for always.
            rule: which requests, as for `fail`.
        """
        return int(self._call("POST", "/rules", {"script": script, "times": times, **rule})["rule"])

    def hold(self, **rule: Any) -> int:
        """Let requests wait for `release`, as many as `times` says (None, the default: all); the rule's number."""
        return int(self._call("POST", "/rules", {"hold": True, "times": None, **rule})["rule"])

    def release(self, rule: int | None = None) -> None:
        """Let those go on that are held; with a rule's number, that rule ends first."""
        if rule is None:
            self._call("POST", "/release")
        else:
            self.remove(rule)

    def rules(self) -> list[dict[str, Any]]:
        """The rules in force, and how often each acted."""
        rules: list[dict[str, Any]] = self._call("GET", "/rules")["rules"]
        return rules

    def remove(self, rule: int | None = None) -> None:
        """End a rule, or all."""
        self._call("DELETE", "/rules", query={"rule": rule})

    def configure(self, **settings: Any) -> dict[str, Any]:
        """Change settings; all of them as they are then."""
        return self._call("PATCH", "/settings", settings)

    def advance(self, seconds: float) -> float:
        """Move the emulator's clock on; its time then, in seconds since the epoch."""
        return float(self._call("POST", "/clock", {"advance_seconds": seconds})["now"])

    def now(self) -> float:
        """The emulator's time, in seconds since the epoch, without the skew."""
        return float(self._call("GET", "/clock")["now"])

    def seed(self, model: str, **seed: Any) -> list[str]:
        """Put caches there that someone else made; their names.

        Args:
            model: of the caches.
            seed: `key` or `project` (with `location` for Vertex AI), `display_name`, `tokens`, `ttl_seconds`, `count`.
        """
        names: list[str] = self._call("POST", "/caches", {"model": model, **seed})["names"]
        return names

    def caches(self, state: str | None = None) -> list[dict[str, Any]]:
        """Every cache there ever was, with `state` (ACTIVE, EXPIRED, DELETED) and `tokenHours` of storage."""
        caches: list[dict[str, Any]] = self._call("GET", "/caches")["caches"]
        return [cache for cache in caches if state is None or cache["state"] == state]

    def forget(self, name: str | None = None) -> int:
        """Delete a cache, or all, behind its users' backs and beside the log; how many."""
        return int(self._call("DELETE", "/caches", query={"name": name})["deleted"])

    def reset(self) -> None:
        """Back to the start: settings, clock, rules, caches, log."""
        self._call("POST", "/reset")

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        given = {name: value for name, value in (query or {}).items() if value is not None}
        target = f"/emulator{path}" + (f"?{urlencode(given)}" if given else "")
        # Not urllib's opener: a proxy in the environment is not asked for what is on this machine.
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=timeout or self._timeout)
        try:
            connection.request(method, target, None if body is None else json.dumps(body))
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise EmulatorError(f"{method} /emulator{path}: {answer.get('error', answer)}")
        return answer


class AsyncGeminiEmulator:
    """The same for coroutines; the calls wait in a thread.

    Args:
        url: as the command prints it; for the SDK's `base_url` too.
        timeout: seconds for a call to be answered.
    """

    def __init__(self, url: str, timeout: float = 30.0) -> None:
        self._sync = GeminiEmulator(url, timeout)
        self.url = self._sync.url

    async def requests(self, kind: str | None = None, **filters: Any) -> list[dict[str, Any]]:
        """See `GeminiEmulator.requests`."""
        return await asyncio.to_thread(self._sync.requests, kind, **filters)

    async def count(self, kind: str | None = None, **filters: Any) -> int:
        """See `GeminiEmulator.count`."""
        return await asyncio.to_thread(self._sync.count, kind, **filters)

    async def wait_for(self, kind: str | None = None, count: int = 1, timeout: int = 10) -> int:
        """See `GeminiEmulator.wait_for`."""
        return await asyncio.to_thread(self._sync.wait_for, kind, count, timeout)

    async def fail(self, status: int | None = None, **rule: Any) -> int:
        """See `GeminiEmulator.fail`."""
        return await asyncio.to_thread(self._sync.fail, status, **rule)

    async def answer(self, script: Mapping[str, Any], *, times: int | None = None, **rule: Any) -> int:
        """See `GeminiEmulator.answer`."""
        return await asyncio.to_thread(self._sync.answer, script, times=times, **rule)

    async def hold(self, **rule: Any) -> int:
        """See `GeminiEmulator.hold`."""
        return await asyncio.to_thread(self._sync.hold, **rule)

    async def release(self, rule: int | None = None) -> None:
        """See `GeminiEmulator.release`."""
        await asyncio.to_thread(self._sync.release, rule)

    async def rules(self) -> list[dict[str, Any]]:
        """See `GeminiEmulator.rules`."""
        return await asyncio.to_thread(self._sync.rules)

    async def remove(self, rule: int | None = None) -> None:
        """See `GeminiEmulator.remove`."""
        await asyncio.to_thread(self._sync.remove, rule)

    async def configure(self, **settings: Any) -> dict[str, Any]:
        """See `GeminiEmulator.configure`."""
        return await asyncio.to_thread(self._sync.configure, **settings)

    async def advance(self, seconds: float) -> float:
        """See `GeminiEmulator.advance`."""
        return await asyncio.to_thread(self._sync.advance, seconds)

    async def now(self) -> float:
        """See `GeminiEmulator.now`."""
        return await asyncio.to_thread(self._sync.now)

    async def seed(self, model: str, **seed: Any) -> list[str]:
        """See `GeminiEmulator.seed`."""
        return await asyncio.to_thread(self._sync.seed, model, **seed)

    async def caches(self, state: str | None = None) -> list[dict[str, Any]]:
        """See `GeminiEmulator.caches`."""
        return await asyncio.to_thread(self._sync.caches, state)

    async def forget(self, name: str | None = None) -> int:
        """See `GeminiEmulator.forget`."""
        return await asyncio.to_thread(self._sync.forget, name)

    async def reset(self) -> None:
        """See `GeminiEmulator.reset`."""
        await asyncio.to_thread(self._sync.reset)
