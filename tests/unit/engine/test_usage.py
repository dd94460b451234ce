import logging

import pytest

from batch_llm.model import TokenUsage, add_usage, effective_input_tokens


@pytest.fixture(autouse=True)
def not_warned_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batch_llm.model.usage._warned_of_excess", False)


def test_attempts_are_summed_key_by_key() -> None:
    total = TokenUsage()
    add_usage(
        total,
        TokenUsage(input_tokens=100, output_tokens=20, cached_input_tokens=60, thinking_tokens=5, total_tokens=130),
    )
    add_usage(total, TokenUsage(input_tokens=10, output_tokens=2, cached_input_tokens=6, thinking_tokens=1))
    assert total == {
        "input_tokens": 110,
        "output_tokens": 22,
        "total_tokens": 130 + 12,  # as reported where it is, input plus output where it is not
        "cached_input_tokens": 66,
        "thinking_tokens": 6,
    }


@pytest.mark.parametrize("nothing", [None, TokenUsage()])
def test_an_attempt_without_usage_changes_nothing(nothing: TokenUsage | None) -> None:
    total = TokenUsage(input_tokens=7)
    add_usage(total, nothing)
    assert total == {"input_tokens": 7}


def test_more_cached_than_input_is_clamped_per_attempt_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    total = TokenUsage()
    with caplog.at_level(logging.WARNING, "batch_llm"):
        add_usage(total, TokenUsage(input_tokens=10, cached_input_tokens=10))  # equal is fine
        add_usage(total, TokenUsage(input_tokens=10, cached_input_tokens=11))
        add_usage(total, TokenUsage(input_tokens=10, cached_input_tokens=99))
    assert total["cached_input_tokens"] == 30
    assert [record.getMessage() for record in caplog.records] == [
        "a provider reported 11 cached of 10 input tokens; counting 10 as cached"
    ]


@pytest.mark.parametrize(
    ("tokens", "cached", "effective"),
    [
        (100, {}, 100),
        (100, {0.9: 100}, 10),
        (100, {0.75: 40}, 70),
        (10, {0.9: 3}, 8),  # 7.3, rounded up
        (300, {0.9: 100, 0.75: 101, 1.0: 7}, 128),  # 300 - 90 - 75.75 - 7 = 127.25, rounded up once
        (1000, {0.1: 30}, 997),  # 0.1 * 30 is a hair above 3 as floats go
        (1000, {0.29: 100}, 971),  # and 0.29 * 100 a hair below 29
        (5, {1.0: 5}, 0),
    ],
)
def test_effective_tokens_take_each_discount_off_and_round_up(
    tokens: int, cached: dict[float, int], effective: int
) -> None:
    assert effective_input_tokens(tokens, cached) == effective
