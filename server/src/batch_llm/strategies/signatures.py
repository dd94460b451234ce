"""Strategies may leave `state` out of their methods; here is how they are called all the same."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def with_state(method: Callable[..., Any], arguments: int) -> Callable[..., Any]:
    """The method as one that takes `state` after so many arguments; a strategy may leave it out or name it only."""
    parameters = inspect.signature(method).parameters
    state = parameters.get("state")
    if state is not None and state.kind is state.KEYWORD_ONLY:
        return lambda *given: method(*given[:arguments], state=given[arguments])
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    kinds = [parameter.kind for parameter in parameters.values()]
    if sum(kind in positional for kind in kinds) > arguments or inspect.Parameter.VAR_POSITIONAL in kinds:
        return method
    return lambda *given: method(*given[:arguments])
