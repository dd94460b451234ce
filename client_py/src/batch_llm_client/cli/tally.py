"""What a run has come to, from results as they come."""

import json
from collections import Counter
from dataclasses import dataclass, field

from batch_llm_client.model import Result, Totals


@dataclass(slots=True)
class Tally:
    """Counts of a run so far.

    Args:
        compare: whether outputs are held against the items' contexts.
        batch_id: the batch, once it is open.
        before: results that a run before has received.
    """

    compare: bool = False
    batch_id: str = ""
    before: int = 0
    done: int = 0
    right: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    effective_input_tokens: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    def add(self, result: Result) -> None:
        """Count a result."""
        usage = result.message.usage
        self.done += 1
        self.input_tokens += usage.input_tokens
        self.cached_tokens += usage.cached_input_tokens
        self.output_tokens += usage.output_tokens
        self.effective_input_tokens += usage.effective_input_tokens
        if result.error is not None:
            self.failures[result.error.reason] += 1
        elif self.compare and bare(result.text or "") == result.context.decode().strip():
            self.right += 1

    @property
    def cache_hit_rate(self) -> float:
        """Percent of input tokens that came from a cache."""
        return percent(self.cached_tokens, self.input_tokens)

    def totals(self, elapsed: float) -> Totals:
        """Give the totals so far, for a batch that did not come to its end; `elapsed` in seconds."""
        failed = self.failures.total()
        return Totals(
            batch_id="",
            total_items=self.done,
            succeeded=self.done - failed,
            failed=failed,
            total_input_tokens=self.input_tokens,
            total_output_tokens=self.output_tokens,
            total_cached_tokens=self.cached_tokens,
            cache_hit_rate=self.cache_hit_rate,
            effective_input_tokens=self.effective_input_tokens,
            elapsed=elapsed,
            failures_by_reason=dict(self.failures),
        )


def bare(text: str) -> str:
    """Strip white space, and the quotes of an output that is one quoted string."""
    text = text.strip()
    if len(text) < 2 or text[0] != text[-1] or text[0] not in "\"'":
        return text
    try:
        return str(json.loads(text)).strip()
    except ValueError:
        return text[1:-1].strip()


def percent(part: int, whole: int) -> float:
    """Percent; 0.0 of nothing."""
    return 100.0 * part / whole if whole else 0.0
