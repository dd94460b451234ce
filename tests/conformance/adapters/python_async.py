"""Adapter of the async Python client."""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from collections.abc import AsyncIterator, Iterable
from typing import Any

from batch_llm_client import AsyncBatch, AsyncBatchClient, WorkItem
from tests.conformance.adapters import python_messages as messages

_LINE_BYTES = 64 * 1024 * 1024


class _Feed:
    """Items as they are told, counted."""

    def __init__(self, items: list[WorkItem]) -> None:
        self._queue: asyncio.Queue[WorkItem | None] = asyncio.Queue()
        self.taken = 0
        self.add(items)

    def add(self, items: Iterable[WorkItem]) -> None:
        for item in items:
            self._queue.put_nowait(item)

    def end(self) -> None:
        self._queue.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[WorkItem]:
        while (item := await self._queue.get()) is not None:
            self.taken += 1
            yield item


class AsyncAdapter:
    """Answers commands: `batch.next` by the method `do_batch_next`."""

    def __init__(self) -> None:
        self._clients: dict[str, AsyncBatchClient] = {}
        self._batches: dict[str, AsyncBatch] = {}
        self._sources: dict[str, Any] = {}

    async def serve(self) -> None:
        lines = asyncio.StreamReader(limit=_LINE_BYTES)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        tasks: set[asyncio.Task[None]] = set()
        while line := await lines.readline():
            task = loop.create_task(self._answer(json.loads(line)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def _answer(self, command: dict[str, Any]) -> None:
        number, do = command.pop("id"), command.pop("do")
        try:
            answer = await getattr(self, "do_" + do.replace(".", "_"))(**command) or {}
        except Exception as failure:
            error = messages.error(failure)
            if error is None:
                traceback.print_exception(failure)
            answer = {"fault": repr(failure)} if error is None else {"error": error}
        print(json.dumps({"id": number, **answer}), flush=True)

    async def do_hello(self) -> dict[str, Any]:
        return {"name": "python-async", "sets": ["client"]}

    async def do_connect(self, client: str, target: str, resume_policy: dict[str, Any] | None = None) -> None:
        self._clients[client] = AsyncBatchClient(target, **messages.policy(resume_policy))

    async def do_close(self, client: str) -> None:
        await self._clients.pop(client).close()

    async def do_call(self, client: str, method: str, request: object, timeout: float | None = None) -> dict[str, Any]:
        got = messages.call(self._clients[client], method, request, timeout)
        got = [batch async for batch in got] if method == "ListBatches" else await got
        return messages.response(method, got)

    async def do_batch_start(
        self,
        client: str,
        batch: str,
        open: object,
        items: list[object],
        more: bool = False,
        resume: bool = True,
        timeout: float | None = None,
    ) -> None:
        source = self._sources[batch] = (_Feed if more else messages.CountedList)(messages.items(items))
        options = messages.opening(open)
        self._batches[batch] = self._clients[client].process_batch(source, resume=resume, timeout=timeout, **options)

    async def do_batch_resume(
        self, client: str, batch: str, batch_id: str, after: int = 0, timeout: float | None = None
    ) -> None:
        self._sources[batch] = messages.CountedList([])
        self._batches[batch] = await self._clients[client].resume_batch(batch_id, after=after, timeout=timeout)

    async def do_batch_add(self, batch: str, items: list[object]) -> None:
        self._sources[batch].add(messages.items(items))

    async def do_batch_end(self, batch: str) -> None:
        self._sources[batch].end()

    async def do_batch_opened(self, batch: str) -> dict[str, Any]:
        return {"opened": messages.opened(await self._batches[batch].wait_opened())}

    async def do_batch_next(self, batch: str, count: int | None = None) -> dict[str, Any]:
        iterator, results = self._batches[batch], []
        answer: dict[str, Any] = {"results": results}
        try:
            while count is None or len(results) < count:
                results.append(messages.result(await anext(iterator)))
        except StopAsyncIteration:
            answer["totals"] = messages.totals(iterator.totals)
        except Exception as failure:
            answer["error"] = messages.error(failure)
            if answer["error"] is None:
                raise
        return answer

    async def do_batch_status(self, batch: str) -> dict[str, Any]:
        return messages.status(self._batches[batch], self._sources[batch].taken)

    async def do_batch_cancel(self, batch: str) -> None:
        self._batches[batch].cancel()

    async def do_batch_leave(self, batch: str) -> dict[str, Any]:
        return {"items": await self._batches[batch].leave()}


if __name__ == "__main__":
    asyncio.run(AsyncAdapter().serve())
