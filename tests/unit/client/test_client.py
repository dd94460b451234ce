import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import grpc
import pytest

from batch_llm_client import (
    AbortedError,
    BatchClient,
    BatchNotFinishedError,
    BatchNotFoundError,
    BatchState,
    CallCancelledError,
    ClientClosedError,
    DeadlineExceededError,
    MessageTooLargeError,
    NotFoundError,
    Progress,
    ResultOrder,
    ServerDrainingError,
    SidecarUnavailableError,
    StrategySpec,
    UnexpectedError,
    WorkItem,
)
from batchllm.v1.batch_service_pb2 import RESULT_ORDER_SUBMISSION, ListBatchesRequest, ProcessBatchResponse
from batchllm.v1.work_pb2 import BatchResult

WAIT = 30  # a limit for what must not hang, never a duration that passes


@pytest.fixture
def client(sidecar) -> Iterator[BatchClient]:
    with BatchClient(sidecar.target) as client:
        yield client


def items(count: int) -> list[WorkItem]:
    return [WorkItem(str(number), f"prompt {number}") for number in range(count)]


def source_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "batch-llm-source"]


def test_a_batch(client: BatchClient, sidecar) -> None:
    seen: list[Progress] = []
    work = [WorkItem("a", "hello", context=b"ctx"), WorkItem("b", "fail")]
    with client.process_batch(
        work,
        strategy="echo",
        batch_id="mine",
        max_concurrency=3,
        result_order="submission",
        labels={"job": "j"},
        on_progress=seen.append,
    ) as batch:
        assert (batch.opened.batch_id, batch.opened.max_concurrency, batch.opened.strategy) == ("mine", 3, "echo")
        assert (batch.opened.result_order, batch.opened.server_version) == (ResultOrder.SUBMISSION, "0.3.0")
        assert batch.progress is None
        with pytest.raises(RuntimeError, match="at its end"):
            _ = batch.totals
        good, bad = batch

    assert (good.item_id, good.ok, good.text, good.finish_reason, good.error) == ("a", True, "hello", "stop", None)
    assert (good.context, good.attempts, good.elapsed, good.strategy, good.model) == (b"ctx", 1, 0.25, "echo", "m")
    assert (good.submission_index, good.sequence, good.safety_ratings) == (0, 1, {"harm": "low"})
    assert (good.usage.input_tokens, good.usage.cached_input_tokens, good.usage.effective_input_tokens) == (10, 5, 6)
    assert (bad.ok, bad.text, bad.finish_reason) == (False, None, None)
    assert bad.error is not None
    assert (bad.error.reason, bad.error.message, bad.error.retryable) == ("RATE_LIMITED", "slow down", True)
    assert (bad.error.retry_after, bad.error.metadata) == (3.0, {"provider": "p"})

    totals = batch.totals
    assert (totals.total_items, totals.succeeded, totals.failed) == (2, 1, 1)
    assert (totals.total_input_tokens, totals.total_cached_tokens, totals.total_output_tokens) == (20, 10, 4)
    assert (totals.cache_hit_rate, totals.effective_input_tokens, totals.elapsed) == (50.0, 12, 2.5)
    assert totals.failures_by_reason == {"RATE_LIMITED": 1}
    assert batch.progress == seen[-1]
    assert seen[-1].done == 2
    assert sidecar.opens[0].result_order == RESULT_ORDER_SUBMISSION
    assert sidecar.opens[0].labels == {"job": "j"}


def test_a_unix_socket(unix_sidecar) -> None:
    with BatchClient(unix_sidecar.target) as client:
        client.wait_until_ready()
        assert [result.text for result in client.process_batch(items(1))] == ["prompt 0"]


def test_sized_items_go_in_full_frames(client: BatchClient, sidecar) -> None:
    assert [result.item_id for result in client.process_batch(items(130))] == [str(n) for n in range(130)]
    assert [len(frame) for frame in sidecar.item_ids] == [64, 64, 2]


def test_a_generator_keeps_order_and_bound(client: BatchClient, sidecar) -> None:
    batch = client.process_batch(item for item in items(1000))
    assert [result.item_id for result in batch] == [str(n) for n in range(1000)]
    assert max(len(frame) for frame in sidecar.item_ids) <= 64
    assert batch.totals.total_items == 1000


def test_nothing_to_do(client: BatchClient) -> None:
    batch = client.process_batch([])
    assert list(batch) == []
    assert batch.totals.total_items == 0
    assert list(client.process_batch(iter(()))) == []


def test_frames_obey_the_server_limit(client: BatchClient, sidecar) -> None:
    sidecar.max_message_bytes = 400
    batch = client.process_batch(WorkItem(str(n), "x" * 150) for n in range(7))
    assert len(list(batch)) == 7
    assert max(len(frame.SerializeToString()) for frame in sidecar.frames) < 400
    with pytest.raises(MessageTooLargeError) as caught:
        list(client.process_batch([WorkItem("ok", "x"), WorkItem("big", "x" * 500)]))
    assert (caught.value.item_id, caught.value.limit) == ("big", 400)


def test_items_are_not_held_back_while_the_source_blocks(client: BatchClient) -> None:
    answered = [threading.Event() for _ in range(5)]

    def slow() -> Iterator[WorkItem]:
        for number, event in enumerate(answered):
            yield WorkItem(str(number), "x")
            assert event.wait(WAIT)

    for number, result in enumerate(client.process_batch(slow())):
        assert result.item_id == str(number)
        answered[number].set()


def test_the_source_is_not_read_ahead_without_bound(client: BatchClient, sidecar) -> None:
    taken = 0
    go_on = threading.Event()

    def endless() -> Iterator[WorkItem]:
        nonlocal taken
        while True:
            taken += 1
            yield WorkItem(str(taken), "x" * 10_000)

    def stuck(requests, context):
        yield sidecar.opened(next(requests).open)
        assert go_on.wait(WAIT)

    sidecar.script = stuck
    batch = client.process_batch(endless())
    assert batch.opened.batch_id
    batch.cancel()
    go_on.set()
    with pytest.raises(CallCancelledError):
        next(batch)
    for thread in source_threads():
        thread.join(WAIT)
    assert source_threads() == []
    assert taken < 2000


def test_leaving_early_cancels(client: BatchClient, sidecar) -> None:
    with client.process_batch(iter(items(500))) as batch:
        next(batch)
    assert sidecar.stream_ended.wait(WAIT)
    with pytest.raises(CallCancelledError) as caught:
        list(batch)
    assert caught.value.code == "CANCELLED"
    for thread in source_threads():
        thread.join(WAIT)
    assert source_threads() == []


def test_dropping_a_batch_cancels(client: BatchClient, sidecar) -> None:
    blocked = threading.Event()

    def source() -> Iterator[WorkItem]:
        yield WorkItem("1", "x")
        blocked.wait(WAIT)

    for _ in client.process_batch(source()):
        break
    assert sidecar.stream_ended.wait(WAIT)
    blocked.set()


@pytest.mark.parametrize("lazy", [True, False])
def test_what_the_source_raises_is_raised(client: BatchClient, sidecar, lazy: bool) -> None:
    class Sized:
        def __len__(self) -> int:
            return 100

        def __iter__(self) -> Iterator[WorkItem]:
            yield from items(10)
            raise KeyError("row 10")

    with pytest.raises(KeyError, match="row 10"), client.process_batch(iter(Sized()) if lazy else Sized()) as batch:
        list(batch)
    assert sidecar.stream_ended.wait(WAIT)


def test_a_stream_refused(client: BatchClient, sidecar) -> None:
    sidecar.refusal = (grpc.StatusCode.ABORTED, "BATCH_IN_USE", {"batch_id": "b"}, 2.0)
    with pytest.raises(AbortedError) as caught, client.process_batch(items(3), batch_id="b"):
        pass
    error = caught.value
    assert (error.reason, error.metadata, error.retry_after) == ("BATCH_IN_USE", {"batch_id": "b"}, 2.0)
    assert (error.code, error.message) == ("ABORTED", "no, because")
    for action in (lambda batch: next(batch), lambda batch: batch.opened, list):
        with pytest.raises(AbortedError):
            action(client.process_batch(iter(items(3))))


def test_a_stream_that_breaks_off(client: BatchClient, sidecar) -> None:
    def breaks(requests, context):
        yield from islice(sidecar.echo(requests, context), 3)
        context.abort(grpc.StatusCode.INTERNAL, "oh")

    sidecar.script = breaks
    batch = client.process_batch(items(1), resume=False)
    assert next(batch).item_id == "0"
    with pytest.raises(UnexpectedError, match="oh"):
        next(batch)


def test_no_totals_and_unknown_frames(client: BatchClient, sidecar) -> None:
    def strange(requests, context):
        yield ProcessBatchResponse.FromString(b"\x9a\x06\x00")
        yield from islice(sidecar.echo(requests, context), 3)
        yield ProcessBatchResponse.FromString(b"\x9a\x06\x00")

    sidecar.script = strange
    batch = client.process_batch(items(1))
    assert next(batch).item_id == "0"
    with pytest.raises(UnexpectedError, match="without `batch_result`"):
        next(batch)


def test_a_batch_deadline(client: BatchClient, sidecar) -> None:
    def silent(requests, context):
        assert sidecar.stream_ended.wait(WAIT)
        yield ProcessBatchResponse(batch_result=BatchResult())

    sidecar.script = silent
    with pytest.raises(DeadlineExceededError, match="within the timeout"):
        list(client.process_batch(items(1), timeout=0.05))


def test_a_bad_result_order(client: BatchClient) -> None:
    with pytest.raises(ValueError, match="sideways"):
        client.process_batch([], result_order="sideways")


def test_one_item(client: BatchClient, sidecar) -> None:
    assert client.process_item(WorkItem("1", "hello", strategy="echo")).text == "hello"
    assert sidecar.requests[0].item.strategy == "echo"
    assert not client.process_item(WorkItem("1", "fail"), timeout=WAIT).ok


def test_one_item_too_large(sidecar) -> None:
    with BatchClient(sidecar.target, max_message_bytes=100) as client, pytest.raises(MessageTooLargeError) as caught:
        client.process_item(WorkItem("1", "x" * 200))
    assert (caught.value.item_id, caught.value.limit) == ("1", 100)
    assert caught.value.size > 200
    assert sidecar.requests == []


def test_strategies(client: BatchClient, sidecar) -> None:
    strategy, registered = client.register_strategy({"name": "s", "provider": "p", "cache_ttl_seconds": 60})
    assert (strategy.spec.name, strategy.spec.cache_ttl.seconds, registered) == ("s", 60, True)
    assert client.register_strategy(StrategySpec(name="s", provider="p"))[1] is False
    assert client.get_strategy("s").spec.name == "s"
    assert [strategy.spec.name for strategy in client.list_strategies()] == ["s"]
    client.unregister_strategy("s")
    assert client.list_strategies() == []
    with pytest.raises(ValueError, match="unknown key"):
        client.register_strategy({"nam": "s"})


def test_caches(client: BatchClient, sidecar) -> None:
    cache, reused = client.create_or_reuse_cache("s", ttl=1.5)
    assert (cache.name, cache.strategy, reused) == ("caches/1", "s", True)
    assert sidecar.requests[-1].ttl.ToMilliseconds() == 1500
    assert client.create_or_reuse_cache("s")[1]
    assert not sidecar.requests[-1].HasField("ttl")
    assert client.renew_cache("s", 2)[1] is True
    assert client.delete_cache("s") is True
    assert client.get_cache("s").name == "caches/1"
    assert [cache.strategy for cache in client.list_caches()] == ["triage"]


def test_batches(client: BatchClient, sidecar) -> None:
    for batch_id in "edcba":
        assert len(list(client.process_batch(items(3), batch_id=batch_id))) == 3
    assert [batch.batch_id for batch in client.list_batches(2)] == list("abcde")
    assert len([request for request in sidecar.requests if isinstance(request, ListBatchesRequest)]) == 3
    info = client.get_batch("a")
    assert (info.state, info.items, info.last_sequence) == (BatchState.BATCH_STATE_FINISHED, 3, 3)
    assert (client.cancel_batch("b")).state == BatchState.BATCH_STATE_CANCELLED
    client.delete_batch("b")
    for call in (client.get_batch, client.cancel_batch, client.delete_batch):
        with pytest.raises(BatchNotFoundError):
            call("b")
    sidecar.journal["a"].sealed = False
    with pytest.raises(BatchNotFinishedError):
        client.delete_batch("a")


def test_an_id_of_its_own(client: BatchClient, sidecar) -> None:
    batch, other = client.process_batch(items(1)), client.process_batch(items(1))
    assert batch.batch_id != other.batch_id
    assert [result.sequence for result in batch] == [1]
    assert batch.batch_id in sidecar.journal
    assert batch.last_sequence == 1


def test_a_call_refused(client: BatchClient, sidecar) -> None:
    sidecar.refusal = (grpc.StatusCode.NOT_FOUND, "STRATEGY_NOT_FOUND", {"known": "a"}, None)
    with pytest.raises(NotFoundError) as caught:
        client.get_strategy("x")
    assert (caught.value.reason, caught.value.metadata, caught.value.retry_after) == (
        "STRATEGY_NOT_FOUND",
        {"known": "a"},
        None,
    )
    sidecar.refusal = (grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING", {}, 4.0)
    with pytest.raises(ServerDrainingError) as draining:
        client.list_strategies()
    assert draining.value.retry_after == 4.0


def test_nobody_listens(tmp_path) -> None:
    target = f"unix:{tmp_path}/none.sock"
    with BatchClient(target) as client:
        with pytest.raises(SidecarUnavailableError, match=r"none\.sock.*batch-llm-sidecar serve") as caught:
            client.wait_until_ready(timeout=0.05)
        assert caught.value.code == "UNAVAILABLE"
        with pytest.raises(SidecarUnavailableError, match=r"none\.sock"):
            client.list_strategies()
        with pytest.raises(SidecarUnavailableError, match=r"none\.sock"):
            list(client.process_batch(items(1)))


def test_closing_a_client_ends_who_waits_for_the_sidecar() -> None:
    with ThreadPoolExecutor() as threads, socket.create_server(("127.0.0.1", 0)) as silent:
        client = BatchClient(f"127.0.0.1:{silent.getsockname()[1]}")
        waiting = threads.submit(client.wait_until_ready, timeout=60)
        with silent.accept()[0]:
            client.close()
            with pytest.raises(ClientClosedError):
                waiting.result()


class ClosedMeanwhile(threading.Event):
    """Another thread's close, that comes after so many looks."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def is_set(self) -> bool:
        self.looks -= 1
        return self.looks < 0


@pytest.mark.parametrize(
    ("call", "looks"),
    [(BatchClient.list_strategies, 1), (BatchClient.wait_until_ready, 1), (lambda client: client.process_batch([]), 2)],
)
def test_a_client_that_another_thread_closes_as_it_is_used(sidecar, call, looks: int) -> None:
    with BatchClient(sidecar.target) as client:
        client._channel.close()
        client._connection.closed = ClosedMeanwhile(looks)
        with pytest.raises(ClientClosedError):
            call(client)


def test_waiting_for_a_sidecar_that_comes(sidecar) -> None:
    """It comes once somebody waits; also one that breaks off at first is waited for."""
    target = sidecar.target
    sidecar.stop()
    with (
        BatchClient(target) as client,
        ThreadPoolExecutor() as threads,
        socket.create_server(("127.0.0.1", int(target.rpartition(":")[2]))) as silent,
    ):
        waiting = threads.submit(client.wait_until_ready, timeout=60)
        silent.accept()[0].close()
        silent.close()
        sidecar.start()
        waiting.result()
        client.list_strategies()


def test_a_closed_client(sidecar) -> None:
    client = BatchClient(sidecar.target)
    client.close()
    client.close()
    for call in (client.list_strategies, client.wait_until_ready, lambda: client.process_batch([])):
        with pytest.raises(ClientClosedError, match="closed"):
            call()
