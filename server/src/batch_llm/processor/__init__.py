"""Batches: the session that runs one, and the in-process face."""

from .hooks import BaseMiddleware, BaseObserver, Middleware, PostProcessor, ProcessorObserver, ProgressCallback
from .metrics import MetricsObserver
from .outbox import Outbox
from .processor import ParallelBatchProcessor
from .session import BatchSession, Runner, engine_failure

__all__ = [
    "BaseMiddleware",
    "BaseObserver",
    "BatchSession",
    "MetricsObserver",
    "Middleware",
    "Outbox",
    "ParallelBatchProcessor",
    "PostProcessor",
    "ProcessorObserver",
    "ProgressCallback",
    "Runner",
    "engine_failure",
]
