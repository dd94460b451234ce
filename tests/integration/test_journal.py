"""Batches that outlive their client, their stream and their sidecar."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from batchllm.v1 import batch_service_pb2 as pb
from batchllm.v1.batch_service_pb2_grpc import BatchServiceStub
from batchllm.v1.work_pb2 import WorkItem, WorkItemResult

from .conftest import REPO, SidecarProcess, Start
from .streams import Stream, reason_name, reason_of

CONFIG = """
[providers.ledger]
kind = "python"
factory = "tests.integration.factories:ledger"
[providers.ledger.options]
path = "{ledger}"
[strategies.ledger]
provider = "ledger"
[strategies.narrow]
provider = "ledger"
max_concurrency = 1
"""
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}


@dataclass
class House:
    """A sidecar that can be stopped in any way and started again on the same state, and a provider that counts."""

    start: Start
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    sidecar: SidecarProcess | None = None
    config: str = CONFIG

    @property
    def target(self) -> str:
        return f"unix:{self.folder}/s.sock"

    def up(self) -> House:
        config = self.config.format(ledger=self.folder / "ledger")
        arguments = ("--listen", self.target, "--state-dir", str(self.folder / "state"))
        self.sidecar = self.start(*arguments, config=config, environment={**ENVIRONMENT, **self.environment})
        self.sidecar.wait_for("serving on")
        return self

    def kill(self) -> House:
        assert self.sidecar is not None
        self.sidecar.stop(signal.SIGKILL)
        return self

    def stop(self) -> House:
        assert self.sidecar is not None
        assert self.sidecar.stop() == 0
        return self

    def stream(self, **opening: object) -> Stream:
        return Stream(self.target, **{"batch_id": "b", "strategy": "ledger", **opening})

    def drop(self, stream: Stream) -> None:
        """Have a client go away without a word, and wait until the sidecar has noticed."""
        stream.drop()
        assert self.sidecar is not None
        self.sidecar.wait_for(f"the stream of batch '{stream.opened.batch_id}' ended")

    def ask(self, name: str, request: Any) -> Any:
        with grpc.insecure_channel(self.target) as channel:
            return getattr(BatchServiceStub(channel), name)(request, timeout=60)

    def info(self, batch_id: str = "b") -> pb.BatchInfo:
        info: pb.BatchInfo = self.ask("GetBatch", pb.GetBatchRequest(batch_id=batch_id)).batch
        return info

    def wait_until(self, true: Callable[[pb.BatchInfo], bool]) -> pb.BatchInfo:
        while not true(info := self.info()):
            pass
        return info

    def calls_in_order(self) -> list[str]:
        ledger = self.folder / "ledger"
        return ledger.read_text().splitlines() if ledger.exists() else []

    def calls(self) -> Counter[str]:
        return Counter(self.calls_in_order())

    def wait_for_calls(self, count: int) -> None:
        while self.calls().total() < count:
            self.ask("ListBatches", pb.ListBatchesRequest())  # instead of sleeping

    def open_the_gate(self) -> None:
        (self.folder / "open").touch()


@pytest.fixture
def house(start: Start, tmp_path: Path) -> House:
    return House(start, tmp_path)


def work(*prompts: str) -> list[WorkItem]:
    """Items named after their prompts."""
    return [WorkItem(item_id=prompt, prompt=prompt) for prompt in prompts]


def many(kind: str, numbers: range) -> list[WorkItem]:
    return work(*(f"{kind}{number}" for number in numbers))


def ids(results: list[WorkItemResult]) -> list[str]:
    return [result.item_id for result in results]


def check_totals(stream: Stream, count: int) -> None:
    assert stream.batch_result is not None
    assert (stream.batch_result.total_items, stream.batch_result.succeeded) == (count, count)
    assert stream.batch_result.total_input_tokens == 10 * count
    assert stream.batch_result.effective_input_tokens == 10 * count - int(0.9 * 4 * count + 1e-6)
    assert stream.batch_result.receipt.fresh_input_tokens == 6 * count
    assert stream.batch_result.receipt.cached_input_tokens == 4 * count


# -- a client that goes away -------------------------------------------------------------------------------------------


def test_a_stream_that_drops_is_resumed_without_a_gap_or_a_repeat(house: House) -> None:
    house.up()
    first = house.stream().send(*many("x", range(30))).until(results=20, received=30)
    assert (first.opened.items, first.opened.last_sequence, first.opened.durable) == (0, 0, True)
    house.drop(first)
    seen = first.results[:7]
    with house.stream(resume_after_sequence=7) as second:
        assert second.opened.items == 30
        second.send(*many("x", range(40))).half_close()
        rest = second.rest()
        assert [result.sequence for result in seen + rest] == list(range(1, 41))
        assert sorted(ids(seen + rest)) == sorted(item.item_id for item in many("x", range(40)))
        replayed = [result.sequence for result in rest if result.replayed]
        assert replayed == list(range(8, second.opened.last_sequence + 1))
        assert (second.accepted.items, second.accepted.received) == (40, 40)
        check_totals(second, 40)
    assert house.calls() == Counter(item.item_id for item in many("x", range(40)))


def test_what_a_client_left_in_flight_ends_and_the_rest_waits_for_it(house: House) -> None:
    house.up()
    first = house.stream(strategy="narrow").send(*work("hold0", "hold1", "hold2")).until(received=3)
    house.wait_for_calls(1)
    house.drop(first)  # before it is noticed, the next item would begin
    house.open_the_gate()
    info = house.wait_until(lambda info: info.done == 1 and not info.running)
    assert (info.state, info.items, info.last_sequence) == (pb.BATCH_STATE_OPEN, 3, 1)
    assert house.calls() == Counter(["hold0"])
    with house.stream() as second:
        assert second.opened.strategy == "ledger"
        second.half_close().rest()
        assert ids(second.results) == ["hold0", "hold1", "hold2"]
        assert [result.strategy for result in second.results] == ["narrow"] * 3
        check_totals(second, 3)
    assert house.info().state == pb.BATCH_STATE_FINISHED


_MORE_THAN_WAITS = 6 * 1024
"""Items, more than a batch has waiting to be run: its stream stops reading."""


def send_more_than_waits(stream: Stream) -> Stream:
    for first in range(0, _MORE_THAN_WAITS, 1024):
        stream.send(*work(*(f"hold{number}" for number in range(first, first + 1024))))
    return stream.until(received=4 * 1024)


def test_a_client_that_goes_away_in_mid_sending_leaves_nothing_that_runs(house: House) -> None:
    house.up()
    first = send_more_than_waits(house.stream(strategy="narrow"))
    house.wait_for_calls(1)
    house.drop(first)
    house.open_the_gate()
    info = house.wait_until(lambda info: not info.running)
    assert (info.state, info.done, house.calls().total()) == (pb.BATCH_STATE_OPEN, 1, 1)
    with send_more_than_waits(house.stream(strategy="narrow", resume_after_sequence=1)) as second:
        second.half_close().rest()
        assert second.sequences == list(range(2, _MORE_THAN_WAITS + 1))
        assert len({"hold0", *ids(second.results)}) == _MORE_THAN_WAITS
        check_totals(second, _MORE_THAN_WAITS)
    assert house.calls().total() == _MORE_THAN_WAITS


def test_a_client_that_goes_away_is_not_taken_for_one_that_has_sent_all(house: House) -> None:
    house.up()
    for number in range(30):  # to gRPC it looks like a half-close at first
        house.stream(batch_id=f"b{number}").send(*work("x")).until(received=number % 2).drop()
    for number in range(30):
        while (info := house.info(f"b{number}")).running:
            pass
        assert info.state == pb.BATCH_STATE_OPEN


def test_a_client_that_comes_back_soon_finds_its_batch_running(house: House) -> None:
    house.up()
    house.drop(house.stream().send(*work("hold0", "x1")).until(results=1, received=2))
    house.wait_for_calls(2)
    with house.stream(resume_after_sequence=1) as second:
        house.open_the_gate()
        second.half_close().rest()
        assert (second.sequences, ids(second.results), second.results[0].replayed) == ([2], ["hold0"], False)
        check_totals(second, 2)


def test_a_detached_batch_goes_on_and_ends_without_a_client(house: House) -> None:
    house.up()
    first = house.stream(detach=True, labels={"job": "n"}, strategy="narrow")
    first.send(*many("hold", range(5))).half_close().until(received=5)
    house.wait_until(lambda info: info.state == pb.BATCH_STATE_SEALED)
    first.drop()
    house.open_the_gate()
    info = house.wait_until(lambda info: info.state == pb.BATCH_STATE_FINISHED)
    assert (info.done, info.detach, info.running, dict(info.labels)) == (5, True, False, {"job": "n"})
    assert info.batch_result.succeeded == 5
    for _ in range(2):  # as often as one likes
        with house.stream(resume_after_sequence=2) as later:
            later.half_close().rest()
            assert (later.sequences, {result.replayed for result in later.results}) == ([3, 4, 5], {True})
            assert later.batch_result == info.batch_result
    assert house.calls().total() == 5


def test_a_detached_batch_is_handed_over_whole_while_its_first_item_runs(house: House) -> None:
    house.up()
    first = house.stream(detach=True, strategy="narrow")
    for start in range(0, _MORE_THAN_WAITS, 1024):
        first.send(*many("hold", range(start, start + 1024)))
    first.half_close().until(received=_MORE_THAN_WAITS)
    house.wait_until(lambda info: info.state == pb.BATCH_STATE_SEALED)
    house.wait_for_calls(1)
    house.drop(first)
    house.kill().up()
    house.open_the_gate()
    house.wait_until(lambda info: info.state == pb.BATCH_STATE_FINISHED)
    assert house.calls_in_order() == ["hold0", *(f"hold{number}" for number in range(_MORE_THAN_WAITS))]
    with house.stream(detach=True) as second:
        second.half_close().rest()
        check_totals(second, _MORE_THAN_WAITS)


def test_a_stream_attaches_to_a_detached_batch_that_runs(house: House) -> None:
    house.up()
    house.drop(house.stream(detach=True).send(*many("wait", range(2000))).until(received=2000))
    with house.stream(detach=True, max_concurrency=3) as second:
        assert second.opened.max_concurrency == 3
        second.half_close().rest()
        assert second.sequences == list(range(1, 2001))
        assert len(set(ids(second.results))) == 2000
        check_totals(second, 2000)


def test_a_client_that_looks_at_a_detached_batch_does_not_stop_it(house: House) -> None:
    house.up()
    house.drop(house.stream(detach=True, strategy="narrow").send(*many("hold", range(20))).until(received=20))
    house.wait_for_calls(1)
    house.stream().send(*work("hold20")).until(received=1).drop()
    assert house.info().detach
    house.open_the_gate()
    house.wait_until(lambda info: info.done == 21)


def test_a_batch_is_open_once(house: House) -> None:
    house.up()
    with house.stream().send(*work("hold0")).until(received=1):
        with pytest.raises(grpc.RpcError) as failure:
            house.stream()
        assert (failure.value.code(), reason_of(failure.value)) == (grpc.StatusCode.ABORTED, "BATCH_IN_USE")
        house.open_the_gate()


# -- a sidecar that goes away ------------------------------------------------------------------------------------------


def test_a_killed_sidecar_goes_on_with_a_detached_batch_and_marks_what_may_be_billed(house: House) -> None:
    house.up()
    items = many("wait", range(1500))
    first = house.stream(detach=True, max_concurrency=8).send(*items).half_close()
    house.wait_until(lambda info: info.state == pb.BATCH_STATE_SEALED)
    first.until(results=300)
    house.kill()
    first.drop()
    calls_before = house.calls()
    house.up()
    house.wait_until(lambda info: info.state == pb.BATCH_STATE_FINISHED)
    with house.stream(detach=True) as second:
        results = second.half_close().rest()
        assert second.sequences == list(range(1, 1501))
        check_totals(second, 1500)
    assert [result.item_id for result in results[: len(first.results)]] == ids(first.results)
    assert sorted(ids(results)) == sorted(item.item_id for item in items)
    marked = {result.item_id for result in results if result.maybe_billed}
    calls = house.calls()
    assert {item_id for item_id, count in calls.items() if count > 1} <= marked
    assert len(marked) <= 8
    assert max(calls.values()) <= 2
    # No item that was with its provider and had no result lacks the mark.
    journaled = {result.item_id for result in results} - marked
    assert set(calls_before) - marked <= journaled
    assert all(calls[item_id] == 1 for item_id in ids(first.results))


def test_a_killed_sidecar_waits_for_the_client_of_a_batch_that_is_not_detached(house: House) -> None:
    house.up()
    first = house.stream(max_concurrency=2).send(*many("hold", range(6))).until(received=6)
    house.wait_for_calls(2)
    house.kill()
    first.drop()
    house.up()
    info = house.info()
    assert (info.state, info.items, info.done, info.running) == (pb.BATCH_STATE_OPEN, 6, 0, False)
    assert house.calls().total() == 2
    house.open_the_gate()
    with house.stream() as second:
        second.send(*many("hold", range(7))).half_close().rest()
        assert second.sequences == list(range(1, 8))
        assert {result.item_id for result in second.results if result.maybe_billed} == {"hold0", "hold1"}
        check_totals(second, 7)
    assert house.calls() == Counter({"hold0": 2, "hold1": 2, **{f"hold{n}": 1 for n in range(2, 7)}})


def test_results_in_order_of_submission_survive_a_kill(house: House) -> None:
    house.up()
    order = pb.RESULT_ORDER_SUBMISSION
    items = [*many("x", range(3)), *work("hold"), *many("y", range(20))]
    first = house.stream(result_order=order).send(*items).until(results=3, received=24)
    house.wait_until(lambda info: info.done == 23)
    assert house.info().last_sequence == 3
    house.kill()
    first.drop()
    house.up().open_the_gate()
    with house.stream(resume_after_sequence=1) as second:
        assert (second.opened.result_order, second.opened.last_sequence) == (order, 3)
        second.half_close().rest()
        assert second.sequences == list(range(2, 25))
        assert ids(second.results) == [item.item_id for item in items][1:]
        assert [result.item_id for result in second.results if not result.replayed] == ["hold"]
        check_totals(second, 24)
    with house.stream(resume_after_sequence=2) as third:
        assert ids(third.half_close().rest()) == [item.item_id for item in items][2:]
    assert house.calls() == Counter([item.item_id for item in items] + ["hold"])


def test_a_drain_ends_what_is_in_flight_and_keeps_the_rest(house: House) -> None:
    house.up()
    with house.stream(strategy="narrow").send(*many("hold", range(3))).half_close().until(received=3) as first:
        house.wait_for_calls(1)
        assert house.sidecar is not None
        house.sidecar.process.send_signal(signal.SIGTERM)
        house.sidecar.wait_for("draining")
        house.open_the_gate()
        assert first.failure() == "SERVER_DRAINING"
        assert ids(first.results) == ["hold0"]
    assert house.sidecar.process.wait(timeout=60) == 0
    assert house.calls().total() == 1
    house.up()
    with house.stream(resume_after_sequence=1) as second:
        second.half_close().rest()
        assert [(result.item_id, result.maybe_billed) for result in second.results] == [
            ("hold1", False),
            ("hold2", False),
        ]
        check_totals(second, 3)


def test_a_drain_in_mid_sending_waits_for_what_is_in_flight_alone(house: House) -> None:
    house.environment = {"BATCH_LLM_SERVER__DRAIN_TIMEOUT_SECONDS": "3600"}
    house.up()
    with send_more_than_waits(house.stream(strategy="narrow")) as first:
        house.wait_for_calls(1)
        assert house.sidecar is not None
        house.sidecar.process.send_signal(signal.SIGTERM)
        house.sidecar.wait_for("draining")
        house.open_the_gate()
        assert first.failure() == "SERVER_DRAINING"
        assert ids(first.results) == ["hold0"]
    assert house.sidecar.process.wait(timeout=60) == 0
    assert house.calls().total() == 1


def test_what_a_drain_cuts_short_is_run_again_and_marked(house: House) -> None:
    house.environment = {"BATCH_LLM_SERVER__DRAIN_TIMEOUT_SECONDS": "0.2"}
    house.up()
    with house.stream(max_concurrency=2).send(*many("hold", range(3))).half_close().until(received=3) as first:
        house.wait_for_calls(2)
        house.stop()
        assert first.failure() == "SERVER_DRAINING"
        assert first.results == []
    house.up().open_the_gate()
    with house.stream() as second:
        second.half_close().rest()
        assert {(r.item_id, r.maybe_billed) for r in second.results} == {
            *(("hold0", True), ("hold1", True), ("hold2", False)),
        }
        check_totals(second, 3)


def test_a_strategy_that_is_gone_leaves_the_batch_waiting(house: House) -> None:
    house.environment = {"BATCH_LLM_STRATEGIES__LATER": '{"provider": "ledger"}'}
    house.up()
    first = house.stream(strategy="later", detach=True, max_concurrency=1).send(*many("hold", range(3)))
    first.until(received=3)
    house.wait_for_calls(1)
    house.kill()
    first.drop()
    house.environment = {}
    house.up()
    assert house.sidecar is not None
    house.sidecar.wait_for("batch 'b' cannot go on: no strategy 'later'")
    with pytest.raises(grpc.RpcError) as failure:
        house.stream(strategy="")
    assert reason_of(failure.value) == "STRATEGY_NOT_FOUND"
    assert house.info().done == 0
    house.stop()
    house.environment = {"BATCH_LLM_STRATEGIES__LATER": '{"provider": "ledger"}'}
    house.up().open_the_gate()
    with house.stream(strategy="") as second:
        second.half_close().rest()
        check_totals(second, 3)


# -- items that are sent again -----------------------------------------------------------------------------------------


def test_items_that_are_sent_again_are_recognised_after_a_restart_too(house: House) -> None:
    house.up()
    sent = [
        WorkItem(item_id="a", prompt="x"),
        WorkItem(item_id="empty"),
        WorkItem(item_id="unknown", prompt="x", strategy="nobody"),
        WorkItem(item_id="a", prompt="other"),
    ]
    expected = {"a": "", "empty": "INVALID_ITEM", "unknown": "STRATEGY_NOT_FOUND"}
    first = house.stream().send(*sent, *sent).send(*sent).until(results=4, received=12)
    assert first.accepted.items == 4
    house.kill()
    first.drop()
    house.up()
    with house.stream() as second:
        second.send(*sent, WorkItem(item_id="empty", prompt="now with one"), WorkItem(item_id="b", prompt="x"))
        second.half_close().rest()
        assert second.accepted.items == 6
        results = [(result.item_id, reason_name(result)) for result in second.results]
        assert Counter(results) == Counter([*expected.items(), ("a", "ITEM_ID_CONFLICT"), ("empty", ""), ("b", "")])
        assert second.sequences == list(range(1, 7))


def test_a_batch_that_was_sealed_takes_nothing_new(house: House) -> None:
    house.up()
    with house.stream().send(*work("a")).half_close() as first:
        first.rest()
    with house.stream().send(*work("a")).half_close() as again:
        assert ids(again.rest()) == ["a"]
        assert again.batch_result == first.batch_result
    with house.stream().send(*work("b")) as new:
        assert new.failure() == "INVALID_FIELD"
    assert house.calls().total() == 1


# -- looking and acting ------------------------------------------------------------------------------------------------


def test_cancelling_gives_every_item_its_result_and_ends_the_stream(house: House) -> None:
    house.up()
    with house.stream(max_concurrency=2).send(*work("x"), *many("hold", range(3000))) as stream:
        stream.until(received=3001, results=1)
        cancelled: list[pb.BatchInfo] = []

        def cancel() -> None:
            cancelled.append(house.ask("CancelBatch", pb.CancelBatchRequest(batch_id="b")).batch)

        thread = threading.Thread(target=cancel)
        thread.start()
        results = stream.rest()  # without a half-close
        thread.join(timeout=60)
        assert stream.sequences == list(range(1, 3002))
        assert Counter(map(reason_name, results)) == {"": 1, "CANCELLED": 3000}
        assert stream.batch_result is not None
        assert stream.batch_result.failures_by_reason == {"CANCELLED": 3000}
    assert (cancelled[0].state, cancelled[0].failed) == (pb.BATCH_STATE_CANCELLED, 3000)
    again = house.ask("CancelBatch", pb.CancelBatchRequest(batch_id="b")).batch
    assert again.state == pb.BATCH_STATE_CANCELLED
    with house.stream(resume_after_sequence=3000) as later:
        later.half_close().rest()
        assert (later.sequences, later.batch_result) == ([3001], stream.batch_result)


def test_a_batch_that_nobody_runs_can_be_cancelled_and_erased(house: House) -> None:
    house.up()
    first = house.stream(max_concurrency=1).send(*many("hold", range(5000))).until(received=5000)
    house.wait_for_calls(1)
    house.kill()
    first.drop()
    house.up()
    with pytest.raises(grpc.RpcError) as failure:
        house.ask("DeleteBatch", pb.DeleteBatchRequest(batch_id="b"))
    assert reason_of(failure.value) == "BATCH_NOT_FINISHED"
    info = house.ask("CancelBatch", pb.CancelBatchRequest(batch_id="b")).batch
    assert (info.state, info.done, info.failed, info.items) == (pb.BATCH_STATE_CANCELLED, 5000, 5000, 5000)
    with house.stream() as reader:
        results = reader.half_close().rest()
        assert [result.item_id for result in results if result.maybe_billed] == ["hold0"]
    house.ask("DeleteBatch", pb.DeleteBatchRequest(batch_id="b"))
    for name, request in (("GetBatch", pb.GetBatchRequest), ("CancelBatch", pb.CancelBatchRequest)):
        with pytest.raises(grpc.RpcError) as failure:
            house.ask(name, request(batch_id="b"))
        assert (failure.value.code(), reason_of(failure.value)) == (grpc.StatusCode.NOT_FOUND, "BATCH_NOT_FOUND")
    with pytest.raises(grpc.RpcError) as failure:
        house.ask("DeleteBatch", pb.DeleteBatchRequest(batch_id="b"))
    assert reason_of(failure.value) == "BATCH_NOT_FOUND"
    with house.stream() as anew:
        assert (anew.opened.items, anew.opened.last_sequence) == (0, 0)
    assert house.calls().total() == 1


def test_batches_are_listed_page_by_page(house: House) -> None:
    house.up()
    names = [f"b{number}" for number in range(7)]
    for name in names:
        with house.stream(batch_id=name).half_close() as stream:
            stream.rest()
    seen: list[str] = []
    token = ""
    while True:
        page = house.ask("ListBatches", pb.ListBatchesRequest(page_size=3, page_token=token))
        seen += [batch.batch_id for batch in page.batches]
        if not (token := page.next_page_token):
            break
        assert len(page.batches) == 3
    assert seen == names
    for request, at_fault in (
        (pb.ListBatchesRequest(page_size=-1), "page_size"),
        (pb.ListBatchesRequest(page_token="?"), "page_token"),  # noqa: S106  of a page
    ):
        with pytest.raises(grpc.RpcError) as failure:
            house.ask("ListBatches", request)
        assert reason_of(failure.value) == "INVALID_FIELD"
        assert at_fault in (failure.value.details() or "")


def test_what_does_not_fit_a_batch_is_refused_by_field(house: House) -> None:
    house.up()
    house.stream().send(*work("a")).until(results=1).drop()
    house.wait_until(lambda info: not info.running)
    for opening, at_fault in (
        ({"resume_after_sequence": -1}, "resume_after_sequence"),
        ({"resume_after_sequence": 2}, "resume_after_sequence"),
        ({"resume_after_sequence": 1, "batch_id": "new"}, "resume_after_sequence"),
        ({"result_order": pb.RESULT_ORDER_SUBMISSION}, "result_order"),
        ({"batch_id": "a\0b"}, "batch_id"),
    ):
        with pytest.raises(grpc.RpcError) as failure:
            house.stream(**opening)
        assert (failure.value.code(), reason_of(failure.value)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        assert (failure.value.details() or "").startswith(at_fault)
    with house.stream(resume_after_sequence=1, result_order=pb.RESULT_ORDER_COMPLETION) as good:
        assert good.half_close().rest() == []


def test_going_on_with_a_batch_that_was_erased_says_so(house: House) -> None:
    house.up()
    house.stream(batch_id="gone").send(*work("a")).half_close().rest()
    house.ask("DeleteBatch", pb.DeleteBatchRequest(batch_id="gone"))
    with pytest.raises(grpc.RpcError, match=r"no batch 'gone': it was never opened here, or was erased; .* anew"):
        house.stream(batch_id="gone", resume_after_sequence=1)


def test_the_order_of_results_is_the_one_that_a_batch_began_with(house: House) -> None:
    house.up()
    house.stream(result_order=pb.RESULT_ORDER_SUBMISSION).send(*work("a")).until(results=1).drop()
    house.wait_until(lambda info: not info.running)
    with pytest.raises(grpc.RpcError, match="result_order is another than the batch was opened with") as failure:
        house.stream(result_order=pb.RESULT_ORDER_COMPLETION)
    assert reason_of(failure.value) == "INVALID_FIELD"
    with house.stream() as again:
        assert again.opened.result_order == pb.RESULT_ORDER_SUBMISSION
        again.half_close().rest()
    with pytest.raises(grpc.RpcError) as failure:
        house.stream(result_order=pb.RESULT_ORDER_COMPLETION)
    assert reason_of(failure.value) == "INVALID_FIELD", "when it has ended too"


# -- single items ------------------------------------------------------------------------------------------------------


def single(house: House, prompt: str, key: str, strategy: str = "ledger", **fields: str) -> WorkItemResult:
    item = WorkItem(item_id=prompt, prompt=prompt, strategy=strategy, **fields)
    request = pb.ProcessItemRequest(item=item, idempotency_key=key)
    result: WorkItemResult = house.ask("ProcessItem", request).result
    return result


def test_an_idempotency_key_runs_an_item_once(house: House) -> None:
    house.up()
    first = single(house, "a", "k")
    assert (first.replayed, first.maybe_billed, first.sequence) == (False, False, 1)
    house.kill().up()
    second = single(house, "a", "k")
    assert second.replayed
    second.replayed = False
    assert second == first
    with pytest.raises(grpc.RpcError) as failure:
        single(house, "b", "k")
    assert (failure.value.code(), reason_of(failure.value)) == (
        grpc.StatusCode.ALREADY_EXISTS,
        "IDEMPOTENCY_CONFLICT",
    )
    assert not single(house, "a", "").replayed
    assert house.calls() == Counter(["a", "a"])
    with pytest.raises(grpc.RpcError) as failure:
        single(house, "a", "é" * 257)
    assert reason_of(failure.value) == "INVALID_FIELD"


def test_a_key_is_free_while_its_strategy_is_unknown(house: House) -> None:
    house.up()
    assert reason_name(single(house, "a", "k", "later")) == "STRATEGY_NOT_FOUND"
    house.stop().environment = {"BATCH_LLM_STRATEGIES__LATER": '{"provider": "ledger"}'}
    first = single(house.up(), "a", "k", "later")
    assert (first.output.text, first.replayed, first.maybe_billed) == ("a", False, False)
    house.stop().environment = {}
    again = single(house.up(), "a", "k", "later")
    assert (again.output.text, again.replayed) == ("a", True), "what is recorded is given without it, too"
    assert house.calls() == Counter(["a"])


def test_calls_with_a_key_at_the_same_time_share_one_run_which_outlives_its_caller(house: House) -> None:
    house.up()
    results: list[WorkItemResult] = []
    with grpc.insecure_channel(house.target) as channel:
        item = WorkItem(item_id="hold", prompt="hold", strategy="ledger")
        request = pb.ProcessItemRequest(item=item, idempotency_key="k")
        gone = BatchServiceStub(channel).ProcessItem.future(request)
        house.wait_for_calls(1)
        gone.cancel()
    threads = [threading.Thread(target=lambda: results.append(single(house, "hold", "k"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    with pytest.raises(grpc.RpcError) as failure:
        single(house, "other", "k")
    assert reason_of(failure.value) == "IDEMPOTENCY_CONFLICT"
    house.open_the_gate()
    for thread in threads:
        thread.join(timeout=60)
    assert [result.output.text for result in results] == ["hold"] * 3
    assert house.calls() == Counter(["hold"])


def test_an_item_with_a_key_that_was_begun_when_its_sidecar_died_is_marked(house: House) -> None:
    house.up()
    with grpc.insecure_channel(house.target) as channel:
        item = WorkItem(item_id="hold", prompt="hold", strategy="ledger")
        lost = BatchServiceStub(channel).ProcessItem.future(pb.ProcessItemRequest(item=item, idempotency_key="k"))
        house.wait_for_calls(1)
        house.kill()
        with pytest.raises(grpc.RpcError):
            lost.result()
    house.up().open_the_gate()
    assert single(house, "hold", "k").maybe_billed
    again = single(house, "hold", "k")
    assert (again.maybe_billed, again.replayed) == (True, True)
    assert house.calls() == Counter({"hold": 2})


# -- other journals ----------------------------------------------------------------------------------------------------


def test_in_memory_a_batch_outlives_its_stream_but_not_its_sidecar(house: House) -> None:
    house.environment = {"BATCH_LLM_JOURNAL__URL": "memory"}
    house.up()
    first = house.stream().send(*many("x", range(10))).until(results=10)
    assert not first.opened.durable
    house.drop(first)
    with house.stream(resume_after_sequence=4) as second:
        second.send(*many("x", range(12))).half_close().rest()
        assert second.sequences == list(range(5, 13))
        check_totals(second, 12)
    house.stop()
    assert not (house.folder / "state" / "journal.db").exists()


def test_a_second_sidecar_on_the_same_journal_is_refused(house: House) -> None:
    house.up()
    other = house.start("--listen", "127.0.0.1:0", "--state-dir", str(house.folder / "state"), config="")
    assert other.process.wait(timeout=60) == 2
