"""Quotas by minute, day and calls at a time, and what a 429 says."""

from __future__ import annotations

import threading

import pytest

from .conftest import HANDBOOK, Api


@pytest.fixture(autouse=True)
def frozen(api: Api) -> None:
    api.emulator.configure(clock_frozen=True)


def test_requests_count_for_a_minute(api: Api) -> None:
    api.emulator.configure(requests_per_minute=2)
    assert api.generate().status == 200
    api.emulator.advance(20)
    assert api.generate().status == 200
    answer = api.generate()
    status, name, message = answer.error
    assert (status, name) == (429, "RESOURCE_EXHAUSTED")
    assert message.endswith("Please retry in 40s.")
    (violation,) = answer.detail("QuotaFailure")["violations"]
    assert violation["quotaId"] == "GenerateRequestsPerMinutePerProjectPerModel"
    assert (violation["quotaValue"], violation["quotaDimensions"]["model"]) == ("2", "gemini-2.5-flash")
    assert answer.detail("RetryInfo")["retryDelay"] == "40s"
    api.emulator.advance(39)
    assert api.generate().status == 429
    api.emulator.advance(1)
    assert [api.generate().status, api.generate().status] == [200, 429]


def test_quotas_are_those_of_a_project_and_a_model(api: Api) -> None:
    api.emulator.configure(requests_per_minute=1)
    assert [api.generate().status, api.generate().status] == [200, 429]
    assert api.generate(model="gemini-2.5-pro").status == 200
    assert Api(api.emulator, key="other").generate().status == 200
    assert api.create().status == 200  # caches are made beside them


def test_tokens_count_for_a_minute_cached_ones_too(api: Api) -> None:
    api.emulator.configure(tokens_per_minute=5000)
    name = api.created()
    assert api.generate("1234", cachedContent=name).status == 200
    assert api.generate("1234", cachedContent=name).status == 200
    answer = api.generate(HANDBOOK)
    (violation,) = answer.detail("QuotaFailure")["violations"]
    assert violation["quotaId"] == "GenerateContentPaidTierInputTokensPerModelPerMinute"
    assert api.generate("x" * 4 * 498).status == 200  # what is left
    assert api.generate("1234").status == 429
    api.emulator.advance(60)
    assert api.generate("x" * 40_000).status == 200  # more than the quota waits for an empty window
    assert api.generate("1234").status == 429


def test_the_day_ends_at_midnight(api: Api) -> None:
    api.emulator.advance(86_400 - api.emulator.now() % 86_400 + 3600)
    api.emulator.configure(requests_per_day=2)
    assert [api.generate().status, api.generate().status] == [200, 200]
    answer = api.generate()
    (violation,) = answer.detail("QuotaFailure")["violations"]
    assert violation["quotaId"] == "GenerateRequestsPerDayPerProjectPerModel"
    assert answer.error[2].endswith("Please retry in 23h0m0s.")
    api.emulator.advance(82_799)
    assert api.generate().status == 429
    api.emulator.advance(1)
    assert api.generate().status == 200


def test_calls_at_a_time_are_limited(api: Api) -> None:
    api.emulator.configure(max_in_flight=1)
    prompt = '{"simulate": {"error": {"hold": true}}}'
    first = threading.Thread(target=api.generate, args=(prompt,))
    first.start()
    api.emulator.wait_for("generate")
    refused = api.generate()
    assert (refused.status, "details" in refused.body["error"]) == (429, False)
    api.emulator.release()
    first.join()
    assert api.generate().status == 200
    assert [record["status"] for record in api.emulator.requests("generate")] == [200, 429, 200]


def test_the_free_tier_names_its_quotas(api: Api) -> None:
    api.emulator.configure(free_tier=True, requests_per_minute=1)
    api.generate()
    answer = api.generate()
    (violation,) = answer.detail("QuotaFailure")["violations"]
    assert violation["quotaId"] == "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"


def test_what_a_429_says_can_be_chosen(api: Api, vertex: Api) -> None:
    api.emulator.configure(requests_per_minute=1, quota_errors="text")
    api.generate()
    answer = api.generate()
    assert answer.error[2].endswith("Please retry in 60s.") or answer.error[2].endswith("Please retry in 1m0s.")
    assert "details" not in answer.body["error"]
    api.emulator.configure(quota_errors="auto")
    vertex.generate()
    answer = vertex.generate()
    assert answer.error[2].startswith("Resource exhausted. Please try again later.")
    assert "details" not in answer.body["error"]


def test_a_quota_can_be_exhausted_by_a_rule(api: Api) -> None:
    api.emulator.fail(quota="requests_per_day", times=None)
    assert "PerDay" in api.generate().detail("QuotaFailure")["violations"][0]["quotaId"]
    api.emulator.remove()
    api.emulator.fail(quota="requests_per_minute", quota_errors="text", retry_after_seconds=2728)
    answer = api.generate()
    assert answer.error[2].endswith("Please retry in 45m28s.")
    assert "details" not in answer.body["error"]
    api.emulator.fail(quota="tokens_per_minute", retry_after_seconds=57.2)
    assert api.generate().detail("RetryInfo")["retryDelay"] == "57.2s"
    assert api.generate().status == 200
