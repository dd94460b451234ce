"""The sliding window: never more than the limit in any 60 seconds."""

import random

import pytest

from batch_llm.quota import SlidingWindow


def test_what_is_taken_counts_for_sixty_seconds() -> None:
    window = SlidingWindow(2)
    for now in (0.0, 1.0):
        assert window.wait(now) == 0
        window.take(now)
    assert window.wait(10.0) == pytest.approx(50.0)
    assert window.wait(60.0) == 0
    window.take(60.0)
    assert window.wait(60.0) == pytest.approx(1.0)


def test_amounts_wait_for_as_much_as_they_need() -> None:
    window = SlidingWindow(100)
    window.take(0.0, 60)
    window.take(20.0, 30)
    assert window.wait(30.0, 10) == 0
    assert window.wait(30.0, 11) == pytest.approx(30.0)
    assert window.wait(30.0, 80) == pytest.approx(50.0)
    assert window.wait(30.0, 1000) == pytest.approx(50.0)  # more than the budget: an empty window


def test_corrections_count_until_the_minute_is_over() -> None:
    window = SlidingWindow(100)
    entry = window.take(0.0, 50)
    window.adjust(entry, 30)
    assert window.total(1.0) == 80
    window.adjust(entry, -80)
    assert window.total(1.0) == 0
    assert window.total(61.0) == 0
    window.adjust(entry, 50)
    assert window.total(61.0) == 0


def test_a_long_random_run_never_exceeds_the_limit_in_any_minute_and_stays_small() -> None:
    draw = random.Random(7)
    window, taken, now = SlidingWindow(500), [], 0.0
    for _ in range(5000):
        now += draw.expovariate(12.0)
        now += window.wait(now)
        window.take(now)
        taken.append(now)
    for index, start in enumerate(taken):
        inside = sum(1 for time in taken[index : index + 501] if time < start + 60.0)
        assert inside <= 500
    assert len(window._entries) <= 601
