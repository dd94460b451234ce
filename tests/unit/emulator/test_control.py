"""The control API: log, settings, clock, reset."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import pytest

from batch_llm.emulator import AsyncGeminiEmulator, EmulatorError, running_emulator

from .conftest import MODEL, VERTEX, Api


def test_the_log_tells_kind_model_cache_status_key_and_tokens(api: Api, vertex: Api) -> None:
    emulator = api.emulator
    name = api.created(displayName="print")
    api.generate("1234", cachedContent=name)
    api.call("GET", api.caches)
    api.call("GET", api.path(name))
    api.call("PATCH", api.path(name), {"ttl": "60s"})
    api.call("DELETE", api.path(name))
    api.generate(cachedContent=name)
    vertex.generate()
    api.generate(verb="countTokens")
    api.generate(verb="streamGenerateContent")
    api.call("GET", f"/v1beta/models/{MODEL}")
    records = emulator.requests()
    kinds = [record["kind"] for record in records]
    assert kinds == ["create", "generate", "list", "get", "update", "delete", "generate", "generate", "count_tokens",
                     "stream", "model"]  # fmt: skip
    assert [record["status"] for record in records] == [200] * 6 + [403] + [200] * 4
    assert [record["cached_content"] for record in records] == [name, name, "", name, name, name, name] + [""] * 4
    assert [record["model"] for record in records[:2]] == [MODEL, MODEL]
    assert records[0]["display_name"] == "print"
    assert records[1]["usage"]["cachedContentTokenCount"] == 2250
    assert {record["key"] for record in records if record["api"] == "developer"} == {
        hashlib.sha256(b"test-key").hexdigest()[:12]
    }
    assert json.loads(records[1]["body"])["cachedContent"] == name
    assert records[7]["path"] == f"{VERTEX}/publishers/google/models/{MODEL}:generateContent"
    assert "test-key" not in json.dumps(records)
    assert (emulator.count(), emulator.count("generate"), emulator.count("nothing")) == (11, 3, 0)
    assert emulator.count("generate", status=200, api="vertex") == 1
    assert [record["number"] for record in emulator.requests("generate", after=2)] == [7, 8]
    with pytest.raises(EmulatorError, match="colour"):
        emulator.requests(colour="red")


def test_bodies_are_kept_only_if_asked(api: Api) -> None:
    api.emulator.configure(keep_bodies=False)
    api.generate()
    assert [record["body"] for record in api.emulator.requests()] == [None]


def test_the_log_forgets_the_oldest_and_counts_all() -> None:
    with running_emulator("--log-size", "2") as emulator:
        api = Api(emulator)
        for text in ("a", "b", "c"):
            api.generate(text)
        assert [record["number"] for record in emulator.requests()] == [2, 3]
        assert emulator.count("generate") == 3
        with pytest.raises(EmulatorError, match="log_size"):
            emulator.configure(log_size=5)


def test_a_client_that_hangs_up_is_noted(api: Api) -> None:
    api.emulator.hold()
    host = urlsplit(api.emulator.url)
    with socket.create_connection((host.hostname, host.port)) as connection:
        connection.sendall(b"GET /v1beta/cachedContents HTTP/1.1\r\nhost: x\r\nx-goog-api-key: k\r\n\r\n")
        api.emulator.wait_for("list")
    while (status := api.emulator.requests("list")[0]["status"]) is None:
        pass
    assert status == 499


def test_waiting_ends_when_enough_have_come_or_time_is_up(api: Api) -> None:
    waiting = threading.Thread(target=api.emulator.wait_for, args=("generate", 2))
    waiting.start()
    api.generate()
    api.generate()
    waiting.join()
    assert api.emulator.wait_for("generate", 2) == 2
    with pytest.raises(EmulatorError, match="2 of 3 requests of kind generate"):
        api.emulator.wait_for("generate", 3, timeout=0)


def test_the_clock_can_be_moved_frozen_and_skewed(api: Api) -> None:
    emulator = api.emulator
    emulator.configure(clock_frozen=True)
    start = emulator.now()
    assert emulator.now() == start
    assert emulator.advance(100) == start + 100
    emulator.configure(clock_frozen=False)
    assert start + 100 <= emulator.now() < start + 160
    with pytest.raises(EmulatorError, match="advance_seconds"):
        emulator.advance(-1)
    emulator.configure(clock_skew_seconds=-7200, clock_frozen=True)
    answer = api.create(ttl="600s")
    shown = datetime.fromisoformat(answer.body["createTime"]).timestamp()
    assert shown == pytest.approx(emulator.now() - 7200)
    assert parsedate_to_datetime(answer.headers["date"]).timestamp() == int(shown)
    path, moment = api.path(answer.body["name"]), emulator.now() - 7200 + 50  # 50 s from now, as clients see it
    body = {"expireTime": datetime.fromtimestamp(moment).astimezone().isoformat()}
    assert api.call("PATCH", path, body).status == 200
    emulator.advance(49)
    assert api.call("GET", path).status == 200
    emulator.advance(1)
    assert api.call("GET", path).status == 403


def test_a_reset_forgets_everything_and_lets_go(api: Api) -> None:
    emulator = api.emulator
    api.created()
    emulator.configure(requests_per_minute=1)
    api.generate()
    emulator.advance(1000)
    emulator.hold()
    held = threading.Thread(target=api.generate)
    held.start()
    emulator.wait_for("generate", 2)
    before = emulator.now()
    emulator.reset()
    held.join()
    assert emulator.now() < before
    assert (emulator.count(), emulator.caches(), emulator.rules()) == (0, [], [])  # nothing of what was held
    assert [api.generate().status, api.generate().status] == [200, 200]
    assert api.generate().body["responseId"] == "emulated-3"


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"latency_ms": -1}, "latency_ms"), ({"colour": 1}, "colour"), ({"missing_cache": "x"}, "missing_cache")],
)
def test_a_bad_setting_is_refused_by_name(api: Api, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(EmulatorError, match=says):
        api.emulator.configure(**settings)
    assert api.emulator.configure()["latency_ms"] == 0


def test_control_says_what_there_is(api: Api) -> None:
    summary = api.call("GET", "/emulator").body
    assert "POST /emulator/rules" in summary["routes"]
    wrong = api.call("GET", "/emulator/nothing")
    assert (wrong.status, "GET /emulator/requests" in wrong.body["error"]) == (404, True)
    assert api.call("POST", "/emulator/rules", b"{").status == 400
    assert api.call("POST", "/emulator/rules", []).status == 400
    assert api.call("GET", "/emulator/requests?limit=many").status == 400
    assert api.emulator.count() == 0  # control is not in the log


async def test_the_handle_for_coroutines_does_the_same(api: Api) -> None:
    emulator = AsyncGeminiEmulator(api.emulator.url)
    rule = await emulator.fail(503, times=None)
    assert api.generate().status == 503
    assert [rule["acted"] for rule in await emulator.rules()] == [1]
    await emulator.remove(rule)
    await emulator.answer({"reply": "x"}, times=1)
    assert api.text() == "x"
    (name,) = await emulator.seed(MODEL, key=api.key)
    assert [cache["name"] for cache in await emulator.caches("ACTIVE")] == [name]
    assert await emulator.forget(name) == 1
    assert (await emulator.configure(clock_frozen=True))["clock_frozen"] is True
    assert await emulator.advance(5) == await emulator.now()
    rule = await emulator.hold()
    held = threading.Thread(target=api.generate)
    held.start()
    assert await emulator.wait_for("generate", 3) == 3
    await emulator.release(rule)
    held.join()
    assert (await emulator.count("generate"), len(await emulator.requests())) == (3, 3)
    await emulator.reset()
    assert await emulator.count() == 0
