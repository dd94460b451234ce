"""What one sidecar says of a budget that it shares, and when. Time is a number."""

import pytest

from batch_llm.quota import Admission, QuotaLimits
from batch_llm.quota.leased import LeasedBudget
from batch_llm.quota.ledger import NOTHING, Amount, Answer
from batch_llm.quota.store import Place


class Lessor:
    def __init__(self) -> None:
        self.alone = False
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1


@pytest.fixture
def lessor() -> Lessor:
    return Lessor()


@pytest.fixture
def budget(lessor: Lessor) -> LeasedBudget:
    return LeasedBudget(QuotaLimits(tokens_per_minute=1000), lessor)


def answer(granted: Amount = NOTHING, wait: float = 0.0) -> Answer:
    return Answer(7, granted, wait, NOTHING)


def called(budget: LeasedBudget, now: float, tokens: int = 100) -> Admission:
    admission = Admission(now, 1, 0)
    budget.take(admission, tokens)
    return admission


def granted(budget: LeasedBudget, now: float, amount: Amount) -> None:
    budget.wait(now, 100)
    assert budget.ask(now, amount.requests, 100, 100) is not None
    budget.answered(now, answer(amount))


def test_it_asks_once_for_all_that_wait(budget: LeasedBudget, lessor: Lessor) -> None:
    assert [budget.wait(100.0, 100), budget.wait(100.0, 100), lessor.woken, budget.next_at] == [None, None, 1, 100.0]
    budget.ask(100.0, 2, 100, 100)
    assert budget.wait(100.0, 100) is None
    assert lessor.woken == 1, "while it asks it does not ask again"
    budget.answered(100.0, answer(Amount(2, 200)))
    for _ in range(2):
        assert budget.wait(100.1, 100) == 0
        called(budget, 100.1)
    assert budget.wait(100.1, 100) is None
    assert lessor.woken == 2


def test_what_it_has_not_used_in_time_is_given_back(budget: LeasedBudget) -> None:
    granted(budget, 100.0, Amount(3, 300))
    called(budget, 100.5)
    assert budget.wait(101.0, 100) is None
    ask = budget.ask(101.0, 0, 0, 100)
    assert ask is not None
    assert ask.corrections == {7: (-2, -200)}


def test_what_a_call_really_used_is_said(budget: LeasedBudget) -> None:
    granted(budget, 100.0, Amount(3, 300))
    first, second, third = (called(budget, 100.0) for _ in range(3))
    budget.correct(first, 130)
    budget.correct(second, 20)
    budget.give_back(third)
    ask = budget.ask(105.0, 0, 0, 100)
    assert ask is not None
    assert ask.corrections == {7: (-1, 30 - 80 - 100)}
    assert budget.ask(106.0, 0, 0, 100) is None, "once"


def test_when_an_ask_fails_nothing_is_forgotten_and_nothing_given_back_twice(budget: LeasedBudget) -> None:
    granted(budget, 100.0, Amount(2, 200))
    first, second = (called(budget, 100.0) for _ in range(2))
    budget.correct(first, 130)
    budget.give_back(second)
    called(budget, 100.0, 50)  # without a grant
    ask = budget.ask(101.0, 0, 0, 100)
    assert ask is not None
    assert (ask.used, ask.corrections) == ((1, 50), {7: (-1, -70)})
    budget.failed(101.5, ask)
    budget.correct(first, 140)
    again = budget.ask(102.0, 0, 0, 100)
    assert again is not None
    assert again.used == (1, 50)
    assert again.corrections[7].requests == 0
    assert again.corrections[7].tokens > 0


def test_what_is_used_without_the_store_is_said_as_it_was(budget: LeasedBudget, lessor: Lessor) -> None:
    granted(budget, 100.0, Amount(1, 100))
    called(budget, 100.0)
    lessor.alone = True
    budget.fall_back(101.0, 30.0, Place(2, 0))  # more than a minute ago
    assert budget.wait(101.0, 100) == 0
    assert budget.wait(101.0, 501) != 0, "more than the slice"
    first, second = (called(budget, 101.0) for _ in range(2))
    budget.correct(first, 30)
    budget.give_back(second)
    ask = budget.ask(102.0, 9, 100, 100)
    assert ask is not None
    assert (ask.calls, ask.used) == (0, (1, 30))


def test_what_it_was_told_to_wait_for_may_come_sooner(budget: LeasedBudget) -> None:
    granted(budget, 100.0, Amount(1, 100))
    call = called(budget, 100.0)
    budget.wait(100.0, 100)
    budget.ask(100.0, 1, 100, 100)
    budget.answered(100.0, answer(wait=5.0))
    assert budget.next_at == 105.0
    budget.correct(call, 10)
    assert budget.next_at == 100.5


def test_it_says_when_it_no_longer_waits(budget: LeasedBudget) -> None:
    budget.wait(100.0, 100)
    budget.ask(100.0, 1, 100, 100)
    budget.answered(100.0, answer(wait=5.0))
    ask = budget.ask(105.0, 0, 0, 0)
    assert ask is not None
    assert ask.calls == 0
    budget.answered(105.0, answer())
    assert budget.ask(106.0, 0, 0, 0) is None
