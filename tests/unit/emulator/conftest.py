"""Requests to the emulator as they stand in the API's reference, without an SDK."""

from __future__ import annotations

import http.client
import json
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from batch_llm.emulator import GeminiEmulator

MODEL = "gemini-2.5-flash"
VERTEX = "/v1beta1/projects/shop/locations/europe-west4"
HANDBOOK = "handbook " * 1000  # 9,000 characters, 2,250 tokens


def user(*texts: str) -> dict[str, Any]:
    return {"role": "user", "parts": [{"text": text} for text in texts]}


def script(**said: Any) -> str:
    return json.dumps({"simulate": said})


@dataclass
class Answer:
    """An answer: status, body (JSON if it is any) and headers."""

    status: int
    body: Any
    headers: dict[str, str]

    @property
    def error(self) -> tuple[int, str, str]:
        """Status, its name and the text, all from the body."""
        error = self.body["error"]
        assert error["code"] == self.status
        return error["code"], error["status"], error["message"]

    def detail(self, name: str) -> dict[str, Any]:
        """The error's detail of a type."""
        (found,) = [detail for detail in self.body["error"]["details"] if detail["@type"].endswith(f".{name}")]
        return found


@dataclass
class Api:
    """The emulator's API for one key, by the paths of the Developer API or of Vertex AI."""

    emulator: GeminiEmulator
    key: str = "test-key"
    vertex: bool = False

    def call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        credential = {"authorization": f"Bearer {self.key}"} if self.vertex else {"x-goog-api-key": self.key}
        connection = http.client.HTTPConnection(urlsplit(self.emulator.url).netloc, timeout=30)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        with closing(connection):
            connection.request(method, path, data, credential if headers is None else headers)
            with connection.getresponse() as response:
                text = response.read()
        is_json = (response.getheader("content-type") or "").startswith("application/json") and text[:1] in b"{["
        return Answer(
            response.status,
            json.loads(text) if is_json else text.decode(),
            {name.lower(): value for name, value in response.getheaders()},
        )

    @property
    def caches(self) -> str:
        return f"{VERTEX}/cachedContents" if self.vertex else "/v1beta/cachedContents"

    def path(self, name: str) -> str:
        """The path of a cache's name."""
        return f"/v1beta1/{name}" if self.vertex else f"/v1beta/{name}"

    def create(self, text: str = HANDBOOK, model: str = MODEL, **body: Any) -> Answer:
        return self.call("POST", self.caches, {"model": f"models/{model}", "contents": [user(text)], **body})

    def created(self, text: str = HANDBOOK, model: str = MODEL, **body: Any) -> str:
        answer = self.create(text, model, **body)
        assert answer.status == 200, answer
        return str(answer.body["name"])

    def generate(self, *texts: str, model: str = MODEL, verb: str = "generateContent", **body: Any) -> Answer:
        prefix = f"{VERTEX}/publishers/google" if self.vertex else "/v1beta"
        contents = [user(text) for text in texts or ("hello",)]
        return self.call("POST", f"{prefix}/models/{model}:{verb}", {"contents": contents, **body})

    def text(self, *texts: str, **body: Any) -> str:
        answer = self.generate(*texts, **body)
        assert answer.status == 200, answer
        return str(answer.body["candidates"][0]["content"]["parts"][0]["text"])

    def usage(self, *texts: str, **body: Any) -> dict[str, Any]:
        answer = self.generate(*texts, **body)
        assert answer.status == 200, answer
        return dict(answer.body["usageMetadata"])


@pytest.fixture
def api(gemini_emulator: GeminiEmulator) -> Api:
    """The Developer API."""
    return Api(gemini_emulator)


@pytest.fixture
def vertex(gemini_emulator: GeminiEmulator) -> Api:
    """Vertex AI."""
    return Api(gemini_emulator, key="test-token", vertex=True)
