import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from batch_llm.executor import Executor, Rejection, Work
from batch_llm.model import (
    AnyResult,
    BatchResult,
    ErrorInfo,
    ErrorReason,
    ExecutionPolicy,
    OutputValidationError,
    ProviderError,
    RetryConfig,
    TokenUsage,
)
from batch_llm.quota import FixedDelayStrategy, QuotaLimits, QuotaScope, QuotaUser
from batch_llm.shared import SharedStrategy
from batch_llm.strategies import LLMCallStrategy
from batch_llm.sync import Limiter

R = ErrorReason
Scripted = Callable[..., Any]


def now() -> float:
    return asyncio.get_running_loop().time()


def work(strategy: Any, /, *, timeout: float | None = None, **fields: Any) -> Work:
    shared = strategy if isinstance(strategy, SharedStrategy) else SharedStrategy(strategy)
    deadline = None if timeout is None else now() + timeout
    return Work("1", "prompt", shared, accepted_at=now(), deadline=deadline, **fields)


def policy(attempts: int = 3, *, attempt_timeout: float = 120.0, check: Any = None, **retry: Any) -> ExecutionPolicy:
    return ExecutionPolicy(RetryConfig(attempts, **{"jitter": False, **retry}), attempt_timeout, check)


async def run(strategy: Any, *args: Any, timeout: float | None = None, **kwargs: Any) -> AnyResult:
    return await Executor(policy(*args, **kwargs)).run(work(strategy, timeout=timeout))


async def hang() -> None:
    await asyncio.sleep(1e9)


def unavailable(**fields: Any) -> ProviderError:
    return ProviderError("down", status=503, **fields)


# -- results ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (("out", TokenUsage(input_tokens=1)), ("", None, "")),
        (
            (
                "out",
                TokenUsage(input_tokens=1),
                {"finish_reason": "stop", "safety_ratings": {"a": "low"}, "model": "m"},
            ),
            ("stop", {"a": "low"}, "m"),
        ),
    ],
    ids=["two", "three"],
)
async def test_a_reply_has_two_parts_or_three(scripted: Scripted, reply: Any, said: Any) -> None:
    strategy = scripted(reply)
    strategy.cache_discount = 0.5
    context = object()
    item = work(strategy, context=context, strategy="triage", index=7)
    item.accepted_at -= 2
    result = await Executor().run(item)
    assert (result.success, result.output, result.error, result.reason) == (True, "out", None, None)
    assert (result.finish_reason, result.gemini_safety_ratings, result.model) == said
    assert (result.item_id, result.strategy, result.submission_index) == ("1", "triage", 7)
    assert result.context is context
    assert (result.attempts, result.elapsed_seconds, result.cache_discount) == (1, 2, 0.5)


async def test_a_rejected_item_is_not_run(scripted: Scripted) -> None:
    strategy = scripted()
    item = work(strategy, context=b"c", rejection=Rejection(R.INVALID_ITEM, "no prompt", {"field": "prompt"}))
    result = await Executor().run(item)
    assert (result.success, result.reason, result.error) == (False, R.INVALID_ITEM, "no prompt")
    assert (result.error_metadata, result.context, result.attempts) == ({"field": "prompt"}, b"c", 0)
    assert (strategy.prepares, strategy.calls) == (0, [])


async def test_a_failure_tells_what_its_error_knows(scripted: Scripted) -> None:
    error = ProviderError("too long", reason=R.CONTEXT_LENGTH_EXCEEDED, retry_after=4, metadata={"prompt_tokens": "9"})
    result = await run(scripted(error))
    assert (result.success, result.output, result.error) == (False, None, "too long")
    assert (result.reason, result.retryable, result.retry_after) == (R.CONTEXT_LENGTH_EXCEEDED, False, 4)
    assert result.error_metadata == {"prompt_tokens": "9"}


@pytest.mark.parametrize(
    ("error", "message"), [(KeyError("label"), "KeyError: 'label'"), (ConnectionError(), "ConnectionError: ")]
)
async def test_a_bug_or_a_silent_error_is_named_by_its_type(scripted: Scripted, error: Exception, message: str) -> None:
    assert (await run(scripted(error), 1)).error == message


# -- retries ---------------------------------------------------------------------------------------------------------


async def test_waits_grow_up_to_the_longest(scripted: Scripted) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    strategy = scripted(unavailable())
    config = policy(6, initial_wait=1.5, max_wait=10, exponential_base=2)
    result = await Executor(config, sleep=sleep).run(work(strategy))
    assert waits == [1.5, 3, 6, 10, 10]
    assert (result.attempts, result.reason, result.retryable) == (6, R.PROVIDER_UNAVAILABLE, True)
    assert [attempt for _, attempt in strategy.calls] == [1, 2, 3, 4, 5, 6]


async def test_jitter_draws_between_zero_and_the_whole_wait(scripted: Scripted) -> None:
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return high / 4

    start = now()
    config = policy(3, initial_wait=4, max_wait=60, jitter=True)
    await Executor(config, uniform=uniform).run(work(scripted(unavailable())))
    assert drawn == [(0, 4), (0, 8)]
    assert now() - start == 1 + 2


@pytest.mark.parametrize(
    ("retry_after", "waited"), [(10, 10), (1000, 60), (0.5, 2), (None, 2)], ids=["floor", "capped", "shorter", "none"]
)
async def test_what_the_provider_asks_for_is_a_floor_up_to_the_longest_wait(
    scripted: Scripted, retry_after: float | None, waited: float
) -> None:
    start = now()
    result = await run(scripted(unavailable(retry_after=retry_after), "ok"), initial_wait=2, max_wait=60)
    assert (result.success, now() - start) == (True, waited)


async def test_full_jitter_never_goes_below_what_the_provider_asks_for(scripted: Scripted) -> None:
    start = now()
    config = policy(2, initial_wait=20, jitter=True)
    await Executor(config, uniform=lambda low, high: low).run(work(scripted(unavailable(retry_after=7), "ok")))
    assert now() - start == 7


@pytest.mark.parametrize("error", [ProviderError("no", status=400), ProviderError("no", status=401), ValueError("bug")])
async def test_what_another_attempt_cannot_mend_fails_at_once(scripted: Scripted, error: Exception) -> None:
    start = now()
    result = await run(scripted(error, "ok"))
    assert (result.success, result.attempts, now() - start) == (False, 1, 0)


@pytest.mark.parametrize(("fails", "success"), [(2, True), (3, False)])
async def test_the_last_attempt_counts(scripted: Scripted, fails: int, success: bool) -> None:
    result = await run(scripted(*[unavailable()] * fails, "ok"), 3)
    assert (result.success, result.attempts) == (success, 3)
    assert (result.error is None, result.output is None) == (success, not success)


async def test_a_custom_classifier_decides(scripted: Scripted) -> None:
    class Everything:
        def classify(self, exception: BaseException) -> ErrorInfo:
            return ErrorInfo(is_retryable=True, is_rate_limit=False, is_timeout=True, error_category="x")

    executor = Executor(policy(2), classifier=Everything())
    result = await executor.run(work(scripted(ValueError("not a bug here"))))
    assert (result.attempts, result.reason) == (2, R.PROVIDER_TIMEOUT)


async def test_a_strategys_own_policy_beats_the_executors(scripted: Scripted) -> None:
    shared = SharedStrategy(scripted(unavailable()), policy=policy(5))
    assert (await Executor(policy(2)).run(work(shared))).attempts == 5


# -- validation ------------------------------------------------------------------------------------------------------


async def test_a_failed_validation_is_tried_again_at_once_and_counted(scripted: Scripted) -> None:
    def check(output: str) -> str:
        if output == "bad":
            raise OutputValidationError(["at a: no"], output)
        return output

    paid = TokenUsage(input_tokens=10, output_tokens=1)
    start = now()
    result = await run(scripted(("bad", paid), ("bad", paid), ("good", paid)), initial_wait=30, check=check)
    assert (result.success, result.output, result.attempts, now() - start) == (True, "good", 3, 0)
    assert result.token_usage["input_tokens"] == 30

    result = await run(scripted(("bad", paid)), 2, initial_wait=30, check=check)
    assert (result.success, result.output, result.reason, now() - start) == (False, None, R.VALIDATION_FAILED, 0)
    assert result.error_metadata == {"errors": "at a: no", "last_output": "bad"}
    assert result.token_usage["input_tokens"] == 20


async def test_the_errors_are_fed_back_to_the_model_for_this_item_only(scripted: Scripted) -> None:
    def check(output: str) -> str:
        if output == "bad":
            raise OutputValidationError(["at label: no"], output)
        return output

    shared = SharedStrategy(scripted("bad", "good"), policy=policy(check=check))
    executor = Executor()
    assert (await executor.run(work(shared))).success
    assert (await executor.run(work(shared))).success
    prompts = [prompt for prompt, _ in shared.strategy.calls]
    assert prompts[0] == prompts[2] == "prompt"
    assert prompts[1] == prompts[3]
    assert prompts[1].startswith("prompt\n\nYour last answer was:\nbad\n\n")
    assert "- at label: no" in prompts[1]


async def test_an_output_model_gives_the_parsed_object_and_its_text(scripted: Scripted) -> None:
    class Answer(BaseModel):
        n: int

    strategy = scripted('{"n": "x"}', '{"n": 3}')
    strategy.output_model = Answer
    result = await run(strategy)
    assert (result.output, result.text, result.attempts) == (Answer(n=3), '{"n": 3}', 2)
    assert "at n:" in strategy.calls[1][0]


async def test_failed_validations_move_up_and_other_failures_stay(scripted: Scripted) -> None:
    def check(output: str) -> str:
        if output != "good":
            raise OutputValidationError(["no"], output)
        return output

    paid = TokenUsage(input_tokens=100, cached_input_tokens=100)
    small, middle, large = (
        scripted(("bad", paid, {"model": "small"})),
        scripted(unavailable(), unavailable(), ("bad", paid, {"model": "middle"})),
        scripted(("good", paid, {"model": "large"})),
    )
    small.cache_discount, middle.cache_discount, large.cache_discount = 0.9, 0.75, 0.5
    small.escalation = [middle, large]
    result = await run(small, 5, check=check, initial_wait=0)
    assert (result.output, result.model, result.attempts) == ("good", "large", 4)
    assert [len(strategy.calls) for strategy in (small, middle, large)] == [1, 2, 1]
    saved = BatchResult([result]).total_input_tokens - BatchResult([result]).effective_input_tokens()
    assert saved == 90 + 75 + 50  # each at its own discount

    small.escalation = []
    again = await run(small, 3, check=check, initial_wait=0)
    assert (again.reason, again.attempts) == (R.VALIDATION_FAILED, 3)


# -- rate limits -----------------------------------------------------------------------------------------------------


def throttled(**fields: Any) -> ProviderError:
    return ProviderError("slow down", status=429, **fields)


class ByCall(LLMCallStrategy[Any]):
    """A step for each call, whatever the attempt's number."""

    def __init__(self, *steps: Any) -> None:
        self.steps = steps
        self.attempts: list[int] = []

    async def execute(self, prompt: str, attempt: int, timeout: float) -> Any:
        self.attempts.append(attempt)
        step = self.steps[min(len(self.attempts), len(self.steps)) - 1]
        if isinstance(step, Exception):
            raise step
        return step, TokenUsage(input_tokens=1)


def executor_with(pause: float, **fields: Any) -> Executor:
    return Executor(policy(**fields), quota_user=QuotaUser(strategy=FixedDelayStrategy(pause)))


async def test_a_429_is_no_attempt_and_pauses(scripted: Scripted) -> None:
    strategy = ByCall(throttled(), throttled(), unavailable(), throttled(), "ok")
    start = now()
    result = await executor_with(10, initial_wait=1).run(work(strategy))
    assert (result.output, result.attempts, strategy.attempts) == ("ok", 2, [1, 1, 1, 2, 2])
    assert now() - start == 10 + 10 + 1 + 10


async def test_throttled_calls_are_bounded_apart_from_attempts() -> None:
    strategy = ByCall(throttled(retry_after=2))
    start = now()
    result = await executor_with(1, attempts=2, max_rate_limit_retries=4).run(work(strategy))
    assert (result.success, result.reason, result.retry_after) == (False, R.RATE_LIMITED, 2)
    assert (len(strategy.attempts), now() - start) == (5, 8)


async def test_a_days_quota_fails_at_once_and_pauses_nobody() -> None:
    executor = executor_with(10)
    shared = SharedStrategy(ByCall(throttled(retryable=False), "ok"))
    result = await executor.run(work(shared))
    assert (result.reason, result.attempts, result.retryable) == (R.RATE_LIMITED, 1, False)
    start = now()
    assert (await executor.run(work(shared))).success
    assert now() == start


async def test_a_429_of_one_item_holds_up_all_of_its_scope_and_no_other() -> None:
    executor = executor_with(30)
    start = now()
    limited, other = SharedStrategy(ByCall(throttled(), "ok")), SharedStrategy(ByCall("ok"))
    await asyncio.gather(executor.run(work(limited)), executor.run(work(other)))
    ends = {}

    async def end(name: str, shared: SharedStrategy) -> None:
        await executor.run(work(shared))
        ends[name] = now() - start

    limited.strategy.attempts.clear()
    await asyncio.gather(end("limited", limited), end("other", other), end("limited too", limited))
    assert ends == {"limited": 60, "other": 30, "limited too": 60}


async def test_strategies_with_one_quota_key_share_a_pause() -> None:
    first, second = ByCall(throttled(), "ok"), ByCall("ok")
    first.quota_key = second.quota_key = ("key", "model")
    executor = executor_with(30)
    start = now()
    task = asyncio.create_task(executor.run(work(first)))
    await asyncio.sleep(1)
    await executor.run(work(second))
    assert now() - start == 30
    assert (await task).success


async def test_waiting_for_the_quota_is_outside_the_attempts_limit_and_inside_the_items(scripted: Scripted) -> None:
    executor = executor_with(50, attempt_timeout=5)
    assert (await executor.run(work(ByCall(throttled(), "ok")))).success
    result = await executor.run(work(ByCall(throttled(), "ok"), timeout=20))
    assert (result.reason, result.attempts) == (R.ITEM_DEADLINE_EXCEEDED, 0)


# -- tokens ----------------------------------------------------------------------------------------------------------


async def test_tokens_of_failed_attempts_count_though_a_later_one_succeeds(scripted: Scripted) -> None:
    failed = unavailable(token_usage=TokenUsage(input_tokens=100, cached_input_tokens=40))
    result = await run(scripted(failed, unavailable(), ("ok", TokenUsage(input_tokens=10, output_tokens=5))))
    assert result.success
    assert (result.token_usage["input_tokens"], result.token_usage["cached_input_tokens"]) == (110, 40)
    assert (result.token_usage["output_tokens"], result.token_usage["total_tokens"]) == (5, 115)


async def test_tokens_survive_the_items_deadline(scripted: Scripted) -> None:
    failed = unavailable(token_usage=TokenUsage(input_tokens=100))
    result = await run(scripted(failed, hang), timeout=7, initial_wait=1)
    assert (result.reason, result.attempts, result.elapsed_seconds) == (R.ITEM_DEADLINE_EXCEEDED, 2, 7)
    assert result.token_usage["input_tokens"] == 100


async def cut_short() -> None:
    """An attempt that has spent something before it is cancelled."""
    try:
        await hang()
    except asyncio.CancelledError as error:
        error.token_usage = TokenUsage(input_tokens=30)  # type: ignore[attr-defined]
        raise


@pytest.mark.parametrize("limits", [{"attempt_timeout": 5}, {"timeout": 5}], ids=["attempt", "item"])
async def test_tokens_of_an_attempt_that_is_cut_short_count(scripted: Scripted, limits: dict[str, float]) -> None:
    result = await run(scripted(cut_short), 1, **limits)
    assert not result.success
    assert result.token_usage["input_tokens"] == 30


async def test_tokens_count_though_the_strategy_cannot_give_feedback(
    scripted: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    def check(output: Any) -> Any:
        raise OutputValidationError(["no"], output)

    strategy = scripted(("bad", TokenUsage(input_tokens=30)))
    strategy.with_feedback = lambda prompt, output, errors: 1 / 0
    result = await run(strategy, check=check)
    assert (result.reason, result.attempts, result.token_usage["input_tokens"]) == (R.INTERNAL, 1, 30)
    assert "ZeroDivisionError" in (result.error or "")
    assert "'1' ended by an error outside its calls" in caplog.text


async def test_a_classifier_that_fails_is_replaced_by_the_default_one(
    scripted: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def classify(self, exception: BaseException) -> ErrorInfo:
            raise TimeoutError("classifier")

    failed = ProviderError("no", status=400, token_usage=TokenUsage(input_tokens=30))
    result = await Executor(policy(), classifier=Broken()).run(work(scripted(failed)))
    assert (result.reason, result.token_usage["input_tokens"]) == (R.PROVIDER_REJECTED, 30)
    assert "the error classifier failed" in caplog.text


@pytest.mark.parametrize("reply", [("out",), "out", None, ("out", TokenUsage(input_tokens=30), "stop")])
async def test_a_reply_of_another_shape_is_told_and_keeps_its_tokens(reply: Any) -> None:
    class Misshapen(LLMCallStrategy[Any]):
        async def execute(self, prompt: str, attempt: int, timeout: float) -> Any:
            return reply

    result = await run(Misshapen(), 1)
    assert (result.reason, result.attempts) == (R.INTERNAL, 1)
    assert "execute() must return" in (result.error or "")
    assert result.token_usage.get("input_tokens", 0) == (30 if isinstance(reply, tuple) and len(reply) == 3 else 0)


# -- time ------------------------------------------------------------------------------------------------------------


async def test_a_deadline_holds_though_the_strategy_hides_its_cancellation(scripted: Scripted) -> None:
    async def hide() -> None:
        try:
            await hang()
        except asyncio.CancelledError:
            raise ConnectionError("gone") from None

    strategy = scripted(hide)
    result = await run(strategy, timeout=1, initial_wait=60)
    assert (result.reason, result.elapsed_seconds) == (R.ITEM_DEADLINE_EXCEEDED, 1)
    assert strategy.errors == []


async def test_the_attempt_time_out_bounds_one_attempt(scripted: Scripted) -> None:
    result = await run(scripted(hang), 2, attempt_timeout=5, initial_wait=3)
    assert (result.reason, result.retryable, result.attempts) == (R.ATTEMPT_TIMEOUT, True, 2)
    assert result.elapsed_seconds == 5 + 3 + 5


async def test_a_strategy_is_told_its_time_limit() -> None:
    class Patient(LLMCallStrategy[float]):
        async def execute(self, prompt: str, attempt: int, timeout: float, state: Any = None) -> Any:
            return timeout, TokenUsage()

    assert (await run(Patient(), attempt_timeout=5)).output == 5


async def test_the_providers_time_out_is_not_ours(scripted: Scripted) -> None:
    result = await run(scripted(TimeoutError("read timed out")), 1, attempt_timeout=5, timeout=50)
    assert (result.reason, result.error) == (R.PROVIDER_TIMEOUT, "read timed out")


async def test_waiting_for_a_place_is_outside_the_attempts_time_limit(scripted: Scripted) -> None:
    limiter = Limiter(1)
    await limiter.acquire()
    asyncio.get_running_loop().call_later(50, limiter.release)
    result = await run(scripted(limiter=limiter), attempt_timeout=5)
    assert (result.success, result.attempts, result.elapsed_seconds) == (True, 1, 50)


async def test_each_call_is_announced_when_it_is_admitted(scripted: Scripted) -> None:
    limiter = Limiter(1)
    announced: list[tuple[int, float]] = []
    started = now()

    async def announce(index: int) -> None:
        announced.append((index, now()))
        await asyncio.sleep(1)

    first = scripted(unavailable(), "ok", latency=5, limiter=limiter)
    second = scripted(latency=5, limiter=limiter)
    results = await asyncio.gather(
        Executor(policy(initial_wait=50)).run(work(first, index=7, before_call=announce)),
        Executor(policy()).run(work(second, index=8, before_call=announce)),
    )
    assert announced == [(7, started), (8, started + 6), (7, started + 56)]
    assert [result.elapsed_seconds for result in results] == [62, 12]
    assert [result.attempts for result in results] == [2, 1]


async def test_the_wait_for_an_announcement_is_not_taken_for_the_providers_latency(scripted: Scripted) -> None:
    scope = QuotaScope(limits=QuotaLimits(max_concurrency="adaptive"))
    shared = SharedStrategy(scripted(latency=2), scope=scope)
    noted: list[float] = []
    assert scope.adaptive is not None
    scope.adaptive.succeeded = lambda in_flight, latency, **_: noted.append(latency)  # type: ignore[method-assign]
    await Executor().run(work(shared, before_call=lambda index: asyncio.sleep(30)))
    assert noted == [2]


async def test_an_item_that_ends_as_it_is_announced_was_not_called_and_gives_its_places_back(
    scripted: Scripted,
) -> None:
    limiter = Limiter(1)
    strategy = scripted(limiter=limiter)
    shared = SharedStrategy(strategy, scope=QuotaScope(limits=QuotaLimits(max_concurrency=1)))

    async def announce(index: int) -> None:
        await hang()

    result = await Executor(policy(1)).run(work(shared, timeout=5, before_call=announce))
    assert (result.reason, result.attempts, strategy.calls) == (R.ITEM_DEADLINE_EXCEEDED, 0, [])
    assert (limiter.in_use, shared.scope.in_flight) == (0, 0)
    assert (await Executor(policy(1)).run(work(shared))).elapsed_seconds == 0


async def test_a_place_is_given_back_between_attempts(scripted: Scripted) -> None:
    limiter = Limiter(1)
    first = asyncio.create_task(run(scripted(unavailable(), "ok", limiter=limiter), initial_wait=50))
    await asyncio.sleep(1)
    assert (await run(scripted(limiter=limiter))).elapsed_seconds == 0
    assert (await first).success
    assert limiter.in_use == 0


@pytest.mark.parametrize(
    ("where", "attempts"), [("preparing", 0), ("the queue", 0), ("the call", 1), ("the wait after it", 1)]
)
async def test_the_items_deadline_bounds_all_of_it(scripted: Scripted, where: str, attempts: int) -> None:
    full = Limiter(1)
    await full.acquire()
    strategy = {
        "preparing": scripted(prepare=(hang,)),
        "the queue": scripted(limiter=full),
        "the call": scripted(hang),
        "the wait after it": scripted(unavailable()),
    }[where]
    result = await run(strategy, timeout=7, initial_wait=60, attempt_timeout=1e6)
    assert (result.reason, result.retryable) == (R.ITEM_DEADLINE_EXCEEDED, True)
    assert (result.attempts, result.elapsed_seconds) == (attempts, 7)
    assert result.error is not None
    assert "time limit ran out" in result.error


@pytest.mark.parametrize("latency", [0, 1])
async def test_an_item_whose_deadline_ran_out_in_the_queue_is_not_called(scripted: Scripted, latency: float) -> None:
    strategy = scripted(latency=latency)
    shared = SharedStrategy(strategy)
    await shared.ready()
    item = work(shared, timeout=5)
    await asyncio.sleep(6)
    result = await Executor().run(item)
    assert (result.reason, result.attempts) == (R.ITEM_DEADLINE_EXCEEDED, 0)
    assert strategy.calls == []


async def test_deadline_and_attempt_time_out_at_one_moment_end_the_item_once(scripted: Scripted) -> None:
    result = await run(scripted(hang), attempt_timeout=5, timeout=5)
    assert (result.reason, result.attempts, result.elapsed_seconds) == (R.ITEM_DEADLINE_EXCEEDED, 1, 5)


# -- on_error and state ----------------------------------------------------------------------------------------------


class Stateful(LLMCallStrategy[Any]):
    """Fails twice; notes in `state` what happened."""

    async def execute(self, prompt: str, attempt: int, timeout: float, state: Any = None) -> Any:
        state.setdefault("seen", []).append(f"{prompt} {attempt}")
        if attempt < 3:
            raise unavailable()
        return list(state["seen"]), TokenUsage()

    async def on_error(self, exception: Exception, attempt: int, state: Any = None) -> None:
        state["seen"].append(f"{type(exception).__name__} {attempt}")


async def test_state_lives_over_an_items_attempts_and_leaks_to_no_other() -> None:
    shared = SharedStrategy(Stateful())
    executor = Executor(policy())
    items = [Work(str(number), str(number), shared, accepted_at=now()) for number in range(3)]
    results = await asyncio.gather(*map(executor.run, items))
    for number, result in enumerate(results):
        assert result.output == [f"{number} 1", "ProviderError 1", f"{number} 2", "ProviderError 2", f"{number} 3"]


async def test_on_error_sees_each_failed_attempt_and_no_success(scripted: Scripted) -> None:
    first, second = unavailable(), ProviderError("slow", status=504)
    strategy = scripted(first, second, "ok")
    await run(strategy)
    assert strategy.errors == [(first, 1), (second, 2)]


async def test_errors_of_on_error_do_not_reach_the_item(scripted: Scripted, caplog: pytest.LogCaptureFixture) -> None:
    class Clumsy(scripted):  # type: ignore[misc,valid-type]
        async def on_error(self, exception: Exception, attempt: int, state: Any = None) -> None:
            raise RuntimeError("oops")

    with caplog.at_level(logging.ERROR, "batch_llm"):
        result = await run(Clumsy(unavailable(), "ok"))
    assert (result.success, result.attempts) == (True, 2)
    assert "oops" in caplog.text


# -- preparing -------------------------------------------------------------------------------------------------------


async def test_a_failed_prepare_is_no_attempt_and_no_error_of_the_strategys(scripted: Scripted) -> None:
    strategy = scripted(prepare=(ValueError("no model"),))
    result = await run(strategy)
    assert (result.reason, result.attempts, result.retryable) == (R.PREPARE_FAILED, 0, False)
    assert strategy.errors == []
    assert strategy.calls == []


async def test_a_prepare_that_recovers_lets_the_item_through(scripted: Scripted) -> None:
    result = await run(scripted(prepare=(ConnectionError(), None)))
    assert (result.success, result.attempts) == (True, 1)


async def test_prepare_failures_use_up_tries(scripted: Scripted) -> None:
    strategy = scripted(prepare=(ConnectionError(),))
    result = await run(strategy, 3)
    assert (result.reason, result.retryable, strategy.prepares) == (R.PREPARE_FAILED, True, 3)


# -- cancellation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [1, 30])
async def test_a_cancelled_item_gives_its_places_back(scripted: Scripted, after: float) -> None:
    limiter = Limiter(1)
    shared = SharedStrategy(scripted(hang, limiter=limiter))
    running = asyncio.create_task(Executor(policy(1, attempt_timeout=20)).run(work(shared)))
    queued = asyncio.create_task(Executor().run(work(shared)))
    await asyncio.sleep(after)
    queued.cancel()
    running.cancel()
    await asyncio.wait([queued, running])
    assert queued.cancelled()
    assert limiter.in_use == 0


async def test_cancelled_while_it_waits_for_the_providers_place_it_gives_the_strategys_own_back(
    scripted: Scripted,
) -> None:
    providers = Limiter(1)
    await providers.acquire()
    shared = SharedStrategy(scripted(limiter=providers), max_concurrency=1)
    result = await Executor(policy(1)).run(work(shared, timeout=5))
    assert result.reason is R.ITEM_DEADLINE_EXCEEDED
    providers.release()
    assert [limiter.in_use for limiter in shared.limiters] == [0, 0]


async def test_a_strategy_that_is_cancelled_inside_fails_its_item_only(scripted: Scripted) -> None:
    # E.g. a client library whose own background task was cancelled: nobody has cancelled the item.
    result = await run(scripted(asyncio.CancelledError()), 1)
    assert (result.success, result.attempts) == (False, 1)


# -- strategies that misbehave -------------------------------------------------------------------------------------


class Misbehaving(LLMCallStrategy[Any]):
    """Fails once, with an `on_error` of the test's choice."""

    def __init__(self, on_error: Any) -> None:
        self.react = on_error
        self.calls = 0

    async def execute(self, prompt: str, attempt: int, timeout: float) -> Any:
        self.calls += 1
        if self.calls == 1:
            raise unavailable()
        return "ok", TokenUsage(input_tokens=1)

    async def on_error(self, exception: Exception, attempt: int, state: Any = None) -> None:
        await self.react()


async def cancel_oneself() -> None:
    raise asyncio.CancelledError


async def exit_all() -> None:
    raise SystemExit(3)


@pytest.mark.parametrize("react", [hang, cancel_oneself, exit_all])
async def test_an_on_error_that_hangs_or_gives_up_costs_the_item_nothing_but_time(react: Any) -> None:
    result = await run(Misbehaving(react), initial_wait=0)
    assert (result.output, result.attempts) == ("ok", 2)


@pytest.mark.parametrize("where", ["prepare", "execute"])
async def test_a_strategy_that_exits_fails_its_item_and_no_more(scripted: Scripted, where: str) -> None:
    strategy = scripted(exit_all) if where == "execute" else scripted(prepare=(exit_all,))
    result = await run(strategy, 1)
    assert result.success is False
    assert "SystemExit" in (result.error or "")


async def test_a_429_while_preparing_is_no_attempt_and_on_error_is_not_told(scripted: Scripted) -> None:
    strategy = scripted(prepare=(throttled(retry_after=1), throttled(retry_after=1), None))
    result = await executor_with(1).run(work(strategy))
    assert (result.success, result.attempts, strategy.errors) == (True, 1, [])
    assert strategy.calls == [("prompt", 1)]


async def test_counts_that_are_none_or_negative_and_metadata_that_is_none_harm_nothing(scripted: Scripted) -> None:
    usage: Any = {"input_tokens": None, "output_tokens": -5, "cached_input_tokens": None}
    result = await run(scripted(("ok", usage, None)))
    assert (result.output, result.token_usage["input_tokens"], result.token_usage["output_tokens"]) == ("ok", 0, 0)
