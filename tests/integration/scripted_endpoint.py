"""An HTTP endpoint on 127.0.0.1 that answers as it is told, OpenAI-compatible unless told otherwise."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 64},
    "completion_tokens_details": {"reasoning_tokens": 8},
}


@dataclass(frozen=True)
class Answer:
    """One answer. `body` may be a JSON value, or bytes as they are.

    Args:
        status: HTTP status; None hangs up instead.
        body: the body.
        headers: further headers.
        cut: hang up in the middle of the body.
        silent: say nothing until the endpoint is closed.
    """

    status: int | None = 200
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    silent: bool = False


def completion(text: str | None = "ok", finish: str | None = "stop", **more: Any) -> Answer:
    message = {"role": "assistant", "content": text, **more}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return Answer(body={"object": "chat.completion", "model": "scripted-1", "choices": [choice], "usage": USAGE})


def failure(status: int, message: str = "no", headers: dict[str, str] | None = None, **error: Any) -> Answer:
    return Answer(status, {"error": {"message": message, **error}}, headers or {})


@dataclass
class Endpoint:
    """A running endpoint.

    Args:
        root: its address, without a path.
        answers: given one after another; the last one repeats.
        paths: the paths that were called.
        requests: the bodies that came.
        headers: the headers that came, with names in lower case.
    """

    root: str
    answers: list[Answer] = field(default_factory=lambda: [completion()])
    paths: list[str] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        """For `base_url` of OpenAI's protocol."""
        return f"{self.root}/v1"


@contextmanager
def scripted_endpoint() -> Iterator[Endpoint]:
    closing = threading.Event()
    server = _Server(("127.0.0.1", 0), _handler(lambda: endpoint, closing))
    endpoint = Endpoint(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield endpoint
    finally:
        closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for them
    request_queue_size = 1024  # so that many may connect at once


def _handler(endpoint: Callable[[], Endpoint], closing: threading.Event) -> type[BaseHTTPRequestHandler]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30  # a connection that the client keeps open must not keep the test waiting for ever

        def do_POST(self) -> None:
            here = endpoint()
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                here.paths.append(self.path)
                here.requests.append(asked)
                here.headers.append({name.lower(): value for name, value in self.headers.items()})
                answer = here.answers[min(len(here.requests), len(here.answers)) - 1]
            self.close_connection = answer.cut or answer.status is None or answer.silent
            if answer.silent:
                closing.wait(60)
                return
            if answer.status is None:
                return
            body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            for name, value in {"content-type": "application/json", **answer.headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body) + (100 if answer.cut else 0)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
