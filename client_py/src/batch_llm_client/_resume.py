"""When a call is tried again, after how long, and when that is over: what both clients share."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Final

from batch_llm_client.errors import BatchLLMClientError, DeadlineExceededError

# Every code of gRPC is in one of these sets. A batch goes on after:
RESUMABLE_CODES: Final = frozenset({"UNAVAILABLE"})
"""The connection broke, nobody answers, the sidecar drains, or its journal cannot be written now."""
BROKEN_TRANSPORT_CODES: Final = frozenset({"INTERNAL", "UNKNOWN", "CANCELLED"})
"""Without a reason they come from a connection that broke, or from a proxy (RST_STREAM), not from a sidecar."""
RESUMABLE_REASONS: Final = frozenset({"BATCH_IN_USE", "JOURNAL_FULL"})
"""The sidecar has not noticed yet that the stream before is gone; somebody is making room."""
# And not after these, unless for one of the reasons above:
TERMINAL_CODES: Final = frozenset(
    {
        "ABORTED",
        "ALREADY_EXISTS",
        "DATA_LOSS",
        "DEADLINE_EXCEEDED",
        "FAILED_PRECONDITION",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "OK",
        "OUT_OF_RANGE",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "UNAUTHENTICATED",
        "UNIMPLEMENTED",
    }
)

# Whatever a server asks for, it is counted as so many seconds at least: what is bounded must come to an end.
_LEAST_ASKED_SECONDS: Final = 1.0


def is_resumable(error: BatchLLMClientError) -> bool:
    """Whether a batch that was open, or a call with an idempotency key, may go on after an error."""
    if error.code in BROKEN_TRANSPORT_CODES:
        return error.reason is None
    return error.code in RESUMABLE_CODES or error.reason in RESUMABLE_REASONS


@dataclass(frozen=True, slots=True)
class ResumePolicy:
    """How long a client goes on trying after a connection broke. All bounds count anew when there is progress."""

    max_tries: int = 10
    """At most so many tries."""
    max_away_seconds: float = 60.0
    """No further try after so many seconds without a stream, those that the server asked for not counted."""
    max_asked_seconds: float = 300.0
    """At most so many seconds of waiting that the server asked for (RetryInfo); such waits are no tries."""
    initial_backoff_seconds: float = 0.2
    """The most that is waited before the first try; twice as much before each one that follows."""
    max_backoff_seconds: float = 15.0
    """The most that is waited before any try. Each wait is drawn evenly from 0 to its most (full jitter)."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) >= 0:
                raise ValueError(f"{field.name} must be at least 0, not {getattr(self, field.name)}")


DEFAULT_POLICY: Final = ResumePolicy()


class Retries:
    """Counts the tries of one batch or call.

    Args:
        policy: the bounds; None: there is no other try.
        deadline: when the caller's time is over, by `now`; None: never.
        now: a clock in seconds.
        random: draws from [0, 1).
    """

    def __init__(
        self,
        policy: ResumePolicy | None,
        *,
        deadline: float | None,
        now: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self._policy = policy
        self._deadline = deadline
        self._now = now
        self._random = random
        self._gone_since: float | None = None
        self.progress()

    def progress(self) -> None:
        """Count anew: something new has come."""
        self._tries = 0
        self._away = 0.0
        self._asked = 0.0

    def connected(self) -> None:
        """Note that there is a stream again."""
        if self._gone_since is not None:
            self._away += self._now() - self._gone_since
            self._gone_since = None

    def timeout(self) -> float | None:
        """Seconds until the deadline, for the next call; None: there is none."""
        return None if self._deadline is None else max(self._deadline - self._now(), 0.0)

    def delay(self, error: BatchLLMClientError) -> float:
        """Seconds to wait before the next try. Raises `error` when there is to be none."""
        if self._policy is None or not is_resumable(error):
            raise error
        now = self._now()
        if self._gone_since is None:
            self._gone_since = now
        if self._away + now - self._gone_since - self._asked >= self._policy.max_away_seconds:
            raise error
        asked = error.retry_after or 0.0
        if asked:
            if self._asked + asked > self._policy.max_asked_seconds:
                raise error
            self._asked += max(asked, _LEAST_ASKED_SECONDS)
        else:
            if self._tries >= self._policy.max_tries:
                raise error
            self._tries += 1
        growth = 2.0 ** max(self._tries - 1, 0)
        most = min(self._policy.initial_backoff_seconds * growth, self._policy.max_backoff_seconds)
        delay = asked + self._random() * most
        if self._deadline is not None and now + delay >= self._deadline:
            message = f"the timeout runs out before the next try, in {delay:.1f} s; the last one: {error}"
            raise DeadlineExceededError(message, code="DEADLINE_EXCEEDED") from error
        return delay
