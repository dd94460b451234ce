import pickle

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from batch_llm_client import errors
from batch_llm_client._status import StatusDetails, parse_details


def rpc_error(code: grpc.StatusCode, details: str = "words", *, status: bytes | None = None) -> AioRpcError:
    metadata = Metadata() if status is None else Metadata(("grpc-status-details-bin", status))
    return AioRpcError(code, Metadata(), metadata, details)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.SidecarUnavailableError),
        (grpc.StatusCode.INVALID_ARGUMENT, errors.InvalidRequestError),
        (grpc.StatusCode.NOT_FOUND, errors.NotFoundError),
        (grpc.StatusCode.ALREADY_EXISTS, errors.AlreadyExistsError),
        (grpc.StatusCode.PERMISSION_DENIED, errors.PermissionDeniedError),
        (grpc.StatusCode.FAILED_PRECONDITION, errors.FailedPreconditionError),
        (grpc.StatusCode.ABORTED, errors.AbortedError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceededError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.ResourceExhaustedError),
        (grpc.StatusCode.CANCELLED, errors.CallCancelledError),
        (grpc.StatusCode.INTERNAL, errors.UnexpectedError),
        (grpc.StatusCode.UNIMPLEMENTED, errors.UnexpectedError),
    ],
)
def test_each_code_has_its_class(code: grpc.StatusCode, expected: type[Exception]) -> None:
    error = errors.from_rpc_error(rpc_error(code), "host:1")
    assert type(error) is expected
    assert (error.code, error.reason, error.metadata, error.retry_after) == (code.name, None, {}, None)


def test_details_are_kept(make_status) -> None:
    status = make_status(grpc.StatusCode.NOT_FOUND, "STRATEGY_NOT_FOUND", {"known": "a, b"}, 1.5)
    raw = rpc_error(grpc.StatusCode.NOT_FOUND, "no such strategy", status=status.SerializeToString())
    error = errors.from_rpc_error(raw, "host:1")
    assert isinstance(error, errors.NotFoundError)
    assert error.message == str(error) == "no such strategy"
    assert (error.reason, error.metadata, error.retry_after) == ("STRATEGY_NOT_FOUND", {"known": "a, b"}, 1.5)


def test_draining_is_a_kind_of_unavailable(make_status) -> None:
    status = make_status(grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING", {}, 5)
    raw = rpc_error(grpc.StatusCode.UNAVAILABLE, "draining", status=status.SerializeToString())
    error = errors.from_rpc_error(raw, "host:1")
    assert type(error) is errors.ServerDrainingError
    assert isinstance(error, errors.SidecarUnavailableError)
    assert (error.message, error.retry_after) == ("draining", 5.0)


def test_unavailable_without_reason_names_target_and_way_out() -> None:
    error = errors.from_rpc_error(rpc_error(grpc.StatusCode.UNAVAILABLE, "refused"), "unix:/x.sock")
    assert "unix:/x.sock" in error.message
    assert "refused" in error.message
    assert "batch-llm-sidecar serve" in error.message


def test_other_domains_and_garbage_are_passed_over(make_status) -> None:
    foreign = make_status(grpc.StatusCode.ABORTED, "X", {}, 2, domain="elsewhere")
    assert parse_details(foreign.SerializeToString()) == StatusDetails(None, {}, 2.0)
    assert parse_details(b"\xff\xff\xff") == StatusDetails()


def test_errors_survive_pickling() -> None:
    error = errors.NotFoundError("m", code="NOT_FOUND", reason="R", metadata={"a": "b"}, retry_after=1.0)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert vars(copy) == vars(error)
    large = pickle.loads(pickle.dumps(errors.MessageTooLargeError("7", 20, 10)))  # noqa: S301 - likewise
    assert (large.item_id, large.size, large.limit, large.code) == ("7", 20, 10, "RESOURCE_EXHAUSTED")
