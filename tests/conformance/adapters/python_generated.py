"""Adapter of the generated Python code alone."""

from __future__ import annotations

import base64
import queue
import threading
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf import json_format

from batchllm.v1 import batch_service_pb2 as pb
from batchllm.v1.batch_service_pb2_grpc import BatchServiceStub
from batchllm.v1.cache_lifecycle_service_pb2_grpc import CacheLifecycleServiceStub
from batchllm.v1.strategy_service_pb2_grpc import StrategyServiceStub
from tests.conformance.adapters.threads import ThreadedAdapter
from tests.conformance.notation import METHODS

_STUBS = (BatchServiceStub, StrategyServiceStub, CacheLifecycleServiceStub)
_CALL_SECONDS = 60.0


class _Stream:
    def __init__(self, stub: BatchServiceStub, timeout: float | None) -> None:
        self._frames: queue.Queue[tuple[pb.ProcessBatchRequest, threading.Event] | None] = queue.Queue()
        self.call = stub.ProcessBatch(self._taken(), timeout=timeout)
        self.ended = threading.Event()
        if not self.call.add_callback(self.ended.set):
            self.ended.set()

    def send(self, frame: pb.ProcessBatchRequest) -> None:
        """Returns once gRPC has asked for the next one, or the stream has ended."""
        taken = threading.Event()
        self._frames.put((frame, taken))
        while not self.ended.is_set() and not taken.wait(0.01):
            pass

    def half_close(self) -> None:
        self._frames.put(None)

    def _taken(self) -> Iterator[pb.ProcessBatchRequest]:
        while (entry := self._frames.get()) is not None:
            frame, taken = entry
            taken.set()
            yield frame


class GeneratedAdapter(ThreadedAdapter):
    name = "python-generated"
    sets = ("raw",)

    def __init__(self) -> None:
        super().__init__()
        self._channels: dict[str, grpc.Channel] = {}
        self._streams: dict[str, _Stream] = {}

    @staticmethod
    def read_error(failure: Exception) -> dict[str, Any] | None:
        if not isinstance(failure, grpc.RpcError):
            return None
        details = dict(failure.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
        return {
            "code": failure.code().name,
            "message": failure.details(),
            "details": base64.b64encode(details).decode(),
        }

    def do_connect(self, client: str, target: str, resume_policy: object = None) -> None:
        self._channels[client] = grpc.insecure_channel(target)

    def do_close(self, client: str) -> None:
        self._channels.pop(client).close()

    def do_call(self, client: str, method: str, request: object, timeout: float = _CALL_SECONDS) -> dict[str, Any]:
        message = json_format.ParseDict(request, METHODS[method][0]())
        stubs = [stub(self._channels[client]) for stub in _STUBS]
        call = next(getattr(stub, method) for stub in stubs if hasattr(stub, method))
        return {"response": json_format.MessageToDict(call(message, timeout=timeout))}

    def do_stream_open(self, client: str, stream: str, timeout: float | None = None) -> None:
        self._streams[stream] = _Stream(BatchServiceStub(self._channels[client]), timeout)

    def do_stream_send(self, stream: str, frame: object) -> None:
        self._streams[stream].send(json_format.ParseDict(frame, pb.ProcessBatchRequest()))

    def do_stream_half_close(self, stream: str) -> None:
        self._streams[stream].half_close()

    def do_stream_next(self, stream: str) -> dict[str, Any]:
        frame = next(self._streams[stream].call, None)
        return {"end": True} if frame is None else {"frame": json_format.MessageToDict(frame)}

    def do_stream_cancel(self, stream: str) -> None:
        self._streams[stream].call.cancel()


if __name__ == "__main__":
    GeneratedAdapter().serve()
