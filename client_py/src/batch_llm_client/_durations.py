"""Seconds as Python has them, durations as protobuf has them."""

import math

from google.protobuf.duration_pb2 import Duration

_NANOSECONDS = 1_000_000_000


def check_timeout(seconds: float) -> float:
    """Give back the seconds of a timeout. ValueError: they are negative, infinite or not a number."""
    if not 0 <= seconds < math.inf:
        raise ValueError(f"timeout must be a finite number of seconds, at least 0, not {seconds}")
    return seconds


def to_duration(seconds: float) -> Duration:
    """Turn seconds into a Duration, to the nanosecond.

    Raises:
        ValueError: the number is infinite, not a number, or more than a Duration holds.
    """
    if not math.isfinite(seconds):
        raise ValueError(f"a duration must be a finite number of seconds, not {seconds}")
    duration = Duration()
    duration.FromNanoseconds(round(seconds * _NANOSECONDS))
    return duration


def to_seconds(duration: Duration) -> float:
    """Turn a Duration into seconds."""
    return duration.seconds + duration.nanos / _NANOSECONDS
