"""A network between client and sidecar that stalls, breaks off in mid-frame and resets."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from .processes import DEADLINE_SECONDS


class Proxy:
    """Passes TCP connections on, from a thread of its own.

    Args:
        target: gives the `host:port` to connect to, for each connection anew.
    """

    def __init__(self, target: Callable[[], str]) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._connections: set[asyncio.Task[None]] = set()
        self._gone: set[asyncio.Task[None]] = set()
        self._flowing = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._left: int | None = None
        self.address = ""

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._listen())
        self.flow()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._call(self._stop_listening())
        self.reset()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE_SECONDS)
        self._loop.close()

    def flow(self) -> None:
        """Let all through again."""
        self._call(self._set(True, "up", "down"))

    def stall(self, *ways: str) -> None:
        """Let nothing through any more, and say nothing: `up` to the sidecar, `down` from it; both if none is named."""
        self._call(self._set(False, *(ways or ("up", "down"))))

    def stall_for_good(self) -> None:
        """Let nothing through on the connections that there are, nor tell one end that the other is gone."""
        self._call(self._stall_for_good())

    def reset(self) -> None:
        """Break all connections with a TCP reset."""
        self._call(self._reset())

    def cut_after(self, size: int) -> None:
        """Reset all connections when so many more bytes have come from the sidecar, wherever in a frame that is."""
        self._call(self._cut_after(size))

    @property
    def is_cut(self) -> bool:
        return self._left is None

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(DEADLINE_SECONDS)

    # What follows runs in the thread.

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _stop_listening(self) -> None:
        self._server.close()

    async def _set(self, flowing: bool, *ways: str) -> None:
        for way in ways:
            event = self._flowing[way]
            event.set() if flowing else event.clear()

    async def _stall_for_good(self) -> None:
        self._gone |= self._connections

    async def _cut_after(self, size: int) -> None:
        self._left = size

    async def _reset(self) -> None:
        connections = [*self._connections]
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        ends = [writer]
        try:
            host, _, port = self._target().rpartition(":")
            there, onward = await asyncio.open_connection(host, int(port))
            ends.append(onward)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass("up", reader, onward, task))
                group.create_task(self._pass("down", there, writer, task))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            for end in ends:
                # Lingering for zero seconds: closing sends a reset. https://man7.org/linux/man-pages/man7/socket.7.html
                with suppress(OSError):
                    end.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                    )
                end.transport.abort()
        finally:
            for end in ends:
                end.close()
            self._connections.discard(task)

    async def _pass(
        self, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: asyncio.Task[None]
    ) -> None:
        while data := await reader.read(2**14):
            await self._flowing[way].wait()
            await self._while_gone(connection)
            if way == "down" and self._left is not None:
                data, self._left = data[: self._left], self._left - len(data)
                if self._left < 0:
                    self._left = None
                    writer.write(data)
                    await writer.drain()
                    raise ConnectionResetError
            writer.write(data)
            await writer.drain()
        await self._while_gone(connection)
        writer.write_eof()

    async def _while_gone(self, connection: asyncio.Task[None]) -> None:
        if connection in self._gone:
            await asyncio.Event().wait()  # until all connections are reset
