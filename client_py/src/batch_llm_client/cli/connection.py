"""The commands' connection to the sidecar."""

import argparse
from typing import Final

from batch_llm_client.cli.errors import UsageError
from batch_llm_client.client import BatchClient

# Creating a cache may load a model first; somebody at a terminal can interrupt.
_TIMEOUT_SECONDS: Final = 3600.0


def connect(options: argparse.Namespace) -> BatchClient:
    """Give a client for `--target`, ready if `--wait` asks for that.

    UsageError: the target can be none. SidecarUnavailableError: it is not ready.
    """
    try:
        client = BatchClient(options.target, timeout=_TIMEOUT_SECONDS)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if options.wait > 0:
        client.wait_until_ready(options.wait)
    return client
