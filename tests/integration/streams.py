"""A `ProcessBatch` stream under a test's control, from the generated stub alone."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

import grpc

from batchllm.v1 import batch_service_pb2 as pb
from batchllm.v1.batch_service_pb2_grpc import BatchServiceStub
from batchllm.v1.errors_pb2 import ErrorReason
from batchllm.v1.work_pb2 import BatchResult, WorkItem, WorkItemResult


class Stream:
    """One stream. Frames are sent as told and read as asked for.

    Args:
        target: the sidecar.
        opening: fields of `open`.
    """

    def __init__(self, target: str, **opening: object) -> None:
        self._channel = grpc.insecure_channel(target)
        self.stub = BatchServiceStub(self._channel)
        self._frames: queue.Queue[pb.ProcessBatchRequest | None] = queue.Queue()
        self._frames.put(pb.ProcessBatchRequest(open=pb.OpenBatch(**opening)))  # type: ignore[arg-type]
        self.call = self.stub.ProcessBatch(iter(self._frames.get, None), timeout=120)
        self.accepted = pb.ItemsAccepted()
        self.results: list[WorkItemResult] = []
        self.batch_result: BatchResult | None = None
        self.opened = next(self.call).opened

    def send(self, *items: WorkItem) -> Self:
        self._frames.put(pb.ProcessBatchRequest(items=pb.WorkItems(items=items)))
        return self

    def half_close(self) -> Self:
        self._frames.put(None)
        return self

    def until(self, *, results: int = 0, received: int = 0) -> Self:
        """Read until so many results have come, and so many items were confirmed."""
        while len(self.results) < results or self.accepted.received < received:
            self._read(next(self.call))
        return self

    def rest(self) -> list[WorkItemResult]:
        """Read to the end: all results."""
        for frame in self.call:
            self._read(frame)
        return self.results

    def failure(self) -> str:
        """Read to the end, which must be an error: its reason."""
        try:
            self.rest()
        except grpc.RpcError as error:
            return reason_of(error)
        raise AssertionError("the stream ended without an error")

    @property
    def sequences(self) -> list[int]:
        return [result.sequence for result in self.results]

    def drop(self) -> None:
        """Go away without a word."""
        self.call.cancel()
        self._frames.put(None)
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.drop()

    def _read(self, frame: pb.ProcessBatchResponse) -> None:
        match frame.WhichOneof("frame"):
            case "results":
                self.results.extend(frame.results.results)
            case "accepted":
                self.accepted = frame.accepted
            case "batch_result":
                self.batch_result = frame.batch_result


def items(numbers: Iterable[int], **said: object) -> Iterator[WorkItem]:
    """Items named after their number; what is said scripts the simulated provider."""
    for number in numbers:
        yield WorkItem(item_id=f"i{number}", prompt=json.dumps({"simulate": said, "number": number}))


def reason_of(error: grpc.RpcError) -> str:
    """The reason in an RPC error's details."""
    from google.rpc import error_details_pb2
    from grpc_status import rpc_status

    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None, error
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        if detail.Unpack(info):
            return info.reason
    raise AssertionError(status)


def reason_name(result: WorkItemResult) -> str:
    """The reason of a failed result; empty for a success."""
    return ErrorReason.Name(result.error.reason).removeprefix("ERROR_REASON_") if result.HasField("error") else ""
