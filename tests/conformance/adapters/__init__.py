"""The adapters that come with the repository."""

import sys
from collections.abc import Mapping, Sequence

_PYTHON = (sys.executable, "-m")

ADAPTERS: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "python": ((*_PYTHON, "tests.conformance.adapters.python_sync"), ("client",)),
    "python-async": ((*_PYTHON, "tests.conformance.adapters.python_async"), ("client",)),
    "python-generated": ((*_PYTHON, "tests.conformance.adapters.python_generated"), ("raw",)),
}
"""By name: the command and the sets."""
