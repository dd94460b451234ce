"""Calling a user's own code so that it can neither hold up nor end its caller."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import TypeVar

logger = logging.getLogger("batch_llm")

T = TypeVar("T")

_GRACE_SECONDS = 1.0


class HungError(TimeoutError):
    """A user's code ran out of its time."""


async def bounded(name: str, seconds: float | None, call: Callable[..., Awaitable[T]], *arguments: object) -> T:
    """What the call gives, within so many seconds; None for no limit.

    It runs in a task of its own, for code may swallow its cancellation: that is given another second, then closed.
    Context variables that it sets are set for the caller, as if it had been awaited.

    Raises:
        HungError: it ran out of its time.
        RuntimeError: it was cancelled from within, or tried to end the process, e.g. by `sys.exit()`.
        Exception: what else it raised.
        CancelledError: the caller is being cancelled.
    """
    running = _without_exit(call, *arguments)
    context = copy_context()
    task = asyncio.get_running_loop().create_task(running, name=f"batch-llm-{name}", context=context)
    try:
        await asyncio.wait([task], timeout=seconds)
        if not task.done():
            raise HungError(f"took longer than {seconds:g} s")
    finally:
        if not task.done():
            await end(name, task, running.close)
    for variable in context:
        if variable.get(_MISSING) is not (value := context[variable]):
            variable.set(value)
    if task.cancelled():
        raise RuntimeError("was cancelled from within")
    return task.result()


_MISSING = object()


async def timed(name: str, seconds: float | None, call: Callable[..., Awaitable[T]], *arguments: object) -> T:
    """As `bounded`, but in the caller's own task: cheaper, and code that swallows its cancellation holds the caller."""
    try:
        async with asyncio.timeout(seconds) as limit:
            return await _without_exit(call, *arguments)
    except TimeoutError as error:
        if limit.expired():
            raise HungError(f"took longer than {seconds:g} s") from error
        raise
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise RuntimeError("was cancelled from within") from error


async def _without_exit(call: Callable[..., Awaitable[T]], *arguments: object) -> T:
    try:
        return await call(*arguments)
    except (Exception, asyncio.CancelledError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # e.g. SystemExit, which would end the event loop with everything in it
        raise RuntimeError(f"raised {type(error).__name__}: {error}") from error


async def end(name: str, task: asyncio.Task[T], close: Callable[[], None]) -> None:
    """Cancel a task; close the coroutine that it runs if that does not end it.

    Args:
        name: whose code it is, for the log.
        task: what is to end.
        close: the coroutine's method.
    """
    task.cancel()
    task.add_done_callback(_forget)
    try:
        await asyncio.wait([task], timeout=_GRACE_SECONDS)
    finally:
        if not task.done():
            logger.error("%s goes on although it was cancelled; it is closed", name)
            try:
                close()
            except (RuntimeError, ValueError):
                logger.exception("%s cannot be closed; it is left to itself", name)
            task.cancel()  # wakes it, to find that there is nothing left to do


def _forget(task: asyncio.Task[T]) -> None:
    """Take note of the outcome, which nobody waits for: else asyncio logs that."""
    if not task.cancelled():
        task.exception()
