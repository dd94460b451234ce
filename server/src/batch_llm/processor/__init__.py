"""Batches: the session that runs one, and the in-process face."""

from .processor import ParallelBatchProcessor
from .session import BatchSession

__all__ = ["BatchSession", "ParallelBatchProcessor"]
