"""Work items and their results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .errors import ErrorReason
from .receipt import Receipt
from .usage import DEFAULT_CACHE_DISCOUNT, TokenUsage

if TYPE_CHECKING:
    from batch_llm.strategies.base import LLMCallStrategy

TOutput = TypeVar("TOutput")
TContext = TypeVar("TContext")


@dataclass(slots=True)
class LLMWorkItem(Generic[TOutput, TContext]):
    """One piece of work.

    Args:
        item_id: the caller's name for it; not blank.
        strategy: the strategy that runs it. Items that share an instance share what it has prepared.
        prompt: what is asked.
        context: anything; comes back with the result.

    Raises:
        ValueError: the id is blank, or the prompt no text.
        TypeError: `strategy` cannot be one.
    """

    item_id: str
    strategy: LLMCallStrategy[TOutput]
    prompt: str = ""
    context: TContext | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.item_id, str) or not self.item_id.strip():
            raise ValueError(f"item_id must be a string that is not blank, got {self.item_id!r}; give each item an id")
        if not isinstance(self.prompt, str):
            kind = type(self.prompt).__name__  # what it says is nobody's business but the provider's
            raise ValueError(f"prompt must be a string, got {kind}; put it into words first")  # noqa: TRY004 - as all
        # Cheaper than asking for the class, which is above this layer; it is asked for once, when it is shared.
        if not hasattr(self.strategy, "execute"):
            raise TypeError(
                f"strategy must be an LLMCallStrategy, got {self.strategy!r}; wrap a function in CallableStrategy"
            )


@dataclass(slots=True)
class WorkItemResult(Generic[TOutput, TContext]):
    """The one terminal result of an item.

    Args:
        item_id: the item's id.
        success: whether there is an output.
        output: what the strategy made of the answer; None on failure.
        error: for people: why there is no output; None on success.
        context: the item's, untouched.
        token_usage: tokens of all attempts, failed ones included.
        gemini_safety_ratings: safety category to rating, where the provider rates.
        reason: what to branch on; None on success.
        retryable: whether the same item may succeed later.
        retry_after: seconds that the provider asked to wait, if it did.
        error_metadata: facts behind the reason.
        attempts: calls made; 0 when the item never reached its provider.
        elapsed_seconds: from acceptance to result.
        finish_reason: why the model stopped, in the provider's word.
        strategy: name of the strategy, where it has one.
        model: the model that answered, as its provider calls it.
        cache_discount: share of the input price that a cached token of this model saves.
        submission_index: the item's place among those submitted, from 0.
        sequence: the result's place among those delivered, from 1.
        text: the answer as the model gave it, where `output` was made from it.
        exception: what went wrong, as it was raised; None on success and for items that were not run.
        bill: the receipt where it says more than `token_usage` does: of several attempts, or with prices.
    """

    item_id: str
    success: bool
    output: TOutput | None = None
    error: str | None = None
    context: TContext | None = None
    token_usage: TokenUsage = field(default_factory=TokenUsage)
    gemini_safety_ratings: Mapping[str, str] | None = None
    reason: ErrorReason | None = None
    retryable: bool = False
    retry_after: float | None = None
    error_metadata: Mapping[str, str] = field(default_factory=dict)
    attempts: int = 0
    elapsed_seconds: float = 0.0
    finish_reason: str = ""
    strategy: str = ""
    model: str = ""
    cache_discount: float = DEFAULT_CACHE_DISCOUNT
    submission_index: int = 0
    sequence: int = 0
    text: str | None = None
    exception: BaseException | None = field(default=None, repr=False, compare=False)
    bill: Receipt | None = field(default=None, repr=False)

    @property
    def receipt(self) -> Receipt:
        """Tokens of all attempts by kind, and what they cost."""
        if self.bill is not None:
            return self.bill
        receipt = Receipt()
        receipt.add_unpriced(self.token_usage, self.success)
        return receipt


AnyResult = WorkItemResult[Any, Any]
