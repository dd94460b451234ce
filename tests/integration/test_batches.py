"""Items through a real sidecar over a Unix socket: results, order, limits, bad input."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import grpc
import pytest

from batch_llm_client import AsyncBatchClient, BatchClient, Result, WorkItem
from batch_llm_client.errors import AbortedError, InvalidRequestError, NotFoundError
from batchllm.v1 import batch_service_pb2 as pb
from batchllm.v1.batch_service_pb2_grpc import BatchServiceStub
from batchllm.v1.work_pb2 import WorkItem as WireItem

from .conftest import SIMULATED, Start, script
from .test_journal import House


def run(client: BatchClient, *items: WorkItem, **options: object) -> dict[str, Result]:
    with client.process_batch(items, strategy="echo", **options) as batch:
        results = list(batch)
    assert batch.totals.total_items == len(results)
    return {result.item_id: result for result in results}


def test_every_item_has_one_result_and_the_totals_add_up(client: BatchClient) -> None:
    items = [WorkItem(f"i{n}", script(input_tokens=10, output_tokens=2, cached_input_tokens=8)) for n in range(1000)]
    with client.process_batch(items, strategy="echo", batch_id="thousand") as batch:
        results = list(batch)
    assert sorted(result.item_id for result in results) == sorted(item.item_id for item in items)
    assert [result.sequence for result in results] == list(range(1, 1001))
    totals = batch.totals
    assert (totals.batch_id, totals.succeeded, totals.failed) == ("thousand", 1000, 0)
    assert (totals.total_input_tokens, totals.total_output_tokens, totals.total_cached_tokens) == (10000, 2000, 8000)
    assert totals.cache_hit_rate == pytest.approx(80.0)
    assert totals.effective_input_tokens == 10000 - 7200


@pytest.fixture
def house(start: Start, tmp_path: Path) -> House:
    """Its provider answers what begins with "hold" when it is told to."""
    return House(start, tmp_path).up()


@pytest.mark.parametrize(("order", "expected"), [("completion", ["fast", "slow"]), ("submission", ["slow", "fast"])])
def test_results_come_as_items_finish_or_as_they_were_sent(house: House, order: str, expected: list[str]) -> None:
    items = [WorkItem("slow", "hold"), WorkItem("fast", "x")]
    with (
        BatchClient(house.target) as client,
        client.process_batch(items, strategy="ledger", batch_id="b", result_order=order) as batch,
    ):
        house.wait_until(lambda info: info.done == 1)
        house.open_the_gate()
        assert [result.item_id for result in batch] == expected


def test_a_slow_strategy_holds_up_no_other(house: House) -> None:
    slow = [WorkItem(f"slow{n}", f"hold{n}", strategy="narrow") for n in range(3)]
    with (
        BatchClient(house.target) as client,
        client.process_batch([*slow, WorkItem("fast", "x")], strategy="ledger") as batch,
    ):
        assert next(iter(batch)).item_id == "fast"
        house.open_the_gate()
        assert [result.item_id for result in batch] == ["slow0", "slow1", "slow2"]


def test_retries_sum_the_tokens_of_failed_attempts(client: BatchClient) -> None:
    errors = [{"status": 503, "input_tokens": 7, "output_tokens": 1}, {"kind": "timeout"}]
    result = run(client, WorkItem("a", script(errors=errors, input_tokens=10, output_tokens=2)))["a"]
    assert (result.ok, result.attempts) == (True, 3)
    assert (result.usage.input_tokens, result.usage.output_tokens) == (17, 3)


@pytest.mark.parametrize(
    ("error", "reason", "attempts"),
    [
        ({"status": 503}, "PROVIDER_UNAVAILABLE", 3),
        ({"status": 504}, "PROVIDER_TIMEOUT", 3),
        ({"status": 429}, "RATE_LIMITED", 1),  # throttled calls are no attempts
        ({"status": 400}, "PROVIDER_REJECTED", 1),
        ({"status": 403}, "AUTHENTICATION_FAILED", 1),
        ({"kind": "connection"}, "PROVIDER_UNAVAILABLE", 3),
        ({"kind": "bug"}, "INTERNAL", 1),
    ],
)
def test_failures_end_with_their_reason_after_as_many_attempts_as_make_sense(
    client: BatchClient, error: dict[str, object], reason: str, attempts: int
) -> None:
    result = run(client, WorkItem("a", script(error=error)))["a"]
    assert result.error is not None
    assert (result.error.reason, result.attempts) == (reason, attempts)
    assert "simulated error" in result.error.message


def test_an_items_own_time_limit_ends_it(client: BatchClient) -> None:
    result = run(client, WorkItem("a", script(latency_ms=60_000), timeout=0.05))["a"]
    assert result.error is not None
    assert (result.error.reason, result.error.retryable) == ("ITEM_DEADLINE_EXCEEDED", True)


@pytest.mark.parametrize(
    ("item", "reason", "field"),
    [
        (WireItem(item_id=" ", prompt="x"), "INVALID_ITEM", "item_id"),
        (WireItem(item_id="x" * 513, prompt="x"), "INVALID_ITEM", "item_id"),
        (WireItem(item_id="a", prompt=""), "INVALID_ITEM", "prompt"),
        (WireItem(item_id="a", prompt='{"simulate": {"replay": 1}}'), "INVALID_ITEM", "prompt"),
    ],
)
def test_a_bad_item_fails_alone(simulated: str, item: WireItem, reason: str, field: str) -> None:
    results = raw_stream(simulated, [item, WireItem(item_id="good", prompt="x")])
    assert results["good"].WhichOneof("outcome") == "output"
    error = results[item.item_id].error
    assert reason_name(error.reason) == reason
    assert error.metadata["field"] == field
    assert error.message


def test_a_negative_timeout_and_an_unknown_strategy_fail_alone(simulated: str) -> None:
    negative = WireItem(item_id="negative", prompt="x")
    negative.timeout.seconds = -1
    unknown = WireItem(item_id="unknown", prompt="x", strategy="triag")
    results = raw_stream(simulated, [negative, unknown])
    assert reason_name(results["negative"].error.reason) == "INVALID_ITEM"
    assert reason_name(results["unknown"].error.reason) == "STRATEGY_NOT_FOUND"
    assert results["unknown"].error.metadata["known"] == "cached, echo, one"


def test_an_item_sent_again_is_not_run_again_and_a_changed_one_is_refused(client: BatchClient) -> None:
    first, again, changed = WorkItem("a", "x"), WorkItem("a", "x"), WorkItem("a", "y")
    with client.process_batch([first, again, changed], strategy="echo") as batch:
        results = list(batch)
    assert [result.ok for result in results].count(True) == 1
    (conflict,) = [result for result in results if not result.ok]
    assert conflict.error is not None
    assert conflict.error.reason == "ITEM_ID_CONFLICT"
    assert batch.totals.failures_by_reason == {"ITEM_ID_CONFLICT": 1}


def test_frames_out_of_order_end_the_stream(simulated: str) -> None:
    opening = pb.ProcessBatchRequest(open=pb.OpenBatch(strategy="echo"))
    work = pb.ProcessBatchRequest(items=pb.WorkItems())
    for frames, reason in (
        ([work], b"OPEN_FRAME_REQUIRED"),
        ([], b"OPEN_FRAME_REQUIRED"),
        ([opening, opening], b"OPEN_FRAME_REPEATED"),
        ([opening, pb.ProcessBatchRequest()], b"FRAME_EMPTY"),
    ):
        with grpc.insecure_channel(simulated) as channel, pytest.raises(grpc.RpcError) as failure:
            list(BatchServiceStub(channel).ProcessBatch(iter(frames)))
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert reason in dict(failure.value.trailing_metadata())["grpc-status-details-bin"]


def test_an_unknown_strategy_in_open_names_the_known_ones(client: BatchClient) -> None:
    with pytest.raises(NotFoundError) as failure, client.process_batch([], strategy="triag") as batch:
        list(batch)
    assert failure.value.reason == "STRATEGY_NOT_FOUND"
    assert failure.value.metadata == {"strategy": "triag", "known": "cached, echo, one"}


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"max_concurrency": -1}, "max_concurrency"),
        ({"batch_id": "x" * 257}, "batch_id"),
        ({"labels": {str(n): "x" for n in range(33)}}, "labels"),
        ({"labels": {"x": "x" * 257}}, "labels"),
    ],
)
def test_a_bad_field_of_open_is_named(client: BatchClient, options: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequestError) as failure, client.process_batch([], **options) as batch:
        list(batch)
    assert (failure.value.reason, failure.value.metadata) == ("INVALID_FIELD", {"field": field})


def test_a_batch_id_is_open_once(simulated: str) -> None:
    with BatchClient(simulated) as client:
        first = client.process_batch([WorkItem("a", script(latency_ms=60_000))], strategy="echo", batch_id="nightly")
        with first:
            assert first.opened.batch_id == "nightly"
            with (
                pytest.raises(AbortedError) as failure,
                client.process_batch([], strategy="echo", batch_id="nightly") as second,
            ):
                list(second)
        assert (failure.value.reason, failure.value.metadata) == ("BATCH_IN_USE", {"batch_id": "nightly"})


def test_a_message_over_the_limit_is_refused_by_the_server(simulated: str) -> None:
    opening = pb.ProcessBatchRequest(open=pb.OpenBatch(strategy="echo"))
    items = pb.WorkItems(items=[WireItem(item_id="a", prompt="x" * (16 * 1024 * 1024))])
    with grpc.insecure_channel(simulated) as channel, pytest.raises(grpc.RpcError) as failure:
        list(BatchServiceStub(channel).ProcessBatch(iter([opening, pb.ProcessBatchRequest(items=items)])))
    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_large_results_are_spread_over_frames_that_fit(simulated: str) -> None:
    prompt = script(reply="y" * 700_000)
    with grpc.insecure_channel(simulated) as channel:
        frames = [
            pb.ProcessBatchRequest(open=pb.OpenBatch(strategy="echo")),
            pb.ProcessBatchRequest(
                items=pb.WorkItems(items=[WireItem(item_id=str(n), prompt=prompt) for n in range(8)])
            ),
        ]
        # The default limit of a gRPC client is 4 MiB: eight such results in one frame would end the stream.
        answers = list(BatchServiceStub(channel).ProcessBatch(iter(frames)))
    assert sum(len(answer.results.results) for answer in answers) == 8


def test_context_comes_back_untouched_and_text_in_any_script(client: BatchClient) -> None:
    context = bytes(range(256))
    result = run(client, WorkItem("ид-1", "Größe 漢字 🙂", context=context))["ид-1"]
    assert (result.context, result.text) == (context, "simulated: Größe 漢字 🙂")


def test_a_client_that_does_not_read_stops_the_sidecar_from_starting_items(client: BatchClient, simulated: str) -> None:
    reply = "z" * 20_000
    total = 8_000

    def items() -> object:
        for n in range(total):
            handed_out.append(n)
            yield WorkItem(str(n), script(reply=reply))

    handed_out: list[int] = []
    with client.process_batch(items(), strategy="echo") as batch:
        iterator = iter(batch)
        next(iterator)
        seen = -1
        while len(handed_out) != seen:  # until nothing moves any more
            seen = len(handed_out)
            client.list_strategies()
            client.process_item(WorkItem("a", script(latency_ms=100), strategy="echo"))
        assert seen < total
        assert sum(1 for _ in iterator) == total - 1
    assert batch.totals.succeeded == total


def test_one_item_by_itself(client: BatchClient) -> None:
    result = client.process_item(WorkItem("a", "hello", strategy="echo"))
    assert (result.ok, result.text, result.sequence, result.attempts) == (True, "simulated: hello", 1, 1)
    assert (result.strategy, result.model, result.finish_reason) == ("echo", "simulated", "stop")
    failed = client.process_item(WorkItem("a", "hello"))
    assert failed.error is not None
    assert (failed.error.reason, failed.error.metadata) == ("INVALID_ITEM", {"field": "strategy"})


def test_text_that_utf8_cannot_carry_harms_no_other_item(client: BatchClient) -> None:
    half = '{"simulate": {"reply": "\\ud800", "finish_reason": "\\ud800"}}'
    results = run(client, WorkItem("a", "x"), WorkItem("half", half), WorkItem("c", "x"))
    assert [results[name].ok for name in ("a", "half", "c")] == [True, True, True]
    assert results["half"].text == "?"
    assert client.process_item(WorkItem("half", half, strategy="echo")).text == "?"


def test_what_is_held_is_bounded_in_bytes_and_given_back(start: Start) -> None:
    sidecar = start("--listen", "127.0.0.1:0", config=SIMULATED)
    target = sidecar.wait_for(r"serving on (\S+)")[1]

    def memory() -> int:
        status = Path(f"/proc/{sidecar.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) // 1024  # type: ignore[index]

    before = memory()
    context = b"x" * 1_000_000
    for number in range(4):  # four times what one may hold would show if it stayed
        with BatchClient(target) as client, grpc.insecure_channel(target) as channel:
            items = (WorkItem(str(n), script(latency_ms=60_000), context=context) for n in range(600))
            with client.process_batch(items, strategy="echo", batch_id=str(number)) as batch:
                assert batch.opened.strategy == "echo"
                seen = -1
                while memory() != seen:
                    seen = memory()
                    client.process_item(WorkItem("a", script(latency_ms=200), strategy="echo"))
            # Else what is in flight goes on: it is paid for.
            BatchServiceStub(channel).CancelBatch(pb.CancelBatchRequest(batch_id=str(number)))
    assert memory() - before < 400
    assert sidecar.stop() == 0


def test_thousands_of_single_items_at_once_are_all_run(simulated: str) -> None:
    async def burst() -> list[bool]:
        async with AsyncBatchClient(simulated) as client:
            items = [WorkItem(str(n), script(latency_ms=20), strategy="echo") for n in range(3000)]
            return [result.ok for result in await asyncio.gather(*(client.process_item(item) for item in items))]

    assert asyncio.run(burst()) == [True] * 3000


def test_a_long_error_still_says_its_reason(client: BatchClient) -> None:
    with pytest.raises(NotFoundError) as failure:
        client.get_strategy("x" * 20_000)
    assert failure.value.reason == "STRATEGY_NOT_FOUND"


async def test_the_async_client_runs_many_batches_on_one_connection(simulated: str) -> None:
    async with AsyncBatchClient(simulated) as client:

        async def one(name: str) -> int:
            async with client.process_batch(
                [WorkItem(str(n), "x") for n in range(200)], strategy="echo", batch_id=name
            ) as batch:
                return len([result async for result in batch])

        assert await asyncio.gather(*(one(f"b{n}") for n in range(8))) == [200] * 8


def raw_stream(target: str, items: list[WireItem]) -> dict[str, object]:
    """Results by id, from the generated stub alone."""
    frames = [
        pb.ProcessBatchRequest(open=pb.OpenBatch(strategy="echo")),
        pb.ProcessBatchRequest(items=pb.WorkItems(items=items)),
    ]
    with grpc.insecure_channel(target) as channel:
        answers = list(BatchServiceStub(channel).ProcessBatch(iter(frames)))
    assert answers[0].WhichOneof("frame") == "opened"
    assert answers[-1].WhichOneof("frame") == "batch_result"
    return {result.item_id: result for answer in answers for result in answer.results.results}


def reason_name(value: int) -> str:
    from batchllm.v1.errors_pb2 import ErrorReason

    return ErrorReason.Name(value).removeprefix("ERROR_REASON_")
