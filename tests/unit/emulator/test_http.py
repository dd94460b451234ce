"""The wire: connections that are kept, requests in pieces, and what is no HTTP."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from batch_llm.emulator import GeminiEmulator
from batch_llm.emulator.http import Request, Response, Server

from .conftest import MODEL, user

BODY = json.dumps({"contents": [user("hello")]}).encode()
HEAD = f"POST /v1beta/models/{MODEL}:generateContent HTTP/1.1\r\nhost: x\r\nX-Goog-Api-Key: k\r\n".encode()
LENGTH = f"content-length: {len(BODY)}\r\n".encode()


@pytest.fixture
def connection(gemini_emulator: GeminiEmulator) -> Iterator[socket.socket]:
    url = urlsplit(gemini_emulator.url)
    with socket.create_connection((url.hostname, url.port), timeout=30) as connection:
        yield connection


def read(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """One answer, and not a byte more."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        assert byte, head
        head += byte
    status, *lines = head.decode().split("\r\n")[:-2]
    headers = dict(line.split(": ", 1) for line in lines)
    body = b""
    while len(body) < int(headers.get("content-length", 0)):
        body += connection.recv(int(headers["content-length"]) - len(body))
    return int(status.split()[1]), headers, body


def test_a_connection_serves_many_requests(connection: socket.socket) -> None:
    for _ in range(3):
        connection.sendall(HEAD + LENGTH + b"\r\n" + BODY)
        assert read(connection)[0] == 200


def test_requests_sent_at_once_are_answered_in_their_order(connection: socket.socket) -> None:
    bodies = [json.dumps({"contents": [user(text)]}).encode() for text in "abc"]
    connection.sendall(b"".join(HEAD + f"content-length: {len(b)}\r\n\r\n".encode() + b for b in bodies))
    texts = [json.loads(read(connection)[2])["candidates"][0]["content"]["parts"][0]["text"] for _ in bodies]
    assert texts == ["emulated: a", "emulated: b", "emulated: c"]


def test_a_request_may_come_byte_by_byte_or_in_chunks(connection: socket.socket) -> None:
    for byte in HEAD + LENGTH + b"\r\n" + BODY:
        connection.sendall(bytes([byte]))
    assert read(connection)[0] == 200
    half = len(BODY) // 2
    connection.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")
    for piece in (BODY[:half], BODY[half:], b""):
        connection.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
    assert read(connection)[0] == 200


def test_a_client_that_asks_first_is_told_to_go_on(connection: socket.socket) -> None:
    connection.sendall(HEAD + LENGTH + b"expect: 100-continue\r\n\r\n")
    assert read(connection)[0] == 100
    connection.sendall(BODY)
    assert read(connection)[0] == 200


def test_a_client_that_wants_it_so_is_hung_up_on(connection: socket.socket) -> None:
    connection.sendall(HEAD + LENGTH + b"connection: close\r\n\r\n" + BODY)
    status, headers, _ = read(connection)
    assert (status, headers["connection"], connection.recv(1)) == (200, "close", b"")


def test_what_is_no_http_is_refused(connection: socket.socket) -> None:
    connection.sendall(b"hello\r\n\r\n")
    assert read(connection)[0] == 400
    assert connection.recv(1) == b""


def test_a_path_may_be_encoded(connection: socket.socket) -> None:
    path = f"/v1beta/models/{MODEL}%3AgenerateContent?key=k"
    connection.sendall(f"POST {path} HTTP/1.1\r\nhost: x\r\n".encode() + LENGTH + b"\r\n" + BODY)
    assert read(connection)[0] == 200


async def test_a_bug_is_answered_and_logged_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: Request) -> Response:
        if request.path == "/bug":
            raise RuntimeError("a bug")
        return Response(b"fine")

    server = await Server.start(handler, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for path, status, body in (("/bug", b"500", b"the emulator failed"), ("/", b"200", b"fine")):
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        assert head.split()[1] == status
        assert body in await reader.readexactly(length)
    assert "RuntimeError: a bug" in caplog.text
    writer.close()
    await writer.wait_closed()
    await server.close()
