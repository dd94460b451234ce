"""The emulator: its state, and the way of a request through it."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Any

from . import errors
from .answers import Prompt, as_stream, compose
from .api import Call, read_body, read_call, read_credential, unknown
from .caches import Cache, Caches, Scope, read_model, refuse_unknown
from .clock import Clock
from .contents import count_contents, count_json, read_contents, texts_of
from .effects import ECHO, Effect, Script, parse_script
from .errors import ApiError, invalid
from .http import Request, Response, json_response
from .log import Record, RequestLog, key_hash
from .prefixes import Prefixes
from .quotas import Quotas
from .rules import Gate, Rules
from .settings import EmulatorSettings

_CONFLICTS = ("systemInstruction", "tools", "toolConfig")
_GENERATE_FIELDS = {
    "model", "contents", "tools", "toolConfig", "safetySettings", "systemInstruction", "generationConfig",
    "cachedContent", "labels", "serviceTier", "store", "modelArmorConfig",
}  # fmt: skip


class Emulator:
    """Answers requests to the API, and keeps what they leave behind.

    Args:
        settings: how it behaves at first.
    """

    def __init__(self, settings: EmulatorSettings) -> None:
        self.settings = settings
        self.clock = Clock(settings.clock_skew_seconds, settings.clock_frozen)
        self.rules = Rules()
        self.caches = Caches(self.clock)
        self.quotas = Quotas(self.clock)
        self.log = RequestLog(settings.log_size)
        self._prefixes = Prefixes()
        self._script_calls: Counter[tuple[str, str]] = Counter()
        self._response_ids = itertools.count(1)

    def configure(self, settings: EmulatorSettings) -> None:
        """Behave differently from now on."""
        self.settings = settings
        self.clock.skew_seconds = settings.clock_skew_seconds
        self.clock.freeze(settings.clock_frozen)

    async def handle(self, request: Request) -> Response:
        """Answer a request to the API."""
        call = read_call(request.method, request.path)
        api = "vertex" if call.vertex else "developer"
        record = self.log.begin(self.clock.now(), api, call.kind, request.method, request.path)
        if self.settings.keep_bodies:
            record.body = request.body.decode(errors="replace")
        try:
            response = await self._serve(request, call, record)
        except ApiError as error:
            response = error.response()
        except asyncio.CancelledError:
            record.status = 499
            raise
        except Exception:
            record.status = 500
            raise
        record.status = response.status if response.drop is None else 0
        response.date = self.clock.now() + self.settings.clock_skew_seconds
        return response

    async def _serve(self, request: Request, call: Call, record: Record) -> Response:
        credential = read_credential(request)
        record.key = key_hash(credential)
        body = read_body(request)
        named = body.get("cachedContent") or call.cache_name
        record.model = call.model or str(body.get("model") or "").rpartition("/")[2]
        record.cached_content = str(named)
        record.display_name = str(body.get("displayName") or "")
        cached = bool(body.get("cachedContent"))
        active = self.rules.find(call.kind, request.method, request.path, record.model, cached, body)
        if active is None:
            return await self._dispatch(request, call, record, credential, body)
        rule, record.rule = active.rule, True
        number = active.acted
        if (instead := await self._affect(rule, record.model, active.gate)) is not None:
            return instead
        said = None if rule.script is None else (rule.script, number)
        try:
            response = await self._dispatch(request, call, record, credential, body, said)
        except ApiError as error:
            response = error.response()
        return _with_effect(response, rule)

    async def _affect(self, effect: Effect, model: str, gate: Gate) -> Response | None:
        """Do what an effect says; the answer that it gives instead of the plain one, if any."""
        if effect.latency_ms:
            await asyncio.sleep(effect.latency_ms / 1000)
        if effect.hold:
            await gate.wait()
        if effect.drop == "before":
            return Response(b"", drop="before")
        instead = effect.answer(model)
        return None if instead is None else _with_effect(instead, effect)

    async def _dispatch(
        self,
        request: Request,
        call: Call,
        record: Record,
        credential: str,
        body: Mapping[str, Any],
        said: tuple[Script, int] | None = None,
    ) -> Response:
        if call.kind == "unknown":
            raise unknown(request)
        scope = self._scope(call, credential)
        match call.kind:
            case "generate" | "stream":
                return await self._generate(call, scope, body, record, said)
            case "count_tokens":
                return self._count_tokens(call, body)
            case "model":
                return json_response(self._model(call, scope))
            case "list":
                query = request.query
                page, following = self.caches.page(
                    scope, query.get("pageSize", ""), query.get("pageToken", ""), self.settings
                )
                answer: dict[str, Any] = {}
                if page:
                    answer["cachedContents"] = [self.caches.as_json(cache) for cache in page]
                if following:
                    answer["nextPageToken"] = following
                return json_response(answer)
            case "create":
                cache = self.caches.create(scope, body, self.settings)
                record.cached_content = scope.cache_name(cache.id)
                return json_response(self.caches.as_json(cache))
        cache = self.caches.get(scope, call.cache, self.settings)
        record.model = cache.model
        match call.kind:
            case "update":
                self.caches.update(cache, body, request.query.get("updateMask", ""))
            case "delete":
                self.caches.delete(cache)
                return json_response({})
        return json_response(self.caches.as_json(cache))

    def _scope(self, call: Call, credential: str) -> Scope:
        if not credential:
            raise errors.no_credentials(call.vertex)
        settings = self.settings
        if credential in settings.refused_keys or (settings.keys is not None and credential not in settings.keys):
            raise errors.refused_credentials(call.vertex)
        project = self.project_of(credential)
        if not call.vertex:
            return Scope(project)
        return Scope(call.project or project, call.location or "global")

    def project_of(self, key: str) -> str:
        """The project that a key belongs to."""
        return (self.settings.keys or {}).get(key) or f"key-{key_hash(key)}"

    async def _generate(
        self, call: Call, scope: Scope, body: Mapping[str, Any], record: Record, said: tuple[Script, int] | None
    ) -> Response:
        refuse_unknown(body, _GENERATE_FIELDS)
        model = read_model(call.model, self.settings)
        cache = self._cache_of(scope, model, body)
        texts, tokens = _read_prompt(body)
        most = _most_output_tokens(body)
        owner, cached = f"{scope.project}/{scope.location}/{model}", 0
        if cache is not None:
            cached = cache.tokens
            tokens += cached  # which count in the quota too
        elif self.settings.implicit_caching:
            instruction = texts_of(read_contents(body.get("systemInstruction"), "systemInstruction"))
            cached = self._prefixes.cached_tokens(owner, [*instruction, *texts])
        with self.quotas.admit(owner, model, tokens, self.settings, call.vertex):
            if self.settings.latency_ms:
                await asyncio.sleep(self.settings.latency_ms / 1000)
            script, number = self._script(scope, texts) if said is None else said
            effect = script.errors[number - 1] if number <= len(script.errors) else script.error
            if effect is not None:
                instead = await self._affect(effect, model, self.rules.scripts_gate)
                if instead is not None:
                    return instead
            if script.latency_ms:
                await asyncio.sleep(script.latency_ms / 1000)
        prompt = Prompt(texts[-1] if texts else "", tokens, cached, most)
        answer = compose(script, number, prompt, model, f"emulated-{next(self._response_ids)}")
        record.usage = {name: count for name, count in answer.get("usageMetadata", {}).items() if "Count" in name}
        response = as_stream(answer) if call.kind == "stream" else json_response(answer)
        return response if effect is None else _with_effect(response, effect)

    def _cache_of(self, scope: Scope, model: str, body: Mapping[str, Any]) -> Cache | None:
        name = body.get("cachedContent")
        if not name:
            return None
        prefix = scope.cache_name("")
        if not isinstance(name, str) or not name.startswith(prefix) or "/" in name[len(prefix) :]:
            raise invalid(f"Invalid cached content name: {name!r}; expected {prefix}ID.")
        cache = self.caches.get(scope, name[len(prefix) :], self.settings)
        if any(body.get(field) for field in _CONFLICTS):
            raise invalid(
                "Tool config, tools and system instruction should not be set in the request when using cached content."
                if scope.vertex
                else "CachedContent can not be used with GenerateContent request setting system_instruction, tools or "
                "tool_config.\n\nProposed fix: move those values to CachedContent from GenerateContent request."
            )
        if cache.model != model:
            raise invalid(
                f"Model used by GenerateContent request (models/{model}) and CachedContent (models/{cache.model}) has "
                "to be the same."
            )
        return cache

    def _script(self, scope: Scope, texts: list[str]) -> tuple[Script, int]:
        """The last script that the user's texts have, and which of its calls this is."""
        for text in reversed(texts):
            if (found := parse_script(text)) is not None:
                script, said = found
                if not (script.replies or script.errors):
                    return script, 1
                self._script_calls[scope.project, said] += 1
                return script, self._script_calls[scope.project, said]
        return ECHO, 1

    def _count_tokens(self, call: Call, body: Mapping[str, Any]) -> Response:
        read_model(call.model, self.settings)
        asked = body.get("generateContentRequest") or body
        if not isinstance(asked, dict):
            raise invalid("Invalid value at 'generateContentRequest': expected an object.")
        _, tokens = _read_prompt(asked)
        return json_response(
            {"totalTokens": tokens, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": tokens}]}
        )

    def _model(self, call: Call, scope: Scope) -> dict[str, Any]:
        model = read_model(call.model, self.settings)
        if scope.vertex:
            return {"name": f"publishers/google/models/{model}", "versionId": "default"}
        return {
            "name": f"models/{model}",
            "version": "001",
            "displayName": model,
            "inputTokenLimit": 1_048_576,
            "outputTokenLimit": 65_536,
            "supportedGenerationMethods": ["generateContent", "countTokens", "createCachedContent"],
        }


def _read_prompt(body: Mapping[str, Any]) -> tuple[list[str], int]:
    """The texts of a request's contents, and the tokens of all that it says."""
    contents = read_contents(body.get("contents"), "contents")
    if not contents:
        raise invalid("* GenerateContentRequest.contents: contents is not specified\n")
    instruction = read_contents(body.get("systemInstruction"), "systemInstruction")
    tokens = count_contents(contents) + count_contents(instruction) + count_json(body.get("tools"))
    return list(texts_of(contents)), tokens


def _most_output_tokens(body: Mapping[str, Any]) -> int | None:
    config = body.get("generationConfig") or {}
    most = config.get("maxOutputTokens") if isinstance(config, dict) else ...
    if not isinstance(most, int | None):
        raise invalid("Invalid value at 'generation_config': expected an object with numbers.")
    return most


def _with_effect(response: Response, effect: Effect) -> Response:
    response.drop = effect.drop or response.drop
    response.headers = {**response.headers, **effect.headers}
    return response
