"""HTTP/1.1 on asyncio: httptools parses, this answers, and hangs up where it is told to."""

from __future__ import annotations

import asyncio
import email.utils
import http
import json
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote

import httptools

_log = logging.getLogger(__name__)
_LARGEST_BODY = 100 * 1024 * 1024
_REASONS = {status.value: status.phrase for status in http.HTTPStatus}

Drop = Literal["before", "after", "middle"]


@dataclass(slots=True)
class Request:
    """What came.

    Args:
        method: in upper case.
        path: without the query, decoded.
        query: its last value for each name.
        headers: with names in lower case.
        body: the whole body.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class Response:
    """What goes back.

    Args:
        body: the whole body.
        status: HTTP status.
        content_type: its header.
        headers: further headers.
        drop: hang up instead: "middle" after half of the body, anything else without a byte.
        date: seconds since the epoch for the header Date; None: this machine's time.
    """

    body: bytes
    status: int = 200
    content_type: str = "application/json; charset=UTF-8"
    headers: Mapping[str, str] = field(default_factory=dict)
    drop: Drop | None = None
    date: float | None = None


# One encoder for all: json.dumps makes a new one for each call that has options.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def json_response(value: Any, status: int = 200) -> Response:
    """An answer in JSON."""
    return Response(_encode(value).encode(), status)


Handler = Callable[[Request], Awaitable[Response]]


class Connection(asyncio.Protocol):
    """One client's connection: requests are answered one after another, in their order.

    Args:
        handler: answers a request; it is cancelled when the client hangs up.
        open_connections: this one is in it while it is open.
    """

    def __init__(self, handler: Handler, open_connections: set[Connection]) -> None:
        self._handler = handler
        self._open = open_connections
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[tuple[Request, bool]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 -- a TCP server makes no others
        self._transport = transport
        self._open.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._open.discard(self)
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._send(Response(f"not an HTTP/1.1 request: {error}\n".encode(), 400, "text/plain"), keep_alive=False)

    def on_message_begin(self) -> None:
        """See `httptools`."""
        self._url, self._headers, self._body, self._size = b"", {}, [], 0

    def on_url(self, url: bytes) -> None:
        """See `httptools`."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """See `httptools`."""
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """See `httptools`."""
        if self._headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """See `httptools`."""
        self._size += len(body)
        if self._size > _LARGEST_BODY:
            raise ValueError(f"the body is larger than {_LARGEST_BODY} bytes")
        self._body.append(body)

    def on_message_complete(self) -> None:
        """See `httptools`."""
        path, _, query = self._url.decode("latin-1").partition("?")
        request = Request(
            self._parser.get_method().decode("latin-1"),
            unquote(path) if "%" in path else path,
            dict(parse_qsl(query, keep_blank_values=True)) if query else {},
            self._headers,
            self._body[0] if len(self._body) == 1 else b"".join(self._body),
        )
        self._waiting.append((request, self._parser.should_keep_alive()))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._answer())

    async def _answer(self) -> None:
        try:
            while self._waiting:
                request, keep_alive = self._waiting.popleft()
                try:
                    response = await self._handler(request)
                except Exception:
                    _log.exception("the emulator failed at %s %s", request.method, request.path)
                    response = json_response({"error": "the emulator failed; its log says why"}, 500)
                self._send(response, keep_alive, head_only=request.method == "HEAD")
        finally:
            self._task = None

    def _send(self, response: Response, keep_alive: bool, head_only: bool = False) -> None:
        if response.drop in ("before", "after"):
            self._transport.abort()
            return
        body = response.body
        lines = [
            f"HTTP/1.1 {response.status} {_REASONS.get(response.status, 'Unknown')}",
            f"content-type: {response.content_type}",
            f"content-length: {len(body)}",
            f"date: {_date(int(time.time() if response.date is None else response.date))}",
            *(f"{name}: {value}" for name, value in response.headers.items()),
        ]
        if not keep_alive:
            lines.append("connection: close")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        if response.drop == "middle":
            body, keep_alive = body[: len(body) // 2], False
        self._transport.write(head if head_only else head + body)
        if not keep_alive:
            self._transport.close()

    def close(self) -> None:
        """Hang up; a request that is being answered is cancelled."""
        self._transport.abort()


_dates: dict[int, str] = {}


def _date(second: int) -> str:
    date = _dates.get(second)
    if date is None:
        _dates.clear()
        date = _dates[second] = email.utils.formatdate(second, usegmt=True)
    return date


class Server:
    """A listening server.

    Args:
        listener: asyncio's server.
        open_connections: those that are open.
    """

    def __init__(self, listener: asyncio.Server, open_connections: set[Connection]) -> None:
        self._listener = listener
        self._open = open_connections
        self.host, self.port = listener.sockets[0].getsockname()[:2]

    @classmethod
    async def start(cls, handler: Handler, host: str, port: int) -> Server:
        """Listen.

        Args:
            handler: answers requests.
            host: address or name.
            port: 0 for any that is free.

        Raises:
            OSError: the address cannot be listened on.
        """
        connections: set[Connection] = set()
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(lambda: Connection(handler, connections), host, port, backlog=2048)
        return cls(listener, connections)

    async def close(self) -> None:
        """Listen no more and hang up."""
        self._listener.close()
        for connection in list(self._open):
            connection.close()
        await self._listener.wait_closed()
