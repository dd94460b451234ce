from typing import Any

import pytest

from batch_llm.caching import fingerprint

BASE: dict[str, Any] = {
    "provider_kind": "gemini",
    "model": "m",
    "contents": ["ab", "c"],
    "system_instruction": "say",
    "tags": {"team": "x", "v": "1"},
}


@pytest.mark.parametrize(
    "change",
    [
        {"provider_kind": "local"},
        {"model": "m2"},
        {"contents": ["a", "bc"]},
        {"contents": ["c", "ab"]},
        {"contents": ["abc"]},
        {"contents": ["ab", "c", ""]},
        {"system_instruction": ""},
        {"tags": None},
        {"tags": {"team": "x"}},
        {"tags": {"team": "1", "v": "x"}},
        {"model": "msay", "system_instruction": ""},
    ],
    ids=str,
)
def test_each_ingredient_makes_another_cache(change: dict[str, Any]) -> None:
    assert fingerprint(**{**BASE, **change}) != fingerprint(**BASE)


def test_the_same_ingredients_make_the_same_cache() -> None:
    same = {**BASE, "contents": ("ab", "c"), "tags": {"v": "1", "team": "x"}}
    assert fingerprint(**same) == fingerprint(**BASE)
    assert fingerprint(**{**BASE, "tags": {}}) == fingerprint(**{**BASE, "tags": None})


def test_it_stays_the_same_over_releases_or_every_cache_would_be_paid_again() -> None:
    assert (
        fingerprint(provider_kind="gemini", model="m", contents=["é"])
        == "df64623512a925ee5a5be52e691dd1467065b3983adeb55911c4cdf4f590906a"
    )
