import math

import pytest
from google.protobuf.duration_pb2 import Duration

from batch_llm_client import Result, ResultOrder, WorkItem
from batchllm.v1 import work_pb2


def test_item_becomes_a_message() -> None:
    message = WorkItem("1", "hello", strategy="s", context=b"\x00c", timeout=1.5).to_message()
    assert message == work_pb2.WorkItem(
        item_id="1", prompt="hello", strategy="s", context=b"\x00c", timeout=Duration(seconds=1, nanos=500_000_000)
    )
    assert not WorkItem("1", "hello").to_message().HasField("timeout")
    assert WorkItem("1", "hello", timeout=-0.5).to_message().timeout.ToMilliseconds() == -500


@pytest.mark.parametrize("timeout", [math.inf, math.nan])
def test_no_endless_timeout(timeout: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        WorkItem("1", "hello", timeout=timeout).to_message()


def test_a_reason_newer_than_the_client_is_unspecified() -> None:
    message = work_pb2.WorkItemResult(item_id="1", error=work_pb2.ItemError(reason=9999, message="new"))  # type: ignore[arg-type]
    error = Result(message).error
    assert error is not None
    assert (error.reason, error.message, error.retry_after) == ("UNSPECIFIED", "new", None)


def test_a_result_shows_what_matters() -> None:
    assert repr(Result(work_pb2.WorkItemResult(item_id="1", output=work_pb2.Output(text="t")))) == (
        "Result(item_id='1', text='t')"
    )
    assert "RATE_LIMITED" in repr(Result(work_pb2.WorkItemResult(error=work_pb2.ItemError(reason=25))))  # type: ignore[arg-type]


def test_orders_are_plain_strings() -> None:
    assert ResultOrder("submission") is ResultOrder.SUBMISSION
    assert {order: ResultOrder.from_number(order.number) for order in ResultOrder} == {o: o for o in ResultOrder}
