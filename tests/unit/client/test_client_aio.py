import asyncio
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest

from batch_llm_client import (
    AbortedError,
    AsyncBatchClient,
    BatchNotFinishedError,
    BatchNotFoundError,
    BatchState,
    CallCancelledError,
    ClientClosedError,
    MessageTooLargeError,
    NotFoundError,
    SidecarUnavailableError,
    UnexpectedError,
    WorkItem,
)
from batchllm.v1.batch_service_pb2 import ListBatchesRequest

WAIT = 30


@pytest.fixture
async def client(sidecar) -> AsyncIterator[AsyncBatchClient]:
    async with AsyncBatchClient(sidecar.target) as client:
        yield client


def items(count: int) -> list[WorkItem]:
    return [WorkItem(str(number), f"prompt {number}") for number in range(count)]


async def stream(count: int) -> AsyncIterator[WorkItem]:
    for item in items(count):
        yield item


def source_tasks() -> list[asyncio.Task[object]]:
    return [task for task in asyncio.all_tasks() if task.get_name() == "batch-llm-source"]


async def ended(sidecar) -> bool:
    return await asyncio.to_thread(sidecar.stream_ended.wait, WAIT)


async def test_a_batch(client: AsyncBatchClient) -> None:
    batch = client.process_batch([WorkItem("a", "hello"), WorkItem("b", "fail")], batch_id="mine")
    with pytest.raises(RuntimeError, match="not opened"):
        _ = batch.opened
    async with batch:
        assert batch.opened.batch_id == "mine"
        with pytest.raises(RuntimeError, match="at its end"):
            _ = batch.totals
        results = [result async for result in batch]
    assert [(result.item_id, result.ok) for result in results] == [("a", True), ("b", False)]
    assert batch.totals.failures_by_reason == {"RATE_LIMITED": 1}
    assert batch.progress is not None
    assert batch.progress.done == 2


async def test_a_unix_socket(unix_sidecar) -> None:
    async with AsyncBatchClient(unix_sidecar.target) as client:
        await client.wait_until_ready()
        assert [result.text async for result in client.process_batch(items(1))] == ["prompt 0"]


@pytest.mark.parametrize("kind", ["list", "generator", "async generator"])
async def test_every_kind_of_source(client: AsyncBatchClient, sidecar, kind: str) -> None:
    source = {"list": items(130), "generator": iter(items(130)), "async generator": stream(130)}[kind]
    seen = []
    batch = client.process_batch(source, on_progress=seen.append)
    assert [result.item_id async for result in batch] == [str(n) for n in range(130)]
    assert [len(frame) for frame in sidecar.item_ids] == [64, 64, 2]
    assert batch.totals.total_items == 130
    assert seen[-1].done == 130
    assert source_tasks() == []


async def test_items_are_not_held_back_while_the_source_waits(client: AsyncBatchClient) -> None:
    answered = [asyncio.Event() for _ in range(5)]

    async def slow() -> AsyncIterator[WorkItem]:
        for number, event in enumerate(answered):
            yield WorkItem(str(number), "x")
            await event.wait()

    number = 0
    async for result in client.process_batch(slow()):
        assert result.item_id == str(number)
        answered[number].set()
        number += 1
    assert number == 5


async def test_leaving_early_cancels(client: AsyncBatchClient, sidecar) -> None:
    async def endless() -> AsyncIterator[WorkItem]:
        number = 0
        while True:
            number += 1
            yield WorkItem(str(number), "x")

    async with client.process_batch(endless()) as batch:
        async for _ in batch:
            break
    assert await ended(sidecar)
    with pytest.raises(CallCancelledError):
        async for _ in batch:
            pass
    await asyncio.gather(*source_tasks(), return_exceptions=True)
    assert source_tasks() == []


async def test_cancelling_a_batch_is_no_cancelled_task(client: AsyncBatchClient, sidecar) -> None:
    never = asyncio.Event()

    async def source() -> AsyncIterator[WorkItem]:
        yield WorkItem("1", "x")
        await never.wait()

    batch = client.process_batch(source())
    await anext(batch)
    asyncio.get_running_loop().call_soon(batch.cancel)
    with pytest.raises(CallCancelledError):
        await anext(batch)
    assert await ended(sidecar)


async def test_a_cancelled_task_cancels_the_call(client: AsyncBatchClient, sidecar) -> None:
    opened = asyncio.Event()
    never = asyncio.Event()

    async def source() -> AsyncIterator[WorkItem]:
        yield WorkItem("1", "x")
        await never.wait()

    async def consume() -> None:
        async for _ in client.process_batch(source()):
            opened.set()

    task = asyncio.create_task(consume())
    await opened.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await ended(sidecar)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_what_the_source_raises_is_raised(client: AsyncBatchClient, sidecar, kind: str) -> None:
    def bad() -> Iterator[WorkItem]:
        yield from items(10)
        raise KeyError("row 10")

    async def async_bad() -> AsyncIterator[WorkItem]:
        for item in bad():
            yield item

    with pytest.raises(KeyError, match="row 10"):
        async for _ in client.process_batch(bad() if kind == "sync" else async_bad()):
            pass
    assert await ended(sidecar)


async def test_too_large(client: AsyncBatchClient, sidecar) -> None:
    sidecar.max_message_bytes = 400
    with pytest.raises(MessageTooLargeError) as caught:
        async for _ in client.process_batch([WorkItem("big", "x" * 500)]):
            pass
    assert (caught.value.item_id, caught.value.limit) == ("big", 400)
    async with AsyncBatchClient(sidecar.target, max_message_bytes=100) as small:
        with pytest.raises(MessageTooLargeError):
            await small.process_item(WorkItem("1", "x" * 200))


async def test_a_stream_refused(client: AsyncBatchClient, sidecar) -> None:
    sidecar.refusal = (grpc.StatusCode.ABORTED, "BATCH_IN_USE", {"batch_id": "b"}, 2.0)
    with pytest.raises(AbortedError) as caught:
        async with client.process_batch(stream(3)):
            pass
    assert (caught.value.reason, caught.value.retry_after) == ("BATCH_IN_USE", 2.0)
    with pytest.raises(AbortedError):
        await anext(client.process_batch(items(3)))


async def test_a_stream_without_totals(client: AsyncBatchClient, sidecar) -> None:
    sidecar.script = lambda requests, context: iter([sidecar.opened(next(requests).open)])
    with pytest.raises(UnexpectedError, match="without `batch_result`"):
        await anext(client.process_batch([]))


async def test_single_calls(client: AsyncBatchClient, sidecar) -> None:
    assert (await client.process_item(WorkItem("1", "hello"))).text == "hello"
    strategy, registered = await client.register_strategy({"name": "s", "provider": "p"})
    assert (strategy.spec.name, registered) == ("s", True)
    assert (await client.get_strategy("s")).spec.name == "s"
    assert [strategy.spec.name for strategy in await client.list_strategies()] == ["s"]
    await client.unregister_strategy("s")
    assert (await client.create_or_reuse_cache("s", ttl=1.5))[1] is True
    assert sidecar.requests[-1].ttl.ToMilliseconds() == 1500
    assert (await client.renew_cache("s"))[1] is True
    assert await client.delete_cache("s") is True
    assert (await client.get_cache("s")).name == "caches/1"
    assert len(await client.list_caches()) == 1


async def test_batches(client: AsyncBatchClient, sidecar) -> None:
    for batch_id in "edcba":
        assert len([result async for result in client.process_batch(items(3), batch_id=batch_id)]) == 3
    assert [batch.batch_id async for batch in client.list_batches(2)] == list("abcde")
    assert len([request for request in sidecar.requests if isinstance(request, ListBatchesRequest)]) == 3
    info = await client.get_batch("a")
    assert (info.state, info.items, info.last_sequence) == (BatchState.BATCH_STATE_FINISHED, 3, 3)
    assert (await client.cancel_batch("b")).state == BatchState.BATCH_STATE_CANCELLED
    await client.delete_batch("b")
    for call in (client.get_batch, client.cancel_batch, client.delete_batch):
        with pytest.raises(BatchNotFoundError):
            await call("b")
    sidecar.journal["a"].sealed = False
    with pytest.raises(BatchNotFinishedError):
        await client.delete_batch("a")


async def test_an_id_of_its_own(client: AsyncBatchClient, sidecar) -> None:
    batch, other = client.process_batch(items(1)), client.process_batch(items(1))
    assert batch.batch_id != other.batch_id
    assert [result.sequence async for result in batch] == [1]
    assert batch.batch_id in sidecar.journal
    assert batch.last_sequence == 1


async def test_a_call_refused(client: AsyncBatchClient, sidecar) -> None:
    sidecar.refusal = (grpc.StatusCode.NOT_FOUND, "STRATEGY_NOT_FOUND", {"known": "a"}, None)
    with pytest.raises(NotFoundError) as caught:
        await client.get_strategy("x")
    assert (caught.value.reason, caught.value.metadata) == ("STRATEGY_NOT_FOUND", {"known": "a"})


async def test_nobody_listens(tmp_path) -> None:
    async with AsyncBatchClient(f"unix:{tmp_path}/none.sock") as client:
        with pytest.raises(SidecarUnavailableError, match=r"none\.sock.*batch-llm-sidecar serve"):
            await client.wait_until_ready(timeout=0.05)
        with pytest.raises(SidecarUnavailableError):
            await client.list_caches()


async def test_closing_a_client_ends_who_waits_for_the_sidecar(tmp_path) -> None:
    client = AsyncBatchClient(f"unix:{tmp_path}/none.sock")
    waiting = asyncio.create_task(client.wait_until_ready(timeout=60))
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(ClientClosedError):
        await waiting


async def test_a_closed_client(sidecar) -> None:
    client = AsyncBatchClient(sidecar.target)
    batch = client.process_batch(stream(1))
    await batch.wait_opened()
    await client.close()
    await client.close()
    with pytest.raises(CallCancelledError):
        async for _ in batch:
            pass
    with pytest.raises(ClientClosedError):
        await client.list_strategies()


def test_it_wants_a_running_loop() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        AsyncBatchClient("127.0.0.1:1")
