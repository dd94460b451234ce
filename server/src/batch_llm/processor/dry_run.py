"""A batch without providers."""

from __future__ import annotations

import asyncio

from batch_llm.executor import Work, failure
from batch_llm.model import AnyResult, ErrorReason, TokenUsage, WorkItemResult, add_usage
from batch_llm.shared import contained


async def dry_run(work: Work, *, time_limit: float) -> AnyResult:
    """The item's result as its strategy's `dry_run()` gives it: nothing is prepared, called or paid; no attempts.

    Args:
        work: the item.
        time_limit: seconds that `dry_run()` may take.
    """
    if work.shared is None:
        raise RuntimeError(f"item {work.item_id!r} has no strategy")
    strategy = work.shared.strategy
    usage = TokenUsage()
    try:
        async with asyncio.timeout(time_limit) as limit:
            output, reported = await contained(strategy.dry_run(work.prompt))
        add_usage(usage, reported)
    except Exception as error:
        if limit.expired():
            return failure(
                work, ErrorReason.ATTEMPT_TIMEOUT, f"the strategy's dry_run() took longer than {time_limit:g} s"
            )
        result = failure(work, ErrorReason.INTERNAL, f"{type(error).__name__}: {error}")
        result.exception = error
        return result
    return WorkItemResult(
        item_id=work.item_id,
        success=True,
        output=output,
        context=work.context,
        token_usage=usage,
        strategy=work.strategy,
        cache_discount=strategy.cache_discount,
        submission_index=work.index,
        elapsed_seconds=asyncio.get_running_loop().time() - work.accepted_at,
    )
