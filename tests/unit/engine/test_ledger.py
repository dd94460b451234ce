"""The rules of a budget that many sidecars share. Time is a number."""

import json
from random import Random

import pytest

from batch_llm.quota.ledger import GRANT_SECONDS, NOTHING, Amount, Ask, Ledger
from batch_llm.quota.window import NO_LIMIT


def requests(limit: int) -> Amount:
    return Amount(limit, NO_LIMIT)


def test_a_grant_counts_until_a_minute_after_its_last_moment() -> None:
    ledger = Ledger()
    assert ledger.draw(1000.0, "a", Ask(requests(5), 5)).granted == (5, 0)
    assert ledger.draw(1060.9, "b", Ask(requests(5), 5)).granted == NOTHING
    assert ledger.draw(1061.5, "b", Ask(requests(5), 5)).granted == (5, 0)


def test_whatever_is_drawn_and_corrected_no_minute_has_more_than_the_limit() -> None:
    random = Random(3)
    limit = Amount(100, 5000)
    ledger, now = Ledger(), 5000.0
    used: list[tuple[float, int, int]] = []
    for _ in range(4000):
        now += random.expovariate(2)
        ledger = Ledger(json.loads(json.dumps(ledger.state)))
        ask = Ask(limit, random.randrange(30), random.randrange(1, 200), 50, random.randrange(10))
        answer = ledger.draw(now, random.choice("abcd"), ask)
        calls, tokens = answer.granted
        if calls and random.random() < 0.3:  # used in part
            back = random.randrange(calls)
            ledger.draw(now, "e", Ask(limit, corrections={answer.key: Amount(-back, -50 * back)}))
            calls, tokens = calls - back, tokens - 50 * back
        used.append((now + GRANT_SECONDS * random.random(), calls, tokens))
    used.sort()
    first, calls, tokens, most = 0, 0, 0, 0
    for at, more_calls, more_tokens in used:
        calls, tokens = calls + more_calls, tokens + more_tokens
        while used[first][0] <= at - 60:
            calls, tokens = calls - used[first][1], tokens - used[first][2]
            first += 1
        assert calls <= limit.requests
        assert tokens <= limit.tokens
        most = max(most, tokens)
    assert most > 4500


def test_what_is_drawn_ahead_leaves_half_of_the_rest() -> None:
    assert Ledger().draw(0.0, "a", Ask(requests(100), 10, ahead=60)).granted.requests == 10 + 45
    assert Ledger().draw(0.0, "a", Ask(requests(100), 10, ahead=4)).granted.requests == 10 + 4
    assert Ledger().draw(0.0, "a", Ask(requests(100), 0, ahead=4)).granted.requests == 0


def test_those_in_line_share_a_second_s_worth() -> None:
    ledger = Ledger()
    ledger.draw(0.0, "z", Ask(requests(600), 600))
    for member in "ab":
        ledger.draw(1.0, member, Ask(requests(600), 500))
    for now in (5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0, 45.0, 50.0, 55.0, 60.0):
        for member in "ab":
            ledger.draw(now, member, Ask(requests(600), 500))
    grants = [ledger.draw(62.0, member, Ask(requests(600), 500)).granted.requests for member in "abab"]
    assert grants == [5, 5, 5, 5]


def test_more_tokens_than_the_whole_budget_wait_for_an_empty_minute() -> None:
    ledger, large = Ledger(), Ask(Amount(NO_LIMIT, 100), 1, 250, 250)
    assert ledger.draw(0.0, "a", Ask(Amount(NO_LIMIT, 100), 1, 1, 1)).granted == (1, 1)
    assert ledger.draw(1.0, "b", large).granted == NOTHING
    assert ledger.draw(62.0, "b", large).granted == (1, 250)


@pytest.mark.parametrize("back", [3600.0, 30.0])
def test_a_clock_that_is_set_back_holds_nobody_up_for_long(back: float) -> None:
    ledger = Ledger()
    ledger.draw(10_000.0, "a", Ask(requests(1), 1))
    ledger.draw(10_000.0, "b", Ask(requests(1), 1))
    now = 10_000.0 - back
    assert ledger.draw(now, "c", Ask(requests(1), 1)).granted == NOTHING
    assert ledger.draw(now + 75.0, "c", Ask(requests(1), 1)).granted == (1, 0)


def test_a_time_from_a_moment_ago_shortens_no_grant() -> None:
    ledger = Ledger()
    ledger.draw(1000.6, "a", Ask(requests(1), 1))
    ledger.draw(1000.1, "b", Ask(requests(1)))  # it had to wait for the store
    assert ledger.draw(1061.9, "b", Ask(requests(1), 1)).granted == NOTHING
