import asyncio
import copy
import gc
import logging
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from batch_llm.executor import Executor, Work
from batch_llm.model import BatchLLMError, ErrorReason, ExecutionPolicy, ProviderError, TokenUsage
from batch_llm.shared import SharedStrategy, shared_for
from batch_llm.strategies import LLMCallStrategy
from batch_llm.sync import Limiter
from batch_llm.sync.flight import Flight

Scripted = Callable[..., Any]


def now() -> float:
    return asyncio.get_running_loop().time()


async def hang() -> None:
    await asyncio.sleep(1e9)


async def for_five_seconds() -> None:
    await asyncio.sleep(5)


# -- preparing ---------------------------------------------------------------------------------------------------------


async def test_many_users_prepare_once_and_none_goes_ahead_before(scripted: Scripted) -> None:
    strategy = scripted(prepare=(for_five_seconds,))
    shared = SharedStrategy(strategy)
    start = now()

    async def user() -> float:
        await shared.ready()
        return now() - start

    assert await asyncio.gather(*(user() for _ in range(100))) == [5.0] * 100
    await shared.ready()
    assert strategy.prepares == 1


@pytest.mark.parametrize("victim", [0, 1])
async def test_a_cancelled_waiter_cancels_nobody_else(scripted: Scripted, victim: int) -> None:
    strategy = scripted(prepare=(for_five_seconds,))
    shared = SharedStrategy(strategy)
    users = [asyncio.create_task(shared.ready()) for _ in range(3)]
    await asyncio.sleep(1)
    users[victim].cancel()
    outcomes = await asyncio.gather(*users, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes].count(asyncio.CancelledError) == 1
    assert outcomes.count(None) == 2
    assert strategy.prepares == 1


async def test_a_failure_that_a_cancelled_waiter_does_not_hear_of_is_not_logged_as_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        await for_five_seconds()
        raise ProviderError("no", status=503)

    flight = Flight(fail(), "prepare")
    waiting = asyncio.create_task(flight.wait())
    await asyncio.sleep(1)
    waiting.cancel()
    await asyncio.wait([waiting])
    await asyncio.sleep(5)
    assert flight.done
    del flight, waiting
    gc.collect()
    assert caplog.messages == []


async def test_preparing_goes_on_though_all_who_waited_are_gone(scripted: Scripted) -> None:
    shared = SharedStrategy(scripted(prepare=(for_five_seconds,)))
    user = asyncio.create_task(shared.ready())
    await asyncio.sleep(1)
    user.cancel()
    await asyncio.sleep(5)
    assert shared.prepared


async def test_a_failure_is_told_to_all_who_wait_for_it(scripted: Scripted) -> None:
    async def fail() -> None:
        await asyncio.sleep(5)
        raise ConnectionError("no route")

    strategy = scripted(prepare=(fail,))
    shared = SharedStrategy(strategy, name="triage")
    outcomes = await asyncio.gather(*(shared.ready() for _ in range(10)), return_exceptions=True)
    assert strategy.prepares == 1
    for outcome in outcomes:
        assert isinstance(outcome, ProviderError)
        assert (outcome.reason, outcome.retryable) == (ErrorReason.PREPARE_FAILED, True)
        assert "no route" in str(outcome)


async def test_an_error_that_knows_its_reason_keeps_it(scripted: Scripted) -> None:
    error = BatchLLMError("no key", reason=ErrorReason.AUTHENTICATION_FAILED)
    with pytest.raises(BatchLLMError) as raised:
        await SharedStrategy(scripted(prepare=(error,))).ready()
    assert raised.value is error


async def test_after_failures_that_may_pass_callers_wait_ever_longer_up_to_a_minute(scripted: Scripted) -> None:
    times: list[float] = []

    async def fail() -> None:
        times.append(now())
        raise ConnectionError

    shared = SharedStrategy(scripted(prepare=(fail,)))
    for _ in range(9):
        with pytest.raises(ProviderError):
            await shared.ready()
    assert [later - earlier for earlier, later in pairwise(times)] == [1, 2, 4, 8, 16, 32, 60, 60]


async def test_all_who_wait_out_a_backoff_share_one_next_try(scripted: Scripted) -> None:
    strategy = scripted(prepare=(ConnectionError(), for_five_seconds))
    shared = SharedStrategy(strategy)
    with pytest.raises(ProviderError):
        await shared.ready()
    start = now()
    await asyncio.gather(*(shared.ready() for _ in range(10)))
    assert now() - start == 1 + 5
    assert strategy.prepares == 2


async def test_a_failure_for_good_is_told_at_once_until_its_backoff_is_over(scripted: Scripted) -> None:
    strategy = scripted(prepare=(ValueError("bad checksum"), None))
    shared = SharedStrategy(strategy)
    start = now()
    for _ in range(3):
        with pytest.raises(ProviderError, match="bad checksum") as raised:
            await shared.ready()
        assert not raised.value.retryable
    assert (now() - start, strategy.prepares) == (0, 1)
    await asyncio.sleep(1)
    await shared.ready()
    assert strategy.prepares == 2


async def test_success_forgets_earlier_failures(scripted: Scripted) -> None:
    strategy = scripted(prepare=(ConnectionError(), ConnectionError(), None, ConnectionError(), None))
    shared = SharedStrategy(strategy)
    shared.lease()
    for _ in range(2):
        with pytest.raises(ProviderError):
            await shared.ready()
    await shared.ready()
    await shared.release()
    shared.lease()
    with pytest.raises(ProviderError):
        await shared.ready()
    start = now()
    await shared.ready()
    assert now() - start == 1


async def test_a_failure_told_many_times_does_not_grow(scripted: Scripted) -> None:
    shared = SharedStrategy(scripted(prepare=(ValueError("for good"),)))

    async def frames() -> int:
        try:
            await shared.ready()
        except ProviderError as error:
            count, traceback = 0, error.__traceback__
            while traceback is not None:
                count, traceback = count + 1, traceback.tb_next
            return count
        raise AssertionError

    await frames()
    few = await frames()
    for _ in range(100):
        many = await frames()
    # Each frame holds on to an item: a million items told within one backoff must not be kept for it.
    assert many == few


async def test_preparing_has_a_time_limit(scripted: Scripted) -> None:
    shared = SharedStrategy(scripted(prepare=(hang,)), name="triage", prepare_timeout=30)
    start = now()
    with pytest.raises(ProviderError, match="'triage' was not prepared within 30 s") as raised:
        await shared.ready()
    assert (raised.value.reason, raised.value.retryable) == (ErrorReason.PREPARE_FAILED, True)
    assert now() - start == 30


async def test_a_time_out_of_the_strategys_own_is_not_ours(scripted: Scripted) -> None:
    shared = SharedStrategy(scripted(prepare=(TimeoutError("dns"),)))
    with pytest.raises(ProviderError, match="could not be prepared: TimeoutError: dns"):
        await shared.ready()


async def test_a_slow_strategy_delays_no_other(scripted: Scripted) -> None:
    slow, quick = SharedStrategy(scripted(prepare=(hang,))), SharedStrategy(scripted())
    waiting = asyncio.create_task(slow.ready())
    start = now()
    await asyncio.sleep(0)
    await quick.ready()
    assert now() == start
    waiting.cancel()


async def test_a_prepare_that_cancels_itself_is_a_failure_not_a_cancellation(scripted: Scripted) -> None:
    shared = SharedStrategy(scripted(prepare=(asyncio.CancelledError(),)))
    with pytest.raises(ProviderError):
        await shared.ready()


# -- cleaning up -------------------------------------------------------------------------------------------------------


async def test_cleanup_runs_once_when_the_last_user_leaves(scripted: Scripted) -> None:
    strategy = scripted()
    shared = SharedStrategy(strategy)
    for _ in range(3):
        shared.lease()
    await shared.ready()
    await asyncio.gather(shared.release(), shared.release())
    assert (strategy.cleanups, shared.prepared) == (0, True)
    await shared.release()
    assert (strategy.cleanups, shared.prepared) == (1, False)


async def test_what_was_never_prepared_is_not_cleaned_up(scripted: Scripted) -> None:
    strategy = scripted()
    shared = SharedStrategy(strategy)
    shared.lease()
    await shared.release()
    assert strategy.cleanups == 0


async def test_a_failing_cleanup_is_raised_and_logged(scripted: Scripted, caplog: pytest.LogCaptureFixture) -> None:
    shared = SharedStrategy(scripted(cleanup=OSError("still open")), name="triage")
    shared.lease()
    await shared.ready()
    with caplog.at_level(logging.ERROR, "batch_llm"), pytest.raises(OSError, match="still open"):
        await shared.release()
    assert "cleanup of strategy 'triage' failed" in caplog.text


async def test_a_user_who_comes_during_cleanup_waits_for_it_and_prepares_again(scripted: Scripted) -> None:
    order: list[str] = []

    async def prepare() -> None:
        order.append("prepare")

    async def clean_up() -> None:
        await asyncio.sleep(5)
        order.append("cleaned up")

    shared = SharedStrategy(scripted(prepare=(prepare,), cleanup=clean_up))
    shared.lease()
    await shared.ready()
    leaving = asyncio.create_task(shared.release())
    await asyncio.sleep(1)
    shared.lease()
    await shared.ready()
    assert order == ["prepare", "cleaned up", "prepare"]
    await leaving


async def test_a_user_who_comes_before_cleanup_has_begun_keeps_it_prepared(scripted: Scripted) -> None:
    strategy = scripted()
    shared = SharedStrategy(strategy)
    shared.lease()
    await shared.ready()
    leaving = asyncio.create_task(shared.release())
    await asyncio.sleep(0)
    shared.lease()
    await leaving
    await shared.ready()
    assert (strategy.prepares, strategy.cleanups) == (1, 0)


async def test_cleanup_goes_on_though_its_caller_is_cancelled(scripted: Scripted) -> None:
    done = asyncio.Event()

    async def clean_up() -> None:
        await asyncio.sleep(5)
        done.set()

    shared = SharedStrategy(scripted(cleanup=clean_up))
    shared.lease()
    await shared.ready()
    leaving = asyncio.create_task(shared.release())
    await asyncio.sleep(1)
    leaving.cancel()
    await done.wait()


async def test_leaving_while_it_is_prepared_cancels_that(
    scripted: Scripted, left_behind: Callable[[], set[str]]
) -> None:
    strategy = scripted(prepare=(hang, None))
    shared = SharedStrategy(strategy)
    shared.lease()
    user = asyncio.create_task(shared.ready())
    await asyncio.sleep(1)
    user.cancel()
    await shared.release()
    assert left_behind() == set()
    assert strategy.cleanups == 0
    shared.lease()
    await shared.ready()
    assert strategy.prepares == 2


# -- instances and signatures ------------------------------------------------------------------------------------------


async def test_an_instance_has_one_shared_strategy_and_a_copy_its_own(scripted: Scripted) -> None:
    strategy = scripted()
    shared = shared_for(strategy)
    assert shared_for(strategy) is shared
    other = shared_for(copy.copy(strategy))
    assert other is not shared
    await shared.ready()
    assert not other.prepared


async def test_a_deep_copy_of_a_used_strategy_has_its_own(scripted: Scripted) -> None:
    strategy = scripted()
    await shared_for(strategy).ready()
    duplicate = copy.deepcopy(strategy)
    assert not shared_for(duplicate).prepared


@pytest.mark.parametrize(
    ("own", "providers", "limit"), [(None, None, None), (4, None, 4), (None, 6, 6), (4, 6, 4), (9, 6, 6)]
)
def test_the_tighter_limit_counts(
    scripted: Scripted, own: int | None, providers: int | None, limit: int | None
) -> None:
    strategy = scripted(limiter=Limiter(providers) if providers else None)
    assert SharedStrategy(strategy, max_concurrency=own).max_concurrency == limit


class WithState(LLMCallStrategy[Any]):
    async def execute(self, prompt: str, attempt: int, timeout: float, state: Any = None) -> Any:
        return state, TokenUsage()


class WithKeywordState(LLMCallStrategy[Any]):
    async def execute(self, prompt: str, attempt: int, timeout: float, *, state: Any = None) -> Any:  # type: ignore[override]
        return state, TokenUsage()


class WithAnything(LLMCallStrategy[Any]):
    async def execute(self, *args: Any) -> Any:
        return args[3], TokenUsage()


class WithoutState(LLMCallStrategy[Any]):
    async def execute(self, prompt: str, attempt: int, timeout: float) -> Any:  # type: ignore[override]
        return None, TokenUsage()

    async def on_error(self, exception: Exception, attempt: int) -> None:  # type: ignore[override]
        self.seen = (exception, attempt)


@pytest.mark.parametrize("kind", [WithState, WithKeywordState, WithAnything])
async def test_a_strategy_gets_the_items_state(kind: type[LLMCallStrategy[Any]]) -> None:
    state = {"a": 1}
    output, _, _ = await SharedStrategy(kind()).execute("p", 1, 9.0, state)
    assert output is state


async def test_a_strategy_may_leave_state_out() -> None:
    strategy = WithoutState()
    shared = SharedStrategy(strategy)
    assert await shared.execute("p", 1, 9.0, {}) == (None, {}, {})
    error = ValueError()
    await shared.on_error(error, 2, {})
    assert strategy.seen == (error, 2)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        *[("cache_discount", value) for value in (None, "0.9", True, math.nan, -0.1, 1.1, 90)],
        ("limiter", 5),
        ("quota_key", ["eu"]),
        ("quota_key", ("eu", [])),
        ("output_model", dict),
        ("output_model", '{"type": "object"}'),
        ("escalation", "larger"),
        ("escalation", None),
    ],
)
def test_an_attribute_that_makes_no_sense_is_refused(scripted: Scripted, attribute: str, value: Any) -> None:
    strategy = scripted()
    setattr(strategy, attribute, value)
    for share in (SharedStrategy, shared_for):
        with pytest.raises(ValueError, match=f"^{attribute} must .*, got .*; "):
            share(strategy)


@pytest.mark.parametrize("step", [None, print, "larger"])
def test_a_step_that_is_no_strategy_is_refused(scripted: Scripted, step: Any) -> None:
    strategy = scripted()
    strategy.escalation = [step]
    with pytest.raises(TypeError, match=r"^a strategy must be an LLMCallStrategy, got .*; wrap a function"):
        shared_for(strategy)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *[("max_concurrency", value) for value in (0, -1, True, 2.5, "2")],
        *[("prepare_timeout", value) for value in (0, -1, math.inf, math.nan, "600", True, None)],
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(scripted: Scripted, setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{setting} must .*, got .*; "):
        SharedStrategy(scripted(), **{setting: value})


async def test_a_limiter_that_prepare_has_made_holds_items_back_before_their_attempts(scripted: Scripted) -> None:
    strategy = scripted("ok", latency=10)

    async def limit() -> None:
        strategy.limiter = Limiter(1)

    strategy._prepare = (limit,)
    shared = SharedStrategy(strategy, policy=ExecutionPolicy(attempt_timeout=15))
    executor, start = Executor(), now()
    shared.lease()
    ends = {}

    async def run(number: int) -> None:
        result = await executor.run(Work(str(number), "", shared, tenant=number > 3))
        assert result.success
        ends[number] = now() - start

    await asyncio.gather(*map(run, range(5)))
    await shared.release()
    assert (strategy.peak, shared.max_concurrency) == (1, 1)
    assert ends == {0: 10, 1: 20, 4: 30, 2: 40, 3: 50}, "tenants take turns"
