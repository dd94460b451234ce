"""How long a provider asks to wait, from the headers of its answer."""

from __future__ import annotations

import email.utils
import math
import time
from collections.abc import Callable, Mapping


def retry_after(headers: Mapping[str, str], clock: Callable[[], float] = time.time) -> float | None:
    """Seconds that an answer asks to wait: `retry-after-ms`, else `Retry-After` in seconds or as an HTTP date.

    Args:
        headers: the answer's, with names in any case.
        clock: seconds since the epoch.
    """
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) / unit
        except (KeyError, ValueError):
            continue
        return max(0.0, seconds) if math.isfinite(seconds) else None
    date = email.utils.parsedate_tz(headers.get("retry-after", ""))
    try:
        return None if date is None else max(0.0, email.utils.mktime_tz(date) - clock())
    except (OverflowError, ValueError):
        return None
