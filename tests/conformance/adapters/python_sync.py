"""Adapter of the sync Python client."""

from __future__ import annotations

import queue
from collections.abc import Iterable, Iterator
from typing import Any

from batch_llm_client import Batch, BatchClient, WorkItem
from tests.conformance.adapters import python_messages as messages
from tests.conformance.adapters.threads import ThreadedAdapter


class _Feed:
    """Items as they are told, counted."""

    def __init__(self, items: list[WorkItem]) -> None:
        self._queue: queue.Queue[WorkItem | None] = queue.Queue()
        self.taken = 0
        self.add(items)

    def add(self, items: Iterable[WorkItem]) -> None:
        for item in items:
            self._queue.put(item)

    def end(self) -> None:
        self._queue.put(None)

    def __iter__(self) -> Iterator[WorkItem]:
        while (item := self._queue.get()) is not None:
            self.taken += 1
            yield item


class SyncAdapter(ThreadedAdapter):
    name = "python"
    sets = ("client",)
    read_error = staticmethod(messages.error)

    def __init__(self) -> None:
        super().__init__()
        self._clients: dict[str, BatchClient] = {}
        self._batches: dict[str, Batch] = {}
        self._sources: dict[str, Any] = {}

    def do_connect(self, client: str, target: str, resume_policy: dict[str, Any] | None = None) -> None:
        self._clients[client] = BatchClient(target, **messages.policy(resume_policy))

    def do_close(self, client: str) -> None:
        self._clients.pop(client).close()

    def do_call(self, client: str, method: str, request: object, timeout: float | None = None) -> dict[str, Any]:
        got = messages.call(self._clients[client], method, request, timeout)
        return messages.response(method, list(got) if method == "ListBatches" else got)

    def do_batch_start(
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

    def do_batch_resume(
        self, client: str, batch: str, batch_id: str, after: int = 0, timeout: float | None = None
    ) -> None:
        self._sources[batch] = messages.CountedList([])
        self._batches[batch] = self._clients[client].resume_batch(batch_id, after=after, timeout=timeout)

    def do_batch_add(self, batch: str, items: list[object]) -> None:
        self._sources[batch].add(messages.items(items))

    def do_batch_end(self, batch: str) -> None:
        self._sources[batch].end()

    def do_batch_opened(self, batch: str) -> dict[str, Any]:
        return {"opened": messages.opened(self._batches[batch].opened)}

    def do_batch_next(self, batch: str, count: int | None = None) -> dict[str, Any]:
        iterator, results = self._batches[batch], []
        answer: dict[str, Any] = {"results": results}
        try:
            while count is None or len(results) < count:
                results.append(messages.result(next(iterator)))
        except StopIteration:
            answer["totals"] = messages.totals(iterator.totals)
        except Exception as failure:
            answer["error"] = messages.error(failure)
            if answer["error"] is None:
                raise
        return answer

    def do_batch_status(self, batch: str) -> dict[str, Any]:
        return messages.status(self._batches[batch], self._sources[batch].taken)

    def do_batch_cancel(self, batch: str) -> None:
        self._batches[batch].cancel()

    def do_batch_leave(self, batch: str) -> dict[str, Any]:
        return {"items": self._batches[batch].leave()}


if __name__ == "__main__":
    SyncAdapter().serve()
