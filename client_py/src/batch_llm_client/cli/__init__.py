"""The command `batch-llm`."""

from batch_llm_client.cli.command import main

__all__ = ["main"]
