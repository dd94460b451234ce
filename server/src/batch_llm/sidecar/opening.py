"""What is in force for a batch that is opened again."""

from __future__ import annotations

from batchllm.v1 import batch_service_pb2 as pb

from .status import invalid


def merged(opening: pb.OpenBatch, known: pb.OpenBatch, batch_id: str, sequence: int) -> pb.OpenBatch:
    """The opening that is in force from now on: what a later one leaves open is as it was.

    Args:
        opening: the later one.
        known: what was in force.
        batch_id: the batch.
        sequence: of its last result.

    Raises:
        BatchLLMError: INVALID_FIELD: it does not fit the batch.
    """
    order = opening.result_order or known.result_order or pb.RESULT_ORDER_COMPLETION
    if order != (known.result_order or pb.RESULT_ORDER_COMPLETION):
        raise invalid(
            "result_order",
            f"is another than the batch was opened with ({pb.ResultOrder.Name(known.result_order)}); leave it out",
        )
    if opening.resume_after_sequence > sequence:
        raise invalid(
            "resume_after_sequence",
            f"is {opening.resume_after_sequence}, and the last result of batch {batch_id!r} is {sequence}; resume "
            "after the last one that you have",
        )
    in_force = pb.OpenBatch()
    in_force.CopyFrom(opening)
    in_force.strategy = opening.strategy or known.strategy
    in_force.result_order = order
    in_force.detach = opening.detach or known.detach  # who looks at its results does not take it over
    in_force.ClearField("resume_after_sequence")
    if not opening.labels:
        in_force.labels.update(known.labels)
    return in_force
