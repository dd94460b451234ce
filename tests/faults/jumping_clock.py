"""The sidecar's command with a wall clock that is off by the seconds in the file CLOCK_OFFSET_FILE.

The monotonic clock is left alone: it cannot jump.
"""

from __future__ import annotations

import os
import sys
import time

_real = time.time


def _time() -> float:
    with open(os.environ["CLOCK_OFFSET_FILE"]) as file:
        return _real() + float(file.read())


if __name__ == "__main__":
    time.time = _time  # before anything takes it as a default
    from batch_llm.sidecar.cli import main

    sys.exit(main())
