"""What is asked of Gemini: contents and settings, in the types of google-genai."""

from __future__ import annotations

import base64
import functools
import json
import logging
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

from batch_llm.model import checks

if TYPE_CHECKING:
    from google.genai.types import Content, CreateCachedContentConfig, GenerateContentConfig
    from pydantic import ValidationError

    Settings = GenerateContentConfig | Mapping[str, Any] | None

logger = logging.getLogger("batch_llm")

CACHEABLE = ("system_instruction", "tools", "tool_config")
"""Settings that a request with a context cache must leave to the cache."""
_PROJECT = re.compile(r"^projects/[^/]+/locations/[^/]+/(?=publishers/)")
_GOOGLES = re.compile(r"^(?:publishers/google/)?models/")
_CAPITAL = re.compile(r"(?<!^)([A-Z])")
_UNDERSCORE = re.compile(r"_([a-z0-9])")
_USERS_OWN = frozenset({"parameters", "parametersJsonSchema", "response", "responseJsonSchema", "args", "headers"})
"""Fields of tools, as in the REST API, whose content has names that users chose."""


def bare(model: str) -> str:
    """A model's name without what stands before all of Google's: "models/", or project and publisher on Vertex AI.

    Tuned models, endpoints and other publishers' models keep what tells them apart.
    """
    return _GOOGLES.sub("", _PROJECT.sub("", model.strip()))


def own(settings: Settings) -> Settings:
    """A copy that later changes do not reach, a mapping's fields by the package's names. Does not import it.

    Args:
        settings: a user's; `systemInstruction` is `system_instruction`, as the package has it.

    Raises:
        ValueError: a field is there by both names.
    """
    if not isinstance(settings, Mapping):
        return copied(settings)  # type: ignore[no-any-return]
    fields: dict[str, Any] = {}
    for given, value in settings.items():
        name = _CAPITAL.sub(r"_\1", given).lower() if isinstance(given, str) else given
        if name in fields:
            raise ValueError(f"config: {name} is given twice, also as {given}; leave one out")
        fields[name] = copied(value)
    return fields


def copied(value: Any) -> Any:
    """A deep copy of what settings and contents are made of; functions, clients and the like stay themselves."""
    if isinstance(value, Mapping):
        return {key: copied(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [copied(each) for each in value]
    if hasattr(value, "model_copy") and not isinstance(value, type):
        return value.model_copy(update={name: copied(getattr(value, name)) for name in value.model_fields_set})
    return value


def settings_of(
    *,
    system_instruction: str = "",
    temperature: float | None = None,
    max_output_tokens: int | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    seed: int | None = None,
    stop_sequences: Sequence[str] = (),
    output_json_schema: str = "",
    thinking_budget: int | None = None,
    thinking_level: str | None = None,
    safety_settings: Mapping[str, str] | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Settings by the names of google-genai's `GenerateContentConfig`; only those that are given. Does not import it.

    Args:
        system_instruction: said before anything else.
        temperature: 0 picks the likeliest token; None: the model's default, as for what follows.
        max_output_tokens: the longest output, thinking included.
        top_p: nucleus sampling.
        top_k: sample from the k likeliest tokens.
        seed: makes sampling repeatable where the model can.
        stop_sequences: output ends before any of these; Gemini takes five.
        output_json_schema: JSON Schema for the output, as text.
        thinking_budget: tokens for thinking; 0 for none, -1 for as many as the model likes.
        thinking_level: "LOW", "HIGH" and the like, for models that take a level in the budget's place.
        safety_settings: harm category to threshold, e.g. `{"HARM_CATEGORY_HARASSMENT": "BLOCK_NONE"}`.
        tools: tools as in the REST API, e.g. `{"googleSearch": {}}`.
    """
    thinking = _given(thinking_budget=thinking_budget, thinking_level=thinking_level)
    return _given(
        system_instruction=system_instruction or None,
        temperature=temperature,
        max_output_tokens=max_output_tokens,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        stop_sequences=list(stop_sequences) or None,
        response_mime_type="application/json" if output_json_schema else None,
        response_json_schema=json.loads(output_json_schema) if output_json_schema else None,
        thinking_config=thinking or None,
        safety_settings=[
            {"category": category, "threshold": threshold} for category, threshold in (safety_settings or {}).items()
        ]
        or None,
        tools=[dict(tool) for tool in tools] or None,
    )


def config_of(settings: Settings) -> GenerateContentConfig:
    """Settings as the package's own object, made once for many calls: calls do not change it.

    Args:
        settings: as `settings_of` gives them, or as a user would give them to the package.

    Raises:
        ValueError: a setting is not known to the installed version, or its value is not.
    """
    from google.genai import types
    from pydantic import ValidationError

    given = own(settings)
    if given is None:
        return types.GenerateContentConfig()
    if not isinstance(given, dict):
        _warn_of_unknown_names(given)
        return given  # type: ignore[return-value]
    known = types.GenerateContentConfig.model_fields
    if "response_json_schema" in given and "response_json_schema" not in known:  # before 1.24
        given["response_schema"] = given.pop("response_json_schema")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* is not a valid ", UserWarning)  # said below, with the field
            config = types.GenerateContentConfig.model_validate(given)
    except ValidationError as error:
        raise ValueError(_explain(error)) from None
    _warn_of_unknown_names(config)
    return config


def call_config(
    settings: Settings,
    *,
    cached_content: str | None = None,
    api_version: str | None = None,
    whole: bool = False,
) -> GenerateContentConfig:
    """The configuration of calls; one object for all calls on one cache.

    Args:
        settings: see `config_of`.
        cached_content: name of the context cache.
        api_version: the one to ask for in the client's place, see `cache_api_version`.
        whole: let the package read the answer. Otherwise `read_reply` reads its body, which takes less time.

    Raises:
        ValueError: settings that belong into the cache, or are wrong.
    """
    from google.genai import types

    config = config_of(settings)
    if cached_content is not None:
        if there := [name for name in CACHEABLE if getattr(config, name)]:
            raise ValueError(f"{there[0]} belongs into the context cache, a call with a cache must not set it")
        config.cached_content = cached_content
    if api_version is not None and (config.http_options is None or config.http_options.api_version is None):
        options = config.http_options or types.HttpOptions()
        config.http_options = options.model_copy(update={"api_version": api_version})
    if not _calls_functions(config.tools):
        # The package would call Python functions by itself; there are none, and looking for them takes time.
        config.automatic_function_calling = types.AutomaticFunctionCallingConfig(disable=True)
        if not whole and "should_return_http_response" in types.GenerateContentConfig.model_fields:
            config.should_return_http_response = True
    return config


def cache_config(
    settings: Settings,
    *,
    contents: Sequence[Content],
    display_name: str,
    ttl_seconds: float,
    api_version: str | None = None,
) -> CreateCachedContentConfig:
    """The configuration that creates a context cache.

    Args:
        settings: see `config_of`; those in `CACHEABLE` are taken.
        contents: what is cached.
        display_name: at most 128 characters.
        ttl_seconds: its life; rounded up to whole seconds.
        api_version: see `call_config`.

    Raises:
        ValueError: a setting cannot be cached.
    """
    from google.genai import types
    from pydantic import ValidationError

    config = config_of(settings)
    given = _given(**{name: getattr(config, name) for name in CACHEABLE})
    options = types.HttpOptions(api_version=api_version) if api_version is not None else None
    try:
        return types.CreateCachedContentConfig(
            contents=list(contents),
            display_name=display_name,
            ttl=ttl_text(ttl_seconds),
            http_options=options,
            **given,
        )
    except ValidationError as error:
        raise ValueError(_explain(error)) from None


def without_cacheable(
    settings: Settings,
) -> GenerateContentConfig:
    """The settings that stay with the calls when the others are in the cache."""
    return config_of(settings).model_copy(update=dict.fromkeys(CACHEABLE))


def cache_call(api_version: str | None = None, **values: Any) -> dict[str, Any]:
    """The configuration of another call about caches.

    Args:
        api_version: see `call_config`.
        values: its settings, e.g. `ttl` or `page_size`.
    """
    return _given(http_options={"api_version": api_version} if api_version is not None else None, **values)


def ttl_text(seconds: float) -> str:
    """A time to live as the API wants it, e.g. "3600s"."""
    return f"{math.ceil(seconds)}s"


def contents_with(prompt: str, before: Sequence[Content] = ()) -> Content | list[Content]:
    """What to ask: a prompt as the user's turn, after what comes before it.

    Args:
        prompt: the item's prompt.
        before: contents that are in no cache.
    """
    turn = _user_turn(prompt)
    # Not in a list where it is alone: the package would hold the list against all that a list may be, which takes a
    # quarter of a millisecond.
    return [*before, turn] if before else turn


def contents_of(cached_content: Sequence[Any]) -> list[Content]:
    """Contents to cache, from strings, `Content` objects or their mappings.

    Raises:
        ValueError: one is empty, or no content; says which.
    """
    from google.genai import types
    from pydantic import ValidationError

    contents = []
    for place, given in enumerate(cached_content):
        match given:
            case str() if given.strip():
                contents.append(_user_turn(given))
            case types.Content() | Mapping():
                try:
                    content = types.Content.model_validate(given)
                except ValidationError as error:
                    raise ValueError(f"cached_content[{place}]: {_explain(error)}") from None
                if not content.parts:
                    raise ValueError(f"cached_content[{place}] has no parts; give it some, or leave it out")
                contents.append(content)
            case _:
                raise ValueError(
                    f"cached_content[{place}] must be a text that is not blank or a google.genai.types.Content, "
                    f"got {type(given).__name__ if not isinstance(given, str) else 'a blank one'}"
                )
    return contents


def canonical_contents(cached_content: Sequence[Any]) -> list[Any]:
    """Contents as the API's JSON, the same for the same content. Texts alone need no google-genai.

    Raises:
        ValueError: see `contents_of`.
    """
    if all(isinstance(given, str) and given.strip() for given in cached_content):
        return [{"parts": [{"text": given}], "role": "user"} for given in cached_content]
    return [as_json(content) for content in contents_of(cached_content)]


def setting(settings: Settings, name: str) -> Any:
    """One setting, None if it is not given."""
    return settings.get(name) if isinstance(settings, Mapping) else getattr(settings, name, None)


def as_json(value: Any) -> Any:
    """Contents or settings as the API's JSON, the same for the same content: for fingerprints."""
    if isinstance(value, list | tuple):
        return [as_json(each) for each in value]
    if isinstance(value, Mapping):
        fields = {_UNDERSCORE.sub(lambda found: found[1].upper(), str(key)): each for key, each in value.items()}
        return {
            name: _as_given(each) if name in _USERS_OWN else as_json(each)
            for name, each in fields.items()
            if each is not None
        }
    return _as_given(value)


def check_tools(settings: Settings, *, cached: bool = False) -> None:
    """Refuse tools that are none.

    Args:
        settings: as `own` gives them.
        cached: they go into a context cache, which takes no Python functions.

    Raises:
        ValueError: says which, and the way out.
    """
    tools = setting(settings, "tools")
    if tools is None:
        return
    if not isinstance(tools, list):
        checks.refuse("config: tools", "be a list", tools, "put it into one")
    for place, tool in enumerate(tools):
        field = f"config: tools[{place}]"
        if isinstance(tool, Mapping) or hasattr(tool, "model_dump"):
            continue
        if not callable(tool) and not hasattr(tool, "call_tool"):
            raise ValueError(
                f"{field} must be a google.genai.types.Tool or its fields, got {type(tool).__name__}; "
                'e.g. {"google_search": {}}'
            )
        if cached:
            raise ValueError(f"{field} is a function, which cannot be cached; describe it in function_declarations")


def _as_given(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_as_given(each) for each in value]
    if isinstance(value, Mapping):
        return {key: _as_given(each) for key, each in value.items()}
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", by_alias=True, exclude_none=True)
    return base64.urlsafe_b64encode(value).decode() if isinstance(value, bytes) else value


def _user_turn(text: str) -> Content:
    from google.genai import types

    return types.Content(role="user", parts=[types.Part(text=text)])


def _calls_functions(tools: Any) -> bool:
    from google.genai import types

    return any(not isinstance(tool, types.Tool | Mapping) for tool in tools or ())


def _warn_of_unknown_names(config: Any) -> None:
    """The package takes any name for what it lists: newer ones work, misspelt ones are refused by Google."""
    names = [("thinking_config.thinking_level", getattr(setting(config, "thinking_config"), "thinking_level", None))]
    for place, safety in enumerate(setting(config, "safety_settings") or ()):
        names += [(f"safety_settings[{place}].{field}", getattr(safety, field)) for field in ("category", "threshold")]
    for field, name in names:
        if isinstance(name, Enum) and name.value not in {known.value for known in type(name)}:
            _warn_once(field, name.value)


@functools.lru_cache(maxsize=100)
def _warn_once(field: str, name: str) -> None:
    from .sdk import sdk_version

    logger.warning(
        "%s: google-genai %s does not know %r; it is sent as it is, Google refuses it if it is misspelt",
        *(field, sdk_version(), name),
    )


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _explain(error: ValidationError) -> str:
    """Field and problem, in a line."""
    from .sdk import sdk_version

    problem = error.errors()[0]
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{field}: google-genai {sdk_version()} does not know it; a newer version may"
    return f"{field}: {problem['msg']}, got {problem['input']!r:.100}"
