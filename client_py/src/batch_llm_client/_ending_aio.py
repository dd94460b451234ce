"""How an async call really ended."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

import grpc

_SENDING_FAILED: Final = "Internal error from Core"
_LOOKS: Final = 100
_PAUSE_SECONDS: Final = 0.01


class Ending:
    """Remembers the status that the server gave a call.

    When the server ends a call while a message is being sent to it, grpc.aio puts a status of its own, INTERNAL, in
    the place of the server's, before that has come or after.
    """

    def __init__(self, call: "grpc.aio.StreamStreamCall[Any, Any]") -> None:
        """Watch `call`, from its start."""
        self._call = call
        self._status: grpc.aio.AioRpcError | None = None
        call.add_done_callback(lambda _: self._note())

    async def of(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """Give the server's status for the error that a call ended with; waits a moment for it where it is to come."""
        for _ in range(_LOOKS):
            if error.details() != _SENDING_FAILED:
                break
            if self._status is not None:
                return self._status
            await asyncio.sleep(_PAUSE_SECONDS)
            self._note()
        return error

    def _note(self) -> None:
        details = _now(self._call.details())
        if self._status is None and details != _SENDING_FAILED:
            self._status = grpc.aio.AioRpcError(
                _now(self._call.code()),
                grpc.aio.Metadata(),
                _now(self._call.trailing_metadata()),
                details=details,
            )


def _now(answer: Coroutine[Any, Any, Any]) -> Any:
    """Take the answer of a coroutine that has nothing to wait for, as a call's that is done; None of one that has."""
    try:
        answer.send(None)
    except StopIteration as end:
        return end.value
    answer.close()
    return None
