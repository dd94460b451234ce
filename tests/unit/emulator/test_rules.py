"""Rules: faults and answers for the requests that match."""

from __future__ import annotations

import http.client
import threading
from typing import Any

import pytest

from batch_llm.emulator import EmulatorError

from .conftest import MODEL, Api, script


def test_a_rule_lets_some_pass_and_then_acts_on_some(api: Api) -> None:
    rule = api.emulator.fail(503, kind="generate", skip=1, times=2)
    assert [api.generate().status for _ in range(4)] == [200, 503, 503, 200]
    assert api.emulator.rules() == [
        {"rule": rule, "acted": 2, "status": 503, "kind": "generate", "skip": 1, "times": 2}
    ]
    assert [record["rule"] for record in api.emulator.requests("generate")] == [False, True, True, False]


@pytest.mark.parametrize(
    "condition",
    [
        {"kind": "create"},
        {"method": "post", "path": "cachedContents"},
        {"model": "gemini-2.5-pro"},
        {"contains": 'a "quoted" ü'},
        {"cached": True},
    ],
)
def test_a_rule_means_the_requests_that_match(api: Api, condition: dict[str, Any]) -> None:
    name = api.created()
    api.emulator.fail(500, times=None, **condition)
    calls = {
        "kind": lambda: api.create(),
        "method": lambda: api.create(),
        "model": lambda: api.generate(model="gemini-2.5-pro"),
        "contains": lambda: api.generate('with a "quoted" ü in it'),
        "cached": lambda: api.generate(cachedContent=name),
    }
    assert calls[next(iter(condition))]().error[:2] == (500, "INTERNAL")
    assert api.generate().status == 200
    assert api.call("GET", api.caches).status == 200


@pytest.mark.parametrize(
    ("status", "name"),
    [(403, "PERMISSION_DENIED"), (404, "NOT_FOUND"), (408, "DEADLINE_EXCEEDED"), (429, "RESOURCE_EXHAUSTED"),
     (499, "CANCELLED"), (500, "INTERNAL"), (503, "UNAVAILABLE"), (504, "DEADLINE_EXCEEDED")],
)  # fmt: skip
def test_an_error_looks_as_googles(api: Api, status: int, name: str) -> None:
    api.emulator.fail(status)
    code, said, message = api.generate().error
    assert (code, said, bool(message)) == (status, name, True)
    detail = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "NONE"}
    api.emulator.fail(status, message="no", details=[detail], retry_after_seconds=1.5, headers={"retry-after": "2"})
    answer = api.generate()
    assert (answer.error[2], answer.headers["retry-after"]) == ("no", "2")
    assert answer.detail("ErrorInfo") == detail
    assert answer.detail("RetryInfo")["retryDelay"] == "1.5s"


def test_a_failed_call_leaves_nothing(api: Api) -> None:
    api.emulator.fail(500, kind="create")
    assert api.create().status == 500
    assert api.emulator.caches() == []


def test_a_body_can_be_anything(api: Api) -> None:
    api.emulator.fail(body="<html>bad gateway</html>", status=502)
    answer = api.generate()
    assert (answer.status, answer.body) == (502, "<html>bad gateway</html>")
    api.emulator.fail(body={"candidates": 5})
    assert api.generate().body == {"candidates": 5}


def test_a_connection_can_drop_before_after_and_amid(api: Api) -> None:
    api.emulator.fail(kind="create", drop="before")
    with pytest.raises(http.client.RemoteDisconnected):
        api.create()
    assert api.emulator.caches() == []
    api.emulator.fail(kind="create", drop="after")
    with pytest.raises(http.client.RemoteDisconnected):
        api.create()
    assert len(api.emulator.caches("ACTIVE")) == 1  # an orphan: it was made, and nobody was told
    api.emulator.fail(kind="create", drop="middle")
    with pytest.raises(http.client.IncompleteRead):
        api.create()
    assert len(api.emulator.caches("ACTIVE")) == 2
    api.emulator.fail(503, drop="middle")
    with pytest.raises(http.client.IncompleteRead):
        api.generate()
    assert [record["status"] for record in api.emulator.requests()] == [0, 0, 0, 0]
    prompt = script(errors=[{"drop": "after"}])
    with pytest.raises(http.client.RemoteDisconnected):
        api.generate(prompt)
    assert api.generate(prompt).status == 200


def test_requests_can_be_held_until_they_are_released(api: Api) -> None:
    name = api.created()
    rule = api.emulator.hold(kind="generate", times=2)
    statuses: list[int] = []
    held = [threading.Thread(target=lambda: statuses.append(api.generate(cachedContent=name).status)) for _ in range(2)]
    for thread in held:
        thread.start()
    api.emulator.wait_for("generate", 2)
    assert api.generate().status == 200
    assert [record["status"] for record in api.emulator.requests("generate")] == [None, None, 200]
    api.emulator.forget()
    api.emulator.release(rule)
    for thread in held:
        thread.join()
    assert statuses == [403, 403]  # the cache went while they waited
    assert api.emulator.rules() == []


def test_one_release_is_for_those_that_wait(api: Api) -> None:
    api.emulator.hold(kind="generate")
    for number in (1, 2):
        thread = threading.Thread(target=api.generate)
        thread.start()
        api.emulator.wait_for("generate", number)
        api.emulator.release()
        thread.join()
    assert [record["status"] for record in api.emulator.requests("generate")] == [200, 200]


def test_a_rule_can_say_what_the_model_answers(api: Api) -> None:
    rule = api.emulator.answer({"replies": ["first"], "reply": "then"}, contains="ticket")
    assert [api.text("a ticket"), api.text("a ticket"), api.text("a letter")] == ["first", "then", "emulated: a letter"]
    api.emulator.remove(rule)
    assert api.text("a ticket") == "emulated: a ticket"
    api.emulator.answer({"error": {"status": 504}}, times=1)
    assert [api.generate().status, api.generate().status] == [504, 200]


def test_the_first_rule_that_acts_is_the_only_one(api: Api) -> None:
    api.emulator.fail(503)
    api.emulator.fail(500)
    assert [api.generate().status for _ in range(3)] == [503, 500, 200]


@pytest.mark.parametrize(
    ("rule", "says"),
    [({"status": 99}, "status"), ({"kind": "dance"}, "kind"), ({"colour": "red"}, "colour"), ({"times": 0}, "times"),
     ({"script": {"repply": "x"}}, r"script\.repply"), ({"drop": "often"}, "drop")],
)  # fmt: skip
def test_a_bad_rule_is_refused_by_field(api: Api, rule: dict[str, Any], says: str) -> None:
    with pytest.raises(EmulatorError, match=says):
        api.emulator.fail(**rule)
    assert api.emulator.rules() == []
    assert api.generate(model=MODEL).status == 200
