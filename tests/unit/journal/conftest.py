"""Virtual time for the writer's pauses."""

from tests.unit.engine.conftest import pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]
