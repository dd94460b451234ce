"""The command `batch-llm`."""

from batch_llm_client.cli.command import main, run_command

__all__ = ["main", "run_command"]
