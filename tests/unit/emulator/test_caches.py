"""cachedContents: what is stored, listed, refused, and how caches end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from batch_llm.emulator import EmulatorError, GeminiEmulator

from .conftest import HANDBOOK, MODEL, VERTEX, Api, user


def at(shown: str) -> datetime:
    return datetime.fromisoformat(shown)


def test_a_cache_shows_its_life_and_size_and_never_its_contents(api: Api) -> None:
    answer = api.create(ttl="600s", displayName="abc", systemInstruction=user("x" * 400), tools=[{"googleSearch": {}}])
    assert answer.status == 200
    assert set(answer.body) == {
        "name", "model", "displayName", "createTime", "updateTime", "expireTime", "usageMetadata",
    }  # fmt: skip
    assert answer.body["name"].startswith("cachedContents/")
    assert (answer.body["model"], answer.body["displayName"]) == (f"models/{MODEL}", "abc")
    assert at(answer.body["expireTime"]) - at(answer.body["createTime"]) == timedelta(seconds=600)
    assert answer.body["usageMetadata"] == {"totalTokenCount": 2250 + 100 + len('[{"googleSearch":{}}]') // 4 + 1}
    assert api.call("GET", api.path(answer.body["name"])).body == answer.body


def test_on_vertex_names_are_those_of_project_and_location(vertex: Api) -> None:
    body = vertex.create().body
    assert body["name"].startswith("projects/shop/locations/europe-west4/cachedContents/")
    assert body["model"] == f"projects/shop/locations/europe-west4/publishers/google/models/{MODEL}"
    assert vertex.call("GET", vertex.path(body["name"])).body == body
    assert vertex.usage(cachedContent=body["name"])["cachedContentTokenCount"] == 2250
    elsewhere = vertex.call("GET", f"{VERTEX}/cachedContents".replace("europe-west4", "us-central1"))
    assert elsewhere.body == {}


def test_a_cache_lives_for_an_hour_unless_told_otherwise(api: Api) -> None:
    body = api.create().body
    assert at(body["expireTime"]) - at(body["createTime"]) == timedelta(hours=1)
    moment = datetime.now(UTC) + timedelta(minutes=5)
    assert at(api.create(expireTime=moment.isoformat()).body["expireTime"]) == moment


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"ttl": "600"}, "duration"),
        ({"ttl": 600}, "duration"),
        ({"ttl": "0s"}, "future"),
        ({"ttl": "-5s"}, "future"),
        ({"ttl": "999999999999s"}, "9999"),
        ({"expireTime": "2020-01-01T00:00:00Z"}, "future"),
        ({"expireTime": "soon"}, "expireTime"),
        ({"expireTime": "2030-01-01T00:00:00"}, "no zone"),
        ({"ttl": "600s", "expireTime": "2030-01-01T00:00:00Z"}, "Only one"),
        ({"displayName": "x" * 129}, "128"),
        ({"colour": "red"}, '"colour"'),
        ({"contents": ["text"]}, "contents[0]"),
        ({"contents": [{"parts": "text"}]}, "contents[0]"),
    ],
)
def test_a_bad_creation_is_refused(api: Api, body: dict[str, Any], says: str) -> None:
    status, name, message = api.create(**body).error
    assert (status, name) == (400, "INVALID_ARGUMENT")
    assert says in message
    assert api.emulator.caches() == []


def test_a_creation_without_a_model_is_refused(api: Api) -> None:
    answer = api.call("POST", api.caches, {"contents": [user(HANDBOOK)]})
    assert "model is not specified" in answer.error[2]


def test_content_below_the_minimum_is_refused_with_both_counts(api: Api, vertex: Api) -> None:
    message = "Cached content is too small. total_token_count=97, min_total_token_count=1024"
    assert api.create("x" * 388).error == (400, "INVALID_ARGUMENT", message)
    message = "The cached content is of 97 tokens. The minimum token count to start caching is 1024."
    assert vertex.create("x" * 388).error == (400, "INVALID_ARGUMENT", message)
    assert api.create("x" * 4 * 1024).status == 200
    api.emulator.configure(min_cached_tokens=97)
    assert api.create("x" * 388).status == 200


def test_the_free_tier_has_no_room_for_caches(api: Api) -> None:
    api.emulator.configure(free_tier=True)
    status, name, message = api.create().error
    assert (status, name) == (429, "RESOURCE_EXHAUSTED")
    assert message.startswith("TotalCachedContentStorageTokensPerModelFreeTier")
    assert "limit=0, requested=2250" in message


def test_an_unknown_model_is_not_found(api: Api) -> None:
    assert api.create(model="llama").error[:2] == (404, "NOT_FOUND")
    api.emulator.configure(models=["gemini-9"])
    assert api.create().error[:2] == (404, "NOT_FOUND")
    assert api.create(model="gemini-9").status == 200


def test_a_list_has_pages_newest_first(api: Api) -> None:
    assert api.call("GET", api.caches).body == {}
    names = [api.created() for _ in range(5)]
    pages, token = [], ""
    while True:
        body = api.call("GET", f"{api.caches}?pageSize=2&pageToken={token}").body
        pages.append([cache["name"] for cache in body["cachedContents"]])
        if (token := body.get("nextPageToken", "")) == "":
            break
        if len(pages) == 1:
            api.created()  # what is made meanwhile moves nothing
    assert pages == [names[4:2:-1], names[2:0:-1], names[:1]]


def test_a_page_has_fifty_caches_or_as_many_as_the_server_gives(api: Api) -> None:
    api.emulator.seed(MODEL, key=api.key, count=60)
    assert len(api.call("GET", api.caches).body["cachedContents"]) == 50
    assert len(api.call("GET", f"{api.caches}?pageSize=2000").body["cachedContents"]) == 60
    api.emulator.configure(max_page_size=7)
    assert len(api.call("GET", f"{api.caches}?pageSize=2000").body["cachedContents"]) == 7
    assert api.call("GET", f"{api.caches}?pageSize=x").status == 400
    assert api.call("GET", f"{api.caches}?pageToken=x").status == 400
    assert api.call("GET", f"{api.caches}?pageSize=-1").status == 400


def test_only_the_expiry_can_be_updated(api: Api) -> None:
    created = api.create(ttl="600s").body
    path = api.path(created["name"])
    api.emulator.configure(clock_frozen=True)
    api.emulator.advance(500)
    updated = api.call("PATCH", path, {"ttl": "7200s"}).body
    assert at(updated["expireTime"]) - at(updated["updateTime"]) == timedelta(hours=2)
    assert at(updated["updateTime"]) - at(created["updateTime"]) >= timedelta(seconds=500)
    assert updated["createTime"] == created["createTime"]
    moment = "2099-01-01T00:00:00+00:00"
    assert at(api.call("PATCH", f"{path}?updateMask=expireTime", {"expireTime": moment}).body["expireTime"]) == at(
        moment
    )
    for body in ({"displayName": "other"}, {"ttl": "600s", "contents": []}, {}):
        assert "Only the expiration" in api.call("PATCH", path, body).error[2]
    assert "Only the expiration" in api.call("PATCH", f"{path}?updateMask=displayName", {"ttl": "1s"}).error[2]
    assert at(api.call("GET", path).body["expireTime"]) == at(moment)


@pytest.mark.parametrize("end", ["expiry", "deletion"])
def test_an_ended_cache_is_gone_for_every_call(api: Api, end: str) -> None:
    name = api.created(ttl="600s")
    if end == "expiry":
        api.emulator.advance(599)
        assert api.generate(cachedContent=name).status == 200
        api.emulator.advance(1)
    else:
        assert api.call("DELETE", api.path(name)).body == {}
    gone = (403, "PERMISSION_DENIED", "CachedContent not found (or permission denied)")
    assert api.generate(cachedContent=name).error == gone
    assert api.call("GET", api.path(name)).error == gone
    assert api.call("PATCH", api.path(name), {"ttl": "600s"}).error == gone
    assert api.call("DELETE", api.path(name)).error == gone
    assert api.call("GET", api.caches).body == {}


def test_on_vertex_an_expired_cache_and_a_deleted_one_differ(vertex: Api) -> None:
    name = vertex.created(ttl="600s")
    number = name.rpartition("/")[2]
    vertex.emulator.advance(600)
    assert vertex.generate(cachedContent=name).error == (
        400,
        "INVALID_ARGUMENT",
        f"Cache content {number} is expired.",
    )
    name = vertex.created()
    number = name.rpartition("/")[2]
    vertex.call("DELETE", vertex.path(name))
    assert vertex.generate(cachedContent=name).error == (
        404,
        "NOT_FOUND",
        f"Not found: cached content metadata for {number}.",
    )


@pytest.mark.parametrize(("style", "status"), [("permission_denied", 403), ("expired", 400), ("not_found", 404)])
def test_the_way_that_a_missing_cache_fails_can_be_chosen(api: Api, vertex: Api, style: str, status: int) -> None:
    names = [(which, which.created()) for which in (api, vertex)]
    api.emulator.configure(missing_cache=style)
    assert api.emulator.forget() == 2
    assert [which.generate(cachedContent=name).status for which, name in names] == [status, status]


def test_another_key_sees_nothing_of_a_cache(api: Api) -> None:
    name, other = api.created(), Api(api.emulator, key="other-key")
    assert other.call("GET", api.caches).body == {}
    assert other.generate(cachedContent=name).status == 403
    assert other.call("DELETE", api.path(name)).status == 403
    assert api.generate(cachedContent=name).status == 200


def test_two_keys_of_one_project_share_its_caches(api: Api) -> None:
    api.emulator.configure(keys={"one": "shop", "two": "shop", "three": "bank"})
    name = Api(api.emulator, key="one").created()
    assert Api(api.emulator, key="two").generate(cachedContent=name).status == 200
    assert Api(api.emulator, key="three").generate(cachedContent=name).status == 403
    assert api.generate().status == 400


def test_caches_of_others_can_be_put_there(api: Api, vertex: Api) -> None:
    own = api.created(displayName="mine")
    seeded = api.emulator.seed(MODEL, key=api.key, display_name="theirs", tokens=5000, ttl_seconds=60, count=2)
    listed = api.call("GET", api.caches).body["cachedContents"]
    assert [cache["name"] for cache in listed] == [*reversed(seeded), own]
    assert {cache.get("displayName") for cache in listed} == {"mine", "theirs"}
    assert api.usage(cachedContent=seeded[0])["cachedContentTokenCount"] == 5000
    (name,) = api.emulator.seed(MODEL, project="shop", location="europe-west4")
    assert vertex.generate(cachedContent=name).status == 200
    for wrong in ({}, {"key": "a", "project": "b"}, {"key": "a", "count": 0}):
        with pytest.raises(EmulatorError, match=r"key|count"):
            api.emulator.seed(MODEL, **wrong)


def test_a_cache_can_be_deleted_behind_its_users_back(gemini_emulator: GeminiEmulator, api: Api) -> None:
    kept, lost = api.created(), api.created()
    assert gemini_emulator.forget(lost) == 1
    assert (api.generate(cachedContent=kept).status, api.generate(cachedContent=lost).status) == (200, 403)
    assert gemini_emulator.count("delete") == 0
    with pytest.raises(EmulatorError, match=lost):
        gemini_emulator.forget(lost)


def test_storage_is_counted_until_a_cache_ends(gemini_emulator: GeminiEmulator, api: Api) -> None:
    gemini_emulator.configure(clock_frozen=True)
    expiring, deleted, living = api.created(ttl="3600s"), api.created(ttl="36000s"), api.created(ttl="36000s")
    gemini_emulator.advance(7200)
    api.call("DELETE", api.path(deleted))
    gemini_emulator.advance(3600)
    hours = {cache["name"]: (cache["state"], cache["tokenHours"] / 2250) for cache in gemini_emulator.caches()}
    assert hours == {
        expiring: ("EXPIRED", pytest.approx(1)),
        deleted: ("DELETED", pytest.approx(2)),
        living: ("ACTIVE", pytest.approx(3)),
    }
    assert [cache["name"] for cache in gemini_emulator.caches("ACTIVE")] == [living]


def test_the_stable_version_of_the_developer_api_has_no_caches(api: Api) -> None:
    assert api.call("GET", "/v1/cachedContents").status == 404
    body = {"contents": [user("hi")]}
    assert api.call("POST", f"/v1/models/{MODEL}:generateContent", body).status == 200


def test_a_handbook_of_twenty_thousand_tokens_counts_as_such(api: Api) -> None:
    assert api.create("x" * 80_000).body["usageMetadata"] == {"totalTokenCount": 20_000}
    assert len(HANDBOOK) / 4 == 2250
